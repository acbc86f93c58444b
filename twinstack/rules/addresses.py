"""What address texts in documents must look like, and which addresses no endpoint may have (spec/api.md 8.4, appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twinstack.api.errors import FieldProblem
from twinstack.net.cidr import contains, parse_address, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import Family
from twinstack.rules.problems import internal, wrong


def address_problem(text: str, *, canonical: bool = False) -> str | None:
    """Why this is no address text: leading zeros and IPv4-mapped addresses are refused, other spellings only on demand."""
    try:
        parse_address(text, canonical=canonical)
    except AddressError as error:
        return f"must be an IP address, such as {error.suggestion or '10.9.8.7 or 2001:db8::ffff'}"
    return None


def special_problem(text: str) -> str | None:
    """Why nobody can be reached at this address from another host."""
    try:
        address = parse_address(text)
    except AddressError as error:
        if error.suggestion is None:
            return "must be an IP address"
        address = parse_address(error.suggestion)
    if address.is_unspecified:
        return f"must not be the unspecified address ({Family.of(address).facts.unspecified})"
    if address.is_loopback:
        return f"must not be a loopback address ({Family.of(address).facts.loopback_network})"
    if address.is_link_local:
        return f"must not be a link-local address ({Family.of(address).facts.link_local})"
    if contains(parse_cidr(Family.of(address).facts.link_local_multicast), address):
        return "must not be a link-local multicast address"
    return None


def problems_with_pair(texts: Sequence[str], path: str, *, what: str, families: Sequence[Family | None]) -> Iterator[FieldProblem]:
    """Two or more must be one of each family, and more than two are too many; *families* has None where a text is malformed."""
    if len(texts) < 2:
        return
    if None in families:
        yield internal(path, f"families cannot be told while a {what} is malformed")
    if len(texts) > 2 or len(set(families)) < 2 or None in families:
        yield wrong(path, list(texts), f"must hold at most two {what}s, one of each family")
