"""The store's one table: its rows, its schema, what is written and deleted at once.

Rule of this file: plain functions over one connection; who calls them in which thread is sqlite.py's business.

Theory. A row is a revision, so all writes go to the end of one tree, and there is no index by key: one would have every write
dirty a page at a random place more, which was half of what a commit costs (decision 0003). Who asks by key reads all rows in order, and these are few:
opening, which reads them anyway, and compaction, which remembers the keys that changed since it last ran.

What an index would know of a lost row, the numbers know. Revisions have no gaps, so above ``compact_rev`` there are as many rows as revisions; of those up
to it, ``kept_rows`` says how many compaction left; and ``last_rev`` is a revision that was reached for certain, should the end be missing. Each of them
changes in the transaction that changes the rows, so that at every instant they agree.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from twinstack.store.base import Revision, StoreError

SCHEMA_VERSION: Final = 2  # 1 had an index by key
READABLE_VERSIONS: Final = (1, SCHEMA_VERSION)
SLICE_ROWS: Final = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, deleted INTEGER NOT NULL, value BLOB, sum INTEGER);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
# Of many rows in one statement: SQLite lets go of the interpreter's lock for each step, and the event loop is not handed it back at once.
_COLUMNS = 5
_INSERTS = [
    (rows, f"INSERT INTO kv (rev, key, deleted, value, sum) VALUES {', '.join(['(?, ?, ?, ?, ?)'] * rows)}")
    for rows in (256, 64, 16, 4, 1)
]  # fmt: skip
# Grouping sorts keys; sorting the rows that are joined to them would sort all values, too.
_NEWEST = """
SELECT last.key, kv.value, last.newest, kv.deleted, kv.sum, last.rows
FROM (SELECT key, MAX(rev) AS newest, COUNT(*) AS rows FROM kv GROUP BY key ORDER BY key) AS last LEFT JOIN kv ON kv.rev = last.newest
"""
_SLICE = "SELECT rev, key, deleted FROM kv WHERE rev > ? AND rev <= ? ORDER BY rev LIMIT ?"


class Damaged(Exception):
    """Rows are not what was written, or not all there."""


class Numbers(NamedTuple):
    """What a store knows of its rows without looking at them."""

    compacted: Revision  # everything that was superseded up to this revision is forgotten, or about to be
    kept: int  # rows up to it
    last: Revision  # at least this revision was reached

    def rows(self, newest: Revision) -> int:
        """How many rows there must be when this is the newest that was found."""
        return self.kept + max(newest, self.last, self.compacted) - self.compacted


def connect(path: Path) -> sqlite3.Connection:
    """A connection as the server needs it: what is committed is flushed, and nobody checkpoints unasked."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30.0, cached_statements=32)
    try:
        if not connection.execute("PRAGMA auto_vacuum").fetchone()[0]:  # said again, it is written again
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("PRAGMA cache_size=-2000")
        connection.execute("PRAGMA temp_store=MEMORY")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> None:
    """Make the tables where there are none, and bring those of an earlier version to this one; StoreError for any other version."""
    with transaction(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
        connection.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('schema_version', ?)", (SCHEMA_VERSION,))
        found = _meta(connection).get("schema_version")
        if found not in READABLE_VERSIONS:
            raise StoreError(f"the store has schema version {found}; this program knows version {SCHEMA_VERSION}")
        for statement in _SCHEMA.strip().splitlines():
            connection.execute(statement)
        if found == 1:
            _upgrade(connection)


def _upgrade(connection: sqlite3.Connection) -> None:
    """From version 1: rows may have no checksum (they are taken as they are), an index knows every row, and nobody counted them."""
    # The index is asked one last time whether all is there.
    [problem] = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if problem != "ok":
        raise sqlite3.DatabaseError(problem)
    connection.execute("DROP INDEX IF EXISTS kv_key")
    if all(row[1] != "sum" for row in connection.execute("PRAGMA table_info(kv)")):
        connection.execute("ALTER TABLE kv ADD COLUMN sum INTEGER")
    count, newest = connection.execute("SELECT COUNT(*), COALESCE(MAX(rev), 0) FROM kv").fetchone()
    compacted = _meta(connection).get("compact_rev", 0)
    _note(connection, "kept_rows", count - (max(newest, compacted) - compacted))
    _note(connection, "last_rev", newest)
    _note(connection, "schema_version", SCHEMA_VERSION)


class transaction:
    """All of it or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def numbers(connection: sqlite3.Connection) -> Numbers:
    """What the store knows of its rows."""
    meta = _meta(connection)
    return Numbers(meta.get("compact_rev", 0), meta.get("kept_rows", 0), meta.get("last_rev", 0))


def newest_revision(connection: sqlite3.Connection) -> Revision:
    """The last that was given out. Its row may be a forgotten deletion; a revision must not come again."""
    newest: Revision = connection.execute("SELECT COALESCE(MAX(rev), 0) FROM kv").fetchone()[0]
    return max(newest, numbers(connection).compacted)


def newest(connection: sqlite3.Connection) -> Iterator[tuple[str, bytes | None, Revision]]:
    """Each key's newest row, by key, None for a deletion. Damaged says what is; only at the end is known that nothing is missing."""
    count, highest = 0, 0
    for key, value, revision, deleted, total, rows in connection.execute(_NEWEST):
        sound = deleted in (0, 1) and (value is None) == bool(deleted) and isinstance(value, bytes | None)
        if not sound or (total is not None and total != checksum(revision, key, value)):
            raise Damaged(f"revision {revision} of {key!r} is not what was written")
        count += rows
        highest = max(highest, revision)
        yield key, value, revision
    if (wanted := numbers(connection).rows(highest)) != count:
        raise Damaged(f"there are {count} rows where {wanted} were written")


def insert(connection: sqlite3.Connection, rows: Sequence[tuple[Revision, str, bytes | None]], *, note_last: bool = False) -> int:
    """Rows with the next revisions, in one transaction; returns about how many bytes they added to the log."""
    values: list[int | str | bytes | None] = []
    size = 0
    for revision, key, value in rows:
        values += (revision, key, 1 if value is None else 0, value, checksum(revision, key, value))
        # A row fills a part of a page; the exact number is the log's business.
        size += len(value or b"") + 2048
    with transaction(connection):
        at = 0
        for count, statement in _INSERTS:
            width = count * _COLUMNS
            while len(values) - at >= width:
                connection.execute(statement, values[at : at + width])
                at += width
        if note_last:
            _note(connection, "last_rev", rows[-1][0])
    return size


def compaction(connection: sqlite3.Connection, limit: Revision, after: Revision, *, slice_rows: int = SLICE_ROWS) -> Iterator[None]:
    """Forget rows up to *limit* that a later row, also up to it, supersedes, and deletions. Each step takes a moment; others may write in between.

    *after* is a limit up to which that was done before, 0 for none: keys that did not change since are not remembered. Rows
    go in the order of their revisions, so a deletion's own row goes last of its key and no older row comes to life.
    """
    with transaction(connection):
        before = numbers(connection)
        if limit > before.compacted:
            _note(connection, "kept_rows", before.kept + limit - before.compacted)
            _note(connection, "compact_rev", limit)
    superseded: list[Revision] = []
    latest: dict[str, Revision] = {}  # 0 for a deletion, which is superseded already
    for some in _slices(connection, after, limit, slice_rows):
        for revision, key, deleted in some:
            if earlier := latest.get(key):
                superseded.append(earlier)
            if deleted:
                superseded.append(revision)
            latest[key] = 0 if deleted else revision
        yield
    if latest and after:
        for some in _slices(connection, 0, after, slice_rows):
            superseded += [revision for revision, key, _ in some if key in latest]
            yield
    superseded.sort()
    for at in range(0, len(superseded), slice_rows):
        gone = superseded[at : at + slice_rows]
        with transaction(connection):
            connection.executemany("DELETE FROM kv WHERE rev = ?", [(revision,) for revision in gone])
            connection.execute("UPDATE meta SET value = value - ? WHERE name = 'kept_rows'", (len(gone),))
        connection.execute("PRAGMA incremental_vacuum(200)").fetchall()
        yield


def _slices(connection: sqlite3.Connection, after: Revision, limit: Revision, count: int) -> Iterator[list[tuple[Revision, str, int]]]:
    while rows := connection.execute(_SLICE, (after, limit, count)).fetchall():
        yield rows
        after = rows[-1][0]


def write_new(path: Path, rows: Mapping[str, tuple[Revision, bytes]], *, compacted: Revision) -> None:
    """Write a new file that holds these values by key, with their revisions, and nothing of what was before; StoreError when it cannot be."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        connection = connect(path)
        try:
            prepare(connection)
            with transaction(connection):
                _note(connection, "compact_rev", compacted)
                _note(connection, "kept_rows", len(rows))
                connection.executemany(
                    "INSERT INTO kv (rev, key, deleted, value, sum) VALUES (?, ?, 0, ?, ?)",
                    ((revision, key, value, checksum(revision, key, value)) for key, (revision, value) in sorted(rows.items(), key=lambda one: one[1][0])),
                )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error}") from error


def checksum(revision: Revision, key: str, value: bytes | None) -> int:
    """What a row must add up to (CRC-32 of all of it); a deletion is told from an empty value."""
    return zlib.crc32(value or b"", zlib.crc32(f"{revision} {value is None} {key}".encode()))


def note_last(connection: sqlite3.Connection, revision: Revision) -> None:
    """Remember that this revision was reached."""
    with transaction(connection):
        _note(connection, "last_rev", revision)


def _meta(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT name, value FROM meta"))


def _note(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))
