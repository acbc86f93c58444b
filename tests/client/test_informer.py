"""Informers: always some true state of the past, only forward, and no change lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Create, Delete, Patch
from twinstack.client import informer as module
from twinstack.client.cache import Cache
from twinstack.client.client import Client
from twinstack.client.informer import Bucket, Informer

PLACE = "/api/v1/namespaces/demo/configmaps"
CONFIGMAPS = resource_of(kinds.ConfigMap)


class Seen:
    """What an informer told, as short words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def __call__(self, before: kinds.ConfigMap | None, after: kinds.ConfigMap | None) -> None:
        name = (after or before).metadata.name  # type: ignore[union-attr]
        self.words.append(("+" if before is None else "-" if after is None else "~") + name)


@asynccontextmanager
async def running(informer: Informer[Any] | Cache) -> AsyncIterator[None]:
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(2):
            await informer.synced()
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.1)


@pytest.mark.parametrize("streams", [True, False, None], ids=["the server streams", "the server refuses to stream", "the server never heard of streaming"])
async def test_the_state_is_read_and_then_followed(server: Any, client: Client, eventually: Any, streams: bool | None) -> None:
    server.streams = streams
    await server.put(PLACE, "b", data={"x": "1"})
    await server.put(PLACE, "a")
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    informer.subscribe(seen)
    async with running(informer):
        await server.until_watched()
        assert [one.metadata.name for one in informer.list()] == ["a", "b"]
        await server.put(PLACE, "b", data={"x": "2"})
        await server.put(PLACE, "c")
        await server.drop(PLACE, "a")
        await eventually(lambda: len(seen.words) == 5)
    assert sorted(seen.words[:2]) == ["+a", "+b"] and seen.words[2:] == ["~b", "+c", "-a"]
    found = informer.get(Key("demo", "b"))
    assert found is not None and found.data == {"x": "2"}


async def test_a_broken_watch_goes_on_where_it_was(server: Any, client: Client, eventually: Any) -> None:
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    informer.subscribe(seen)
    async with running(informer):
        await server.put(PLACE, "a")
        await eventually(lambda: "+a" in seen.words)
        server.break_watches()
        await server.drop(PLACE, "a")
        await server.put(PLACE, "b")
        await eventually(lambda: seen.words == ["+a", "-a", "+b"])
    assert [query.get("resourceVersion") for _, _, query, _ in server.requests[1:]] == ["101"]


async def test_a_deletion_that_nobody_saw_is_told_all_the_same(server: Any, client: Client, eventually: Any) -> None:
    await server.put(PLACE, "a")
    await server.put(PLACE, "b")
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    informer.subscribe(seen)
    async with running(informer):
        await server.until_watched()
        server.break_watches()
        await server.drop(PLACE, "a")
        await server.put(PLACE, "b", data={"x": "2"})
        server.compacted = server.revision
        await eventually(lambda: len(seen.words) == 4)
        assert seen.words[2:] == ["-a", "~b"]
        assert informer.get(Key("demo", "a")) is None and informer.owned("x") == []


async def test_bookmarks_move_the_revision(server: Any, client: Client, eventually: Any) -> None:
    informer = Informer(client, kinds.ConfigMap)
    async with running(informer):
        await server.until_watched()
        await server.tick()
        await eventually(lambda: informer.revision == server.revision)


def document(name: str, revision: int, **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "demo", "resourceVersion": str(revision), **fields.pop("metadata", {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **fields}


async def test_an_answer_to_our_own_write_is_known_at_once_and_old_news_are_skipped(server: Any, client: Client, eventually: Any) -> None:
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    informer.subscribe(seen)
    async with running(informer):
        await server.until_watched()
        assert informer.take(document("a", 105, data={"x": "new"}))
        assert not informer.take(document("a", 105)) and not informer.take(document("a", 104))
        await server.put(PLACE, "a", data={"x": "old"})  # revision 101: late news
        await server.put(PLACE, "b")
        await eventually(lambda: "+b" in seen.words)
        assert seen.words == ["+a", "+b"]
        found = informer.get(Key("demo", "a"))
        assert found is not None and found.data == {"x": "new"}


async def test_an_answer_that_is_late_does_not_bring_back_what_was_deleted(server: Any, client: Client, eventually: Any) -> None:
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    informer.subscribe(seen)
    async with running(informer):
        made = await server.put(PLACE, "a")
        await server.drop(PLACE, "a")
        await eventually(lambda: seen.words == ["+a", "-a"])
        assert not informer.take(made)
        assert informer.list() == []


async def test_a_state_read_anew_keeps_an_answer_that_is_newer(server: Any, client: Client, eventually: Any) -> None:
    await server.put(PLACE, "b")
    informer = Informer(client, kinds.ConfigMap)
    async with running(informer):
        await server.until_watched()
        assert informer.take(document("a", 500)) and informer.take(document("b", 501, data={"x": "new"}))
        server.compacted = server.revision + 1
        server.revision += 1
        server.break_watches()
        await eventually(lambda: informer.revision == server.revision)
        assert [one.metadata.resourceVersion for one in informer.list()] == ["500", "501"]


async def test_a_server_whose_log_begins_anew_is_believed(server: Any, client: Client, eventually: Any) -> None:
    await server.put(PLACE, "a")
    await server.put(PLACE, "b")
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    informer.subscribe(seen)
    async with running(informer):
        await server.until_watched()
        server.objects.clear()
        server.log.clear()
        server.revision = 0
        await server.put(PLACE, "b", data={"x": "new"})
        server.break_watches()
        await eventually(lambda: len(seen.words) == 4)
        assert seen.words[2:] == ["-a", "~b"] and informer.revision == 1


async def test_indexes_follow_the_objects(server: Any, client: Client, eventually: Any) -> None:
    def owner(uid: str) -> list[dict[str, str]]:
        return [{"kind": "X", "name": "x", "uid": uid}]

    await server.put(PLACE, "a", metadata={"labels": {"app": "web"}, "ownerReferences": owner("one")})
    await server.put("/api/v1/namespaces/other/configmaps", "a", metadata={"labels": {"app": "web"}})
    informer = Informer(client, kinds.ConfigMap)
    async with running(informer):
        await server.until_watched()
        assert [one.metadata.namespace for one in informer.labelled("demo", "app", "web")] == ["demo"]
        assert len(informer.list()) == 2 and len(informer.list("other")) == 1 and len(informer.owned("one")) == 1
        await server.put(PLACE, "a", metadata={"labels": {"app": "db"}, "ownerReferences": owner("two")})
        await eventually(lambda: informer.labelled("demo", "app", "db") != [])
        assert not informer.labelled("demo", "app", "web") and not informer.owned("one") and len(informer.owned("two")) == 1
        await server.drop(PLACE, "a")
        await eventually(lambda: not informer.list("demo"))
        assert not informer.labelled("demo", "app", "db") and not informer.owned("two") and len(informer) == 1


async def test_who_subscribes_late_is_told_what_is_there(server: Any, client: Client) -> None:
    await server.put(PLACE, "a")
    informer, seen = Informer(client, kinds.ConfigMap), Seen()
    async with running(informer):
        unsubscribe = informer.subscribe(seen)
        assert seen.words == ["+a"]
        unsubscribe()
        informer.take(document("b", 500))
        assert seen.words == ["+a"]


async def test_one_who_fails_at_a_change_stops_nobody_else(server: Any, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    informer, seen = Informer(client, kinds.ConfigMap), Seen()

    def fail(before: Any, after: Any) -> None:
        raise ValueError("no")

    informer.subscribe(fail)
    informer.subscribe(seen)
    async with running(informer):
        informer.take(document("b", 500))
    assert seen.words == ["+b"] and "could not be handed on" in caplog.text


async def test_an_object_that_does_not_fit_is_left_out_and_told(server: Any, client: Client, eventually: Any, caplog: pytest.LogCaptureFixture) -> None:
    await server.put(PLACE, "bad", data=7)
    informer = Informer(client, kinds.ConfigMap)
    async with running(informer):
        await server.until_watched()
        await server.put(PLACE, "good")
        await eventually(lambda: len(informer) == 1)
    assert "does not fit its view" in caplog.text


async def test_a_selector_holds_for_answers_too(server: Any, client: Client) -> None:
    informer = Informer(client, kinds.ConfigMap, namespace="demo", label_selector="app=web")
    async with running(informer):
        assert not informer.take(document("a", 500))
        assert informer.take(document("a", 500, metadata={"labels": {"app": "web"}}))
        assert not informer.take({**document("a", 500), "metadata": {"namespace": "x", "name": "a", "resourceVersion": "600", "labels": {"app": "web"}}})
    assert server.requests[0][2]["labelSelector"] == "app=web"


async def test_the_cache_performs_and_knows_the_answer(server: Any, client: Client) -> None:
    cache = Cache(client)
    cache.watch_all([kinds.ConfigMap])
    async with running(cache):
        await cache.perform(Create(CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "demo"}}))
        assert cache.get(kinds.ConfigMap, Key("demo", "a")) is not None
        await cache.perform(Patch(CONFIGMAPS, Key("demo", "a"), {"data": {"x": "1"}}))
        assert [one.data for one in cache.list(kinds.ConfigMap, "demo")] == [{"x": "1"}]
        await cache.perform(Delete(CONFIGMAPS, Key("demo", "a")))
        with pytest.raises(LookupError, match="Pod is not watched"):
            cache.get(kinds.Pod, Key("", ""))
        assert cache.is_synced and cache.now.tzinfo is not None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"), st.sampled_from("xyz"))))
def test_a_bucket_lists_what_it_holds_by_key(steps: list[tuple[bool, str, str]]) -> None:
    bucket: Bucket[Any] = Bucket()
    model: dict[Key, int] = {}
    for number, (put, namespace, name) in enumerate(steps):
        key = Key(namespace, name)
        if put:
            bucket.put(key, number)
            model[key] = number
        else:
            bucket.drop(key)
            model.pop(key, None)
        if number % 3 == 0:
            assert bucket.listed() == [model[one] for one in sorted(model)]
    assert bucket.listed() == [model[one] for one in sorted(model)]
