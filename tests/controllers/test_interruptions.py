"""Every controller, held against what is promised of all: whatever write is the last before it dies, and whatever the order of events, the end is the same.

A scene says what there is, what then happens, and which controllers are at work. It is played to its end without trouble; then once for each write of
that play, with the controllers dying before that write, or right after it and before its answer, and others beginning anew.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest

from twinstack.api import kinds
from twinstack.api.kinds import Namespace, Node, Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import After, Delete, Tell
from twinstack.client.kube_controller_manager import CONTROLLERS
from twinstack.client.lean import Lean
from twinstack.controllers.bootstraptokens import BootstrapSigner, TokenCleaner
from twinstack.controllers.clusterroles import ClusterRoles
from twinstack.controllers.cronjobs import CronJobs
from twinstack.controllers.daemonsets import DaemonSets
from twinstack.controllers.deployments import Deployments
from twinstack.controllers.disruptions import Disruptions
from twinstack.controllers.endpoints import EndpointsObjects
from twinstack.controllers.endpointslicemirroring import EndpointSliceMirroring
from twinstack.controllers.endpointslices import EndpointSlices
from twinstack.controllers.garbage import Garbage
from twinstack.controllers.jobs import FinishedJobs, Jobs
from twinstack.controllers.loadbalancers import LoadBalancers
from twinstack.controllers.namespaces import Namespaces
from twinstack.controllers.nodeipam import NodeIPAM
from twinstack.controllers.nodelifecycle import NodeLifecycle
from twinstack.controllers.podgc import PodGarbage
from twinstack.controllers.replicasets import ReplicaSets, ReplicationControllers
from twinstack.controllers.scheduling import Scheduling
from twinstack.controllers.serviceaccounts import ServiceAccounts
from twinstack.controllers.servicecidrs import ServiceCIDRs
from twinstack.controllers.statefulsets import StatefulSets
from twinstack.controllers.windowsnodes import WindowsNodes
from twinstack.net.cidr import parse_cidrs
from twinstack.rules.affinity import node_of
from twinstack.rules.balancer_pools import pools_of
from twinstack.rules.workloads import ready

APP = {"app": "web"}
RANGE = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.9.0.0/16", "fd00:9::/112"]}}
ENDED = {"status": {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"}]}}
BATCH = {"api_version": "batch/v1"}
SURGE = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
POOLS = pools_of(parse_cidrs("192.0.2.8/29,2001:db8::8/125"))
LONELY = {"type": "InternalIP", "address": "fd00::1"}
PORT = {"name": "http", "port": 8080, "protocol": "TCP"}
# Of a play, what may differ: who was made when, and what counts writes.
_PASSING = ("uid", "resourceVersion", "generation", "observedGeneration", "creationTimestamp", "ownerReferences")


class Scene(NamedTuple):
    """*given* is there and at rest when *happens* does."""

    made: Callable[[], Sequence[Any]]
    given: Callable[[Any, Any], None]
    happens: Callable[[Any, Any], None]
    alike: str = "$^"  # what of the names may be exchanged, when events come in another order


class Died(Exception):
    """The process ends here."""


def thing(api_version, kind, name, *, namespace="default", **body):
    metadata = {"name": name, "labels": body.pop("labels", {})} | ({"namespace": namespace} if namespace else {}) | body.pop("metadata", {})
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata} | body


def workload(kind, *, image="one", replicas=3, api_version="apps/v1", **spec):
    template = {"metadata": {"labels": APP}, "spec": {"containers": [{"name": "main", "image": image}]}}
    selector = APP if kind == "ReplicationController" else {"matchLabels": APP}
    return thing(api_version, kind, "web", spec={"selector": selector, "template": template, "replicas": replicas} | spec)


def many(world, make, name, count=3):
    for number in range(count):
        world.put(make(f"{name}{number}"))


def selecting(world, make):
    world.put(make.node("node1"))
    world.put(make.service("web", selector=APP))


def pods(world, make, count=7):
    for number in range(count):
        world.put(make.pod(f"p{number}", labels=APP, ips=[f"10.0.0.{number + 1}", f"fd00::{number + 1}"], ready=number != 3, node="node1"))


def kubelet(world) -> bool:
    """One pod gets on; False when none has to."""
    for one in world.list(Pod):
        key = Key(one.metadata.namespace, one.metadata.name)
        if one.metadata.deletionTimestamp and not one.metadata.finalizers:
            world.remove(Pod, key)
            return True
        if one.metadata.deletionTimestamp or one.status.phase in ("Succeeded", "Failed"):
            continue
        if any(owner.kind == "Job" for owner in one.metadata.ownerReferences):
            world.change(Pod, key, {"status": {"phase": "Succeeded"}})
            return True
        if not ready(one) and one.metadata.ownerReferences:
            condition = {"type": "Ready", "status": "True", "lastTransitionTime": text_of_time(world.now)}
            world.change(Pod, key, {"spec": {"nodeName": node_of(one) or "node1"}, "status": {"phase": "Running", "conditions": [condition]}})
            return True
    return False


def populated(world, make):
    world.put(make.node("node1"))
    pods(world, make)


def cron_job():
    return thing("batch/v1", "CronJob", "tick", spec={"schedule": "5 3 2 1 *", "concurrencyPolicy": "Replace", "jobTemplate": {"spec": {}}})


def former_jobs(world):
    """One that runs still, and more than are kept that have ended."""
    uid = world.get(kinds.CronJob, Key("default", "tick")).metadata.uid
    owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": uid, "controller": True}
    for number in range(6):
        document = thing("batch/v1", "Job", f"tick-{number}", metadata={"ownerReferences": [owner]}, spec={})
        world.put(document | (ENDED if number else {}))


def balanced(world, make):
    for number in range(3):
        families = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack", "clusterIPs": ["10.96.0.10", "fd00:10:96::10"]}
        world.put(make.service(f"lb{number}") | {"spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}]} | families, "status": {}})


def deleting(view, name, *, namespace="default", policy=""):
    return lambda world, make: world.perform(Delete(resource_of(view), Key(namespace, name), propagation_policy=policy))


def nothing(world, make):
    pass


def put(*documents):
    def do(world, make):
        for document in documents:
            world.put(document)

    return do


def family(world, make):
    """An owner, its dependents, and theirs."""
    top = world.put(workload("Deployment"))
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": top.metadata.uid, "controller": True, "blockOwnerDeletion": True}
    for number in range(2):
        middle = world.put(workload("ReplicaSet") | {"metadata": {"name": f"rs{number}", "namespace": "default", "ownerReferences": [owner]}})
        inner = owner | {"kind": "ReplicaSet", "name": f"rs{number}", "uid": middle.metadata.uid}
        for place in range(2):
            document = make.pod(f"p{number}{place}")
            document["metadata"]["ownerReferences"] = [inner]
            world.put(document)


def full_namespace(world, make):
    world.put(thing("v1", "Namespace", "old", namespace="", spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"}))
    for number in range(2):
        world.put(thing("v1", "ConfigMap", f"c{number}", namespace="old"))
        world.put(make.pod(f"p{number}", namespace="old", node="node1"))


def silent_node(world, make):
    world.put(make.node("node1"))
    heard = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-02T09:00:00Z"}]
    world.put(make.node("node2") | {"status": {"conditions": heard}})
    for number in range(2):
        world.put(make.pod(f"p{number}", ips=["10.0.0.1"], ready=True, node="node1"))


def crowded(world, make):
    status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "1"}}
    for name in ("node1", "node2"):
        world.put(make.node(name) | {"status": status})
    asks = [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]
    for number in range(3):
        world.put(make.pod(f"low{number}", labels=APP, containers=asks))


def important(world, make):
    asks = [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]
    world.put(make.pod("high", containers=asks, priority=10))


def tokens(world, make):
    """Two that sign, of which one ends in a minute."""
    world.put(thing("v1", "ConfigMap", "cluster-info", namespace="kube-public", data={"kubeconfig": "apiVersion: v1\n"}))
    for name, ends in (("aaaaaa", ""), ("bbbbbb", "2026-01-02T03:05:05Z")):
        data = {"token-id": name, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true", "expiration": ends}
        encoded = {field: base64.b64encode(value.encode()).decode() for field, value in data.items()}
        world.put(thing("v1", "Secret", f"bootstrap-token-{name}", namespace="kube-system", type="bootstrap.kubernetes.io/token", data=encoded))


SCENES = {
    "node-ipam-controller": [
        Scene(lambda: [NodeIPAM(parse_cidrs("10.0.0.0/16,fd00::/48"))], nothing, lambda world, make: many(world, make.node, "node"), alike=r"node\d"),
    ],
    "node-lifecycle-controller": [Scene(lambda: [NodeLifecycle()], nothing, silent_node)],
    "endpointslice-controller": [
        Scene(lambda: [EndpointSlices(max_endpoints=3)], selecting, pods),
        Scene(
            lambda: [EndpointSlices(max_endpoints=3)],
            lambda world, make: [selecting(world, make), pods(world, make)],
            lambda world, make: world.change(kinds.Service, Key("default", "web"), {"spec": {"ipFamilies": ["IPv6"], "clusterIPs": ["fd00:10:96::10"]}}),
        ),
    ],
    "endpointslice-mirroring-controller": [
        Scene(
            lambda: [EndpointSliceMirroring()],
            lambda world, make: world.put(make.service("web")),
            put(thing("v1", "Endpoints", "web", subsets=[{"addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}], "ports": [PORT]}])),
        )
    ],
    "endpoints-controller": [
        Scene(lambda: [EndpointsObjects()], selecting, pods)
    ],
    "deployment-controller": [
        Scene(lambda: [Deployments(), ReplicaSets()], nothing, put(workload("Deployment"))),
        Scene(lambda: [Deployments(), ReplicaSets()], put(workload("Deployment")), put(workload("Deployment", image="two", replicas=4))),
    ],
    "replicaset-controller": [
        Scene(lambda: [ReplicaSets()], nothing, lambda world, make: [world.put(workload("ReplicaSet")), world.put(make.pod("orphan", labels=APP))]),
        Scene(lambda: [ReplicaSets()], put(workload("ReplicaSet")), put(workload("ReplicaSet", replicas=1))),
    ],
    "replicationcontroller-controller": [
        Scene(lambda: [ReplicationControllers()], nothing, put(workload("ReplicationController", api_version="v1"))),
    ],
    "daemonset-controller": [
        Scene(lambda: [DaemonSets()], lambda world, make: many(world, make.node, "node"), put(workload("DaemonSet"))),
        Scene(
            lambda: [DaemonSets()],
            lambda world, make: [many(world, make.node, "node"), world.put(workload("DaemonSet"))],
            put(workload("DaemonSet", image="two")),
        ),
        Scene(
            lambda: [DaemonSets()],
            lambda world, make: [many(world, make.node, "node"), world.put(workload("DaemonSet", updateStrategy=SURGE))],
            put(workload("DaemonSet", image="two", updateStrategy=SURGE)),
        ),
    ],
    "statefulset-controller": [
        Scene(lambda: [StatefulSets()], nothing, put(workload("StatefulSet", serviceName="web"))),
        Scene(lambda: [StatefulSets()], put(workload("StatefulSet")), put(workload("StatefulSet", image="two", replicas=2))),
    ],
    "job-controller": [
        Scene(lambda: [Jobs()], nothing, put(workload("Job", **BATCH, completions=4, parallelism=2))),
        Scene(lambda: [Jobs()], nothing, put(workload("Job", **BATCH, completions=4, parallelism=2, completionMode="Indexed", backoffLimitPerIndex=1))),
    ],
    "ttl-after-finished-controller": [Scene(lambda: [FinishedJobs(), Garbage()], nothing, put(workload("Job", ttlSecondsAfterFinished=5, **BATCH) | ENDED))],
    "cronjob-controller": [
        Scene(lambda: [CronJobs()], nothing, lambda world, make: [world.put(cron_job()), world.pass_seconds(300)]),
        Scene(lambda: [CronJobs()], nothing, lambda world, make: [world.put(cron_job()), former_jobs(world), world.pass_seconds(300)]),
    ],
    "disruption-controller": [
        Scene(lambda: [Disruptions()], put(thing("policy/v1", "PodDisruptionBudget", "web", spec={"selector": {"matchLabels": APP}, "minAvailable": 2})), pods)
    ],
    "namespace-controller": [Scene(lambda: [Namespaces()], full_namespace, deleting(Namespace, "old", namespace=""))],
    "garbage-collector-controller": [
        Scene(lambda: [Garbage()], family, deleting(kinds.Deployment, "web", policy=policy)) for policy in ("Background", "Foreground", "Orphan")
    ],
    "pod-garbage-collector-controller": [
        Scene(lambda: [PodGarbage()], populated, lambda world, make: world.remove(Node, Key("", "node1"))),
    ],
    "serviceaccount-controller": [
        Scene(lambda: [ServiceAccounts(root_ca="pem")], nothing, put(thing("v1", "Namespace", "new", namespace="", status={"phase": "Active"})))
    ],
    "service-cidr-controller": [
        Scene(lambda: [ServiceCIDRs()], nothing, put(RANGE)),
        Scene(
            lambda: [ServiceCIDRs()],
            put(RANGE),
            deleting(kinds.ServiceCIDR, "more", namespace=""),
        ),
    ],
    "clusterrole-aggregation-controller": [
        Scene(
            lambda: [ClusterRoles()],
            put(
                thing("rbac.authorization.k8s.io/v1", "ClusterRole", "all", namespace="", aggregationRule={"clusterRoleSelectors": [{"matchLabels": APP}]}),
            ),
            put(
                *(
                    thing("rbac.authorization.k8s.io/v1", "ClusterRole", verb, namespace="", labels=APP, rules=[{"resources": ["pods"], "verbs": [verb]}])
                    for verb in ("get", "list")
                )
            ),
        )
    ],
    "windows-node-controller": [
        Scene(
            lambda: [WindowsNodes()],
            nothing,
            lambda world, make: world.put(make.node("win", labels={"kubernetes.io/os": "windows"}) | {"status": {"addresses": [LONELY]}}),
        )
    ],
    "token-cleaner-controller": [Scene(lambda: [TokenCleaner()], nothing, lambda world, make: [tokens(world, make), world.pass_seconds(120)])],
    "bootstrap-signer-controller": [Scene(lambda: [BootstrapSigner()], nothing, tokens)],
    "load-balancer-controller": [
        Scene(lambda: [LoadBalancers(POOLS)], nothing, balanced, alike=r"lb\d|192.0.2.\d+|2001:db8::\w+"),
        Scene(
            lambda: [LoadBalancers(POOLS)],
            balanced,
            lambda world, make: world.change(kinds.Service, Key("default", "lb1"), {"spec": {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}}),
            alike=r"lb[02]|192.0.2.\d+|2001:db8::\w+",
        ),
    ],
    "default-scheduler": [
        Scene(lambda: [Scheduling()], nothing, crowded, alike=r"(low|node)\d"),
        Scene(lambda: [Scheduling()], crowded, important, alike=r"(low|node)\d"),
    ],
}  # fmt: skip
CASES = [pytest.param(name, scene, id=f"{name}, scene {number + 1}") for name, scenes in SCENES.items() for number, scene in enumerate(scenes)]


class Make(NamedTuple):
    pod: Any
    node: Any
    service: Any


@pytest.fixture
def make(pod, node, service) -> Make:
    return Make(pod, node, service)


class Stage:
    """One play of a scene."""

    def __init__(self, scene: Scene, world: Any, loop: Any, make: Make, *, seed: int = 0) -> None:
        self.scene, self.world, self.make = scene, world, make
        self._loop, self._seed = loop, seed
        self._perform = world.perform
        scene.given(world, make)
        self._run()
        world.writes.clear()

    def _begin(self) -> Any:
        """Controllers that know nothing, and are told all that there is."""
        self.world.changes[:] = [(view, None, one) for (view, _), (_, one) in self.world.objects.items()]
        return self._loop(self.world, *self.scene.made(), seed=self._seed)

    def _run(self) -> None:
        self.running = self._begin()
        self.running.run()
        while kubelet(self.world) or self._wait():
            self.running.run()

    def _wait(self) -> bool:
        """Let the time pass that a controller asked for, when that is no more than an hour; False when none did, or nothing came of it."""
        before, due = len(self.world.writes), {what: seconds for what, seconds in self.running.after.items() if seconds <= 3600}
        self.running.after.clear()
        self.world.pass_seconds(max(due.values(), default=0.0))
        for controller in self.running.controllers:
            for name, key in due:
                if name == controller.name:
                    self.running.decide(controller, key)
        return len(self.world.writes) > before

    def play(self, *, dying_at: int = -1, done: bool = False) -> None:
        """What happens, happens; the controllers die at this write, before or after it is *done*, and others begin."""
        self.scene.happens(self.world, self.make)
        count = 0

        def perform(action: Any) -> None:
            nonlocal count
            if not isinstance(action, (Tell, After)):
                count += 1
                if count == dying_at:
                    if done:
                        self._perform(action)
                    raise Died
            self._perform(action)

        self.world.perform = perform
        try:
            self._run()
        except Died:
            self._run()

    def rest(self) -> list[Any]:
        """What the controllers would still write."""
        keys: dict[Key, None] = {}
        for controller in self.running.controllers:
            for watch in controller.watches:
                for (view, _), (_, one) in self.world.objects.items():
                    if view is watch.view:
                        keys |= dict.fromkeys(watch.keys(None, one, self.world))
        return [action for controller in self.scene.made() for key in keys for action in _decided(controller, key, self.world)]


def _decided(controller: Any, key: Key, world: Any) -> Iterable[Any]:
    if isinstance(controller, Garbage) is not bool(key.namespace.partition(":")[1]):
        return ()  # its keys are of a form of their own
    return [action for action in controller.decide(key, world) if not isinstance(action, (Tell, After))]


def seen(world: Any, alike: str = "$^") -> Counter[str]:
    """What there is, without what may differ from play to play."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kept(one) for name, one in value.items() if name not in _PASSING}
        return [kept(one) for one in value] if isinstance(value, list) else value

    texts = (json.dumps(kept(document), sort_keys=True) for document, _ in world.objects.values())
    return Counter(re.sub(alike, "#", re.sub(r"\d{5}|\d{4}-\d\d-\d\dT[0-9:.]*Z", "#", text)) for text in texts)


def test_there_is_a_scene_for_every_controller():
    assert SCENES.keys() == CONTROLLERS.keys() | {"default-scheduler", "load-balancer-controller"}
    for name, scenes in SCENES.items():
        assert all(name in [controller.name for controller in scene.made()] for scene in scenes)


@pytest.mark.parametrize("name, scene", CASES)
def test_whatever_write_is_the_last_the_end_is_the_same(name, scene, new_world, loop, make):
    stage = Stage(scene, new_world(), loop, make)
    stage.play()
    writes = len(stage.world.writes)
    assert writes, "a scene in which nothing is written proves nothing"
    wanted = seen(stage.world)
    for number in range(1, writes + 1):
        for done in (False, True):
            again = Stage(scene, new_world(), loop, make)
            again.play(dying_at=number, done=done)
            assert seen(again.world) == wanted, f"died {'after' if done else 'before'} write {number} of {writes}"


@pytest.mark.parametrize("name, scene", CASES)
def test_whatever_the_order_of_events_the_end_is_the_same_and_nothing_more_is_wanted(name, scene, new_world, loop, make):
    ends = []
    for seed in range(4):
        stage = Stage(scene, new_world(), loop, make, seed=seed)
        stage.play()
        assert stage.rest() == []
        ends.append(seen(stage.world, scene.alike))
    assert all(end == ends[0] for end in ends)


# ---- The twins


def twin(value: Any) -> Any:
    """The same of the other family: its name, and each address the one of the same number; lists in an order that does not depend on that."""
    if isinstance(value, dict):
        return {name: twin(one) for name, one in value.items()}
    if isinstance(value, list):
        return [twin(one) for one in value]
    if value in ("IPv4", "IPv6"):
        return {"IPv4": "IPv6", "IPv6": "IPv4"}[value]
    try:
        address = ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        return value
    number = int(address) & 0xFFFFFF
    return str(ipaddress.IPv6Address(0xFD << 120 | number) if address.version == 4 else ipaddress.IPv4Address(10 << 24 | number))


def sorted_within(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: sorted_within(one) for name, one in value.items()}
    return sorted((sorted_within(one) for one in value), key=lambda one: json.dumps(one, sort_keys=True)) if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["endpointslice-controller", "endpointslice-mirroring-controller", "endpoints-controller"])
def test_what_is_done_for_one_family_is_done_for_the_other(name, new_world, loop, make):
    for scene in SCENES[name]:
        ends = []
        for swapped in (False, True):
            world = new_world()
            if swapped:
                as_it_is, changed = world.put, world.change
                world.put = lambda document, put=as_it_is: put(twin(document))
                world.change = lambda view, key, patch, change=changed, **more: change(view, key, twin(patch), **more)
            stage = Stage(scene, world, loop, make)
            stage.play()
            documents = [document for document, _ in world.objects.values()]
            world.objects = {number: (sorted_within(twin(twin(one)) if swapped else twin(one)), None) for number, one in enumerate(documents)}
            ends.append(seen(world))
        assert ends[0] == ends[1]


# ---- What the controller manager keeps


@pytest.mark.parametrize("name, scene", [case for case in CASES if case.values[0] != "load-balancer-controller"])
def test_what_is_kept_of_many_objects_is_enough_to_decide_the_same(name, scene, new_world, loop, make):
    kept = Lean()
    ways = {Pod: kept.placed if name == "default-scheduler" else kept.pod, kinds.EndpointSlice: kept.slice, kinds.Endpoints: kept.endpoints}

    class LeanWorld(type(new_world())):  # type: ignore[misc]
        def _store(self, resource, document, found):
            one = super()._store(resource, document, found)
            if one is not None and resource.view in ways:
                key = Key(one.metadata.namespace, one.metadata.name)
                lean = ways[resource.view](one)
                self.objects[resource.view, key] = (self.objects[resource.view, key][0], lean)
                if self.changes and self.changes[-1][2] is one:
                    self.changes[-1] = (*self.changes[-1][:2], lean)
            return one

    ends = []
    for world in (new_world(), LeanWorld()):
        stage = Stage(scene, world, loop, make)
        stage.play()
        assert stage.rest() == []
        ends.append(seen(world))
    assert ends[0] == ends[1]
