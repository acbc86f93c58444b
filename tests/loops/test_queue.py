"""The queue: each key at most once at a time, later after each failure, and never lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from twinstack.loops.clock import SteppingClock
from twinstack.loops.metrics import QueueMetrics
from twinstack.loops.queue import Closed, Queue


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


async def test_what_is_added_often_is_looked_at_once(clock: SteppingClock) -> None:
    queue: Queue[str] = Queue(clock)
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert [await queue.take(), await queue.take(), len(queue)] == ["a", "b", 0]


async def test_a_key_that_is_worked_on_waits_for_that_work_to_end(clock: SteppingClock) -> None:
    queue: Queue[str] = Queue(clock)
    queue.add("a")
    assert await queue.take() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0 and not queue.is_idle
    queue.done("a")
    assert await queue.take() == "a"
    queue.done("a")
    assert queue.is_idle


async def test_a_failure_comes_back_later_each_time_until_it_goes_well(clock: SteppingClock) -> None:
    queue: Queue[str] = Queue(clock, first_delay_seconds=1, last_delay_seconds=5)
    assert [queue.add_failed("a") for _ in range(5)] == [1, 2, 4, 5, 5]
    queue.forget("a")
    assert queue.add_failed("a") == 1
    assert queue.add_failed("a", at_least_seconds=30) == 30
    await clock.step(0.99)
    assert len(queue) == 0
    await clock.step(0.01)
    assert len(queue) == 1


async def test_the_earliest_of_the_times_asked_for_counts_and_now_is_earlier_than_all(clock: SteppingClock) -> None:
    queue: Queue[str] = Queue(clock)
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    await clock.step(5)
    assert await queue.take() == "a"
    queue.done("a")
    await clock.step(100)
    assert len(queue) == 0
    queue.add_after("a", 10)
    queue.add("a")
    assert await queue.take() == "a"
    queue.done("a")
    await clock.step(100)
    assert len(queue) == 0 and clock.next_due is None


async def test_takers_wait_their_turn_and_one_that_goes_away_loses_no_key(clock: SteppingClock) -> None:
    queue: Queue[str] = Queue(clock)
    first, second = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()  # its turn has come, but it has not run yet
    await asyncio.wait([first, second])
    assert first.cancelled() and second.result() == "a"


async def test_who_waits_on_a_closed_queue_is_told(clock: SteppingClock) -> None:
    queue: Queue[str] = Queue(clock)
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.add_after("b", 1)
    queue.close()
    with pytest.raises(Closed):
        await waiting
    queue.add("a")
    assert len(queue) == 0 and clock.next_due is None


async def test_the_queue_counts_itself(clock: SteppingClock) -> None:
    registry = CollectorRegistry()
    queue: Queue[str] = Queue(clock, name="q", metrics=QueueMetrics(registry))
    queue.add("a")
    queue.add("b")
    await clock.step(2)
    await queue.take()
    await clock.step(3)

    def value(name: str) -> float | None:
        return registry.get_sample_value(name, {"name": "q"})

    assert value("workqueue_depth") == 1 and value("workqueue_adds_total") == 2
    assert value("workqueue_unfinished_work_seconds") == 3 and value("workqueue_longest_running_processor_seconds") == 3
    queue.done("a")
    queue.add_failed("a")
    assert value("workqueue_queue_duration_seconds_sum") == 2 and value("workqueue_work_duration_seconds_sum") == 3
    assert value("workqueue_retries_total") == 1


@given(st.lists(st.tuples(st.sampled_from(["add", "later", "fail", "work", "step"]), st.sampled_from("abc"))))
def test_no_key_is_lost_or_worked_on_twice_at_once(steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        clock = SteppingClock()
        queue: Queue[str] = Queue(clock)
        owed: set[str] = set()
        working: str | None = None
        for what, key in steps:
            if what == "add":
                queue.add(key)
                owed.add(key)
            elif what == "later":
                queue.add_after(key, 1)
                owed.add(key)
            elif what == "fail":
                queue.add_failed(key)
                owed.add(key)
            elif what == "work":
                if working is not None:
                    queue.done(working)
                    working = None
                if len(queue):
                    working = await queue.take()
                    owed.discard(working)
            else:
                await clock.step(100)
        if working is not None:
            queue.done(working)
        await clock.step(1000)
        while len(queue):
            key = await queue.take()
            owed.discard(key)
            queue.done(key)
        assert not owed

    asyncio.run(play())
