"""What every store promises, whatever it keeps its writes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.store.base import Event, KeyExists, RevisionMismatch, Store, StoreError, Write
from twinstack.store.memory import MemoryStore


async def test_each_write_has_a_revision_of_its_own_and_they_ascend(store: Store) -> None:
    assert await store.commit([Write("/a", b"1"), Write("/b", b"2")]) == [1, 2]
    assert await store.commit([Write("/a", b"3")]) == [3]
    assert store.revision == 3


async def test_a_key_that_must_not_exist_is_created_once(store: Store) -> None:
    await store.commit([Write("/a", b"1", 0)])
    with pytest.raises(KeyExists) as caught:
        await store.commit([Write("/a", b"2", 0)])
    assert caught.value.key == "/a"


async def test_a_write_expecting_another_revision_is_refused(store: Store) -> None:
    [revision] = await store.commit([Write("/a", b"1", 0)])
    await store.commit([Write("/a", b"2", revision)])
    with pytest.raises(RevisionMismatch) as caught:
        await store.commit([Write("/a", b"3", revision)])
    assert (caught.value.expected, caught.value.found) == (1, 2)
    with pytest.raises(RevisionMismatch):
        await store.commit([Write("/none", None, 7)])


async def test_a_commit_happens_whole_or_not_at_all(store: Store) -> None:
    events: list[Event] = []
    store.subscribe(events.extend)
    await store.commit([Write("/taken", b"1", 0)])
    with pytest.raises(KeyExists):
        await store.commit([Write("/new", b"1", 0), Write("/taken", b"2", 0)])
    assert await store.commit([Write("/new", b"3", 0)]) == [2]
    assert [(event.key, event.value) for event in events] == [("/taken", b"1"), ("/new", b"3")]


async def test_a_commit_does_not_write_a_key_twice(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.commit([Write("/a", b"1"), Write("/a", b"2")])
    assert await store.commit([Write("/a", b"3", 0)]) == [1]


async def test_a_deleted_key_may_be_created_anew(store: Store) -> None:
    await store.commit([Write("/a", b"1", 0)])
    await store.commit([Write("/a", None, 1)])
    assert await store.commit([Write("/a", b"2", 0)]) == [3]


async def test_of_two_who_saw_the_same_state_one_wins(store: Store) -> None:
    await store.commit([Write("/a", b"1", 0)])
    results = await asyncio.gather(*(store.commit([Write("/a", bytes([n]), 1)]) for n in range(10)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["RevisionMismatch"] * 9 + ["list"]


async def test_subscribers_are_told_in_order_before_the_commit_is_answered(store: Store) -> None:
    told: list[int] = []
    store.subscribe(lambda events: told.extend(event.revision for event in events))

    async def write(number: int) -> None:
        [revision] = await store.commit([Write(f"/{number}", b"x", 0, note=number)])
        assert revision in told

    await asyncio.gather(*(write(number) for number in range(200)))
    assert told == list(range(1, 201))


async def test_the_note_comes_back_with_the_event(store: Store) -> None:
    events: list[Event] = []
    store.subscribe(events.extend)
    note = object()
    await store.commit([Write("/a", b"1", note=note)])
    assert events[0].note is note


async def test_settled_waits_for_what_was_accepted(store: Store) -> None:
    commit = asyncio.ensure_future(store.commit([Write("/a", b"1", 0)]))
    await asyncio.sleep(0)
    await store.settled()
    assert store.revision == 1
    await commit


async def test_what_was_accepted_happens_although_nobody_waits_for_it(store: Store) -> None:
    commit = asyncio.ensure_future(store.commit([Write("/a", b"1", 0)]))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    await store.settled()
    with pytest.raises(KeyExists):
        await store.commit([Write("/a", b"2", 0)])


async def test_a_closed_store_refuses(store: Store) -> None:
    await store.close()
    with pytest.raises(StoreError):
        await store.commit([Write("/a", b"1")])
    await store.close()


async def test_compaction_changes_no_present_state(store: Store) -> None:
    for number in range(20):
        await store.commit([Write("/a", str(number).encode()), Write(f"/{number}", b"x")])
        await store.commit([Write(f"/{number}", None)])
    await store.compact(store.revision)
    assert store.compacted == store.revision
    [revision] = await store.commit([Write("/3", b"again", 0)])
    assert revision == 61
    with pytest.raises(KeyExists):
        await store.commit([Write("/a", b"x", 0)])


KEYS = st.sampled_from(["/a", "/b", "/c"])
WRITES = st.tuples(KEYS, st.none() | st.binary(max_size=4), st.sampled_from(["any", "absent", "right", "wrong"]))
COMMITS = st.lists(
    st.lists(
        st.tuples(KEYS, st.none() | st.binary(max_size=4), st.sampled_from(["any", "absent", "right", "wrong"])),
        min_size=1,
        max_size=3,
        unique_by=lambda write: write[0],
    ),
    max_size=20,
)


@given(COMMITS)
def test_a_store_is_a_dictionary_with_conditions(commits: Sequence[Sequence[tuple[str, bytes | None, str]]]) -> None:
    async def scenario() -> None:
        store = MemoryStore()
        model: dict[str, tuple[bytes, int]] = {}
        for commit in commits:
            writes, fits = [], True
            for key, value, kind in commit:
                present = model.get(key, (b"", 0))[1]
                expect = {"any": None, "absent": 0, "right": present, "wrong": present + 1}[kind]
                fits = fits and (expect is None or expect == present)
                writes.append(Write(key, value, expect))
            try:
                revisions = await store.commit(writes)
            except StoreError:
                assert not fits
                continue
            assert fits
            for write, revision in zip(writes, revisions, strict=True):
                if write.value is None:
                    model.pop(write.key, None)
                else:
                    model[write.key] = (write.value, revision)
        assert {item.key: (item.value, item.revision) for item in store.load()} == model

    asyncio.run(scenario())
