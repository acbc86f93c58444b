"""Service addresses: how many a second an allocator hands out, and what it holds in memory, from an empty range to one that is nearly full.

A /12 and a /108 hold a million addresses each. What is taken lies at random, which is the worst case: as many intervals as can be. The baseline is what
an allocator does that walks: the same set of taken numbers as a Python set, asked number by number from the same start.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from bench.results import Result, percentile
from twinstack.api import kinds
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.allocators import Context
from twinstack.apiserver.strategies.base import Transaction
from twinstack.net.family import FAMILIES, Family
from twinstack.net.pool import Intervals, Pool
from twinstack.rules.cidrs import address_band, parse_service_ranges, service_cidr

RANGES = {Family.IPV4: "10.0.0.0/12", Family.IPV6: "fd00:10:96::/108"}
FILLS = (("empty", 0.0), ("half full", 0.5), ("99 % full", 0.99))
TAKES = 20_000
LAST = 200


class _Nothing:
    """A reader of an empty store."""

    def get(self, resource: Any, key: Any) -> Document | None:
        return None


def run(scale: float) -> list[Result]:
    """All figures; *scale* shrinks the number of takes, not the ranges."""
    results = []
    for family in FAMILIES:
        for name, part in FILLS:
            results += _filled(family, name, part, max(1000, int(TAKES * scale)))
        results += _last(family, max(20, int(LAST * scale)))
    return results


def _filled(family: Family, name: str, part: float, takes: int) -> list[Result]:
    """Addresses a second at one fill, by the pool alone and with their records, and the memory of what is taken."""
    chance = random.Random(1)
    context = Context(parse_service_ranges(RANGES[family]), chance=chance)
    pool = _pool(family)
    numbers = sorted(chance.sample(range(pool.first, pool.last + 1), int(pool.size * part)))
    pool.taken = context.addresses._taken[family] = Intervals(numbers)
    context.addresses.observe_range("kubernetes", view_of(kinds.ServiceCIDR, service_cidr("kubernetes", list(context.ranges.values()))))
    takes = min(takes, pool.free // 2)
    bare = _per_second(takes, lambda: _take_and_give(pool, chance))

    def whole() -> None:
        transaction = Transaction(_Nothing(), now=datetime.now(UTC))  # type: ignore[arg-type]
        with transaction.undo:
            context.allocate({"metadata": {"namespace": "default", "name": "web"}}, [family], (), transaction)

    return [
        Result(bench="allocation", name=f"{family} {name}: addresses taken and given back", value=bare, unit="/s", better="higher", target=5_000),
        Result(bench="allocation", name=f"{family} {name}: with their records", value=_per_second(takes, whole), unit="/s", better="higher", target=5_000),
        Result(bench="allocation", name=f"{family} {name}: memory of what is taken", value=_bytes(pool.taken) / 1e6, unit="MB", target=80),
    ]


def _last(family: Family, takes: int) -> list[Result]:
    """The one free address of a million, wherever it is."""
    chance = random.Random(2)
    pool = _pool(family)
    pool.taken.add_range(pool.first, pool.last + 1)
    taken = set(range(pool.first, pool.last + 1))
    found, walked = [], []
    for i in range(takes):
        free, start = chance.randrange(pool.first, pool.last + 1), chance.getrandbits(64)
        pool.give(free)
        began = time.perf_counter()
        number = pool.take_next(start)
        found.append(time.perf_counter() - began)
        assert number == free
        if i < 5:
            taken.discard(free)
            began = time.perf_counter()
            assert _walk(taken, pool, start) == free
            walked.append(time.perf_counter() - began)
            taken.add(free)
    return [
        Result(
            bench="allocation",
            name=f"{family} full but for one: the last address, p99",
            value=percentile(found, 0.99) * 1e6,
            unit="µs",
            target=1000,
            baseline="walking a set, median",
            baseline_value=percentile(walked, 0.5) * 1e6,
        )
    ]


def _walk(taken: set[int], pool: Pool, start: int) -> int:
    number = pool.first + start % pool.size
    while number in taken:
        number = number + 1 if number < pool.last else pool.first
    return number


def _take_and_give(pool: Pool, chance: random.Random) -> None:
    number = pool.take_next(chance.getrandbits(64))
    assert number is not None
    pool.give(number)


def _per_second(times: int, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work()
    return times / (time.perf_counter() - began)


def _pool(family: Family) -> Pool:
    band = address_band(parse_service_ranges(RANGES[family])[family])
    assert band is not None
    return Pool(band.first, band.last, reserved=band.reserved)


def _bytes(taken: Intervals) -> int:
    """The lists and their numbers, which are not shared."""
    lists = [*taken._starts, *taken._ends]
    return sum(sys.getsizeof(one) + sum(map(sys.getsizeof, one)) for one in lists)
