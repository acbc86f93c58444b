"""The laws of tables, differences and assemblies, and the words they become."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.dataplane import text
from twinstack.dataplane.assembly import Assembly, Part
from twinstack.dataplane.ruleset import (
    AddChain,
    AddElements,
    Chain,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    Dnat,
    FlushChain,
    Goto,
    Hook,
    Lookup,
    Map,
    Mark,
    Marked,
    Masquerade,
    Match,
    Set,
    StepError,
    Steps,
    Tag,
    Update,
    Verdict,
    apply,
    difference,
    gone,
    table_of,
    whole,
)
from twinstack.net.family import FAMILIES, Family

SETS = [
    Set("own", ("daddr",)),
    Set("ranges", ("daddr",), ("interval",)),
    Map("fronts", ("daddr", "l4proto", "dport"), ("verdict",)),
    Map("endpoints", ("daddr", "dport", "numgen random mod 65536"), ("daddr", "dport")),
    Map("learned", ("saddr", "daddr"), ("daddr",), ("dynamic", "timeout"), 10800, 65536),
]
BASE = Chain("prerouting", ((Goto("serve", jump=True),),), Hook("nat", "prerouting", -100))
CHAINS = [
    BASE,
    Chain("refuse", ((Verdict("reject with tcp reset"),), (Verdict("reject"),))),
    Chain("pick-1", ((Match(("l4proto",), "{ tcp, udp, sctp }"), Dnat(("daddr", "dport", "numgen random mod 1"), "endpoints")),)),
    Chain(
        "serve",
        (
            (Match(("saddr",), "10.0.0.0/8", "!="), Match(("iifname",), '"veth*"'), Mark(0x4000)),
            (Match(("daddr",), "@ranges"), Match(("fib daddr type",), "local", "!="), Goto("refuse")),
            (Match(("ct state",), "new"), Lookup(("daddr", "l4proto", "dport"), "fronts")),
            (Marked(0x4000), Mark(0x4000, on=False), Verdict("return")),
            (Match(("numgen random mod 100",), "30", "<"), Verdict("accept")),
        ),
    ),
    Chain(
        "leave",
        (
            (Masquerade(),),
            (Masquerade("1024-2000", random=False),),
            (Update("learned", ("ct original client", "tag"), ("daddr",), 60), Tag(("ct id",), "learned")),
            (Dnat(("client", "tag"), "learned", "endpoints"),),
        ),
        Hook("nat", "postrouting", 110),
    ),
]

addresses = st.integers(1, 30)


def element(family: Family):
    def text_of(number: int) -> str:
        return str(family.address((10 << (family.bits - 8)) + number))

    return st.one_of(
        st.builds(lambda n: ("own", (text_of(n),), None), addresses),
        st.builds(
            lambda n, p, v: ("fronts", (text_of(n), "tcp", p), v), addresses, st.integers(1, 3),
            st.sampled_from([Goto("refuse"), Goto("pick-1"), Verdict("drop")]),
        ),
        st.builds(lambda n, i, m: ("endpoints", (text_of(n), 80, i), (text_of(m), 8080)), addresses, st.integers(0, 3), addresses),
    )  # fmt: skip


def tables(family: Family):
    def build(elements, without):
        chains = [chain for chain in CHAINS if chain.name != without]
        return table_of(family, "t", chains, SETS, elements)

    return st.builds(build, st.lists(element(family), max_size=12), st.sampled_from(["", "leave"]))


families = st.sampled_from(FAMILIES)
a_table = families.flatmap(tables)
two_tables = families.flatmap(lambda family: st.tuples(tables(family), tables(family)))


@given(two_tables)
def test_a_difference_applied_is_the_wanted_table(pair):
    before, after = pair
    assert apply(difference(before, after), before) == after


@given(a_table)
def test_a_table_does_not_differ_from_itself(table):
    assert not difference(table, table)
    assert apply(whole(table), None) == apply(whole(table), table) == table
    assert apply(gone(table.family, table.name), table) is None


@given(two_tables)
def test_what_is_printed_is_parsed(pair):
    before, after = pair
    for steps in (whole(before), difference(before, after)):
        assert text.parse_script(text.script(steps)) == ([steps] if steps else [])
    assert text.parse_listing(text.listing(before)) == before


def test_a_chain_with_new_rules_is_flushed_and_a_changed_hook_replaces_the_table():
    family = Family.IPV6
    one = table_of(family, "t", [Chain("a", ((Verdict("drop"),),))], [])
    other = table_of(family, "t", [Chain("a", ((Verdict("accept"),),))], [])
    assert [type(step) for step in difference(one, other).steps][:1] == [FlushChain]
    hooked = table_of(family, "t", [Chain("a", (), Hook("filter", "input", 0))], [])
    assert difference(one, hooked) == whole(hooked)
    assert difference(None, one) == whole(one)


def test_a_changed_declaration_replaces_the_table():
    one = table_of(Family.IPV4, "t", [], [Set("s", ("daddr",))])
    other = table_of(Family.IPV4, "t", [], [Set("s", ("daddr",), ("interval",))])
    assert difference(one, other) == whole(other)


REFUSED = [
    pytest.param(FlushChain("nowhere"), id="a chain that is not there"),
    pytest.param(DeleteElements("own", (("10.0.0.9",),)), id="an element that is not there"),
    pytest.param(AddElements("nothing", ()), id="a set that is not there"),
    pytest.param(AddElements("fronts", ((("10.0.0.1", "tcp", 1), Goto("nowhere")),)), id="a verdict that leads nowhere"),
    pytest.param(DeleteChain("serve"), id="a chain that is in use"),
    pytest.param(DeleteSet("fronts"), id="a set that is in use"),
]


@pytest.mark.parametrize("step", REFUSED)
def test_a_step_that_does_not_fit_is_refused(step):
    table = table_of(Family.IPV4, "t", CHAINS, SETS)
    with pytest.raises(StepError):
        apply(Steps(Family.IPV4, "t", (step,)), table)


def test_steps_need_their_table():
    with pytest.raises(StepError):
        apply(Steps(Family.IPV4, "t", (AddChain("a"),)), None)


@pytest.mark.parametrize(
    "line",
    [
        "add rule ip t c tcp flags syn drop",
        "add rule ip t c ip ttl 1 accept",
        "list ruleset",
        "add table inet t",
        "add chain ip t c { type filter hook input priority later; policy accept; }",
        "add set ip t s { type ipv4_addr; }",
        "add map ip t s { typeof ip daddr : verdict; timeout long; }",
    ],
)
def test_what_we_do_not_print_is_not_guessed(line):
    with pytest.raises(text.RulesetSyntaxError):
        text.parse_script(line)


@given(st.text(max_size=60))
def test_any_text_is_a_ruleset_or_our_error(garbage):
    for parse in (text.parse_script, text.parse_listing, lambda line: text.parse_rule(line, Family.IPV4)):
        with suppress(text.RulesetSyntaxError):
            parse(garbage)


# ---- assemblies

OWNERS = ("a", "b", "c")
EXTRA = {name: Chain(name, ((Verdict("accept"),),)) for name in ("x", "y")}
EXTRA_SETS = {name: Set(name, ("daddr",)) for name in ("s", "t")}


def parts(family: Family):
    def build(elements, chains, sets):
        unique = {(name, key): value for name, key, value in elements}
        return Part(
            tuple((name, key, value) for (name, key), value in unique.items()), tuple(EXTRA[name] for name in chains), tuple(EXTRA_SETS[name] for name in sets)
        )

    names = st.sets(st.sampled_from(sorted(EXTRA))), st.sets(st.sampled_from(sorted(EXTRA_SETS)))
    return st.one_of(st.none(), st.builds(build, st.lists(element(family), max_size=6), *names))


changes = families.flatmap(lambda family: st.tuples(st.just(family), st.lists(st.tuples(st.sampled_from(OWNERS), parts(family), st.booleans()), max_size=12)))


def assembled(family: Family, held: dict[str, Part | None]) -> Assembly:
    one = Assembly(family, "t", CHAINS, SETS)
    for owner, part in held.items():
        one.put(owner, part)
    return one


@given(changes)
def test_an_assemblys_steps_lead_where_it_says(given_changes):
    family, moves = given_changes
    one = assembled(family, {})
    stands = apply(one.whole(), None)
    held: dict[str, Part | None] = {}
    for owner, part, look in moves:
        one.put(owner, part)
        held[owner] = part
        if look:
            steps = one.steps()
            stands = apply(steps, stands)
            assert stands == one.table()
    stands = apply(one.steps(), stands)
    assert stands == one.table() == assembled(family, held).table()
    assert not one.steps()


@given(changes, st.randoms(use_true_random=False))
def test_the_order_of_the_parts_does_not_matter(given_changes, random):
    family, moves = given_changes
    held = {owner: part for owner, part, _ in moves}
    shuffled = list(held.items())
    random.shuffle(shuffled)
    assert assembled(family, held).table() == assembled(family, dict(shuffled)).table()


def test_of_two_that_disagree_the_smaller_name_wins_until_it_goes():
    front = ("10.0.0.1", "tcp", 80)
    one = assembled(Family.IPV4, {"b": Part((("fronts", front, Verdict("drop")),)), "a": Part((("fronts", front, Goto("refuse")),))})
    assert one.table().elements["fronts"] == {front: Goto("refuse")}
    one.steps()
    one.put("a", None)
    assert list(one.steps().steps) == [DeleteElements("fronts", (front,)), AddElements("fronts", ((front, Verdict("drop")),))]


def test_a_large_set_is_declared_with_room_and_is_written_whole_when_it_has_outgrown_that():
    def owned(start: int, count: int) -> Part:
        return Part(tuple(("own", (str(Family.IPV4.address(number)),), None) for number in range(start, start + count)))

    one = assembled(Family.IPV4, {"a": owned(0, 10_000), "b": Part((("fronts", ("10.0.0.1", "tcp", 80), Verdict("drop")),))})
    assert one.table().sets["own"].size == 0  # nothing was declared yet
    one.whole()
    assert one.table().sets["own"].size == 20_000
    assert one.table().sets["fronts"].size == 0
    one.put("c", owned(10_000, 10_000))
    assert not one.outgrown()
    assert [type(step) for step in one.steps().steps] == [AddElements]
    one.put("d", owned(20_000, 1))
    assert one.outgrown()
    assert one.steps() == whole(one.table())
    assert one.table().sets["own"].size == 40_002
    assert not one.outgrown()


def test_a_change_costs_its_own_elements_only():
    front = ("10.0.0.1", "tcp", 80)
    one = assembled(Family.IPV4, {str(number): Part((("own", (f"10.0.1.{number}",), None),)) for number in range(200)})
    one.whole()
    one.put("x", Part((("fronts", front, Verdict("drop")),)))
    assert one.steps().steps == (AddElements("fronts", ((front, Verdict("drop")),)),)
