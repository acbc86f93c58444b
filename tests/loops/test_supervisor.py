"""Supervision: what fails is begun again, later each time."""

from __future__ import annotations

import asyncio

import pytest

from twinstack.loops.clock import SteppingClock
from twinstack.loops.supervisor import GivenUp, supervise


async def test_what_fails_is_begun_again_later_each_time() -> None:
    clock, began = SteppingClock(), []

    async def work() -> None:
        began.append(clock.monotonic())
        if len(began) < 4:
            raise OSError("no")

    task = asyncio.create_task(supervise("work", work, clock=clock, first_delay_seconds=1))
    await clock.step(100)
    assert began == [0, 1, 3, 7] and task.done()


async def test_who_ran_well_for_long_fails_for_the_first_time_again() -> None:
    clock, began = SteppingClock(), []

    async def work() -> None:
        began.append(clock.monotonic())
        await clock.sleep(100 if len(began) == 3 else 0)
        raise OSError("no")

    task = asyncio.create_task(supervise("work", work, clock=clock, first_delay_seconds=1))
    await clock.step(104.5)
    assert began == [0, 1, 3, 104]
    task.cancel()


async def test_what_fails_for_ever_is_given_up() -> None:
    clock = SteppingClock()

    async def work() -> None:
        raise OSError("no disk")

    task = asyncio.create_task(supervise("work", work, clock=clock, attempts=3))
    await clock.step(100)
    with pytest.raises(GivenUp, match="work failed 3 times in a row: no disk"):
        await task
