"""Sets of fields are sets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import fields
from twinstack.api.fields import Fields

STEPS = ("f:a", "f:b", 'k:{"name":"x"}', 'v:"x"')


def nodes(below: st.SearchStrategy[Fields]) -> st.SearchStrategy[Fields]:
    def marked(node: Fields, member: bool) -> Fields:
        return {".": {}, **node} if member and node else node

    return st.builds(marked, st.dictionaries(st.sampled_from(STEPS), below, max_size=3), st.booleans())


SETS = st.dictionaries(st.sampled_from(STEPS), st.recursive(st.just({}), nodes, max_leaves=6), max_size=3)


def members(one: Fields) -> set[tuple[str, ...]]:
    return set(fields.members(one))


@given(SETS, SETS)
def test_the_algebra_is_that_of_sets(one: Fields, other: Fields) -> None:
    before = repr((one, other))
    assert members(fields.union(one, other)) == members(one) | members(other)
    assert members(fields.difference(one, other)) == members(one) - members(other)
    assert members(fields.intersection(one, other)) == members(one) & members(other)
    assert repr((one, other)) == before


@given(SETS, SETS)
def test_what_is_left_without_a_set_is_neither_in_it_nor_below_it(one: Fields, other: Fields) -> None:
    gone = members(other)
    assert members(fields.without(one, other)) == {path for path in members(one) if not any(path[:n] in gone for n in range(1, len(path) + 1))}


@given(SETS)
def test_leaves_have_nothing_below_them(one: Fields) -> None:
    every = members(one)
    assert members(fields.leaves(one)) == {path for path in every if not any(path == other[: len(path)] and path != other for other in every)}


@given(SETS)
def test_a_set_is_itself_in_any_order_and_from_outside(one: Fields) -> None:
    assert members(fields.in_order(one)) == members(one)
    assert fields.canonical(one) == one
    assert all(fields.has(one, path) for path in members(one))


@pytest.mark.parametrize(
    "path, text",
    [
        pytest.param(("f:data", "f:k"), ".data.k", id="fields"),
        pytest.param(
            ("f:spec", "f:ports", 'k:{"port":80,"protocol":"TCP"}', "f:name"), '.spec.ports[port=80,protocol="TCP"].name', id="an element by its keys"
        ),
        pytest.param(("f:metadata", "f:finalizers", 'v:"example.com/a"'), '.metadata.finalizers[="example.com/a"]', id="an element by its value"),
        pytest.param(("f:a", "i:3"), ".a[3]", id="an element by its place"),
    ],
)
def test_a_path_as_people_read_it(path: tuple[str, ...], text: str) -> None:
    assert fields.text_of(path) == text


@pytest.mark.parametrize("value", [None, 3, [], {"f:a": 1}, {"a": {}}, {"k:x": {}}, {"k:3": {}}, {"v:": {}}])
def test_what_is_no_set_is_none(value: Any) -> None:
    assert fields.canonical(value) is None


def test_keys_are_written_in_one_way_whoever_wrote_them() -> None:
    assert fields.canonical({'k:{"protocol": "TCP", "port": 80}': {}}) == {'k:{"port":80,"protocol":"TCP"}': {}}
