"""Endpoints objects, in a world in memory; and how addresses and ports make subsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import Endpoints, Pod, Service
from twinstack.api.objects import Key
from twinstack.api.services import CoreEndpointPort, EndpointAddress
from twinstack.api.world import Patch
from twinstack.controllers.endpoints import CAPACITY, MANAGED_BY, MANAGER, EndpointsObjects
from twinstack.rules.endpoints import LEADER
from twinstack.rules.subsets import cut, subsets_of

WEB = Key("default", "web")
APP = {"app": "web"}


@pytest.fixture
def settle(world, loop, node):
    world.put(node("node1"))
    running = loop(world, EndpointsObjects())

    def run():
        world.writes.clear()
        running.run()
        if world.get(Service, WEB):
            assert running.writes_wanted([WEB]) == []
        return world.get(Endpoints, WEB)

    return run


def facts(one):
    return [([a.ip for a in s.addresses or ()], [a.ip for a in s.notReadyAddresses or ()], [p.port for p in s.ports or ()]) for s in one.subsets or ()]


@pytest.mark.parametrize("families, shown", [(("IPv4", "IPv6"), "10.244.0.1"), (("IPv6", "IPv4"), "fd00::1"), (("IPv6",), "fd00::1")])
def test_they_show_the_primary_family_only(world, settle, pod, service, families, shown):
    world.put(service("web", families=families, selector=APP, labels={"team": "red"}))
    world.put(pod("a", labels=APP, ips=["10.244.0.1", "fd00::1"], ready=True, node="node1"))
    one = settle()
    assert facts(one) == [([shown], [], [8080])]
    assert one.labels == {"team": "red", MANAGED_BY: MANAGER}
    (address,) = one.subsets[0].addresses
    assert (address.nodeName, address.targetRef.kind, address.targetRef.name) == ("node1", "Pod", "a")


def test_pods_come_go_and_become_ready(world, settle, pod, service):
    world.put(service("web", selector=APP))
    assert facts(settle()) == []
    world.put(pod("a", labels=APP, ips=["10.244.0.1"]))
    world.put(pod("b", labels=APP, ips=["10.244.0.2"], ready=True))
    world.put(pod("six", labels=APP, ips=["fd00::1"], ready=True))
    assert facts(settle()) == [(["10.244.0.2"], ["10.244.0.1"], [8080])]
    world.change(Service, WEB, {"spec": {"publishNotReadyAddresses": True}})
    assert facts(settle()) == [(["10.244.0.1", "10.244.0.2"], [], [8080])]
    world.remove(Pod, Key("default", "b"))
    assert facts(settle()) == [(["10.244.0.1"], [], [8080])]
    assert [type(write) for write in world.writes] == [Patch]


def test_a_pod_that_is_being_deleted_is_not_there_unless_all_are_published(world, settle, pod, service):
    world.put(service("web", selector=APP))
    document = pod("a", labels=APP, ips=["10.244.0.1"], ready=True)
    document["metadata"] |= {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["example.com/stay"]}
    world.put(document)
    assert facts(settle()) == []
    world.change(Service, WEB, {"spec": {"publishNotReadyAddresses": True}})
    assert facts(settle()) == [(["10.244.0.1"], [], [8080])]


def test_a_headless_service_without_ports_has_addresses_without_ports(world, settle, pod, service):
    world.put(service("web", selector=APP, clusterIP="None", ports=[]))
    world.put(pod("a", labels=APP, ips=["10.244.0.1"], ready=True))
    assert facts(settle()) == [(["10.244.0.1"], [], [])]


def test_they_go_with_their_service_unless_they_elect_a_leader(world, settle, service):
    world.put(service("web", selector=APP))
    settle()
    world.remove(Service, WEB)
    assert settle() is None
    document = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "default"}}
    world.put(document)
    assert settle() is not None, "somebody makes the Service next"
    world.put(document | {"metadata": {"name": "web", "namespace": "default", "annotations": {LEADER: "{}"}}})
    world.put(service("web", selector=None))
    settle()
    world.remove(Service, WEB)
    assert settle() is not None


def test_hand_made_ones_of_a_service_without_selector_are_left_alone(world, settle, service):
    world.put({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web", "namespace": "default"}})
    world.put(service("web", selector=None))
    settle()
    assert world.writes == []


def test_a_thousand_addresses_are_the_most_and_ready_ones_are_preferred(world, settle, pod, service):
    world.put(service("web", selector=APP))
    for number in range(1003):
        world.put(pod(f"p{number:04}", labels=APP, ips=[f"10.244.{number // 250}.{number % 250 + 1}"], ready=number % 500 != 0))
    one = settle()
    (subset,) = one.subsets
    assert (len(subset.addresses), subset.notReadyAddresses) == (1000, None)
    assert one.annotations[CAPACITY] == "truncated"
    for number in range(6):
        world.remove(Pod, Key("default", f"p{number:04}"))
    one = settle()
    assert CAPACITY not in one.annotations and len(one.subsets[0].notReadyAddresses) == 2


def offer(ip, ready, *ports):
    return EndpointAddress(ip=ip), ready, tuple(CoreEndpointPort(name=f"p{port}", port=port) for port in ports)


def test_ports_with_the_same_addresses_stand_together():
    subsets = subsets_of([offer("10.0.0.1", True, 1, 9), offer("10.0.0.2", True, 2, 9)])
    assert [([a.ip for a in s.addresses], [p.port for p in s.ports]) for s in subsets] == [
        (["10.0.0.1"], [1]),
        (["10.0.0.2"], [2]),
        (["10.0.0.1", "10.0.0.2"], [9]),
    ]


def test_ready_and_not_ready_at_once_is_not_ready():
    (subset,) = subsets_of([offer("10.0.0.1", True, 1), offer("10.0.0.1", False, 1)])
    assert subset.addresses is None and len(subset.notReadyAddresses) == 1


OFFERS = st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.sets(st.integers(1, 3), min_size=1)), max_size=15)


@given(OFFERS, st.randoms(use_true_random=False))
def test_subsets_say_what_was_offered_whatever_the_order(offers, random):
    made = [offer(f"10.0.0.{number}", ready, *sorted(ports)) for number, ready, ports in offers]
    subsets = subsets_of(made)
    random.shuffle(made)
    assert subsets_of(made) == subsets
    said = {(a.ip, p.port) for s in subsets for a in (*(s.addresses or ()), *(s.notReadyAddresses or ())) for p in s.ports}
    assert said == {(f"10.0.0.{number}", port) for number, _, ports in offers for port in ports}


@given(OFFERS, st.integers(1, 12))
def test_cutting_keeps_as_many_as_may_be_and_ready_ones_first(offers, most):
    subsets = subsets_of(offer(f"10.0.0.{number}", ready, *sorted(ports)) for number, ready, ports in offers)
    ready = sum(len(s.addresses or ()) for s in subsets)
    total = ready + sum(len(s.notReadyAddresses or ()) for s in subsets)
    kept, is_cut = cut(subsets, most)
    kept_ready = sum(len(s.addresses or ()) for s in kept)
    assert is_cut == (total > most)
    assert kept_ready == min(ready, most)
    assert kept_ready + sum(len(s.notReadyAddresses or ()) for s in kept) == min(total, most)
