"""Namespaces, nodes that fall silent, pods that nobody ends, service accounts and ServiceCIDRs, in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api import errors
from twinstack.api.kinds import ConfigMap, IPAddress, Lease, Namespace, Node, Pod, ServiceAccount, ServiceCIDR, condition_of
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_micro_time
from twinstack.api.world import After, Delete, Patch
from twinstack.controllers.namespaces import Namespaces
from twinstack.controllers.nodelifecycle import NodeLifecycle
from twinstack.controllers.podgc import PodGarbage
from twinstack.controllers.serviceaccounts import ServiceAccounts
from twinstack.controllers.servicecidrs import FINALIZER, ServiceCIDRs
from twinstack.controllers.windowsnodes import CONDITION, WindowsNodes
from twinstack.rules.windows import MODE_LABEL, OS_LABEL, OVERLAY
from twinstack.rules.workloads import ready

N1 = Key("", "node1")


def namespace(name, **metadata):
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name} | metadata,
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


# ---- Namespaces


def test_a_namespace_goes_when_all_that_was_in_it_has_gone(world, loop, pod):
    world.put(namespace("old"))
    world.put(namespace("other"))
    world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "old"}})
    world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "other"}})
    document = pod("p", namespace="old", node="node1")
    document["metadata"]["finalizers"] = ["example.com/stay"]
    world.put(document)
    running = loop(world, Namespaces())
    running.run()
    assert world.writes == []
    world.perform(Delete(resource_of(Namespace), Key("", "old")))
    running.run()
    one = world.get(Namespace, Key("", "old"))
    told = {each.type: (each.status, each.reason) for each in one.status.conditions}
    assert told == {
        "NamespaceDeletionDiscoveryFailure": ("False", "ResourcesDiscovered"),
        "NamespaceDeletionGroupVersionParsingFailure": ("False", "ParsedGroupVersions"),
        "NamespaceDeletionContentFailure": ("False", "ContentDeleted"),
        "NamespaceContentRemaining": ("True", "SomeResourcesRemain"),
        "NamespaceFinalizersRemaining": ("True", "SomeFinalizersRemain"),
    }
    assert "pods. has 1 resource instances" in condition_of(one.status.conditions, "NamespaceContentRemaining").message
    assert "example.com/stay in 1 resource instances" in condition_of(one.status.conditions, "NamespaceFinalizersRemaining").message
    assert world.get(ConfigMap, Key("old", "c")) is None
    assert world.get(Pod, Key("old", "p")).metadata.deletionTimestamp
    assert running.writes_wanted([Key("", "old")]) == []
    world.remove(Pod, Key("old", "p"))
    running.run()
    assert [one.metadata.name for one in world.list(Namespace)] == ["other"]
    assert world.get(ConfigMap, Key("other", "c"))


def test_a_namespace_that_somebody_else_holds_tells_that_nothing_is_left(world, loop):
    world.put(namespace("old", deletionTimestamp="2026-01-02T03:04:05Z", finalizers=["example.com/stay"]))
    loop(world, Namespaces()).run()
    one = world.get(Namespace, Key("", "old"))
    assert one.spec.finalizers == [] and len(one.status.conditions) == 5 and {each.status for each in one.status.conditions} == {"False"}
    reasons = {each.type: each.reason for each in one.status.conditions}
    assert reasons["NamespaceContentRemaining"] == "ContentRemoved" and reasons["NamespaceFinalizersRemaining"] == "ContentHasNoFinalizers"


def test_contents_that_the_server_does_not_let_go_are_told_until_it_does(world, loop):
    world.put(namespace("old", deletionTimestamp="2026-01-02T03:04:05Z", finalizers=["example.com/stay"]))
    controller, key = Namespaces(), Key("", "old")
    world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "old"}})
    for action in controller.refused(key, errors.Forbidden("no"), world):
        world.perform(action)
    told = condition_of(world.get(Namespace, key).status.conditions, "NamespaceDeletionContentFailure")
    assert (told.status, told.reason) == ("True", "ContentDeletionFailed") and "no" in told.message
    assert controller.refused(key, errors.Forbidden("again"), world) == []
    loop(world, controller).run()
    assert condition_of(world.get(Namespace, key).status.conditions, "NamespaceDeletionContentFailure").status == "False"


def test_what_appears_in_a_namespace_that_goes_has_to_go_too(world, loop):
    world.put(namespace("old", deletionTimestamp="2026-01-02T03:04:05Z", finalizers=["example.com/stay"]))
    running = loop(world, Namespaces())
    world.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late", "namespace": "old"}})
    running.run()
    assert world.list(ConfigMap) == []
    assert world.get(Namespace, Key("", "old")).spec.finalizers == []


# ---- Service accounts


def test_every_living_namespace_has_its_account_and_the_root_certificate(world, loop):
    world.put(namespace("a"))
    world.put(namespace("b") | {"status": {"phase": "Terminating"}})
    running = loop(world, ServiceAccounts(root_ca="PEM"))
    running.run()
    assert [one.metadata.namespace for one in world.list(ServiceAccount)] == ["a"]
    assert [(one.metadata.name, one.data) for one in world.list(ConfigMap)] == [("kube-root-ca.crt", {"ca.crt": "PEM"})]
    world.remove(ServiceAccount, Key("a", "default"))
    world.change(ConfigMap, Key("a", "kube-root-ca.crt"), {"data": {"ca.crt": "changed", "more": "x"}})
    running.run()
    assert len(world.list(ServiceAccount)) == 1
    assert world.list(ConfigMap)[0].data == {"ca.crt": "PEM"}
    assert running.writes_wanted([Key("", "a")]) == []


def test_without_a_certificate_there_is_no_map(world, loop):
    world.put(namespace("a"))
    loop(world, ServiceAccounts()).run()
    assert world.list(ConfigMap) == []


# ---- Nodes


def lease(name, moment):
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": text_of_micro_time(moment)}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec}


def taints(world):
    return sorted((taint.key.removeprefix("node.kubernetes.io/"), taint.effect) for taint in world.get(Node, N1).spec.taints or ())


def status_of(world):
    return condition_of(world.get(Node, N1).status.conditions, "Ready").status


@pytest.fixture
def lifecycle(world, loop, node, pod):
    world.put(node("node1"))
    world.put(node("node2"))  # which is never decided about, so that the zone is not all silent
    world.put(lease("node1", world.now))
    world.put(pod("a", node="node1", ips=["10.244.0.1", "fd00::1"], ready=True))
    controller = NodeLifecycle(grace_seconds=40, eviction_seconds=300)
    running = loop(world, controller)
    running.run()

    def look():
        running.decide(controller, N1)
        running.run()
        assert running.writes_wanted([N1]) == []
        return running.after.get((controller.name, N1))

    return look


def test_a_node_that_falls_silent_is_unknown_and_its_pods_are_not_ready(world, lifecycle):
    assert lifecycle() == 40 and taints(world) == []
    world.pass_seconds(30)
    world.put(lease("node1", world.now))
    world.pass_seconds(20)
    lifecycle()
    assert status_of(world) == "True" and ready(world.get(Pod, Key("default", "a")))
    world.pass_seconds(21)
    lifecycle()
    assert status_of(world) == "Unknown"
    assert taints(world) == [("unreachable", "NoExecute"), ("unreachable", "NoSchedule")]
    assert not ready(world.get(Pod, Key("default", "a")))
    world.pass_seconds(299)
    lifecycle()
    assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp is None
    world.pass_seconds(1)
    lifecycle()
    assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp


def test_a_node_that_speaks_again_has_no_taint_of_ours(world, lifecycle):
    world.change(Node, N1, {"spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}]}})
    world.pass_seconds(41)
    lifecycle()
    assert len(taints(world)) == 3
    world.put(lease("node1", world.now))
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": text_of_micro_time(world.now)}
    world.change(Node, N1, {"status": {"conditions": [condition]}})
    lifecycle()
    assert taints(world) == [("mine", "NoSchedule")]


def test_after_everything_was_away_nobody_is_declared_dead_at_once(world, loop, node):
    world.put(node("node1"))
    world.put(lease("node1", world.now))
    world.pass_seconds(3600)
    controller = NodeLifecycle()
    running = loop(world, controller)
    running.run()
    assert status_of(world) == "True"
    world.pass_seconds(40)
    running.decide(controller, N1)
    assert status_of(world) == "Unknown"


@pytest.mark.parametrize(
    "change, expected",
    [
        pytest.param({"spec": {"unschedulable": True}}, [("unschedulable", "NoSchedule")], id="cordoned"),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, [("not-ready", "NoExecute"), ("not-ready", "NoSchedule")], id="not ready"
        ),
        pytest.param(
            {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]}},
            [("disk-pressure", "NoSchedule")],
            id="short of disk",
        ),
        pytest.param({"status": {"conditions": None}}, [("not-ready", "NoSchedule")], id="it has said nothing yet"),
    ],
)
def test_a_nodes_state_is_seen_in_its_taints(world, lifecycle, change, expected):
    world.change(Node, N1, change)
    lifecycle()
    assert taints(world) == expected


@pytest.mark.parametrize(
    "toleration, seconds",
    [
        pytest.param({"key": "k", "operator": "Exists"}, None, id="tolerated for ever"),
        pytest.param({"key": "k", "operator": "Exists", "tolerationSeconds": 10}, 10, id="tolerated for a while"),
        pytest.param({"key": "other", "operator": "Exists"}, 0, id="not tolerated"),
    ],
)
def test_a_pod_stays_as_long_as_it_tolerates(world, lifecycle, toleration, seconds):
    world.change(Pod, Key("default", "a"), {"spec": {"tolerations": [toleration]}})
    taint = {"key": "k", "effect": "NoExecute", "timeAdded": text_of_micro_time(world.now)}
    world.change(Node, N1, {"spec": {"taints": [taint]}})
    lifecycle()
    if seconds:
        assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp is None
        world.pass_seconds(seconds)
        lifecycle()
    assert bool(world.get(Pod, Key("default", "a")).metadata.deletionTimestamp) == (seconds is not None)


def test_a_pod_has_its_time_when_somebody_taints_the_node_without_saying_when(world, lifecycle):
    world.change(Pod, Key("default", "a"), {"spec": {"tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 10}]}})
    world.change(Node, N1, {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})  # as kubectl taint does
    for _ in range(3):
        lifecycle()
        assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp is None
        world.pass_seconds(3)
    world.change(Node, N1, {"spec": {"taints": None}})  # taken away, and set again: the time begins anew
    lifecycle()
    world.change(Node, N1, {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}})
    lifecycle()
    world.pass_seconds(9)
    lifecycle()
    assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp is None
    world.pass_seconds(1)
    lifecycle()
    gone = world.get(Pod, Key("default", "a"))
    assert gone.metadata.deletionTimestamp
    assert condition_of(gone.status.conditions, "DisruptionTarget").reason == "DeletionByTaintManager"


def test_a_pod_that_came_after_the_taint_has_its_whole_time(world, lifecycle):
    world.change(Node, N1, {"spec": {"taints": [{"key": "k", "effect": "NoExecute", "timeAdded": text_of_micro_time(world.now)}]}})
    world.pass_seconds(60)
    came = {"spec": {"tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 10}]}, "status": {"startTime": text_of_micro_time(world.now)}}
    world.change(Pod, Key("default", "a"), came)
    lifecycle()
    assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp is None
    world.pass_seconds(10)
    lifecycle()
    assert world.get(Pod, Key("default", "a")).metadata.deletionTimestamp


# ---- Pods that nobody ends


def test_pods_of_a_node_that_stays_away_go_and_those_of_one_that_comes_back_stay(world, loop, node, pod):
    controller = PodGarbage(quarantine_seconds=40)
    running = loop(world, controller)
    for name in ("node1", "node2"):
        world.put(node(name))
        world.put(pod(f"on-{name}", node=name))
    world.put(pod("nowhere"))
    running.run()
    for name in ("node1", "node2"):
        world.remove(Node, Key("", name))
    running.run()
    assert len(world.list(Pod)) == 3
    world.put(node("node2"))
    running.run()
    world.pass_seconds(40)
    for name in ("node1", "node2"):
        running.decide(controller, Key("default", f"on-{name}"))
    assert [one.metadata.name for one in world.list(Pod)] == ["nowhere", "on-node2"]


def test_a_pod_without_a_node_that_is_being_deleted_goes(world, loop, pod):
    document = pod("a")
    document["metadata"] |= {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/stay"]}
    world.put(document)
    actions = PodGarbage().decide(Key("default", "a"), world)
    said, removal = actions
    assert said.patch["status"]["phase"] == "Failed" and isinstance(removal, Delete) and removal.grace_period_seconds == 0


OUT = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}


@pytest.mark.parametrize("last", ["taint", "silence", "deletion"])
@pytest.mark.parametrize("missing", [None, "taint", "silence", "deletion"])
def test_pods_that_are_being_deleted_go_at_once_from_a_node_that_is_silent_and_declared_out_of_service(world, loop, node, pod, last, missing):
    steps = {
        "taint": lambda: world.change(Node, N1, {"spec": {"taints": [OUT]}}),
        "silence": lambda: world.change(Node, N1, {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        "deletion": lambda: world.change(
            Pod, Key("default", "a"), {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 30}}
        ),
    }
    world.put(node("node1"))
    for name in ("a", "b"):
        world.put(pod(name, node="node1"))
    running = loop(world, PodGarbage())
    running.run()
    for step in (*(one for one in steps if one != last), last):
        if step != missing:
            steps[step]()
            running.run()
    assert [one.metadata.name for one in world.list(Pod)] == (["b"] if missing is None else ["a", "b"])


# ---- ServiceCIDRs


def service_cidr(name, *cidrs):
    return {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


def ip_address(text):
    labels = {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": text, "labels": labels}}


@pytest.fixture
def ranges(world, loop):
    controller = ServiceCIDRs()
    running = loop(world, controller)

    def look():
        running.run()
        for one in world.list(ServiceCIDR):
            key = Key("", one.metadata.name)
            running.decide(controller, key)
            running.run()
            assert [action for action in controller.decide(key, world) if not isinstance(action, After)] == []
        return {one.metadata.name for one in world.list(ServiceCIDR)}

    return look


def test_a_service_cidr_that_lives_is_ready_and_has_our_finalizer(world, ranges):
    world.put(service_cidr("a", "10.0.0.0/24"))
    ranges()
    (one,) = world.list(ServiceCIDR)
    assert one.metadata.finalizers == [FINALIZER]
    assert condition_of(one.status.conditions, "Ready").status == "True"


@pytest.mark.parametrize(
    "others, addresses, goes",
    [
        pytest.param([], [], True, id="nothing is in it"),
        pytest.param([], ["10.0.0.7"], False, id="an address is in it alone"),
        pytest.param([], ["fd00::7"], False, id="an address of its second family is"),
        pytest.param([], ["10.0.9.7"], True, id="the address is elsewhere"),
        pytest.param([["10.0.0.0/16", "fd00::/64"]], ["10.0.0.7", "fd00::7"], True, id="others cover it whole"),
        pytest.param([["10.0.0.0/28"]], ["10.0.0.7"], True, id="another covers the address"),
        pytest.param([["10.0.0.0/28"]], ["10.0.0.77"], False, id="another covers another part"),
        pytest.param([["10.0.0.0/16"]], ["fd00::7"], False, id="others cover one family only"),
    ],
)
def test_a_service_cidr_goes_when_no_address_depends_on_it(world, ranges, others, addresses, goes):
    world.put(service_cidr("a", "10.0.0.0/24", "fd00::/112"))
    for number, cidrs in enumerate(others):
        world.put(service_cidr(f"other{number}", *cidrs))
    for text in addresses:
        world.put(ip_address(text))
    ranges()
    world.perform(Delete(resource_of(ServiceCIDR), Key("", "a")))
    assert "a" in ranges(), "it waits a little in any case"
    ready_now = condition_of(world.get(ServiceCIDR, Key("", "a")).status.conditions, "Ready")
    assert (ready_now.status, ready_now.reason) == (("True", "") if goes else ("False", "Terminating"))
    world.pass_seconds(10)
    assert ("a" in ranges()) != goes
    for text in addresses:
        world.remove(IPAddress, Key("", text))
    assert "a" not in ranges()


def test_leases_do_not_wake_anybody(world):
    watch = next(watch for watch in NodeLifecycle().watches if watch.view is Lease)
    assert list(watch.keys(None, Lease(), world)) == []


# ---- Windows nodes


def test_a_windows_node_that_cannot_serve_its_families_says_so_until_it_can(world, loop):
    running = loop(world, WindowsNodes())
    addresses = [{"type": "InternalIP", "address": one} for one in ("192.0.2.1", "2001:db8::1")]
    labels = {OS_LABEL: "windows", MODE_LABEL: OVERLAY}
    world.put({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "w", "labels": labels}, "status": {"addresses": addresses}})
    world.put({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "l"}, "status": {"addresses": addresses[1:]}})
    running.run()
    condition = condition_of(world.get(Node, Key("", "w")).status.conditions, CONDITION)
    assert (condition.status, condition.reason) == ("True", "OverlayDualStack")
    assert [(told.reason, told.type) for told in world.told] == [("OverlayDualStack", "Warning")]
    assert world.get(Node, Key("", "l")).status.conditions is None
    world.perform(Patch(resource_of(Node), Key("", "w"), {"metadata": {"labels": {MODE_LABEL: "l2bridge"}}}))
    running.run()
    condition = condition_of(world.get(Node, Key("", "w")).status.conditions, CONDITION)
    assert (condition.status, condition.reason) == ("False", "Served")
    assert len(world.told) == 1
    assert WindowsNodes().decide(Key("", "w"), world) == []


# ---- Zones in trouble


@pytest.fixture
def zones(world, node):
    """Nodes of zones, of which some are silent; how long a silent one of a zone has to wait for its pods to be driven away."""

    def made(**counts):
        for zone, (ready_ones, silent_ones) in counts.items():
            for number in range(ready_ones + silent_ones):
                labels = {"topology.kubernetes.io/zone": zone}
                world.put(node(f"{zone}{number}", ready="Unknown" if number < silent_ones else "True", labels=labels))

    return made


@pytest.mark.parametrize(
    "counts, driven, waits",
    [
        pytest.param({"a": (3, 1)}, True, [], id="one node of four is silent"),
        pytest.param({"a": (2, 3)}, False, [5.0], id="most of a small zone is: nobody is driven away, and it is looked at again"),
        pytest.param({"a": (20, 35)}, True, [], id="most of a large zone is: slowly, but the first at once"),
        pytest.param({"a": (0, 3), "b": (3, 0)}, True, [], id="all of a zone is, and another is well"),
        pytest.param({"a": (0, 3), "b": (0, 3)}, False, [5.0], id="all are: it is we who are cut off"),
    ],
)
def test_so_much_of_a_zone_may_be_given_up(world, zones, counts, driven, waits):
    zones(**counts)
    actions = NodeLifecycle(grace_seconds=40).decide(Key("", "a0"), world)
    (patch,) = [action for action in actions if isinstance(action, Patch) and "spec" in action.patch]
    assert ("NoExecute" in {taint["effect"] for taint in patch.patch["spec"]["taints"]}) is driven
    assert [action.seconds for action in actions if isinstance(action, After) and action.seconds != 40] == waits


def test_nodes_of_a_zone_are_given_up_one_after_another(world, zones):
    zones(a=(5, 2), b=(5, 1))
    controller = NodeLifecycle(grace_seconds=40)

    def evicting(name):
        actions = controller.decide(Key("", name), world)
        for action in actions:
            if isinstance(action, Patch):
                world.perform(action)
        taints = world.get(Node, Key("", name)).spec.taints or ()
        return any(taint.effect == "NoExecute" for taint in taints), [action.seconds for action in actions if isinstance(action, After)]

    assert evicting("a0") == (True, [40.0])
    assert evicting("a1") == (False, [10.0, 40.0]), "a tenth of a node a second"
    assert evicting("b0") == (True, [40.0]), "each zone has its own rate"
    world.pass_seconds(10)
    assert evicting("a1")[0] and evicting("a0")[0]
    for name in ("a2", "a3", "a4", "a5", "a6", "b1", "b2", "b3", "b4", "b5"):
        world.change(Node, Key("", name), {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    assert not evicting("a0")[0], "when all is silent, what was given up is taken back"


def test_pods_that_have_ended_are_kept_up_to_a_number(world, loop, pod):
    for number in range(5):
        world.put(pod(f"p{number}") | {"status": {"phase": "Succeeded"}})
    world.put(pod("running"))
    loop(world, PodGarbage(most_ended=3)).run()
    assert len(world.list(Pod)) == 4 and world.get(Pod, Key("default", "running"))
