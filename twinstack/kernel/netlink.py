"""Links, addresses and routes of one network namespace, over rtnetlink (RFC 3549), in batches.

Rule of this file: requests are queued, and :meth:`Netlink.commit` sends them in one message and reads all
answers, so that wiring a pod costs two system calls and not forty. The kernel works a batch off in order and
goes on after a failure; the first failure that was not expected is raised, with the words of the request.

Theory. A socket belongs to the namespace that it was made in for good, so one process serves many namespaces without entering them
again. Explicit interface indexes spare every look-up; those of the two ends of a veth pair must differ, because
the kernel takes equal ones for "not a tunnel" and lets the state of such a link wait up to a second.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from twinstack.dataplane import host
from twinstack.kernel import namespaces
from twinstack.kernel import rtnetlink as rt
from twinstack.kernel.errors import KernelError, translated
from twinstack.kernel.rtnetlink import Interface
from twinstack.net.family import FAMILIES, Address, Family

_BATCH = 64  # answers that surely fit into a receive buffer of the default size
_SIOCGSKNS = 0x894C  # include/uapi/linux/sockios.h: the namespace of a socket, as a descriptor


class Netlink:
    """A door to the links, addresses and routes of one namespace: the caller's, or the one given by path or descriptor.

    Not for use by two threads at once. Every failure is a KernelError that names the request.
    """

    def __init__(self, netns: str | int | None = None) -> None:
        self._where = f" in {netns}" if isinstance(netns, str) else ""
        self._sequence = 0
        self._queue: list[tuple[bytes, str, frozenset[int]]] = []
        self._numbers: dict[str, int] = {}
        with translated(f"open netlink{self._where}"):
            if netns is None:
                self._socket = self._made()
            else:
                with namespaces.entered(netns):
                    self._socket = self._made()

    @staticmethod
    def _made() -> socket.socket:
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        made.setsockopt(270, 11, 1)  # NETLINK_EXT_ACK: failures come with a text
        made.setsockopt(270, 10, 1)  # NETLINK_CAP_ACK: and without our own request
        return made

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Requests, sent by commit()

    def add_veth(
        self,
        name: str,
        peer: str,
        *,
        number: int = 0,
        peer_number: int = 0,
        mac: str = "",
        peer_mac: str = "",
        peer_netns: int | None = None,
        mtu: int = 0,
        up: bool = False,
        quiet: bool = False,
        alias: str = "",
    ) -> None:
        """Make a pair of links, the second one in the namespace of an open descriptor where given.

        Only this end can be made up. *quiet*: it gets no link-local address by itself. *alias* is a note on a quiet one.
        """
        far = rt.info(peer_number, False) + rt.text(rt.IFLA_IFNAME, peer) + rt.mac(peer_mac) + rt.mtu(mtu)
        if peer_netns is not None:
            far += rt.u32(rt.IFLA_NET_NS_FD, peer_netns)
        info = rt.attribute(rt.IFLA_LINKINFO, rt.text(rt.IFLA_INFO_KIND, "veth") + rt.attribute(rt.IFLA_INFO_DATA, rt.attribute(rt.VETH_INFO_PEER, far)))
        body = rt.info(number, up and not quiet) + rt.text(rt.IFLA_IFNAME, name) + rt.mac(mac) + rt.mtu(mtu) + info
        self._ask(rt.NEWLINK, rt.CREATE | rt.EXCL, body, f"add link {name} type veth peer {peer}")
        self._remember(name, number)
        if peer_netns is None:
            self._remember(peer, peer_number)
        if quiet:  # only a link that stands can be told (EAFNOSUPPORT), and only before it comes up does it help
            self._ask(rt.NEWLINK, 0, rt.info(0, up) + rt.text(rt.IFLA_IFNAME, name) + rt.alias(alias) + rt.silence(), f"change link {name}")

    def add_link(self, name: str, kind: str, *, number: int = 0, mac: str = "", mtu: int = 0, up: bool = False) -> None:
        """Make a link of a kind that needs no more words, such as ``bridge``."""
        body = (
            rt.info(number, up) + rt.text(rt.IFLA_IFNAME, name) + rt.mac(mac) + rt.mtu(mtu) + rt.attribute(rt.IFLA_LINKINFO, rt.text(rt.IFLA_INFO_KIND, kind))
        )
        self._ask(rt.NEWLINK, rt.CREATE | rt.EXCL, body, f"add link {name} type {kind}")
        self._remember(name, number)

    def change_link(self, name: str, *, up: bool | None = None, master: str | None = None, mac: str = "", mtu: int = 0, new_name: str = "") -> None:
        """Bring a link up or down, make it a bridge's port (an empty master: none's), or change its MAC address, MTU or name."""
        number = self.number(name)
        body = struct.pack("=BxHiII", 0, 0, number, rt.IFF_UP if up else 0, 0 if up is None else rt.IFF_UP) + rt.mac(mac) + rt.mtu(mtu)
        if new_name:
            body += rt.text(rt.IFLA_IFNAME, new_name)
            self._numbers.pop(name, None)
            self._numbers[new_name] = number
        if master is not None:
            body += rt.u32(rt.IFLA_MASTER, self.number(master) if master else 0)
        words = {None: "", True: " up", False: " down"}[up] + (f" master {master}" if master else "") + (f" name {new_name}" if new_name else "")
        self._ask(rt.NEWLINK, 0, body, f"change link {name}{words}")

    def move_link(self, name: str, netns: int) -> None:
        """Move a link into the namespace of an open descriptor."""
        self._ask(rt.NEWLINK, 0, rt.info(self.number(name), False) + rt.u32(rt.IFLA_NET_NS_FD, netns), f"move link {name}")
        self._numbers.pop(name, None)

    def remove_link(self, name: str, *, missing_ok: bool = True) -> None:
        """Remove a link, and with a veth its other end."""
        self._numbers.pop(name, None)
        self._ask(rt.DELLINK, 0, rt.info(0, False) + rt.text(rt.IFLA_IFNAME, name), f"remove link {name}", {errno.ENODEV} if missing_ok else ())

    def add_address(self, link: str, address: Address, prefix: int, *, scope: host.Scope = "global", exist_ok: bool = True) -> None:
        """Give a link an address that is usable at once: no duplicate address detection (IFA_F_NODAD)."""
        flags = rt.CREATE | (0 if exist_ok else rt.EXCL)
        body = self._address(link, address, prefix, scope)
        self._ask(rt.NEWADDR, flags, body, f"add address {address}/{prefix} dev {link}", {errno.EEXIST} if exist_ok else ())

    def remove_address(self, link: str, address: Address, prefix: int, *, missing_ok: bool = True) -> None:
        body = self._address(link, address, prefix, "global")
        self._ask(rt.DELADDR, 0, body, f"remove address {address}/{prefix} dev {link}", {errno.EADDRNOTAVAIL} if missing_ok else ())

    def add_route(self, route: host.Route, *, protocol: int = host.ROUTE_PROTOCOL, scope: host.Scope | None = None) -> None:
        """Add a route to the main table, in the place of one with the same destination and metric.

        *scope* is ``link`` for a route without a gateway unless told otherwise; with ``global`` our own packets come from
        an address of global scope, wherever it is.
        """
        self._ask(rt.NEWROUTE, rt.CREATE | rt.REPLACE, self._route(route, protocol, scope), f"add {host.text_of(route)}")

    def remove_route(self, route: host.Route, *, protocol: int = host.ROUTE_PROTOCOL, missing_ok: bool = True) -> None:
        self._ask(rt.DELROUTE, 0, self._route(route, protocol), f"remove {host.text_of(route)}", {errno.ESRCH, errno.ENODEV} if missing_ok else ())

    def apply(self, steps: Iterable[host.Step]) -> None:
        """Perform steps in their order and commit them; kernel parameters are those of this namespace."""
        for step in steps:
            match step:
                case host.Step("add", host.Link(kind="veth") as link):
                    self.add_veth(link.name, link.peer, number=link.number, mac=link.mac, mtu=link.mtu, up=link.up and not link.master)
                    self._finish(link)
                case host.Step("add", host.Link() as link):
                    self.add_link(link.name, link.kind, number=link.number, mac=link.mac, mtu=link.mtu, up=link.up and not link.master)
                    self._finish(link)
                case host.Step("change", host.Link() as link):
                    self.change_link(link.name, up=link.up, master=link.master or None, mac=link.mac, mtu=link.mtu)
                case host.Step("remove", host.Link() as link):
                    self.remove_link(link.name)
                case host.Step("add", host.Address() as one):
                    self.add_address(one.link, one.address, one.prefix, scope=one.scope)
                case host.Step(_, host.Address() as one):
                    self.remove_address(one.link, one.address, one.prefix)
                case host.Step("add", host.Route() as route):
                    self.add_route(route)
                case host.Step(_, host.Route() as route):
                    self.remove_route(route)
                case host.Step(_, host.Sysctl() as sysctl):
                    self.commit()
                    self.write_sysctls([(sysctl.key, sysctl.value)])
        self.commit()

    def _finish(self, link: host.Link) -> None:
        if link.master:
            self.change_link(link.name, up=link.up, master=link.master)

    def write_sysctls(self, sysctls: Iterable[tuple[str, str]]) -> None:
        """Set kernel parameters in this socket's namespace."""
        with translated(f"find the namespace{self._where}"):
            descriptor: int = fcntl.ioctl(self._socket, _SIOCGSKNS)
        try:
            with namespaces.entered(descriptor):
                for key, value in sysctls:
                    namespaces.write_sysctl(key, value)
        finally:
            os.close(descriptor)

    def commit(self) -> None:
        """Send what is queued, and read every answer; the first unexpected failure is raised when all are read."""
        queue, self._queue = self._queue, []
        failure: KernelError | None = None
        for start in range(0, len(queue), _BATCH):
            failure = self._send(queue[start : start + _BATCH]) or failure
        if failure is not None:
            self._numbers.clear()
            raise failure

    # Looks

    def links(self) -> list[Interface]:
        """Every link of the namespace."""
        return [rt.interface(body) for body in self._dump(rt.GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))]

    def link(self, name: str) -> Interface | None:
        """One link; None when there is none of that name."""
        self.commit()
        try:
            bodies = self._exchange(rt.GETLINK, 0, struct.pack("=BxHiII", 0, 0, 0, 0, 0) + rt.text(rt.IFLA_IFNAME, name), f"look at link {name}")
        except KernelError as error:
            if error.missing:
                return None
            raise
        return rt.interface(bodies[0])

    def number(self, name: str) -> int:
        """The index of a link; KernelError ``.missing`` when there is none."""
        known = self._numbers.get(name)
        if known is None:
            link = self.link(name)
            if link is None:
                raise KernelError(errno.ENODEV, f"find link {name}{self._where}")
            known = self._numbers[name] = link.number
        return known

    def addresses(self, families: Iterable[Family] = FAMILIES) -> list[host.Address]:
        """Every address of the namespace."""
        names = {link.number: link.name for link in self.links()}
        found = []
        for family in families:
            for body in self._dump(rt.GETADDR, struct.pack("=BBBBI", family.facts.socket_family, 0, 0, 0, 0)):
                _, prefix, _, scope, number = struct.unpack_from("=BBBBI", body)
                attributes = dict(rt.attributes(body, 8))
                raw = attributes.get(rt.IFA_LOCAL, attributes.get(rt.IFA_ADDRESS, b""))
                found.append(host.Address(names.get(number, str(number)), rt.address_of(family, raw), prefix, rt.scope_of(scope)))
        return found

    def tentative(self) -> list[Address]:
        """The addresses that are not usable yet, because duplicate address detection goes on."""
        found: list[Address] = []
        for family in FAMILIES:
            for body in self._dump(rt.GETADDR, struct.pack("=BBBBI", family.facts.socket_family, 0, 0, 0, 0)):
                attributes = dict(rt.attributes(body, 8))
                if struct.unpack("=I", attributes.get(rt.IFA_FLAGS, bytes(4)))[0] & rt.IFA_F_TENTATIVE:
                    found.append(rt.address_of(family, attributes[rt.IFA_ADDRESS]))
        return found

    def routes(self, families: Iterable[Family] = FAMILIES, *, protocol: int | None = host.ROUTE_PROTOCOL, every_table: bool = False) -> list[host.Route]:
        """The unicast routes of the main table, or of every one, with this protocol number, ours unless told otherwise; None: all."""
        names = {link.number: link.name for link in self.links()}
        found = []
        for family in families:
            for body in self._dump(rt.GETROUTE, struct.pack("=BBBBBBBBI", family.facts.socket_family, *[0] * 8)):
                _, length, _, _, table, origin, _, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
                attributes = dict(rt.attributes(body, 12))
                if rt.RTA_TABLE in attributes:
                    (table,) = struct.unpack("=I", attributes[rt.RTA_TABLE])
                if (every_table or table == rt.TABLE_MAIN) and kind == rt.UNICAST and (protocol is None or origin == protocol):
                    found.append(rt.route_of(family, length, flags, attributes, names))
        return found

    def wait_until_running(self, names: Iterable[str], timeout_seconds: float = 2.0) -> bool:
        """Wait until links carry packets; False when some still do not after so long.

        A link that was just brought up drops what it is given until the kernel has noted its carrier.
        """
        waiting, deadline = list(names), time.monotonic() + timeout_seconds
        while True:
            waiting = [name for name in waiting if not ((link := self.link(name)) and link.running)]
            if not waiting or time.monotonic() >= deadline:
                return not waiting
            time.sleep(0.0005)

    def wait_until_local(self, addresses: Iterable[Address], timeout_seconds: float = 2.0) -> bool:
        """Wait until packets to these addresses of this namespace are taken in; False when some still are not after so long.

        An address skips duplicate address detection by a worker of the kernel, which is also what makes its local route.
        """
        waiting, deadline = list(addresses), time.monotonic() + timeout_seconds
        while True:
            waiting = [address for address in waiting if not self._is_local(address)]
            if not waiting or time.monotonic() >= deadline:
                return not waiting
            time.sleep(0.0005)

    def _is_local(self, address: Address) -> bool:
        family = Family.of(address)
        head = struct.pack("=BBBBBBBBI", family.facts.socket_family, family.bits, *[0] * 7)
        try:
            bodies = self._exchange(rt.GETROUTE, 0, head + rt.attribute(rt.RTA_DST, address.packed), f"ask for the route to {address}")
        except KernelError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES):
                return False
            raise
        return int(bodies[0][7]) == rt.LOCAL

    # The wire

    def _remember(self, name: str, number: int) -> None:
        if number:
            self._numbers[name] = number
        else:
            self._numbers.pop(name, None)

    def _address(self, link: str, address: Address, prefix: int, scope: str) -> bytes:
        facts = Family.of(address).facts
        head = struct.pack("=BBBBI", facts.socket_family, prefix, rt.IFA_F_NODAD, rt.SCOPES[scope], self.number(link))
        return head + rt.attribute(rt.IFA_LOCAL, address.packed) + rt.attribute(rt.IFA_ADDRESS, address.packed) + rt.u32(rt.IFA_FLAGS, rt.IFA_F_NODAD)

    def _route(self, route: host.Route, protocol: int, wish: host.Scope | None = None) -> bytes:
        facts = route.family.facts
        scope = rt.SCOPES[wish or ("global" if route.gateway is not None else "link")]
        flags = rt.RTNH_F_ONLINK if route.onlink else 0
        body = struct.pack("=BBBBBBBBI", facts.socket_family, route.destination.prefixlen, 0, 0, rt.TABLE_MAIN, protocol, scope, rt.UNICAST, flags)
        body += rt.attribute(rt.RTA_DST, route.destination.network_address.packed)
        if route.gateway is not None:
            body += rt.attribute(rt.RTA_GATEWAY, route.gateway.packed)
        if route.link:
            body += rt.u32(rt.RTA_OIF, self.number(route.link))
        if route.source is not None:
            body += rt.attribute(rt.RTA_PREFSRC, route.source.packed)
        return body + (rt.u32(rt.RTA_PRIORITY, route.metric) if route.metric else b"")

    def _ask(self, kind: int, flags: int, body: bytes, command: str, tolerated: Iterable[int] = ()) -> None:
        self._queue.append((self._message(kind, flags | rt.ACK, body), command, frozenset(tolerated)))

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return struct.pack("=IHHII", 16 + len(body), kind, flags | rt.REQUEST, self._sequence, 0) + body

    def _send(self, batch: list[tuple[bytes, str, frozenset[int]]]) -> KernelError | None:
        waiting = {struct.unpack_from("=I", message, 8)[0]: (command, tolerated) for message, command, tolerated in batch}
        failure = None
        with translated(f"send {batch[0][1]}{self._where}"):
            self._socket.send(b"".join(message for message, _, _ in batch))
            while waiting:
                for kind, flags, sequence, body in self._received():
                    if kind == rt.ERROR and sequence in waiting:
                        command, tolerated = waiting.pop(sequence)
                        number = -struct.unpack_from("=i", body)[0]
                        if number and number not in tolerated and failure is None:
                            failure = KernelError(number, command + self._where, rt.explanation(flags, body))
        return failure

    def _exchange(self, kind: int, flags: int, body: bytes, command: str) -> list[bytes]:
        """Ask for one thing, or for a list of things, and return their bodies."""
        message = self._message(kind, flags, body)
        (wanted,) = struct.unpack_from("=I", message, 8)
        bodies: list[bytes] = []
        interrupted = False
        with translated(command):
            self._socket.send(message)
            while True:
                for got, got_flags, sequence, part in self._received():
                    if sequence != wanted:
                        continue
                    interrupted |= bool(got_flags & rt.DUMP_INTERRUPTED)
                    if got == rt.ERROR:
                        number = -struct.unpack_from("=i", part)[0]
                        raise KernelError(number, command + self._where, rt.explanation(got_flags, part))
                    if got == rt.DONE:
                        if interrupted:
                            raise KernelError(errno.EINTR, command + self._where)
                        return bodies
                    bodies.append(part)
                    if not flags & rt.DUMP:
                        return bodies

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        self.commit()
        for attempt in range(5):
            try:
                return self._exchange(kind, rt.DUMP, body, "look around")
            except KernelError as error:
                if error.errno != errno.EINTR or attempt == 4:  # the list changed while it was told: ask again
                    raise
        raise AssertionError("unreachable")

    def _received(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(65536)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data, offset)
            yield kind, flags, sequence, data[offset + 16 : offset + length]
            offset += max(16, (length + 3) & ~3)
