"""What rules have taught a map, read back by netlink.

Rule of this file: it decodes exactly maps of what ``dataplane.ruleset.Update`` can teach. All else goes through the library
(``nftables``): text of 100,000 elements takes its parser seconds.

A key's fields, and the data's, lie one after the other, each on a 4-byte border. Numbers are
linux/netfilter/nf_tables.h's.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from twinstack.dataplane.ruleset import Atom, Learned, Map
from twinstack.kernel.errors import KernelError, translated
from twinstack.net.family import Family

_NETLINK_NETFILTER = 12
_GET_ELEMENTS = 10 << 8 | 13
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_TYPE = 0x3FFF
_TRIES = 5
_ANSWER_SECONDS = 10.0


class Learning:
    """An nf_tables netlink socket of the network namespace in which it was made; KernelError when there is none to be had."""

    def __init__(self) -> None:
        with translated("open nf_tables"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
            self._socket.settimeout(_ANSWER_SECONDS)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket; twice is once."""
        self._socket.close()

    def learned(self, family: Family, table: str, one: Map) -> list[Learned]:
        """The elements of a dynamic map that have not expired; KernelError (``.missing``) when there is no such map."""
        for _ in range(_TRIES):
            whole = True
            found: list[Learned] = []
            self._send(_GET_ELEMENTS, _REQUEST | _DUMP, family, _text(1, table) + _text(2, one.name))
            for flags, body in self._answers():
                whole = whole and not flags & _INTERRUPTED
                elements = next((value for kind, value in _attributes(body[4:]) if kind == 3), b"")
                found += [_element(value, family, one) for _, value in _attributes(elements)]
            if whole:
                return found
        raise KernelError(errno.EINTR, "read what was learned")

    def _send(self, kind: int, flags: int, family: Family, body: bytes) -> None:
        self._sequence += 1
        payload = struct.pack("!BBH", family.facts.socket_family, 0, 0) + body
        with translated("send to nf_tables"):
            self._socket.send(struct.pack("IHHII", 16 + len(payload), kind, flags, self._sequence, 0) + payload)

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """(flags, body) of each answer to the last request."""
        while True:
            for kind, flags, sequence, body in self._received():
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise KernelError(-struct.unpack_from("i", body)[0], "read what was learned")
                yield flags, body

    def _received(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(kind, flags, sequence, body) of what comes next."""
        with translated("read from nf_tables"):
            data = self._socket.recv(1 << 17)
        while len(data) >= 16:
            length, kind, flags, sequence, _ = struct.unpack_from("IHHII", data)
            yield kind, flags, sequence, data[16:length]
            data = data[(length + 3) & ~3 :]


def _attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, at)
        if length < 4:
            return
        yield kind & _TYPE, data[at + 4 : at + length]
        at += (length + 3) & ~3


def _element(data: bytes, family: Family, one: Map) -> Learned:
    found = dict(_attributes(data))
    key, value = (dict(_attributes(found[kind])).get(1, b"") for kind in (1, 2))
    timeout, expires = (struct.unpack("!Q", found[kind])[0] // 1000 if kind in found else 0 for kind in (4, 5))
    return Learned(tuple(_atoms(key, one.key, family)), tuple(_atoms(value, one.data, family)), max(1, timeout), max(1, expires))


def _atoms(data: bytes, selectors: Sequence[str], family: Family) -> Iterator[Atom]:
    at = 0
    for selector in selectors:
        size = family.bits // 8 if selector.endswith("addr") else 4
        piece = data[at : at + size]
        at += size
        if selector.endswith("addr"):
            yield socket.inet_ntop(family.facts.socket_family, piece)
        elif selector == "dport":
            yield struct.unpack_from("!H", piece)[0]
        elif selector == "tag":
            (number,) = struct.unpack("=I", piece)
            yield f"{number >> 16:x}:{number & 0xFFFF:x}"
        else:  # a hash, an index, a connection's number: as the processor has it
            yield struct.unpack("=I", piece)[0]
