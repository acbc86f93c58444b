"""Reading a container's log as ``kubectl logs`` asks for it.

The options are Kubernetes' PodLogOptions. A follower looks for more a few times a second while it follows, and
ends when the container has.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from twinstack.agent.containers import crilog
from twinstack.api.errors import BadRequest
from twinstack.api.times import parse_time

LOOK_SECONDS = 0.1
CHUNK = 64 * 1024


class Options(NamedTuple):
    """What is asked for."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    limit: int | None = None
    since: str = ""  # RFC 3339 in nanoseconds, UTC, so that it compares as text
    stream: str = ""


def parse_options(query: Mapping[str, str], now: datetime) -> Options:
    """The options of a query; BadRequest when one has a value that cannot be."""

    def number(name: str, least: int) -> int | None:
        text = query.get(name, "")
        if not text:
            return None
        if not text.lstrip("-").isdigit() or int(text) < least:
            raise BadRequest(f"{name} is {text!r}; it is a number from {least} on")
        return int(text)

    def flag(name: str) -> bool:
        return query.get(name, "").lower() in ("true", "1", "t")

    since = ""
    seconds = number("sinceSeconds", 1)
    moment = now - timedelta(seconds=seconds) if seconds is not None else parse_time(query.get("sinceTime"))
    if query.get("sinceTime") and moment is None:
        raise BadRequest(f"sinceTime is {query['sinceTime']!r}, which is not an RFC 3339 time")
    if moment is not None:
        since = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    stream = query.get("stream", "").lower()
    return Options(
        flag("follow"), flag("previous"), flag("timestamps"), number("tailLines", 0), number("limitBytes", 1), since, stream if stream != "all" else ""
    )


def files_of(path: Path) -> list[Path]:
    """A log's files, the oldest first."""
    old = {int(number): one for one in path.parent.glob(f"{path.name}.*") if (number := one.name[len(path.name) + 1 :]).isdigit()}
    return [*(old[number] for number in sorted(old, reverse=True)), *([path] if path.exists() else [])]


def tail(path: Path, *, lines: int, size: int) -> bytes:
    """The last lines of a log, without their times; at most so many, and at most so many bytes of them."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - CHUNK))
            held = file.read()
    except FileNotFoundError:
        return b""
    entries = [entry for raw in held.splitlines() if (entry := crilog.parse(raw)) is not None]
    text = b"".join(entry.text if entry.partial else entry.text + b"\n" for entry in entries)
    return b"".join(text.splitlines(keepends=True)[-lines:])[-size:]


class _Printer:
    """Turns entries into what a reader sees."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._inside = False  # a line that was told in parts is not over yet
        self._left = options.limit

    @property
    def is_full(self) -> bool:
        return self._left == 0

    def text(self, entries: Iterable[crilog.Line]) -> bytes:
        parts = []
        for entry in entries:
            if self._options.timestamps and not self._inside:
                parts.append(entry.timestamp.encode() + b" ")
            parts.append(entry.text if entry.partial else entry.text + b"\n")
            self._inside = entry.partial
        data = b"".join(parts)
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        return data


def _chosen(entries: Iterable[bytes], options: Options) -> Iterator[crilog.Line]:
    for raw in entries:
        entry = crilog.parse(raw)
        if entry is not None and entry.timestamp >= options.since and options.stream in ("", entry.stream):
            yield entry


def _standing(files: list[Path], options: Options) -> tuple[list[crilog.Line], int, int]:
    """What stands now, and where the newest file was left: its inode and the offset after its last whole entry."""
    kept: deque[crilog.Line] | list[crilog.Line] = deque(maxlen=options.tail) if options.tail is not None else []
    inode = offset = 0
    for path in files:
        with open(path, "rb") as file:
            inode, offset = os.fstat(file.fileno()).st_ino, 0
            whole = []
            for line in file:
                if not line.endswith(b"\n"):
                    break
                offset += len(line)
                whole.append(line[:-1])
        kept.extend(_chosen(whole, options))
    return list(kept), inode, offset


async def read(path: Path, options: Options, *, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log, in pieces. ``is_over`` says whether the container has ended, which ends a follower."""
    printer = _Printer(options)
    entries, inode, offset = await asyncio.to_thread(_standing, files_of(path), options)
    for first in range(0, len(entries), 1000):
        yield printer.text(entries[first : first + 1000])
        if printer.is_full:
            return
    while options.follow and not printer.is_full:
        over = is_over()
        lines, inode, offset = _more(path, inode, offset)
        if data := printer.text(_chosen(lines, options)):
            yield data
        elif over:
            return
        else:
            await asyncio.sleep(LOOK_SECONDS)


def _more(path: Path, inode: int, offset: int) -> tuple[list[bytes], int, int]:
    """Whole entries after *offset* of the file that has this inode, or of the next newer one when it has no more; and where we are then.

    When the file is gone, as more was written than is kept, the oldest that is there is begun.
    """
    try:
        files = [(file, os.stat(file).st_ino) for file in files_of(path)]
        known = [number for _, number in files]
        at = known.index(inode) if inode in known else -1
        lines: list[bytes] = []
        if at >= 0:
            lines, offset = _tail(*files[at], offset)
        while not lines and at + 1 < len(files):
            at += 1
            lines, after = _tail(*files[at], 0)
            inode, offset = files[at][1], after
    except FileNotFoundError:  # they are being rotated: the next look finds them
        return [], inode, offset
    return lines, inode, offset


def _tail(path: Path, inode: int, offset: int) -> tuple[list[bytes], int]:
    """Whole entries after *offset*, and the offset after them; FileNotFoundError when another file has this name meanwhile."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_ino != inode:
            raise FileNotFoundError(path)
        file.seek(offset)
        data = file.read(CHUNK * 16)
    whole = data[: data.rfind(b"\n") + 1]
    return whole.split(b"\n")[:-1], offset + len(whole)
