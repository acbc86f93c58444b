"""Probes: counting, and asking over both families."""

from __future__ import annotations

import asyncio

import pytest

from twinstack.agent.containers.base import ContainerError, Output
from twinstack.agent.probes import Count, Prober, Result, port_of, watch
from twinstack.api.kinds import Container, Probe
from twinstack.api.objects import view_of


def test_thresholds_turn_findings_into_a_value():
    probe = Probe(successThreshold=2, failureThreshold=3)
    count, values = Count(False), []
    for ok in (True, True, False, False, True, False, False, False, True, True):
        count = count.after(ok, probe)
        values.append(count.value)
    assert values == [False, True, True, True, True, True, True, False, False, True]


class Commands:
    """A runtime of which only ``execute`` is asked."""

    def __init__(self, answer):
        self.answer = answer

    async def execute(self, identifier, argv, *, timeout_seconds):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


CONTAINER = view_of(Container, {"name": "c", "ports": [{"name": "web", "containerPort": 8080}]})


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Output(0, b""), Result(True, "exit status 0")),
        (Output(1, b"broken"), Result(False, "broken")),
        (Output(None, b"slow"), Result(False, "command timed out after 1 s: slow")),
        (ContainerError("it is gone"), Result(False, "it is gone")),
    ],
)
async def test_a_command_decides_by_its_exit_status(answer, result):
    async with Prober(Commands(answer)) as prober:
        assert await prober.ask(view_of(Probe, {"exec": {"command": ["x"]}}), CONTAINER, identifier="i", address="") == result


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_http_and_tcp_are_asked_at_the_pods_address(address):
    async def answer(reader, writer):
        line = await reader.readline()
        writer.write(b"HTTP/1.1 " + (b"200 OK" if b"/fine" in line else b"503 No") + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, address, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Prober(Commands(None)) as prober:

        async def ask(document):
            return await prober.ask(view_of(Probe, document), CONTAINER, identifier="i", address=address)

        assert (await ask({"httpGet": {"path": "/fine", "port": port}})).ok
        assert await ask({"httpGet": {"path": "/else", "port": port}}) == Result(False, "HTTP probe failed with statuscode: 503")
        assert (await ask({"tcpSocket": {"port": port}})).ok
        for probe in ({"tcpSocket": {"port": 1}}, {"httpGet": {"port": 1}}, {"httpGet": {"port": 1, "scheme": "HTTPS"}}, {"grpc": {"port": 1}}):
            assert await ask(probe) == Result(False, "Connection refused")
        assert "SSL" in (await ask({"httpGet": {"port": port, "scheme": "HTTPS"}})).message


@pytest.mark.parametrize(
    ("location", "ok", "message"),
    [
        pytest.param("/fine", True, "HTTP probe failed with statuscode: 200", id="a redirect on the same host is followed"),
        pytest.param("/broken", False, "HTTP probe failed with statuscode: 500", id="and what is there decides"),
        pytest.param("/missing", False, "HTTP probe failed with statuscode: 404", id="a page that is not there is no success"),
        pytest.param("/moved", False, "stopped after 10 redirects", id="but not for ever"),
        pytest.param("http://elsewhere.example/", True, "HTTP probe failed with statuscode: 302", id="another host is not asked"),
    ],
)
async def test_redirects(location, ok, message):
    async def answer(reader, writer):
        path = (await reader.readline()).split()[1]
        status = {b"/fine": b"200 OK", b"/broken": b"500 No", b"/missing": b"404 No"}.get(path, b"302 Moved\r\nLocation: " + location.encode())
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Prober(Commands(None)) as prober:
        probe = view_of(Probe, {"httpGet": {"path": "/moved", "port": server.sockets[0].getsockname()[1]}})
        assert await prober.ask(probe, CONTAINER, identifier="i", address="127.0.0.1") == Result(ok, message)


def test_a_port_may_be_named():
    assert [port_of(named, CONTAINER) for named in (80, "81", "web", "none")] == [80, 81, 8080, 0]


async def test_a_young_container_is_asked_again_soon():
    answers = iter([False, False, True])
    told: list[tuple[bool, bool]] = []

    async def ask(probe):
        return Result(next(answers))

    async with asyncio.timeout(2):
        await watch(Probe(periodSeconds=30), ask, lambda count, result: told.append((count.value, result.ok)), initially=False, eager=True, until=True)
    assert told == [(True, True)]
