"""The ``proxy`` subresources: whom a request is passed on to, and what of it and of the answer is."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import WSMsgType, web

from twinstack.api.errors import APIError
from twinstack.api.resources import BY_PATH
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.forwarding import paths_of, relocated
from twinstack.apiserver.requests import parse
from twinstack.apiserver.targets import Target, target_of
from twinstack.client.certificates import self_signed, server_context

NODE, POD, SERVICE = "/api/v1/nodes/node1/proxy", "/api/v1/namespaces/default/pods/web/proxy", "/api/v1/namespaces/default/services/web/proxy"


class Kubelet(NamedTuple):
    """A kubelet that says what it was asked for."""

    port: int
    more: asyncio.Queue[bytes | None]


@pytest.fixture
async def kubelet(api: Any) -> AsyncIterator[Kubelet]:
    """An HTTPS server that the node tells of as its kubelet."""
    more: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/socket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await (socket.send_str if message.type is WSMsgType.TEXT else socket.send_bytes)(message.data)
            return socket
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/there/?x=1"})
        if request.path == "/page":
            page = b'<a href="/x">x</a>'
            packed = {"Content-Encoding": "gzip"} if "gzip" in request.headers.get("Accept-Encoding", "") else {}
            return web.Response(body=gzip.compress(page) if packed else page, headers={"Content-Type": "text/html; charset=utf-8", **packed})
        if request.path == "/empty":
            return web.Response(status=204)
        if request.path == "/stream":
            response = web.StreamResponse(status=207, headers={"Content-Type": "text/plain", "Connection": "X-Own", "X-Own": "1", "X-Shown": "2"})
            await response.prepare(request)
            while (data := await more.get()) is not None:
                await response.write(data)
            return response
        told = {"method": request.method, "path": request.raw_path, "headers": dict(request.headers), "body": (await request.read()).decode()}
        return web.json_response(told, status=418)

    tls = server_context(self_signed("kubelet", addresses=["127.0.0.1"]))
    server = await asyncio.get_running_loop().create_server(web.Server(handle, access_log=None), "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    await api.post("/api/v1/nodes", {"metadata": {"name": "node1"}})
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}
    assert (await api.patch("/api/v1/nodes/node1/status", {"status": status})).code == 200
    yield Kubelet(port, more)
    server.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_every_method_is_passed_on_with_path_query_and_body(api: Any, kubelet: Kubelet, method: str) -> None:
    got = await api.ask(method, f"{NODE}/a%20b/../c/?q=%26&q=2", b"" if method in ("GET", "OPTIONS") else b'{"x":1}')
    assert got.code == 418
    assert (got.document["method"], got.document["path"]) == (method, "/c/?q=%26&q=2")
    assert got.document["body"] == ("" if method in ("GET", "OPTIONS") else '{"x":1}')


async def test_head_tells_the_length_and_carries_no_body(api: Any, kubelet: Kubelet) -> None:
    got = await api.ask("HEAD", f"{NODE}/x")
    assert (got.code, got.document) == (418, "")
    assert int(got.headers["Content-Length"]) > 0
    assert (await api.get(f"{NODE}/empty")).code == 204


async def test_headers_of_the_connection_and_of_who_one_is_stay_here(api: Any, kubelet: Kubelet) -> None:
    sent = {"X-Mine": "1", "Connection": "keep-alive, X-Hop", "X-Hop": "1", "Te": "trailers", "X-Forwarded-For": "192.0.2.1", "Accept": "text/x"}
    headers = (await api.get(f"{NODE}/x", **sent)).document["headers"]
    assert headers["X-Mine"] == "1"
    assert headers["Accept"] == "text/x"
    assert headers["X-Forwarded-For"] == "192.0.2.1, 127.0.0.1"
    assert headers["X-Forwarded-Uri"] == f"{NODE}/x"
    assert not {"Authorization", "X-Hop", "Te"} & headers.keys()


async def test_an_answer_is_passed_back_as_it_comes(api: Any, kubelet: Kubelet) -> None:
    async with api.session.get(f"{api.url}{NODE}/stream", headers={"Authorization": "Bearer a-token-for-tests"}) as response:
        assert response.status == 207
        assert response.headers["X-Shown"] == "2"
        assert "X-Own" not in response.headers
        for text in (b"one", b"two"):
            await kubelet.more.put(text)
            async with asyncio.timeout(5):
                assert await response.content.readexactly(3) == text
        await kubelet.more.put(None)
        assert await response.read() == b""


async def test_text_and_bytes_of_a_websocket_pass_both_ways(api: Any, kubelet: Kubelet) -> None:
    async with api.session.ws_connect(f"{api.url}{NODE}/socket", headers={"Authorization": "Bearer a-token-for-tests"}) as socket, asyncio.timeout(10):
        await socket.send_str("words")
        assert (await socket.receive()).data == "words"
        await socket.send_bytes(b"\0" * 300_000)
        assert (await socket.receive()).data == b"\0" * 300_000


async def test_who_asks_for_an_upgrade_and_gets_none_is_answered(api: Any, kubelet: Kubelet) -> None:
    got = await api.get(f"{NODE}/x", Connection="Upgrade", Upgrade="something/1")
    assert (got.code, got.document["headers"]["Upgrade"]) == (418, "something/1")


async def test_a_redirect_to_itself_leads_through_the_server(api: Any, kubelet: Kubelet) -> None:
    sent = {"Authorization": "Bearer a-token-for-tests"}
    async with api.session.get(f"{api.url}{NODE}/moved", headers=sent, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, f"{NODE}/there/?x=1")
    async with api.session.get(f"{api.url}{NODE}?a=b", headers=sent, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (301, f"{NODE}/?a=b")


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_links_of_a_page_lead_through_the_server(api: Any, kubelet: Kubelet, encoding: str) -> None:
    got = await api.get(f"{NODE}/page", **{"Accept-Encoding": encoding})
    assert (got.document, got.headers["Content-Type"]) == (f'<a href="{NODE}/x">x</a>', "text/html; charset=utf-8")


async def test_a_client_of_http_1_0_gets_all_at_once(api: Any, kubelet: Kubelet) -> None:
    host, port = api.url.removeprefix("https://").split(":")
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    writer.write(f"GET {NODE}/page HTTP/1.0\r\nAuthorization: Bearer a-token-for-tests\r\n\r\n".encode())
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert (b"chunked" not in head, body) == (True, f'<a href="{NODE}/x">x</a>'.encode())


async def test_requests_that_are_passed_on_are_counted_as_connections(api: Any, kubelet: Kubelet) -> None:
    await api.get(f"{NODE}/x")
    text = (await api.get("/metrics")).document
    assert 'apiserver_request_total{code="418",component="apiserver",group="",resource="nodes",scope="resource",subresource="proxy",verb="CONNECT"' in text


async def test_a_target_that_does_not_answer_is_unavailable(api: Any, kubelet: Kubelet) -> None:
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}
    assert (await api.patch("/api/v1/nodes/node1/status", {"status": status})).code == 200
    got = await api.get(f"{NODE}/x")
    assert (got.code, got.reason) == (503, "ServiceUnavailable")
    assert got.message.startswith("error trying to reach service: ")


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        pytest.param("/api/v1/nodes/none/proxy/", 404, 'nodes "none" not found', id="no node"),
        pytest.param("/api/v1/nodes/a:b:c:d/proxy/", 400, 'invalid node request "a:b:c:d"', id="too many words"),
        pytest.param("/api/v1/nodes/ftp:node1:1/proxy/", 400, 'invalid node request "ftp:node1:1"', id="a scheme that is not spoken"),
        pytest.param("/api/v1/nodes/node1:8080/proxy/", 400, "address not allowed", id="another port of a node on loopback"),
        pytest.param("/api/v1/namespaces/default/pods/none/proxy/", 404, 'pods "none" not found', id="no pod"),
        pytest.param("/api/v1/namespaces/default/services/none/proxy/", 404, 'services "none" not found', id="no Service"),
    ],
)
async def test_what_leads_nowhere_says_why(api: Any, kubelet: Kubelet, path: str, code: int, message: str) -> None:
    got = await api.get(path)
    assert (got.code, got.message) == (code, message)


async def test_a_service_without_endpoints_is_unavailable(api: Any) -> None:
    await api.made("/api/v1/namespaces/default/services", {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})
    got = await api.get(f"{SERVICE}/")
    assert (got.code, got.reason, got.message) == (503, "ServiceUnavailable", 'no endpoints available for service "web"')
    got = await api.get("/api/v1/namespaces/default/services/web:81/proxy/")
    assert (got.code, got.message) == (503, 'no service port 81 found for service "web"')


def scene() -> Any:
    """A cache with a node, a pod of two addresses and two of one, and a Service of two named ports."""

    def pod(name: str, *ips: str) -> Any:
        containers = [{"name": "main"}, {"name": "side", "ports": [{"containerPort": 8080}]}]
        return {"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": containers}, "status": {"podIPs": [{"ip": ip} for ip in ips]}}

    def endpoint(name: str, ip: str, namespace: str = "default") -> Any:
        return {"ip": ip, "targetRef": {"kind": "Pod", "name": name, "namespace": namespace}}

    status = {"addresses": [{"type": "InternalIP", "address": "fd00::11"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}
    forged = [{"ip": "10.9.9.9"}, endpoint("web", "10.9.9.9"), endpoint("web", "10.0.0.5", "other")]
    return {
        "nodes": [{"metadata": {"name": "node1"}, "status": status}],
        "pods": [pod("web", "fd00:10::5", "10.0.0.5"), pod("local", "127.0.0.1"), pod("near", "fe80::1"), pod("waiting")],
        "services": [{"metadata": {"name": name, "namespace": "default"}, "spec": {"ports": [{"name": "web", "port": 80}]}} for name in ("web", "forged")],
        "endpoints": [
            {
                "metadata": {"name": "web", "namespace": "default"},
                "subsets": [
                    {"addresses": [endpoint("web", "10.0.0.5")], "ports": [{"name": "web", "port": 8080}, {"name": "more", "port": 9090}]},
                    {"notReadyAddresses": [endpoint("web", "10.0.0.5")], "ports": [{"name": "late", "port": 7}]},
                ],
            },
            {"metadata": {"name": "forged", "namespace": "default"}, "subsets": [{"addresses": forged, "ports": [{"name": "web", "port": 1}]}]},
        ],
    }


class Known(Cache):
    """A cache of what :func:`scene` says."""

    def get(self, resource: Any, key: Any) -> Any:
        named = (one for one in scene()[resource.plural] if one["metadata"]["name"] == key.name)
        return next((one for one in named if one["metadata"].get("namespace", "") == key.namespace), None)


@pytest.mark.parametrize(
    ("plural", "words", "expected"),
    [
        pytest.param("nodes", "node1", Target("https", "fd00::11", 10250, is_kubelet=True), id="a node means its kubelet"),
        pytest.param("nodes", "node1:10250", Target("https", "fd00::11", 10250, is_kubelet=True), id="the kubelet's own port"),
        pytest.param("nodes", "node1:80", Target("http", "fd00::11", 80), id="another port of a node is anybody's"),
        pytest.param("nodes", "https:node1:443", Target("https", "fd00::11", 443), id="another port of a node, encrypted"),
        pytest.param("pods", "web", Target("http", "fd00:10::5", 8080), id="a pod's first address and the first port that it tells of"),
        pytest.param("pods", "web:81", Target("http", "fd00:10::5", 81), id="a pod's port by number"),
        pytest.param("pods", "https:web:", Target("https", "fd00:10::5", 8080), id="a scheme and no port"),
        pytest.param("pods", "local", "address not allowed", id="a pod on loopback"),
        pytest.param("pods", "near", "address not allowed", id="a pod with a link-local address"),
        pytest.param("pods", "waiting", "address not allowed", id="a pod without an address"),
        pytest.param("pods", "web:x", "'x' is no number of a port", id="a port that is no number"),
        pytest.param("services", "web:web", Target("http", "10.0.0.5", 8080), id="a Service's port by name"),
        pytest.param("services", "web:80", Target("http", "10.0.0.5", 8080), id="a Service's port by number"),
        pytest.param("services", "https:web:more", Target("https", "10.0.0.5", 9090), id="another port of a Service, encrypted"),
        pytest.param("services", "web:late", 'no endpoints available for service "web:late"', id="endpoints that are not ready"),
        pytest.param("services", "forged:web", 'no endpoints available for service "forged:web"', id="endpoints that are no pod's addresses"),
    ],
)
def test_a_name_leads_to(plural: str, words: str, expected: Target | str) -> None:
    resource = BY_PATH["", "v1", plural]
    namespace = "default" if resource.namespaced else ""
    if isinstance(expected, str):
        with pytest.raises(APIError) as caught:
            target_of(Known(), resource, namespace, words)
        assert caught.value.message == expected
    else:
        assert target_of(Known(), resource, namespace, words) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(NODE, (NODE, ""), id="nothing"),
        pytest.param(f"{NODE}/", (NODE, "/"), id="the root"),
        pytest.param(f"{POD}/a//b/", (POD, "/a/b/"), id="slashes"),
        pytest.param(f"{POD}/../../../x", (POD, "/x"), id="upwards"),
        pytest.param(f"{POD}/%2e%2e/%2E./x", (POD, "/x"), id="upwards in disguise"),
        pytest.param(f"{SERVICE}/a%20b?".rstrip("?"), (SERVICE, "/a%20b"), id="an escaped character"),
        pytest.param(f"{SERVICE}/proxy/status", (SERVICE, "/proxy/status"), id="words that mean something here"),
    ],
)
def test_the_path_behind_proxy_is_the_path_there(path: str, expected: tuple[str, str]) -> None:
    assert paths_of(parse("GET", path), path) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        pytest.param("/x/?y#z", f"{POD}/x/?y#z", id="a path"),
        pytest.param("http://10.0.0.5:80/x", f"{POD}/x", id="itself by address"),
        pytest.param("https://api.example/x", f"{POD}/x", id="itself by the name that the client used"),
        pytest.param(f"{POD}/x", f"{POD}/x", id="the way through us already"),
        pytest.param("x/y", "x/y", id="a relative path"),
        pytest.param("https://elsewhere.example/x", "https://elsewhere.example/x", id="another host"),
        pytest.param("http://[", "http://[", id="no URL"),
    ],
)
def test_a_location_is_rewritten(location: str, expected: str) -> None:
    assert relocated(location, Target("http", "10.0.0.5", 80), "api.example", POD) == expected


async def test_what_was_passed_on_is_audited_without_its_body(serve: Any, tmp_path: Path) -> None:
    policy, path = tmp_path / "policy.yaml", tmp_path / "audit.log"
    policy.write_text("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- {level: Request}\n")
    api = await serve(audit_policy_file=str(policy), audit_log_path=str(path))
    await api.ask("POST", "/api/v1/nodes/none/proxy/run", b'{"secret":1}')
    await api.stop()
    (event,) = [one for line in path.read_text().splitlines() if (one := json.loads(line))["stage"] == "ResponseComplete" and "none" in line]
    assert (event["verb"], event["objectRef"]["subresource"], event["responseStatus"]["code"]) == ("create", "proxy", 404)
    assert "requestObject" not in event
