"""Slices of hand-written Endpoints, in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Endpoints, EndpointSlice, Service
from twinstack.api.objects import Key
from twinstack.api.world import Create, Delete, Patch
from twinstack.controllers.endpointslicemirroring import MANAGER, SKIP, EndpointSliceMirroring
from twinstack.rules.endpoints import LEADER, MANAGED_BY, SERVICE_NAME, TRIGGER_TIME

WEB = Key("default", "web")
PORT = [{"name": "http", "port": 80, "protocol": "TCP"}]


def endpoints(*subsets, **metadata):
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "default", **metadata}, "subsets": list(subsets)}


def subset(*ips, unready=(), ports=PORT):
    return {"addresses": [{"ip": ip} for ip in ips], "notReadyAddresses": [{"ip": ip} for ip in unready], "ports": ports}


@pytest.fixture
def settle(world, loop):
    running = loop(world, EndpointSliceMirroring(max_endpoints=3))

    def run():
        world.writes.clear()
        running.run()
        assert running.writes_wanted([WEB]) == []
        return world.list(EndpointSlice)

    return run


def facts(slices):
    listed = [(one.addressType, [port.port for port in one.ports or ()], [(e.addresses[0], e.conditions.ready) for e in one.endpoints or ()]) for one in slices]
    return sorted(listed)


def test_a_subset_of_both_families_makes_two_slices_whatever_the_service_says(world, settle, service):
    world.put(service("web", families=("IPv4",)))
    world.put(endpoints(subset("10.0.0.2", "fd00::1", unready=["10.0.0.1"]), labels={"team": "red"}, annotations={"why": "so", TRIGGER_TIME: "x"}))
    slices = settle()
    assert facts(slices) == [("IPv4", [80], [("10.0.0.1", False), ("10.0.0.2", True)]), ("IPv6", [80], [("fd00::1", True)])]
    for one in slices:
        assert one.labels == {"team": "red", SERVICE_NAME: "web", MANAGED_BY: MANAGER}
        assert one.annotations == {"why": "so"}
        assert [(owner.kind, owner.name, owner.controller) for owner in one.metadata.ownerReferences] == [("Endpoints", "web", True)]
        assert all((e.conditions.serving, e.conditions.terminating, e.zone, e.hints) == (None, None, None, None) for e in one.endpoints)


def test_what_an_address_says_of_itself_is_copied(world, settle, service):
    world.put(service("web"))
    target = {"kind": "Pod", "name": "p", "namespace": "default", "uid": "u"}
    world.put(endpoints({"addresses": [{"ip": "10.0.0.1", "hostname": "a", "nodeName": "n", "targetRef": target}], "ports": PORT}))
    (one,) = settle()
    (endpoint,) = one.endpoints
    assert (endpoint.hostname, endpoint.nodeName, endpoint.targetRef.name, endpoint.targetRef.uid) == ("a", "n", "p", "u")


@pytest.mark.parametrize(
    "selector, metadata",
    [
        pytest.param({"app": "web"}, {}, id="a Service that selects"),
        pytest.param(None, {"labels": {SKIP: "true"}}, id="Endpoints that ask to be left alone"),
        pytest.param(None, {"annotations": {LEADER: "{}"}}, id="Endpoints that elect a leader"),
    ],
)
def test_these_are_not_mirrored_and_cease_to_be(world, settle, service, selector, metadata):
    world.put(service("web"))
    world.put(endpoints(subset("10.0.0.1")))
    assert len(settle()) == 1
    world.put(service("web", selector=selector))
    world.put(endpoints(subset("10.0.0.1"), **metadata))
    assert settle() == []


@pytest.mark.parametrize("view", [Endpoints, Service])
def test_slices_go_with_their_endpoints_or_their_service(world, settle, service, view):
    world.put(endpoints(subset("10.0.0.1")))
    assert settle() == [], "there is no Service yet"
    world.put(service("web"))
    assert len(settle()) == 1
    world.remove(view, WEB)
    assert settle() == []


def test_a_change_is_written_into_the_slice_that_stands(world, settle, service):
    world.put(service("web"))
    world.put(endpoints(subset("10.0.0.1", "fd00::1"), labels={"a": "1"}))
    before = {one.addressType: one.metadata.name for one in settle()}
    world.put(endpoints(subset("10.0.0.1", "fd00::2"), labels={"a": "1"}))
    after = {one.addressType: one.metadata.name for one in settle()}
    assert after == before and [type(write) for write in world.writes] == [Patch], "only the family that changed is written"
    world.put(endpoints(subset("10.0.0.1"), labels={"b": "2"}))
    (one,) = settle()
    assert one.labels == {"b": "2", SERVICE_NAME: "web", MANAGED_BY: MANAGER}
    assert {type(write) for write in world.writes} == {Patch, Delete}
    world.put(endpoints(subset("10.0.0.1", ports=[{"port": 81, "protocol": "TCP"}]), labels={"b": "2"}))
    assert facts(settle()) == [("IPv4", [81], [("10.0.0.1", True)])]
    assert {type(write) for write in world.writes} == {Create, Delete}


def test_a_second_slice_for_the_same_and_one_of_endpoints_that_were_before_go(world, settle, service):
    world.put(service("web"))
    world.put(endpoints(subset("10.0.0.1")))
    (one,) = settle()
    copied = world.document(EndpointSlice, Key("default", one.metadata.name))
    copied["metadata"] = {**copied["metadata"], "name": "again", "uid": "other"}
    world.put(copied)
    assert len(settle()) == 1
    world.remove(Endpoints, WEB)
    world.put(endpoints(subset("10.0.0.1")))
    (one,) = settle()
    assert one.metadata.ownerReferences[0].uid == world.get(Endpoints, WEB).metadata.uid


def test_addresses_are_made_canonical_and_what_is_none_is_told(world, settle, service):
    world.put(service("web"))
    world.put(endpoints(subset("::ffff:10.0.0.1", "FD00:0::1", "010.0.0.2", "nonsense")))
    assert facts(settle()) == [("IPv4", [80], [("10.0.0.1", True), ("10.0.0.2", True)]), ("IPv6", [80], [("fd00::1", True)])]
    (told,) = {(tell.type, tell.reason, tell.message) for tell in world.told}
    assert told == ("Warning", "InvalidIPAddress", "No IP address, and not mirrored: nonsense")


def test_a_subset_has_so_many_addresses_and_ready_ones_are_preferred(world, settle, service):
    world.put(service("web"))
    world.put(endpoints(subset("10.0.0.5", "10.0.0.6", unready=["10.0.0.1", "10.0.0.2"])))
    ((_, _, listed),) = facts(settle())
    assert listed == [("10.0.0.1", False), ("10.0.0.5", True), ("10.0.0.6", True)]
    assert {tell.reason for tell in world.told} == {"TooManyAddressesToMirror"}


def test_slices_of_others_are_left_alone(world, settle, service):
    world.put(service("web"))
    world.put(
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
            "metadata": {"name": "mine", "namespace": "default", "labels": {SERVICE_NAME: "web", MANAGED_BY: "me"}},
        }
    )  # fmt: skip
    settle()
    assert world.writes == []
