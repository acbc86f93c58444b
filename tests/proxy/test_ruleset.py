"""The laws of the proxy's table, over Services of every kind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import Table, Verdict, apply, difference, whole
from twinstack.dataplane.trace import Packet, trace
from twinstack.kernel import namespaces, nftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy import recalling
from twinstack.proxy.ruleset import Options, Shape, capacity_for
from twinstack.proxy.services import ServicePort

BASES = {Family.IPV4: 10 << 24, Family.IPV6: 0xFD << 120}


def address(family: Family, number: int) -> str:
    return str(family.address(BASES[family] + number))


# Everything about a Service but its family: addresses are numbers.
ports = st.fixed_dictionaries(
    {
        "number": st.integers(0, 5),
        "protocol": st.sampled_from(["tcp", "udp", "sctp"]),
        "port": st.integers(1, 3),
        "node_port": st.sampled_from([0, 0, 30000, 30001]),
        "externals": st.sets(st.integers(100, 102), max_size=2),
        "balancers": st.sets(st.integers(110, 112), max_size=2),
        "sources": st.none() | st.sets(st.integers(0, 3), min_size=1, max_size=2),
        "cluster": st.sets(st.integers(200, 209), max_size=4),
        "local": st.sets(st.integers(200, 209), max_size=3),
        "internal_local": st.booleans(),
        "external_local": st.booleans(),
        "also": st.booleans(),
        "affinity": st.sampled_from([0, 0, 60, 10800]),
    }
)
services = st.lists(ports, max_size=6, unique_by=lambda one: (one["number"], one["protocol"], one["port"]))
options = st.sampled_from(["pods", "all", "bridge", "none", "everywhere"])


def in_family(one: dict, family: Family) -> ServicePort:
    def backends(numbers):
        return tuple((address(family, number), 8000 + number) for number in sorted(numbers))

    def texts(numbers):
        return tuple(address(family, number) for number in sorted(numbers))

    cluster, local = backends(one["cluster"]), backends(one["local"])
    return ServicePort(
        name=f"ns/svc{one['number']}:{one['port']}",
        protocol=one["protocol"],
        address=address(family, one["number"]),
        port=one["port"],
        node_port=one["node_port"],
        externals=texts(one["externals"]),
        balancers=texts(one["balancers"]),
        sources=None if one["sources"] is None else tuple(source(family, number) for number in sorted(one["sources"])),
        cluster=cluster,
        local=local,
        exists=bool(cluster or local or one["also"]),
        internal_local=one["internal_local"],
        external_local=one["external_local"],
        affinity_seconds=one["affinity"],
        here=frozenset(texts(one["local"])),
    )


def source(family: Family, number: int) -> str:
    return str(family.network(BASES[family] + (number << 12), family.bits - 12))


def options_of(name: str, family: Family) -> Options:
    pods = ("saddr", str(family.network(BASES[family], family.bits - 16)))
    return {
        "pods": Options(pods=pods), "all": Options(masquerade_all=True), "bridge": Options(pods=("iifname", '"cni0"')), "none": Options(),
        "everywhere": Options(pods=pods, node_ports=(family.facts.everything,)),
    }[name]  # fmt: skip


def table(family: Family, some: list[dict], option: str = "pods") -> Table:
    own = [in_family(one, family) for one in some]
    ranges = [str(family.network(BASES[family], family.bits - 4))]
    return Shape(family, options_of(option, family)).table(own, node_addresses=[address(family, 60000)], service_cidrs=ranges)


families = st.sampled_from(FAMILIES)


@given(families, services, services)
def test_a_difference_leads_from_any_services_to_any_others(family, some, others):
    before, after = table(family, some), table(family, others)
    assert apply(difference(before, after), before) == after


@given(families, services, st.randoms(use_true_random=False))
def test_no_order_of_services_matters(family, some, random):
    shuffled = list(some)
    random.shuffle(shuffled)
    assert table(family, shuffled) == table(family, some)


@given(services, options)
def test_swapping_the_twins_swaps_the_rules(some, option):
    one, other = (table(family, some, option) for family in FAMILIES)
    assert _as_the_twin(text.listing(one), FAMILIES[0], some, option) == _as_the_twin(text.listing(other), FAMILIES[1], some, option)


def _as_the_twin(listing: str, family: Family, some: list[dict], option: str) -> list[str]:
    """The listing with all that tells the family taken out: its words, and its addresses by number."""
    numbers = {60000, *(one["number"] for one in some)}.union(*(one[name] for one in some for name in ("externals", "balancers", "cluster", "local")))
    facts = family.facts
    words = {address(family, number): f"<{number}>" for number in numbers}
    for one in some:
        for number in one["sources"] or ():
            words[source(family, number)] = f"<source {number}>"
    words |= {
        str(family.network(BASES[family], family.bits - 16)): "<pods>", str(family.network(BASES[family], family.bits - 4)): "<range>",
        facts.everything: "<all>", facts.loopback_network: "<loopback>", facts.loopback: "<loopback>", facts.nft_family: "<ip>",
    }  # fmt: skip
    lines = []
    for line in listing.splitlines():
        tokens = line.replace(",", " , ").split()
        lines.append(" ".join(words.get(token, token) for token in tokens))
    return sorted(line.removeprefix("elements = { ").removesuffix(" ,").removesuffix(" }") for line in lines)


@given(families, services, options)
def test_every_verdict_leads_somewhere_and_every_pick_finds_its_endpoints(family, some, option):
    made = table(family, some, option)
    own = frozenset({address(family, 60000)})
    client = address(family, 1000)
    for one in some:
        port = in_family(one, family)
        outcomes = trace([made], Packet(client, port.protocol, port.address, port.port, "cni0"), local=own)
        wanted = {backend[0] for backend in (port.local if port.internal_local else port.cluster)}
        if wanted:
            assert {outcome.destination for outcome in outcomes if outcome.verdict == "accept"} == wanted
        elif not wanted:
            expected = "drop" if port.internal_local and port.exists else "reject"
            assert {outcome.verdict for outcome in outcomes} == {expected}


@given(families, services)
def test_rules_do_not_multiply_with_services(family, some):
    made, empty = table(family, some), table(family, [])
    more = sum(len(chain.rules) for chain in made.chains.values()) - sum(len(chain.rules) for chain in empty.chains.values())
    pairs = {(len(one["cluster"]), len(one["local"]), bool(one["affinity"])) for one in some}
    timeouts = {one["affinity"] for one in some} - {0}
    of_affinity = sum(len(chain.rules) for chain in recalling.chains()) if timeouts else 0
    assert more <= 20 * len(pairs) + 2 * len(timeouts) + of_affinity
    assert Verdict("reject") not in [value for held in made.elements.values() for value in held.values()]


@pytest.mark.parametrize("most, capacity", [(0, 32), (32, 32), (33, 96), (96, 96), (97, 160), (1000, 1056)])
def test_capacity_grows_in_steps(most, capacity):
    assert capacity_for(most) == capacity >= most


@pytest.mark.kernel
@pytest.mark.slow
def test_the_kernel_accepts_every_table_and_every_difference(lab):
    with nftables.Nftables(lab.paths["b"]) as ruleset:

        @settings(max_examples=120)
        @given(families, services, services, options)
        def accepted(family, some, others, option):
            before, after = table(family, some, option), table(family, others, option)
            nftables.apply(ruleset, whole(before))
            nftables.apply(ruleset, difference(before, after))
            held = nftables.read_table(ruleset, family, after.name)
            assert held == after

        accepted()

        @settings(max_examples=300)
        @given(families, services, options)
        def checked(family, some, option):
            nftables.apply(ruleset, whole(table(family, some, option)), check=True)

        checked()
    assert namespaces.exists(lab.paths["b"])
