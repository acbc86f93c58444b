"""What the tracer knows of the kernel's walk, and that it does not guess."""

from __future__ import annotations

import pytest

from twinstack.dataplane.ruleset import Chain, Dnat, Goto, Hook, Lookup, Map, Mark, Marked, Masquerade, Match, Set, Verdict, table_of
from twinstack.dataplane.trace import Outcome, Packet, Untraceable, trace
from twinstack.net.family import FAMILIES, Family

PACKET = Packet("10.1.0.1", "tcp", "10.2.0.1", 80, "eth0")
HERE = frozenset({"10.9.0.1"})


def hooked(hook: str, *rules, type_: str = "filter", priority: int = 0, name: str = "") -> Chain:
    return Chain(name or f"{hook}-{priority}", rules, Hook(type_, hook, priority))


def told(chains, sets=(), elements=(), packet: Packet = PACKET, local=HERE) -> list[Outcome]:
    return trace([table_of(Family.IPV4, "t", chains, sets, elements)], packet, local=local)


def test_an_empty_host_lets_pass():
    assert told([]) == [Outcome("accept", "10.2.0.1", 80, False, ("hook prerouting", "hook forward", "hook postrouting"))]


def test_a_packet_to_the_host_passes_input():
    assert told([], packet=PACKET._replace(destination="10.9.0.1"))[0].path == ("hook prerouting", "hook input")


def test_what_the_host_sends_to_itself_passes_all_four():
    packet = Packet("10.9.0.1", "tcp", "127.0.0.1", 80)
    assert told([], packet=packet)[0].path == ("hook output", "hook postrouting", "hook prerouting", "hook input")


def test_chains_run_by_priority_and_a_drop_is_final():
    first, second = hooked("forward", (Verdict("drop"),), priority=-5), hooked("forward", (Verdict("accept"),), priority=5)
    assert told([second, first])[0].verdict == "drop"


def test_an_accept_ends_its_chain_only():
    first, second = hooked("forward", (Verdict("accept"),), priority=-5), hooked("forward", (Verdict("reject"),), priority=5)
    assert told([first, second])[0].verdict == "reject"


def test_a_jump_comes_back_and_a_goto_does_not():
    for jump, verdict in ((True, "drop"), (False, "accept")):
        chains = [hooked("forward", (Goto("aside", jump=jump),), (Verdict("drop"),)), Chain("aside", ((Mark(1),),))]
        assert told(chains)[0].verdict == verdict


def test_every_choice_is_told_once_and_decides_the_rest():
    endpoints = Map("endpoints", ("daddr", "numgen random mod 65536"), ("daddr", "dport"))
    elements = [("endpoints", ("10.2.0.1", index), (address, 8080)) for index, address in enumerate(("10.1.0.1", "10.1.0.2", "10.1.0.3"))]
    chains = [
        hooked("prerouting", (Dnat(("daddr", "numgen random mod 3"), "endpoints"),), type_="nat", priority=-100),
        hooked("postrouting", (Match(("ct status",), "dnat"), Match(("saddr", "daddr"), "@self"), Masquerade()), type_="nat", priority=100),
    ]
    outcomes = told(chains, [endpoints, Set("self", ("saddr", "daddr"))], [*elements, ("self", ("10.1.0.1", "10.1.0.1"), None)])
    assert [(one.destination, one.port, one.masqueraded) for one in outcomes] == [
        ("10.1.0.1", 8080, True),
        ("10.1.0.2", 8080, False),
        ("10.1.0.3", 8080, False),
    ]


def test_nat_is_decided_once():
    chains = [
        hooked("postrouting", (Masquerade("1-2"),), type_="nat", priority=100),
        hooked("postrouting", (Verdict("drop"),), type_="nat", priority=110),
    ]
    assert told(chains)[0].verdict == "accept"
    assert told(chains, packet=PACKET._replace(state="established"))[0].masqueraded is False


def test_a_random_bound_goes_both_ways():
    chains = [hooked("forward", (Match(("numgen random mod 100",), "30", "<"), Verdict("drop")))]
    assert [one.verdict for one in told(chains)] == ["drop", "accept"]


def test_marks_are_kept_between_hooks():
    chains = [
        hooked("prerouting", (Mark(0x4000),)),
        hooked("forward", (Marked(0x4000), Mark(0x4000, on=False))),
        hooked("postrouting", (Marked(0x4000), Verdict("drop"))),
    ]
    assert told(chains)[0].verdict == "accept"
    assert told([chains[0], chains[2]])[0].verdict == "drop"


def test_prefixes_patterns_lists_and_intervals_match():
    ranges = Set("ranges", ("saddr", "daddr"), ("interval",))
    element = ("ranges", ("10.1.0.0/16", "10.2.0.1"), None)
    for match, fits in (
        (Match(("saddr",), "10.1.0.0/16"), True),
        (Match(("saddr",), "10.1.0.0/16", "!="), False),
        (Match(("iifname",), '"eth*"'), True),
        (Match(("iifname",), '"eth"'), False),
        (Match(("l4proto",), "{ tcp, udp }"), True),
        (Match(("l4proto",), "{ udp, sctp }"), False),
        (Match(("saddr", "daddr"), "@ranges"), True),
        (Match(("fib daddr type",), "local"), False),
        (Match(("ct original daddr",), "10.2.0.1"), True),
    ):
        verdict = told([hooked("forward", (match, Verdict("drop")))], [ranges], [element])[0].verdict
        assert (verdict == "drop") == fits, match


def test_an_interval_map_answers_by_prefix():
    ranges = Map("ranges", ("daddr",), ("verdict",), ("interval",))
    chains = [hooked("forward", (Lookup(("daddr",), "ranges"),))]
    assert told(chains, [ranges], [("ranges", ("10.2.0.0/16",), Verdict("drop"))])[0].verdict == "drop"
    assert told(chains, [ranges], [("ranges", ("10.3.0.0/16",), Verdict("drop"))])[0].verdict == "accept"


def test_a_reset_is_for_tcp():
    chains = [hooked("forward", (Verdict("reject with tcp reset"),), (Verdict("drop"),))]
    assert told(chains)[0].verdict == "reject"
    assert told(chains, packet=PACKET._replace(protocol="udp"))[0].verdict == "drop"


@pytest.mark.parametrize(
    "chain, why",
    [
        pytest.param(hooked("forward", (Match(("ip ttl",), "1"), Verdict("drop"))), "ip ttl", id="a selector"),
        pytest.param(hooked("forward", (Match(("dport",), "80", "<"), Verdict("drop"))), "compared", id="a comparison"),
        pytest.param(hooked("forward", (Match(("dport",), "80", ">"), Verdict("drop"))), ">", id="an operator"),
        pytest.param(hooked("forward", (Goto("nowhere"),)), "nowhere", id="a chain that is missing"),
        pytest.param(hooked("forward", (Match(("daddr",), "@nothing"),)), "nothing", id="a set that is missing"),
        pytest.param(Chain("round", ((Goto("round", jump=True),),), Hook("filter", "forward", 0)), "circle", id="rules that lead in a circle"),
    ],
)
def test_what_is_not_understood_is_an_error(chain, why):
    with pytest.raises(Untraceable, match=why):
        told([chain])


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_only_the_packets_family_is_asked(family):
    own = table_of(family, "t", [hooked("prerouting", (Verdict("drop"),))], [])
    other = table_of(family.other, "t", [hooked("prerouting", (Verdict("reject"),))], [])
    packet = Packet(str(family.address(5 << 96 if family.bits > 32 else 5 << 24)), "udp", str(family.address((5 << (family.bits - 8)) + 1)), 1, "x")
    assert trace([other, own], packet, local=frozenset())[0].verdict == "drop"
