"""A store's files, looked after from outside of the server: checked, backed up, restored.

Theory. In WAL mode a reader sees one transaction's state for as long as it reads, and keeps no writer waiting; so a
backup is one read transaction, and what it copies is what was durable at one revision. A file copied by other means
while the server runs is none: its log belongs to it.

Hazard. POSIX locks belong to a process: these functions are for a process of their own, never for the server's
(see sqlite.py). They open the store's file for reading alone, so that they change nothing about what is damaged.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from twinstack.store.base import Revision, StoreError
from twinstack.store.rows import READABLE_VERSIONS, SCHEMA_VERSION, checksum, numbers
from twinstack.store.sqlite import way_back

FILE = "state.db"
MOST_PROBLEMS = 20


class Report(NamedTuple):
    """What a store's file holds; it is sound when there are no problems."""

    path: Path
    revision: Revision
    compacted: Revision
    rows: int
    objects: int
    problems: tuple[str, ...]


def check(directory: Path) -> Report:
    """Look at every page and every row; StoreError when there is no store to look at."""
    return check_file(_store_file(directory))


def check_file(path: Path) -> Report:
    """The same of the file of a store or of a backup. A server may be at work on it."""
    problems: list[str] = []
    rows = objects = 0
    revision = compacted = 0
    try:
        connection = _open(path)
    except sqlite3.Error as error:
        return Report(path, 0, 0, 0, 0, (f"it cannot be opened: {error}",))
    try:
        connection.execute("BEGIN")  # one state for all that follows
        for (line,) in connection.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})"):
            if line != "ok":
                problems += str(line).splitlines()
        [version] = connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone() or [None]
        if version not in READABLE_VERSIONS:
            problems.append(f"it has schema version {version}; this program knows version {SCHEMA_VERSION}")
        known = numbers(connection)
        compacted = known.compacted
        present: dict[str, bool] = {}
        for found, key, deleted, value, total in _rows(connection):
            rows += 1
            revision = max(revision, found)
            present[key] = not deleted
            if (problem := _problem(found, key, deleted, value, total)) and len(problems) < MOST_PROBLEMS:
                problems.append(problem)
        objects = sum(present.values())
        if version == SCHEMA_VERSION and rows != (wanted := known.rows(revision)):
            problems.append(f"there are {rows} rows where {wanted} were written")
        revision = max(revision, compacted)
    except (sqlite3.Error, UnicodeError) as error:
        problems.append(f"it cannot be read any further: {error}")
    finally:
        connection.close()
    return Report(path, revision, compacted, rows, objects, tuple(dict.fromkeys(problems)))


def _rows(connection: sqlite3.Connection) -> Iterator[tuple[int, str, int, bytes | None, int | None]]:
    summed = any(row[1] == "sum" for row in connection.execute("PRAGMA table_info(kv)"))
    yield from connection.execute(f"SELECT rev, key, deleted, value, {'sum' if summed else 'NULL'} FROM kv ORDER BY rev")


def _problem(revision: int, key: object, deleted: object, value: object, total: int | None) -> str:
    """What is wrong with a row; empty for nothing."""
    where = f"revision {revision} ({key!r})"
    if not isinstance(key, str) or not key.startswith("/"):
        return f"{where}: the key is none"
    if revision <= 0:
        return f"{where}: a revision is above 0"
    if deleted not in (0, 1) or (value is None) != bool(deleted) or not isinstance(value, bytes | None):
        return f"{where}: it is neither a value nor a deletion"
    if total is not None and total != checksum(revision, key, value):
        return f"{where}: its checksum does not fit what is there"
    if value is not None:
        try:
            document = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return f"{where}: the value is not JSON: {error}"
        if not isinstance(document, dict):
            return f"{where}: the value is no JSON object"
    return ""


def backup(directory: Path, target: Path) -> Report:
    """Copy the store's present state into one new file, while a server may be at work on it; what the file holds.

    StoreError when the target exists or cannot be written, or when the store is damaged: then no backup is left.
    """
    source_file = _store_file(directory)
    if target.exists():
        raise StoreError(f"{target} exists already; a backup overwrites nothing")
    return _copy(source_file, target, "the store", way_back(directory))


def restore(source: Path, directory: Path) -> Report:
    """Make a new data directory of a backup; what it holds. StoreError when a store is there already, or the backup is no good."""
    if not source.is_file():
        raise StoreError(f"{source} is no file; a backup is one, made by `twinstack store backup`")
    make_directory(directory)
    return _copy(source, directory / FILE, "the backup", "another backup would do")


def make_directory(directory: Path) -> None:
    """Make a data directory for a new store; StoreError when one is there already."""
    for name in (FILE, f"{FILE}-wal", f"{FILE}-journal"):
        if (directory / name).exists():
            raise StoreError(f"{directory} has a store already ({name}), and nothing is overwritten; a new directory would do, or move that file away")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the data directory {directory} cannot be made: {error.strerror}") from error


def _copy(source_file: Path, target: Path, what: str, advice: str) -> Report:
    """Copy a store's file by SQLite's own hand, check the copy, and put it in place whole."""
    new = target.with_name(f"{target.name}.new")
    try:
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror}") from error
    try:
        try:
            source = _open(source_file)
            try:
                copy = sqlite3.connect(new, isolation_level=None)
                try:
                    source.backup(copy)
                    # A file that is alone, without a log beside it.
                    copy.execute("PRAGMA journal_mode=DELETE").fetchone()
                finally:
                    copy.close()
            finally:
                source.close()
        except sqlite3.Error as error:
            raise StoreError(f"{what} {source_file} could not be copied to {target}: {error}; {advice}") from error
        report = check_file(new)
        if report.problems:
            raise StoreError(f"{what} {source_file} is damaged ({report.problems[0]}), and was not copied; {advice}")
        try:
            _flush(new)
            os.link(new, target)  # fails when somebody else was there first, as a rename would not
            _flush(target.parent)
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}") from error
        return report._replace(path=target)
    finally:
        new.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _store_file(directory: Path) -> Path:
    path = directory / FILE
    if not path.is_file():
        raise StoreError(f"there is no store in {directory}: {FILE} is missing; the directory that kube-apiserver's --data-dir names would do")
    return path


def _open(path: Path) -> sqlite3.Connection:
    """The file, for reading."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
