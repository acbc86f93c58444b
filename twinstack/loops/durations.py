"""Durations as Go and Kubernetes' configuration files write them: ``1m30s``, ``500ms``, ``0``."""

from __future__ import annotations

import re

from twinstack.net.errors import Error

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


class DurationError(Error, ValueError):
    """A text is not a duration."""


def parse_duration(text: str) -> float:
    """The seconds that a text means; negative ones are allowed, as in Go."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    if rest == "0":
        return 0.0
    if not re.fullmatch(f"(?:{_PART.pattern})+", rest):
        raise DurationError(f"{text!r} is not a duration such as 1m30s or 500ms")
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(rest))


def text_of_duration(seconds: float) -> str:
    """A duration as Go writes it: ``1h2m3s``, ``500ms``, ``0s``."""
    if not seconds:
        return "0s"
    if abs(seconds) < 1:
        return f"{seconds * 1000:g}ms"
    rest, text = abs(seconds), "-" if seconds < 0 else ""
    for unit, length in (("h", 3600), ("m", 60)):
        if rest >= length or len(text) > (seconds < 0):
            text += f"{int(rest // length)}{unit}"
            rest %= length
    return f"{text}{rest:g}s"
