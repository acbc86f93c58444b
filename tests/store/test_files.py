"""A store's files from outside: what is damaged is found and said, and there is a way back."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from twinstack.cli.main import main
from twinstack.store import files
from twinstack.store.base import Item, StoreError, Write
from twinstack.store.sqlite import SQLiteStore

PAGE = 4096

# Writes JSON objects as fast as it can until it is told to stop; prints the newest revision that is durable before it begins and in the end.
BUSY = """
import asyncio, json, sys
from pathlib import Path
from twinstack.store.base import Write
from twinstack.store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(Path(sys.argv[1]))
    for item in store.load(): pass
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    number = 0
    while not stop.done():
        number += 1
        await store.commit([Write(f"/registry/core/things/{number % 300}", json.dumps({"n": number, "fill": "x" * 900}).encode())])
        if number == 200:
            print(store.revision, flush=True)
    await store.close()
    print(store.revision, flush=True)

asyncio.run(main())
"""


def value(number: int, size: int = 300) -> bytes:
    return json.dumps({"n": number, "fill": "x" * size}).encode()


async def made(directory: Path, *, objects: int = 400) -> list[Item]:
    """A store of so many objects, some changed and some deleted since; what it holds in the end."""
    store = SQLiteStore(directory)
    list(store.load())
    await store.commit([Write(f"/registry/core/things/{number}", value(number, number * 23 % 9000)) for number in range(objects)])
    await store.commit([Write(f"/registry/core/things/{number}", value(number, 50)) for number in range(0, objects, 3)])
    await store.commit([Write(f"/registry/core/things/{number}", None) for number in range(0, objects, 7)])
    await store.close()
    return await contents(directory)


async def contents(directory: Path) -> list[Item]:
    store = SQLiteStore(directory)
    try:
        return list(store.load())
    finally:
        await store.close()


async def test_a_store_that_is_sound_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = await made(tmp_path)
    report = files.check(tmp_path)
    assert report.problems == ()
    assert (report.revision, report.objects, report.rows) == (592, len(items), 592)
    with pytest.raises(SystemExit) as caught:
        main(["store", "check", str(tmp_path)])
    assert caught.value.code == 0
    assert f"is sound: revision 592, {len(items)} objects in 592 rows" in capsys.readouterr().out


async def test_a_backup_restored_is_the_same_store_and_goes_on_counting(tmp_path: Path) -> None:
    items = await made(tmp_path / "data")
    assert files.backup(tmp_path / "data", tmp_path / "backup.db").revision == 592
    assert (tmp_path / "backup.db").stat().st_mode & 0o777 == 0o600
    files.restore(tmp_path / "backup.db", tmp_path / "new")
    assert await contents(tmp_path / "new") == items
    store = SQLiteStore(tmp_path / "new")
    list(store.load())
    assert await store.commit([Write("/registry/core/things/new", b"{}", 0)]) == [593]
    await store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.db", "data", "new"]


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    await made(tmp_path / "data", objects=3)
    files.backup(tmp_path / "data", tmp_path / "backup.db")
    with pytest.raises(StoreError, match="exists already"):
        files.backup(tmp_path / "data", tmp_path / "backup.db")
    with pytest.raises(StoreError, match=r"has a store already \(state.db\)"):
        files.restore(tmp_path / "backup.db", tmp_path / "data")
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "state.db-wal").write_bytes(b"what a server left there would be taken for the log of the restored file")
    with pytest.raises(StoreError, match=r"has a store already \(state.db-wal\)"):
        files.restore(tmp_path / "backup.db", tmp_path / "left")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "none"], "there is no store in none"),
        (["backup", "none", "x.db"], "there is no store in none"),
        (["restore", "none.db", "new"], "none.db is no file"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["store", *arguments])
    assert caught.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line


@pytest.mark.slow
def test_a_backup_under_write_load_is_one_moment_of_the_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with subprocess.Popen([sys.executable, "-c", BUSY, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        before = int(process.stdout.readline())
        reports = [files.backup(data, tmp_path / f"{number}.db") for number in range(4)]
        live = files.check(data)
        process.stdin.write("\n")
        process.stdin.flush()
        after = int(process.stdout.readline())
        assert process.wait() == 0
    revisions = [report.revision for report in reports]
    assert before <= revisions[0] and revisions == sorted(revisions) and revisions[-1] <= live.revision <= after
    assert live.problems == ()
    for number, report in enumerate(reports):
        # Without a gap up to the newest: it is a prefix of what was written.
        assert report.rows == report.revision
        assert files.check_file(tmp_path / f"{number}.db").problems == ()


async def broken(directory: Path, damage: str, at: int) -> None:
    path = directory / "state.db"
    with open(path, "r+b") as file:
        if damage == "truncated":
            file.truncate(at)
        else:
            file.seek(at // 512 * 512)
            file.write(b"\0" * 512 if damage == "zeroed" else random.Random(at).randbytes(512))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "zeroed", "torn"])
async def test_a_damaged_file_is_found_at_the_start_or_has_all_there_is(tmp_path: Path, damage: str) -> None:
    sound = tmp_path / "sound"
    items = await made(sound)
    size = (sound / "state.db").stat().st_size
    assert size > 100 * PAGE
    chance = random.Random(damage)
    refused = found = 0
    for attempt in range(40):
        place = tmp_path / str(attempt)
        place.mkdir()
        shutil.copy(sound / "state.db", place / "state.db")
        await broken(place, damage, chance.randrange(512, size))
        report = files.check(place)
        found += bool(report.problems)
        try:
            # What is damaged may be what nobody asks for any longer: superseded rows, free room.
            assert await contents(place) == items
        except StoreError as error:
            refused += 1
            assert "`twinstack store check" in str(error) and "`twinstack store restore`" in str(error)
            assert report.problems, error
            with pytest.raises(StoreError, match=r"damaged|could not be copied"):
                files.backup(place, tmp_path / "no.db")
            assert not (tmp_path / "no.db").exists() and not (tmp_path / "no.db.new").exists()
        shutil.rmtree(place)
    assert found >= 20 and refused >= 10
    if damage == "truncated":
        assert found == refused == 40


async def test_a_value_that_changed_on_the_disk_keeps_the_store_from_opening(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await made(tmp_path)
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("UPDATE kv SET value = CAST(replace(value, 'x', 'y') AS BLOB) WHERE rev = 5")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="revision 5 of '/registry/core/things/4' is not what was written; `twinstack store check"):
        await contents(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["store", "check", str(tmp_path)])
    assert caught.value.code == 1
    told = capsys.readouterr()
    assert "revision 5 ('/registry/core/things/4'): its checksum does not fit" in told.out and "restore" in told.err


async def test_a_store_of_before_rows_had_checksums_opens_and_gets_them(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "state.db")
    connection.execute("CREATE TABLE kv (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, deleted INTEGER NOT NULL, value BLOB)")
    connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)")
    connection.execute("INSERT INTO meta VALUES ('schema_version', 1)")
    connection.execute("INSERT INTO kv VALUES (1, '/a', 0, CAST('{}' AS BLOB))")
    connection.commit()
    connection.close()
    assert files.check(tmp_path).problems == ()
    store = SQLiteStore(tmp_path)
    assert [item.key for item in store.load()] == ["/a"]
    await store.commit([Write("/a", b'{"n":1}', 1)])
    await store.close()
    connection = sqlite3.connect(tmp_path / "state.db")
    assert [row[0] is None for row in connection.execute("SELECT sum FROM kv ORDER BY rev")] == [True, False]
    connection.close()
