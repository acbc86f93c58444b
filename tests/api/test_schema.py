"""Schemas: made from definitions on demand, and held against documents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.objects import decode, encode
from twinstack.api.schema import Schemas, examine, prune, unknown_fields

DEFINITIONS: dict[str, dict[str, Any]] = {
    "Tree": {
        "type": ["object", "null"],
        "properties": {
            "name": {"type": ["string", "null"]},
            "size": {"type": "integer"},
            "share": {"type": "number"},
            "port": {"$ref": "#/$defs/io.k8s.apimachinery.pkg.util.intstr.IntOrString"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "raw": {"type": "object"},
            "any": {},
            "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        },
    },
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
}
TREE = Schemas(DEFINITIONS.__getitem__).get("Tree")


def test_a_type_may_contain_itself() -> None:
    children = TREE.at("children")
    assert children.values is not None
    assert children.values.fields is TREE.fields
    assert (children.list_type, children.list_keys) == ("map", ("name",))


@pytest.mark.parametrize(
    "document, unknown, mistyped",
    [
        pytest.param({"name": "a", "children": [{"name": "b"}]}, [], [], id="all is known"),
        pytest.param({"colour": 1, "children": [{}, {"age": 2}]}, ["colour", "children[1].age"], [], id="unknown fields, by path"),
        pytest.param({"labels": {"a": "b", "c": 1}}, [], [("labels.c", "string")], id="any label may stand, but as a text"),
        pytest.param({"raw": {"x": {"y": 1}}, "any": [1, {"z": 2}]}, [], [], id="open places take anything"),
        pytest.param({"port": 80}, [], [], id="a number where either may stand"),
        pytest.param({"port": "http"}, [], [], id="a text where either may stand"),
        pytest.param({"port": True}, [], [("port", "int-or-string")], id="but no truth"),
        pytest.param({"size": True, "name": 3}, [], [("size", "integer"), ("name", "string")], id="values of another type"),
        pytest.param({"size": 3.0, "share": 3}, [], [], id="a whole number is an integer and a number"),
        pytest.param({"size": 3.5}, [], [("size", "integer")], id="half a number is no integer"),
        pytest.param({"name": None, "children": None, "colour": None}, ["colour"], [], id="null is absent, but its field must be known"),
        pytest.param({"children": {"name": "b"}}, [], [("children", "array")], id="an object is no list"),
        pytest.param({"children": ["b"]}, [], [("children[0]", "object")], id="a text is no object"),
    ],
)
def test_what_a_schema_does_not_know_is_found(document: dict[str, Any], unknown: list[str], mistyped: list[tuple[str, str]]) -> None:
    assert examine(document, TREE) == (unknown, mistyped)
    assert unknown_fields(document, TREE) == unknown
    pruned = decode(encode(document))
    assert prune(pruned, TREE) == (unknown, mistyped)
    assert examine(pruned, TREE) == ([], mistyped)
    assert unknown or pruned == document


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(TREE.fields)), inner),
    )
)
def test_any_value_can_be_examined(value: Any) -> None:
    findings = examine({"any": value, "children": value, "raw": value}, TREE)
    assert all(path.startswith("children") or path == "raw" for path, _ in findings.mistyped)


def test_decoding_makes_zeros_of_nulls_in_lists_and_maps() -> None:
    document: dict[str, Any] = {"labels": {"a": None, "b": "c"}, "children": [None, {"name": None}], "name": None}
    assert examine(decode(encode(document)), TREE).mistyped == [("children[0]", "object")]
    assert prune(document, TREE) == ([], [])
    assert document == {"labels": {"a": "", "b": "c"}, "children": [{}, {"name": None}], "name": None}
