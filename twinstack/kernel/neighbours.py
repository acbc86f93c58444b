"""How neighbours on a link find each other: the frames of ARP (RFC 826, RFC 5227) and of neighbour discovery (RFC 4861), and a door for them.

Rule of this file: bytes to values and values to bytes first, then one class with a socket. Whether to answer is not decided here.

Theory. On a link, an address belongs to who answers when it is asked for, and to who said so last: an unsolicited message that
overrides what neighbours remember makes them send elsewhere at once. No address needs to be on an interface for that, so
nothing else of the host answers on it. The two protocols are rows of a table; which family speaks which is in ``net.family``.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError, translated
from twinstack.net.family import FAMILIES, Address, Family

_ETH_ALL_NODES, _BROADCAST = bytes.fromhex("333300000001"), b"\xff" * 6
_ARP, _DISCOVERED = 0x0806, 0x86DD  # ether types
_ASK, _ANSWER = 1, 2  # ARP's operations
_SOLICITATION, _ADVERTISEMENT, _ICMP = 135, 136, 58
_SOLICITED, _OVERRIDE = 0x40000000, 0x20000000
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_GROUP = bytes.fromhex("ff0200000000000000000001ff")  # of who may have an address, before its last three bytes
_SOURCE_LINK, _TARGET_LINK = 1, 2  # options
_SO_ATTACH_FILTER = 26


_FAMILY_OF: Mapping[str, Family] = {family.facts.neighbour_protocol: family for family in FAMILIES}


class Asked(NamedTuple):
    """Somebody wants to know who has an address; *asker* is None when they have none themselves yet."""

    target: Address
    asker: Address | None
    mac: bytes


class Told(NamedTuple):
    """Somebody says that they have an address."""

    target: Address
    mac: bytes


class Condition(NamedTuple):
    """What a part of a frame must be: one of these values."""

    offset: int
    size: int  # bytes, 1 or 2
    values: tuple[int, ...]


class Language(Protocol):
    """One of the protocols."""

    @property
    def conditions(self) -> Sequence[Condition]: ...

    def parse(self, frame: bytes) -> list[Asked | Told]: ...

    def answer(self, asked: Asked, mac: bytes) -> bytes: ...

    def announcement(self, address: Address, mac: bytes) -> bytes: ...

    def group(self, address: Address) -> bytes: ...


class _Arp:
    conditions = (Condition(12, 2, (_ARP,)),)

    def parse(self, frame: bytes) -> list[Asked | Told]:
        if len(frame) < 42:
            return []
        kind, hardware, protocol, sizes, operation = struct.unpack_from("!HHHHH", frame, 12)
        if (kind, hardware, protocol, sizes) != (_ARP, 1, 0x0800, 0x0604):
            return []
        family = _FAMILY_OF["arp"]
        mac, sender, target = frame[22:28], int.from_bytes(frame[28:32]), family.address(int.from_bytes(frame[38:42]))
        found: list[Asked | Told] = []
        if sender:  # whatever the operation, the sender says that it has its own address
            found.append(Told(family.address(sender), mac))
        if operation == _ASK and int(target) != sender:
            found.append(Asked(target, family.address(sender) if sender else None, mac))
        return found

    def answer(self, asked: Asked, mac: bytes) -> bytes:
        sender = asked.asker.packed if asked.asker else bytes(4)
        return self._frame(asked.mac, mac, _ANSWER, asked.target.packed, asked.mac, sender)

    def announcement(self, address: Address, mac: bytes) -> bytes:
        return self._frame(_BROADCAST, mac, _ASK, address.packed, bytes(6), address.packed)

    def group(self, address: Address) -> bytes:
        return b""

    @staticmethod
    def _frame(to: bytes, mac: bytes, operation: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
        return to + mac + struct.pack("!HHHHH", _ARP, 1, 0x0800, 0x0604, operation) + mac + sender + target_mac + target


class _Discovery:
    conditions = (Condition(12, 2, (_DISCOVERED,)), Condition(20, 1, (_ICMP,)), Condition(54, 1, (_SOLICITATION, _ADVERTISEMENT)))

    def parse(self, frame: bytes) -> list[Asked | Told]:
        if len(frame) < 78 or frame[12:14] != struct.pack("!H", _DISCOVERED) or frame[20] != _ICMP or frame[21] != 255:
            return []
        length = struct.unpack_from("!H", frame, 18)[0]
        message = frame[54 : 54 + length]
        if len(message) != length or length < 24 or message[1] != 0 or _checksum(frame[22:38], frame[38:54], message):
            return []
        family = _FAMILY_OF["ndp"]
        target = family.address(int.from_bytes(message[8:24]))
        if message[0] == _SOLICITATION:
            asker = int.from_bytes(frame[22:38])
            return [Asked(target, family.address(asker) if asker else None, _option(message, _SOURCE_LINK) or frame[6:12])]
        return [Told(target, _option(message, _TARGET_LINK) or frame[6:12])] if message[0] == _ADVERTISEMENT else []

    def answer(self, asked: Asked, mac: bytes) -> bytes:
        if asked.asker is None:  # it looks whether its own address is taken: all are told
            return self.announcement(asked.target, mac)
        return self._frame(asked.mac, asked.asker.packed, asked.target, mac, _SOLICITED | _OVERRIDE)

    def announcement(self, address: Address, mac: bytes) -> bytes:
        return self._frame(_ETH_ALL_NODES, _ALL_NODES, address, mac, _OVERRIDE)

    def group(self, address: Address) -> bytes:
        return _GROUP + address.packed[-3:]

    @staticmethod
    def _frame(to_mac: bytes, to: bytes, address: Address, mac: bytes, flags: int) -> bytes:
        rest = struct.pack("!I", flags) + address.packed + bytes((_TARGET_LINK, 1)) + mac
        message = struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + rest
        message = message[:2] + struct.pack("!H", _checksum(address.packed, to, message)) + message[4:]
        header = struct.pack("!IHBB", 6 << 28, len(message), _ICMP, 255)
        return to_mac + mac + struct.pack("!H", _DISCOVERED) + header + address.packed + to + message


def _option(message: bytes, wanted: int) -> bytes | None:
    """The link-layer address in an option; None when it is not there, or the options are broken."""
    at = 24
    while at + 8 <= len(message) and message[at + 1]:
        if message[at] == wanted:
            return message[at + 2 : at + 8]
        at += 8 * message[at + 1]
    return None


def _checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """RFC 4443 2.3; 0 for a message with the right one in it."""
    data = source + destination + struct.pack("!II", len(message), _ICMP) + message + bytes(len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


_LANGUAGES: Mapping[str, Language] = {"arp": _Arp(), "ndp": _Discovery()}


def language(family: Family) -> Language:
    """What a family's hosts speak to their neighbours."""
    return _LANGUAGES[family.facts.neighbour_protocol]


def parse(frame: bytes) -> list[Asked | Told]:
    """What an Ethernet frame asks or says; nothing when it is about something else, or broken."""
    return [one for speech in _LANGUAGES.values() for one in speech.parse(frame)]


def answer(asked: Asked, mac: bytes) -> bytes:
    """The frame that says that the host with this link-layer address has what was asked for."""
    return language(Family.of(asked.target)).answer(asked, mac)


def announcement(address: Address, mac: bytes) -> bytes:
    """The frame that tells all neighbours, unasked: gratuitous ARP, or an unsolicited advertisement that overrides."""
    return language(Family.of(address)).announcement(address, mac)


def mac_of(text: str) -> bytes:
    """``02:00:00:00:00:01`` as bytes."""
    return bytes.fromhex(text.replace(":", ""))


def filter_of(conditions: Sequence[Condition]) -> list[tuple[int, int, int, int]]:
    """A classic BPF program that passes the frames for which all conditions hold; the kernel drops the rest before we wake."""
    program: list[tuple[int, int, int, int]] = []
    left = sum(1 + len(values) for _, _, values in conditions)
    for offset, size, values in conditions:
        program.append(({1: 0x30, 2: 0x28}[size], 0, 0, offset))  # load a byte or half a word
        left -= 1
        for number, value in enumerate(values, 1):
            left -= 1
            last = number == len(values)
            # jump over the values that are left of this condition, or to the end, which drops
            program.append((0x15, len(values) - number, left + 1 if last else 0, value))
    return [*program, (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]


class NeighbourDoor:
    """One link's ARP and neighbour discovery, in the network namespace of the caller or the one of a path. Not for two threads.

    Errors: KernelError, ``.missing`` when there is no such link.
    """

    def __init__(self, link: str, number: int, mac: bytes, netns: str | None = None) -> None:
        self.link, self.mac = link, mac
        self._number = number
        self._sockets: dict[Family, socket.socket] = {}
        self._members: dict[Family, socket.socket] = {}
        self._groups: dict[tuple[Family, bytes], set[Address]] = {}
        try:
            with translated(f"listen to neighbours on {link}"):
                if netns is None:
                    self._open()
                else:
                    with namespaces.entered(netns):
                        self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for family in FAMILIES:
            conditions = language(family).conditions
            # Bound only after the filter stands, so that nothing else is ever queued.
            made = self._sockets[family] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            program = b"".join(struct.pack("=HBBI", *one) for one in filter_of(conditions))
            kept = ctypes.create_string_buffer(program)
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(kept)))
            made.bind((self.link, conditions[0].values[0]))
            if family.facts.join_group:
                self._members[family] = socket.socket(family.facts.socket_family, socket.SOCK_DGRAM)

    def sockets(self) -> list[socket.socket]:
        """To be watched for frames; read with :meth:`receive`."""
        return list(self._sockets.values())

    def receive(self, one: socket.socket) -> list[Asked | Told]:
        """What came in since, without waiting. Our own frames are left out."""
        found: list[Asked | Told] = []
        for _ in range(256):
            try:
                frame, origin = one.recvfrom(2048)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # told once; frames come again when the link does
                    continue
                raise KernelError(error.errno or errno.EIO, f"listen to neighbours on {self.link}") from error
            if origin[2] != socket.PACKET_OUTGOING and frame[6:12] != self.mac:
                found += parse(frame)
        return found

    def send(self, family: Family, frame: bytes) -> None:
        """Send one frame."""
        with translated(f"send to neighbours on {self.link}"):
            self._sockets[family].send(frame)

    def join(self, address: Address) -> None:
        """Let the questions for an address reach us: switches that look for listeners must know of one."""
        family = Family.of(address)
        group = language(family).group(address)
        if group:
            members = self._groups.setdefault((family, group), set())
            if not members:
                self._change(family, group, family.facts.join_group, f"join the group of {address} on {self.link}")
            members.add(address)

    def part(self, address: Address) -> None:
        """Leave the group of an address, when no other address needs it."""
        family = Family.of(address)
        group = language(family).group(address)
        members = self._groups.get((family, group), set())
        members.discard(address)
        if group and not members and self._groups.pop((family, group), None) is not None:
            self._change(family, group, family.facts.join_group + 1, f"leave the group of {address} on {self.link}")

    def _change(self, family: Family, group: bytes, option: int, command: str) -> None:
        with translated(command):
            self._members[family].setsockopt(family.facts.socket_options[0][0], option, group + struct.pack("@i", self._number))

    def close(self) -> None:
        for one in (*self._sockets.values(), *self._members.values()):
            one.close()
