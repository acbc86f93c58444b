"""What is left of a damaged store comes into a new one, and what is not is said."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from twinstack.cli.main import main
from twinstack.store.base import Item, StoreError, Write
from twinstack.store.pages import INDEX_INNER, INDEX_LEAF, TABLE_LEAF, Pages
from twinstack.store.rescue import GAP, rescue
from twinstack.store.sqlite import SQLiteStore

KEY = "/registry/core/things/"


def value(number: int, turn: int, size: int) -> bytes:
    return json.dumps({"n": number, "turn": turn, "fill": "x" * size}).encode()


async def made(directory: Path, *, objects: int = 300, compact: bool = True) -> dict[str, Item]:
    """A store whose objects are small and large, some changed, some deleted, compacted in between; what it holds in the end."""
    store = SQLiteStore(directory)
    list(store.load())
    await store.commit([Write(f"{KEY}{number}", value(number, 0, number * 37 % 15_000)) for number in range(objects)])
    await store.commit([Write(f"{KEY}{number}", None) for number in range(0, objects, 7)])
    await store.commit([Write(f"{KEY}{number}", value(number, 1, 40)) for number in range(1, objects, 3) if number % 7])
    if compact:
        await store.compact(store.revision)
    await store.commit([Write(f"{KEY}{number}", value(number, 2, 60)) for number in range(2, objects, 5) if number % 7])
    await store.close()
    return await contents(directory)


async def contents(directory: Path) -> dict[str, Item]:
    store = SQLiteStore(directory)
    try:
        return {item.key: item for item in store.load()}
    finally:
        await store.close()


async def test_a_sound_store_is_rescued_whole_and_goes_on_far_beyond_its_last_revision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = await made(tmp_path / "data")
    found = rescue(tmp_path / "data", tmp_path / "new")
    assert (found.objects, found.refused, found.missing, found.damaged_pages, found.lost, found.older) == (len(before), 0, 0, 0, (), ())
    assert await contents(tmp_path / "new") == before
    store = SQLiteStore(tmp_path / "new")
    list(store.load())
    last = max(item.revision for item in before.values())
    assert store.compacted == store.revision == last + GAP, "whoever watched from before lists anew"
    assert await store.commit([Write(f"{KEY}new", b"{}", 0)]) == [last + GAP + 1]
    await store.close()
    with pytest.raises(SystemExit) as caught:
        main(["store", "rescue", str(tmp_path / "data"), str(tmp_path / "again")])
    assert caught.value.code == 0
    assert f"{len(before)} objects of" in capsys.readouterr().out
    with pytest.raises(StoreError, match="has a store already"):
        rescue(tmp_path / "data", tmp_path / "new")


async def test_what_is_in_the_log_alone_is_rescued_too(tmp_path: Path) -> None:
    """As after a kill: pages that no checkpoint has moved yet, and a torn end."""
    store = SQLiteStore(tmp_path / "data")
    list(store.load())
    await store.commit([Write(f"{KEY}{number}", value(number, 0, 500)) for number in range(200)])
    await store.commit([Write(f"{KEY}last", value(0, 1, 10))])
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("state.db", "state.db-wal"):
        shutil.copy(tmp_path / "data" / name, killed / name)
    await store.close()
    assert (killed / "state.db-wal").stat().st_size > 100_000
    with open(killed / "state.db-wal", "ab") as log:
        log.write(b"\1" * 3000)
    assert rescue(killed, tmp_path / "new").objects == 201
    torn = (killed / "state.db-wal").read_bytes()[: -3000 - 2000]
    (killed / "state.db-wal").write_bytes(torn)
    found = rescue(killed, tmp_path / "newer")
    assert found.objects == 200 and f"{KEY}last" not in await contents(tmp_path / "newer"), "half a transaction is none"


@pytest.mark.slow
async def test_whatever_is_hit_only_true_objects_come_back_and_the_others_are_named_or_counted(tmp_path: Path) -> None:
    before = await made(tmp_path / "data")
    good = (tmp_path / "data" / "state.db").read_bytes()
    chance, rescued, complete, unopened, uncounted = random.Random(5), 0, 0, 0, 0
    for number in range(60):
        bad = bytearray(good)
        for _ in range(chance.choice((1, 1, 3))):
            place = chance.randrange(len(bad)) if number % 10 else 0
            piece = bytes(512) if chance.random() < 0.5 else chance.randbytes(512)
            bad[place : place + 512] = piece[: len(bad) - place]
        if number % 5 == 4:
            del bad[chance.randrange(len(bad) // 4, len(bad)) :]
        source, target = tmp_path / f"bad{number}", tmp_path / f"new{number}"
        source.mkdir()
        (source / "state.db").write_bytes(bad)
        found = rescue(source, target)
        after = await contents(target)
        wrong = {key for key, item in after.items() if before.get(key) != item}
        missing = before.keys() - after.keys()
        unnamed = len(wrong - set(found.older)) + len(missing - set(found.lost))
        assert found.missing is None or unnamed <= found.missing + found.refused, "what is not as it was is named or counted, or the count was hit"
        uncounted += found.missing is None
        rescued += len(after)
        complete += not missing and not wrong
        unopened += bad[:16] != good[:16]
        shutil.rmtree(source)
        shutil.rmtree(target)
    print(f"{rescued / (60 * len(before)):.1%} of objects in 60 damaged files, {complete} of them whole; {unopened} had no header, {uncounted} no count")
    assert rescued > 0.85 * 60 * len(before) and complete > 10 and unopened >= 6 and uncounted < 20


async def test_nothing_to_rescue_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store in"):
        rescue(tmp_path, tmp_path / "new")
    for content in (b"", b"SQLite format 3\0" + bytes(5000), bytes(20_000), random.Random(1).randbytes(30_000)):
        (tmp_path / "state.db").write_bytes(content)
        with pytest.raises(StoreError, match="only a backup can help"):
            rescue(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


async def test_what_is_lost_is_named_and_told_by_the_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = await made(tmp_path / "data", objects=40, compact=False)
    path = tmp_path / "data" / "state.db"
    data = path.read_bytes()
    key = f"{KEY}11"
    place = data.index(before[key].value)
    path.write_bytes(data[:place] + bytes(30) + data[place + 30 :])
    with pytest.raises(SystemExit) as caught:
        main(["store", "rescue", str(tmp_path / "data"), str(tmp_path / "new")])
    assert caught.value.code == 1
    told = capsys.readouterr()
    assert f": {key}\n" in told.out and "1 rows and 0 pages were damaged" in told.out and "error: 1 objects are lost" in told.err
    assert (await contents(tmp_path / "new")).keys() == before.keys() - {key}


async def test_rows_of_which_nothing_is_left_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await made(tmp_path / "data", objects=40)
    connection = sqlite3.connect(tmp_path / "data" / "state.db")
    connection.execute("DELETE FROM kv WHERE rev IN (3, (SELECT MAX(rev) FROM kv))")
    connection.commit()
    connection.close()
    with pytest.raises(SystemExit) as caught:
        main(["store", "rescue", str(tmp_path / "data"), str(tmp_path / "new")])
    assert caught.value.code == 1
    assert "error: 2 rows are missing" in capsys.readouterr().err


async def test_any_bytes_are_pages_or_none(tmp_path: Path) -> None:
    await made(tmp_path / "data", objects=60)
    good, chance = (tmp_path / "data" / "state.db").read_bytes(), random.Random(3)
    for _ in range(60):
        bad = bytearray(good[: chance.randrange(len(good))])
        for _ in range(40):
            if bad:
                bad[chance.randrange(len(bad))] = chance.randrange(256)
        for record in Pages(bytes(bad), chance.randbytes(chance.randrange(9000))).records(TABLE_LEAF, INDEX_LEAF, INDEX_INNER):
            assert isinstance(record.values, tuple)
