"""The routers that nodes tell load balancers' addresses by BGP, as a file or ConfigMap names them.

Rule of this file: an entry in; a peer, or every problem. A peer is told the routes of its own address's family and no others: one
session for each family, so that one that breaks takes nothing of its twin with it.

::

    peerAddress: 172.30.0.1     # a router on the node's own link
    peerASN: 64512
    myASN: 64513                # the nodes' own; the same number makes the session an internal one
    peerPort: 179
    holdTimeSeconds: 9          # silence after which the router forgets a node (RFC 4271 4.2), 3 or more
    gracefulRestartSeconds: 0   # how long the router keeps a node's routes while its speaker is restarted (RFC 4724); 0: it takes them back when it stops
    ebgpMultiHop: false         # the router is farther away than one hop
    bfd: false                  # find a dead node in a second (RFC 5880), where the router speaks it, too
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Address

MOST_ASN = 0xFFFFFFFE  # the last is reserved (RFC 7300)


class Peer(NamedTuple):
    """A router, and how a node speaks with it."""

    address: Address
    asn: int
    own_asn: int
    port: int = 179
    hold_seconds: int = 9
    restart_seconds: int = 0
    multihop: bool = False
    bfd: bool = False


# each number's field, its least, its most, and what it is when nothing is said; None: it must be said
_NUMBERS: Mapping[str, tuple[int, int, int | None]] = {
    "peerASN": (1, MOST_ASN, None),
    "myASN": (1, MOST_ASN, None),
    "peerPort": (1, 65535, 179),
    "holdTimeSeconds": (3, 65535, 9),
    "gracefulRestartSeconds": (0, 4095, 0),
}
_SWITCHES = ("ebgpMultiHop", "bfd")
_FIELDS = ("peerAddress", *_NUMBERS, *_SWITCHES)


def document_of(peer: Peer) -> dict[str, Any]:
    """What :func:`peers_of` reads back."""
    return dict(zip(_FIELDS, (str(peer.address), *peer[1:]), strict=True))


def peers_of(entries: Any, problems: list[str]) -> list[Peer]:
    """The peers of a list of entries, of which what is wrong is added to *problems*."""
    if entries is None:
        return []
    if not isinstance(entries, list):
        problems.append("peers: not a list")
        return []
    found: dict[Address, Peer] = {}
    for i, entry in enumerate(entries):
        peer = _peer(f"peers[{i}]", entry, problems)
        if peer is not None and peer.address in found:
            problems.append(f"peers[{i}].peerAddress: {peer.address} is named twice")
        elif peer is not None:
            found[peer.address] = peer
    return list(found.values())


def _peer(where: str, entry: Any, problems: list[str]) -> Peer | None:
    if not isinstance(entry, Mapping):
        problems.append(f"{where}: not a mapping")
        return None
    wrong = [f"{where}.{key}: not a field; these are: {', '.join(_FIELDS)}" for key in entry if key not in _FIELDS]
    numbers = []
    for field, (least, most, default) in _NUMBERS.items():
        value = entry.get(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            wrong.append(f"{where}.{field}: {value!r} is not a number from {least} to {most}")
        numbers.append(value)
    switches = [entry.get(field, False) for field in _SWITCHES]
    wrong += [f"{where}.{field}: {value!r} is neither true nor false" for field, value in zip(_SWITCHES, switches, strict=True) if not isinstance(value, bool)]
    try:
        address = parse_address(str(entry.get("peerAddress", "")))
    except AddressError as error:
        wrong.append(f"{where}.peerAddress: {error}")
    problems += wrong
    return None if wrong else Peer(address, *numbers, *switches)
