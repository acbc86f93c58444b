"""What a BIRD of ours ought to hold, as the text that it reads: sessions, and routes of /32 and /128 to tell over them.

Rule of this file: values in, BIRD 2's language out, the same bytes for the same values whatever their order.

Theory. BIRD here only speaks: the routes are static ones that lead nowhere, the kernel is never told of them, and nothing that a peer
says is taken in. What comes for an address is met by the Service proxy's table before any route is looked at. The router
of a lab is the other way round: it takes in what nodes say, within its bounds, and gives the kernel all ways that are equally good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twinstack.net.family import FAMILIES, Address, Family, Network

BFD_MILLISECONDS, BFD_MULTIPLIER = 300, 3  # a peer is dead after three of these without a word
_RETRY_SECONDS = 2
_HEAD = "log stderr {{ warning, error, fatal, bug, auth }};\nrouter id {0};\nprotocol device {{ scan time 10; }}\n"
_COME_BACK = "graceful restart wait 5;\n"  # after a restart, for peers that do not answer, before all has been said
_BFD = f'protocol bfd {{ interface "*" {{ interval {BFD_MILLISECONDS} ms; multiplier {BFD_MULTIPLIER}; }}; }}\n'


class Session(NamedTuple):
    """One BGP session: our end, the other end, and how they speak."""

    own: Address
    own_asn: int
    peer: Address
    peer_asn: int
    port: int = 179
    hold_seconds: int = 9
    restart_seconds: int = 0  # how long the other end keeps our routes while we are away for a restart (RFC 4724); 0: not at all
    multihop: bool = False
    bfd: bool = False
    password: str = ""  # signs every segment (RFC 2385); plain_password says which may be

    @property
    def name(self) -> str:
        """What BIRD calls it."""
        return f"peer_{int(self.peer):x}"


class Listening(NamedTuple):
    """A router's end: who calls from *network* with this number is believed about addresses of *told*."""

    own: Address
    own_asn: int
    network: Network
    peer_asn: int
    told: Network
    hold_seconds: int = 9
    password: str = ""


def plain_password(text: str) -> bool:
    """Whether a password can be told to BIRD and to the kernel: 1 to 80 printable ASCII characters, no quotation mark or backslash."""
    return 0 < len(text) <= 80 and text.isascii() and text.isprintable() and not set(text) & {'"', "\\"}


def router_id(name: str) -> str:
    """A number for a router, written like an address as is the custom (RFC 6286 lets it be any that is not zero)."""
    digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
    return str(FAMILIES[0].address(int.from_bytes(digest, "big") or 1))


def speaker(name: str, sessions: Iterable[Session], routes: Iterable[Address]) -> str:
    """The text of a node that tells each peer the routes of its family."""
    ordered = sorted(sessions, key=lambda session: session.name)
    parts = [_HEAD.format(router_id(name))]
    if any(session.restart_seconds for session in ordered):
        parts.append(_COME_BACK)
    if any(session.bfd for session in ordered):
        parts.append(_BFD)
    by_family = {family: sorted((one for one in set(routes) if Family.of(one) is family), key=int) for family in FAMILIES}
    parts += [_static(family, addresses) for family, addresses in by_family.items()]
    return "".join((*parts, *map(_session, ordered)))


def _static(family: Family, addresses: Sequence[Address]) -> str:
    lines = "".join(f"  route {address}/{family.bits} blackhole;\n" for address in addresses)
    return f"protocol static routes_{_channel(family)} {{\n  {_channel(family)};\n{lines}}}\n"


def _session(one: Session) -> str:
    lines = [
        f"local {one.own} as {one.own_asn};",
        f"neighbor {one.peer} port {one.port} as {one.peer_asn};",
        f"hold time {one.hold_seconds};",
        f"keepalive time {max(1, one.hold_seconds // 3)};",
        f"connect delay time 1; connect retry time {_RETRY_SECONDS}; error wait time 1, {_RETRY_SECONDS * 5};",
        "strict bind yes;",
        f"bfd {'yes' if one.bfd else 'no'};",
        "multihop;" if one.multihop else "direct;",
        *([f"graceful restart yes; graceful restart time {one.restart_seconds};"] if one.restart_seconds else []),
        *_password(one.password),
        f"{_channel(Family.of(one.peer))} {{ import none; export where source = RTS_STATIC; next hop self; }};",
    ]
    return _block(f"protocol bgp {one.name}", lines)


def router(name: str, ends: Iterable[Listening]) -> str:
    """The text of a router that nodes call, and that uses all their ways at once."""
    parts = [_HEAD.format(router_id(name)), _BFD]
    for one in ends:
        family = Family.of(one.own)
        channel = _channel(family)
        parts.append(f"protocol kernel {{ merge paths on; {channel} {{ import none; export where source = RTS_BGP; }}; }}\n")
        lines = [
            f"local {one.own} as {one.own_asn};",
            f"neighbor range {one.network} as {one.peer_asn};",
            f'dynamic name "{channel}_";',
            f"passive yes; strict bind yes; bfd yes; hold time {one.hold_seconds};",
            f"error wait time 1, {_RETRY_SECONDS};",  # or who was away would be kept out for a minute
            *_password(one.password),
            f"{channel} {{ import where net ~ [ {one.told}{{{family.bits},{family.bits}}} ]; export none; }};",
        ]
        parts.append(_block(f"protocol bgp nodes_{channel}", lines))
    return "".join(parts)


def _password(text: str) -> list[str]:
    return [f'password "{text}";'] if text else []


def _block(head: str, lines: Iterable[str]) -> str:
    return f"{head} {{\n" + "".join(f"  {line}\n" for line in lines) + "}\n"


def _channel(family: Family) -> str:
    """BIRD's word for a family's routes."""
    return family.value.lower()
