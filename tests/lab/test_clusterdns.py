"""A lab's DNS on paper: its well-known addresses, its Service and slices."""

from __future__ import annotations

import pytest

from twinstack.lab import clusterdns
from twinstack.lab.topology import Request, Topology, plan
from twinstack.net.family import FAMILIES


def topology(**asked: str) -> Topology:
    planned = plan(Request(**asked))  # type: ignore[arg-type]
    assert isinstance(planned, Topology)
    return planned


@pytest.mark.parametrize("families", [FAMILIES[:1], FAMILIES[1:], FAMILIES, FAMILIES[::-1]], ids=str)
def test_the_service_has_the_tenth_address_of_each_range_and_a_slice_of_each_family(families) -> None:
    one = topology(families=",".join(map(str, families)))
    wanted = [{"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::a"}[family.value] for family in families]
    assert list(map(str, clusterdns.addresses(one))) == wanted
    (_, service), *slices = clusterdns.objects(one)
    assert service["spec"]["clusterIPs"] == wanted and service["spec"]["ipFamilies"] == [family.value for family in families]
    assert service["spec"]["ipFamilyPolicy"] == ("PreferDualStack" if len(families) > 1 else "SingleStack")
    found = {document["addressType"]: document["endpoints"][0]["addresses"] for _, document in slices}
    assert found == {family.value: [str(one.control_plane.addresses[family])] for family in families}
    for _, document in slices:
        assert document["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
        assert [(port["name"], port["protocol"]) for port in document["ports"]] == [(port["name"], port["protocol"]) for port in service["spec"]["ports"]]


@pytest.mark.parametrize(("cidr", "address"), [("10.0.0.0/29", "10.0.0.2"), ("10.0.0.0/28", "10.0.0.10"), ("fd00::/125", "fd00::2"), ("fd00::/124", "fd00::a")])
def test_a_small_range_has_the_dns_at_its_second_address(cidr, address) -> None:
    one = topology(families="IPv6" if ":" in cidr else "IPv4", service_cidr=cidr)
    assert list(map(str, clusterdns.addresses(one))) == [address]
