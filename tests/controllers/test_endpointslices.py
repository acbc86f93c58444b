"""The slices of a Service, as seen in a world in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import EndpointSlice, Node, Pod, Service
from twinstack.api.objects import Key
from twinstack.api.world import Create, Delete, Patch
from twinstack.controllers.endpointslices import MANAGER, EndpointSlices
from twinstack.rules.endpoints import HEADLESS, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME

WEB = Key("default", "web")
APP = {"app": "web"}


def address(number: int, family: str) -> str:
    return f"10.244.{number // 250}.{number % 250 + 1}" if family == "IPv4" else f"fd00:10:244::{number + 1:x}"


def both(number: int) -> list[str]:
    return [address(number, "IPv4"), address(number, "IPv6")]


def slices(world, family):
    return [one for one in world.list(EndpointSlice) if one.addressType == family]


def addresses(world, family):
    return sorted(text for one in slices(world, family) for endpoint in one.endpoints or () for text in endpoint.addresses)


@pytest.fixture
def settled(world, loop, node):
    """A function that lets the controller come to rest, and says what it wrote."""
    controller = EndpointSlices()
    running = loop(world, controller)
    world.put(node("node1", labels={"topology.kubernetes.io/zone": "zone-a"}))

    def settle():
        world.writes.clear()
        running.run()
        assert running.writes_wanted([WEB]) == []
        return list(world.writes)

    return settle


def test_a_dual_stack_service_has_a_slice_of_each_family(world, settled, pod, service):
    world.put(service("web", selector=APP, labels={"team": "red", SERVICE_NAME: "another"}))
    world.put(pod("a", labels=APP, ips=both(1), ready=True, node="node1"))
    settled()
    for family in ("IPv4", "IPv6"):
        (one,) = slices(world, family)
        assert one.labels == {"team": "red", SERVICE_NAME: "web", MANAGED_BY: MANAGER}
        assert one.metadata.name.startswith("web-")
        (owner,) = one.metadata.ownerReferences
        assert (owner.kind, owner.name, owner.controller, owner.blockOwnerDeletion) == ("Service", "web", True, True)
        (endpoint,) = one.endpoints
        assert endpoint.addresses == [address(1, family)]
        assert (endpoint.nodeName, endpoint.zone, endpoint.targetRef.name) == ("node1", "zone-a", "a")
        assert (endpoint.conditions.ready, endpoint.conditions.serving, endpoint.conditions.terminating) == (True, True, False)
        assert [(port.name, port.port, port.protocol) for port in one.ports] == [("", 8080, "TCP")]


def test_a_family_without_addresses_has_a_placeholder_that_later_becomes_the_slice(world, settled, pod, service):
    world.put(service("web", selector=APP))
    settled()
    before = {family: slices(world, family)[0] for family in ("IPv4", "IPv6")}
    assert all(not one.endpoints and not one.ports for one in before.values())
    world.put(pod("a", labels=APP, ips=[address(1, "IPv4")], ready=True, node="node1"))
    writes = settled()
    assert [type(write) for write in writes] == [Patch]
    assert [one.metadata.name for one in slices(world, "IPv4")] == [before["IPv4"].metadata.name]
    assert slices(world, "IPv6") == [before["IPv6"]]
    world.remove(Pod, Key("default", "a"))
    settled()
    (one,) = slices(world, "IPv4")
    assert not one.endpoints and not one.ports


def test_a_service_that_becomes_dual_stack_only_gains_slices_and_one_that_loses_a_family_only_loses_them(world, settled, pod, service):
    world.put(service("web", selector=APP, families=("IPv6",)))
    world.put(pod("a", labels=APP, ips=both(1), ready=True, node="node1"))
    settled()
    assert slices(world, "IPv4") == []
    world.change(Service, WEB, {"spec": {"ipFamilies": ["IPv6", "IPv4"]}})
    assert [type(write) for write in settled()] == [Create]
    world.change(Service, WEB, {"spec": {"ipFamilies": ["IPv4"]}})
    assert [type(write) for write in settled()] == [Delete]
    assert (len(slices(world, "IPv4")), len(slices(world, "IPv6"))) == (1, 0)


def test_slices_of_another_owner_go_and_those_of_other_managers_stay(world, settled, service):
    labels = {SERVICE_NAME: "web", MANAGED_BY: MANAGER}
    document = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [], "ports": []}
    world.put(document | {"metadata": {"name": "old", "namespace": "default", "labels": labels}})
    world.put(document | {"metadata": {"name": "mine", "namespace": "default", "labels": {SERVICE_NAME: "web"}}})
    world.put(service("web", selector=APP))
    settled()
    names = {one.metadata.name for one in world.list(EndpointSlice)}
    assert "old" not in names and "mine" in names


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"selector": None}, id="without a selector, somebody else writes the slices"),
        pytest.param({"selector": APP, "type": "ExternalName"}, id="an external name has no endpoints"),
    ],
)
def test_these_services_are_left_alone(world, settled, pod, service, spec):
    world.put(pod("a", labels=APP, ips=both(1), ready=True, node="node1"))
    world.put(service("web", **spec))
    assert settled() == []


def test_a_label_of_the_service_comes_and_goes_on_the_slices(world, settled, service):
    world.put(service("web", selector=APP, clusterIP="None", labels={"a": "1"}))
    settled()
    assert all(one.labels[HEADLESS] == "" for one in world.list(EndpointSlice))
    world.change(Service, WEB, {"metadata": {"labels": {"a": None, "b": "2"}}})
    settled()
    for one in world.list(EndpointSlice):
        assert one.labels == {"b": "2", SERVICE_NAME: "web", MANAGED_BY: MANAGER, HEADLESS: ""}


def test_pods_that_resolve_a_named_port_differently_stand_in_different_slices(world, settled, pod, service):
    ports = [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web"}]
    world.put(service("web", selector=APP, ports=ports))
    for number, container_port in enumerate((8080, 8080, 9090)):
        world.put(
            pod(f"p{number}", labels=APP, ips=both(number), ready=True, containers=[{"name": "c", "ports": [{"name": "web", "containerPort": container_port}]}])
        )
    settled()
    for family in ("IPv4", "IPv6"):
        assert sorted((one.ports[0].port, len(one.endpoints)) for one in slices(world, family)) == [(8080, 2), (9090, 1)]


def test_a_pod_on_an_unknown_node_waits_for_the_node_unless_all_are_published(world, settled, pod, node, service):
    world.put(service("web", selector=APP))
    world.put(pod("a", labels=APP, ips=both(1), ready=True, node="node2"))
    world.put(pod("b", labels=APP, ips=both(2), ready=True, node="node1"))
    settled()
    assert addresses(world, "IPv4") == [address(2, "IPv4")]
    world.put(node("node2"))
    settled()
    assert len(addresses(world, "IPv6")) == 2
    world.remove(Node, Key("", "node2"))
    settled()
    assert len(addresses(world, "IPv6")) == 1
    world.change(Service, WEB, {"spec": {"publishNotReadyAddresses": True}})
    settled()
    assert len(addresses(world, "IPv6")) == 2


def test_among_many_endpoints_one_changes_in_one_slice_of_each_family(world, settled, pod, service):
    world.put(service("web", selector=APP))
    for number in range(400):
        world.put(pod(f"p{number:04}", labels=APP, ips=both(number), ready=True, node="node1"))
    settled()
    assert {family: len(slices(world, family)) for family in ("IPv4", "IPv6")} == {"IPv4": 4, "IPv6": 4}
    world.change(Pod, Key("default", "p0200"), {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    assert [type(write) for write in settled()] == [Patch, Patch]
    world.remove(Pod, Key("default", "p0200"))
    assert [type(write) for write in settled()] == [Patch, Patch]
    world.put(pod("p9999", labels=APP, ips=both(9999), ready=True, node="node1"))
    assert [type(write) for write in settled()] == [Patch, Patch]


def test_the_trigger_time_is_when_the_pod_became_ready(world, settled, pod, service):
    world.put(pod("a", labels=APP, ips=both(1), ready=False, node="node1"))
    world.put(service("web", selector=APP))
    settled()
    world.pass_seconds(60)
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:05:00Z"}
    world.change(Pod, Key("default", "a"), {"status": {"conditions": [ready]}})
    settled()
    assert {one.annotations[TRIGGER_TIME] for one in world.list(EndpointSlice)} == {"2026-01-02T03:05:00.000000Z"}
    world.remove(Pod, Key("default", "a"))
    settled()
    assert all(TRIGGER_TIME not in one.annotations for one in world.list(EndpointSlice))


def test_a_service_that_is_being_deleted_makes_no_slice(world, settled, service):
    world.put(service("web", selector=APP))
    world.change(Service, WEB, {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/stay"]}})
    assert settled() == []


def test_a_service_that_is_gone_leaves_its_slices_to_the_garbage_collector(world, settled, service):
    world.put(service("web", selector=APP))
    settled()
    world.remove(Service, WEB)
    assert settled() == []


PODS = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from(["both", "IPv4", "IPv6", "none"]), st.booleans(), st.booleans()), max_size=25, unique_by=lambda one: one[0]
)


def _pods(pod, facts, twin=lambda family: family):
    for number, which, is_ready, terminating in facts:
        families = {"both": ["IPv4", "IPv6"], "none": []}.get(which, [which])
        document = pod(f"p{number}", labels=APP, ips=[address(number, twin(family)) for family in families], ready=is_ready)
        if terminating:
            document["metadata"] |= {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/stay"]}
        yield document


@given(PODS, PODS, st.permutations(["IPv4", "IPv6"]), st.integers(0, 3))
def test_the_order_of_events_does_not_matter_and_the_twins_are_alike(new_world, loop, pod, service, before, after, families, seed):
    def endpoints(world):
        return {
            family: sorted((one.targetRef.name, one.conditions.ready) for piece in slices(world, family) for one in piece.endpoints or ())
            for family in families
        }

    def run(twin, seed, *histories):
        world = new_world()
        controller = EndpointSlices(max_endpoints=3)
        running = loop(world, controller, seed=seed)
        world.put(service("web", selector=APP, families=[twin(family) for family in families]))
        for history in histories:
            wanted = {document["metadata"]["name"]: document for document in _pods(pod, history, twin)}
            for gone in {one.metadata.name for one in world.list(Pod)} - set(wanted):
                world.remove(Pod, Key("default", gone))
            for document in wanted.values():
                before = world.get(Pod, Key("default", document["metadata"]["name"]))
                if before and before.metadata.deletionTimestamp and "deletionTimestamp" not in document["metadata"]:
                    world.remove(Pod, Key("default", before.metadata.name))  # nobody is undeleted
                world.put(document)
            running.run()
        assert running.writes_wanted([WEB]) == []
        assert all(len(one.endpoints or ()) <= 3 for one in world.list(EndpointSlice))
        assert all(slices(world, family) for family in families)
        return endpoints(world)

    same, other = (lambda family: family), {"IPv4": "IPv6", "IPv6": "IPv4"}.__getitem__
    result = run(same, seed, before, after)
    assert result == run(same, 0, after)
    assert run(other, seed, before, after) == {other(family): found for family, found in result.items()}


def test_topology_aware_hints_come_and_go_with_the_zones_of_each_family(world, settled, pod, service):
    def place(name, zone, cpu="4"):
        labels = {"topology.kubernetes.io/zone": zone}
        status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": cpu}}
        world.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})

    def hints(family):
        return {e.addresses[0]: e.hints and [zone.name for zone in e.hints.forZones] for one in slices(world, family) for e in one.endpoints or ()}

    place("node1", "zone-a")
    place("node2", "zone-b")
    document = service("web", selector=APP)
    document["metadata"]["annotations"] = {"service.kubernetes.io/topology-mode": "Auto"}
    world.put(document)
    world.put(pod("a", labels=APP, ips=both(1), ready=True, node="node1"))
    world.put(pod("b", labels=APP, ips=[address(2, "IPv4")], ready=True, node="node2"))
    settled()
    assert hints("IPv4") == {address(1, "IPv4"): ["zone-a"], address(2, "IPv4"): ["zone-b"]}
    assert hints("IPv6") == {address(1, "IPv6"): None}, "one endpoint is too few for two zones"
    told = {(tell.reason, tell.message.rpartition(" ")[2]) for tell in world.told}
    assert ("TopologyAwareHintsEnabled", "IPv4") in told and ("TopologyAwareHintsDisabled", "IPv6") in told
    world.change(Node, Key("", "node2"), {"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
    settled()
    assert hints("IPv4") == {address(1, "IPv4"): None, address(2, "IPv4"): None}
    assert world.told[-1].reason == "TopologyAwareHintsDisabled"
    place("node2", "zone-b")
    settled()
    assert hints("IPv4") == {address(1, "IPv4"): ["zone-a"], address(2, "IPv4"): ["zone-b"]}
