"""The one error of this room, and the root of every error that twinstack raises on purpose."""

from __future__ import annotations


class Error(Exception):
    """Root of everything that twinstack raises on purpose."""


class AddressError(Error, ValueError):
    """A text is not a canonical address or CIDR.

    ``suggestion`` is the text that would do, where there is one.
    """

    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion
