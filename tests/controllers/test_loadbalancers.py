"""The load balancer controller: objects in, actions out, and what is left when it is quiet."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from twinstack.api import errors
from twinstack.api.kinds import ConfigMap, Node, Service
from twinstack.api.objects import Key
from twinstack.controllers.loadbalancers import CONFIG, LoadBalancers
from twinstack.net.cidr import parse_cidr
from twinstack.net.family import FAMILIES
from twinstack.rules.balancer_pools import pools_of
from twinstack.rules.loadbalancers import FINALIZER

NETWORKS = {"IPv4": "192.0.2.8/30", "IPv6": "2001:db8::8/126"}
POOLS = pools_of(map(parse_cidr, NETWORKS.values()))
TEXTS = {family: f"pools: [{{name: p, addresses: ['{NETWORKS[family]}']}}]" for family in NETWORKS}
BOTH = "pools: [{name: p, addresses: [192.0.2.8/30, '2001:db8::8/126']}]"


def service(name: str = "a", *families: str, policy: str = "PreferDualStack", annotations: dict | None = None, **spec: Any) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name, "annotations": annotations or {}},
        "spec": {
            "type": "LoadBalancer",
            "ipFamilies": list(families or ("IPv4", "IPv6")),
            "ipFamilyPolicy": policy,
            "ports": [{"port": 80, "protocol": "TCP"}],
            **spec,
        },
        "status": {"loadBalancer": {}},
    }


def config(text: str) -> dict:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": CONFIG.namespace, "name": CONFIG.name}, "data": {"config.yaml": text}}


def ingress(world, name: str = "a") -> list[str]:
    one = world.get(Service, Key("default", name))
    assert all(entry.ipMode == "VIP" for entry in one.status.loadBalancer.ingress or ())
    return [entry.ip for entry in one.status.loadBalancer.ingress or ()]


def reasons(world) -> list[str]:
    return [told.reason for told in world.told]


@pytest.mark.parametrize("families", [FAMILIES[:1], FAMILIES[1:], FAMILIES, FAMILIES[::-1]], ids=str)
def test_a_service_gets_a_finalizer_and_an_address_of_each_family_in_one_write(world, loop, families) -> None:
    world.put(service("a", *map(str, families)))
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    assert ingress(world) == [{"IPv4": "192.0.2.8", "IPv6": "2001:db8::8"}[str(family)] for family in families]
    assert world.get(Service, Key("default", "a")).metadata.finalizers == [FINALIZER]
    assert reasons(world) == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"] and len(world.writes) == 1
    assert one.writes_wanted([Key("default", "a")]) == []


@pytest.mark.parametrize("class_", [None, "twinstack.dev/load-balancer", "else.where/balancer"])
def test_only_no_class_and_our_own_are_served(world, loop, class_) -> None:
    before = service("a", loadBalancerClass=class_)
    before["metadata"]["finalizers"] = ["x/y"]
    world.put(before)
    loop(world, LoadBalancers(POOLS)).run()
    assert bool(world.writes) is (class_ != "else.where/balancer")
    world.change(Service, Key("default", "a"), {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y", FINALIZER]}})
    loop(world, LoadBalancers(POOLS)).run()
    assert (FINALIZER in world.get(Service, Key("default", "a")).metadata.finalizers) is (class_ == "else.where/balancer")


@pytest.mark.parametrize("missing", ["IPv4", "IPv6"])
def test_require_dual_stack_waits_for_both_and_says_which_pool_is_empty(world, loop, missing) -> None:
    there = next(family for family in NETWORKS if family != missing)
    world.put(config(TEXTS[there]))
    world.put(service(policy="RequireDualStack"))
    one = loop(world, LoadBalancers())
    one.run()
    assert ingress(world) == []
    told = next(told for told in world.told if told.type == "Warning")
    assert told.reason == "SyncLoadBalancerFailed" and f"no {missing} address is in pool p" in told.message
    world.put(config(BOTH))
    one.run()
    assert len(ingress(world)) == 2


@pytest.mark.parametrize("missing", ["IPv4", "IPv6"])
def test_prefer_dual_stack_is_topped_up_when_another_gives_its_address_back(world, loop, missing) -> None:
    one_address, there = {"IPv4": "192.0.2.8", "IPv6": "2001:db8::8"}[missing], next(family for family in NETWORKS if family != missing)
    world.put(config(f"pools: [{{name: p, addresses: ['{one_address}', '{NETWORKS[there]}']}}]"))
    world.put(service("first", missing, policy="SingleStack"))
    one = loop(world, LoadBalancers())
    one.run()
    world.put(service("a"))
    one.run()
    had = ingress(world)
    assert len(had) == 1
    world.change(Service, Key("default", "first"), {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
    one.run()
    assert world.get(Service, Key("default", "first")) is None
    assert len(ingress(world)) == 2 and set(had) < set(ingress(world))
    assert reasons(world)[-1] == "UpdatedLoadBalancer" and {"DeletingLoadBalancer", "DeletedLoadBalancer"} <= set(reasons(world))


def test_a_service_that_wants_none_any_more_gives_its_addresses_back(world, loop) -> None:
    world.put(service())
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    world.change(Service, Key("default", "a"), {"spec": {"type": "ClusterIP"}})
    one.run()
    assert ingress(world) == [] and world.get(Service, Key("default", "a")).metadata.finalizers == []
    world.put(service("b"))
    one.run()
    assert ingress(world, "b") == ["192.0.2.8", "2001:db8::8"]


def test_up_and_downgrades_of_the_service_add_and_remove_an_address(world, loop) -> None:
    world.put(service("a", "IPv4", policy="SingleStack"))
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    world.change(Service, Key("default", "a"), {"spec": {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}})
    one.run()
    assert ingress(world) == ["192.0.2.8", "2001:db8::8"]
    world.change(Service, Key("default", "a"), {"spec": {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}})
    one.run()
    assert ingress(world) == ["192.0.2.8"]


def test_broken_pools_move_nobody_and_are_told_to_who_waits(world, loop) -> None:
    world.put(service())
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    world.put(config("pools: 3"))
    world.put(service("b"))
    one.run()
    assert len(ingress(world)) == 2 and ingress(world, "b") == []
    assert "is refused" in world.told[-1].message and reasons(world)[-1] == "SyncLoadBalancerFailed"
    world.remove(ConfigMap, CONFIG)
    one.run()
    assert len(ingress(world, "b")) == 2


def test_addresses_of_a_pool_that_is_removed_are_given_up_and_told_and_replaced_where_there_are_others(world, loop) -> None:
    world.put(config("pools: [{name: old, addresses: [192.0.2.8/30, '2001:db8::8/126']}, {name: new, addresses: [198.51.100.0/30]}]"))
    world.put(service())
    one = loop(world, LoadBalancers())
    one.run()
    assert ingress(world) == ["192.0.2.8", "2001:db8::8"]
    world.put(config("pools: [{name: new, addresses: [198.51.100.0/30]}]"))
    one.run()
    assert ingress(world) == ["198.51.100.0"], "another of the family that has some, and none of the other"
    updated = next(told for told in world.told if told.reason == "UpdatedLoadBalancer")
    failed = world.told[-1]
    assert failed.reason == "SyncLoadBalancerFailed"
    assert updated.message.endswith("198.51.100.0; given up: 192.0.2.8, 2001:db8::8") and "no IPv6 address is in pool new" in failed.message


@pytest.mark.parametrize("seed", range(8))
def test_in_whatever_order_things_happen_no_address_is_given_twice(world, loop, seed) -> None:
    for number in range(6):
        world.put(service(f"s{number}", policy="RequireDualStack" if number % 2 else "PreferDualStack"))
    one = loop(world, LoadBalancers(POOLS), seed=seed)
    one.run()
    given = [ip for number in range(6) for ip in ingress(world, f"s{number}")]
    assert len(given) == len(set(given)) == 8
    assert one.writes_wanted(Key("default", f"s{number}") for number in range(6)) == []


def test_when_the_last_node_goes_that_may_take_traffic_its_services_are_told(world, loop) -> None:
    def node(name: str, **labels: str) -> dict:
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}

    excluded = {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}
    for name in ("a", "b"):
        world.put(node(name))
    world.put(service())
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    world.change(Node, Key("", "a"), {"metadata": {"labels": excluded}})
    one.run()
    assert "UnAvailableLoadBalancer" not in reasons(world)
    world.change(Node, Key("", "b"), {"metadata": {"labels": excluded}})
    one.run()
    assert reasons(world)[-1] == "UnAvailableLoadBalancer" and len(ingress(world)) == 2, "its addresses stay"


def test_an_interruption_at_any_write_gives_nothing_twice_and_leaves_nobody_without(new_world, loop) -> None:
    """Another instance begins with nothing but what stands in the Services."""
    for most in range(1, 14):
        world = new_world()
        for number in range(4):
            world.put(service(f"s{number}", policy="RequireDualStack" if number % 2 else "PreferDualStack"))
        loop(world, LoadBalancers(POOLS)).run()
        world.put(service("waits"))
        world.change(Service, Key("default", "s1"), {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
        world.change(Service, Key("default", "s2"), {"spec": {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}})
        with contextlib.suppress(AssertionError):  # it was at work when it ended
            loop(world, LoadBalancers(POOLS), seed=most).run(most=most)
        world.changes[:] = [(Service, None, one) for one in world.list(Service)]
        loop(world, LoadBalancers(POOLS)).run()
        assert world.get(Service, Key("default", "s1")) is None and len(ingress(world, "s2")) == 1 and len(ingress(world, "waits")) == 2
        given = [ip for name in ("s0", "s2", "s3", "waits") for ip in ingress(world, name)]
        assert len(given) == len(set(given)) == 7


CHANGES = [
    ({"loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/64"]}, "LoadBalancerSourceRanges", "[] -> [192.0.2.0/24, 2001:db8::/64]"),
    ({"loadBalancerIP": "192.0.2.9"}, "LoadbalancerIP", "none -> 192.0.2.9"),
    ({"externalIPs": ["198.51.100.7", "2001:db8::7"]}, "ExternalIP", "[] -> [198.51.100.7, 2001:db8::7]"),
    ({"externalTrafficPolicy": "Local"}, "ExternalTrafficPolicy", "Cluster -> Local"),
    ({"healthCheckNodePort": 31000}, "HealthCheckNodePort", "0 -> 31000"),
    ({"type": "NodePort"}, "Type", "LoadBalancer -> NodePort"),
    ({"internalTrafficPolicy": "Local"}, None, None),
]


@pytest.mark.parametrize("change, reason, message", CHANGES, ids=[f"{next(iter(change))} is told as {reason}" for change, reason, _ in CHANGES])
def test_what_changes_of_a_load_balancer_is_told_once_as_the_service_controller_does(world, loop, change, reason, message) -> None:
    world.put(service(externalTrafficPolicy="Cluster"))
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    before = len(world.told)
    world.change(Service, Key("default", "a"), {"spec": change})
    one.run()
    known = {"EnsuringLoadBalancer", "EnsuredLoadBalancer", "UpdatedLoadBalancer", "DeletingLoadBalancer", "DeletedLoadBalancer"}
    assert [(told.reason, told.message) for told in world.told[before:] if told.reason not in known] == ([(reason, message)] if reason else [])


def test_a_service_that_becomes_a_load_balancer_is_told_of_as_such_and_one_that_is_new_is_not(world, loop) -> None:
    world.put(service("a", type="ClusterIP"))
    world.put(service("b"))
    one = loop(world, LoadBalancers(POOLS))
    one.run()
    assert "Type" not in reasons(world)
    world.change(Service, Key("default", "a"), {"spec": {"type": "LoadBalancer"}})
    one.run()
    assert [(told.about.metadata.name, told.message) for told in world.told if told.reason == "Type"] == [("a", "ClusterIP -> LoadBalancer")]


@pytest.mark.parametrize(("change", "reason"), [({}, "SyncLoadBalancerFailed"), ({"type": "ClusterIP"}, "DeleteLoadBalancerFailed")], ids=["given", "taken"])
def test_what_the_server_refuses_is_told_at_the_service(world, change, reason) -> None:
    world.put(service(**change))
    (told,) = LoadBalancers(POOLS).refused(Key("default", "a"), errors.Forbidden("no"), world)
    assert (told.type, told.reason) == ("Warning", reason) and "no" in told.message
