"""What the HTTP door adds: the unix socket, gzip, HEAD, and the headers of every answer."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from twinstack.apiserver.serving import open_unix_socket
from twinstack.apiserver.settings import SettingsError

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"


async def test_whoever_may_open_the_socket_is_the_admin(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    api = await serve(unix_socket=str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        async with session.post("http://local/apis/authentication.k8s.io/v1/selfsubjectreviews", json={}) as response:
            who = (await response.json())["status"]["userInfo"]
        assert who["username"] == "system:admin"
        assert "system:masters" in who["groups"]
    await api.stop()
    assert not path.exists()


def test_a_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    open_unix_socket(path).close()
    assert path.is_socket()
    open_unix_socket(path).close()


def test_a_socket_of_a_living_server_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with open_unix_socket(path), pytest.raises(SettingsError, match="a server listens there already"):
        open_unix_socket(path)


async def test_a_large_answer_is_packed_for_who_asks(api: Any) -> None:
    for number in range(3):
        await api.made(CONFIGMAPS, {"metadata": {"name": f"c{number}"}, "data": {"k": "v" * 60_000}})
    plain = await api.get(CONFIGMAPS, **{"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    async with api.session.get(api.url + CONFIGMAPS, headers={"Authorization": "Bearer a-token-for-tests", "Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert int(response.headers["Content-Length"]) < 10_000
        assert len((await response.json())["items"]) == len(plain.document["items"])
    small = await api.get(f"{CONFIGMAPS}/c0", **{"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in small.headers


async def test_head_tells_the_length_of_what_get_would_send(api: Any) -> None:
    get, head = await api.get("/livez?verbose"), await api.ask("HEAD", "/livez?verbose")
    assert (head.code, head.document) == (200, "")
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.parametrize("path, code", [pytest.param(CONFIGMAPS, 200, id="a list"), pytest.param(f"{CONFIGMAPS}/none", 404, id="a failure")])
async def test_every_answer_has_the_headers_that_clients_look_for(api: Any, path: str, code: int) -> None:
    got = await api.get(path)
    assert got.code == code
    assert got.headers["Cache-Control"] == "no-cache, private"
    for name in ("Audit-Id", "X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid"):
        assert len(got.headers[name]) == 36


async def test_a_request_keeps_the_id_that_its_client_gave_it(api: Any) -> None:
    assert (await api.get(CONFIGMAPS, **{"Audit-Id": "mine" * 20})).headers["Audit-Id"] == ("mine" * 20)[:64]


async def test_a_watch_ends_well_when_the_server_stops(api: Any) -> None:
    async with api.watch(CONFIGMAPS + "?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true") as watch:
        assert (await watch.next())["type"] == "BOOKMARK"
        await api.stop()
        assert await watch.rest() == []  # an end, not a broken connection


async def test_a_client_that_closed_its_half_is_answered(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    await serve(unix_socket=str(path))
    for asked, answered in (
        (b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200"),
        (b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", b""),
    ):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(asked)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(answered)
        writer.close()
        await writer.wait_closed()
