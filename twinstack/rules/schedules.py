"""When a CronJob's time has come.

Rule of this file: a schedule, a time zone and moments in; moments out. No clock is asked.

Theory. Five fields (minute, hour, day of the month, month, day of the week), or a name such as ``@daily``, or ``@every`` and a duration. What the
fields mean is told by cronsim, also where clocks are put forward and back: a time that does not exist is made up for, one that comes twice counts once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELD = re.compile(r"[0-9A-Za-z*?/,-]+\Z", re.ASCII)
_EVERY = re.compile(r"@every (?=\d)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?\Z", re.ASCII)
MANY = 100  # so many missed times are worth a warning


class ScheduleError(ValueError):
    """A text means no schedule, or no time zone."""


@lru_cache(maxsize=1024)
def zone_of(name: str | None) -> ZoneInfo:
    """The time zone of this name; UTC without one. ScheduleError when there is none."""
    if not name:
        return ZoneInfo("UTC")
    if name.lower() == "local":
        raise ScheduleError(f"{name!r} means another zone on each machine; a name such as Etc/UTC or Europe/Berlin would do")
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ScheduleError(f"{name!r} is no time zone that is known here; a name such as Etc/UTC or Europe/Berlin would do") from error


def check_schedule(text: str) -> None:
    """ScheduleError when the text means no schedule."""
    if _every(text) is not None:
        return
    try:
        CronSim(_fields(text), datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise ScheduleError(f"{text!r} is no schedule ({error}); five fields such as '*/5 * * * *', or @daily, would do") from error


def _every(text: str) -> timedelta | None:
    found = _EVERY.match(text)
    if not found:
        return None
    hours, minutes, seconds = (int(one or 0) for one in found.groups())
    span = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not span:
        raise ScheduleError(f"{text!r} is no span of time; @every 5m would do")
    return span


def _fields(text: str) -> str:
    if text.startswith("@"):
        if text not in _NAMES:
            raise ScheduleError(f"{text!r} is none of {', '.join(_NAMES)} and @every with a duration")
        return _NAMES[text]
    fields = text.split()
    if len(fields) != 5 or not all(_FIELD.match(one) for one in fields):
        raise ScheduleError(f"{text!r} has not five fields of digits, names, '*', '/', ',' and '-'; '*/5 * * * *' would do")
    if "7" in re.split(r"[,-]", re.sub(r"/[^,]*", "", fields[4])):
        raise ScheduleError(f"{text!r} has a day of the week above 6; Sunday is 0, so '0 0 * * 0' would do")
    return text.replace("?", "*")


def times_after(text: str, zone: str | None, moment: datetime) -> Iterator[datetime]:
    """The times after the moment, in UTC."""
    span = _every(text)
    if span is not None:
        moment = moment.replace(microsecond=0)
        while True:
            moment += span
            yield moment
    for found in CronSim(_fields(text), moment.astimezone(zone_of(zone))):
        yield found.astimezone(UTC)


def last_time(text: str, zone: str | None, after: datetime, now: datetime) -> tuple[datetime | None, int]:
    """The last time after one moment and not after the other, and how many there were, counted to :data:`MANY` and one more."""
    found, count = None, 0
    for one in times_after(text, zone, after):
        if one > now:
            break
        found, count = one, count + 1
        if count > MANY:
            return _last_before(text, zone, after, now), count
    return found, count


def _last_before(text: str, zone: str | None, after: datetime, now: datetime) -> datetime:
    span = _every(text)
    if span is not None:
        start = after.replace(microsecond=0)
        return start + span * ((now - start) // span)
    # The search backwards begins before a moment, and that moment may be a time itself.
    return next(iter(CronSim(_fields(text), (now + timedelta(seconds=1)).astimezone(zone_of(zone)), reverse=True))).astimezone(UTC)
