"""The client: what it asks for, and which class each failure becomes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from twinstack.api import errors, kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Absent, After, Bind, Create, Delete, DeleteCollection, Patch, Replace
from twinstack.client.client import Client, _chunks
from twinstack.client.kubeconfig import Connection
from twinstack.client.throttle import Throttle

CONFIGMAPS = resource_of(kinds.ConfigMap)
PODS = resource_of(kinds.Pod)
ONE = Key("demo", "one")


def configmap(name: str = "one", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "demo"}, **fields}


async def test_an_object_is_made_read_changed_and_deleted(server: Any, client: Client) -> None:
    made = await client.create(CONFIGMAPS, configmap(data={"a": "1"}))
    assert made["metadata"]["resourceVersion"] == "101"
    assert (await client.get(CONFIGMAPS, ONE))["data"] == {"a": "1"}
    assert (await client.patch(CONFIGMAPS, ONE, {"data": {"b": "2", "a": None}}))["data"] == {"b": "2"}
    listed = await client.list(CONFIGMAPS, "demo", label_selector="a=b,c in (d)", limit=5)
    assert [one["metadata"]["name"] for one in listed["items"]] == ["one"]
    assert server.requests[-1][2] == {"labelSelector": "a=b,c in (d)", "limit": "5"}
    assert (await client.delete(CONFIGMAPS, ONE, uid="u", grace_period_seconds=0, propagation_policy="Foreground"))["status"] == "Success"
    assert server.requests[-1][3] == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "preconditions": {"uid": "u"},
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Foreground",
    }


@pytest.mark.parametrize(
    "cls", [errors.NotFound, errors.Conflict, errors.AlreadyExists, errors.Invalid, errors.Expired, errors.TooManyRequests, errors.Forbidden]
)
async def test_a_failure_is_raised_as_the_class_that_the_server_raised(server: Any, client: Client, cls: type[errors.APIError]) -> None:
    server.answers.append(web.json_response(cls("why", retry_after_seconds=3).status(), status=cls.code))
    with pytest.raises(cls) as told:
        await client.get(CONFIGMAPS, ONE)
    assert (type(told.value), told.value.message, told.value.retry_after_seconds) == (cls, "why", 3)


async def test_an_answer_that_is_no_status_becomes_a_failure_of_its_code(server: Any, client: Client) -> None:
    server.answers.append(web.Response(status=503, text="<html>", headers={"Retry-After": "7"}))
    with pytest.raises(errors.ServiceUnavailable, match="the server answered 503: <html>") as told:
        await client.get(CONFIGMAPS, ONE)
    assert told.value.retry_after_seconds == 7
    server.answers.append(web.Response(status=200, text="not JSON"))
    with pytest.raises(errors.InternalError, match="cannot be read"):
        await client.get(CONFIGMAPS, ONE)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with Client(Connection(server="http://127.0.0.1:1")) as client:
        with pytest.raises(errors.ServiceUnavailable, match="cannot be reached"):
            await client.get(CONFIGMAPS, ONE)


async def test_the_token_is_sent_and_one_from_a_file_is_read(tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/prefix"
    (tmp_path / "token").write_text("from-file\n")
    try:
        for connection in (Connection(server=url, token="t"), Connection(server=url, token_file=str(tmp_path / "token")), Connection(server=url)):
            async with Client(connection) as client:
                await client.get(CONFIGMAPS, ONE)
    finally:
        await runner.cleanup()
    assert seen == ["Bearer t", "Bearer from-file", None]


async def test_names_with_colons_are_asked_for_as_they_are(server: Any, client: Client) -> None:
    with pytest.raises(errors.NotFound):
        await client.get(resource_of(kinds.IPAddress), Key("", "fd00:10:96::1"))
    assert server.requests[-1][1] == "/apis/networking.k8s.io/v1/ipaddresses/fd00:10:96::1"


async def test_actions_are_performed(server: Any, client: Client) -> None:
    made = await client.perform(Create(CONFIGMAPS, configmap()))
    assert made is not None
    with pytest.raises(errors.AlreadyExists):
        await client.perform(Create(CONFIGMAPS, configmap()))
    changed = await client.perform(Patch(CONFIGMAPS, ONE, {"metadata": {"labels": {"a": "b"}}}, uid="u", resource_version="101"))
    assert changed is not None and changed["metadata"]["labels"] == {"a": "b"}
    assert server.requests[-1][3] == {"metadata": {"labels": {"a": "b"}, "uid": "u", "resourceVersion": "101"}}
    with pytest.raises(errors.Conflict):
        await client.perform(Replace(CONFIGMAPS, made))
    with pytest.raises(errors.Conflict):
        await client.perform(Absent(CONFIGMAPS, ONE))
    assert await client.perform(Absent(CONFIGMAPS, ONE, uid="another")) is None
    assert await client.perform(Delete(CONFIGMAPS, ONE)) is not None
    assert await client.perform(Delete(CONFIGMAPS, ONE)) is None
    assert await client.perform(Absent(CONFIGMAPS, ONE)) is None
    assert await client.perform(DeleteCollection(CONFIGMAPS, "demo")) is None
    with pytest.raises(TypeError):
        await client.perform(After(1))


async def test_a_binding_answers_the_pod_that_was_bound(server: Any, client: Client) -> None:
    await server.put("/api/v1/namespaces/demo/pods", "web", kind="Pod")
    server.answers.append(web.json_response({"kind": "Status", "status": "Success"}))
    pod = await client.perform(Bind(Key("demo", "web"), "node1", "u"))
    assert pod is not None and pod["kind"] == "Pod"
    method, path, _, body = server.requests[-2]
    assert (method, path) == ("POST", "/api/v1/namespaces/demo/pods/web/binding")
    assert body["target"] == {"apiVersion": "v1", "kind": "Node", "name": "node1"} and body["metadata"]["uid"] == "u"


async def test_applying_creates_and_then_changes(server: Any, client: Client) -> None:
    assert (await client.apply(configmap(data={"a": "1"})))[1] == "created"
    assert (await client.apply(configmap(data={"b": "2"})))[1] == "configured"
    assert (await client.get(CONFIGMAPS, ONE))["data"] == {"a": "1", "b": "2"}
    with pytest.raises(errors.BadRequest, match="no resource of kind 'Foo'"):
        await client.apply({"apiVersion": "v1", "kind": "Foo"})


async def test_a_connection_that_is_lost_without_a_word_between_two_reads_is_trouble_with_the_connection() -> None:
    class Content:
        async def readany(self) -> bytes:
            raise RuntimeError("Connection closed.")  # as aiohttp does

    with pytest.raises(aiohttp.ClientConnectionError):
        async for _ in _chunks(SimpleNamespace(content=Content())):  # type: ignore[arg-type]
            raise AssertionError("nothing came")


async def test_a_client_that_may_ask_so_often_waits_for_its_turn_with_all_but_watches(server: Any) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(round(seconds, 3))

    throttle = Throttle(10, 2, now=lambda: 100.0, sleep=sleep)
    async with Client(Connection(server=server.url, token="secret"), throttle=throttle) as client:
        await client.create(CONFIGMAPS, configmap(data={"a": "1"}))
        events = client.watch(CONFIGMAPS, resource_version="100")
        assert (await anext(events)).kind == "ADDED"
        await events.aclose()
        for _ in range(3):
            await client.get(CONFIGMAPS, ONE)
    assert waited == [0.1, 0.2], "two at once, then ten a second"
