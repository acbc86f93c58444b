"""Addresses and CIDRs as texts and as arithmetic.

Rule of this file: a text becomes a value in one place and comes back in one form (RFC 5952 for
IPv6). Three strictnesses exist, as Kubernetes 1.36 has them (spec/api.md 8.4): *canonical* accepts
only the canonical text, *strict* any RFC 4291 spelling but neither leading zeros in an IPv4 octet nor
an IPv4-mapped IPv6 address; a CIDR must besides have no host bits, unless it is asked to be masked.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, Family, Network


def parse_address(text: str, *, canonical: bool = False) -> Address:
    """The address that a text means; AddressError when it means none, or is not canonical where asked."""
    known = _written.get(text)
    if known is not None:
        return known
    address = _read(text)
    if canonical and str(address) != text:
        raise AddressError(f"{text!r} is not in canonical form, which is {str(address)!r}", str(address))
    return address


def parse_address_sloppily(text: str) -> Address:
    """As Kubernetes reads some flags: leading zeros of an octet mean nothing, and an IPv4-mapped IPv6 address is the IPv4 address in it."""
    try:
        return parse_address(text)
    except AddressError as error:
        if error.suggestion is None or "%" in text:
            raise
        return parse_address(error.suggestion)


# A Service's addresses are written once and read many times on its way; an address is a value, so whoever asks may have the same one.
_written: dict[str, Address] = {}  # by canonical text
_MOST_WRITTEN = 4096


@lru_cache(maxsize=4096)
def _read(text: str) -> Address:
    if "%" in text:
        raise AddressError(f"{text!r} has a zone, which is not allowed here", text.split("%", 1)[0])
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise AddressError(f"{text!r} is not an IP address", _without_leading_zeros(text)) from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise AddressError(f"{text!r} is an IPv4-mapped IPv6 address", str(address.ipv4_mapped))
    return address


def is_canonical(text: str) -> bool:
    """Whether this is an address as :func:`text_of` writes it."""
    return text in _written or _is_canonical(text)


@lru_cache(maxsize=16384)
def _is_canonical(text: str) -> bool:
    try:
        return str(_read(text)) == text
    except AddressError:
        return False


def parse_cidr(text: str, *, canonical: bool = False, masked: bool = False) -> Network:
    """The network that a text means.

    Host bits are refused, or cut off when *masked* is set.
    """
    base, slash, length = text.partition("/")
    if not slash or not length.isascii() or not length.isdigit() or (len(length) > 1 and length[0] == "0"):
        raise AddressError(f"{text!r} is not a CIDR such as 10.0.0.0/16 or fd00::/64")
    address = parse_address(base)
    family = Family.of(address)
    if int(length) > family.bits:
        raise AddressError(f"{text!r} has a prefix longer than {family.bits} bits")
    interface = ipaddress.ip_interface((address, int(length)))
    network: Network = interface.network
    if interface.ip != network.network_address and not masked:
        raise AddressError(f"{text!r} has bits set beyond its prefix; the network is {str(network)!r}", str(network))
    if canonical and str(network) != text:
        raise AddressError(f"{text!r} is not in canonical form, which is {str(network)!r}", str(network))
    return network


def parse_cidrs(text: str, *, masked: bool = False) -> tuple[Network, ...]:
    """The networks of a comma-separated list, in order; AddressError names the first bad entry."""
    return tuple(parse_cidr(part.strip(), masked=masked) for part in text.split(",") if part.strip())


def canonical_text(text: str) -> tuple[Family, str] | None:
    """The family and the canonical text of an address; None when the text means none.

    The same as :func:`parse_address` and ``str``, and an order of magnitude faster for what is canonical already: for whoever has
    very many, each once.
    """
    family = FAMILIES[":" in text]
    if family.facts.plain.fullmatch(text):
        return family, text
    try:
        return family, str(parse_address(text))
    except AddressError:
        return None


def text_of(value: Address | Network) -> str:
    """The canonical text (RFC 5952 for IPv6)."""
    return str(value)


def remember(address: Address, text: str) -> None:
    """Know that this is the canonical text of an address that is about to be read again and again."""
    if len(_written) >= _MOST_WRITTEN:
        _written.clear()
    _written[text] = address


def host_port(address: Address | str, port: int) -> str:
    """``192.0.2.1:80`` or ``[2001:db8::1]:80``."""
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


def nth(network: Network, number: int) -> Address:
    """The address *number* places after the network's first one; AddressError when it lies outside."""
    if not 0 <= number < network.num_addresses:
        raise AddressError(f"{network} has no address number {number}")
    return Family.of(network).address(int(network.network_address) + number)


def block(network: Network, prefix: int, number: int) -> Network:
    """Block *number* of those with this prefix length that the network divides into."""
    family = Family.of(network)
    if prefix < network.prefixlen or not 0 <= number < 1 << (prefix - network.prefixlen):
        raise AddressError(f"{network} has no /{prefix} block number {number}")
    return family.network(int(network.network_address) + (number << (family.bits - prefix)), prefix)


def block_number(network: Network, prefix: int, inner: Network | Address) -> int:
    """The number of the block of this prefix length in which *inner* starts; the inverse of :func:`block`."""
    first = int(inner if isinstance(inner, (ipaddress.IPv4Address, ipaddress.IPv6Address)) else inner.network_address)
    return (first - int(network.network_address)) >> (Family.of(network).bits - prefix)


def contains(outer: Network, inner: Address | Network) -> bool:
    """Whether *inner* lies in *outer*, which the other family never does."""
    if outer.version != inner.version:
        return False
    if isinstance(inner, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return inner in outer
    return outer.prefixlen <= inner.prefixlen and inner.network_address in outer


def overlap(one: Network, other: Network) -> bool:
    """Whether the two share an address."""
    return contains(one, other) or contains(other, one)


def overlaps(named: Sequence[tuple[str, Network]]) -> Iterable[tuple[tuple[str, Network], tuple[str, Network]]]:
    """Every pair of named networks that share an address."""
    for i, one in enumerate(named):
        for other in named[i + 1 :]:
            if overlap(one[1], other[1]):
                yield one, other


def collapsed(networks: Iterable[Network]) -> list[Network]:
    """Networks of one family as the fewest disjoint ones that cover the same addresses, in order."""
    result: list[Network] = list(ipaddress.collapse_addresses(networks))  # type: ignore[type-var]
    return result


def families_of(values: Iterable[Address | Network]) -> tuple[Family, ...]:
    """The family of each value, in order."""
    return tuple(Family.of(value) for value in values)


def _without_leading_zeros(text: str) -> str | None:
    """The IPv4 address that was probably meant by ``010.0.0.1``."""
    octets = text.split(".")
    if len(octets) != 4 or not all(octet.isascii() and octet.isdigit() for octet in octets):
        return None
    plain = ".".join(str(int(octet)) for octet in octets)
    return plain if all(int(octet) < 256 for octet in octets) else None
