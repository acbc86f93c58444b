"""Nodes and their blocks, in a world in memory."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Node, condition_of
from twinstack.api.objects import Key
from twinstack.api.world import After, Patch
from twinstack.controllers.nodeipam import CONDITION, BadRanges, NodeIPAM
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
    assert [type(action) for action in actions] == [After], "it is told once"
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


@pytest.mark.parametrize(
    "cidrs_, reason, words",
    [
        pytest.param(["10.99.0.0/24", "fd00::/64"], "CIDROutsideCluster", "10.99.0.0/24 lies in no cluster CIDR", id="the cluster's CIDR was changed"),
        pytest.param(["10.244.3.0/24"], "CIDRFamilyMissing", "nothing of fd00::/48", id="the cluster became dual after the node had come"),
        pytest.param(["fd00::/64"], "CIDRFamilyMissing", "nothing of 10.244.0.0/16", id="the same of the other family"),
    ],
)
def test_a_node_whose_blocks_do_not_fit_the_cluster_is_told_what_to_do_once(world, loop, node, cidrs_, reason, words):
    world.put(node("a", pod_cidrs=cidrs_))
    running = loop(world, NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/48")))
    running.run()
    (told,) = world.told
    assert (told.type, told.reason) == ("Warning", reason) and words in told.message and "delete the Node" in told.message
    condition = condition_of(world.get(Node, Key("", "a")).status.conditions, CONDITION)
    assert (condition.status, condition.reason) == ("False", reason)
    assert running.writes_wanted([Key("", "a")]) == [] and cidrs(world) == {"a": cidrs_}


def test_want_of_blocks_is_a_condition_that_ends_with_it(world, loop, node):
    running = loop(world, NodeIPAM(parse_cidrs("10.244.0.0/24")))
    world.put(node("a"))
    running.run()
    assert condition_of(world.get(Node, Key("", "a")).status.conditions, CONDITION) is None
    world.put(node("b"))
    running.run()
    assert condition_of(world.get(Node, Key("", "b")).status.conditions, CONDITION).reason == "CIDRNotAvailable"
    world.remove(Node, Key("", "a"))
    running.run()
    assert condition_of(world.get(Node, Key("", "b")).status.conditions, CONDITION).status == "True"


def test_one_decision_serves_those_that_wait_behind_with_blocks_of_their_own(world, node):
    for number in range(100):
        world.put(node(f"node{number:03}"))
    actions = NodeIPAM(parse_cidrs("10.244.0.0/16,fd00::/48")).decide(Key("", "node010"), world)
    assert [action.key.name for action in actions] == [f"node{number:03}" for number in range(10, 74)]
    assert len({text for action in actions for text in action.patch["spec"]["podCIDRs"]}) == 128


def test_the_block_is_written_only_to_the_node_that_was_looked_at(world, node):
    one = world.put(node("a"))
    (action,) = NodeIPAM(parse_cidrs("10.244.0.0/16")).decide(Key("", "a"), world)
    assert isinstance(action, Patch) and action.uid == one.metadata.uid
