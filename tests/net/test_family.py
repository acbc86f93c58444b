"""The table of differences, and values by family."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from twinstack.net.family import FAMILIES, ByFamily, Family


@pytest.mark.parametrize("family", FAMILIES)
def test_the_facts_of_a_family_agree_with_the_machine(family):
    facts = family.facts
    assert facts.socket_family == {4: socket.AF_INET, 6: socket.AF_INET6}[facts.version]
    for text in (facts.unspecified, facts.loopback, facts.pod_gateway):
        assert Family.of(ipaddress.ip_address(text)) is family
    for text in (facts.everything, facts.loopback_network, facts.link_local, facts.default_pod_cidr, facts.default_service_cidr):
        assert Family.of(ipaddress.ip_network(text)) is family
    assert ipaddress.ip_address(facts.loopback).is_loopback
    assert ipaddress.ip_address(facts.pod_gateway) in ipaddress.ip_network(facts.link_local)
    assert family.other.other is family is not family.other


def test_values_by_family_keep_their_order():
    addresses = [ipaddress.ip_address("fd00::1"), ipaddress.ip_address("10.0.0.1")]
    by_family = ByFamily.of(addresses)
    assert by_family.primary is Family.IPV6
    assert list(by_family.values()) == addresses
    assert by_family.map(lambda family, address: address.version)[Family.IPV4] == 4
    assert by_family != ByFamily.of(reversed(addresses))


def test_two_values_of_one_family_are_refused():
    with pytest.raises(ValueError, match="both IPv4"):
        ByFamily.of([ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("10.0.0.2")])
