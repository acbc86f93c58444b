"""The three ways to say a change: JSON patch, merge patch, strategic merge patch.

Each takes a document and a patch and gives a new document that shares nothing with either; neither is touched.
Whatever JSON comes in, a document or one of our own errors comes out.

Theory of the strategic one. A patch looks like the document, and the schema says how lists are joined: a list with a
merge key is a map in disguise, whose elements are patched one by one; a list of plain values with strategy
``merge`` is a set; any other list is replaced. Words that begin with a dollar sign are orders to the server:

==============================  ====================================================================================
``$patch: replace``             in a map: the rest of the patch is the new value; in a list: so are its other elements
``$patch: delete``              in a map: nothing is left of it; in an element of a list: that element goes
``$patch: merge``               what happens anyway
``$retainKeys: [..]``           the fields of the old value that are not named go
``$deleteFromPrimitiveList/f``  these plain values go from the list ``f``
``$setElementOrder/f``          the order of ``f`` afterwards; what it does not name keeps its place among the others
==============================  ====================================================================================

Two writers depend on the last rows (spec/node.md 3.3, 3.5): a node has two addresses of one type, so that the merge key
``type`` cannot tell them apart and the kubelet sends ``$patch: replace``; and a pod's first address must stay first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import jsonpatch
import jsonpointer

from twinstack.api import errors
from twinstack.api.objects import Document
from twinstack.api.schema import ANYTHING, Schema

MAX_OPERATIONS: Final = 10_000
MAX_COPIED: Final = 300_000  # values that the copies of one JSON patch may make; about what a request body may hold

_REJECTED: Final = "the server rejected our request due to an error in our request: "
_DIRECTIVE: Final = "$patch"
_RETAIN: Final = "$retainKeys"
_DELETE_FROM: Final = "$deleteFromPrimitiveList/"
_ORDER: Final = "$setElementOrder/"
_ODD_INDEX: Final = re.compile(r"/(?:[-+][0-9]|0[0-9])")
_INDEX: Final = re.compile(r"[-+]?[0-9]{1,9}\Z")


def copy_of(value: Any) -> Any:
    """A JSON value that shares nothing changeable with this one."""
    kind = type(value)
    if kind is dict:
        return {key: copy_of(child) if type(child) in _CONTAINERS else child for key, child in value.items()}
    if kind is list:
        return [copy_of(child) if type(child) in _CONTAINERS else child for child in value]
    return value


_CONTAINERS: Final = frozenset((dict, list))


@contextmanager
def _depth_is_theirs() -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise errors.BadRequest("the patch, or the object after it, is nested too deeply") from error


# ---- JSON patch (RFC 6902)


def json_patch(document: Document, patch: Any) -> Document:
    """Apply a list of operations, all or none.

    BadRequest when it is no JSON patch; Invalid (422) when an operation does not fit the document;
    RequestEntityTooLarge when it has too many operations or copies too much.
    """
    operations = _operations(patch)
    with _depth_is_theirs():
        result: Any = copy_of(document)
        copied = 0
        for index, (operation, apply) in enumerate(operations):
            try:
                if any(_ODD_INDEX.search(operation.get(field, "")) for field in ("path", "from")):
                    operation, apply = _operation({**operation, **_plain_indices(result, operation)})
                if operation["op"] == "copy":
                    found = _field(result, operation["from"])
                    copied += _size(found)
                    if copied > MAX_COPIED:
                        raise errors.RequestEntityTooLarge(f"the copies of this JSON patch make more than {MAX_COPIED} values")
                    if found is None:  # a copy of what is not there is null
                        operation, apply = _operation({"op": "add", "path": operation["path"], "value": None})
                elif operation["op"] == "test":
                    _test(result, operation)
                    continue
                elif operation["op"] == "replace" and _is_set(result, operation):
                    continue
                result = apply(result)
            except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, LookupError, TypeError, ValueError, AttributeError) as error:
                # The library lets the errors of Python's own containers through, where a pointer leads into a text or a number.
                words = str(error) or "it does not fit the object"
                raise errors.Invalid(f"{_REJECTED}operation {index} of the JSON patch: {words}") from error
    if not isinstance(result, dict):
        raise errors.Invalid("the JSON patch leaves no object")
    return result


_Operation = tuple[Mapping[str, Any], Callable[[Any], Any]]


def _operations(patch: Any) -> list[_Operation]:
    if not isinstance(patch, list):
        raise errors.BadRequest("a JSON patch is a list of operations")
    if len(patch) > MAX_OPERATIONS:
        raise errors.RequestEntityTooLarge(f"a JSON patch has at most {MAX_OPERATIONS} operations, this one {len(patch)}")
    result: list[_Operation] = []
    for index, given in enumerate(patch):
        if not isinstance(given, dict):
            raise errors.BadRequest(f"operation {index} of the JSON patch is no object")
        name = given.get("op")
        cls = jsonpatch.JsonPatch.operations.get(name) if isinstance(name, str) else None
        if cls is None:
            raise errors.Invalid(f"{_REJECTED}operation {index} of the JSON patch: op must be one of add, copy, move, remove, replace, test")
        needed = ("path", "from") if name in ("copy", "move") else ("path",)
        for field in needed:
            if not isinstance(given.get(field), str):
                raise errors.Invalid(f"{_REJECTED}operation {index} of the JSON patch: {field} must be a JSON pointer")
        if given.get("from") == "" and "from" in needed:
            raise errors.Invalid(f"{_REJECTED}operation {index} of the JSON patch: the whole object cannot be copied or moved into itself")
        if given["path"] == "" and name not in ("replace", "test"):
            raise errors.Invalid(f"{_REJECTED}operation {index} of the JSON patch: the whole object can only be replaced or tested")
        if name in ("add", "replace", "test") and "value" not in given:
            given = {**given, "value": None}  # as Kubernetes reads it
        try:
            with _depth_is_theirs():
                result.append(_operation(given))
        except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
            raise errors.Invalid(f"{_REJECTED}operation {index} of the JSON patch: {error}") from error
    return result


def _operation(given: Mapping[str, Any]) -> _Operation:
    return given, jsonpatch.JsonPatch.operations[given["op"]](copy_of(given)).apply


def _field(document: Any, path: str) -> Any:
    """What a pointer leads to; None where an object has no such field."""
    pointer = jsonpointer.JsonPointer(path)
    place, field = pointer.to_last(document)
    return None if isinstance(place, dict) and field not in place else pointer.resolve(document)


def _plain_indices(document: Any, operation: Mapping[str, Any]) -> Mapping[str, str]:
    """The operation's pointers without the indices that Kubernetes knows and RFC 6901 does not: -1 is the last element, 01 and +1 are 1."""
    plain: dict[str, str] = {}
    for field in ("path", "from"):
        steps = operation[field].split("/") if field in operation else []
        place = document
        for at, step in enumerate(steps[1:], 1):
            if isinstance(place, list) and _INDEX.match(step):
                number = int(step)
                length = len(place) + (operation["op"] == "add" and at == len(steps) - 1)
                steps[at] = str(number + length if number < 0 <= number + length else number)
            inner = steps[at].replace("~1", "/").replace("~0", "~")
            if isinstance(place, list):
                place = place[int(inner)] if inner.isdigit() and int(inner) < len(place) else None
            else:
                place = place.get(inner) if isinstance(place, dict) else None
        if steps:
            plain[field] = "/".join(steps)
    return plain


def _is_set(document: Any, operation: Mapping[str, Any]) -> bool:
    """Replace a field of an object, whether it was there or not, as Kubernetes does; False when it is no such place."""
    place, field = jsonpointer.JsonPointer(operation["path"]).to_last(document)
    if field is None or not isinstance(place, dict):
        return False
    place[field] = copy_of(operation["value"])
    return True


def _test(document: Any, operation: Mapping[str, Any]) -> None:
    pointer = jsonpointer.JsonPointer(operation["path"])
    place, field = pointer.to_last(document)
    if operation["value"] is None and isinstance(place, dict) and field not in place:
        return  # null stands for what is not there
    found = pointer.resolve(document)
    if not _same(found, operation["value"]):
        raise jsonpatch.JsonPatchTestFailed(f"the value at {operation['path']!r} is not the tested one")


def _same(one: Any, other: Any) -> bool:
    """Whether two values are one JSON value: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_size, value))
    return 1 + (len(value) // 64 if isinstance(value, str) else 0)


# ---- merge patch (RFC 7396)


def merge_patch(document: Document, patch: Any, *, own: bool = False) -> Document:
    """Lay a document over another: null removes, objects are laid over, anything else replaces. BadRequest when it is no object.

    With *own* the document is the caller's own copy, and becomes the result.
    """
    if not isinstance(patch, dict):
        raise errors.BadRequest("a merge patch is an object")
    with _depth_is_theirs():
        result: Document = document if own else copy_of(document)
        _lay_over(result, patch)
    return result


def _lay_over(place: Document, patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if value is None:
            place.pop(key, None)
        elif type(value) is dict:
            below = place.get(key)
            if type(below) is not dict:
                below = place[key] = {}
            _lay_over(below, value)
        else:
            place[key] = copy_of(value)


# ---- strategic merge patch


def strategic_merge_patch(document: Document, patch: Any, schema: Schema, *, own: bool = False) -> Document:
    """Lay a patch over a document as the kind's schema says. *own* as for a merge patch.

    BadRequest when an order in it cannot be followed; Invalid when it sets what it does not retain.
    """
    if not isinstance(patch, dict):
        raise errors.BadRequest("a strategic merge patch is an object")
    with _depth_is_theirs():
        return _merge_map(document if own else copy_of(document), patch, schema, "")


def _merge_map(place: Document, patch: Mapping[str, Any], schema: Schema, path: str) -> Document:
    """*place* with the patch laid over; *place* is ours to change."""
    order = patch.get(_DIRECTIVE)
    if order == "replace" or "replace" in schema.strategies:
        place = {}
    elif order == "delete":
        return {}
    elif order is not None and order != "merge":
        raise errors.BadRequest(f"{_at(path)}$patch is replace, delete or merge, not {order!r}")
    if _RETAIN in patch:
        _retain(place, patch, path)
    for key, value in patch.items():
        if key[:1] == "$" and _is_order(key):
            continue
        if value is None:
            place.pop(key, None)
            continue
        below = schema.at(key)
        where = f"{path}.{key}" if path else key
        present = place.get(key)
        if type(value) is dict:
            place[key] = _merge_map(present if type(present) is dict else {}, value, below, where)
        elif type(value) is list:
            place[key] = _merge_list(present if type(present) is list else [], value, below, patch.get(_ORDER + key), where)
        else:
            place[key] = value
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            _delete_from(place, key[len(_DELETE_FROM) :], value, path)
        elif key.startswith(_ORDER):
            name = key[len(_ORDER) :]
            if type(patch.get(name)) is not list and type(place.get(name)) is list:
                below = schema.at(name)
                before = place[name]
                where = f"{path}.{name}" if path else name
                place[name] = _in_order(before, _order_list(value, below, where), before, below.merge_key)
    return place


def _is_order(key: str) -> bool:
    return key in (_DIRECTIVE, _RETAIN) or key.startswith((_DELETE_FROM, _ORDER))


def _at(path: str) -> str:
    return f"{path}: " if path else ""


def _retain(place: Document, patch: Mapping[str, Any], path: str) -> None:
    keys = patch[_RETAIN]
    if type(keys) is not list or not all(isinstance(key, str) for key in keys):
        raise errors.BadRequest(f"{_at(path)}$retainKeys is a list of field names")
    missing = [key for key, value in patch.items() if not _is_order(key) and value is not None and key not in keys]
    if missing:
        raise errors.Invalid(f"{_REJECTED}{_at(path)}$retainKeys must name every field that the patch sets; it lacks {', '.join(missing)}")
    for key in [key for key in place if key not in keys]:
        del place[key]


def _delete_from(place: Document, name: str, values: Any, path: str) -> None:
    if type(values) is not list:
        raise errors.BadRequest(f"{_at(path)}{_DELETE_FROM}{name} is a list of values")
    present = place.get(name)
    if type(present) is list:
        gone = set(map(_hashable, values))
        place[name] = [one for one in present if _hashable(one) not in gone]


def _merge_list(present: list[Any], patch: list[Any], schema: Schema, order: Any, path: str) -> list[Any]:
    """The list afterwards; *present* is ours to change."""
    if "merge" not in schema.strategies:
        return [_without_orders(value) for value in patch]
    key = schema.merge_key
    if not key:
        if any(type(one) in _CONTAINERS for one in (*patch, *present)):
            raise errors.BadRequest(f"{_at(path)}lists of objects without a merge key cannot be merged")
        merged = list({_hashable(one): one for one in (*patch, *present)}.values())
        return _in_order(merged, patch if order is None else _order_list(order, schema, path), present, "")

    wanted, doomed, replace = _sorted_out(patch, key, path)
    if order is not None:
        order = _order_list(order, schema, path)
        _check_order(wanted, order, key, path)
    if replace:
        return [_without_orders(one) for one in wanted]
    merged = [one for one in present if not (type(one) is dict and _hashable(one.get(key)) in doomed)] if doomed else list(present)
    elements = schema.values or ANYTHING
    at = {_hashable(one.get(key)): index for index, one in reversed(list(enumerate(merged))) if type(one) is dict}
    for one in wanted:
        value = _hashable(one[key])
        index = at.get(value)
        if index is None:
            at[value] = len(merged)
            merged.append(_merge_map({}, one, elements, path))
        else:
            merged[index] = _merge_map(merged[index], one, elements, f"{path}[{key}={one[key]}]")
    return _in_order(merged, wanted if order is None else order, present, key)


def _sorted_out(patch: Sequence[Any], key: str, path: str) -> tuple[list[Document], set[Any], bool]:
    """The elements to merge, the keys of those to delete, and whether the list is replaced."""
    wanted: list[Document] = []
    doomed: set[Any] = set()
    replace = False
    for one in patch:
        if type(one) is not dict:
            raise errors.BadRequest(f"{_at(path)}every element must be an object with the merge key {key}")
        order = one.get(_DIRECTIVE)
        if order == "replace":
            replace = True
            continue
        if order not in (None, "delete", "merge"):
            raise errors.BadRequest(f"{_at(path)}$patch is replace, delete or merge, not {order!r}")
        if one.get(key) is None:
            raise errors.BadRequest(f"{_at(path)}an element does not contain declared merge key: {key}")
        if order == "delete":
            doomed.add(_hashable(one[key]))
        else:
            wanted.append(one)
    return wanted, doomed, replace


def _order_list(order: Any, schema: Schema, path: str) -> list[Any]:
    key = schema.merge_key
    if type(order) is not list:
        raise errors.BadRequest(f"{_at(path)}{_ORDER}… is a list")
    if key and not all(type(one) is dict and key in one for one in order):
        raise errors.BadRequest(f"{_at(path)}every element of {_ORDER}… must contain the merge key {key}")
    return order


def _check_order(wanted: Sequence[Document], order: Sequence[Document], key: str, path: str) -> None:
    """The elements of the patch must stand in the order that it asks for."""
    rest = iter(_hashable(one[key]) for one in order)
    for one in wanted:
        value = _hashable(one[key])
        if value not in rest:  # takes from the iterator up to the match
            raise errors.BadRequest(f"{_at(path)}the elements of the patch do not follow {_ORDER}…: {key} {one[key]}")


def _in_order(merged: list[Any], order: Sequence[Any], before: Sequence[Any], key: str) -> list[Any]:
    """*merged* with the elements that *order* names in its order.

    The others keep their order of *before*: each goes in front of the first named one that it stood in front of,
    as far as the named order allows.
    """
    rank = _ranks(order, key)
    identities = [_identity(one, key) for one in merged]
    named = sorted((index for index, one in enumerate(identities) if one in rank), key=lambda index: rank[identities[index]])
    if len(named) == len(merged):
        return [merged[index] for index in named]
    place = _ranks(before, key)
    others = sorted((index for index, one in enumerate(identities) if one not in rank), key=lambda index: place.get(identities[index], len(place)))
    result: list[Any] = []
    waiting = iter(named)
    ahead = next(waiting, None)
    for index in others:
        mine = place.get(identities[index])
        while ahead is not None:
            theirs = place.get(identities[ahead])
            if mine is not None and theirs is not None and mine < theirs:
                break
            result.append(merged[ahead])
            ahead = next(waiting, None)
        result.append(merged[index])
    if ahead is not None:
        result.append(merged[ahead])
    result.extend(merged[index] for index in waiting)
    return result


def _ranks(values: Sequence[Any], key: str) -> dict[Any, int]:
    ranks: dict[Any, int] = {}
    for index, one in enumerate(values):
        ranks.setdefault(_identity(one, key), index)
    return ranks


def _identity(one: Any, key: str) -> Any:
    return _hashable(one.get(key) if key and type(one) is dict else one)


def _hashable(value: Any) -> Any:
    """Something to find a value by, the same for the same JSON value only."""
    if isinstance(value, bool):
        return ("bool", value)
    if type(value) is dict:
        return ("dict", frozenset((key, _hashable(child)) for key, child in value.items()))
    if type(value) is list:
        return ("list", tuple(map(_hashable, value)))
    return value


def _without_orders(value: Any) -> Any:
    """A value that is taken whole: the orders in it have nothing to act on, and null stands for absent."""
    if type(value) is dict:
        return {key: _without_orders(child) for key, child in value.items() if child is not None and not _is_order(key)}
    if type(value) is list:
        return [_without_orders(child) for child in value]
    return value
