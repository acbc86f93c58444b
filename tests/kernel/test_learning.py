"""Rules that teach, written by netlink, and what they taught, read back."""

from __future__ import annotations

import errno

import pytest

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import (
    AddChain,
    AddLearned,
    AddRule,
    AddSet,
    AddTable,
    DeleteElements,
    Learned,
    Map,
    Match,
    Steps,
    Update,
    Verdict,
)
from twinstack.kernel import learning, nftables
from twinstack.kernel.errors import KernelError
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

FRONT = ("daddr", "l4proto", "dport")
AFFINITY = Map("affinity", ("saddr", *FRONT), ("daddr", "dport"), ("dynamic", "timeout"), size=1000)
KEY = ("ct original saddr", "ct original daddr", "l4proto", "ct original proto-dst")
TEACH = (Match(("l4proto",), "tcp"), Update("affinity", KEY, ("daddr", "dport"), 90))


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


def steps(family: Family, *more) -> Steps:
    return Steps(family, "t", (AddTable(), AddSet(AFFINITY), AddChain("learn"), *more))


def entries(family: Family, count: int) -> tuple[Learned, ...]:
    base = parse_address(family.facts.documentation)
    return tuple(Learned((str(base + 1 + i), str(base), "udp", 53), (str(base + 1000), 5353), 600, 300) for i in range(count))


def test_a_script_is_parted_from_its_rules_that_teach(family):
    script = text.script(steps(family, AddRule("learn", TEACH), AddRule("learn", (Verdict("accept"),))))
    rest, teaching = learning.split(script)
    assert teaching == [(family, "t", "learn", TEACH)]
    assert rest == text.script(steps(family, AddRule("learn", (Verdict("accept"),))))
    assert learning.split(rest) == (rest, [])


@pytest.mark.kernel
def test_the_kernel_lists_what_was_taught_as_it_was_meant(netns, family):
    with nftables.Nftables(netns("teach")) as ruleset:
        nftables.apply(ruleset, steps(family, AddRule("learn", TEACH)))
        table = nftables.read_table(ruleset, family, "t")
        assert table is not None and table.chains["learn"].rules == (TEACH,)
        assert table.sets == {"affinity": AFFINITY}


@pytest.mark.kernel
@pytest.mark.slow
def test_what_was_put_in_is_read_whole_and_goes(netns, family):
    some = entries(family, 900)
    with nftables.Nftables(netns("read")) as ruleset:
        nftables.apply(ruleset, steps(family, AddLearned("affinity", some)))
        found = ruleset.learned(family, "t", AFFINITY)
        assert {(one.key, one.value, one.timeout_seconds) for one in found} == {(one.key, one.value, 600) for one in some}
        assert all(250 < one.expires_seconds <= 300 for one in found)
        again = Steps(family, "t", (AddLearned("affinity", some[:2]), DeleteElements("affinity", tuple(one.key for one in some[:2]))))
        nftables.apply(ruleset, again)
        assert len(ruleset.learned(family, "t", AFFINITY)) == 898


@pytest.mark.kernel
def test_a_check_teaches_nothing(netns, family):
    with nftables.Nftables(netns("check")) as ruleset:
        nftables.apply(ruleset, steps(family))
        nftables.apply(ruleset, Steps(family, "t", (AddRule("learn", TEACH),)), check=True)
        table = nftables.read_table(ruleset, family, "t")
        assert table is not None and table.chains["learn"].rules == ()


@pytest.mark.kernel
def test_what_cannot_be_taught_is_refused(netns, family):
    with nftables.Nftables(netns("refused")) as ruleset:
        with pytest.raises(KernelError) as missing:
            ruleset.learned(family, "t", AFFINITY)
        assert missing.value.missing
        nftables.apply(ruleset, steps(family))
        for chain, rule, number in (
            ("nowhere", TEACH, errno.ENOENT),
            ("learn", (Update("nothing", KEY, ("daddr", "dport"), 90),), errno.ENOENT),
            ("learn", (Update("affinity", KEY * 5, ("daddr", "dport"), 90),), errno.E2BIG),
            ("learn", (Update("affinity", ("saddr",), ("daddr",), 90),), errno.EOPNOTSUPP),
            ("learn", (Match(("ct state",), "new"), *TEACH), errno.EOPNOTSUPP),
        ):
            with pytest.raises(KernelError) as refused:
                nftables.apply(ruleset, Steps(family, "t", (AddRule(chain, rule),)))
            assert refused.value.errno == number, (rule, refused.value)
        nftables.apply(ruleset, Steps(family, "t", (AddRule("learn", TEACH),)))  # the socket is as good as before
