"""Dependents and their owners, in a world in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import errors
from twinstack.api.kinds import ConfigMap, Node, Object, Pod, ReplicaSet
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Absent, Delete
from twinstack.controllers.garbage import FOREGROUND, ORPHAN, Garbage


def thing(view, name, *owners, namespace="default", finalizers=(), blocks=True):
    resource = resource_of(view)
    references = [
        {
            "apiVersion": resource_of(type(owner)).api_version,
            "kind": resource_of(type(owner)).kind,
            "name": owner.metadata.name,
            "uid": owner.metadata.uid,
            "blockOwnerDeletion": blocks,
        }
        for owner in owners
    ]
    metadata = {"name": name, "ownerReferences": references, "finalizers": list(finalizers)}
    if resource.namespaced:
        metadata["namespace"] = namespace
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


@pytest.fixture
def settle(world, loop):
    running = loop(world, Garbage())

    def run():
        running.run()
        keys = [Key(f"{resource_of(view).qualified}:{key.namespace}", key.name) for view, key in world.objects]
        assert running.writes_wanted(keys) == []
        return sorted(f"{view.__name__}/{key.name}" for view, key in world.objects)

    return run


def delete(world, view, name, policy):
    world.perform(Delete(resource_of(view), Key("default", name), propagation_policy=policy))


def test_a_whole_family_goes_with_its_head(world, settle):
    head = world.put(thing(ConfigMap, "head"))
    child = world.put(thing(ReplicaSet, "child", head))
    world.put(thing(Pod, "grandchild", child))
    world.put(thing(Pod, "stranger"))
    assert len(settle()) == 4
    delete(world, ConfigMap, "head", "Background")
    assert settle() == ["Pod/stranger"]


def test_while_one_owner_lives_only_the_reference_to_the_other_goes(world, settle):
    one, other = world.put(thing(ConfigMap, "one")), world.put(thing(ConfigMap, "other"))
    world.put(thing(Pod, "child", one, other))
    delete(world, ConfigMap, "one", "Background")
    assert settle() == ["ConfigMap/other", "Pod/child"]
    (left,) = world.get(Pod, Key("default", "child")).metadata.ownerReferences
    assert left.uid == other.metadata.uid


def test_another_object_of_the_same_name_is_not_the_owner(world, settle):
    old = world.put(thing(ConfigMap, "head"))
    world.remove(ConfigMap, Key("default", "head"))
    world.put(thing(ConfigMap, "head"))
    world.put(thing(Pod, "child", old))
    assert settle() == ["ConfigMap/head"]


def test_in_the_foreground_the_dependents_go_first(world, settle, pod):
    head = world.put(thing(ConfigMap, "head"))
    child = world.put(thing(ReplicaSet, "child", head))
    document = thing(Pod, "grandchild", child)
    world.put(document | {"spec": {"nodeName": "node1"}})  # it takes its time
    delete(world, ConfigMap, "head", "Foreground")
    assert settle() == ["ConfigMap/head", "Pod/grandchild", "ReplicaSet/child"]
    assert world.get(ReplicaSet, Key("default", "child")).metadata.finalizers == [FOREGROUND]
    assert world.get(Pod, Key("default", "grandchild")).metadata.deletionTimestamp
    world.remove(Pod, Key("default", "grandchild"))
    assert settle() == []


def test_in_the_foreground_a_dependent_that_does_not_block_is_not_waited_for(world, settle):
    head = world.put(thing(ConfigMap, "head"))
    world.put(thing(Pod, "child", head, blocks=False, finalizers=["example.com/stay"]))
    delete(world, ConfigMap, "head", "Foreground")
    assert settle() == ["Pod/child"]


def test_an_orphans_parent_is_forgotten_before_it_goes(world, settle):
    head = world.put(thing(ConfigMap, "head"))
    world.put(thing(Pod, "child", head))
    delete(world, ConfigMap, "head", "Orphan")
    assert ORPHAN in world.get(ConfigMap, Key("default", "head")).metadata.finalizers
    assert settle() == ["Pod/child"]
    assert world.get(Pod, Key("default", "child")).metadata.ownerReferences == []


def test_owners_of_kinds_that_nobody_knows_keep_their_dependents(world, settle):
    document = thing(Pod, "child")
    document["metadata"]["ownerReferences"] = [{"apiVersion": "example.com/v1", "kind": "Thing", "name": "x", "uid": "u"}]
    world.put(document)
    assert settle() == ["Pod/child"]


def test_a_namespaced_object_may_have_a_cluster_wide_owner(world, settle):
    node = world.put(thing(Node, "node1"))
    world.put(thing(Pod, "static", node))
    assert settle() == ["Node/node1", "Pod/static"]
    world.remove(Node, Key("", "node1"))
    assert settle() == []


def test_nothing_is_deleted_when_only_the_cache_lacks_the_owner(world):
    head = world.put(thing(ConfigMap, "head"))
    world.put(thing(Pod, "child", head))
    hidden = world.objects.pop((ConfigMap, Key("default", "head")))
    asked, deletion = Garbage().decide(Key("pods:default", "child"), world)
    assert asked == Absent(resource_of(ConfigMap), Key("default", "head"), head.metadata.uid)
    assert isinstance(deletion, Delete)
    world.objects[ConfigMap, Key("default", "head")] = hidden
    with pytest.raises(errors.Conflict):
        world.perform(asked)


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=12), st.integers(0, 7), st.sampled_from(["Background", "Foreground"]), st.integers(0, 9)
)
def test_what_is_left_is_exactly_what_still_has_an_owner_or_never_had_one(new_world, loop, edges, doomed, policy, seed):
    """An acyclic graph of owners: an edge goes from the smaller number to the greater."""
    world = new_world()
    made: list[Object] = []
    parents = {number: {low for low, high in edges if high == number and low < high} for number in range(8)}
    for number in range(8):
        made.append(world.put(thing(ConfigMap, f"c{number}", *(made[low] for low in sorted(parents[number])))))
    running = loop(world, Garbage(), seed=seed)
    running.run()
    delete(world, ConfigMap, f"c{doomed}", policy)
    running.run()
    alive: set[int] = set()
    for number in range(8):
        if number != doomed and (not parents[number] or parents[number] & alive):
            alive.add(number)
    assert {one.metadata.name for one in world.list(ConfigMap)} == {f"c{number}" for number in alive}
    for number in alive:
        owners = {owner.name for owner in world.get(ConfigMap, Key("default", f"c{number}")).metadata.ownerReferences}
        assert owners == {f"c{low}" for low in parents[number] & alive}
