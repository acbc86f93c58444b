"""Indexes of a Job's pods: sets of numbers and the text that a status tells them by, ``1,3-5,7``.

Rule of this file: text in, numbers out, and back.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinstack.api.kinds import Pod

INDEX = "batch.kubernetes.io/job-completion-index"
FAILURES, IGNORED = "batch.kubernetes.io/job-index-failure-count", "batch.kubernetes.io/job-index-ignored-failure-count"


def parse_indexes(text: str | None) -> set[int]:
    """The numbers that the text names; what is no range is left out."""
    found: set[int] = set()
    for part in (text or "").split(","):
        first, dash, last = part.partition("-")
        if first.isdecimal() and (not dash or last.isdecimal()):
            found.update(range(int(first), int(last if dash else first) + 1))
    return found


def text_of_indexes(numbers: Iterable[int]) -> str:
    """The shortest text; two numbers in a row are told one by one."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}{',' if last == first + 1 else '-'}{last}" for first, last in spans)


def index_of(pod: Pod) -> int | None:
    """The pod's index in its Job."""
    text = pod.annotations.get(INDEX, "")
    return int(text) if text.isdecimal() else None


def failures_before(pod: Pod) -> int:
    """How often its index had failed when the pod was made."""
    text = pod.annotations.get(FAILURES, "0")
    return int(text) if text.isdecimal() else 0
