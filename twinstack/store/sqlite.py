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
were written long ago, SQLite does not check: so each row has a checksum, and a row that does not fit it, or one
that the index knows and the table does not, keeps the store from opening rather than a cluster from its objects.

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
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from twinstack.store.base import Event, Item, Ledger, Revision, StoreError, Subscriber, Write

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
CHECKPOINT_BYTES = 4 << 20
RESTART_BYTES = 256 << 20
BATCH_WRITES = 2_000
SLICE_ROWS = 500
WRITER_CACHE_KB = 6_000  # the index of 50,000 keys, into which addresses go at random places

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, deleted INTEGER NOT NULL, value BLOB, sum INTEGER);
CREATE INDEX IF NOT EXISTS kv_key ON kv (key, rev);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
# Of many rows in one statement: SQLite lets go of the interpreter's lock for each step, and the event loop is not handed it back at once.
_COLUMNS = 5
_INSERTS = [
    (rows, f"INSERT INTO kv (rev, key, deleted, value, sum) VALUES {', '.join(['(?, ?, ?, ?, ?)'] * rows)}")
    for rows in (256, 64, 16, 4, 1)
]  # fmt: skip
_LOAD = """
SELECT last.key, kv.value, last.newest, kv.deleted, kv.sum FROM (SELECT key, MAX(rev) AS newest FROM kv GROUP BY key) AS last
LEFT JOIN kv ON kv.rev = last.newest ORDER BY last.key
"""
_SUPERSEDED = """
SELECT rev, deleted OR EXISTS (SELECT 1 FROM kv AS newer WHERE newer.key = kv.key AND newer.rev > kv.rev AND newer.rev <= :limit)
FROM kv WHERE rev > :after AND rev <= :limit ORDER BY rev LIMIT :rows
"""


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
            connection = _connect(self._path)
            try:
                connection.executescript(_SCHEMA)
                _check_version(connection)
                _add_sums(connection)
                self._durable: Revision = connection.execute("SELECT COALESCE(MAX(rev), 0) FROM kv").fetchone()[0]
                self._compacted: Revision = _meta(connection, "compact_rev")
                # The newest row may be a forgotten deletion; its revision must not come again.
                self._durable = max(self._durable, self._compacted)
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
        connection = _connect(self._path)
        try:
            revisions = self._ledger.revisions
            for key, value, revision, deleted, total in connection.execute(_LOAD):
                sound = deleted is not None and isinstance(value, bytes | None) and (total is None or total == checksum(revision, key, value))
                if not sound:
                    raise StoreError(f"{self._path} is damaged: revision {revision} of {key!r} is not what was written; {way_back(self._path.parent)}")
                if deleted:
                    continue
                revisions[key] = revision
                yield Item(key, value, revision)
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
        connection = _connect(self._path)
        connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KB}")
        failed_epoch, refusing = -1, ""
        unflushed = 0
        compactions: deque[tuple[_Compaction, Revision]] = deque()
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
                        compactions.append((one, 0))
                    else:
                        batch += [commit for commit in one if commit.epoch > failed_epoch]
                        count = sum(len(commit.writes) for commit in batch)
                        if count >= BATCH_WRITES:
                            break
                    one = self._next(wait=False)
                if batch:
                    try:
                        unflushed += _insert(connection, batch)
                    except Exception as error:  # whatever it was: nothing was stored, and somebody waits for an answer
                        failed_epoch = batch[0].epoch
                        if refusing != str(error):  # told once, however many are refused
                            refusing = str(error)
                            log.error("The store refuses writes", extra={"err": refusing})
                        self._call(self._refused, f"the store could not be written: {error}")
                    else:
                        self._call(self._stored, batch)
                        if refusing:
                            refusing = ""
                            log.info("The store takes writes again")
                        if unflushed >= CHECKPOINT_BYTES:
                            unflushed = 0
                            self._checkpoint.set()
                elif compactions:
                    compaction, after = compactions.popleft()
                    try:
                        reached = _compact_slice(connection, compaction.limit, after)
                    except sqlite3.Error as error:
                        self._call(self._compacted_to, compaction, f"the store could not be compacted: {error}")
                    else:
                        if reached is None:
                            self._call(self._compacted_to, compaction, "")
                        else:
                            compactions.appendleft((compaction, reached))
            for compaction, _ in compactions:
                self._call(self._compacted_to, compaction, "the store is closing")
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
        connection = _connect(self._path)
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


def write_new(path: Path, rows: Mapping[str, tuple[Revision, bytes]], *, compacted: Revision) -> None:
    """Write a new file that holds these values by key, with their revisions, and nothing of what was before; StoreError when it cannot be."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = _connect(path)
        try:
            connection.executescript(_SCHEMA)
            _check_version(connection)
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO meta (name, value) VALUES ('compact_rev', ?)", (compacted,))
            connection.executemany(
                "INSERT INTO kv (rev, key, deleted, value, sum) VALUES (?, ?, 0, ?, ?)",
                ((revision, key, value, checksum(revision, key, value)) for key, (revision, value) in sorted(rows.items(), key=lambda one: one[1][0])),
            )
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error}") from error


def checksum(revision: Revision, key: str, value: bytes | None) -> int:
    """What a row must add up to (CRC-32 of all of it); a deletion is told from an empty value."""
    return zlib.crc32(value or b"", zlib.crc32(f"{revision} {value is None} {key}".encode()))


def way_back(directory: Path) -> str:
    """What to do about a damaged store, in the words of an error."""
    found = f"`twinstack store check {directory}` tells what is damaged"
    return f"{found}, and `twinstack store restore` makes a new data directory of a backup; without one, `twinstack store rescue` makes it of what can be read"


# ---- SQLite


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30.0, cached_statements=32)
    try:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA cache_size=-2000")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _insert(connection: sqlite3.Connection, batch: Sequence[_Commit]) -> int:
    """One transaction of many commits; returns about how many bytes it added to the log."""
    values: list[int | str | bytes | None] = []
    size = 0
    for commit in batch:
        for revision, write in zip(commit.revisions, commit.writes, strict=True):
            values += (revision, write.key, 1 if write.value is None else 0, write.value, checksum(revision, write.key, write.value))
            # A row dirties pages of the table and of the index; the exact number is the log's business.
            size += len(write.value or b"") + 4096
    connection.execute("BEGIN IMMEDIATE")
    try:
        at = 0
        for rows, statement in _INSERTS:
            width = rows * _COLUMNS
            while len(values) - at >= width:
                connection.execute(statement, values[at : at + width])
                at += width
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return size


def _compact_slice(connection: sqlite3.Connection, limit: Revision, after: Revision) -> Revision | None:
    """Look at the next rows; returns the last revision looked at, or None at the end.

    Rows go in the order of their revisions, so a deletion's own row goes last of its key and no older row comes to life.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if after == 0:
            connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('compact_rev', ?)", (limit,))
        rows = connection.execute(_SUPERSEDED, {"after": after, "limit": limit, "rows": SLICE_ROWS}).fetchall()
        connection.executemany("DELETE FROM kv WHERE rev = ?", [(revision,) for revision, superseded in rows if superseded])
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA incremental_vacuum(200)").fetchall()
    return rows[-1][0] if len(rows) == SLICE_ROWS else None


def _meta(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def _add_sums(connection: sqlite3.Connection) -> None:
    """Give a store of before rows had checksums the column for them; rows without one are taken as they are."""
    if all(row[1] != "sum" for row in connection.execute("PRAGMA table_info(kv)")):
        connection.execute("ALTER TABLE kv ADD COLUMN sum INTEGER")


def _check_version(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('schema_version', ?)", (SCHEMA_VERSION,))
    found = _meta(connection, "schema_version")
    if found != SCHEMA_VERSION:
        raise StoreError(f"the store has schema version {found}; this program knows version {SCHEMA_VERSION}")


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
