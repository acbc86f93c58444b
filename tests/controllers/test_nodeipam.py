"""Nodes and their blocks, in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Node
from twinstack.api.objects import Key
from twinstack.api.world import After, Patch, Tell
from twinstack.controllers.nodeipam import BadRanges, NodeIPAM
from twinstack.net.cidr import parse_cidrs


def cidrs(world):
    return {node.metadata.name: node.spec.podCIDRs for node in world.list(Node)}


@pytest.mark.parametrize("order", ["10.244.0.0/16,fd00::/48", "fd00::/48,10.244.0.0/16"])
def test_every_node_gets_a_block_of_each_family_in_the_clusters_order(world, loop, node, order):
    controller = NodeIPAM(parse_cidrs(order))
    for number in range(5):
        world.put(node(f"node{number}"))
    running = loop(world, controller, seed=7)
    running.run()
    found = cidrs(world)
    assert all([":" in text for text in texts] == [":" in part for part in order.split(",")] for texts in found.values())
    assert len({text for texts in found.values() for text in texts}) == 10
    assert all(one.spec.podCIDR == one.spec.podCIDRs[0] for one in world.list(Node))
    assert running.writes_wanted(Key("", name) for name in found) == []


def test_what_a_node_has_is_never_changed_and_is_occupied_before_anything_is_given(world, loop, node):
    world.put(node("a"))
    world.put(node("z", pod_cidrs=["10.244.0.0/24"]))
    loop(world, NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/48"))).run()
    assert cidrs(world) == {"a": ["10.244.1.0/24", "fd00::/64"], "z": ["10.244.0.0/24"]}


def test_a_node_that_goes_makes_room_for_one_that_waits_and_nothing_leaks_meanwhile(world, loop, node):
    running = loop(world, NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/63")))
    for name in ("a", "b", "c"):
        world.put(node(name))
    running.run()
    (waiting,) = [name for name, texts in cidrs(world).items() if not texts]
    (told,) = world.told
    assert (told.type, told.reason, told.about.metadata.name) == ("Normal", "CIDRNotAvailable", waiting)
    assert "fd00::/63" in told.message
    actions = NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/63")).decide(Key("", waiting), world)
    assert [type(action) for action in actions] == [Tell, After]
    gone = next(name for name in cidrs(world) if name != waiting)
    world.remove(Node, Key("", gone))
    running.run()
    assert len(cidrs(world)[waiting]) == 2
    used = {text for texts in cidrs(world).values() for text in texts}
    assert len(used) == 4


def test_a_heartbeat_does_not_wake_it(world, loop, node):
    controller = NodeIPAM(parse_cidrs("10.244.0.0/16"))
    world.put(node("a", pod_cidrs=["10.244.0.0/24"]))
    before = world.get(Node, Key("", "a"))
    (watch,) = controller.watches
    assert list(watch.keys(before, before, world)) == []


def test_ranges_that_do_not_go_together_are_refused_with_every_problem():
    with pytest.raises(BadRanges) as caught:
        NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/112"), mask_size=0)
    assert [problem.flag for problem in caught.value.problems] == ["node-cidr-mask-size-ipv6"]


def test_nodes_of_another_cluster_cidr_are_found(world, node):
    world.put(node("a", pod_cidrs=["10.99.0.0/24", "fd00::/64"]))
    controller = NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/48"))
    assert [(one.metadata.name, text) for one, text in controller.strangers(world.list(Node))] == [("a", "10.99.0.0/24")]


def test_the_block_is_written_only_to_the_node_that_was_looked_at(world, node):
    one = world.put(node("a"))
    (action,) = NodeIPAM(parse_cidrs("10.244.0.0/16")).decide(Key("", "a"), world)
    assert isinstance(action, Patch) and action.uid == one.metadata.uid
