"""Connection tracking: forgets translated UDP flows whose endpoint is gone.

Rule of this file: it knows ctnetlink and no Service. Which flows are stale is decided by the caller.

Theory. A UDP flow keeps the endpoint that its first packet was given as long as packets flow, so a removed endpoint
would swallow them for ever. The kernel lists by filter (CTA_FILTER, Linux 5.9; an older one lists all): only UDP
flows to the ports in question leave it, and those that are stale are deleted one by one. It could delete by filter,
too (6.8), but compares 128-bit addresses the wrong way round there: what differs from the filter is deleted, and what
equals it stays. So addresses are compared here. TCP is left alone.

The two families' syncs run in threads beside each other. One exchange has the socket to itself: a thread that reads the
other's answers waits for its own for ever.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable, Iterator
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
_UDP = 17
_MOST_LISTS = 16  # above, one list of all ports is cheaper
_ANSWER_SECONDS = 10  # the kernel answers at once; one that does not is an error, not a reason to wait for ever


class Flow(NamedTuple):
    """A tracked UDP flow: where the client sent to, and who answers it. Addresses are canonical texts."""

    source: str
    source_port: int
    destination: str
    port: int
    answers: str
    answers_port: int


class Stale(NamedTuple):
    """UDP flows to forget. An empty text or a zero port means any."""

    destination: str
    port: int
    answers: str
    answers_port: int

    def covers(self, flow: Flow) -> bool:
        """Whether a flow is one of these."""
        return (
            self.destination in ("", flow.destination)
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

    def flows(self, family: Family, port: int = 0) -> list[Flow]:
        """The UDP flows of the family, or those that clients sent to a port."""
        with self._exchange:
            self._send(_GET, _REQUEST | _DUMP, family, _filter(family, port))
            flows = [flow for body in self._answers() if (flow := _flow(body, family)) is not None]
        return [flow for flow in flows if port in (0, flow.port)]

    def forget(self, family: Family, stale: Iterable[Stale]) -> None:
        """Delete the flows that these cover; none at all is a success."""
        by_port: dict[int, list[Stale]] = {}
        for one in stale:
            by_port.setdefault(one.port, []).append(one)
        if len(by_port) > _MOST_LISTS:
            by_port = {0: [one for some in by_port.values() for one in some]}
        for port, some in by_port.items():
            self.forget_flows(family, [flow for flow in self.flows(family, port) if any(one.covers(flow) for one in some)])

    def forget_flows(self, family: Family, flows: Iterable[Flow]) -> None:
        """Delete these very flows; one that ended meanwhile is a success."""
        for flow in flows:
            try:
                self._request(_DELETE, family, _tuple(_ORIGINAL, family, flow.source, flow.source_port, flow.destination, flow.port))
            except KernelError as error:
                if not error.missing:
                    raise

    def _request(self, kind: int, family: Family, body: bytes) -> None:
        with self._exchange:
            self._send(kind, _REQUEST | _ACK, family, body)
            for _ in self._answers():
                pass

    def _send(self, kind: int, flags: int, family: Family, body: bytes) -> None:
        self._sequence += 1
        payload = struct.pack("BBH", family.facts.socket_family, 0, 0) + body
        with translated("send to ctnetlink"):
            self._socket.send(struct.pack("IHHII", 16 + len(payload), kind, flags, self._sequence, 0) + payload)

    def _answers(self) -> Iterator[bytes]:
        """The bodies of the answers to the last request, until it is acknowledged or done."""
        while True:
            with translated("read from ctnetlink"):
                data = self._socket.recv(1 << 17)
            while len(data) >= 16:
                length, kind, _, sequence, _ = struct.unpack_from("IHHII", data)
                body, data = data[16:length], data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("i", body)[0]
                    if number:
                        raise KernelError(number, "delete tracked connections")
                    return
                yield body[4:]


def _attribute(kind: int, body: bytes) -> bytes:
    return struct.pack("HH", 4 + len(body), kind) + body + b"\0" * (-len(body) % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _address_attributes(family: Family) -> tuple[int, int]:
    """CTA_IP_*_SRC and _DST of the family: four numbers in the order of the families' versions."""
    first = (family.facts.version - 4) + 1
    return first, first + 1


def _tuple(kind: int, family: Family, source: str, source_port: int, destination: str, port: int) -> bytes:
    """One direction of a UDP flow; what is empty or zero is left out, to be named by a filter's flags."""
    number = family.facts.socket_family
    at_source, at_destination = _address_attributes(family)
    addresses = b"".join(_attribute(at, socket.inet_pton(number, text)) for at, text in ((at_source, source), (at_destination, destination)) if text)
    ports = b"".join(_attribute(at, struct.pack("!H", value)) for at, value in ((_SOURCE_PORT, source_port), (_DESTINATION_PORT, port)) if value)
    parts = [_nested(_IP, addresses)] if addresses else []
    return _nested(kind, *parts, _nested(_PROTO, _attribute(_NUMBER, bytes([_UDP])), ports))


def _filter(family: Family, port: int) -> bytes:
    """Ask for UDP flows only, to a port if it is not zero."""
    flags = _FLAG_NUMBER | (_FLAG_DESTINATION_PORT if port else 0)
    return _tuple(_ORIGINAL, family, "", 0, "", port) + _nested(_FILTER, _attribute(1, struct.pack("I", flags)))


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
    """A UDP flow of an answer's attributes; None for other protocols."""
    found = _attributes(body)
    if _ORIGINAL not in found or _REPLY not in found:
        return None
    at_source, at_destination = _address_attributes(family)
    ends: list[tuple[str, int]] = []
    for kind in (_ORIGINAL, _REPLY):
        direction = _attributes(found[kind])
        addresses, proto = _attributes(direction.get(_IP, b"")), _attributes(direction.get(_PROTO, b""))
        if proto.get(_NUMBER, b"\0")[0] != _UDP or at_source not in addresses:
            return None
        for at, port in ((at_source, _SOURCE_PORT), (at_destination, _DESTINATION_PORT)):
            ends.append((socket.inet_ntop(family.facts.socket_family, addresses[at]), struct.unpack("!H", proto[port])[0]))
    (source, source_port), (destination, destination_port), (answers, answers_port), _ = ends
    return Flow(source, source_port, destination, destination_port, answers, answers_port)
