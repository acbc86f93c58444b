"""Rules that teach a map, and what they have taught it: the two things of nftables that its library cannot do.

Rule of this file: it encodes exactly the rules that ``dataplane.ruleset.Update`` can say, and decodes exactly maps of
addresses, protocols and ports. All else goes through the library (``nftables``).

Theory. ``update @map { key : data }`` makes libnftables before 1.0.7 end the process by an assertion (netlink_linearize.c:
it reserves 16 bytes of registers for the key, whatever its length), and the key of two long addresses has 40. The nft
program is the same code. The kernel has 64 bytes of registers and takes key and data of both families, and even
that library lists such a rule without harm. So it is written here, as nf_tables netlink messages: a second transaction
right after the one in which the library made the map and the chain. Between the two, nobody is remembered.

What was learned is read here, too: a dump of binary elements, of which 100,000 take the library's parser seconds.

Registers: the key's fields lie one after the other from the first 4-byte register, each on a 4-byte border; the
data's follow. Numbers are linux/netfilter/nf_tables.h's.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import Atom, Learned, Map, Match, Rule, Update
from twinstack.kernel.errors import KernelError, translated
from twinstack.net.family import FAMILIES, Family

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END, _NEW_RULE, _GET_ELEMENTS = 16, 17, _SUBSYSTEM | 6, _SUBSYSTEM | 13
_REQUEST, _ACK, _DUMP, _CREATE, _APPEND, _INTERRUPTED = 0x1, 0x4, 0x300, 0x400, 0x800, 0x10
_ERROR, _DONE = 2, 3
_NESTED, _TYPE = 0x8000, 0x3FFF
_FIRST_REGISTER, _REGISTERS = 8, 16
_UPDATE = 1
_L4PROTO, _CT_PROTO_DST = 16, 12
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_PROTOCOLS: Mapping[str, int] = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_RULE = re.compile(r"add rule (\S+) (\S+) (\S+) (.*)")
_TRIES = 5
_ANSWER_SECONDS = 10.0

Teaching = tuple[Family, str, str, Rule]  # family, table, chain, rule


def split(script: str) -> tuple[str, list[Teaching]]:
    """A script without its rules that teach, and those."""
    if " update @" not in script:
        return script, []
    lines, teaching = [], []
    for line in script.splitlines(keepends=True):
        found = _RULE.fullmatch(line.rstrip("\n")) if " update @" in line[:1000] else None
        if found:
            family = next(family for family in FAMILIES if family.facts.nft_family == found[1])
            teaching.append((family, found[2], found[3], text.parse_rule(found[4], family)))
        else:
            lines.append(line)
    return "".join(lines), teaching


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

    def teach(self, teaching: Sequence[Teaching]) -> None:
        """Append these rules to their chains, all or none; KernelError when the kernel refuses one."""
        begin = self._sequence + 1
        messages = [self._message(_BATCH_BEGIN, _REQUEST, 0, b"", resource=10)]
        for family, table, chain, rule in teaching:
            body = _text(1, table) + _text(2, chain) + _nested(4, *_expressions(rule, family))
            messages.append(self._message(_NEW_RULE, _REQUEST | _CREATE | _APPEND | _ACK, family.facts.socket_family, body))
        messages.append(self._message(_BATCH_END, _REQUEST, 0, b"", resource=10))
        with translated("send to nf_tables"):
            self._socket.send(b"".join(messages))
        awaited = set(range(begin + 1, begin + 1 + len(teaching)))
        refused = 0
        while awaited:
            for kind, _, sequence, body in self._received():
                if kind == _ERROR and sequence >= begin:
                    awaited.discard(sequence)
                    refused = refused or -struct.unpack_from("i", body)[0]
                    if sequence not in range(begin + 1, begin + 1 + len(teaching)):
                        awaited.clear()  # the batch as such was refused, and nothing of it is told
        if refused:
            raise KernelError(refused, "teach a map")

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

    def _message(self, kind: int, flags: int, number: int, body: bytes, *, resource: int = 0) -> bytes:
        self._sequence += 1
        payload = struct.pack("!BBH", number, 0, resource) + body
        return struct.pack("IHHII", 16 + len(payload), kind, flags, self._sequence, 0) + payload

    def _send(self, kind: int, flags: int, family: Family, body: bytes) -> None:
        with translated("send to nf_tables"):
            self._socket.send(self._message(kind, flags, family.facts.socket_family, body))

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


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("!I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *attributes))


def _expressions(rule: Rule, family: Family) -> Iterator[bytes]:
    """A rule of [l4proto is …] and one update, as the kernel's expressions."""
    for statement in rule:
        if isinstance(statement, Match) and statement.left == ("l4proto",) and statement.right in _PROTOCOLS and not statement.operator:
            yield _load("l4proto", _FIRST_REGISTER, family)
            yield _expression("cmp", _number(1, _FIRST_REGISTER), _number(2, 0), _nested(3, _attribute(1, bytes([_PROTOCOLS[statement.right]]))))
        elif isinstance(statement, Update):
            register = _FIRST_REGISTER
            starts = []
            for fields in (statement.key, statement.data):
                starts.append(register)
                for selector in fields:
                    yield _load(selector, register, family)
                    register += _registers(selector, family)
            if register > _FIRST_REGISTER + _REGISTERS:
                raise KernelError(errno.E2BIG, f"teach map {statement.map}")
            timeout = [_attribute(6, struct.pack("!Q", statement.timeout_seconds * 1000))] if statement.timeout_seconds else []
            yield _expression("dynset", _text(1, statement.map), _number(3, _UPDATE), _number(4, starts[0]), _number(5, starts[1]), *timeout)
        else:
            raise KernelError(errno.EOPNOTSUPP, f"teach by {text.rule_text((statement,), family)!r}")


def _load(selector: str, register: int, family: Family) -> bytes:
    """Load what a selector says into a register and those after it."""
    facts = family.facts
    to = _number(1, register)
    original = _attribute(3, b"\0")
    if selector == "l4proto":
        return _expression("meta", to, _number(2, _L4PROTO))
    if selector in ("ct original saddr", "ct original daddr"):
        return _expression("ct", to, _number(2, facts.nft_ct_addresses[selector == "ct original daddr"]), original)
    if selector == "ct original proto-dst":
        return _expression("ct", to, _number(2, _CT_PROTO_DST), original)
    if selector == "daddr":
        return _expression("payload", to, _number(2, _NETWORK_HEADER), _number(3, facts.header_destination), _number(4, family.bits // 8))
    if selector == "dport":
        return _expression("payload", to, _number(2, _TRANSPORT_HEADER), _number(3, 2), _number(4, 2))
    raise KernelError(errno.EOPNOTSUPP, f"teach by {selector!r}")


def _registers(selector: str, family: Family) -> int:
    """How many 4-byte registers a selector's value takes."""
    return family.bits // 32 if selector.endswith("addr") else 1


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
        size = 4 * _registers(selector, family)
        piece = data[at : at + size]
        at += size
        if selector.endswith("addr"):
            yield socket.inet_ntop(family.facts.socket_family, piece)
        elif selector == "l4proto":
            yield _NAMES.get(piece[0], str(piece[0]))
        else:
            yield struct.unpack_from("!H", piece)[0]
