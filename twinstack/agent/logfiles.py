"""Reading a container's log as ``kubectl logs`` asks for it.

The options are Kubernetes' PodLogOptions. A follower looks for more a few times a second while it follows, and
ends when the container has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

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


def _standing(files: list[Path], options: Options) -> tuple[list[crilog.Line], BinaryIO | None]:
    """What stands now, and the newest file, open after its last whole entry; None when there is no file."""
    kept: deque[crilog.Line] | list[crilog.Line] = deque(maxlen=options.tail) if options.tail is not None else []
    newest: BinaryIO | None = None
    for path in files:
        if newest is not None:
            newest.close()
        newest = open(path, "rb")  # noqa: SIM115 - it is handed on
        offset = 0
        whole = []
        for line in newest:
            if not line.endswith(b"\n"):
                break
            offset += len(line)
            whole.append(line[:-1])
        newest.seek(offset)
        kept.extend(_chosen(whole, options))
    return list(kept), newest


async def read(path: Path, options: Options, *, is_over: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log, in pieces. ``is_over`` says whether the container has ended, which ends a follower."""
    printer = _Printer(options)
    entries, file = await asyncio.to_thread(_standing, files_of(path), options)
    try:
        for first in range(0, len(entries), 1000):
            yield printer.text(entries[first : first + 1000])
            if printer.is_full:
                return
        while options.follow and not printer.is_full:
            over = is_over()
            lines, file = _more(path, file)
            if data := printer.text(_chosen(lines, options)):
                yield data
            elif over:
                return
            else:
                await asyncio.sleep(LOOK_SECONDS)
    finally:
        if file is not None:
            file.close()


def _more(path: Path, file: BinaryIO | None) -> tuple[list[bytes], BinaryIO | None]:
    """Whole entries that have come to the file that is open, or to the next newer one when it has no more; and the one that is open then.

    What is open is read to its end even when the pod has gone and its files with it. When it was rotated away, as more was
    written than is kept, the oldest that is there is begun.
    """
    newer: list[tuple[Path, int]] = []
    with contextlib.suppress(FileNotFoundError):  # they are being rotated: the next look finds them
        files = [(one, os.stat(one).st_ino) for one in files_of(path)]
        known, inode = [number for _, number in files], os.fstat(file.fileno()).st_ino if file is not None else 0
        newer = files[known.index(inode) + 1 :] if inode in known else files
    lines = _entries(file) if file is not None else []  # after the look, so that what was written before a rotation is not left out
    for one, number in newer:
        if lines:
            break
        try:
            following = open(one, "rb")  # noqa: SIM115 - it is handed on
        except FileNotFoundError:
            break
        if os.fstat(following.fileno()).st_ino != number:  # another file has this name meanwhile
            following.close()
            break
        if file is not None:
            file.close()
        file, lines = following, _entries(following)
    return lines, file


def _entries(file: BinaryIO) -> list[bytes]:
    """Whole entries from where the file stands, which stands after them then."""
    offset = file.tell()
    data = file.read(CHUNK * 16)
    whole = data[: data.rfind(b"\n") + 1]
    file.seek(offset + len(whole))
    return whole.split(b"\n")[:-1]
