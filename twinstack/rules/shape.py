"""The shape of a document at rest: nothing that says nothing.

A field that is ``null`` is a field that was not sent, and a plain field that holds its type's zero is left out, as
Kubernetes' own encoder leaves it out; so two documents that mean the same are equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def drop_nulls(value: Any) -> None:
    """Remove every mapping entry that is null, at any depth, in place."""
    if isinstance(value, dict):
        for key in [key for key, item in value.items() if item is None]:
            del value[key]
        for item in value.values():
            if isinstance(item, (dict, list)):
                drop_nulls(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                drop_nulls(item)


def drop_zeros(mapping: dict[str, Any], fields: Iterable[str]) -> None:
    """Remove those of these fields that hold an empty text, list or mapping, 0 or false, in place."""
    for field in fields:
        if field in mapping and not mapping[field] and mapping[field] is not None:
            del mapping[field]


def part(mapping: dict[str, Any], field: str) -> dict[str, Any]:
    """The mapping in this field, made when it is absent."""
    found = mapping.get(field)
    if not isinstance(found, dict):
        found = mapping[field] = {}
    return found


def default(mapping: dict[str, Any], field: str, value: Any) -> None:
    """Set the field when it is absent or empty."""
    if mapping.get(field) in (None, ""):
        mapping[field] = value


def default_conditions(status: dict[str, Any], times: Iterable[str]) -> None:
    """A condition always shows its times, as null where they are not known."""
    for condition in status.get("conditions") or ():
        for field in times:
            condition.setdefault(field, None)
