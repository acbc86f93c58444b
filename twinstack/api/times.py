"""Times as Kubernetes writes them: RFC 3339, UTC, whole seconds or microseconds.

Texts and values only; nobody here knows what time it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FRACTION = re.compile(r"\.(\d+)")


def text_of_time(moment: datetime) -> str:
    """``2026-01-02T03:04:05Z``, the form of ``metav1.Time``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def text_of_micro_time(moment: datetime) -> str:
    """``2026-01-02T03:04:05.000006Z``, the form of ``metav1.MicroTime``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str | None) -> datetime | None:
    """The moment that an RFC 3339 text means; None when there is none, or when it means none."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(lambda found: "." + found.group(1)[:6].ljust(6, "0"), text))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def seconds_since(text: str | None, now: datetime) -> float | None:
    """How long ago it was; None when the text means no time."""
    moment = parse_time(text)
    return None if moment is None else (now - moment).total_seconds()
