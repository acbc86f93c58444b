"""Readiness by family: what a dead family does to the endpoints of those who ask for it, and of nobody else."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Endpoints, EndpointSlice, Namespace, Pod, Service
from twinstack.api.objects import Key
from twinstack.controllers.endpoints import EndpointsObjects
from twinstack.controllers.endpointslices import EndpointSlices
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.readiness import PER_FAMILY, condition_type

WEB, POD, DEFAULT = Key("default", "web"), Key("default", "a"), Key("", "default")
APP = {"app": "web"}
IPS = ["10.244.0.1", "fd00:10:244::1"]


@pytest.fixture
def settle(world, loop, node, pod, service):
    """A world with one ready pod behind a Service; the function says which families have a ready endpoint."""
    controller, legacy = EndpointSlices(), EndpointsObjects()
    running = loop(world, controller, legacy)
    world.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    world.put(node("node1"))
    world.put(service("web", selector=APP))
    world.put(pod("a", labels=APP, ips=IPS, ready=True, node="node1"))

    def settle() -> set[str]:
        running.run()
        assert running.writes_wanted([WEB]) == []
        answering = set()
        for one in world.list(EndpointSlice):
            for endpoint in one.endpoints:
                answering |= {one.addressType} if endpoint.conditions.ready else set()
        return answering

    return settle


def find(world, **found: str) -> None:
    """What the node agent tells: the status of each family's condition."""
    conditions = [{"type": "Ready", "status": "True"}]
    conditions += [{"type": condition_type(Family(family)), "status": status} for family, status in found.items()]
    world.change(Pod, POD, {"status": {"conditions": conditions}})


def ask(world, view, key, value: str | None) -> None:
    world.change(view, key, {"metadata": {"annotations": {PER_FAMILY: value}}})


@pytest.mark.parametrize("dead", FAMILIES)
def test_a_dead_family_has_no_endpoint_where_the_pod_asks(world, settle, service, dead):
    find(world, **{dead.value: "False", dead.other.value: "True"})
    assert settle() == {"IPv4", "IPv6"}  # nobody has asked, so it is as upstream has it
    ask(world, Pod, POD, "true")
    assert settle() == {dead.other.value}
    assert {one.addressType: len(one.endpoints) for one in world.list(EndpointSlice)} == {dead.value: 0, dead.other.value: 1}
    find(world, **{dead.value: "True", dead.other.value: "True"})
    assert settle() == {"IPv4", "IPv6"}


def test_a_namespace_asks_for_all_its_pods_and_a_pod_may_refuse(world, settle):
    find(world, IPv4="True", IPv6="False")
    ask(world, Namespace, DEFAULT, "true")
    assert settle() == {"IPv4"}
    ask(world, Pod, POD, "false")
    assert settle() == {"IPv4", "IPv6"}
    ask(world, Pod, POD, None)
    assert settle() == {"IPv4"}
    ask(world, Namespace, DEFAULT, None)
    assert settle() == {"IPv4", "IPv6"}


def test_what_is_not_probed_is_ready_with_the_pod(world, settle):
    ask(world, Pod, POD, "true")
    assert settle() == {"IPv4", "IPv6"}
    find(world, IPv6="Unknown")
    assert settle() == {"IPv4"}


def test_a_service_that_publishes_what_is_not_ready_keeps_a_dead_family(world, settle):
    ask(world, Pod, POD, "true")
    find(world, IPv4="True", IPv6="False")
    world.change(Service, WEB, {"spec": {"publishNotReadyAddresses": True}})
    assert settle() == {"IPv4", "IPv6"}


def test_a_pod_that_is_not_ready_is_ready_in_no_family(world, settle):
    ask(world, Pod, POD, "true")
    conditions = [{"type": "Ready", "status": "False"}, {"type": condition_type(Family.IPV6), "status": "True"}]
    world.change(Pod, POD, {"status": {"conditions": conditions}})
    assert settle() == set()


def test_the_endpoints_object_goes_by_its_own_family(world, settle):
    ask(world, Pod, POD, "true")
    find(world, IPv4="False", IPv6="True")
    settle()
    (subset,) = world.get(Endpoints, WEB).subsets
    assert [one.ip for one in subset.notReadyAddresses] == IPS[:1] and not subset.addresses
    find(world, IPv4="True", IPv6="False")
    settle()
    (subset,) = world.get(Endpoints, WEB).subsets
    assert [one.ip for one in subset.addresses] == IPS[:1]
