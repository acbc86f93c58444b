"""The audit log's file, and those that came before it: rotated by size, forgotten by age and number.

Rule of this file: bytes in, files out; called from the audit log's thread alone. The file is opened for each write, so whoever moves it away himself gets
a new one. Rotated files are named as Kubernetes names them, so that whoever collects them finds them: ``audit-2026-01-02T03-04-05.006.log``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from twinstack.apiserver.settings import SettingsError

STDOUT: Final = "-"
DEFAULT_MEGABYTES: Final = 100  # when --audit-log-maxsize is 0
_STAMP: Final = "%Y-%m-%dT%H-%M-%S"
_STAMPED: Final = re.compile(r"-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)\.\d{3}\Z")


class RotatedFile:
    """Appends to a file; *days* and *backups* bound what is kept of those before it, 0 bounds nothing. ``-`` is the standard output."""

    def __init__(self, path: str, *, megabytes: int = 0, days: int = 0, backups: int = 0, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.path = path
        self._most_bytes = (megabytes or DEFAULT_MEGABYTES) << 20
        self._days, self._backups, self._now = days, backups, now
        if path == STDOUT:
            return
        try:
            with open(path, "ab"):
                pass
        except OSError as error:
            raise SettingsError(f"--audit-log-path={path} cannot be written: {error.strerror}") from error

    def append(self, data: bytes) -> None:
        """Write whole lines; OSError when they cannot be written."""
        if self.path == STDOUT:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        path = Path(self.path)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size and size + len(data) > self._most_bytes:
            self._rotate(path)
        with open(path, "ab") as file:
            file.write(data)

    def _rotate(self, path: Path) -> None:
        now = self._now()
        while (moved := path.with_name(f"{path.stem}-{now.strftime(_STAMP)}.{now.microsecond // 1000:03d}{path.suffix}")).exists():
            now += timedelta(milliseconds=1)
        os.rename(path, moved)
        before = sorted((one for one in path.parent.glob(f"{path.stem}-*{path.suffix}") if _STAMPED.search(one.stem[len(path.stem) :])), reverse=True)
        oldest = now - timedelta(days=self._days)
        for place, one in enumerate(before, 1):
            stamp = _STAMPED.search(one.stem)
            assert stamp is not None
            is_old = self._days and datetime.strptime(stamp[1], _STAMP).replace(tzinfo=UTC) < oldest
            if is_old or (self._backups and place > self._backups):
                one.unlink(missing_ok=True)
