"""Patches: the three kinds, by table, by property, and against a real kubectl's own library."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.api import errors
from twinstack.api.patches import MAX_OPERATIONS, copy_of, json_patch, merge_patch, strategic_merge_patch
from twinstack.api.schema import ANYTHING, Schema, Schemas

DEFINITIONS: dict[str, dict[str, Any]] = {
    "Thing": {
        "type": ["object", "null"],
        "properties": {
            "metadata": {"$ref": "#/$defs/Meta"},
            "spec": {"$ref": "#/$defs/Spec"},
            "status": {"$ref": "#/$defs/Status"},
        },
    },
    "Meta": {
        "type": "object",
        "properties": {
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "finalizers": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
        },
    },
    "Spec": {
        "type": "object",
        "properties": {
            "strategy": {"$ref": "#/$defs/Strategy", "x-kubernetes-patch-strategy": "retainKeys"},
            "whole": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-patch-strategy": "replace"},
            "families": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"},
            "containers": {
                "type": "array",
                "items": {"$ref": "#/$defs/Container"},
                "x-kubernetes-patch-merge-key": "name",
                "x-kubernetes-patch-strategy": "merge",
            },
            "keyless": {"type": "array", "items": {"type": "object"}, "x-kubernetes-patch-strategy": "merge"},
        },
    },
    "Strategy": {"type": "object", "properties": {"type": {"type": "string"}, "rollingUpdate": {"type": "object"}}},
    "Container": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "image": {"type": "string"},
            "env": {
                "type": "array",
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "value": {"type": "string"}}},
                "x-kubernetes-patch-merge-key": "name",
                "x-kubernetes-patch-strategy": "merge",
            },
            "args": {"type": "array", "items": {"type": "string"}},
        },
    },
    "Status": {
        "type": "object",
        "properties": {
            "addresses": {
                "type": "array",
                "items": {"type": "object", "properties": {"type": {"type": "string"}, "address": {"type": "string"}}},
                "x-kubernetes-patch-merge-key": "type",
                "x-kubernetes-patch-strategy": "merge",
            },
            "podIPs": {
                "type": "array",
                "items": {"type": "object", "properties": {"ip": {"type": "string"}}},
                "x-kubernetes-patch-merge-key": "ip",
                "x-kubernetes-patch-strategy": "merge",
            },
        },
    },
}
THING = Schemas(DEFINITIONS.__getitem__).get("Thing")


def ips(*addresses: str) -> list[dict[str, Any]]:
    return [{"ip": address} for address in addresses]


def c(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


# ---- JSON patch


@pytest.mark.parametrize(
    "operations, after",
    [
        pytest.param([{"op": "add", "path": "/b", "value": 1}], {"a": [1, 2], "b": 1}, id="a field is added"),
        pytest.param([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3]}, id="an element is appended"),
        pytest.param([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2]}, id="an element is inserted"),
        pytest.param([{"op": "remove", "path": "/a/0"}], {"a": [2]}, id="an element is removed"),
        pytest.param([{"op": "replace", "path": "/a", "value": {}}], {"a": {}}, id="a field is replaced"),
        pytest.param([{"op": "replace", "path": "/b", "value": 1}], {"a": [1, 2], "b": 1}, id="a field that was not there is replaced too"),
        pytest.param([{"op": "move", "from": "/a", "path": "/b"}], {"b": [1, 2]}, id="a field is moved"),
        pytest.param([{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1, 2], "b": [1, 2]}, id="a field is copied"),
        pytest.param([{"op": "test", "path": "/a/0", "value": 1}, {"op": "remove", "path": "/a"}], {}, id="a test that holds lets the rest happen"),
        pytest.param([{"op": "add", "path": "/x~1y", "value": 1}], {"a": [1, 2], "x/y": 1}, id="a slash in a name is written as ~1"),
        pytest.param([{"op": "test", "path": "/b", "value": None}], {"a": [1, 2]}, id="what is not there is null"),
        pytest.param([{"op": "remove", "path": "/a/-1"}], {"a": [1]}, id="minus one is the last element"),
        pytest.param([{"op": "add", "path": "/a/-1", "value": 3}], {"a": [1, 2, 3]}, id="minus one adds at the end"),
        pytest.param([{"op": "replace", "path": "/a/00", "value": 3}], {"a": [3, 2]}, id="an index may begin with zeros"),
        pytest.param([{"op": "add", "path": "/b"}], {"a": [1, 2], "b": None}, id="a value that is not given is null"),
        pytest.param([{"op": "copy", "from": "/c", "path": "/b"}], {"a": [1, 2], "b": None}, id="a copy of what is not there is null"),
        pytest.param([], {"a": [1, 2]}, id="nothing asked, nothing changed"),
    ],
)
def test_a_json_patch_does_what_rfc_6902_says(operations: list[dict[str, Any]], after: dict[str, Any]) -> None:
    before = {"a": [1, 2]}
    assert json_patch(before, operations) == after
    assert before == {"a": [1, 2]}


@pytest.mark.parametrize(
    "operations, error",
    [
        pytest.param({"op": "add"}, errors.BadRequest, id="an object is no list of operations"),
        pytest.param(["add"], errors.BadRequest, id="an operation is an object"),
        pytest.param([{"op": "put", "path": "/a"}], errors.Invalid, id="an operation has a known name"),
        pytest.param([{"op": ["add"], "path": "/a"}], errors.Invalid, id="a name is a text"),
        pytest.param([{"op": "add", "path": "a", "value": 1}], errors.Invalid, id="a pointer begins with a slash"),
        pytest.param([{"op": "add", "path": "", "value": {}}], errors.Invalid, id="the whole is not added to"),
        pytest.param([{"op": "remove", "path": "/a/-3"}], errors.Invalid, id="an index before the list is refused"),
        pytest.param([{"op": "move", "path": "/a"}], errors.Invalid, id="moving needs a source"),
        pytest.param([{"op": "add", "path": 3, "value": 1}], errors.Invalid, id="a pointer is a text"),
        pytest.param([{"op": "copy", "from": "", "path": "/b"}], errors.Invalid, id="the whole is not put into itself"),
        pytest.param([{"op": "remove", "path": "/z"}], errors.Invalid, id="what is absent cannot be removed"),
        pytest.param([{"op": "replace", "path": "/a/7", "value": 1}], errors.Invalid, id="an element that is not there cannot be replaced"),
        pytest.param([{"op": "add", "path": "/z/y", "value": 1}], errors.Invalid, id="parents are not made"),
        pytest.param([{"op": "add", "path": "/a/9", "value": 1}], errors.Invalid, id="an index beyond the list is refused"),
        pytest.param([{"op": "add", "path": "/a/0/b", "value": 1}], errors.Invalid, id="a number has no fields"),
        pytest.param([{"op": "test", "path": "/a", "value": [1]}], errors.Invalid, id="a test that fails stops all"),
        pytest.param([{"op": "test", "path": "/a/0", "value": True}], errors.Invalid, id="one is not true"),
        pytest.param([{"op": "replace", "path": "", "value": []}], errors.Invalid, id="an object stays an object"),
        pytest.param([{"op": "remove", "path": ""}], errors.Invalid, id="the whole cannot be removed"),
        pytest.param([{"op": "test", "path": "", "value": 1}] * (MAX_OPERATIONS + 1), errors.RequestEntityTooLarge, id="too many operations are refused"),
        pytest.param(
            [{"op": "copy", "from": "/a", "path": "/a/-"}] * 60,
            errors.RequestEntityTooLarge,
            id="copies that double each time are refused",
        ),
    ],
)
def test_a_json_patch_that_will_not_do_is_refused(operations: Any, error: type[errors.APIError]) -> None:
    before = {"a": [1, 2]}
    with pytest.raises(error):
        json_patch(before, operations)
    assert before == {"a": [1, 2]}


# ---- merge patch


@pytest.mark.parametrize(
    "before, patch, after",
    [
        pytest.param({"a": "b"}, {"a": "c"}, {"a": "c"}, id="a value replaces"),
        pytest.param({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}, id="a new field is added"),
        pytest.param({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}, id="null removes"),
        pytest.param({"a": ["b"]}, {"a": ["c", None]}, {"a": ["c", None]}, id="a list replaces, as it is"),
        pytest.param({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}, id="objects are laid over"),
        pytest.param({"a": 1}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}, id="null in a new object leaves nothing"),
        pytest.param({"e": None}, {"a": 1}, {"e": None, "a": 1}, id="a null that was there stays"),
    ],
)
def test_a_merge_patch_does_what_rfc_7396_says(before: dict[str, Any], patch: dict[str, Any], after: dict[str, Any]) -> None:
    assert merge_patch(before, patch) == after


@pytest.mark.parametrize("patch", [[], "a", None, 3, True])
def test_a_merge_patch_is_an_object(patch: Any) -> None:
    with pytest.raises(errors.BadRequest):
        merge_patch({}, patch)
    with pytest.raises(errors.BadRequest):
        strategic_merge_patch({}, patch, THING)


# ---- strategic merge patch


STRATEGIC = [
    pytest.param(
        {"spec": {"containers": [c("a", image="x"), c("b", image="y")]}},
        {"spec": {"containers": [c("b", image="z")]}},
        {"spec": {"containers": [c("a", image="x"), c("b", image="z")]}},
        id="an element is found by its merge key",
    ),
    pytest.param(
        {"spec": {"containers": [c("a")]}},
        {"spec": {"containers": [c("b", image=None)]}},
        {"spec": {"containers": [c("b"), c("a")]}},
        id="a new element stands where the patch says, without its nulls",
    ),
    pytest.param(
        {"spec": {"containers": [c("a", env=[c("X", value="1"), c("Y", value="2")])]}},
        {"spec": {"containers": [c("a", env=[c("Y", value="3"), {"name": "X", "$patch": "delete"}])]}},
        {"spec": {"containers": [c("a", env=[c("Y", value="3")])]}},
        id="lists of elements are merged too",
    ),
    pytest.param(
        {"spec": {"containers": [c("a", args=["1", "2"])]}},
        {"spec": {"containers": [c("a", args=["3"])]}},
        {"spec": {"containers": [c("a", args=["3"])]}},
        id="a list without a strategy is replaced",
    ),
    pytest.param(
        {"spec": {"families": ["IPv4", "IPv6"]}},
        {"spec": {"families": ["IPv6"]}},
        {"spec": {"families": ["IPv6"]}},
        id="an atomic list is replaced",
    ),
    pytest.param(
        {"spec": {"containers": [c("a"), c("b"), c("c")]}},
        {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}},
        {"spec": {"containers": [c("a"), c("c")]}},
        id="an element is deleted",
    ),
    pytest.param(
        {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n"}]}},
        {
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "10.0.0.2"},
                    {"type": "InternalIP", "address": "fd00::2"},
                    {"type": "Hostname", "address": "n"},
                    {"$patch": "replace"},
                ]
            }
        },
        {
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "10.0.0.2"},
                    {"type": "InternalIP", "address": "fd00::2"},
                    {"type": "Hostname", "address": "n"},
                ]
            }
        },
        id="a node's two addresses of one type are kept by replacing the list",
    ),
    pytest.param(
        {"status": {"podIPs": ips("10.0.0.1", "fd00::1")}},
        {"status": {"podIPs": ips("fd00::1"), "$setElementOrder/podIPs": ips("fd00::1", "10.0.0.1")}},
        {"status": {"podIPs": ips("fd00::1", "10.0.0.1")}},
        id="a pod's addresses stand in the order that its kubelet says",
    ),
    pytest.param(
        {"status": {"podIPs": ips("10.0.0.1", "fd00::1")}},
        {"status": {"$setElementOrder/podIPs": ips("fd00::1", "10.0.0.1")}},
        {"status": {"podIPs": ips("fd00::1", "10.0.0.1")}},
        id="an order alone reorders",
    ),
    pytest.param(
        {"status": {"podIPs": ips("10.0.0.1", "10.0.0.2", "10.0.0.3")}},
        {"status": {"podIPs": ips("10.0.0.9"), "$setElementOrder/podIPs": ips("10.0.0.9", "10.0.0.2")}},
        {"status": {"podIPs": ips("10.0.0.9", "10.0.0.1", "10.0.0.2", "10.0.0.3")}},
        id="what the order does not name keeps its place among the others",
    ),
    pytest.param(
        {"metadata": {"finalizers": ["a", "b"]}},
        {"metadata": {"finalizers": ["c", "a"]}},
        {"metadata": {"finalizers": ["c", "a", "b"]}},
        id="plain values are joined as a set, those of the patch in its order",
    ),
    pytest.param(
        {"metadata": {"finalizers": ["a", "b", "c"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "x"]}},
        {"metadata": {"finalizers": ["a", "c"]}},
        id="plain values are deleted",
    ),
    pytest.param(
        {"metadata": {"labels": {"a": "1", "b": "2"}}},
        {"metadata": {"labels": {"a": None, "c": "3"}}},
        {"metadata": {"labels": {"b": "2", "c": "3"}}},
        id="a map of labels is merged, null removes",
    ),
    pytest.param(
        {"metadata": {"labels": {"a": "1"}}},
        {"metadata": {"labels": {"$patch": "replace", "b": "2"}}},
        {"metadata": {"labels": {"b": "2"}}},
        id="a map is replaced when the patch says so",
    ),
    pytest.param({"metadata": {"labels": {"a": "1"}}}, {"metadata": {"labels": {"$patch": "delete"}}}, {"metadata": {"labels": {}}}, id="a map is emptied"),
    pytest.param(
        {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}},
        {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
        {"spec": {"strategy": {"type": "Recreate"}}},
        id="the fields of a union that are not retained go",
    ),
]
OURS = [
    pytest.param(
        {"spec": {"whole": {"a": "1"}}},
        {"spec": {"whole": {"b": "2"}}},
        {"spec": {"whole": {"b": "2"}}},
        id="a map with strategy replace is replaced",
    ),
    pytest.param(
        {"spec": {"containers": [c("a")]}},
        {"spec": {"containers": [{"name": "a", "$patch": "merge", "image": "x"}]}},
        {"spec": {"containers": [c("a", image="x")]}},
        id="merging may be said aloud",
    ),
    pytest.param(
        {},
        {"metadata": {"labels": {"$patch": "delete"}, "$setElementOrder/finalizers": ["a"]}},
        {"metadata": {"labels": {}}},
        id="orders about nothing do nothing",
    ),
    pytest.param(
        {"spec": {"containers": "oddly a text"}},
        {"spec": {"containers": [c("a")]}},
        {"spec": {"containers": [c("a")]}},
        id="a value of another type is replaced",
    ),
]


@pytest.mark.parametrize("before, patch, after", STRATEGIC + OURS)
def test_a_strategic_patch_follows_the_schema(before: dict[str, Any], patch: dict[str, Any], after: dict[str, Any]) -> None:
    untouched, asked = copy.deepcopy(before), copy.deepcopy(patch)
    result = strategic_merge_patch(before, patch, THING)
    assert result == after
    assert json.dumps(result.get("status", {})) == json.dumps(after.get("status", {}))
    assert (before, patch) == (untouched, asked)


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"spec": {"$patch": "mangle"}}, id="an unknown order"),
        pytest.param({"spec": {"containers": [{"name": "a", "$patch": 3}]}}, id="an unknown order in an element"),
        pytest.param({"spec": {"containers": [{"image": "x"}]}}, id="an element without its merge key"),
        pytest.param({"spec": {"containers": ["a"]}}, id="an element that is no object"),
        pytest.param({"spec": {"keyless": [{"a": 1}]}}, id="a list to merge without a merge key"),
        pytest.param({"spec": {"strategy": {"$retainKeys": "type"}}}, id="fields to retain that are no list"),
        pytest.param({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}, id="values to delete that are no list"),
        pytest.param({"spec": {"containers": [c("b"), c("a")], "$setElementOrder/containers": [c("a"), c("b")]}}, id="elements against the order"),
        pytest.param({"spec": {"containers": [c("b")], "$setElementOrder/containers": [c("a")]}}, id="an element that the order does not name"),
        pytest.param({"spec": {"containers": [c("b")], "$setElementOrder/containers": {}}}, id="an order that is no list"),
        pytest.param({"status": {"$setElementOrder/podIPs": ["a"]}}, id="an order of things without the merge key"),
    ],
)
def test_a_strategic_patch_that_cannot_be_followed_is_refused(patch: dict[str, Any]) -> None:
    with pytest.raises(errors.BadRequest):
        strategic_merge_patch({"spec": {"containers": [c("a")]}, "status": {"podIPs": ips("10.0.0.1")}}, patch, THING)


def test_a_field_that_is_set_but_not_retained_is_wrong_in_itself() -> None:
    with pytest.raises(errors.Invalid):
        strategic_merge_patch({}, {"spec": {"strategy": {"$retainKeys": [], "type": "x"}}}, THING)


@pytest.mark.slow
@pytest.mark.parametrize("before, patch, after", STRATEGIC)
def test_kubectl_patches_a_pod_the_same_way(before: dict[str, Any], patch: dict[str, Any], after: dict[str, Any], tmp_path: Any) -> None:
    """The judge: kubectl applies a patch to a local file with Kubernetes' own library and types."""
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is needed to judge patches"
    if "strategy" in before.get("spec", {}):
        head = {"apiVersion": "apps/v1", "kind": "Deployment"}
    elif "addresses" in before.get("status", {}):
        head = {"apiVersion": "v1", "kind": "Node"}
    elif "families" in before.get("spec", {}):
        head = {"apiVersion": "v1", "kind": "Service"}
        before, patch, after = ({"spec": {"ipFamilies": one["spec"]["families"]}} for one in (before, patch, after))
    else:
        head = {"apiVersion": "v1", "kind": "Pod"}
    source = tmp_path / "thing.json"
    source.write_text(json.dumps({**head, **before}))
    done = subprocess.run(
        [kubectl, "patch", "--local", "-f", str(source), "--type=strategic", "-p", json.dumps(patch), "-o", "json"], capture_output=True, check=True
    )
    theirs = json.loads(done.stdout)

    def without_blanks(value: Any) -> Any:
        """Go writes empty structures where nothing was said, and leaves empty maps out."""
        if isinstance(value, dict):
            kept = {key: without_blanks(child) for key, child in value.items() if key[:1] != "$"}
            return {key: child for key, child in kept.items() if child not in (None, {}, [], "")}
        return [without_blanks(child) for child in value] if isinstance(value, list) else value

    assert without_blanks(theirs) == without_blanks({**head, **after})


# ---- properties

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
ORDERS = st.sampled_from(
    ["$patch", "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers", "$setElementOrder/finalizers", "$setElementOrder/podIPs"]
)
WORDS = (
    st.sampled_from(["metadata", "spec", "status", "containers", "finalizers", "podIPs", "name", "ip", "env", "labels", "strategy", "keyless", "families"])
    | ORDERS
)
VALUES = st.sampled_from(["a", "b", "replace", "delete", "merge", None, 1, True, 1.0])
THINGS = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=15)
OBJECTS = st.dictionaries(WORDS, THINGS, max_size=4)
POINTERS = st.lists(st.sampled_from(["", "spec", "0", "1", "-", "a~1b", "metadata", "~", "01"]), max_size=4).map(
    lambda parts: "".join("/" + part for part in parts)
)
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": POINTERS}, optional={"value": THINGS, "from": POINTERS}
)


def outcome(apply: Any, document: Any, patch: Any, *more: Any) -> Any:
    before, asked = copy.deepcopy(document), copy.deepcopy(patch)
    try:
        result = apply(document, patch, *more)
    except errors.APIError:
        result = None
    else:
        assert isinstance(result, dict)
        assert not containers_in(result) & (containers_in(document) | containers_in(patch)), "the result shares something with what went in"
    assert json.dumps((document, patch)) == json.dumps((before, asked))
    return result


def containers_in(value: Any) -> set[int]:
    found: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (dict, list)):
            found.add(id(one))
            todo += one.values() if isinstance(one, dict) else one
    return found


@settings(max_examples=300, deadline=None)
@given(OBJECTS, OBJECTS | JSON)
def test_any_strategic_patch_gives_an_object_or_our_own_error(document: Any, patch: Any) -> None:
    outcome(strategic_merge_patch, document, patch, THING)
    outcome(strategic_merge_patch, document, patch, ANYTHING)


@settings(max_examples=200, deadline=None)
@given(OBJECTS, OBJECTS | JSON)
def test_any_merge_patch_gives_an_object_or_our_own_error_and_twice_is_once(document: Any, patch: Any) -> None:
    once = outcome(merge_patch, document, patch)
    if once is not None:
        assert merge_patch(once, patch) == once


@settings(max_examples=300, deadline=None)
@given(OBJECTS, st.lists(OPERATIONS, max_size=6) | JSON)
def test_any_json_patch_gives_an_object_or_our_own_error(document: Any, patch: Any) -> None:
    outcome(json_patch, document, patch)


@given(JSON)
def test_a_copy_is_equal_and_shares_nothing(value: Any) -> None:
    copied = copy_of(value)
    assert json.dumps(copied) == json.dumps(value)
    assert not containers_in(copied) & containers_in(value)


def test_a_patch_nested_too_deeply_is_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    for apply in (merge_patch, lambda d, p: strategic_merge_patch(d, p, Schema()), lambda d, p: json_patch(d, [{"op": "add", "path": "/a", "value": p}])):
        with pytest.raises(errors.BadRequest):
            apply({}, deep)
