"""Documents as their schema sees them: which fields they have, what differs between two, one laid over another.

Theory (KEP-555). The schema says what a thing that is owned is. A plain value is one; so is an *atomic* object or list,
whatever is in it. The fields of any other object are owned one by one, and so are the elements of a list of type *set* (found by
their value) or *map* (found by their keys). The functions here speak in sets of fields (``api.fields``).

An absent field and one that is null differ here: a null is a value that somebody gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from twinstack.api.errors import BadRequest
from twinstack.api.fields import SELF, Fields, field_step, keys_step, value_step
from twinstack.api.objects import Document
from twinstack.api.schema import ANYTHING, Schema

_ABSENT: Final = object()
# A key that may be left out of a list's element, because its kind says what it is then.
_KEY_DEFAULTS: Final[Mapping[str, Any]] = {"protocol": "TCP"}
# What the server alone writes; nobody owns it.
_NOBODYS: Final = frozenset(("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"))
_TYPE: Final = frozenset(("apiVersion", "kind"))


class Changes(NamedTuple):
    """What two documents differ in: fields that are new or have another value, and fields that are gone."""

    changed: Fields
    removed: Fields


def is_map(schema: Schema, value: Any) -> bool:
    """Whether the fields of this value are owned one by one."""
    return type(value) is dict and (schema.type == "object" or not schema.type) and schema.map_type != "atomic"


def is_list(schema: Schema, value: Any) -> bool:
    """Whether the elements of this value are owned one by one."""
    return type(value) is list and schema.type == "array" and (schema.list_type == "map" or schema.list_type == "set")


def step_of(element: Any, schema: Schema) -> str:
    """The step from a list to this element."""
    if schema.list_type == "set" or type(element) is not dict:
        return value_step(element)
    keys = schema.list_keys
    if len(keys) > 1:
        keys = tuple(sorted(keys))
    return keys_step({key: element[key] if key in element else _KEY_DEFAULTS[key] for key in keys if key in element or key in _KEY_DEFAULTS})


def _elements(values: list[Any], schema: Schema) -> dict[str, list[Any]]:
    """The elements by their steps; more than one for a step where there are duplicates."""
    found: dict[str, list[Any]] = {}
    for value in values:
        found.setdefault(step_of(value, schema), []).append(value)
    return found


# ---- what two documents differ in


def compare(before: Document, after: Document, schema: Schema) -> Changes:
    """What differs between two documents of a kind, without what the server alone writes."""
    changed: Fields = {}
    removed: Fields = {}
    for key, value in after.items():
        if key in _TYPE:
            continue
        old = before.get(key, _ABSENT)
        if key == "metadata":
            value = {name: child for name, child in value.items() if name not in _NOBODYS}
            old = {name: child for name, child in old.items() if name not in _NOBODYS} if old and old is not _ABSENT else {}
        if old == value:
            continue
        place = schema.at(key)
        if old is not _ABSENT:
            mine, gone = _differing(old, value, place)
        else:
            mine, gone = _whole(value, place), None
        if mine is not None:
            changed[field_step(key)] = mine
        if gone is not None:
            removed[field_step(key)] = gone
    for key, value in before.items():
        if key not in after and key not in _TYPE and key != "metadata":
            removed[field_step(key)] = _whole(value, schema.at(key))
    return Changes(changed, removed)


def _whole(value: Any, schema: Schema) -> Fields:
    """Everything of a value that is there on one side only, itself included."""
    kind = type(value)
    if kind is dict:
        if not value or schema.map_type == "atomic" or (schema.type and schema.type != "object"):
            return {}
        node: Fields = {SELF: {}}
        fields = schema.fields
        below = schema.values or ANYTHING
        for key, child in value.items():
            node["f:" + key] = _whole(child, fields.get(key) or below) if type(child) in _CONTAINERS else {}
        return node
    if kind is list and value and is_list(schema, value):
        node = {SELF: {}}
        below = schema.values or ANYTHING
        for child in value:
            step = step_of(child, schema)
            node[step] = {} if step in node else _whole(child, below)
        return node
    return {}


_CONTAINERS: Final = frozenset((dict, list))


def _differing(old: Any, new: Any, schema: Schema) -> tuple[Fields | None, Fields | None]:
    """What is new or other, and what is gone, of two values that differ; None for nothing."""
    if type(old) is dict and not old and type(new) is dict:  # of a new object: all of it is new, and the map itself was there
        whole = _whole(new, schema)
        whole.pop(SELF, None)
        return whole, None
    if is_map(schema, old if old is not None else {}) and is_map(schema, new if new is not None else {}) and (old or new):
        changed, removed = _differing_map(old or {}, new or {}, schema)
        return changed or None, removed or None
    if is_list(schema, old if old is not None else []) and is_list(schema, new if new is not None else []) and (old or new):
        changed, removed = _differing_list(old or [], new or [], schema)
        return changed or None, removed or None
    return {}, None


def _differing_map(old: Document, new: Document, schema: Schema) -> tuple[Fields, Fields]:
    changed: Fields = {}
    removed: Fields = {}
    fields, below = schema.fields, schema.values or ANYTHING
    for key, value in new.items():
        there = old.get(key, _ABSENT)
        if there is _ABSENT:  # what a new object is made of: its leaves need no call
            changed["f:" + key] = _whole(value, fields.get(key) or below) if type(value) in _CONTAINERS else {}
        elif there != value:
            mine, gone = _differing(there, value, schema.at(key))
            if mine is not None:
                changed[field_step(key)] = mine
            if gone is not None:
                removed[field_step(key)] = gone
    for key, value in old.items():
        if key not in new:
            removed[field_step(key)] = _whole(value, schema.at(key))
    return changed, removed


def _differing_list(old: list[Any], new: list[Any], schema: Schema) -> tuple[Fields, Fields]:
    changed: Fields = {}
    removed: Fields = {}
    below = schema.values or ANYTHING
    before, after = _elements(old, schema), _elements(new, schema)
    for step, values in after.items():
        there = before.get(step)
        if there is None:
            changed[step] = _whole(values[0], below) if len(values) == 1 else {}
        elif there != values:
            if len(there) > 1 or len(values) > 1:
                changed[step] = {}
                continue
            mine, gone = _differing(there[0], values[0], below)
            if mine is not None:
                changed[step] = mine
            if gone is not None:
                removed[step] = gone
    for step, values in before.items():
        if step not in after:
            removed[step] = _whole(values[0], below) if len(values) == 1 else {}
    return changed, removed


# ---- what a document has


def fields_of(value: Any, schema: Schema) -> Fields:
    """The set of the fields that a document has: its plain values and atomic parts, and each entry of a map or a list."""
    result: Fields = {}
    if is_map(schema, value):
        for key, child in value.items():
            node = _fields_below(child, schema.at(key), entry=key not in schema.fields)
            if node is not None:
                result[field_step(key)] = node
    elif is_list(schema, value):
        for child in value:
            node = _fields_below(child, schema.values or ANYTHING, entry=True)
            if node is not None:
                result[step_of(child, schema)] = node
    return result


def _fields_below(value: Any, schema: Schema, *, entry: bool) -> Fields | None:
    if is_map(schema, value):
        below = fields_of(value, schema)
        return {SELF: {}, **below} if below and entry else below if below or not value or entry else None
    if is_list(schema, value):
        below = fields_of(value, schema)
        return ({SELF: {}, **below} if below and entry else below) if below or entry else None
    return {}


def with_named(fields: Fields, schema: Schema) -> Fields:
    """The set with each field that the kind names, and below which there is a member, as a member too."""
    result: Fields = {}
    for step, node in fields.items():
        if step == SELF:
            continue
        name = step[2:]
        place = schema.at(name) if step[:2] == "f:" else schema.values or ANYTHING
        below = with_named(node, place)
        member = not node or SELF in node or (step[:2] == "f:" and name in schema.fields)
        result[step] = {SELF: {}, **below} if below and member else below
    return result


# ---- a document laid over another


def merge(live: Any, config: Any, schema: Schema) -> Any:
    """The configuration laid over what is there: its plain and atomic values win, all that it does not mention stays."""
    if config is _ABSENT:
        return live
    if live is _ABSENT or live is None:
        return config
    if is_map(schema, live) and (config is None or is_map(schema, config)) and (live or config):
        result = dict(live)
        for key, value in (config or {}).items():
            result[key] = merge(live.get(key, _ABSENT), value, schema.at(key))
        return result
    if is_list(schema, live) and (config is None or is_list(schema, config)) and (live or config):
        return _merge_lists(live, config or [], schema)
    return config


def _merge_lists(live: list[Any], config: list[Any], schema: Schema) -> list[Any]:
    """The elements of both. Those of the configuration keep its order, the others their place among what is there."""
    below = schema.values or ANYTHING
    ours = [step_of(one, schema) for one in config]
    theirs = [step_of(one, schema) for one in live]
    mine = dict(zip(ours, config, strict=True))
    present = {step: values[0] if len(values) == 1 else _ABSENT for step, values in _elements(live, schema).items()}
    shared = iter([step for step in ours if step in present])
    wanted = next(shared, None)
    result: list[Any] = []
    taken: set[str] = set()
    left = right = 0
    while left < len(theirs) or right < len(ours):
        if left < len(theirs) and right < len(ours):
            step = theirs[left]
            if step == ours[right]:
                result.append(merge(present[step], mine[step], below))
                taken.add(step)
                left, right = left + 1, right + 1
                wanted = next(shared, None)
                continue
            if step in mine and wanted is not None and wanted != step:
                left += 1  # ours too, but another of ours comes first
                continue
        if left < len(theirs):
            step = theirs[left]
            if step not in mine:
                result.append(live[left])
                left += 1
                continue
            if step in taken:
                left += 1
        if right < len(ours):
            step = ours[right]
            result.append(merge(present.get(step, _ABSENT), mine[step], below))
            taken.add(step)
            right += 1
            if step == wanted:
                wanted = next(shared, None)
    return result


def remove(value: Any, fields: Fields, schema: Schema) -> Any:
    """The value without the members of the set, and what is below them; what becomes empty by that is null."""
    if is_map(schema, value) and value:
        result = {}
        for key, child in value.items():
            node = fields.get(field_step(key))
            if node is None:
                result[key] = child
            elif node and SELF not in node:
                result[key] = remove(child, node, schema.at(key))
        return result or None
    if is_list(schema, value) and value:
        elements = []
        for child in value:
            node = fields.get(step_of(child, schema))
            if node is None:
                elements.append(child)
            elif node and SELF not in node:
                elements.append(remove(child, node, schema.values or ANYTHING))
        return elements or None
    return value


def without_nulls(value: Any) -> Any:
    """The value with every null field left out."""
    if type(value) is dict:
        return {key: without_nulls(child) if type(child) in _CONTAINERS else child for key, child in value.items() if child is not None}
    if type(value) is list:
        return [without_nulls(child) if type(child) in _CONTAINERS else child for child in value]
    return value


# ---- what may not be applied


def check_config(document: Document, schema: Schema) -> None:
    """BadRequest when a list names an element twice, or one without its keys."""
    _check_config(document, schema, "")


def _check_config(value: Any, schema: Schema, path: str) -> None:
    if type(value) is dict:
        for key, child in value.items():
            if type(child) in _CONTAINERS:
                _check_config(child, schema.at(key), f"{path}.{key}")
    elif type(value) is list:
        below = schema.values or ANYTHING
        if is_list(schema, value):
            _check_elements(value, schema, path)
        for index, child in enumerate(value):
            if type(child) in _CONTAINERS:
                _check_config(child, below, f"{path}[{index}]")


def _check_elements(values: Iterable[Any], schema: Schema, path: str) -> None:
    seen: set[str] = set()
    for value in values:
        if schema.list_type == "map" and not any(key in value or key in _KEY_DEFAULTS for key in schema.list_keys):
            raise BadRequest(f"the configuration cannot be applied: {path}: an element must have its key {', '.join(schema.list_keys)}")
        step = step_of(value, schema)
        if step in seen:
            raise BadRequest(f"the configuration cannot be applied: {path}: duplicate entries for {step[2:]}")
        seen.add(step)
