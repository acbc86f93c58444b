"""Connection tracking: forgets translated UDP and SCTP flows whose endpoint is gone.

Rule of this file: it knows ctnetlink and no Service. Which flows are stale is decided by the caller.

Theory. A flow keeps the endpoint that its first packet was given as long as packets flow, so a removed endpoint
would swallow them for ever. The kernel lists by filter (CTA_FILTER, Linux 5.9; an older one lists all): only flows of
the protocol and to the port in question leave it. Of those, ones that do not bear the endpoint's address among their
bytes are not even decoded, and those that are stale are deleted, many in one message. The kernel could delete by
filter, too (6.8), but compares 128-bit addresses the wrong way round there (ctnetlink_filter_match_tuple): what
differs from the filter is deleted, and what equals it stays. So addresses are compared here. TCP is left alone: its
ends notice by themselves.

The two families' syncs run in threads beside each other. One exchange has the socket to itself: a thread that reads the
other's answers waits for its own for ever.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from twinstack.kernel.errors import KernelError, translated
from twinstack.net.family import Family

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # subsystem ctnetlink
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NESTED, _TYPE = 0x8000, 0x3FFF
_ORIGINAL, _REPLY, _FILTER = 1, 2, 25
_IP, _PROTO = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_FLAG_NUMBER, _FLAG_DESTINATION_PORT = 8, 32
_FIRST_DATA = 16  # kinds below are netlink's own
_PROTOCOLS = {"udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_HEADER = struct.Struct("IHHII")
_AT_A_TIME = 64  # deletions in one message; their answers fit any socket's buffer
_MOST_NEEDLES = 8  # addresses that are looked for before decoding
_MOST_LISTS = 16  # above, one list of all ports is cheaper
_ANSWER_SECONDS = 10  # the kernel answers at once; one that does not is an error, not a reason to wait for ever


class Flow(NamedTuple):
    """A tracked flow: where the client sent to, and who answers it. Addresses are canonical texts."""

    source: str
    source_port: int
    destination: str
    port: int
    answers: str
    answers_port: int
    protocol: str = "udp"


class Stale(NamedTuple):
    """Flows to forget. An empty text or a zero port means any."""

    destination: str
    port: int
    answers: str
    answers_port: int
    protocol: str = "udp"

    def covers(self, flow: Flow) -> bool:
        """Whether a flow is one of these."""
        return (
            self.protocol == flow.protocol
            and self.destination in ("", flow.destination)
            and self.port in (0, flow.port)
            and self.answers in ("", flow.answers)
            and self.answers_port in (0, flow.answers_port)
        )


class Conntrack:
    """The connection tracking of the network namespace in which it was made; KernelError when it may not be used."""

    def __init__(self) -> None:
        with translated("open ctnetlink"):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _ANSWER_SECONDS, 0))
            self._socket.bind((0, 0))
        self._sequence = 0
        self._exchange = threading.Lock()

    def close(self) -> None:
        self._socket.close()

    def flows(self, family: Family, protocol: str = "udp", port: int = 0, *, bearing: Iterable[str] = ()) -> list[Flow]:
        """The family's flows of a protocol, or those that clients sent to a port; with *bearing*, only ones with such an address at an end."""
        needles = [socket.inet_pton(family.facts.socket_family, text) for text in set(bearing)]
        with self._exchange:
            self._send(_message(_GET, _REQUEST | _DUMP, family, _filter(family, protocol, port), self._next()))
            flows = [flow for body in self._answers(needles) if (flow := _flow(body, family)) is not None]
        return [flow for flow in flows if port in (0, flow.port) and flow.protocol == protocol]

    def forget(self, family: Family, stale: Iterable[Stale]) -> int:
        """Delete the flows that these cover, and tell how many; none at all is a success."""
        lists: dict[tuple[str, int], list[Stale]] = {}
        for one in stale:
            lists.setdefault((one.protocol, one.port), []).append(one)
        if len(lists) > _MOST_LISTS:
            every: dict[tuple[str, int], list[Stale]] = {}
            for (protocol, _), some in lists.items():
                every.setdefault((protocol, 0), []).extend(some)
            lists = every
        count = 0
        for (protocol, port), some in lists.items():
            bearing = {one.answers or one.destination for one in some}
            held = self.flows(family, protocol, port, bearing=() if "" in bearing or len(bearing) > _MOST_NEEDLES else bearing)
            by_port: dict[int, list[Stale]] = {}
            for one in some:
                by_port.setdefault(one.port, []).append(one)
            gone = [flow for flow in held if any(one.covers(flow) for at in {flow.port, 0} for one in by_port.get(at, ()))]
            self.forget_flows(family, gone)
            count += len(gone)
        return count

    def forget_flows(self, family: Family, flows: Iterable[Flow]) -> None:
        """Delete these very flows; one that ended meanwhile is a success."""
        each = list(flows)
        for start in range(0, len(each), _AT_A_TIME):
            with self._exchange:
                first = self._sequence + 1
                messages = [_message(_DELETE, _REQUEST | _ACK, family, _one(family, flow), self._next()) for flow in each[start : start + _AT_A_TIME]]
                self._send(b"".join(messages))
                self._acknowledged(first, len(messages))

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    def _send(self, messages: bytes) -> None:
        with translated("send to ctnetlink"):
            self._socket.send(messages)

    def _acknowledged(self, first: int, count: int) -> None:
        """Wait for the answers to so many deletions; KernelError for the first that was refused, though not because it was gone."""
        refused: KernelError | None = None
        awaited = set(range(first, first + count))
        while awaited:
            for kind, sequence, body in self._received():
                if kind == _ERROR and sequence in awaited:
                    awaited.remove(sequence)
                    error = KernelError(-struct.unpack_from("i", body)[0], "delete tracked connections")
                    if error.errno and not error.missing:
                        refused = refused or error
        if refused:
            raise refused

    def _received(self, needles: Sequence[bytes] = ()) -> Iterator[tuple[int, int, bytes]]:
        """(kind, sequence, body) of what comes next; of data only what holds one of the needles."""
        with translated("read from ctnetlink"):
            data = self._socket.recv(1 << 17)
        at = 0
        while at + 16 <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
            end = at + length
            if not needles or kind < _FIRST_DATA or any(data.find(needle, at, end) >= 0 for needle in needles):
                yield kind, sequence, data[at + 16 : end]
            at = (end + 3) & ~3

    def _answers(self, needles: Sequence[bytes]) -> Iterator[bytes]:
        """The bodies of the answers to the last request, until it is done."""
        while True:
            for kind, sequence, body in self._received(needles):
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise KernelError(-struct.unpack_from("i", body)[0], "list tracked connections")
                yield body[4:]


def _message(kind: int, flags: int, family: Family, body: bytes, sequence: int) -> bytes:
    payload = struct.pack("BBH", family.facts.socket_family, 0, 0) + body
    return _HEADER.pack(16 + len(payload), kind, flags, sequence, 0) + payload


def _attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _address_attributes(family: Family) -> tuple[int, int]:
    """CTA_IP_*_SRC and _DST of the family: four numbers in the order of the families' versions."""
    first = (family.facts.version - 4) + 1
    return first, first + 1


def _tuple(kind: int, family: Family, protocol: str, source: str, source_port: int, destination: str, port: int) -> bytes:
    """One direction of a flow; what is empty or zero is left out, to be named by a filter's flags."""
    number = family.facts.socket_family
    at_source, at_destination = _address_attributes(family)
    addresses = b"".join(_attribute(at, socket.inet_pton(number, text)) for at, text in ((at_source, source), (at_destination, destination)) if text)
    ports = b"".join(_attribute(at, struct.pack("!H", value)) for at, value in ((_SOURCE_PORT, source_port), (_DESTINATION_PORT, port)) if value)
    parts = [_nested(_IP, addresses)] if addresses else []
    return _nested(kind, *parts, _nested(_PROTO, _attribute(_NUMBER, bytes([_PROTOCOLS[protocol]])), ports))


def _one(family: Family, flow: Flow) -> bytes:
    """Name one very flow."""
    return _tuple(_ORIGINAL, family, flow.protocol, flow.source, flow.source_port, flow.destination, flow.port)


def _filter(family: Family, protocol: str, port: int) -> bytes:
    """Ask for flows of a protocol only, to a port if it is not zero."""
    flags = _FLAG_NUMBER | (_FLAG_DESTINATION_PORT if port else 0)
    return _tuple(_ORIGINAL, family, protocol, "", 0, "", port) + _nested(_FILTER, _attribute(1, struct.pack("I", flags)))


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        if length < 4:
            break
        found[kind & _TYPE] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _flow(body: bytes, family: Family) -> Flow | None:
    """A flow of an answer's attributes; None for other protocols."""
    found = _attributes(body)
    if _ORIGINAL not in found or _REPLY not in found:
        return None
    at_source, at_destination = _address_attributes(family)
    protocol = ""
    ends: list[tuple[str, int]] = []
    for kind in (_ORIGINAL, _REPLY):
        direction = _attributes(found[kind])
        addresses, proto = _attributes(direction.get(_IP, b"")), _attributes(direction.get(_PROTO, b""))
        protocol = _NAMES.get(proto.get(_NUMBER, b"\0")[0], "")
        if not protocol or at_source not in addresses:
            return None
        for at, port in ((at_source, _SOURCE_PORT), (at_destination, _DESTINATION_PORT)):
            ends.append((socket.inet_ntop(family.facts.socket_family, addresses[at]), struct.unpack("!H", proto[port])[0]))
    (source, source_port), (destination, destination_port), (answers, answers_port), _ = ends
    return Flow(source, source_port, destination, destination_port, answers, answers_port, protocol)
