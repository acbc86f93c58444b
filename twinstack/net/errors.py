"""The root of every error that twinstack raises on purpose, this room's own, and how a seam turns one into another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Error(Exception):
    """Root of everything that twinstack raises on purpose."""


class AddressError(Error, ValueError):
    """A text is not a canonical address or CIDR.

    ``suggestion`` is the text that would do, where there is one.
    """

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


@contextmanager
def translate(table: Mapping[type[BaseException], Callable[[Any], BaseException]]) -> Iterator[None]:
    """Raise in place of an error of the table what its row makes of it, the cause chained.

    A seam between two rooms owns one such table; the first row that fits counts.
    """
    try:
        yield
    except tuple(table) as error:
        raise next(make for cls, make in table.items() if isinstance(error, cls))(error) from error
