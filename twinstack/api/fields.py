"""Sets of fields, as Kubernetes writes them (FieldsV1), and their algebra.

A set is a tree. A node's keys are the steps below it: ``f:<name>`` a field of an object, ``k:<JSON>`` the element of a
list with these keys, ``v:<JSON>`` the element of a list of plain values, ``i:<n>`` the n-th element. A node without
keys is a member of the set; one with keys is a member too when it has the key ``.``. Only the root is different:
without keys it is the empty set.

Sets are values: nothing here changes one that it was given, and results may share parts with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from twinstack.api.objects import decode, encode

Fields = dict[str, Any]

SELF: Final = "."


def field_step(name: str) -> str:
    return "f:" + name


def value_step(value: Any) -> str:
    return "v:" + encode(value).decode()


def keys_step(keys: Mapping[str, Any]) -> str:
    """The step to the list element with these keys, which are given in the order of their names."""
    return "k:" + encode(keys).decode()


def of_paths(paths: Sequence[Sequence[str]]) -> Fields:
    """The set of these paths of field names."""
    result: Fields = {}
    for path in paths:
        node: Fields = {}
        for name in reversed(path):
            node = {field_step(name): node}
        result = union(result, node)
    return result


def _is_member(node: Fields) -> bool:
    return not node or SELF in node


def _node(member: bool, below: Fields) -> Fields | None:
    """A node that is a member or not, with what is below it; None when there is nothing."""
    if not member:
        return below or None
    return {SELF: {}, **below} if below else {}


def union(one: Fields, other: Fields) -> Fields:
    """What is in either set."""
    if not one:
        return other
    if not other:
        return one
    result = dict(one)
    for step, node in other.items():
        mine = result.get(step)
        result[step] = node if mine is None else _union(mine, node)
    return result


def _union(one: Fields, other: Fields) -> Fields:
    if not one:
        return other if _is_member(other) else {SELF: {}, **other}
    if not other:
        return one if SELF in one else {SELF: {}, **one}
    result = union(one, other)
    if SELF in result and next(iter(result)) != SELF:
        result = {SELF: {}, **{step: node for step, node in result.items() if step != SELF}}
    return result


def difference(one: Fields, other: Fields) -> Fields:
    """The members of the first that are not members of the other."""
    if not one or not other or one.keys().isdisjoint(other):
        return one
    result: Fields = {}
    for step, node in one.items():
        theirs = other.get(step)
        left = node if theirs is None else _difference(node, theirs)
        if left is not None:
            result[step] = left
    return result


def _difference(one: Fields, other: Fields) -> Fields | None:
    member = _is_member(one) and not _is_member(other)
    below = difference({step: node for step, node in one.items() if step != SELF}, {step: node for step, node in other.items() if step != SELF})
    return _node(member, below)


def without(one: Fields, other: Fields) -> Fields:
    """The first without the members of the other and all that is below them."""
    if not one or not other or one.keys().isdisjoint(other):
        return one
    result: Fields = {}
    for step, node in one.items():
        theirs = other.get(step)
        if theirs is None or step == SELF:
            result[step] = node
        elif not _is_member(theirs):
            left = without(node, theirs)
            if left or not node:
                result[step] = left if left.keys() != {SELF} else {}
    return result


def intersection(one: Fields, other: Fields) -> Fields:
    """The members of both."""
    result: Fields = {}
    if not one or not other:
        return result
    for step, node in one.items():
        theirs = other.get(step)
        if theirs is None or step == SELF:
            continue
        both = _node(_is_member(node) and _is_member(theirs), intersection(node, theirs))
        if both is not None:
            result[step] = both
    return result


def members(fields: Fields) -> Iterator[tuple[str, ...]]:
    """The path of each member."""
    for step, node in fields.items():
        if step == SELF:
            continue
        if _is_member(node):
            yield (step,)
        for rest in members(node):
            yield (step, *rest)


def leaves(fields: Fields) -> Fields:
    """The members that have no member below them."""
    result: Fields = {}
    for step, node in fields.items():
        if step == SELF:
            continue
        below = leaves(node)
        if below or _is_member(node):
            result[step] = below
    return result


def has(fields: Fields, path: Sequence[str]) -> bool:
    """Whether a path of steps is a member."""
    node = fields
    for step in path:
        found = node.get(step)
        if found is None:
            return False
        node = found
    return bool(path) and _is_member(node)


def text_of(path: Sequence[str]) -> str:
    """A path as people read it: ``.spec.ports[port=80,protocol="TCP"].targetPort``."""
    parts: list[str] = []
    for step in path:
        kind, rest = step[:2], step[2:]
        if kind == "k:":
            parts.append("[" + ",".join(f"{name}={encode(value).decode()}" for name, value in decode(rest).items()) + "]")
        elif kind == "v:":
            parts.append(f"[={rest}]")
        else:
            parts.append(f"[{rest}]" if kind == "i:" else f".{rest}")
    return "".join(parts)


def in_order(fields: Fields) -> Fields:
    """The same set with its steps in the order in which Kubernetes prints them."""
    return {step: in_order(node) for step, node in sorted(fields.items())} if fields else fields


def canonical(fields: Any) -> Fields | None:
    """A set that came from outside, its steps written our way; None when it is none."""
    if not isinstance(fields, dict):
        return None
    result: Fields = {}
    for step, node in fields.items():
        below = canonical(node)
        if below is None:
            return None
        kind, rest = step[:2], step[2:]
        if step == SELF or kind in ("f:", "i:"):
            result[step] = below
            continue
        if kind not in ("k:", "v:"):
            return None
        try:
            value = decode(rest)
        except ValueError:
            return None
        if kind == "k:" and not isinstance(value, dict):
            return None
        result[keys_step(dict(sorted(value.items()))) if kind == "k:" else value_step(value)] = below
    return result
