"""One suite, two judges: the kernel's nftables in a namespace, and the fake that stands in for it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import (
    AddElements,
    AddTable,
    Chain,
    DeleteElements,
    DeleteTable,
    Goto,
    Hook,
    Lookup,
    Map,
    Match,
    Set,
    Steps,
    Verdict,
    apply,
    difference,
    gone,
    table_of,
    whole,
)
from twinstack.kernel import nftables
from twinstack.kernel.errors import KernelError
from twinstack.kernel.fake import FakeNftables
from twinstack.net.family import FAMILIES, Family

SETS = [Map("fronts", ("daddr", "l4proto", "dport"), ("verdict",)), Set("own", ("daddr",))]
CHAINS = [
    Chain("refuse", ((Verdict("reject"),),)),
    Chain("input", ((Match(("daddr",), "@own"), Lookup(("daddr", "l4proto", "dport"), "fronts")),), Hook("filter", "input", 0)),
]


@pytest.fixture(params=FAMILIES, ids=str)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def ruleset(request: pytest.FixtureRequest) -> Iterator[nftables.Ruleset]:
    if request.param == "fake":
        yield FakeNftables()
        return
    netns: Callable[[str], str] = request.getfixturevalue("netns")
    with nftables.Nftables(netns("nft")) as real:
        yield real


def front(family: Family, port: int) -> tuple[str, str, int]:
    return (str(family.address(10)), "tcp", port)


def table(family: Family, *ports: int, chains=CHAINS, sets=SETS):
    elements = [("fronts", front(family, port), Goto("refuse")) for port in ports]
    return table_of(family, "t", chains, sets, [*elements, ("own", (str(family.address(10)),), None)])


def test_what_is_written_is_read_back(ruleset, family):
    wanted = table(family, 80, 443)
    nftables.apply(ruleset, whole(wanted))
    assert nftables.read_table(ruleset, family, "t") == wanted


@pytest.mark.kernel
def test_a_set_with_a_size_is_exchanged_at_its_size_and_takes_no_more(netns, family):
    sized = Set("own", ("daddr",), size=3)
    first, others, more = (tuple(((str(family.address(number)),), None) for number in numbers) for numbers in (range(1, 4), range(4, 7), range(7, 8)))
    full = table_of(family, "t", [], [sized], [("own", *one) for one in first])
    exchanged = table_of(family, "t", [], [sized], [("own", *one) for one in others])
    with nftables.Nftables(netns("nft")) as real:
        nftables.apply(real, whole(full))
        nftables.apply(real, difference(full, exchanged))
        assert nftables.read_table(real, family, "t") == exchanged
        with pytest.raises(KernelError):
            nftables.apply(real, Steps(family, "t", (AddElements("own", more),)))
        assert nftables.read_table(real, family, "t") == exchanged


def test_a_table_that_is_not_there_is_none(ruleset, family):
    assert nftables.read_table(ruleset, family, "t") is None


def test_a_difference_leads_to_the_wanted_table(ruleset, family):
    before, after = table(family, 80, 443), table(family, 443, 8443)
    nftables.apply(ruleset, whole(before))
    nftables.apply(ruleset, difference(before, after))
    assert nftables.read_table(ruleset, family, "t") == after


def test_a_whole_table_takes_the_place_of_another(ruleset, family):
    nftables.apply(ruleset, whole(table(family, *range(1, 100))))
    nftables.apply(ruleset, whole(table(family, 80)))
    assert nftables.read_table(ruleset, family, "t") == table(family, 80)


def test_chains_and_sets_come_and_go(ruleset, family):
    one = table(family, 80)
    other = table(family, 80, chains=[*CHAINS, Chain("more", ((Goto("refuse", jump=True),),))], sets=[*SETS, Set("extra", ("saddr", "daddr"))])
    nftables.apply(ruleset, whole(one))
    for before, after in ((one, other), (other, one)):
        nftables.apply(ruleset, difference(before, after))
        assert nftables.read_table(ruleset, family, "t") == after


def test_the_families_have_a_table_each(ruleset):
    nftables.apply(ruleset, [whole(table(each, 80)) for each in FAMILIES])
    nftables.apply(ruleset, gone(FAMILIES[0], "t"))
    assert nftables.read_table(ruleset, FAMILIES[0], "t") is None
    assert nftables.read_table(ruleset, FAMILIES[1], "t") == table(FAMILIES[1], 80)


def test_gone_is_gone_also_when_it_never_was(ruleset, family):
    nftables.apply(ruleset, gone(family, "t"))
    assert nftables.read_table(ruleset, family, "t") is None


def test_a_check_changes_nothing(ruleset, family):
    nftables.apply(ruleset, whole(table(family, 80)), check=True)
    assert nftables.read_table(ruleset, family, "t") is None


REFUSED = [
    pytest.param((DeleteElements("own", (("missing",),)),), errno.ENOENT, id="an element that is not there cannot be removed"),
    pytest.param((AddElements("fronts", (("other",),)),), errno.EEXIST, id="a key that has a value cannot be given another"),
    pytest.param((DeleteTable(), DeleteTable()), errno.ENOENT, id="a table cannot be removed twice"),
]


@pytest.mark.parametrize("steps, number", REFUSED)
def test_a_refusal_names_its_reason_and_changes_nothing(ruleset, family, steps, number):
    stands = table(family, 80)
    nftables.apply(ruleset, whole(stands))
    known = {
        ("missing",): (str(family.address(99)),),
        ("other",): (front(family, 80), Verdict("drop")),
    }
    steps = tuple(type(step)(*(tuple(known.get(one, one) for one in part) if isinstance(part, tuple) else part for part in _fields(step))) for step in steps)
    also = AddElements("fronts", ((front(family, 81), Verdict("drop")),))
    with pytest.raises(KernelError) as refused:
        nftables.apply(ruleset, Steps(family, "t", (also, *steps)))
    assert refused.value.errno == number
    assert nftables.read_table(ruleset, family, "t") == stands


def _fields(step):
    return [getattr(step, name) for name in type(step).__struct_fields__]


@pytest.mark.kernel
def test_an_error_tells_the_line_and_what_nft_says(netns):
    with nftables.Nftables(netns("nft")) as real, pytest.raises(KernelError) as refused:
        real.run("add table ip t\nadd rule ip t nowhere drop\n")
    assert "No such file or directory (line 2: add rule ip t nowhere drop)" in str(refused.value)
    assert refused.value.missing


@pytest.mark.kernel
def test_nonsense_is_an_error_with_the_place(netns):
    with nftables.Nftables(netns("nft")) as real, pytest.raises(KernelError, match=r"syntax error.*line 1: add nonsense"):
        real.run("add nonsense\n")


@pytest.mark.kernel
def test_a_context_stays_in_the_namespace_it_was_made_in(netns):
    with nftables.Nftables(netns("one")) as one, nftables.Nftables(netns("two")) as two:
        nftables.apply(one, Steps(Family.IPV4, "t", (AddTable(),)))
        assert nftables.read_table(two, Family.IPV4, "t") is None
        assert nftables.read_table(one, Family.IPV4, "t") is not None


@pytest.mark.kernel
def test_a_closed_context_says_so(netns):
    real = nftables.Nftables(netns("nft"))
    real.close()
    real.close()
    with pytest.raises(KernelError):
        real.run("list tables\n")


def test_the_fake_refuses_as_often_as_it_is_told(family):
    fake = FakeNftables()
    fake.fail_next = 1
    with pytest.raises(KernelError):
        nftables.apply(fake, whole(table(family, 80)))
    nftables.apply(fake, whole(table(family, 80)))
    assert fake.tables[family, "t"] == apply(whole(table(family, 80)), None)
    assert text.parse_listing(text.listing(fake.tables[family, "t"])) == table(family, 80)
