"""Texts to addresses and networks and back."""

from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from twinstack.net import cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None and address.scope_id is None))


@st.composite
def networks(draw):
    address = draw(addresses)
    return ipaddress.ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)


@given(addresses)
def test_an_address_survives_its_text(address):
    assert cidr.parse_address(cidr.text_of(address), canonical=True) == address


@given(networks())
def test_a_network_survives_its_text(network):
    assert cidr.parse_cidr(cidr.text_of(network), canonical=True) == network


@pytest.mark.parametrize(
    "text, canonical, suggestion",
    [
        pytest.param("010.0.0.1", False, "10.0.0.1", id="leading zeros are refused and the plain text proposed"),
        pytest.param("::ffff:10.0.0.1", False, "10.0.0.1", id="a mapped address is refused and the IPv4 one proposed"),
        pytest.param("2001:DB8::1", True, "2001:db8::1", id="upper case is not canonical"),
        pytest.param("fe80::1%eth0", False, "fe80::1", id="a zone is refused"),
        pytest.param("10.0.0", False, None, id="three octets are no address"),
        pytest.param("", False, None, id="nothing is no address"),
    ],
)
def test_a_bad_address_is_refused(text, canonical, suggestion):
    with pytest.raises(AddressError) as caught:
        cidr.parse_address(text, canonical=canonical)
    assert caught.value.suggestion == suggestion


@pytest.mark.parametrize(
    "text, suggestion",
    [
        pytest.param("10.0.0.1/16", "10.0.0.0/16", id="host bits are refused and the network proposed"),
        pytest.param("10.0.0.0", None, id="no prefix length"),
        pytest.param("10.0.0.0/33", None, id="a prefix longer than the address"),
        pytest.param("fd00::/129", None, id="a prefix longer than the address, in the other family"),
        pytest.param("10.0.0.0/08", None, id="a prefix with a leading zero"),
        pytest.param("10.0.0.0/255.0.0.0", None, id="a netmask is no prefix length"),
    ],
)
def test_a_bad_cidr_is_refused(text, suggestion):
    with pytest.raises(AddressError) as caught:
        cidr.parse_cidr(text)
    assert caught.value.suggestion == suggestion


def test_host_bits_are_cut_off_where_asked():
    assert str(cidr.parse_cidr("192.0.2.1/24", masked=True)) == "192.0.2.0/24"


@given(networks(), st.data())
def test_a_block_is_found_again_by_its_number(network, data):
    family = Family.of(network)
    prefix = data.draw(st.integers(network.prefixlen, min(family.bits, network.prefixlen + 20)))
    number = data.draw(st.integers(0, (1 << (prefix - network.prefixlen)) - 1))
    block = cidr.block(network, prefix, number)
    assert cidr.contains(network, block)
    assert cidr.block_number(network, prefix, block) == number


@given(networks(), networks())
def test_overlap_is_symmetric_and_never_across_families(one, other):
    assert cidr.overlap(one, other) == cidr.overlap(other, one)
    if one.version != other.version:
        assert not cidr.overlap(one, other)


def test_a_port_after_an_ipv6_address_needs_brackets():
    assert [cidr.host_port(family.facts.loopback, 80) for family in FAMILIES] == ["127.0.0.1:80", "[::1]:80"]


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_our_own_error(text):
    for parse in (cidr.parse_address, cidr.parse_cidr):
        with contextlib.suppress(AddressError):
            parse(text)


GROUPS = st.lists(st.sampled_from(["0", "1", "a", "ff", "10", "0a", "fff0", ""]), max_size=9).map(":".join)
OCTETS = st.lists(st.sampled_from(["0", "1", "10", "99", "100", "255", "256", "01", ""]), min_size=3, max_size=5).map(".".join)


@given(st.one_of(st.ip_addresses().map(str), GROUPS, OCTETS, st.text(alphabet="0123456789abcdef:.%/ -", max_size=40)))
@example("::ffff:192.0.2.1")
@example("01.2.3.4")
@example("1.2.3")
@example("fd00::00:1")
@example("fe80::1%eth0")
@example("")
@example("::1.2.3.4")
def test_the_quick_way_to_a_canonical_text_finds_what_the_slow_one_finds(text):
    try:
        address = cidr.parse_address(text)
    except AddressError:
        assert cidr.canonical_text(text) is None
    else:
        assert cidr.canonical_text(text) == (Family.of(address), str(address))
