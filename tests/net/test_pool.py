"""Pools never hand out a number twice, and never walk."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from twinstack.net.pool import Intervals, Pool


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40))))
def test_intervals_behave_like_a_set(operations):
    intervals, plain = Intervals(), set()
    for add, number in operations:
        if add:
            assert intervals.add(number) == (number not in plain)
            plain.add(number)
        else:
            assert intervals.remove(number) == (number in plain)
            plain.discard(number)
        assert list(intervals) == sorted(plain)
        assert len(intervals) == len(plain)
    for start in range(0, 42, 5):
        free = [number for number in range(start, 42) if number not in plain]
        assert intervals.first_absent(start, 42) == (free[0] if free else None)
        assert intervals.count_within(start, start + 7) == len([number for number in plain if start <= number < start + 7])


def test_thousands_of_intervals_behave_like_a_set():
    chance = random.Random(7)
    intervals, plain = Intervals(), set()
    for round_ in range(6):
        for number in chance.sample(range(0, 12_000, 2), 3000):  # apart from each other
            assert intervals.add(number) == (number not in plain)
            plain.add(number)
        start = chance.randrange(11_000)
        intervals.add_range(start, start + 700)  # over many of them
        plain.update(range(start, start + 700))
        for number in chance.sample(range(12_000), 4000):
            assert intervals.remove(number) == (number in plain)
            plain.discard(number)
        assert list(intervals) == sorted(plain) and len(intervals) == len(plain), round_
        for start in range(0, 12_000, 97):
            assert intervals.first_absent(start, 12_000) == next(number for number in range(start, 12_001) if number not in plain)
            assert intervals.count_within(start, start + 500) == sum(start <= number < start + 500 for number in plain)


@given(st.integers(1, 60), st.integers(0, 20), st.lists(st.integers(0, 1 << 70), max_size=80))
def test_a_pool_gives_each_number_once_until_it_is_empty(size, reserved, starts):
    pool = Pool(100, 99 + size, reserved=reserved)
    given_out = []
    for start in starts:
        number = pool.take_next(start)
        if number is None:
            assert len(given_out) == size
        else:
            assert number in pool
            given_out.append(number)
    assert len(set(given_out)) == len(given_out)
    assert pool.free == size - len(given_out)


@given(st.lists(st.integers(0, 15), max_size=12, unique=True), st.integers(0, 100))
def test_the_lower_band_is_left_alone_while_the_upper_one_has_room(taken, start):
    pool = Pool(0, 15, reserved=4, taken=taken)
    number = pool.take_next(start)
    if set(range(4, 16)) - set(taken):
        assert number is not None and number >= 4
    elif set(range(4)) - set(taken):
        assert number is not None and number < 4
    else:
        assert number is None


def test_what_is_given_back_can_be_taken_again():
    pool = Pool(0, 0)
    assert pool.take(0) and not pool.take(0) and pool.take_next(0) is None
    assert pool.give(0) and not pool.give(0)
    assert pool.take_next(5) == 0


def test_a_huge_pool_costs_no_more_than_a_small_one():
    pool = Pool(1, (1 << 64) - 1, reserved=256)
    number = pool.take_next((1 << 63) + 12345)
    assert number is not None and pool.take_next(number - pool.first - pool.reserved) != number
    assert not pool.take(1 << 64)
