"""What the flags about node blocks may say, and which block is next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.net.cidr import contains, overlap, parse_cidr, parse_cidrs
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.nodeipam import BlockRange, Blocks, mask_flag, parse_networks, plan_ranges

F4, F6 = FAMILIES


@pytest.mark.parametrize(
    "cidrs, sizes, prefixes",
    [
        pytest.param("10.244.0.0/16", {}, (24,), id="one family, nothing said: its default"),
        pytest.param("fd00::/48", {}, (64,), id="the other family, nothing said: its default"),
        pytest.param("10.244.0.0/16,fd00::/48", {}, (24, 64), id="both, nothing said: both defaults"),
        pytest.param("fd00::/48,10.244.0.0/16", {}, (64, 24), id="the sizes follow the order of the CIDRs"),
        pytest.param("fd00::/48,10.244.0.0/16", {F4: 26}, (64, 26), id="one of both is said"),
        pytest.param("10.244.0.0/16", {"": 25}, (25,), id="one family, the plain flag"),
        pytest.param("10.0.0.0/8", {}, (24,), id="the first family may have very many blocks"),
        pytest.param("fd00::/48", {F6: 64}, (64,), id="sixteen bits apart are allowed"),
        pytest.param("10.244.1.0/24", {}, (24,), id="as long as the mask gives one block"),
    ],
)
def test_these_go_together(cidrs, sizes, prefixes):
    ranges = plan_ranges(parse_cidrs(cidrs), mask_size=sizes.pop("", 0), mask_sizes=sizes)
    assert isinstance(ranges, tuple), ranges
    assert tuple(one.prefix for one in ranges) == prefixes


@pytest.mark.parametrize(
    "cidrs, plain, sizes, flag, value, suggestion",
    [
        pytest.param("", 0, {}, "cluster-cidr", "", "10.244.0.0/16,fd00:10:244::/56", id="no CIDR at all"),
        pytest.param("10.1.0.0/16,10.2.0.0/16", 0, {}, "cluster-cidr", "10.1.0.0/16,10.2.0.0/16", "10.1.0.0/16,fd00:10:244::/56", id="two of one family"),
        pytest.param("10.1.0.0/16,10.2.0.0/16,fd00::/56", 0, {}, "cluster-cidr", None, "10.1.0.0/16,fd00::/56", id="three"),
        pytest.param("10.1.0.0/16,fd00::/56", 24, {}, "node-cidr-mask-size", "24", "leaving it out", id="the plain flag on a dual-stack cluster"),
        pytest.param("10.1.0.0/16", 24, {F4: 25}, "node-cidr-mask-size", "24", "leaving it out", id="the plain flag beside a family's"),
        pytest.param("10.1.0.0/16", 0, {F6: 64}, mask_flag(F6), "64", "leaving it out", id="the flag of a family that is not there"),
        pytest.param("fd00::/56", 0, {F4: 24}, mask_flag(F4), "24", "leaving it out", id="the flag of the other family that is not there"),
        pytest.param("10.1.0.0/16", 0, {F4: 12}, mask_flag(F4), "12", "24", id="a mask shorter than the CIDR"),
        pytest.param("fd00::/112", 0, {}, mask_flag(F6), "64", "120", id="a small CIDR and the default mask"),
        pytest.param("fd00::/47", 0, {}, mask_flag(F6), "64", "63", id="more than sixteen bits apart"),
        pytest.param("10.1.0.0/16", 40, {}, "node-cidr-mask-size", "40", "24", id="a mask longer than an address"),
    ],
)
def test_these_do_not(cidrs, plain, sizes, flag, value, suggestion):
    problems = plan_ranges(parse_cidrs(cidrs), mask_size=plain, mask_sizes=sizes)
    assert isinstance(problems, list)
    (problem,) = problems
    assert (problem.flag, problem.suggestion) == (flag, suggestion)
    assert value is None or problem.value == value
    assert str(problem).startswith(f'--{flag}: "{problem.value}": ')


def test_a_suggestion_would_really_do():
    for cidr in ("fd00::/112", "fd00::/47", "fd00::/30", "10.0.0.0/28", "10.0.0.0/30", "fd00::/127"):
        network = parse_cidr(cidr)
        family = Family.of(network)
        problems = plan_ranges((network,), mask_sizes={family: 4})
        assert isinstance(problems, list)
        assert isinstance(plan_ranges((network,), mask_sizes={family: int(problems[0].suggestion)}), tuple)


def test_all_problems_are_told_at_once():
    networks, problems = parse_networks("cluster-cidr", "10.0.0.0/33, fd00::/56, nonsense")
    assert [str(network) for network in networks] == ["fd00::/56"]
    assert [problem.value for problem in problems] == ["10.0.0.0/33", "nonsense"]
    assert parse_networks("cluster-cidr", "10.244.3.4/16") == ((parse_cidr("10.244.0.0/16"),), [])


def blocks(*ranges, services=""):
    return Blocks([BlockRange(parse_cidr(cidr), prefix) for cidr, prefix in ranges], parse_cidrs(services))


def texts(found):
    return [str(one) for one in found]


def test_blocks_follow_each_other_and_a_freed_one_comes_round_again_late():
    four = blocks(("10.0.0.0/22", 24))
    assert texts(four.next_blocks([])) == ["10.0.0.0/24"]
    assert texts(four.next_blocks(["10.0.1.0/24"])) == ["10.0.2.0/24"]
    assert texts(four.next_blocks(["10.0.1.0/24", "10.0.3.0/24"])) == ["10.0.0.0/24"]
    assert texts(four.next_blocks(["10.0.0.0/24", "10.0.3.0/24"])) == ["10.0.1.0/24"]


def test_blocks_that_a_service_range_touches_are_nobodys():
    found = blocks(("10.0.0.0/16", 24), ("fd00::/48", 64), services="10.0.0.0/23,fd00::/108")
    assert texts(found.next_blocks([])) == ["10.0.2.0/24", "fd00:0:0:1::/64"]
    whole = blocks(("10.0.0.0/24", 24), services="10.0.0.0/8")
    assert whole.next_blocks([]) == whole.ranges[0]


def test_when_one_family_is_exhausted_no_block_of_any_is_given():
    found = blocks(("10.0.0.0/16", 24), ("fd00::/63", 64))
    used = ["fd00::/64", "fd00:0:0:1::/64", "10.0.0.0/24"]
    assert found.next_blocks(used) == found.ranges[1]
    assert texts(found.next_blocks(used[1:])) == ["10.0.1.0/24", "fd00::/64"]


def test_a_node_with_a_wider_or_narrower_block_takes_all_that_it_touches():
    found = blocks(("10.0.0.0/16", 24))
    assert texts(found.next_blocks(["10.0.0.0/22"])) == ["10.0.4.0/24"]
    assert texts(found.next_blocks(["10.0.9.128/28"])) == ["10.0.10.0/24"]
    assert found.next_blocks(["10.0.0.0/8"]) == found.ranges[0]
    assert texts(found.next_blocks(["192.168.0.0/24", "nonsense", ""])) == ["10.0.0.0/24"]


@given(st.lists(st.integers(0, 15), max_size=20), st.integers(0, 15), st.integers(1, 8), st.booleans())
def test_a_block_is_never_given_twice_nor_touches_a_service_range(taken, first, count, swap):
    order = [("10.0.0.0/20", 24, "10.0.{0}.0/24"), ("fd00::/60", 64, "fd00:0:0:{0:x}::/64")]
    if swap:
        order.reverse()
    services = [parse_cidr(text.format(number)) for _, _, text in order for number in range(first, min(16, first + count))]
    found = Blocks([BlockRange(parse_cidr(cidr), prefix) for cidr, prefix, _ in order], services)
    used = [text.format(number) for number in taken for _, _, text in order]
    seen = set(taken) | set(range(first, min(16, first + count)))
    while isinstance(given_ := found.next_blocks(used), tuple):
        numbers = set()
        for one, (cidr, _, _) in zip(given_, order, strict=True):
            assert contains(parse_cidr(cidr), one)
            assert not any(overlap(one, parse_cidr(text)) for text in used)
            assert not any(overlap(one, service) for service in services)
            numbers.add(found.numbers_of(str(one)))
        used += texts(given_)
    assert len({text for text in used if "." in text}) == 16 - len(seen - set(taken))
