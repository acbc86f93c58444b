"""Field problems in a word each, so that a rule reads as a sentence.

The types are Kubernetes' own (spec/api.md 0.2): what clients match on is the type and the path; the detail is ours,
and says what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twinstack.api.errors import FieldProblem, ProblemType


def wrong(path: str, value: Any, detail: str) -> FieldProblem:
    """The value will not do."""
    return FieldProblem(path, ProblemType.INVALID, value, detail)


def required(path: str, detail: str = "") -> FieldProblem:
    """A value is missing."""
    return FieldProblem(path, ProblemType.REQUIRED, None, detail)


def forbidden(path: str, detail: str) -> FieldProblem:
    """No value may stand here, or none other than the one that stood."""
    return FieldProblem(path, ProblemType.FORBIDDEN, None, detail)


def unsupported(path: str, value: Any, allowed: Iterable[str]) -> FieldProblem:
    """The value is none of those that are known."""
    known = ", ".join(f'"{one}"' for one in sorted(allowed))
    return FieldProblem(path, ProblemType.NOT_SUPPORTED, value, f"supported values: {known}")


def duplicate(path: str, value: Any) -> FieldProblem:
    """The value stands here twice."""
    return FieldProblem(path, ProblemType.DUPLICATE, value)


def too_many(path: str, count: int, most: int) -> FieldProblem:
    """The list is longer than allowed."""
    return FieldProblem(path, ProblemType.TOO_MANY, count, f"must have at most {most} items")


def too_long(path: str, most: int) -> FieldProblem:
    """The text, or the sum of texts, is longer than allowed."""
    return FieldProblem(path, ProblemType.TOO_LONG, None, f"may not be more than {most} bytes")


def internal(path: str, detail: str) -> FieldProblem:
    """The check itself could not be made."""
    return FieldProblem(path, ProblemType.INTERNAL, None, detail)
