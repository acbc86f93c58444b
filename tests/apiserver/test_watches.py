"""Watches and lists: what is told, in which order, from where, and what of it in which form."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json"


def configmap(name: str, labels: dict[str, str] | None = None, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, **({"labels": labels} if labels else {})}, "data": data}


async def revision_of(api: Any, path: str = CONFIGMAPS) -> str:
    return str((await api.get(f"{path}?limit=1")).document["metadata"]["resourceVersion"])


async def test_a_watch_from_nowhere_tells_what_is_there_and_then_every_change(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("b"))
    await api.made(CONFIGMAPS, configmap("a"))
    async with api.watch(f"{CONFIGMAPS}?fieldSelector=metadata.name!=kube-root-ca.crt") as watch:
        assert await watch.take(2) == [("ADDED", "a"), ("ADDED", "b")]
        made = await api.made(CONFIGMAPS, configmap("c"))
        await api.patch(f"{CONFIGMAPS}/c", {"data": {"k": "v"}})
        gone = await api.delete(f"{CONFIGMAPS}/c")
        assert gone.code == 200
        added, modified, deleted = [await watch.next() for _ in range(3)]
    assert added == {"type": "ADDED", "object": made}
    assert (modified["type"], modified["object"]["data"]) == ("MODIFIED", {"k": "v"})
    # A deletion shows the last state, at a revision of its own.
    assert (deleted["type"], deleted["object"]["data"]) == ("DELETED", {"k": "v"})
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in (added, modified, deleted)]
    assert versions == sorted(set(versions))


async def test_a_watch_from_a_revision_tells_exactly_what_came_after_it(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("before"))
    revision = await revision_of(api)
    for name in ("one", "two"):
        await api.made(CONFIGMAPS, configmap(name))
    async with api.watch(f"{CONFIGMAPS}?resourceVersion={revision}") as watch:
        assert await watch.take(2) == [("ADDED", "one"), ("ADDED", "two")]
        await api.made(CONFIGMAPS, configmap("three"))
        assert await watch.take(1) == [("ADDED", "three")]


async def test_a_revision_that_is_forgotten_is_one_expired_event(serve: Any) -> None:
    api = await serve()
    await api.made(CONFIGMAPS, configmap("a"))
    revision = await revision_of(api)
    await api.made(CONFIGMAPS, configmap("b"))
    await api.stop()
    api = await serve()
    async with api.watch(f"{CONFIGMAPS}?resourceVersion={revision}") as watch:
        events = await watch.rest()
    assert [(event["type"], event["object"]["code"], event["object"]["reason"]) for event in events] == [("ERROR", 410, "Expired")]
    # The newest revision is still good after the restart: nothing was missed.
    newest = await revision_of(api)
    async with api.watch(f"{CONFIGMAPS}?resourceVersion={newest}") as watch:
        await api.made(CONFIGMAPS, configmap("c"))
        assert await watch.take(1) == [("ADDED", "c")]


async def test_a_streaming_list_ends_with_a_bookmark(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    path = f"{CONFIGMAPS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=metadata.name=a"
    async with api.watch(path) as watch:
        assert await watch.take(1) == [("ADDED", "a")]
        bookmark = await watch.next()
        assert (bookmark["type"], bookmark["object"]["kind"]) == ("BOOKMARK", "ConfigMap")
        assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(await revision_of(api))
        await api.patch(f"{CONFIGMAPS}/a", {"data": {"k": "v"}})
        assert await watch.take(1) == [("MODIFIED", "a")]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("sendInitialEvents=true", 422),
        ("sendInitialEvents=true&resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=NotOlderThan&resourceVersion=1", 422),
        ("resourceVersion=abc", 422),
        ("labelSelector=a%20b", 400),
        ("fieldSelector=spec.colour=red", 400),
        ("timeoutSeconds=soon", 400),
    ],
)
async def test_a_watch_that_makes_no_sense_is_refused(api: Any, query: str, code: int) -> None:
    assert (await api.get(f"{CONFIGMAPS}?watch=true&{query}")).code == code


async def test_objects_come_and_go_in_the_view_of_a_selector(api: Any) -> None:
    async with api.watch(f"{CONFIGMAPS}?labelSelector=team=red") as watch:
        await api.made(CONFIGMAPS, configmap("a", {"team": "blue"}, k="1"))
        await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"labels": {"team": "red"}}})
        await api.patch(f"{CONFIGMAPS}/a", {"data": {"k": "2"}})
        left = await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"labels": {"team": "blue"}}, "data": {"k": "3"}})
        await api.delete(f"{CONFIGMAPS}/a")
        await api.made(CONFIGMAPS, configmap("end", {"team": "red"}))
        events = [await watch.next() for _ in range(4)]
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]
    # What left the view is shown as it was when it was last in it, at the revision of the change.
    assert events[2]["object"]["data"] == {"k": "2"}
    assert events[2]["object"]["metadata"]["resourceVersion"] == left.document["metadata"]["resourceVersion"]


async def test_a_watch_of_one_namespace_hears_nothing_of_another(api: Any) -> None:
    await api.made("/api/v1/namespaces", {"metadata": {"name": "other"}})
    async with api.watch("/api/v1/namespaces/other/configmaps") as watch:
        await api.made(CONFIGMAPS, configmap("a"))
        await api.made("/api/v1/namespaces/other/configmaps", configmap("b"))
        assert await watch.take(1) == [("ADDED", "b")]
    async with api.watch("/api/v1/configmaps") as watch:
        assert await watch.take(2) == [("ADDED", "a"), ("ADDED", "b")]


@pytest.mark.slow
async def test_two_seconds_before_its_time_is_over_a_watch_is_told_where_it_stands(api: Any) -> None:
    revision = await revision_of(api)
    async with api.watch(f"{CONFIGMAPS}?resourceVersion={revision}&timeoutSeconds=1&allowWatchBookmarks=true") as watch:
        assert await watch.rest() == []
    async with api.watch(f"{CONFIGMAPS}?resourceVersion={revision}&timeoutSeconds=3&allowWatchBookmarks=true") as watch:
        events = await watch.rest()
    assert [event["type"] for event in events] == ["BOOKMARK"]


async def test_watches_end_when_the_server_stops(api: Any) -> None:
    async with api.watch(CONFIGMAPS) as watch:
        await api.stop()
        await watch.rest()


async def test_a_client_that_goes_is_forgotten_at_once(api: Any) -> None:
    async def watchers() -> str:
        text = (await api.get("/metrics")).document
        return next(line for line in text.splitlines() if line.startswith("apiserver_registered_watchers") and 'kind="ConfigMap"' in line)

    async with api.watch(CONFIGMAPS) as watch:
        await api.made(CONFIGMAPS, configmap("a"))
        await watch.take(1)
        assert (await watchers()).endswith(" 1.0")
        watch.response.close()
    async with asyncio.timeout(5):
        while not (await watchers()).endswith(" 0.0"):
            pass


async def test_a_table_has_its_headers_in_the_first_event_only(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    async with api.watch(CONFIGMAPS, Accept=TABLE) as watch:
        first = await watch.next()
        await api.made(CONFIGMAPS, configmap("b", k="v"))
        second = await watch.next()
    assert [first["object"]["kind"], second["object"]["kind"]] == ["Table", "Table"]
    assert [column["name"] for column in first["object"]["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert second["object"]["columnDefinitions"] == []
    assert second["object"]["rows"][0]["cells"][:2] == ["b", 1]


async def test_metadata_alone_is_watched_and_got(api: Any) -> None:
    made = await api.made(CONFIGMAPS, configmap("a", k="v"))
    shown = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]}
    assert (await api.get(f"{CONFIGMAPS}/a", Accept=PARTIAL)).document == shown
    async with api.watch(CONFIGMAPS, Accept=PARTIAL) as watch:
        assert (await watch.next())["object"] == shown


async def test_a_hundred_watchers_are_told_the_same(api: Any) -> None:
    async def hear() -> list[tuple[str, str]]:
        async with api.watch(f"{CONFIGMAPS}?resourceVersion={revision}") as watch:
            heard: list[tuple[str, str]] = await watch.take(5)
            return heard

    revision = await revision_of(api)
    api.session.connector._limit = 0
    listening = [asyncio.ensure_future(hear()) for _ in range(100)]
    for number in range(5):
        await api.made(CONFIGMAPS, configmap(f"c{number}"))
    assert {tuple(await one) for one in listening} == {tuple(("ADDED", f"c{number}") for number in range(5))}


# ---- lists


async def test_a_list_is_in_order_and_selected(api: Any) -> None:
    for name, team in (("b", "red"), ("a", "blue"), ("c", "red")):
        await api.made(CONFIGMAPS, configmap(name, {"team": team}))
    names = [one["metadata"]["name"] for one in (await api.get(CONFIGMAPS)).document["items"]]
    assert names == ["a", "b", "c"]
    for query, found in (
        ("labelSelector=team=red", ["b", "c"]),
        ("labelSelector=team%20in%20(blue,green)", ["a"]),
        ("labelSelector=!team", []),
        ("fieldSelector=metadata.name=b", ["b"]),
        ("fieldSelector=metadata.name!=b", ["a", "c"]),
        ("fieldSelector=metadata.namespace=other", []),
    ):
        document = (await api.get(f"{CONFIGMAPS}?{query}")).document
        assert [one["metadata"]["name"] for one in document["items"]] == found, query
    assert (document["kind"], document["apiVersion"]) == ("ConfigMapList", "v1")


async def test_pages_are_of_one_state_whatever_happens_between_them(api: Any) -> None:
    for number in range(7):
        await api.made(CONFIGMAPS, configmap(f"c{number}", k="old"))
    first = (await api.get(f"{CONFIGMAPS}?limit=3")).document
    assert (len(first["items"]), first["metadata"]["remainingItemCount"]) == (3, 4)
    await api.delete(f"{CONFIGMAPS}/c4")
    await api.made(CONFIGMAPS, configmap("c45"))
    await api.patch(f"{CONFIGMAPS}/c5", {"data": {"k": "new"}})
    items, token = list(first["items"]), first["metadata"]["continue"]
    while token:
        page = (await api.get(f"{CONFIGMAPS}?limit=3&continue={token}")).document
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        items += page["items"]
        token = page["metadata"].get("continue")
    assert [(one["metadata"]["name"], one["data"]["k"]) for one in items] == [(f"c{number}", "old") for number in range(7)]


async def test_an_earlier_state_is_listed_exactly_while_it_is_remembered(serve: Any) -> None:
    api = await serve()
    await api.made(CONFIGMAPS, configmap("a"))
    revision = await revision_of(api)
    await api.delete(f"{CONFIGMAPS}/a")
    exact = f"{CONFIGMAPS}?resourceVersion={revision}&resourceVersionMatch=Exact"
    assert [one["metadata"]["name"] for one in (await api.get(exact)).document["items"]] == ["a"]
    await api.stop()
    api = await serve()
    got = await api.get(exact)
    assert (got.code, got.reason) == (410, "Expired")


async def test_a_list_whose_state_is_forgotten_may_go_on_with_the_state_of_now(serve: Any) -> None:
    api = await serve()
    for name in "abc":
        await api.made(CONFIGMAPS, configmap(name))
    token = (await api.get(f"{CONFIGMAPS}?limit=1")).document["metadata"]["continue"]
    await api.made(CONFIGMAPS, configmap("d"))
    await api.stop()
    api = await serve()
    got = await api.get(f"{CONFIGMAPS}?limit=1&continue={token}")
    assert (got.code, got.reason) == (410, "Expired")
    page = (await api.get(f"{CONFIGMAPS}?limit=2&continue={got.document['metadata']['continue']}")).document
    assert [one["metadata"]["name"] for one in page["items"]] == ["b", "c"]
    assert page["metadata"]["continue"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("continue=nonsense", 400),
        ("limit=many", 400),
        ("resourceVersion=99999999", 504),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=5&resourceVersionMatch=Sometimes", 422),
        ("resourceVersion=1&continue=eyJ2IjoxLCJydiI6MSwibnMiOiIiLCJuYW1lIjoiIn0", 400),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(api: Any, query: str, code: int) -> None:
    assert (await api.get(f"{CONFIGMAPS}?{query}")).code == code


async def test_a_list_is_a_table_for_who_prints_it(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a", k="v"))
    document = (await api.get(CONFIGMAPS, Accept=TABLE)).document
    assert (document["kind"], document["rows"][0]["cells"][:2]) == ("Table", ["a", 1])
    assert document["metadata"]["resourceVersion"]
    assert (await api.get(CONFIGMAPS, Accept="text/html")).code == 406


@pytest.mark.parametrize(
    "query, types",
    [
        pytest.param("", ["ADDED", "BOOKMARK"], id="from nothing"),
        pytest.param("&resourceVersion=0", ["ADDED", "BOOKMARK"], id="from any state"),
        pytest.param("&resourceVersion=0&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", ["ADDED"], id="but not who wants no beginning"),
    ],
)
async def test_who_starts_from_nothing_is_told_where_the_beginning_ends(api: Any, query: str, types: list[str]) -> None:
    await api.made(CONFIGMAPS, {"metadata": {"name": "a"}})
    async with api.watch(f"{CONFIGMAPS}?allowWatchBookmarks=true&fieldSelector=metadata.name!=kube-root-ca.crt{query}") as watch:
        if types == ["ADDED"]:
            await api.made(CONFIGMAPS, {"metadata": {"name": "b"}})
        events = [await watch.next() for _ in types]
    assert [event["type"] for event in events] == types
    if types[-1] == "BOOKMARK":
        assert events[-1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    else:
        assert events[0]["object"]["metadata"]["name"] == "b"
