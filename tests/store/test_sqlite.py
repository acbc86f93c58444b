"""What the disk adds: durability, recovery, one server per directory."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from twinstack.store import files, rows
from twinstack.store.base import Event, StoreError, Write
from twinstack.store.sqlite import SQLiteStore

SmallDisk = Callable[[int], Path]
Reopen = Callable[[Path], Awaitable[SQLiteStore]]

# Writes numbers as fast as it can, and prints each once it is acknowledged.
WRITER = """
import asyncio, sys
from pathlib import Path
from twinstack.store.base import Write
from twinstack.store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(Path(sys.argv[1]))
    for item in store.load(): pass
    start = store.revision
    async def one(lane):
        for number in range(100000):
            [revision] = await store.commit([Write(f"/{lane}/{number % 50}", b"x" * 500)])
            sys.stdout.write(f"{revision}\\n"); sys.stdout.flush()
    await asyncio.gather(*(one(lane) for lane in range(8)))

asyncio.run(main())
"""


def rows_of(directory: Path) -> list[tuple[int, str, int, bytes | None]]:
    connection = sqlite3.connect(directory / "state.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("SELECT rev, key, deleted, value FROM kv ORDER BY rev").fetchall()
    finally:
        connection.close()


def write_until_killed(directory: Path, lines: int) -> list[int]:
    """Run the writer until it has printed so many lines, kill it, and return every revision it acknowledged."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = b"".join(process.stdout.readline() for _ in range(lines))
        process.send_signal(signal.SIGKILL)
        # The last line may be cut short, which is not an acknowledgement.
        return [int(line) for line in (first + process.stdout.read()).split(b"\n")[:-1]]


async def test_what_was_acknowledged_is_there_after_opening_anew(tmp_path: Path, reopen: Reopen) -> None:
    store = await reopen(tmp_path)
    await store.commit([Write("/a", b"1", 0), Write("/b", b"2", 0)])
    await store.commit([Write("/a", b"3", 1)])
    await store.commit([Write("/b", None, 2)])
    store = await reopen(tmp_path)
    assert [tuple(item) for item in store.load()] == [("/a", b"3", 3)]
    assert store.revision == 4
    assert await store.commit([Write("/b", b"4", 0)]) == [5]


async def test_a_revision_never_comes_twice_even_when_the_newest_row_was_compacted(tmp_path: Path, reopen: Reopen) -> None:
    store = await reopen(tmp_path)
    await store.commit([Write("/a", b"1")])
    await store.commit([Write("/a", None)])
    await store.compact(2)
    store = await reopen(tmp_path)
    assert list(store.load()) == []
    assert (store.revision, store.compacted) == (2, 2)
    assert rows_of(tmp_path) == []
    assert await store.commit([Write("/a", b"2", 0)]) == [3]


async def test_compaction_keeps_the_newest_row_of_each_key_and_all_after_its_limit(tmp_path: Path, reopen: Reopen) -> None:
    store = await reopen(tmp_path)
    for _ in range(120):
        await store.commit([Write(f"/{key}", b"x") for key in range(10)])
    await store.compact(1100)
    assert [row[0] for row in rows_of(tmp_path)] == [*range(1091, 1101), *range(1101, 1201)]
    before = rows_of(tmp_path)
    await store.compact(1100)
    assert rows_of(tmp_path) == before


async def test_writes_go_on_while_history_is_compacted(tmp_path: Path, reopen: Reopen) -> None:
    store = await reopen(tmp_path)
    await store.commit([Write(f"/{number}", b"x") for number in range(3000)])
    await store.commit([Write(f"/{number}", b"y") for number in range(3000)])
    compaction = asyncio.ensure_future(store.compact(6000))
    revisions = [(await store.commit([Write("/new", str(n).encode())]))[0] for n in range(20)]
    await compaction
    assert revisions == list(range(6001, 6021))
    assert len(rows_of(tmp_path)) == 3000 + 20


async def test_a_write_that_cannot_be_stored_is_refused_and_the_next_is_not(tmp_path: Path, reopen: Reopen) -> None:
    store = await reopen(tmp_path)
    with pytest.raises(StoreError, match="could not be written"):
        await store.commit([Write("/\ud800", b"a key that is no text", 0)])
    assert await store.commit([Write("/a", b"1", 0)]) == [1]


async def test_a_second_server_on_one_directory_is_refused(tmp_path: Path, reopen: Reopen) -> None:
    await reopen(tmp_path)
    with pytest.raises(StoreError, match="in use by another server"):
        SQLiteStore(tmp_path)


async def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        SQLiteStore(tmp_path / "file")


async def test_a_file_that_is_no_database_is_refused_and_let_go(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database, but long enough to be read as one" * 100)
    for _ in range(2):
        with pytest.raises(StoreError, match="cannot be used as the store"):
            SQLiteStore(tmp_path)


async def test_a_store_of_a_later_version_is_refused(tmp_path: Path, reopen: Reopen) -> None:
    await (await reopen(tmp_path)).close()
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("UPDATE meta SET value = 99 WHERE name = 'schema_version'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        SQLiteStore(tmp_path)


@pytest.mark.slow
async def test_kill_9_at_any_instant_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    chance = random.Random(7)
    for _ in range(4):
        acknowledged = write_until_killed(tmp_path, chance.randrange(50, 1500))
        store = SQLiteStore(tmp_path)
        list(store.load())
        revisions = {row[0] for row in rows_of(tmp_path)}
        await store.close()
        assert set(acknowledged) <= revisions
        assert revisions == set(range(1, max(revisions) + 1))


@pytest.mark.slow
async def test_a_torn_log_leaves_a_prefix_without_gaps(tmp_path: Path, reopen: Reopen) -> None:
    live, torn = tmp_path / "live", tmp_path / "torn"
    store = await reopen(live)
    for number in range(60):
        await store.commit([Write(f"/{number}", os.urandom(700))])
    chance = random.Random(11)
    size = (live / "state.db-wal").stat().st_size
    for attempt in range(12):
        shutil.rmtree(torn, ignore_errors=True)
        torn.mkdir()
        for name in ("state.db", "state.db-wal"):
            shutil.copy(live / name, torn / name)
        with open(torn / "state.db-wal", "r+b") as log:
            if attempt % 2:
                log.truncate(chance.randrange(size))
            else:
                log.seek(chance.randrange(size - 512))
                log.write(chance.randbytes(512))
        after = SQLiteStore(torn)
        items = list(after.load())
        revision = after.revision
        assert [row[0] for row in rows_of(torn)] == list(range(1, revision + 1))
        assert len(items) == revision
        assert await after.commit([Write("/more", b"x", 0)]) == [revision + 1]
        await after.close()


@pytest.mark.kernel
@pytest.mark.slow
async def test_a_full_disk_refuses_writes_and_goes_on_when_there_is_room(tmp_path: Path, small_disk: SmallDisk) -> None:
    disk = small_disk(1 << 20)
    store = SQLiteStore(disk / "data")
    told: list[Event] = []
    store.subscribe(told.extend)
    list(store.load())
    written = 0
    with pytest.raises(StoreError, match="could not be written"):
        for written in range(2000):
            await store.commit([Write(f"/{written}", os.urandom(4000), 0)])
    assert written > 10
    assert store.revision == len(told) == written
    # Everything that was accepted together is refused together, and nothing of it is remembered.
    results = await asyncio.gather(*(store.commit([Write(f"/more/{n}", os.urandom(9000), 0)]) for n in range(40)), return_exceptions=True)
    assert any(isinstance(result, StoreError) for result in results)
    good = [result for result in results if isinstance(result, list)]
    assert store.revision == len(told) == written + len(good)
    # Room is made by a larger disk.
    small_disk(32 << 20)
    assert await store.commit([Write("/again", b"x", 0)]) == [store.revision]
    await store.close()
    again = SQLiteStore(disk / "data")
    assert len(list(again.load())) == written + len(good) + 1
    await again.close()


async def test_compacted_again_and_again_a_store_keeps_what_a_plain_history_would(tmp_path: Path, reopen: Reopen) -> None:
    """Against the rule itself, applied to the whole history at once; the store looks at what changed since it last compacted."""
    chance = random.Random(19)
    store = await reopen(tmp_path)
    history: list[tuple[int, str, int]] = []
    living: set[str] = set()
    limit = 0
    for turn in range(40):
        for _ in range(chance.randrange(12)):
            key = f"/{chance.randrange(15)}"
            deletes = key in living and chance.random() < 0.4
            [revision] = await store.commit([Write(key, None if deletes else b"x")])
            living ^= {key} if deletes or key not in living else set()
            history.append((revision, key, int(deletes)))
        if turn % 7 == 6:
            store = await reopen(tmp_path)
        limit = max(limit, store.revision - chance.randrange(8))
        await store.compact(limit)
        newest = {key: revision for revision, key, _ in history if revision <= limit}
        kept = [row for row in history if row[0] > limit or (newest[row[1]] == row[0] and not row[2])]
        assert [row[:3] for row in rows_of(tmp_path)] == kept
    store = await reopen(tmp_path)
    assert {item.key for item in store.load()} == living and len(history) > 150


async def test_a_compaction_that_is_broken_off_at_any_step_leaves_a_store_that_opens_and_is_compacted_later(tmp_path: Path, reopen: Reopen) -> None:
    store = await reopen(tmp_path / "sound")
    for number in range(30):
        await store.commit([Write(f"/{number % 10}", None if number in (23, 24) else b"{}")])
    await store.close()
    for steps in range(25):
        place = tmp_path / str(steps)
        shutil.copytree(tmp_path / "sound", place)
        connection = rows.connect(place / "state.db")
        for _ in zip(range(steps), rows.compaction(connection, 28, 0, slice_rows=3), strict=False):
            pass
        connection.close()
        assert files.check(place).problems == ()
        store = await reopen(place)
        assert [item.key for item in store.load()] == [f"/{number}" for number in (0, 1, 2, 5, 6, 7, 8, 9)]
        await store.compact(30)
        assert [row[0] for row in rows_of(place)] == [21, 22, 23, 26, 27, 28, 29, 30]
        assert files.check(place).problems == ()
        await store.close()


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param("rev = 3", id="a row of what was compacted"),
        pytest.param("rev = 25", id="a row above"),
        pytest.param("rev = 30", id="the last row"),
        pytest.param("rev > 20", id="the end"),
    ],
)
async def test_a_row_that_is_not_there_any_more_keeps_the_store_from_opening(tmp_path: Path, reopen: Reopen, lost: str) -> None:
    store = await reopen(tmp_path)
    for number in range(20):
        await store.commit([Write(f"/{number}", b"{}")])
    await store.compact(20)
    await store.commit([Write(f"/more/{number}", b"{}") for number in range(10)])
    await store.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    gone = connection.execute(f"DELETE FROM kv WHERE {lost}").rowcount
    connection.commit()
    connection.close()
    wanted = f"there are {30 - gone} rows where 30 were written"
    assert files.check(tmp_path).problems == (wanted,)
    store = await reopen(tmp_path)
    with pytest.raises(StoreError, match=wanted):
        list(store.load())


FIRST_SCHEMA = """
CREATE TABLE kv (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, deleted INTEGER NOT NULL, value BLOB, sum INTEGER);
CREATE INDEX kv_key ON kv (key, rev);
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO meta VALUES ('schema_version', 1), ('compact_rev', 4);
"""


def first_version(directory: Path) -> None:
    """A store as it was when it had an index by key."""
    connection = rows.connect(directory / "state.db")
    connection.executescript(FIRST_SCHEMA)
    rows.insert(connection, [(3, "/a", b'{"n":3}'), (4, "/b", b'{"n":4}'), (5, "/a", b'{"n":5}'), (6, "/c", b'{"n":6}'), (7, "/c", None)])
    connection.close()


async def test_a_store_of_the_first_version_opens_goes_on_and_is_compacted(tmp_path: Path, reopen: Reopen) -> None:
    first_version(tmp_path)
    assert files.check(tmp_path).problems == ()
    files.backup(tmp_path, tmp_path / "backup.db")
    store = await reopen(tmp_path)
    assert [tuple(item) for item in store.load()] == [("/a", b'{"n":5}', 5), ("/b", b'{"n":4}', 4)]
    assert (store.revision, store.compacted) == (7, 4)
    assert await store.commit([Write("/b", b"{}", 4)]) == [8]
    await store.compact(8)
    assert [row[0] for row in rows_of(tmp_path)] == [5, 8]
    await store.close()
    report = files.check(tmp_path)
    assert (report.problems, report.rows, report.compacted) == ((), 2, 8)
    connection = sqlite3.connect(tmp_path / "state.db")
    assert connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone() == (2,)
    assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'kv_key'").fetchone() == (0,)
    connection.close()
    files.restore(tmp_path / "backup.db", tmp_path / "new")
    store = await reopen(tmp_path / "new")
    assert len(list(store.load())) == 2


async def test_a_store_of_the_first_version_whose_index_and_rows_disagree_is_refused_as_it_is(tmp_path: Path) -> None:
    first_version(tmp_path)
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("UPDATE sqlite_master SET sql = 'CREATE INDEX kv_key ON kv (rev, key)' WHERE name = 'kv_key'")
    connection.commit()
    connection.close()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"cannot be used as the store: .*kv_key"):
            SQLiteStore(tmp_path)
