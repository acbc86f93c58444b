"""One log file per component, although several components share a process.

Theory. Each component runs in a context of its own (PEP 567), which its tasks inherit; a log record goes to the file of
the context that it was made in, and to the process's own file where none is told.

A file that has grown too long is copied to ``<file>.1``, in the place of an older one, and begun anew. It stays the same
file, because a process's own is its standard output, too; everybody appends.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

from twinstack.loops.logs import KlogFormatter

LONGEST = 10 << 20  # bytes of one file
_component: ContextVar[str] = ContextVar("component", default="")


@contextmanager
def belonging_to(component: str) -> Iterator[None]:
    """Let the log records of the body, and of what it starts, go to the component's file."""
    token = _component.set(component)
    try:
        yield
    finally:
        _component.reset(token)


class ByComponent(logging.Handler):
    """Writes each record to the file of its component, opened when it first speaks."""

    def __init__(self, path_of: Callable[[str], str], process: str) -> None:
        super().__init__()
        self.setFormatter(KlogFormatter())
        self._path_of, self._process = path_of, process
        self._files: dict[str, TextIO] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            file = self._file(_component.get() or self._process)
            file.write(self.format(record) + "\n")
            file.flush()
            if file.tell() > LONGEST:
                rotate(file.name)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        super().close()

    def _file(self, component: str) -> TextIO:
        file = self._files.get(component)
        if file is None:
            path = self._path_of(component)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            file = self._files[component] = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115 - it stays open as long as the process
        return file


def rotate(path: str) -> bool:
    """Begin a log anew when it is too long, and keep what it was in ``<path>.1``; whether that was so."""
    try:
        if os.path.getsize(path) <= LONGEST:
            return False
        shutil.copyfile(path, f"{path}.1.new")
        os.replace(f"{path}.1.new", f"{path}.1")
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def install(path_of: Callable[[str], str], process: str, *, verbosity: int = 0) -> None:
    """Send this process's log records to the components' files."""
    root = logging.getLogger()
    root.handlers[:] = [ByComponent(path_of, process)]
    root.setLevel(logging.WARNING)
    logging.getLogger("twinstack").setLevel(logging.DEBUG if verbosity >= 2 else logging.INFO)
