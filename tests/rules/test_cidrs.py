"""Service ranges as flags, as bands, as ServiceCIDRs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.net.cidr import nth, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.cidrs import Band, address_band, hands_out, parse_port_range, parse_service_ranges, port_band

F4, F6 = FAMILIES


@pytest.mark.parametrize(
    "cidr, usable, reserved",
    [
        pytest.param("192.168.0.0/29", 6, 0, id="six addresses have no bands"),
        pytest.param("192.168.0.0/28", 14, 0, id="fourteen neither"),
        pytest.param("192.168.0.0/27", 30, 16, id="at least sixteen are kept"),
        pytest.param("10.0.0.0/24", 254, 16, id="a sixteenth"),
        pytest.param("10.0.0.0/22", 1022, 64, id="a sixteenth of a thousand"),
        pytest.param("10.0.0.0/16", 65534, 256, id="never more than 256"),
        pytest.param("10.0.0.0/8", 2**24 - 2, 256, id="however large"),
        pytest.param("0.0.0.0/0", 2**32 - 2, 0, id="of everything, none"),
        pytest.param("2001:db8::/125", 7, 0, id="IPv6 has no broadcast address"),
        pytest.param("2001:db8::/124", 15, 0, id="IPv6, fifteen"),
        pytest.param("2001:db8::/122", 63, 16, id="IPv6, at least sixteen"),
        pytest.param("2001:db8::/116", 4095, 256, id="IPv6, a sixteenth"),
        pytest.param("2001:db8::/108", 1048575, 256, id="IPv6, never more than 256"),
        pytest.param("2001:db8::/64", 2**64 - 1, 256, id="the largest IPv6 range"),
        pytest.param("2001:db8::/127", 1, 0, id="IPv6, one"),
    ],
)
def test_the_bands_of_a_range(cidr, usable, reserved):
    network = parse_cidr(cidr)
    first = int(network.network_address) + 1
    assert address_band(network) == Band(first, first + usable - 1, reserved)


@pytest.mark.parametrize("cidr", ["10.0.0.0/31", "10.0.0.0/32", "2001:db8::/128", "2001:db8::/63", "::/0"])
def test_ranges_that_hand_out_nothing(cidr):
    assert address_band(parse_cidr(cidr)) is None


@given(family=st.sampled_from(FAMILIES), prefix=st.integers(0, 60), number=st.integers(0, 2**32))
def test_an_address_of_a_pool_is_one_that_its_range_hands_out(family, prefix, number):
    network = family.network(0, family.bits - min(prefix, family.bits - 2))
    band = address_band(network)
    address = nth(network, number % network.num_addresses)
    if band is not None:
        assert hands_out(network, address) == (band.first <= int(address) <= band.last)


@pytest.mark.parametrize(
    "text, families",
    [
        pytest.param("10.96.0.0/16", (F4,), id="one family"),
        pytest.param("10.96.0.0/16,fd00::/112", (F4, F6), id="both"),
        pytest.param("fd00::/112,10.96.0.0/16", (F6, F4), id="the first is primary"),
        pytest.param("10.96.0.1/16", (F4,), id="host bits are cut off"),
        pytest.param("", (F4,), id="nothing said: the default"),
        pytest.param("fd00::/56", (F6,), id="larger than any pool, which is accepted"),
        pytest.param("10.0.0.0/29", (F4,), id="eight addresses"),
        pytest.param("10.0.0.0/16,fd00::/128", (F4, F6), id="the second may be as small as it likes"),
    ],
)
def test_flags_that_mean_ranges(text, families):
    ranges = parse_service_ranges(text)
    assert tuple(ranges) == families
    assert all(Family.of(network) is family for family, network in ranges.items())


@pytest.mark.parametrize(
    "text, told",
    [
        pytest.param("10.96.0.0", "[0]", id="no prefix"),
        pytest.param("10.96.0.0/16,x", "[1]", id="the second is malformed"),
        pytest.param("10.96.0.0/16, fd00::/112", "[1]", id="a space"),
        pytest.param("10.96.0.0/30", "too small", id="fewer than eight addresses"),
        pytest.param("fd00::/126", "too small", id="fewer than eight addresses of the other family"),
        pytest.param("0.0.0.0/1", "too large", id="half of everything"),
        pytest.param("10.1.0.0/16,10.2.0.0/16", "one of each family", id="two of one family"),
        pytest.param("10.1.0.0/16,fd00::/112,10.2.0.0/16", "3 CIDRs", id="three"),
    ],
)
def test_flags_that_do_not(text, told):
    with pytest.raises(AddressError, match=r"--service-cluster-ip-range") as found:
        parse_service_ranges(text)
    assert told in str(found.value)


@pytest.mark.parametrize(
    "text, ports", [("", (30000, 32767)), ("30000-32767", (30000, 32767)), ("30000+10", (30000, 30010)), ("30000", (30000, 30000)), ("1-65535", (1, 65535))]
)
def test_port_ranges(text, ports):
    assert parse_port_range(text) == ports


@pytest.mark.parametrize("text", ["x", "30000-", "-1", "32767-30000", "1-65536", "1-2-3", "60000+10000"])
def test_texts_that_are_no_port_ranges(text):
    with pytest.raises(AddressError, match="--service-node-port-range"):
        parse_port_range(text)


@pytest.mark.parametrize("first, last, reserved", [(30000, 32767, 86), (30000, 30015, 0), (30000, 30016, 16), (1, 65535, 128)])
def test_the_bands_of_the_node_ports(first, last, reserved):
    assert port_band(first, last) == Band(first, last, reserved)
