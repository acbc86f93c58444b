"""A node with two pods, another node's pod, and the world outside, in namespaces of this test's own."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family


class Ends(NamedTuple):
    """Addresses of one family in the lab; *far* is the other node, whose pod is *c*."""

    pods: str
    a: str
    b: str
    c: str
    near_pods: str
    far_pods: str
    node: str
    far: str
    underlay: str  # prefix length
    node_outside: str
    outside: str
    outside_net: str


ENDS = {
    Family.IPV4: Ends(
        "10.244.0.0/16", "10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.1.0/24", "10.244.2.0/24",
        "172.30.0.11", "172.30.0.12", "24", "198.51.100.1", "198.51.100.9", "198.51.100.0/24",
    ),
    Family.IPV6: Ends(
        "fd00:244::/56", "fd00:244:0:1::2", "fd00:244:0:1::3", "fd00:244:0:2::2", "fd00:244:0:1::/64", "fd00:244:0:2::/64",
        "fd30::11", "fd30::12", "64", "2001:db8:51::1", "2001:db8:51::9", "2001:db8:51::/64",
    ),
}  # fmt: skip


class Lab:
    """Namespaces node, a, b (pods on it), c (a pod elsewhere, its node included), outside; servers that say who they are and whom they saw."""

    def __init__(self) -> None:
        self.paths = {name: f"/run/netns/tst-{os.getpid()}-px-{name}" for name in ("node", "a", "b", "c", "outside")}
        self.ends = ENDS
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.sockets: list[socket.socket] = [self._wake, self._woken]

    def build(self) -> None:
        sysctls = [
            ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"), ("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0"),
            ("net/ipv4/icmp_msgs_per_sec", "100000"), ("net/ipv4/icmp_msgs_burst", "100000"),
            ("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/default/accept_dad", "0"),
        ]  # fmt: skip
        for path in self.paths.values():
            namespaces.create(path)
            with namespaces.entered(path):
                for key, value in sysctls:
                    if os.path.exists(f"/proc/sys/{key}"):
                        namespaces.write_sysctl(key, value)
        short = {name: os.path.basename(path) for name, path in self.paths.items()}
        for name, peer in (("a", "va"), ("b", "vb"), ("c", "vc"), ("outside", "vo")):
            self.ip("node", f"link add {peer} type veth peer name eth0 netns {short[name]}")
            self.ip(name, "link set lo up", "link set eth0 up")
            self.ip("node", f"link set {peer} up")
        self.ip("node", "link set lo up")
        for family, ends in ENDS.items():
            gateway = family.facts.pod_gateway
            nodad = "nodad" if family is Family.IPV6 else ""
            for name, address in (("a", ends.a), ("b", ends.b)):
                self.ip("node", f"addr add {gateway}/{family.bits} dev v{name} scope link {nodad}", f"route add {address} dev v{name}")
                self.ip(name, f"addr add {address}/{family.bits} dev eth0 {nodad}", f"route add {gateway} dev eth0")
                self.ip(name, f"route add default via {gateway} dev eth0")
            self.ip("node", f"addr add {ends.node}/{ends.underlay} dev vc {nodad}", f"route add {ends.far_pods} via {ends.far}")
            self.ip("node", f"route add default via {ends.far}", f"addr add {ends.node_outside}/{ends.underlay} dev vo {nodad}")
            self.ip("c", f"addr add {ends.far}/{ends.underlay} dev eth0 {nodad}", f"addr add {ends.c}/{family.bits} dev lo {nodad}")
            self.ip("c", f"route add default via {ends.node}")
            self.ip("outside", f"addr add {ends.outside}/{ends.underlay} dev eth0 {nodad}", f"route add default via {ends.node_outside}")
            for name, address in (("a", ends.a), ("b", ends.b), ("c", ends.c)):
                self._listen(name, family, address, 8080, socket.SOCK_STREAM)
                self._listen(name, family, address, 5353, socket.SOCK_DGRAM)
            self._listen("c", family, ends.c, 8081, socket.SOCK_STREAM)
        self._selector.register(self._woken, selectors.EVENT_READ, "")
        self._thread.start()

    def ip(self, where: str, *commands: str) -> None:
        """Commands of ip(8) in a namespace."""
        done = subprocess.run(
            ["ip", "-n", os.path.basename(self.paths[where]), "-batch", "-"], input="\n".join(commands), text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, (commands, done.stderr)

    def _listen(self, name: str, family: Family, address: str, port: int, kind: int) -> None:
        one = namespaces.socket_in(self.paths[name], family.facts.socket_family, kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
        if kind == socket.SOCK_STREAM:
            one.listen(64)
        one.setblocking(False)
        self.sockets.append(one)
        self._selector.register(one, selectors.EVENT_READ, name)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one is self._woken:
                    return
                try:
                    if one.type == socket.SOCK_STREAM:
                        client, source = one.accept()
                        with client:
                            client.send(f"{key.data} {source[0]}".encode())
                    else:
                        _, source = one.recvfrom(100)
                        one.sendto(f"{key.data} {source[0]}".encode(), source)
                except OSError:  # the client has gone
                    continue

    def ask(self, where: str, protocol: str, address: str, port: int, *, source: str = "", timeout: float = 0.25) -> tuple[str, str]:
        """Who answers and whom it saw; 'refused', 'dropped' or 'unreachable' when nobody does, and then ''."""
        family = Family.IPV6 if ":" in address else Family.IPV4
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with namespaces.socket_in(self.paths[where], family.facts.socket_family, kind) as one:
            one.settimeout(timeout)
            if source:
                one.bind((source, 0))
            try:
                one.connect((address, port))
                if protocol == "udp":
                    one.send(b"?")
                name, _, seen = one.recv(100).decode().partition(" ")
            except (ConnectionRefusedError, PermissionError):  # the second when the output hook refuses a datagram
                return "refused", ""
            except TimeoutError:
                return "dropped", ""
            except OSError as error:
                if error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH):
                    raise
                return "unreachable", ""
            return name, seen

    def stray_reset_arrives(self, where: str, to: str, family: Family) -> bool:
        """Whether a TCP reset of no connection, from a pod, is seen at the other end; an answered question tells when to stop waiting."""
        source, destination = (getattr(self.ends[family], name) for name in (where, to))
        with contextlib.ExitStack() as stack:
            ends = []
            for path in (self.paths[where], self.paths[to]):
                with namespaces.entered(path):
                    ends.append(stack.enter_context(socket.socket(family.facts.socket_family, socket.SOCK_RAW, socket.IPPROTO_TCP)))
            out, seen = ends
            out.bind((source, 0))
            seen.settimeout(3)
            for flags in (0x04, 0x02):  # a reset, and then a first packet, which is always let through
                out.sendto(segment(source, destination, 8081, 40000, flags), (destination, 0))
            while True:
                packet, sender = seen.recvfrom(2000)
                header = packet[-20:]
                if sender[0] == source and header[:2] == (8081).to_bytes(2, "big"):
                    return bool(header[13] & 0x04)

    def close(self) -> None:
        if self._thread.is_alive():
            self._wake.send(b"x")
            self._thread.join()
        self._selector.close()
        for one in self.sockets:
            one.close()
        for path in self.paths.values():
            namespaces.remove(path)


def segment(source: str, destination: str, source_port: int, port: int, flags: int) -> bytes:
    """A bare TCP header with its checksum over the pseudo header (RFC 9293 3.1)."""
    header = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 5 << 4, flags, 1024, 0, 0)
    ends = b"".join(parse_address(text).packed for text in (source, destination))
    words = struct.unpack(f"!{(len(ends) + 24) // 2}H", ends + struct.pack("!HH", 6, len(header)) + header)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    one = Lab()
    try:
        one.build()
        yield one
    finally:
        one.close()


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param
