"""From Kubernetes' protobuf bodies to the documents that their JSON would be.

A body is four magic bytes and an envelope (``runtime.Unknown``): the kind, and the object's own bytes. Go writes every field that is
not a pointer, zero or not, so zeros that JSON would leave out are left out here too: a document is the same by either way.
Fields that the table does not know are skipped, as upstream skips them.
"""

from __future__ import annotations

import functools
import re
from base64 import b64encode
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from twinstack.api import objects
from twinstack.api.objects import Document
from twinstack.api.protobuf_table import TABLE
from twinstack.net.errors import Error

MAGIC: Final = b"k8s\0"
_EPOCH: Final = datetime(1970, 1, 1)
_META: Final = "meta/v1"
# what a field is, in the order in which the decoder asks
_TEXT, _MESSAGE, _LIST, _TEXTS, _MAP, _INLINE, _SPECIAL, _BOOL, _INT32, _INT64, _PACKED32, _PACKED64, _INTS32, _INTS64 = range(14)
_SCALARS: Final = {"bool": _BOOL, "int32": _INT32, "int64": _INT64}
_SPECIALS: Final = ("bytes", "Time", "MicroTime", "Quantity", "IntOrString", "JSON", "strings")


class ProtobufError(Error, ValueError):
    """The bytes are not what they claim to be."""


class _Field(NamedTuple):
    what: int
    name: str
    keeps_zero: bool
    of: Any  # the message of a message field, or how to read a special one


class _Message:
    """A message's fields by the tag that stands before them on the wire, and the wire types of each number."""

    __slots__ = ("fields", "name", "wires")

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[int, _Field] = {}
        self.wires: dict[int, set[int]] = {}

    def add(self, number: int, wire: int, field: _Field) -> None:
        self.fields[number << 3 | wire] = field
        self.wires.setdefault(number, set()).add(wire)


def decode(body: bytes, *, api_version: str = "", kind: str = "") -> Document:
    """The document in a body; of the kind expected when the envelope names none. ProtobufError when it is none."""
    if not body.startswith(MAGIC):
        raise ProtobufError("a protobuf body begins with the bytes 6b 38 73 00")
    envelope: Document = {}
    try:
        _read(body, len(MAGIC), len(body), _envelope(), envelope)
        types = envelope.get("typeMeta", {})
        api_version, kind = types.get("apiVersion") or api_version, types.get("kind") or kind
        message = message_of(api_version, kind)
        if message is None:
            raise ProtobufError(f'no kind "{kind}" is known in version "{api_version}"')
        document: Document = {"kind": kind, "apiVersion": api_version}
        raw = envelope.get("raw", b"")
        _read(raw, 0, len(raw), message, document)
    except IndexError as error:
        raise ProtobufError("the bytes end within a field") from error
    except UnicodeDecodeError as error:
        raise ProtobufError("a text is not UTF-8") from error
    return document


def message_of(api_version: str, kind: str) -> _Message | None:
    """The message of a kind; options and Status are of every version."""
    messages = _messages()
    return messages.get((api_version, kind)) or messages.get((_META, kind))


# ---- the table


@functools.cache
def _messages() -> dict[tuple[str, str], _Message]:
    """Every message by its section and name."""
    messages: dict[tuple[str, str], _Message] = {}
    rows: list[tuple[str, _Message, str]] = []
    section = ""
    for line in re.sub(r"\n +", " ", TABLE).strip().split("\n"):
        if line.startswith("["):
            section = line[1:-1]
        elif line:
            name, _, fields = line.partition(":")
            message = messages[section, name] = _Message(name)
            rows.append((section, message, fields))
    for section, message, fields in rows:
        for field in fields.split(","):
            number, _, told = field.strip().partition(" ")
            _add(messages, section, message, int(number), told)
    return messages


def _add(messages: dict[tuple[str, str], _Message], section: str, message: _Message, number: int, told: str) -> None:
    """Add the field that the table tells of as ``name:type``."""

    def named(type_: str) -> _Message:
        return messages.get((section, type_)) or messages.get(("v1", type_)) or messages[_META, type_]

    name, _, type_ = told.partition(":")
    keeps_zero = type_.endswith("!")
    type_ = type_.removesuffix("!")
    if name.startswith(">"):
        return message.add(number, 2, _Field(_INLINE, "", False, named(name[1:])))
    if type_.startswith("{"):
        return message.add(number, 2, _Field(_MAP, name, False, _entry(type_[1:-1], named)))
    if type_.startswith("["):
        inner = type_[1:-1]
        if inner in ("int32", "int64"):
            message.add(number, 0, _Field(_INTS32 if inner == "int32" else _INTS64, name, True, None))
            return message.add(number, 2, _Field(_PACKED32 if inner == "int32" else _PACKED64, name, True, None))
        return message.add(number, 2, _Field(_TEXTS, name, True, None) if inner == "string" else _Field(_LIST, name, True, named(inner)))
    if type_ == "string":
        return message.add(number, 2, _Field(_TEXT, name, keeps_zero, None))
    if type_ in _SCALARS:
        return message.add(number, 0, _Field(_SCALARS[type_], name, keeps_zero, None))
    if type_ in _SPECIALS:
        return message.add(number, 2, _Field(_SPECIAL, name, True, _READERS[type_]))
    return message.add(number, 2, _Field(_MESSAGE, name, False, named(type_)))


def _entry(type_: str, named: Any) -> _Message:
    """The message that a map's entry is: key and value."""
    entry = _Message("entry")
    entry.add(1, 2, _Field(_TEXT, "key", True, None))
    if type_ == "string":
        value = _Field(_TEXT, "value", True, None)
    else:
        value = _Field(_SPECIAL, "value", True, _READERS[type_]) if type_ in _SPECIALS else _Field(_MESSAGE, "value", False, named(type_))
    entry.add(2, 2, value)
    return entry


# ---- the wire


def _read(data: bytes, at: int, stop: int, message: _Message, into: Document) -> None:
    """Read the fields between two places into a document; IndexError when the data ends too early."""
    fields = message.fields
    while at < stop:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _varint(data, at - 1)
        field = fields.get(tag)
        if field is None:
            at = _skip(data, at, tag, message)
            continue
        what, name, keeps_zero, of = field
        number = data[at]
        at += 1
        if number > 127:
            number, at = _varint(data, at - 1)
        if what >= _BOOL:
            if what >= _PACKED32:
                at = _integers(data, at, stop, number, what, into.setdefault(name, []))
                continue
            value: Any = number != 0 if what == _BOOL else _signed(number, 32 if what == _INT32 else 64)
            if value or keeps_zero:
                into[name] = value
            else:
                into.pop(name, None)
            continue
        end = at + number
        if end > stop:
            raise ProtobufError(f"{message.name}: a field is longer than what is around it")
        if what == _TEXT:
            if number or keeps_zero:
                into[name] = data[at:end].decode()
            else:
                into.pop(name, None)
        elif what == _MESSAGE:
            child = into.get(name)
            if child is None:
                child = into[name] = {}
            _read(data, at, end, of, child)
        elif what == _LIST:
            child = {}
            _read(data, at, end, of, child)
            into.setdefault(name, []).append(child)
        elif what == _TEXTS:
            into.setdefault(name, []).append(data[at:end].decode())
        elif what == _MAP:
            entry: Document = {}
            _read(data, at, end, of, entry)
            into.setdefault(name, {})[entry.get("key", "")] = _map_value(entry, of)
        elif what == _INLINE:
            _read(data, at, end, of, into)
        else:
            value = of(data[at:end])
            if value is not None:
                into[name] = value
            else:
                into.pop(name, None)
        at = end
    if at != stop:
        raise ProtobufError(f"{message.name}: a field is longer than what is around it")


def _map_value(entry: Document, message: _Message) -> Any:
    """The value of a map's entry; one that is not there is the zero of its type."""
    if "value" in entry:
        return entry["value"]
    field = message.fields[2 << 3 | 2]
    if field.what == _MESSAGE:
        return {}
    return "" if field.what == _TEXT else field.of(b"")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, and the place after it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise ProtobufError("a number has more than 64 bits")


def _signed(number: int, bits: int) -> int:
    number &= (1 << bits) - 1
    return number - (1 << bits) if number >> (bits - 1) else number


def _integers(data: bytes, at: int, stop: int, number: int, what: int, into: list[int]) -> int:
    """Add one number, or those of a packed field whose size has been read; the place after it."""
    bits = 32 if what in (_INTS32, _PACKED32) else 64
    if what in (_INTS32, _INTS64):
        into.append(_signed(number, bits))
        return at
    end = at + number
    if end > stop:
        raise ProtobufError("a packed field is longer than what is around it")
    while at < end:
        number, at = _varint(data, at)
        into.append(_signed(number, bits))
    if at != end:
        raise ProtobufError("a packed field ends within a number")
    return end


def _skip(data: bytes, at: int, tag: int, message: _Message) -> int:
    """The place after a field that is not known; ProtobufError when it is known in another shape, or is none."""
    number, wire = tag >> 3, tag & 7
    if number < 1:
        raise ProtobufError(f"{message.name}: {number} is no field's number")
    if number in message.wires:
        raise ProtobufError(f"{message.name}: field {number} has wire type {wire}, {min(message.wires[number])} was expected")
    if wire == 0:
        return _varint(data, at)[1]
    if wire == 1:
        return at + 8
    if wire == 2:
        size, at = _varint(data, at)
        return at + size
    if wire == 5:
        return at + 4
    raise ProtobufError(f"{message.name}: field {number} has wire type {wire}, which is not used")


# ---- types that JSON shows in another form


@functools.cache
def _envelope() -> _Message:
    types = _Message("TypeMeta")
    types.add(1, 2, _Field(_TEXT, "apiVersion", False, None))
    types.add(2, 2, _Field(_TEXT, "kind", False, None))
    envelope = _Message("Unknown")
    envelope.add(1, 2, _Field(_MESSAGE, "typeMeta", False, types))
    envelope.add(2, 2, _Field(_SPECIAL, "raw", True, bytes))
    return envelope


def _small(name: str, *fields: tuple[int, int, int, str]) -> _Message:
    """A message of (number, wire type, what, name)."""
    message = _Message(name)
    for number, wire, what, field in fields:
        message.add(number, wire, _Field(what, field, True, None))
    return message


_TIMESTAMP: Final = _small("Timestamp", (1, 0, _INT64, "seconds"), (2, 0, _INT32, "nanos"))
_QUANTITY: Final = _small("Quantity", (1, 2, _TEXT, "string"))
_EITHER: Final = _small("IntOrString", (1, 0, _INT64, "type"), (2, 0, _INT32, "intVal"), (3, 2, _TEXT, "strVal"))
_ITEMS: Final = _small("strings", (1, 2, _TEXTS, "items"))


def _fields(data: bytes, message: _Message) -> Document:
    found: Document = {}
    _read(data, 0, len(data), message, found)
    return found


def _moment(data: bytes, *, micro: bool) -> datetime | None:
    """None for the zero time, which is an empty message."""
    if not data:
        return None
    found = _fields(data, _TIMESTAMP)
    try:
        return _EPOCH + timedelta(seconds=found.get("seconds", 0), microseconds=found.get("nanos", 0) // 1000 if micro else 0)
    except OverflowError as error:
        raise ProtobufError("a time is not within the years 1 to 9999") from error


def _time(data: bytes) -> str | None:
    moment = _moment(data, micro=False)
    return None if moment is None else moment.isoformat() + "Z"


def _micro_time(data: bytes) -> str | None:
    moment = _moment(data, micro=True)
    return None if moment is None else moment.isoformat(timespec="microseconds") + "Z"


def _quantity(data: bytes) -> str:
    text: str = _fields(data, _QUANTITY).get("string", "0")
    if not text:
        raise ProtobufError("a quantity is empty")
    return text


def _int_or_string(data: bytes) -> int | str:
    found = _fields(data, _EITHER)
    kind = found.get("type", 0)
    if kind not in (0, 1):
        raise ProtobufError(f"{kind} is neither of IntOrString's types")
    either: int | str = found.get("strVal", "") if kind else found.get("intVal", 0)
    return either


def _json(data: bytes) -> Any:
    """The JSON value in a message's only field (RawExtension and FieldsV1 have the same shape); None when it is empty."""
    raw = _fields(data, _envelope_of_json()).get("raw", b"")
    if not raw:
        return None
    try:
        return objects.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtobufError(f"a field that holds JSON does not: {error}") from error


@functools.cache
def _envelope_of_json() -> _Message:
    message = _Message("RawExtension")
    message.add(1, 2, _Field(_SPECIAL, "raw", True, bytes))
    return message


def _strings(data: bytes) -> list[str]:
    items: list[str] = _fields(data, _ITEMS).get("items", [])
    return items


def _bytes(data: bytes) -> str:
    return b64encode(data).decode()


_READERS: Final = {
    "bytes": _bytes,
    "Time": _time,
    "MicroTime": _micro_time,
    "Quantity": _quantity,
    "IntOrString": _int_or_string,
    "JSON": _json,
    "strings": _strings,
}
