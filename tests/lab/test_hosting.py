"""Several programs in one process: each begun again by itself, each with a log of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from twinstack.lab import logfiles
from twinstack.lab.hosting import Host, Order, Program, Report, reason_of
from twinstack.lab.logreading import lines, logs_of
from twinstack.lab.places import Places, cluster_of_netns, state_home
from twinstack.net.errors import Error

Ready = Callable[[], None]


class Supervisor:
    """The other end of a host's channel."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)

    async def next(self) -> Report:
        async with asyncio.timeout(5):
            return msgspec.json.decode(await asyncio.get_running_loop().sock_recv(self.ours, 65536), type=Report)

    def order(self, component: str) -> None:
        self.ours.send(msgspec.json.encode(Order(restart=component)))

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


def serving(log: list[str], name: str) -> Callable[[Ready], Awaitable[None]]:
    async def run(ready: Ready) -> None:
        log.append(f"{name} begins")
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            log.append(f"{name} ends")

    return run


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_program_begins_when_the_one_before_it_serves(supervisor: Supervisor) -> None:
    log: list[str] = []
    host = Host({"second": Program(serving(log, "second"), after="first"), "first": Program(serving(log, "first"))}, supervisor.theirs)
    task = asyncio.ensure_future(host.run())
    told = [await supervisor.next() for _ in range(4)]
    assert [(one.component, one.state) for one in told] == [("first", "starting"), ("first", "running"), ("second", "starting"), ("second", "running")]
    await ended(task)
    assert (log[:2], sorted(log[2:])) == (["first begins", "second begins"], ["first ends", "second ends"])


async def test_a_program_that_fails_is_begun_again_and_the_others_go_on(supervisor: Supervisor) -> None:
    log: list[str] = []
    tries = 0

    async def failing(ready: Ready) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Error(f"try {tries} will not do")
        await serving(log, "shaky")(ready)

    task = asyncio.ensure_future(Host({"steady": Program(serving(log, "steady")), "shaky": Program(failing)}, supervisor.theirs).run())
    told = []
    while not told or told[-1] != Report("shaky", "running"):
        told.append(await supervisor.next())
    assert [one.message for one in told if one.state == "failed"] == ["try 1 will not do", "try 2 will not do"]
    assert log == ["steady begins", "shaky begins"]
    await ended(task)


async def test_an_order_begins_one_program_anew(supervisor: Supervisor) -> None:
    log: list[str] = []
    task = asyncio.ensure_future(Host({"a": Program(serving(log, "a")), "b": Program(serving(log, "b"))}, supervisor.theirs).run())
    for _ in range(4):
        await supervisor.next()
    supervisor.order("b")
    assert [(one.component, one.state) for one in [await supervisor.next(), await supervisor.next()]] == [("b", "starting"), ("b", "running")]
    supervisor.order("nobody")
    await ended(task)
    assert log[:4] == ["a begins", "b begins", "b ends", "b begins"]


async def test_programs_work_on_when_the_supervisor_is_gone(supervisor: Supervisor) -> None:
    log: list[str] = []
    task = asyncio.ensure_future(Host({"a": Program(serving(log, "a"))}, supervisor.theirs).run())
    await supervisor.next()
    supervisor.ours.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    await ended(task)


def test_the_reason_is_one_line_and_ours_comes_first() -> None:
    group = BaseExceptionGroup("many", [ValueError("first"), BaseExceptionGroup("inner", [Error("the disk is full\nmore")])])
    assert reason_of(group) == "the disk is full"
    assert reason_of(ValueError("bad\nthings")) == "ValueError: bad"
    assert reason_of(KeyError()) == "KeyError"


@pytest.fixture
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if isinstance(handler, logfiles.ByComponent):
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


async def test_each_component_has_a_log_of_its_own(tmp_path: Path, logging_restored: None) -> None:
    places = Places("x", str(tmp_path), str(tmp_path))
    logfiles.install(places.log, "node1")
    log = logging.getLogger("twinstack.test")

    async def speak(name: str) -> None:
        with logfiles.belonging_to(name):
            log.info("begin")
            await asyncio.to_thread(log.info, "in a thread")
            await asyncio.ensure_future(asyncio.sleep(0))
            log.info("end")

    log.info("nobody's")
    await asyncio.gather(speak("node1/kubelet"), speak("node1/kube-proxy"))
    assert list(logs_of(places, "")) == ["node1", "node1/kube-proxy", "node1/kubelet"]
    assert [line.rpartition("] ")[2] for line in lines(logs_of(places, "node1/kubelet"))] == ["begin", "in a thread", "end"]
    assert [line.rpartition("] ")[2] for line in lines(logs_of(places, "node1"))] == ["nobody's"]
    assert len(list(lines(logs_of(places, "kubelet"), tail=1))) == 1


def test_a_log_that_is_too_long_is_begun_anew_and_followed_on(tmp_path: Path, logging_restored: None) -> None:
    places = Places("x", str(tmp_path), str(tmp_path))
    logfiles.install(places.log, "node1")
    log = logging.getLogger("twinstack.test")
    log.info("x" * logfiles.LONGEST)
    assert (tmp_path / "logs" / "node1.log.1").stat().st_size > logfiles.LONGEST
    assert (tmp_path / "logs" / "node1.log").stat().st_size == 0
    log.info("first")
    followed = lines(logs_of(places, "node1"), tail=1, follow=True)
    assert next(followed).endswith("first")
    log.info("y" * logfiles.LONGEST)
    log.info("second")
    assert next(followed).endswith("second")
    followed.close()


def test_a_log_is_followed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "a.log"
    path.write_text("one\ntwo\n")
    followed = lines(logs_of(Places("x", str(tmp_path), ""), "a"), tail=1, follow=True)
    assert next(followed) == "two"
    with path.open("a") as file:
        file.write("thr")
        file.flush()
        file.write("ee\nfour\n")
    assert [next(followed), next(followed)] == ["three", "four"]
    followed.close()


@pytest.mark.parametrize(
    "file, told",
    [
        ("twinstack-a-node1", ("a", "node1")),
        ("twinstack-a-b-control-plane", ("a-b", "control-plane")),
        ("twinstack-a-node1-outside", ("a-node1", "outside")),
        ("twinstack-a-node0", None),
        ("twinstack-node1", None),
        ("cni-1234", None),
        ("twinstack-probe-77", None),
    ],
)
def test_a_namespace_tells_whose_it_is(file: str, told: tuple[str, str] | None) -> None:
    assert cluster_of_netns(file) == told


def test_state_is_kept_where_the_user_wants_it() -> None:
    assert state_home({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == "/s/twinstack"
    assert state_home({"XDG_STATE_HOME": "relative", "HOME": "/h"}) == "/h/.local/state/twinstack"
    assert Places.of("a", {"HOME": "/h"}).record == "/h/.local/state/twinstack/a/cluster.json"
