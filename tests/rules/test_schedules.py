"""When a CronJob's time has come."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.rules.schedules import MANY, ScheduleError, check_schedule, last_time, times_after, zone_of

START = datetime(2026, 3, 28, 12, 0, 30, tzinfo=UTC)


def text(moment):
    return moment.strftime("%m-%d %H:%M:%S")


@pytest.mark.parametrize(
    "schedule, zone, first",
    [
        pytest.param("*/5 * * * *", None, ["03-28 12:05:00", "03-28 12:10:00"], id="every five minutes"),
        pytest.param("0 0 1 * ?", None, ["04-01 00:00:00", "05-01 00:00:00"], id="a question mark is any"),
        pytest.param("@daily", None, ["03-29 00:00:00", "03-30 00:00:00"], id="a name"),
        pytest.param("@every 1h30m", None, ["03-28 13:30:30", "03-28 15:00:30"], id="a span"),
        pytest.param("30 6 * * mon-fri", None, ["03-30 06:30:00", "03-31 06:30:00"], id="days by name"),
        pytest.param("0 12 13 * 5", None, ["04-03 12:00:00", "04-10 12:00:00"], id="day of the month or of the week"),
        pytest.param("0 6 * * *", "Europe/Berlin", ["03-29 04:00:00", "03-30 04:00:00"], id="in a zone whose clocks are put forward that night"),
        pytest.param("0 6 * * *", "America/New_York", ["03-29 10:00:00", "03-30 10:00:00"], id="in another"),
    ],
)
def test_times_of_a_schedule(schedule, zone, first):
    check_schedule(schedule)
    assert [text(one) for one in islice(times_after(schedule, zone, START), 2)] == first


@pytest.mark.parametrize(
    "schedule", ["", "* * * *", "* * * * * *", "61 * * * *", "@sometimes", "@every 0s", "@every soon", "0 0 * * 1#2", "0 0 * * 5-7", "a b c d e"]
)
def test_what_is_no_schedule_is_refused_with_one_that_would_do(schedule):
    with pytest.raises(ScheduleError, match=r"would do|@every"):
        check_schedule(schedule)


@pytest.mark.parametrize("name", ["Local", "Mars/Base", "../etc/passwd", "Europe/"])
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(ScheduleError, match="would do"):
        zone_of(name)


@given(st.integers(0, 40_000), st.sampled_from(["*/5 * * * *", "@hourly", "@every 7m", "17 3 * * *"]))
def test_the_last_time_that_has_come_is_the_one_before_the_next(minutes, schedule):
    now = datetime.fromtimestamp(START.timestamp() + 60 * minutes, UTC)
    found, count = last_time(schedule, None, START, now)
    every = []
    for one in times_after(schedule, None, START):
        if one > now:
            break
        every.append(one)
    assert found == (every[-1] if every else None)
    assert count == min(len(every), MANY + 1)
