"""Fields that the schema does not know, and fields that a body names twice: let pass, told in warnings, or refused.

Theory. A decoder keeps the last of two fields of one name, so a duplicate is only seen in the bytes. Looking for one costs more than
decoding; so first the colons that follow a quote are counted, in the bytes and in what was read from them. Only when they differ, or when the
bytes are written in a way that the count cannot see through, is the body read once more by a parser that remembers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import yaml

from twinstack.api import objects
from twinstack.api.errors import BadRequest, FieldProblem, Invalid, ProblemType
from twinstack.api.objects import Document
from twinstack.api.resources import Resource
from twinstack.api.schema import Schema, prune

_MOST: Final = 100  # problems that are told
_UNCOUNTABLE: Final = re.compile(rb'\\u|"[ \t\r\n]+:')
_MERGE_TAG: Final = "tag:yaml.org,2002:merge"


class _Twice(dict[str, Any]):
    """An object that had a field more than once."""

    names: Sequence[str] = ()


def _remembering(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    result = _Twice(found)
    result.names = list(dict.fromkeys(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return result


def json_duplicates(body: bytes, value: Any) -> list[str]:
    """The paths of the fields that occur more than once in a body, which was read as *value*."""
    # Where no quote is followed by a space, the pattern has nothing to look for but an escape.
    spaced = b'" ' in body or b'"\n' in body or b'"\t' in body or b'"\r' in body
    if not (_UNCOUNTABLE.search(body) if spaced else b"\\u" in body) and body.count(b'":') == objects.encode(value).count(b'":'):
        return []
    try:
        return list(_paths(json.loads(body, object_pairs_hook=_remembering), ""))
    except (ValueError, RecursionError):
        return []  # whoever decodes it says what is wrong


def duplicates(body: bytes, document: Document, *, is_yaml: bool) -> list[str]:
    """The paths of the fields that occur more than once in a body, which was read as this document, its kind filled in."""
    if is_yaml:
        return yaml_duplicates(body)
    if b'"kind"' in body and b'"apiVersion"' in body and b'"metadata"' in body:  # nothing was filled in
        return json_duplicates(body, document)
    return json_duplicates(body, None)


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value.names if isinstance(value, _Twice) else ():
            yield f"{path}.{name}" if path else name
        for name, child in value.items():
            yield from _paths(child, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _paths(child, f"{path}[{index}]")


def yaml_duplicates(body: bytes) -> list[str]:
    """The paths of the keys that occur more than once in a YAML body."""
    try:
        node = yaml.compose(body, Loader=yaml.CSafeLoader)
        return list(_yaml_paths(node, "")) if node is not None else []
    except (yaml.YAMLError, RecursionError):
        return []


def _yaml_paths(node: yaml.Node, path: str) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            name = str(key.value)
            where = f"{path}.{name}" if path else name
            if name in seen and key.tag != _MERGE_TAG:
                yield where
            seen.add(name)
            yield from _yaml_paths(child, where)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _yaml_paths(child, f"{path}[{index}]")


def judged(
    resource: Resource,
    document: Document,
    schema: Schema | None,
    mode: str,
    duplicates: Sequence[str] = (),
    *,
    patch: bool = False,
    touched: Collection[str] | None = None,
) -> list[str]:
    """Take out the fields that the schema does not know; what to warn of. Only the *touched* ones of the document's own fields are looked at, if they are told.

    With *mode* Strict unknown and duplicate fields are BadRequest; a field of another type is whatever the mode: it cannot be read. With *patch*
    either is Invalid instead, the patch being what is wrong.
    """
    metadata = document.get("metadata")
    # Who owns what is judged where it is used; it is long, and not the writer's.
    entries = metadata.pop("managedFields", None) if isinstance(metadata, dict) else None
    found = None
    if schema is not None:
        looked_at = document if touched is None else {name: document[name] for name in touched if name in document}
        found = prune(looked_at, schema)
        if touched is not None:
            for name in touched:
                if name not in looked_at:
                    document.pop(name, None)
    if entries is not None:
        document["metadata"]["managedFields"] = entries
    if found is not None and found.mistyped:
        texts = ", ".join(f'field "{path}" must be of type {type_}' for path, type_ in found.mistyped)
        raise _refusal(resource, texts, patch=patch)
    if mode == "Ignore":
        return []
    strange = [f'duplicate field "{path}"' for path in duplicates]
    if found is not None:
        strange += [f'unknown field "{path}"' for path in found.unknown]
    del strange[_MOST:]
    if strange and mode == "Strict":
        raise _refusal(resource, f"strict decoding error: {', '.join(strange)}", patch=patch)
    return strange


def _refusal(resource: Resource, texts: str, *, patch: bool) -> BadRequest | Invalid:
    if patch:
        return Invalid(f"the patch is invalid: {texts}", problems=[FieldProblem("patch", ProblemType.INVALID, "", texts)])
    return BadRequest(f"{resource.kind} in version {resource.version!r} cannot be handled as a {resource.kind}: {texts}")
