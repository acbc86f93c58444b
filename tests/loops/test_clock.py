"""The stepping clock: time passes only when it is told to, and everything happens at its own moment."""

from __future__ import annotations

import asyncio

from twinstack.loops.clock import SteppingClock, SystemClock


async def test_what_is_due_runs_in_order_and_at_its_own_moment() -> None:
    clock, seen = SteppingClock(), []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append((name, clock.monotonic()))
        await clock.sleep(1)
        seen.append((name, clock.monotonic()))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("b", 2))
        group.create_task(sleeper("a", 0.5))
        await clock.step(1.4)
        assert seen == [("a", 0.5)] and clock.monotonic() == 1.4
        await clock.step(10)
    assert seen == [("a", 0.5), ("a", 1.5), ("b", 2), ("b", 3)]
    assert (clock.now() - SteppingClock().now()).total_seconds() == 11.4


async def test_a_timer_that_is_cancelled_does_not_run() -> None:
    clock, seen = SteppingClock(), []
    timer = clock.call_later(1, lambda: seen.append(1))
    timer.cancel()
    timer.cancel()
    await clock.step(2)
    assert seen == [] and clock.next_due is None


async def test_the_system_clock_goes_on() -> None:
    clock, called = SystemClock(), asyncio.Event()
    before = clock.monotonic()
    clock.call_later(0.001, called.set)
    await called.wait()
    await clock.sleep(0)
    assert clock.monotonic() > before and clock.now().tzinfo is not None
