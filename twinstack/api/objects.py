"""Documents and their keys.

A document is a plain ``dict`` as JSON has it, and the truth; a view (``api.kinds``) is how we look at
it. What a view does not know survives, because changes are written back into the document path by path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

Document = dict[str, Any]
View = TypeVar("View", bound=msgspec.Struct)

_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
_encode = msgspec.json.Encoder().encode


class Key(NamedTuple):
    """What an object of a known resource is found by; the namespace is empty for cluster-wide ones."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @staticmethod
    def parse(text: str) -> Key:
        namespace, _, name = text.rpartition("/")
        return Key(namespace, name)


def key_of(document: Mapping[str, Any]) -> Key:
    """The key of a document."""
    metadata = document.get("metadata") or {}
    return Key(metadata.get("namespace", ""), metadata.get("name", ""))


def view_of(view: type[View], document: Mapping[str, Any]) -> View:
    """Look at a document through a view; msgspec.ValidationError names the first field that does not fit."""
    return msgspec.convert(document, view)


def decode_view(view: type[View], data: bytes | bytearray | memoryview) -> View:
    """Look at a document's bytes through a view, without making the document."""
    decoder = _decoders.get(view)
    if decoder is None:
        decoder = _decoders[view] = msgspec.json.Decoder(view)
    result: View = decoder.decode(data)
    return result


def document_of(view: msgspec.Struct) -> Document:
    """The document that a view shows: only the fields that the view knows and that differ from their default."""
    result: Document = msgspec.to_builtins(view)
    return result


def encode(document: Any) -> bytes:
    """Compact JSON."""
    return _encode(document)


def decode(data: bytes | str) -> Any:
    """Plain Python values; msgspec.DecodeError when the bytes are not JSON."""
    return msgspec.json.decode(data)


def read(document: Mapping[str, Any], path: Iterable[str], default: Any = None) -> Any:
    """The value at a path of keys; *default* when any step is absent."""
    value: Any = document
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            return default
        value = value[step]
    return value


def write(document: Document, path: Iterable[str], value: Any) -> None:
    """Set the value at a path of keys, making parents; ``None`` removes it."""
    *parents, last = path
    place: Any = document
    for step in parents:
        if value is None and step not in place:
            return
        child = place.get(step)
        if not isinstance(child, dict):
            child = place[step] = {}
        place = child
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
