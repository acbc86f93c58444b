"""A line on a terminal that says what is being waited for, and goes when it is over; nothing where stderr is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType


class Line:
    """One line of stderr, rewritten in place. What is printed elsewhere meanwhile comes after ``hide``."""

    def __init__(self, text: str = "") -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = False
        if text:
            self.show(text)

    def show(self, text: str) -> None:
        """Say this instead of what was said; cut at the terminal's width."""
        if self._is_terminal:
            sys.stderr.write(f"\r\033[2K{text[: shutil.get_terminal_size().columns - 1]}")
            sys.stderr.flush()
            self._shown = True

    def hide(self) -> None:
        """Leave the line empty, the cursor at its beginning."""
        if self._shown:
            sys.stderr.write("\r\033[2K")
            sys.stderr.flush()
            self._shown = False

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.hide()
