"""What can be read of a damaged store, put into a new one.

Theory. Each row carries its key, its revision and a checksum of all of it, so a row that is found anywhere in the file is known to be whole and to be which
it is. The newest row of each key is its object, or its deletion. A row that does not fit its checksum may still tell its key: where it is newer than
what was found whole, the object is older than it was, or lost, and that is said. Of rows that are not there at all the store's own count tells
how many they are, and nobody knows whose.

The new store begins a million revisions later: what the old one handed out last may be among what is lost, and no revision may
mean two things. Nobody can go on watching from before; everybody lists anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from twinstack.store.base import Revision, StoreError
from twinstack.store.files import FILE, make_directory
from twinstack.store.pages import TABLE_LEAF, Pages
from twinstack.store.rows import SCHEMA_VERSION, Numbers, checksum, write_new

GAP: Final = 1_000_000


class Rescued(NamedTuple):
    """What came of it. ``lost`` are keys of which nothing but damaged rows was found, ``older`` those that have a newer one that is damaged."""

    path: Path
    objects: int
    rows: int  # that were found whole
    refused: int  # rows that do not fit their checksum
    missing: int | None  # rows of which nothing was found; None when the count is lost, too
    damaged_pages: int
    revision: Revision
    lost: tuple[str, ...]
    older: tuple[str, ...]


class _Row(NamedTuple):
    revision: Revision
    value: bytes | None


def rescue(source: Path, directory: Path) -> Rescued:
    """Make a new data directory of what the damaged one still holds; StoreError when there is nothing, or a store is there already.

    No server may be at work on the source.
    """
    file = source / FILE
    try:
        log = source / f"{FILE}-wal"
        pages = Pages(file.read_bytes(), log.read_bytes() if log.exists() else b"")
    except OSError as error:
        raise StoreError(f"there is no store in {source} that could be read: {error.strerror or error}") from error
    newest: dict[str, _Row] = {}
    rows = refused = 0
    damaged: dict[str, Revision] = {}
    meta: dict[str, int] = {}
    for revision, values in pages.records(TABLE_LEAF):
        match values:
            case (str(name), int(number)):
                meta[name] = number
            case (None, str(key), int(deleted), bytes() | None as value, *rest) if key.startswith("/") and revision > 0 and len(rest) <= 1:
                if not _is_whole(revision, key, deleted, value, rest[0] if rest else None):
                    refused += 1
                    damaged[key] = max(revision, damaged.get(key, 0))
                    continue
                rows += 1
                known = newest.get(key)
                if known is None or known.revision < revision:
                    newest[key] = _Row(revision, value)
    if not newest:
        raise StoreError(f"nothing in {file} is a row of a store; only a backup can help")
    highest = max(row.revision for row in newest.values())
    damaged = {key: revision for key, revision in damaged.items() if revision < highest + GAP}  # beyond that the revision is what is damaged
    lost = tuple(sorted(key for key in damaged if key not in newest))
    older = tuple(sorted(key for key, row in newest.items() if damaged.get(key, 0) > row.revision))
    highest = max(highest, *damaged.values(), 0)
    missing = None
    if meta.get("schema_version") == SCHEMA_VERSION:
        numbers = Numbers(meta.get("compact_rev", 0), meta.get("kept_rows", 0), meta.get("last_rev", 0))
        missing = max(0, numbers.rows(highest) - rows - refused)
    living = {key: (row.revision, row.value) for key, row in newest.items() if row.value is not None}
    make_directory(directory)
    write_new(directory / FILE, living, compacted=highest + GAP)
    return Rescued(directory, len(living), rows, refused, missing, pages.damaged + pages.missing, highest + GAP, lost, older)


def _is_whole(revision: int, key: str, deleted: int, value: bytes | None, total: object) -> bool:
    if (value is None) != bool(deleted) or deleted not in (0, 1):
        return False
    if total is not None:
        return total == checksum(revision, key, value)
    try:  # of a store from before rows had checksums
        return value is None or isinstance(msgspec.json.decode(value), dict)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
