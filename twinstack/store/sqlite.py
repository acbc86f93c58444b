"""The embedded store: one append-only SQLite table, keyed by revision.

Rule of this file: *acknowledged means durable*, and the event loop never waits for the disk.

Theory. Three threads know SQLite, each with a connection of its own, and nobody else does:

1. The *writer* takes every commit that has piled up since it last looked and stores them in one transaction
   (group commit), because what costs is the flush and not the row. WAL with ``synchronous=FULL`` flushes the log
   once a transaction. Expectations were checked and revisions given out on the event loop before, so the
   writer only inserts. When it fails, for a full disk say, every commit accepted since is refused with it:
   they were checked against a state that did not come to be.
2. The *checkpointer* moves the log's pages into the table (``wal_autocheckpoint=0`` and passive checkpoints:
   inside a commit they would stall it by 20 ms).
3. Compaction deletes superseded rows in slices of a few hundred, between commits, in the writer.

A crash at any instant leaves a prefix of the transactions: SQLite checks each frame of the log, and a torn tail
is not part of it. Opening reads the newest row of each key; there is nothing to repair. What a disk does to pages that
were written long ago, SQLite does not check: so each row has a checksum, and rows are counted. One that does not fit its checksum, or
one too few, keeps the store from opening rather than a cluster from its objects.

Hazard. Two SQLite libraries, or a file descriptor of our own, on one database file in one process lose the
file's POSIX locks when either closes it. So the file is opened by the standard library's SQLite only, and
the guard against a second server is a lock on another file.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import logging
import os
import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from twinstack.store import rows
from twinstack.store.base import Event, Item, Ledger, Revision, StoreError, Subscriber, Write

log = logging.getLogger(__name__)

CHECKPOINT_BYTES = 4 << 20
RESTART_BYTES = 256 << 20
BATCH_WRITES = 2_000


class _Commit(NamedTuple):
    epoch: int
    writes: Sequence[Write]
    revisions: list[Revision]
    undo: list[tuple[str, Revision]]
    answer: asyncio.Future[list[Revision]]


class _Compaction(NamedTuple):
    limit: Revision
    answer: asyncio.Future[None]


class _End(enum.Enum):
    END = "end"


_END = _End.END


class SQLiteStore:
    """A store in one directory; StoreError when the directory cannot be used or another server uses it."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.db"
        self._guard = _guard(directory)
        try:
            connection = rows.connect(self._path)
            try:
                rows.prepare(connection)
                self._durable: Revision = rows.newest_revision(connection)
                self._compacted: Revision = rows.numbers(connection).compacted
            finally:
                connection.close()
        except sqlite3.Error as error:
            os.close(self._guard)
            raise StoreError(f"{self._path} cannot be used as the store: {error}; {way_back(directory)}") from error
        except BaseException:
            os.close(self._guard)
            raise
        self._ledger = Ledger(self._durable)
        self._subscribers: list[Subscriber] = []
        self._inflight: deque[_Commit] = deque()
        self._pending: list[_Commit] = []  # accepted in this turn of the event loop
        self._queue: queue.SimpleQueue[list[_Commit] | _Compaction | _End] = queue.SimpleQueue()
        self._epoch = 0  # counts refusals: what was accepted before one is refused with it
        self._checkpoint = threading.Event()
        self._closing = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    # ---- on the event loop

    @property
    def revision(self) -> Revision:
        return self._durable

    @property
    def compacted(self) -> Revision:
        return self._compacted

    def load(self) -> Iterable[Item]:
        connection = rows.connect(self._path)
        try:
            revisions = self._ledger.revisions
            for key, value, revision in rows.newest(connection):
                if value is not None:
                    revisions[key] = revision
                    yield Item(key, value, revision)
        except rows.Damaged as error:
            raise StoreError(f"{self._path} is damaged: {error}; {way_back(self._path.parent)}") from error
        except (sqlite3.Error, UnicodeError) as error:
            raise StoreError(f"{self._path} cannot be read: {error}; {way_back(self._path.parent)}") from error
        finally:
            connection.close()

    def subscribe(self, subscriber: Subscriber) -> None:
        self._subscribers.append(subscriber)

    async def commit(self, writes: Sequence[Write]) -> list[Revision]:
        loop = self._start()
        revisions, undo = self._ledger.accept(writes)
        commit = _Commit(self._epoch, writes, revisions, undo, loop.create_future())
        self._inflight.append(commit)
        if not self._pending:
            loop.call_soon(self._hand_over)
        self._pending.append(commit)
        # Whoever asked may go away; what was accepted happens all the same.
        return await asyncio.shield(commit.answer)

    def _hand_over(self) -> None:
        """Give the writer what the turn has brought: one by one it would take the interpreter's lock from whoever brings the next."""
        if self._pending:
            pending, self._pending = self._pending, []
            self._queue.put(pending)

    async def settled(self) -> None:
        waiting = [commit.answer for commit in self._inflight]
        if waiting:
            await asyncio.wait(waiting)

    async def compact(self, revision: Revision) -> None:
        loop = self._start()
        limit = min(revision, self._durable)
        if limit <= self._compacted:
            return
        compaction = _Compaction(limit, loop.create_future())
        self._queue.put(compaction)
        await asyncio.shield(compaction.answer)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = self._closing = True
        if self._threads:
            self._hand_over()
            self._queue.put(_END)
            self._checkpoint.set()
            for thread in self._threads:
                await asyncio.to_thread(thread.join)
            await self.settled()
        os.close(self._guard)

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise StoreError("the store is closed")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            for name, target in (("store-writer", self._write), ("store-checkpoint", self._checkpoint_when_due)):
                thread = threading.Thread(target=target, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
        elif self._loop is not loop:
            raise StoreError("the store belongs to another event loop")
        return loop

    def _stored(self, batch: Sequence[_Commit]) -> None:
        """The writer stored these; tell everybody in order, then answer."""
        events: list[Event] = []
        for commit in batch:
            self._inflight.popleft()
            events.extend(Event(revision, one.key, one.value, one.note) for revision, one in zip(commit.revisions, commit.writes, strict=True))
        self._durable = events[-1].revision
        for subscriber in self._subscribers:
            subscriber(events)
        for commit in batch:
            if not commit.answer.done():
                commit.answer.set_result(commit.revisions)

    def _refused(self, error: str) -> None:
        """The writer could not store something; refuse everything accepted up to now, for it was checked against that."""
        self._epoch += 1
        refused = list(self._inflight)
        self._inflight.clear()
        for commit in reversed(refused):
            self._ledger.withdraw(commit.undo)
        for commit in refused:
            if not commit.answer.done():
                commit.answer.set_exception(StoreError(error))

    def _compacted_to(self, compaction: _Compaction, error: str) -> None:
        if not error:
            self._compacted = max(self._compacted, compaction.limit)
        if compaction.answer.done():
            return
        if error:
            compaction.answer.set_exception(StoreError(error))
        else:
            compaction.answer.set_result(None)

    # ---- in the writer's thread

    def _write(self) -> None:
        connection = rows.connect(self._path)
        failed_epoch, refusing = -1, ""
        unflushed = 0
        last: Revision = 0  # of what was written here
        whole: Revision = 0  # everything up to it is compacted
        compactions: deque[tuple[_Compaction, Iterator[None]]] = deque()
        try:
            ending = False
            while not ending:
                batch: list[_Commit] = []
                count = 0
                one = self._next(wait=not compactions)
                while one is not None:
                    if one is _END:
                        ending = True
                        break
                    if isinstance(one, _Compaction):
                        compactions.append((one, rows.compaction(connection, one.limit, whole)))
                    else:
                        batch += [commit for commit in one if commit.epoch > failed_epoch]
                        count = sum(len(commit.writes) for commit in batch)
                        if count >= BATCH_WRITES:
                            break
                    one = self._next(wait=False)
                if batch:
                    try:
                        due = unflushed >= CHECKPOINT_BYTES
                        added = rows.insert(
                            connection,
                            [(revision, write.key, write.value) for commit in batch for revision, write in zip(commit.revisions, commit.writes, strict=True)],
                            note_last=due,
                        )
                    except Exception as error:  # whatever it was: nothing was stored, and somebody waits for an answer
                        failed_epoch = batch[0].epoch
                        if refusing != str(error):  # told once, however many are refused
                            refusing = str(error)
                            log.error("The store refuses writes", extra={"err": refusing})
                        self._call(self._refused, f"the store could not be written: {error}")
                    else:
                        self._call(self._stored, batch)
                        last = batch[-1].revisions[-1]
                        unflushed = added if due else unflushed + added
                        if refusing:
                            refusing = ""
                            log.info("The store takes writes again")
                        if due:
                            self._checkpoint.set()
                elif compactions:
                    compaction, steps = compactions[0]
                    try:
                        next(steps)
                    except StopIteration:
                        compactions.popleft()
                        whole = compaction.limit
                        self._call(self._compacted_to, compaction, "")
                    except sqlite3.Error as error:
                        compactions.popleft()
                        self._call(self._compacted_to, compaction, f"the store could not be compacted: {error}")
            for compaction, _ in compactions:
                self._call(self._compacted_to, compaction, "the store is closing")
            if last:
                try:
                    rows.note_last(connection, last)
                except sqlite3.Error as error:
                    log.warning("The store was closed without a note of its last revision", extra={"err": str(error)})
        finally:
            connection.close()

    def _next(self, *, wait: bool) -> list[_Commit] | _Compaction | _End | None:
        try:
            return self._queue.get(block=wait)
        except queue.Empty:
            return None

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop was closed before the store was: nobody waits for an answer any more
            log.warning("The event loop ended before its store was closed")

    # ---- in the checkpointer's thread

    def _checkpoint_when_due(self) -> None:
        connection = rows.connect(self._path)
        try:
            while not self._closing:
                self._checkpoint.wait()
                self._checkpoint.clear()
                large = _size(self._path.with_name(self._path.name + "-wal")) > RESTART_BYTES
                try:
                    # RESTART makes writers wait until the log can begin anew: only when it would grow without bound.
                    connection.execute(f"PRAGMA wal_checkpoint({'RESTART' if large else 'PASSIVE'})").fetchone()
                except sqlite3.Error as error:
                    log.warning("The store's log could not be checkpointed", extra={"err": str(error)})
        finally:
            connection.close()


def way_back(directory: Path) -> str:
    """What to do about a damaged store, in the words of an error."""
    found = f"`twinstack store check {directory}` tells what is damaged"
    return f"{found}, and `twinstack store restore` makes a new data directory of a backup; without one, `twinstack store rescue` makes it of what can be read"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _guard(directory: Path) -> int:
    """Hold the directory against a second server for as long as the descriptor is open."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        guard = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"the data directory {directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(guard)
        raise StoreError(f"the data directory {directory} is in use by another server") from error
    return guard
