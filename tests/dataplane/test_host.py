"""The difference of two states of a host, without a kernel."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.dataplane.host import Address, Link, Route, Step, Sysctl, Value, difference, text_of
from twinstack.net.family import FAMILIES

V4, V6 = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("fd00::1")
LINKS = [Link("br0", "bridge"), Link("br0", "bridge", up=False), Link("one", "veth", peer="two"), Link("one", "bridge"), Link("lo")]
ADDRESSES = [Address("br0", V4, 24), Address("br0", V4, 16), Address("one", V6, 64), Address("one", V6, 64, scope="link")]
ROUTES = [
    Route(ipaddress.ip_network("10.1.0.0/24"), "br0", V4),
    Route(ipaddress.ip_network("10.1.0.0/24"), "br0", V4, metric=7),
    Route(ipaddress.ip_network("fd01::/64"), "one", V6),
    Route(ipaddress.ip_network("fd01::/64"), "one", V6, metric=1024),
    Route(ipaddress.ip_network("fd01::/64"), "one"),
]
SYSCTLS = [Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv4/ip_forward", "0")]


def states() -> st.SearchStrategy[list[Value]]:
    """States of a host: at most one link of a name, one value of a parameter, one route to a destination at a metric."""
    return st.lists(st.sampled_from([*LINKS, *ADDRESSES, *ROUTES, *SYSCTLS]), unique_by=identity)


def identity(value: Value) -> object:
    match value:
        case Link():
            return value.name
        case Route():
            return value.destination, value.metric or value.family.facts.route_metric
        case Sysctl():
            return value.key
    return value


def performed(steps: Iterable[Step], state: Iterable[Value]) -> set[Value]:
    """A kernel that does as it is told: a route replaces its like, a link takes what is on it along."""
    held = {identity(settled(one)): settled(one) for one in state}
    for verb, value in steps:
        if verb == "remove":
            held.pop(identity(settled(value)), None)
        else:
            held[identity(settled(value))] = settled(value)
    return set(held.values())


def settled(value: Value) -> Value:
    return value._replace(metric=value.metric or value.family.facts.route_metric, onlink=False) if isinstance(value, Route) else value


def kept(state: Iterable[Value]) -> set[Value]:
    """What of a state can be removed again: neither parameters nor links of somebody else."""
    return {settled(one) for one in state if not isinstance(one, Sysctl) and not (isinstance(one, Link) and not one.kind)}


@given(before=states(), after=states())
def test_the_steps_lead_from_one_state_to_the_other(before: list[Value], after: list[Value]) -> None:
    assert kept(performed(difference(before, after), before)) == kept(after)


@given(state=states())
def test_there_are_no_steps_to_where_one_is(state: list[Value]) -> None:
    assert difference(state, state) == []


@given(before=states(), after=states())
def test_parameters_come_first_then_down_the_pile_then_up(before: list[Value], after: list[Value]) -> None:
    order = [("add", Sysctl), ("remove", Route), ("remove", Address), (None, Link), ("add", Address), ("add", Route)]
    places = [order.index((None if isinstance(value, Link) else verb, type(value))) for verb, value in difference(before, after)]
    assert places == sorted(places)


def test_a_metric_that_is_left_open_agrees_with_the_kernels_own() -> None:
    for family in FAMILIES:
        wanted = Route(ipaddress.ip_network(family.facts.everything), "eth0", ipaddress.ip_address(family.facts.pod_gateway), onlink=True)
        assert difference([wanted._replace(metric=family.facts.route_metric, onlink=False)], [wanted]) == []


def test_what_a_wanted_link_leaves_open_agrees_with_anything() -> None:
    observed = Link("br0", "bridge", mac="02:00:00:00:00:01", mtu=1500, number=7)
    assert difference([observed], [Link("br0", "bridge")]) == []
    assert difference([observed], [Link("br0", "bridge", mtu=1400)]) == [Step("change", Link("br0", "bridge", mtu=1400))]


def test_a_link_of_another_kind_is_made_anew_and_somebody_elses_is_left() -> None:
    assert [step.verb for step in difference([Link("one", "bridge")], [Link("one", "veth", peer="two")])] == ["remove", "add"]
    assert difference([Link("eth0")], []) == []


@pytest.mark.parametrize(
    "value, text",
    [
        (Link("one", "veth", peer="two", mtu=1400), "link one type veth mtu 1400 peer two up"),
        (Link("lo", up=False), "link lo down"),
        (Address("lo", V6, 128, scope="link"), "address fd00::1/128 dev lo scope link"),
        (Route(ipaddress.ip_network("::/0"), "eth0", V6, V6, 5, True), "route ::/0 via fd00::1 dev eth0 src fd00::1 metric 5 onlink"),
        (Sysctl("net/ipv4/ip_forward", "1"), "sysctl net/ipv4/ip_forward = 1"),
    ],
)
def test_a_value_prints_itself_in_the_words_of_ip(value: Value, text: str) -> None:
    assert text_of(value) == text
