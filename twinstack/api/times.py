"""Times as Kubernetes writes them: RFC 3339, UTC, whole seconds or microseconds.

Texts and values only; nobody here knows what time it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

_FRACTION = re.compile(r"\.(\d+)")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:\d\d)\Z")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[-+]\d\d:\d\d)\Z")
_EXAMPLE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def text_of_time(moment: datetime) -> str:
    """``2026-01-02T03:04:05Z``, the form of ``metav1.Time``."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"


def text_of_micro_time(moment: datetime) -> str:
    """``2026-01-02T03:04:05.000006Z``, the form of ``metav1.MicroTime``."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:26] + "Z"


def parse_time(text: str | None) -> datetime | None:
    """The moment that an RFC 3339 text means; None when there is none, or when it means none."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(lambda found: "." + found.group(1)[:6].ljust(6, "0"), text))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # an offset can lead out of the years that there are
        return None


def canonical_time(text: str) -> str:
    """A ``metav1.Time`` in the form in which it is kept: UTC, whole seconds. ValueError when the text is none."""
    return text_of_time(_rfc_3339(text, _TIME))


def canonical_micro_time(text: str) -> str:
    """A ``metav1.MicroTime`` in the form in which it is kept: UTC; six digits behind the point are asked for. ValueError when the text is none."""
    return text_of_micro_time(_rfc_3339(text, _MICRO_TIME))


def _rfc_3339(text: str, form: re.Pattern[str]) -> datetime:
    moment = parse_time(text) if form.match(text) else None
    if moment is None:
        raise ValueError(f"{text!r} is no time such as {text_of_micro_time(_EXAMPLE) if form is _MICRO_TIME else text_of_time(_EXAMPLE)}")
    return moment


def seconds_since(text: str | None, now: datetime) -> float | None:
    """How long ago it was; None when the text means no time."""
    moment = parse_time(text)
    return None if moment is None else (now - moment).total_seconds()
