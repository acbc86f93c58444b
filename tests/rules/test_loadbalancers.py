"""Load balancers' addresses: pools, what each Service gets of them, and who answers for it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import EndpointSlice, Node, Service
from twinstack.api.objects import Key, view_of
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.family import FAMILIES, ByFamily, Family
from twinstack.rules.balancer_owners import announced, candidates, endpoint_nodes, owner, owners, speakers, spoken_by
from twinstack.rules.balancer_peers import Peer
from twinstack.rules.balancer_pools import BGP, LINK, PoolsError, next_free, parse_configuration, parse_pools, pools_of, text_of_pools
from twinstack.rules.loadbalancers import ADDRESSES, POOL, SHARING, Assignment, Claim, assign, assign_all, claim_of, may_share

V4, V6 = FAMILIES
NETWORKS = {V4: "192.0.2.8/30", V6: "2001:db8::8/126"}
BOTH = pools_of(parse_cidr(text) for text in NETWORKS.values())
ONLY = {family: pools_of([parse_cidr(NETWORKS[family])]) for family in FAMILIES}


def claim(name: str, *families: Family, **more) -> Claim:
    return Claim(Key("default", name), families=families or FAMILIES, **more)


def held(claim_: Claim, *texts: str) -> Claim:
    return claim_._replace(held=tuple(map(parse_address, texts)))


def texts(one: Assignment) -> list[str]:
    return list(map(str, one.addresses))


# ---- pools


def test_pools_are_read_and_written() -> None:
    first = "{name: a, addresses: [192.0.2.0/30, 198.51.100.1-198.51.100.3, 'fd00::/126', 'fd01::1']}"
    text = f"pools: [{first}, {{name: b, addresses: [203.0.113.7], autoAssign: false}}]"
    pools = parse_pools(text)
    assert [(pool.name, pool.size(V4), pool.size(V6), pool.automatic) for pool in pools] == [("a", 7, 5, True), ("b", 1, 0, False)]
    assert parse_pools(text_of_pools(pools)) == pools


def test_pools_are_announced_on_the_link_or_by_bgp_to_peers_of_their_families() -> None:
    second = "{peerAddress: 'fd00::1', peerASN: 4200000000, myASN: 7, peerPort: 1179, gracefulRestartSeconds: 30}"
    peers = f"[{{peerAddress: 192.0.2.1, peerASN: 64512, myASN: 64513, bfd: true}}, {second}]"
    text = f"{{pools: [{{name: a, addresses: [198.51.100.0/30, 'fd02::/126'], announce: bgp}}, {{name: b, addresses: [203.0.113.7]}}], peers: {peers}}}"
    found = parse_configuration(text)
    assert found.peers == (
        Peer(parse_address("192.0.2.1"), 64512, 64513, bfd=True),
        Peer(parse_address("fd00::1"), 4200000000, 7, port=1179, restart_seconds=30),
    )
    ways = {one: found.way_of(parse_address(one)) for one in ("198.51.100.1", "fd02::1", "203.0.113.7", "192.0.2.77")}
    assert list(ways.values()) == [BGP, BGP, LINK, LINK] and found.speaks_bgp
    assert parse_configuration(text_of_pools(found.pools, found.peers)) == found
    assert not parse_configuration("pools: [{name: b, addresses: [203.0.113.7]}]").speaks_bgp


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{pools: [{name: a, addresses: [192.0.2.1], announce: ospf}]}", r"pools\[0\].announce: 'ospf' is neither l2 nor bgp"),
        ("{pools: [{name: a, addresses: [192.0.2.1, 'fd00::1'], announce: bgp}]}", r"has none of IPv4.*has none of IPv6"),
        ("{pools: [], peers: 3}", "peers: not a list"),
        ("{pools: [], peers: [3, {peerAddress: 3}]}", r"peers\[0\]: not a mapping; peers\[1\].peerASN: None is not a number from 1.*peers\[1\].peerAddress: "),
        ("{pools: [], peers: [{peerAddress: 192.0.2.1, peerASN: 1, myASN: true}]}", r"peers\[0\].myASN: True is not a number"),
        ("{pools: [], peers: [{peerAddress: 192.0.2.1, peerASN: 1, myASN: 1, holdTimeSeconds: 2}]}", r"holdTimeSeconds: 2 is not a number from 3"),
        (
            "{pools: [], peers: [{peerAddress: 192.0.2.1, peerASN: 1, myASN: 1, gracefulRestartSeconds: 4096}]}",
            r"gracefulRestartSeconds: 4096 is not a number from 0",
        ),
        ("{pools: [], peers: [{peerAddress: 192.0.2.1, peerASN: 1, myASN: 1, bfd: 1, x: 1}]}", r"peers\[0\].x: not a field.*bfd: 1 is neither"),
        ("{pools: [], peers: [{peerAddress: 192.0.2.1, peerASN: 1, myASN: 1}, {peerAddress: 192.0.2.1, peerASN: 1, myASN: 1}]}", "192.0.2.1 is named twice"),
        ("{pools: [], more: []}", "nothing beside but 'peers'"),
        ("a: [", "neither YAML nor JSON"),
        ("[]", "not a mapping with 'pools'"),
        ("pools: [3]", r"pools\[0\]: not a mapping"),
        ("pools: [{name: a, addresses: []}]", r"pools\[0\].addresses: not a list"),
        ("pools: [{name: a, addresses: [192.0.2.1/24]}]", "192.0.2.0/24"),
        ("pools: [{name: a, addresses: [192.0.2.9-192.0.2.1]}]", "not a range"),
        ("pools: [{name: a, addresses: ['192.0.2.9-fd00::1']}]", "not a range"),
        ("pools: [{name: a, addresses: [7]}]", "is no text"),
        ("pools: [{name: a, addresses: [192.0.2.1], autoassign: true}]", "autoassign: not a field"),
        ("pools: [{name: a, addresses: [192.0.2.1], autoAssign: 1}]", "neither true nor false"),
        ("pools: [{name: a, addresses: [192.0.2.1]}, {name: a, addresses: [192.0.2.2]}]", r"pools\[1\].name"),
        ("pools: [{name: a, addresses: [192.0.2.0/24]}, {name: b, addresses: [192.0.2.9]}]", "192.0.2.9 is in pool a and again in pool b"),
    ],
)
def test_pools_that_are_none_are_refused_with_their_place(text, words) -> None:
    with pytest.raises(PoolsError, match=words):
        parse_pools(text)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_lowest_free_address_is_given_until_none_is_left(family) -> None:
    taken: list = []
    while (found := next_free(BOTH, family, taken)) is not None:
        taken.append(found)
    first = int(parse_cidr(NETWORKS[family]).network_address)
    assert list(map(int, taken)) == list(range(first, first + 4))


# ---- assignments


@pytest.mark.parametrize(
    ("families", "both", "pools", "addresses"),
    [
        (FAMILIES, True, BOTH, ["192.0.2.8", "2001:db8::8"]),
        (FAMILIES[::-1], True, BOTH, ["2001:db8::8", "192.0.2.8"]),
        (FAMILIES, True, ONLY[V4], []),
        (FAMILIES, True, ONLY[V6], []),
        (FAMILIES, False, ONLY[V4], ["192.0.2.8"]),
        (FAMILIES, False, ONLY[V6], ["2001:db8::8"]),
        ((V4,), False, BOTH, ["192.0.2.8"]),
        ((V6,), False, BOTH, ["2001:db8::8"]),
        (FAMILIES, False, (), []),
    ],
)
def test_a_service_gets_of_each_family_what_its_policy_lets_it(families, both, pools, addresses) -> None:
    assert texts(assign(claim("a", *families, both=both), (), pools)) == addresses


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_who_waits_is_told_which_pool_is_empty(family) -> None:
    full = held(claim("full"), *map(str, parse_cidr(NETWORKS[family])))
    assert assign(claim("a", both=True), [full], BOTH) == Assignment((), (f"no {family} address is left in pool default (all 4 are taken)",))
    assert assign(claim("a", both=True), (), ONLY[family.other]).missing == (f"no {family} address is in pool default",)
    assert assign(claim("a", family), (), ()).missing == (f"no {family} address is in any pool, as there is none",)
    assert assign(claim("a", family, pool="x"), (), BOTH).missing == ("there is no pool x",)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_prefer_dual_stack_is_topped_up_and_keeps_what_it_has(family) -> None:
    first = assign(claim("a"), (), ONLY[family])
    assert len(first.addresses) == 1 and first.missing
    topped = assign(held(claim("a"), *texts(first)), (), BOTH)
    assert set(first.addresses) < set(topped.addresses) and len(topped.addresses) == 2 and not topped.missing


def test_up_and_downgrades_add_and_remove_the_other_address() -> None:
    has = held(claim("a", V4), "192.0.2.9")
    assert texts(assign(has, (), BOTH)) == ["192.0.2.9"]
    up = assign(has._replace(families=FAMILIES, both=True), (), BOTH)
    assert texts(up) == ["192.0.2.9", "2001:db8::8"]
    assert texts(assign(has._replace(families=FAMILIES, both=True), (), ONLY[V4])) == ["192.0.2.9"], "what works is not taken away"
    assert texts(assign(held(claim("a", V6), *texts(up)), (), BOTH)) == ["2001:db8::8"]


def test_an_address_asked_for_by_name_is_given_or_waited_for() -> None:
    named = claim("a", named=ByFamily.of([parse_address("192.0.2.10")]))
    assert texts(assign(named, (), BOTH)) == ["192.0.2.10", "2001:db8::8"]
    other = held(claim("b"), "192.0.2.10")
    found = assign(named, [other], BOTH)
    assert texts(found) == ["2001:db8::8"] and found.missing == ("192.0.2.10 is held by default/b",)
    assert texts(assign(held(named, "192.0.2.8", "2001:db8::8"), [other], BOTH)) == ["192.0.2.8", "2001:db8::8"], "until then it keeps what it has"
    assert texts(assign(held(named, "192.0.2.8", "2001:db8::8"), (), BOTH)) == ["192.0.2.10", "2001:db8::8"]
    assert assign(claim("a", V4, named=ByFamily.of([parse_address("198.51.100.1")])), (), BOTH) == Assignment((), ("198.51.100.1 is in no pool",))


def test_a_pool_that_is_not_automatic_is_for_who_asks_for_it() -> None:
    pools = parse_pools("pools: [{name: n, addresses: [203.0.113.7], autoAssign: false}, {name: d, addresses: [192.0.2.8]}]")
    assert texts(assign(claim("a", V4), (), pools)) == ["192.0.2.8"]
    assert texts(assign(claim("a", V4, pool="n"), (), pools)) == ["203.0.113.7"]
    assert texts(assign(claim("a", V4, named=ByFamily.of([parse_address("203.0.113.7")])), (), pools)) == ["203.0.113.7"]
    assert texts(assign(held(claim("a", V4, pool="n"), "192.0.2.8"), (), pools)) == ["203.0.113.7"]


def test_a_pool_that_is_asked_for_in_vain_takes_nothing_away() -> None:
    pools = parse_pools("pools: [{name: n, addresses: [203.0.113.7]}, {name: d, addresses: [192.0.2.8]}]")
    has, other = held(claim("a", V4), "192.0.2.8"), held(claim("b", V4), "203.0.113.7")
    for pool, words in (("n", "no IPv4 address is left in pool n (all 1 are taken)"), ("x", "there is no pool x")):
        assert assign(has._replace(pool=pool), [other], pools) == Assignment(has.held, (words,))
    assert texts(assign(has._replace(pool="n"), (), pools)) == ["203.0.113.7"]
    assert texts(assign(held(claim("a", V4), "198.51.100.1"), (), pools)) == ["203.0.113.7"], "what is in no pool any more is left"


HTTP, HTTPS = frozenset({("TCP", 80)}), frozenset({("TCP", 443)})
WEB = frozenset({("app", "web")})


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ({"sharing": "k", "ports": HTTP}, {"sharing": "k", "ports": HTTPS}, True),
        ({"sharing": "k", "ports": HTTP}, {"sharing": "k", "ports": HTTP}, False),
        ({"sharing": "k", "ports": HTTP}, {"sharing": "k", "ports": frozenset({("UDP", 80)})}, True),
        ({"sharing": "k", "ports": HTTP}, {"sharing": "l", "ports": HTTPS}, False),
        ({"ports": HTTP}, {"ports": HTTPS}, False),
        ({"sharing": "k", "ports": HTTP, "local": True}, {"sharing": "k", "ports": HTTPS}, False),
        ({"sharing": "k", "ports": HTTP, "local": True, "selector": WEB}, {"sharing": "k", "ports": HTTPS, "local": True, "selector": WEB}, True),
        ({"sharing": "k", "ports": HTTP, "local": True}, {"sharing": "k", "ports": HTTPS, "local": True}, False),
    ],
)
def test_services_share_an_address_when_the_key_is_the_same_and_ports_and_nodes_allow_it(one, other, may) -> None:
    a, b = claim("a", **one), held(claim("b", **other), "192.0.2.9", "2001:db8::9")
    assert may_share(a, b) is may and may_share(b, a) is may
    assert texts(assign(a, [b], BOTH)) == (["192.0.2.9", "2001:db8::9"] if may else ["192.0.2.8", "2001:db8::8"])


def test_of_two_with_one_address_the_older_keeps_it() -> None:
    old, young = (held(claim(name, V4, age=age), "192.0.2.9") for name, age in (("b", "2026-01-01T00:00:00Z"), ("a", "2026-01-02T00:00:00Z")))
    assert texts(assign(old, [young], BOTH)) == ["192.0.2.9"]
    assert texts(assign(young, [old], BOTH)) == ["192.0.2.8"]


CLAIMS = st.lists(
    st.builds(
        lambda families, both, **more: {"families": families, "both": both and len(families) > 1, **more},
        families=st.sampled_from([FAMILIES, FAMILIES[::-1], (V4,), (V6,)]),
        both=st.booleans(),
        sharing=st.sampled_from(["", "", "k"]),
        ports=st.sampled_from([HTTP, HTTPS]),
        local=st.booleans(),
    ),
    max_size=8,
)


@given(CLAIMS, st.sampled_from([BOTH, ONLY[V4], ONLY[V6], ()]))
def test_no_address_is_given_twice_and_deciding_again_changes_nothing(wanted, pools) -> None:
    claims = [Claim(Key("default", f"s{number}"), age=str(number), **one) for number, one in enumerate(wanted)]
    found = assign_all(claims, pools)
    by_key = {one.key: one._replace(held=found[one.key].addresses) for one in claims}
    counts = Counter(address for one in found.values() for address in one.addresses)
    for address, count in counts.items():
        having = [by_key[key] for key, one in found.items() if address in one.addresses]
        assert count == 1 or all(may_share(a, b) for a in having for b in having if a is not b)
        assert any(pool.holds(address) for pool in pools)
    for one in claims:
        own = found[one.key].addresses
        assert [Family.of(address) for address in own] == [family for family in one.families if family in set(map(Family.of, own))]
        assert not one.both or len(own) in (0, 2)
        assert len(own) == len(one.families) or found[one.key].missing
    assert {key: one.addresses for key, one in assign_all(by_key.values(), pools).items()} == {key: one.addresses for key, one in found.items()}


@given(CLAIMS, CLAIMS)
def test_what_others_do_moves_nobody(wanted, more) -> None:
    claims = [Claim(Key("default", f"s{number}"), age=str(number), **one) for number, one in enumerate(wanted)]
    first = assign_all(claims, BOTH)
    settled = [one._replace(held=first[one.key].addresses) for one in claims]
    later = [Claim(Key("other", f"s{number}"), age=f"a{number}", **one) for number, one in enumerate(more)]
    second = assign_all([*settled, *later], BOTH)
    assert all(set(first[one.key].addresses) <= set(second[one.key].addresses) for one in claims)


@given(st.lists(st.sampled_from([(V4,), (V6,), FAMILIES]), max_size=6))
def test_twins_are_alike(families) -> None:
    def numbers(swap: bool) -> list:
        claims = [claim(f"s{i}", *((one.other for one in some) if swap else some), age=str(i)) for i, some in enumerate(families)]
        return [[int(address) & 7 for address in one.addresses] for one in assign_all(claims, BOTH).values()]

    assert numbers(False) == numbers(True)


def service(name: str = "a", *, annotations: dict | None = None, ingress: tuple[str, ...] = (), **spec) -> Service:
    return view_of(
        Service,
        {
            "metadata": {"namespace": "default", "name": name, "annotations": annotations or {}},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80}], **spec},
            "status": {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"} for ip in ingress]}},
        },
    )


def test_what_a_service_asks_for_is_read_from_its_fields_and_annotations() -> None:
    one = claim_of(
        service(annotations={ADDRESSES: "2001:db8::9, 192.0.2.9", POOL: "p", SHARING: "k"}, loadBalancerIP="192.0.2.1", ipFamilyPolicy="RequireDualStack")
    )
    assert (one.pool, one.sharing, one.both, one.problems) == ("p", "k", True, ())
    assert one.named == ByFamily.of(map(parse_address, ("2001:db8::9", "192.0.2.9"))), "the annotation goes before the field"
    assert claim_of(service(loadBalancerIP="192.0.2.1")).named == ByFamily.of([parse_address("192.0.2.1")])
    for annotation, words in (("192.0.2.1,192.0.2.2", "both IPv4"), ("x", "not an IP address")):
        wrong = claim_of(service(annotations={ADDRESSES: annotation}))
        assert words in wrong.problems[0]
        assert assign(wrong, (), BOTH).addresses == ()
    assert "is not of IPv6" in claim_of(service(loadBalancerIP="2001:db8::1", ipFamilies=["IPv4"])).problems[0]


# ---- owners


def node(name: str, *, ready: bool = True, labels: dict | None = None, taint: str = "", deleted: bool = False, cordoned: bool = False) -> Node:
    metadata = {"name": name, "labels": labels or {}} | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})
    spec = {"unschedulable": cordoned} | ({"taints": [{"key": taint, "effect": "NoSchedule"}]} if taint else {})
    return view_of(Node, {"metadata": metadata, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": str(ready)}]}})


EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"


@pytest.mark.parametrize(
    ("nodes", "living", "found"),
    [
        ([node("a"), node("b")], "ab", ("a", "b")),
        ([node("a"), node("b")], "b", ("b",)),
        ([node("a", ready=False), node("b")], "ab", ("b",)),
        ([node("a", ready=False), node("b", ready=False)], "ab", ("a", "b")),
        ([node("a", labels={EXCLUDED: ""}), node("b", labels={EXCLUDED: "false"}), node("c", labels={EXCLUDED: "true"})], "abc", ("b",)),
        ([node("a", taint="ToBeDeletedByClusterAutoscaler"), node("b", deleted=True), node("c", taint="other")], "abc", ("c",)),
        ([node("a")], "", ()),
    ],
)
def test_who_may_answer(nodes, living, found) -> None:
    assert candidates(nodes, frozenset(living)) == found


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        pytest.param([node("b"), node("a")], ("a", "b"), id="all that are ready"),
        pytest.param([node("a", cordoned=True), node("b")], ("b",), id="a node that is drained takes its routes back"),
        pytest.param([node("a", cordoned=True), node("b", cordoned=True)], ("a", "b"), id="unless all are"),
        pytest.param([node("a", cordoned=True), node("b", ready=False)], ("a",), id="a drained node before one that is not ready"),
        pytest.param([node("a", ready=False), node("b", ready=False)], ("a", "b"), id="all where none is ready"),
        pytest.param([node("a", labels={EXCLUDED: "true"}), node("b", deleted=True)], (), id="who is excluded or going never"),
    ],
)
def test_who_tells_routers(nodes, found) -> None:
    assert speakers(nodes) == found


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_by_bgp_every_node_tells_the_addresses_whose_traffic_it_takes(family) -> None:
    text = {V4: "192.0.2.9", V6: "2001:db8::9"}[family]
    address = parse_address(text)
    slices = [endpoints(("n1", "ready"), ("n2", "draining"), family=family), endpoints(("n3", "ready"), family=family.other)]
    nodes = ("n1", "n2", "n3")
    everywhere, local = service(ingress=(text,)), service("local", ingress=(text,), externalTrafficPolicy="Local")
    assert [spoken_by(name, [everywhere], lambda _: slices, nodes) for name in nodes] == [{address}] * 3
    assert [spoken_by(name, [local], lambda _: slices, nodes) for name in nodes] == [{address}, set(), set()]
    assert [spoken_by(name, [everywhere, local], lambda _: slices, nodes) for name in nodes] == [{address}, set(), set()], "who is asked for either must do"
    assert spoken_by("n1", [everywhere], lambda _: slices, ("n2", "n3")) == set()


def endpoints(*places: tuple[str, str], family: Family = V4) -> EndpointSlice:
    conditions = {"ready": {"ready": True}, "draining": {"ready": False, "serving": True, "terminating": True}, "dead": {"ready": False, "serving": False}}
    return view_of(
        EndpointSlice,
        {"addressType": str(family), "endpoints": [{"addresses": ["x"], "nodeName": name, "conditions": conditions[how]} for name, how in places]},
    )


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_with_a_local_policy_only_nodes_with_endpoints_of_the_family_answer(family) -> None:
    slices = [endpoints(("n1", "ready"), ("n2", "draining"), ("n3", "dead"), family=family), endpoints(("n3", "ready"), family=family.other)]
    assert endpoint_nodes(slices, family) == {"n1"} and endpoint_nodes(slices, family.other) == {"n3"}
    assert endpoint_nodes([endpoints(("n2", "draining"), ("n3", "dead"), family=family)], family) == {"n2"}
    address = {V4: "192.0.2.9", V6: "2001:db8::9"}[family]
    local = service(ingress=(address,), externalTrafficPolicy="Local")
    assert owners([local], lambda _: slices, ["n1", "n2", "n3"]) == {parse_address(address): "n1"}
    assert owners([local], lambda _: (), ["n1", "n2", "n3"]) == {}
    assert owners([service(ingress=(address,))], lambda _: (), ["n1"]) == {parse_address(address): "n1"}


def test_only_addresses_of_ours_and_of_mode_vip_are_announced() -> None:
    assert announced([service(ingress=("192.0.2.9",), loadBalancerClass="else/where")]) == {}
    assert announced([service(type="ClusterIP", ingress=("192.0.2.9",))]) == {}
    assert list(announced([service(ingress=("192.0.2.9",), loadBalancerClass="twinstack.dev/load-balancer")])) == [parse_address("192.0.2.9")]


@given(st.sets(st.sampled_from([f"node{number}" for number in range(8)]), min_size=2), st.integers(0, 255))
def test_when_a_node_goes_only_its_own_addresses_move(names, number) -> None:
    address = parse_address(f"192.0.2.{number}")
    chosen = owner(address, names)
    for gone in names - {chosen}:
        assert owner(address, names - {gone}) == chosen
    assert owner(address, names - {chosen}) in names - {chosen}


def test_addresses_spread_over_the_nodes() -> None:
    counts = Counter(owner(parse_address(f"2001:db8::{number:x}"), ["node1", "node2", "node3"]) for number in range(300))
    assert all(70 < count < 130 for count in counts.values())
