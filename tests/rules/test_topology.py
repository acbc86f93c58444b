"""Which zone an endpoint is meant for."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import Endpoint, EndpointConditions, Node
from twinstack.api.objects import view_of
from twinstack.rules.topology import Zones, hints_for, zones_of

EVEN = Zones({"a": Fraction(1, 2), "b": Fraction(1, 2)})


def node(name, zone="a", cpu="2", *, ready="True", **labels):
    labels |= {"topology.kubernetes.io/zone": zone} if zone else {}
    status = {"conditions": [{"type": "Ready", "status": ready}], "allocatable": {"cpu": cpu} if cpu else {}}
    return view_of(Node, {"metadata": {"name": name, "labels": labels}, "status": status})


def endpoints(**zones):
    made = {}
    for zone, count in zones.items():
        for number in range(count):
            name = f"{zone}{number:03}"
            made[(name,), "", "default", name] = Endpoint(addresses=[name], conditions=EndpointConditions(ready=True), zone=None if zone == "none" else zone)
    return made


@pytest.mark.parametrize(
    "nodes, shares, why",
    [
        pytest.param([node("1"), node("2", "b", "6")], {"a": Fraction(1, 4), "b": Fraction(3, 4)}, "", id="by CPUs"),
        pytest.param([node("1"), node("2", "b", "2000m"), node("3", "c", ready="False")], {"a": Fraction(1, 2), "b": Fraction(1, 2)}, "", id="of ready nodes"),
        pytest.param(
            [node("1"), node("2", "b"), node("3", "", **{"node-role.kubernetes.io/control-plane": ""})],
            {"a": Fraction(1, 2), "b": Fraction(1, 2)}, "", id="without the control plane's",
        ),
        pytest.param([node("1"), node("2", "b"), node("3", "")], {}, "node 3 tells no zone", id="a node without a zone spoils it"),
        pytest.param([node("1"), node("2", "b", "")], {}, "node 2 tells no zone or no allocatable CPU", id="so does one without CPUs"),
        pytest.param([node("1"), node("2")], {}, "1 zones", id="one zone has nobody to keep traffic from"),
    ],
)  # fmt: skip
def test_zones_have_shares(nodes, shares, why):
    found = zones_of(nodes)
    assert (found.shares, why in found.why_not, bool(found.why_not)) == (shares, True, bool(why))


@pytest.mark.parametrize(
    "there, why",
    [
        pytest.param({"a": 1}, "too few", id="fewer than zones"),
        pytest.param({"a": 2, "b": 1}, "overloading", id="three for two halves"),
        pytest.param({"a": 2, "none": 2}, "tells no zone", id="one without a zone"),
    ],
)
def test_there_are_no_hints_where_they_would_do_harm(there, why):
    found = hints_for(endpoints(**there), {}, EVEN)
    assert found.zones == {} and why in found.why_not


def test_each_is_meant_for_its_own_zone_when_that_is_even():
    there = endpoints(a=3, b=3)
    assert hints_for(there, {}, EVEN).zones == {identity: one.zone for identity, one in there.items()}


def test_zones_that_have_too_many_lend_and_what_is_lent_stays_lent():
    there = endpoints(a=9, b=1)
    first = hints_for(there, {}, EVEN).zones
    assert Counter(first.values()) == {"a": 5, "b": 5}
    there |= endpoints(a=10)
    second = hints_for(there, first, EVEN).zones
    assert {identity: second[identity] for identity in first} == first


def test_one_that_is_not_ready_is_not_counted_and_has_none():
    there = endpoints(a=2, b=2)
    identity = next(iter(there))
    there[identity] = Endpoint(addresses=["x"], conditions=EndpointConditions(ready=False), zone="a")
    assert hints_for(there, {}, EVEN).why_not
    there |= {(("y",), "", "default", "y"): Endpoint(addresses=["y"], conditions=EndpointConditions(ready=True), zone="a")}
    assert identity not in hints_for(there, {}, EVEN).zones


def test_an_endpoint_in_a_zone_without_nodes_is_lent():
    found = hints_for(endpoints(a=2, b=1, gone=1), {}, EVEN).zones
    assert Counter(found.values()) == {"a": 2, "b": 2}


@given(st.lists(st.integers(0, 30), min_size=2, max_size=5), st.lists(st.integers(1, 9), min_size=5, max_size=5))
def test_nobody_is_overloaded_by_more_than_a_fifth_and_the_own_result_stands(counts, cpus):
    names = [chr(ord("a") + place) for place in range(len(counts))]
    there = endpoints(**dict(zip(names, counts, strict=True)))
    zones = zones_of([node(name, name, str(cpu)) for name, cpu in zip(names, cpus, strict=False)])
    found = hints_for(there, {}, zones)
    if not found.why_not:
        held = Counter(found.zones.values())
        assert found.zones.keys() == there.keys()
        assert all(zones.shares[name] * len(there) <= held[name] * Fraction(12, 10) for name in names)
        assert hints_for(there, found.zones, zones) == found
