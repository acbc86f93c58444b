"""DNS on the wire: names, questions and answers as bytes (RFC 1035 4, RFC 6891).

Rule of this file: bytes in, values out, and back; it knows no zone. What every query has (one question, perhaps an OPT
record) is read here by hand, because it is read fifteen thousand times a second; all else is dnspython's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16
IN = 1
NAME_BYTES, LABEL_BYTES = 255, 63
QUESTION_AT = 12  # where the question begins; the owner of most records of an answer points to it
OWNER_IS_QUESTION = b"\xc0\x0c"
PLAIN_UDP_BYTES = 512  # without EDNS
STREAM_BYTES = 65535
_OPT_HEAD = b"\0\0\x29"
_ADDRESS_TYPES = frozenset(family.facts.dns_type for family in FAMILIES)
_NAME_TYPES = frozenset(("CNAME", "NS", "PTR"))


class Query(NamedTuple):
    """What is asked. ``question`` is as it came, ``name`` in lower case; both as bytes."""

    head: bytes  # the first four bytes: number and flags
    question: bytes
    name: bytes
    type: int
    klass: int
    edns: int = -1  # the size that an OPT record offers; -1: there is none
    version: int = 0  # of EDNS
    dnssec_ok: bool = False

    @property
    def limit(self) -> int:
        """The most bytes of an answer by UDP."""
        return max(self.edns, PLAIN_UDP_BYTES)


class Refusal(NamedTuple):
    """A message that is no query of ours, and the response code that says so."""

    head: bytes
    code: int
    question: bytes = b""


class Answer:
    """The sections of an answer, ready to be sent. A set of several addresses begins with another each time."""

    __slots__ = ("additional", "answers", "authority", "code", "counts", "counts_with_opt", "tail", "turn", "whole")

    def __init__(
        self, code: int = NOERROR, answers: Sequence[bytes] = (), authority: Sequence[bytes] = (), additional: Sequence[bytes] = (), *, turns: bool = False
    ) -> None:
        self.code = code
        self.answers, self.authority, self.additional = tuple(answers), tuple(authority), tuple(additional)
        self.counts = struct.pack("!HHH", len(answers), len(authority), len(additional))
        self.counts_with_opt = struct.pack("!HHH", len(answers), len(authority), len(additional) + 1)
        self.tail = b"".join((*self.authority, *self.additional))
        self.whole = b"".join((*self.answers, self.tail))
        self.turn = 0 if turns and len(answers) > 1 else -1  # -1: always in the same order

    def body(self) -> bytes:
        """All sections."""
        return self.whole if self.turn < 0 else b"".join((*self.turned(), self.tail))

    def turned(self) -> Sequence[bytes]:
        """The records of the answer, another one first than the last time."""
        if self.turn < 0:
            return self.answers
        self.turn = turn = (self.turn + 1) % len(self.answers)
        return (*self.answers[turn:], *self.answers[:turn])


def read(data: bytes) -> Query | Refusal | None:
    """The query in a message; None for what deserves no answer: no header, or an answer itself."""
    if len(data) < QUESTION_AT or data[2] & 0x80:
        return None
    head = data[:4]
    if (data[2] >> 3) & 0xF:
        return Refusal(head, NOTIMP)
    end = end_of_name(data, QUESTION_AT)
    if end < 0 or len(data) < end + 4 or data[4:6] != b"\0\1":
        return Refusal(head, FORMERR)
    question = data[QUESTION_AT : end + 4]
    type_, klass = struct.unpack_from("!HH", data, end)
    query = Query(head, question, data[QUESTION_AT:end].lower(), type_, klass)
    if data[6:12] == b"\0\0\0\0\0\0" and len(data) == end + 4:
        return query
    if data[6:12] == b"\0\0\0\0\0\1" and data[end + 4 : end + 7] == _OPT_HEAD and len(data) >= end + 15:
        size, _, version, flags, length = struct.unpack_from("!HBBHH", data, end + 7)
        if len(data) == end + 15 + length:
            return query._replace(edns=size, version=version, dnssec_ok=bool(flags & 0x8000))
    return _read_unusual(query, data)


def _read_unusual(query: Query, data: bytes) -> Query | Refusal:
    """A query with more than a question and an OPT record, as dnspython reads it."""
    try:
        message = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError, struct.error):
        return Refusal(query.head, FORMERR, query.question)
    if message.edns < 0:
        return query
    return query._replace(edns=message.payload, version=message.edns, dnssec_ok=bool(message.ednsflags & dns.flags.DO))


def end_of_name(data: bytes, at: int) -> int:
    """Where the name that begins at *at* has ended; -1 when it is no uncompressed name."""
    start, size = at, len(data)
    while at < size:
        length = data[at]
        at += length + 1
        if not length:
            return at if at - start <= NAME_BYTES else -1
        if length > LABEL_BYTES:
            return -1
    return -1


def opt(size: int, *, dnssec_ok: bool = False, extended: int = 0) -> bytes:
    """An OPT record that offers *size* bytes; *extended* are the upper bits of the response code."""
    return _OPT_HEAD + struct.pack("!HBBHH", size, extended, 0, 0x8000 if dnssec_ok else 0, 0)


def head_of(query_head: bytes, *, code: int, authoritative: bool, recursion: bool, truncated: bool = False) -> bytes:
    """Number and flags of the answer to a query; RD and CD are the query's (RFC 1035 4.1.1, RFC 4035 3.2.2)."""
    first = 0x80 | (query_head[2] & 0x79) | (0x04 if authoritative else 0) | (0x02 if truncated else 0)
    second = (0x80 if recursion else 0) | (query_head[3] & 0x10) | (code & 0xF)
    return query_head[:2] + bytes((first, second))


def record(owner: bytes, type_: int, ttl: int, data: bytes) -> bytes:
    """A resource record of the class IN."""
    return owner + struct.pack("!HHIH", type_, IN, ttl, len(data)) + data


def name_of(text: str) -> bytes:
    """An absolute name of plain ASCII labels as bytes in lower case; ValueError when it cannot be one."""
    parts = []
    for label in text.rstrip(".").split(".") if text != "." else ():
        data = label.encode("ascii").lower()
        if not 0 < len(data) <= LABEL_BYTES:
            raise ValueError(f"{text!r} has a label of {len(data)} bytes")
        parts.append(bytes((len(data),)) + data)
    parts.append(b"\0")
    whole = b"".join(parts)
    if len(whole) > NAME_BYTES:
        raise ValueError(f"{text!r} is longer than a name may be")
    return whole


def text_of(name: bytes) -> str:
    """A name as text, with a dot at its end."""
    return dns.name.from_wire(name, 0)[0].to_text()


def labels_of(name: bytes) -> list[bytes]:
    """The labels of a name, without the root's."""
    found, at = [], 0
    while length := name[at]:
        found.append(name[at + 1 : at + 1 + length])
        at += length + 1
    return found


@lru_cache(maxsize=64)
def type_of(text: str) -> int:
    """The number of a record type."""
    return int(dns.rdatatype.from_text(text))


@lru_cache(maxsize=256)
def type_text(number: int) -> str:
    """The name of a record type; ``TYPE123`` where there is none."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))


def data_of(type_text: str, text: str) -> bytes:
    """A record's data from its text, names in it uncompressed (RFC 3597 4); ValueError when it cannot be one.

    What Services have is written here, as it is written ten thousand times for a large one; all else by dnspython.
    """
    try:
        if type_text in _ADDRESS_TYPES:
            return parse_address(text).packed
        if type_text in _NAME_TYPES:
            return name_of(text)
        if type_text == "SRV":
            priority, weight, port, target = text.split(" ")
            return struct.pack("!HHH", int(priority), int(weight), int(port)) + name_of(target)
        return dns.rdata.from_text(dns.rdataclass.IN, type_text, text).to_wire() or b""
    except (struct.error, dns.exception.DNSException) as error:
        raise ValueError(f"{type_text} {text!r}: {error}") from error
