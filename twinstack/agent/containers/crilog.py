"""A container's log file in the form that CRI and kubectl know: ``<RFC 3339, nanoseconds> stdout F text``.

Imported by the spawner: the standard library's thinnest part only. A line longer than 16 KiB is told in
parts (``P``), the last of which is ``F``. A file that has reached its size moves to ``<file>.1``, what was there
to ``.2``, and so on; the oldest goes.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

LONGEST_LINE = 16 * 1024
LARGEST_FILE = 10 * 1024 * 1024
MOST_FILES = 5  # with the newest


def timestamp(nanoseconds: int) -> str:
    """``2026-01-02T15:04:05.000000001Z``"""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


class Log:
    """Writes what a container says, on two streams, to one file. The container never waits for the disk's room."""

    def __init__(self, path: str, *, largest: int = LARGEST_FILE, files: int = MOST_FILES) -> None:
        self.path = path
        self.lost = 0  # bytes that could not be written
        self._largest, self._old = largest, files - 1
        self._rest: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._open()

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._file).st_size

    def feed(self, stream: str, data: bytes, *, now: int | None = None) -> None:
        """Take in bytes that were read from one of the streams."""
        *lines, rest = (self._rest[stream] + data).split(b"\n")
        entries = []
        for line in lines:
            entries += self._cut(line, last=True)
        if len(rest) > LONGEST_LINE:
            parts = self._cut(rest, last=False)
            entries += parts[:-1]
            rest = parts[-1][1]
        self._rest[stream] = rest
        self._write(stream, entries, now)

    def end(self, stream: str, *, now: int | None = None) -> None:
        """The stream has ended: an unfinished line is told as it is."""
        rest, self._rest[stream] = self._rest[stream], b""
        if rest:
            self._write(stream, self._cut(rest, last=True), now)

    def close(self) -> None:
        """Write what is left and close the file."""
        for stream in self._rest:
            self.end(stream)
        os.close(self._file)

    @staticmethod
    def _cut(line: bytes, *, last: bool) -> list[tuple[bytes, bytes]]:
        parts = [line[i : i + LONGEST_LINE] for i in range(0, len(line), LONGEST_LINE)] or [b""]
        return [(b"P", part) for part in parts[:-1]] + [(b"F" if last else b"P", parts[-1])]

    def _write(self, stream: str, entries: list[tuple[bytes, bytes]], now: int | None) -> None:
        if not entries:
            return
        head = f"{timestamp(time.time_ns() if now is None else now)} {stream} ".encode()
        data = b"".join(head + tag + b" " + text + b"\n" for tag, text in entries)
        try:
            if self._size and self._size + len(data) > self._largest:
                self._rotate()
            written = os.write(self._file, data)
            self._size += written
            self.lost += len(data) - written
        except OSError:  # a full disk must stop neither the container nor the spawner; the loss is counted and told
            self.lost += len(data)

    def _rotate(self) -> None:
        os.close(self._file)
        for number in range(self._old, 0, -1):
            older = f"{self.path}.{number}"
            newer = f"{self.path}.{number - 1}" if number > 1 else self.path
            if os.path.exists(newer):
                os.replace(newer, older)
        self._open()


class Line(NamedTuple):
    """One entry of a log file."""

    timestamp: str
    stream: str
    partial: bool
    text: bytes


def parse(entry: bytes) -> Line | None:
    """The entry that a line of the file (without its newline) means; None when it is none."""
    parts = entry.split(b" ", 3)
    if len(parts) != 4 or parts[2] not in (b"F", b"P"):
        return None
    return Line(parts[0].decode("ascii", "replace"), parts[1].decode("ascii", "replace"), parts[2] == b"P", parts[3])
