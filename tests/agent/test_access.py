"""Who may ask the kubelet for what: by certificate, by token, by the API server's word."""

from __future__ import annotations

import json
from types import SimpleNamespace

import aiohttp
import pytest

from twinstack.agent.access import Access, subresources_of
from twinstack.agent.server import listening_hosts
from twinstack.agent.settings import Settings
from twinstack.api import errors
from twinstack.client import certificates


class Judge:
    """An API server that knows tokens, and who may what; counts its questions."""

    def __init__(self) -> None:
        self.tokens = {"good": {"username": "robot", "groups": ["robots"], "uid": "7", "extra": {"scope": ["a"]}}}
        self.allowed = {("robot", "get", "metrics"), ("robot", "get", "proxy"), ("system:anonymous", "get", "stats")}
        self.questions: list[dict] = []
        self.silent = False

    async def raw(self, method: str, path: str, *, body: bytes) -> SimpleNamespace:
        if self.silent:
            raise errors.ServiceUnavailable("no answer")
        spec = json.loads(body)["spec"]
        self.questions.append(spec)
        if path.endswith("/tokenreviews"):
            user = self.tokens.get(spec["token"])
            return SimpleNamespace(body=json.dumps({"status": {"authenticated": user is not None, "user": user or {}}}).encode())
        asked = spec["resourceAttributes"]
        allowed = (spec["user"], asked["verb"], asked["subresource"]) in self.allowed
        return SimpleNamespace(body=json.dumps({"status": {"allowed": allowed}}).encode())


class Moment:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def named(user: str, *groups: str) -> dict:
    return {"subject": (*((("organizationName", group),) for group in groups), (("commonName", user),))}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/stats/summary", ("stats",)),
        ("/metrics/resource", ("metrics",)),
        ("/pods", ("pods", "proxy")),
        ("/configz", ("configz", "proxy")),
        ("/exec/ns/p/c", ("proxy",)),
        ("/containerLogs/ns/p/c", ("proxy",)),
        ("/metricsx", ("proxy",)),
    ],
)
def test_a_path_is_a_part_of_a_node(path, found):
    assert subresources_of(path) == found


ASK = {"method": "GET", "path": "/metrics"}


async def test_without_a_mode_only_the_api_server_and_administrators_come_in():
    access = Access(Settings(), Judge(), "node1")  # type: ignore[arg-type]
    for certificate in (named("kube-apiserver-kubelet-client"), named("root", "system:masters"), named("admin", "kubeadm:cluster-admins")):
        await access.check(certificate=certificate, authorization="", **ASK)
    with pytest.raises(errors.Forbidden, match="user=somebody, verb=get, resource=nodes"):
        await access.check(certificate=named("somebody"), authorization="", **ASK)
    for authorization in ("", "Bearer good"):
        with pytest.raises(errors.Unauthorized):
            await access.check(certificate=None, authorization=authorization, **ASK)


async def test_the_api_server_says_whose_a_token_is_and_what_he_may():
    judge, moment = Judge(), Moment()
    access = Access(Settings(token_webhook=True, authorization="Webhook"), judge, "node1", now=moment)  # type: ignore[arg-type]
    await access.check(certificate=None, authorization="Bearer good", **ASK)
    review = judge.questions[-1]
    assert (review["groups"], review["uid"], review["extra"]) == (["robots"], "7", {"scope": ["a"]})
    assert review["resourceAttributes"] == {"verb": "get", "group": "", "version": "v1", "resource": "nodes", "subresource": "metrics", "name": "node1"}
    await access.check(certificate=None, authorization="Bearer good", **ASK)
    assert len(judge.questions) == 2  # both answers are remembered
    await access.check(certificate=None, authorization="Bearer good", method="GET", path="/pods")  # by the older right to proxy
    assert [one["resourceAttributes"]["subresource"] for one in judge.questions[2:]] == ["pods", "proxy"]
    with pytest.raises(errors.Forbidden, match="verb=create"):
        await access.check(certificate=None, authorization="Bearer good", method="POST", path="/exec/ns/p/c")
    with pytest.raises(errors.Unauthorized):
        await access.check(certificate=None, authorization="Bearer bad", **ASK)
    judge.allowed.clear()
    moment.now = 299
    await access.check(certificate=None, authorization="Bearer good", **ASK)
    moment.now = 301
    with pytest.raises(errors.Forbidden):
        await access.check(certificate=None, authorization="Bearer good", **ASK)


async def test_when_the_api_server_is_silent_nobody_new_comes_in():
    judge = Judge()
    judge.silent = True
    access = Access(Settings(token_webhook=True, authorization="Webhook"), judge, "node1")  # type: ignore[arg-type]
    with pytest.raises(errors.Unauthorized):
        await access.check(certificate=None, authorization="Bearer good", **ASK)
    with pytest.raises(errors.InternalError, match="Authorization error"):
        await access.check(certificate=named("root", "system:masters"), authorization="", **ASK)


async def test_those_who_do_not_say_who_they_are_come_in_where_that_is_allowed():
    access = Access(Settings(anonymous=True, authorization="Webhook"), Judge(), "node1")  # type: ignore[arg-type]
    await access.check(certificate=None, authorization="", method="GET", path="/stats/summary")
    with pytest.raises(errors.Forbidden, match="user=system:anonymous"):
        await access.check(certificate=None, authorization="", **ASK)


@pytest.mark.parametrize(
    ("address", "hosts"), [("0.0.0.0", ["0.0.0.0", "::"]), ("::", ["::", "0.0.0.0"]), ("192.0.2.1", ["192.0.2.1"]), ("2001:db8::1", ["2001:db8::1"])]
)
def test_the_unspecified_address_of_either_family_means_both(address, hosts):
    assert listening_hosts(address) == hosts


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_tells_what_it_and_its_pods_use(world):
    async def story(w) -> None:
        await w.stop_agent()
        await w.start_agent(authorization="Webhook", token_webhook=True, max_pods=42)
        await w.give_pod_cidrs()
        busy = "import time\nx = b'x' * (20 << 20)\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\ntime.sleep(1000)"
        await w.create("busy", container={"command": ["/usr/bin/python3", "-IS", "-c", busy]})
        await w.create("over", restartPolicy="Never", container={"command": ["true"]})
        pod = await w.until_pod("busy", lambda status: status.get("phase") == "Running")
        await w.until_pod("over", lambda status: status.get("phase") == "Succeeded")
        context = certificates.client_context(authorities=w.authority.certificate)

        async def ask(path: str, token: str) -> tuple[int, str]:
            headers = {"Authorization": f"Bearer {token}"}
            async with (
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
                session.get(f"https://[2001:db8::10]:10250{path}", headers=headers) as response,
            ):
                return response.status, await response.text()

        assert (await ask("/pods", "wrong"))[0] == 401
        token = "a-token-for-tests"
        names = {path: {one["metadata"]["name"] for one in json.loads((await ask(path, token))[1])["items"]} for path in ("/pods", "/runningpods/")}
        assert names == {"/pods": {"busy", "over"}, "/runningpods/": {"busy"}}
        assert json.loads((await ask("/configz", token))[1])["kubeletconfig"]["maxPods"] == 42

        async def measured():
            told = json.loads((await ask("/stats/summary", token))[1])
            one = next(one for one in told["pods"] if one["podRef"]["name"] == "busy")
            return (told, one) if one["cpu"]["usageCoreNanoSeconds"] >= 200_000_000 else None

        told, one = await w.until(measured)
        assert one["podRef"]["uid"] == pod["metadata"]["uid"] and 20 << 20 < one["memory"]["workingSetBytes"] < 200 << 20
        assert [container["name"] for container in one["containers"]] == ["c"] and one["network"]["name"] == "eth0"
        assert told["node"]["nodeName"] == "node1" and told["node"]["memory"]["workingSetBytes"] > 0 and told["node"]["fs"]["capacityBytes"] > 0
        metrics = (await ask("/metrics/resource", token))[1]
        assert 'container_cpu_usage_seconds_total{container="c",namespace="default",pod="busy"} 0.' in metrics
        assert 'pod="over"} 0\n' in metrics and "node_cpu_usage_seconds_total " in metrics
        assert "kubelet_running_pods 2.0" in (await ask("/metrics", token))[1]
        assert await ask("/healthz/ping", token) == (200, "ok")
        assert (await ask("/healthz/other", token))[0] == 404

        async def begun():
            return {"Starting", "NodeReady", "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"} <= await w.events("node1")

        await w.until(begun)

    world(story)
