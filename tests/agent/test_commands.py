"""Conversations with commands and containers, through a socket that is a queue; the runtime and the kernel are real."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from twinstack.agent import commands
from twinstack.agent.containers.base import ContainerError
from twinstack.api.channels import CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT, frame

pytestmark = pytest.mark.kernel

BOTH = (STDOUT, STDERR)


class Client:
    """The other side of a socket."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.heard: dict[int, bytes] = {}
        self.news = asyncio.Event()
        self.slow = asyncio.Event()
        self.slow.set()
        self.first: int | None = None

    # ---- the socket

    async def receive(self) -> bytes | None:
        return await self.sent.get()

    async def send(self, message: bytes) -> None:
        await self.slow.wait()
        if self.first is None:
            self.first = message[0]
        self.heard[message[0]] = self.heard.get(message[0], b"") + message[1:]
        self.news.set()

    async def close(self) -> None:
        self.sent.put_nowait(None)

    # ---- what a test does

    def type(self, data: bytes) -> None:
        self.sent.put_nowait(frame(STDIN, data))

    def end_input(self) -> None:
        self.sent.put_nowait(frame(CLOSE, bytes((STDIN,))))

    async def until(self, channel: int, words: bytes) -> None:
        async with asyncio.timeout(10):
            while words not in self.heard.get(channel, b""):
                self.news.clear()
                await self.news.wait()

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.heard[ERROR])
        return found


@pytest.fixture
async def container(runtime, launch) -> str:
    wanted = launch("sleep 60")
    await runtime.start(wanted, netns=None)
    return wanted.id


def begin(runtime, container, script, *, stdin=False, tty=False):
    return lambda: runtime.begin(container, ["sh", "-c", script], stdin=stdin, tty=tty)


@asynccontextmanager
async def talking(work) -> AsyncIterator[asyncio.Task[None]]:
    """A conversation that goes on beside the test, and is over at its end."""
    async with asyncio.timeout(15), asyncio.TaskGroup() as tasks:
        yield tasks.create_task(work)


async def test_a_command_says_things_and_its_exit_code_is_told(runtime, container):
    client = Client()
    await commands.run(client, begin(runtime, container, "echo out; echo err >&2; exit 7"), BOTH)
    assert client.heard[STDOUT] == b"out\n" and client.heard[STDERR] == b"err\n"
    assert client.first == STDOUT
    assert client.status["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]


async def test_success_is_told_too_and_signals_count_128_more(runtime, container):
    client = Client()
    await commands.run(client, begin(runtime, container, "true"), BOTH)
    assert client.status == {"metadata": {}, "status": "Success"}
    client = Client()
    await commands.run(client, begin(runtime, container, "kill -9 $$"), BOTH)
    assert client.status["details"]["causes"][0]["message"] == "137"


async def test_only_what_is_wanted_is_shown(runtime, container):
    client = Client()
    await commands.run(client, begin(runtime, container, "echo out; echo err >&2"), (STDERR,))
    assert (client.first, client.heard.get(STDOUT), client.heard[STDERR]) == (STDERR, None, b"err\n")


async def test_a_command_that_cannot_be_begun_is_told_on_the_error_channel(runtime, container):
    client = Client()
    await commands.run(client, lambda: runtime.begin(container, ["nonsense"], stdin=True, tty=False), BOTH)
    assert client.status["status"] == "Failure" and "execute 'nonsense'" in client.status["message"]
    assert runtime._commands == {}


async def test_input_goes_in_whole_and_ends_where_the_client_ends_it(runtime, container):
    client = Client()
    data = bytes(range(256)) * 4096
    for at in range(0, len(data), 50_000):
        client.type(data[at : at + 50_000])
    client.end_input()
    await commands.run(client, begin(runtime, container, "cat", stdin=True), BOTH)
    assert client.heard[STDOUT] == data and client.status["status"] == "Success"


async def test_input_for_one_who_does_not_read_keeps_nobody(runtime, container):
    client = Client()
    client.type(b"x" * 1_000_000)
    await commands.run(client, begin(runtime, container, "exec <&-; sleep 0.1; exit 4", stdin=True), BOTH)
    assert client.status["details"]["causes"][0]["message"] == "4"


@pytest.mark.slow
async def test_a_terminal_is_one_has_a_size_and_echoes(runtime, container):
    client = Client()
    async with talking(commands.run(client, begin(runtime, container, "tty; echo $TERM; read a; stty size; exit 3", stdin=True, tty=True), (STDOUT,))):
        await client.until(STDOUT, b"xterm\r\n")
        assert client.heard[STDOUT].startswith(b"/dev/pts/")
        client.sent.put_nowait(frame(RESIZE, b'{"Width":101,"Height":43}'))
        client.sent.put_nowait(frame(RESIZE, b'{"Width":-1}'))
        client.sent.put_nowait(frame(RESIZE, b"nonsense"))
        client.type(b"typed\r")
        await client.until(STDOUT, b"typed\r\n43 101\r\n")
    assert client.status["details"]["causes"][0]["message"] == "3"


@pytest.mark.slow
async def test_when_the_client_goes_the_command_is_hung_up_on(runtime, container):
    client = Client()
    async with talking(commands.run(client, begin(runtime, container, "trap 'echo hup >/tmp/hup; exit' HUP; echo $$; sleep 30 & wait"), BOTH)):
        await client.until(STDOUT, b"\n")
        client.sent.put_nowait(None)
    wait = "until [ -s /tmp/hup ]; do sleep 0.01; done; cat /tmp/hup"
    assert (await runtime.execute(container, ["sh", "-c", wait], timeout_seconds=5)).text == b"hup\n"


@pytest.mark.slow
async def test_what_a_command_leaves_running_keeps_no_client_waiting(runtime, container):
    client = Client()
    async with asyncio.timeout(5):
        await commands.run(client, begin(runtime, container, "sleep 30 & echo begun"), BOTH)
    assert client.heard[STDOUT] == b"begun\n" and client.status["status"] == "Success"


@pytest.mark.slow
async def test_a_slow_client_gets_all_that_was_said_before_the_end(runtime, container):
    client = Client()
    async with talking(commands.run(client, begin(runtime, container, "head -c 300000 /dev/zero"), BOTH)):
        client.slow.clear()
        await asyncio.sleep(2 * commands.LINGER_SECONDS)
        client.slow.set()
    assert len(client.heard[STDOUT]) == 300_000 and client.status["status"] == "Success"


async def test_a_container_with_an_input_hears_who_is_attached(runtime, launch):
    wanted = launch("while read line; do echo got $line; echo aside >&2; done; exit 5", stdin=True)
    await runtime.start(wanted, netns=None)
    client = Client()
    work = commands.attach(client, lambda: runtime.attach(wanted.id), BOTH, end_input=lambda: runtime.end_input(wanted.id))
    async with talking(work):
        client.type(b"one\n")
        await client.until(STDOUT, b"got one\n")
        await client.until(STDERR, b"aside\n")
        client.end_input()
    assert client.status["status"] == "Success"


async def test_a_container_with_a_terminal_can_be_attached_to_and_logs(runtime, launch, tmp_path):
    wanted = launch("tty; read a; stty size; echo saw $a; read b", stdin=True, tty=True)
    await runtime.start(wanted, netns=None)
    client = Client()

    async def no_end() -> None:
        raise AssertionError("a terminal's input has no end")

    async with talking(commands.attach(client, lambda: runtime.attach(wanted.id), (STDOUT,), end_input=no_end)):
        client.sent.put_nowait(frame(RESIZE, b'{"Width":90,"Height":30}'))
        client.end_input()
        client.type(b"this\n")
        await client.until(STDOUT, b"30 90\r\nsaw this\r\n")
        client.sent.put_nowait(None)
    second = Client()
    async with talking(commands.attach(second, lambda: runtime.attach(wanted.id), (STDOUT,), end_input=no_end)):
        second.type(b"end\n")
    assert second.status["status"] == "Success"
    assert "saw this" in (tmp_path / f"{wanted.id}.log").read_text()


async def test_who_is_attached_only_sees_and_several_can(runtime, launch):
    wanted = launch("trap 'echo said; exit' TERM; while :; do echo tick; sleep 0.02; done")
    await runtime.start(wanted, netns=None)
    clients = [Client(), Client()]

    async def end_input() -> None:
        raise AssertionError("there is no input")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(commands.attach(client, lambda: runtime.attach(wanted.id), BOTH, end_input=end_input))
            client.type(b"nobody reads this")
        for client in clients:
            await client.until(STDOUT, b"tick\n")
        await runtime.signal(wanted.id, 15)
    assert all(client.heard[STDOUT].endswith(b"tick\nsaid\n") for client in clients)
    assert {client.status["status"] for client in clients} == {"Success"}


@pytest.mark.slow
async def test_a_container_never_waits_for_one_who_is_attached_and_does_not_read(runtime, launch):
    wanted = launch("read a; head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo; echo done >&2; read b", stdin=True)
    await runtime.start(wanted, netns=None)
    slow, quick = Client(), Client()
    slow.slow.clear()

    async def none() -> None: ...

    async with talking(commands.attach(slow, lambda: runtime.attach(wanted.id), BOTH, end_input=none)):
        async with talking(commands.attach(quick, lambda: runtime.attach(wanted.id), BOTH, end_input=none)):
            quick.type(b"go\n")
            await quick.until(STDERR, b"done\n")
            quick.sent.put_nowait(None)
        slow.slow.set()
        slow.sent.put_nowait(None)
    assert len(slow.heard.get(STDOUT, b"")) < 3_000_000


async def test_who_has_gone_leaves_nothing_open_though_the_container_is_silent(runtime, launch):
    wanted = launch("sleep 60")
    await runtime.start(wanted, netns=None)

    def open_files() -> int:
        return len(list(Path(f"/proc/{runtime._spawner_pid}/fd").iterdir()))

    async def until(count: int) -> None:
        async with asyncio.timeout(5):
            while open_files() != count:
                await runtime.signal(wanted.id, 0)  # the spawner goes round

    before = open_files()
    for _ in range(3):
        streams = await runtime.attach(wanted.id)
        await until(before + 2)
        os.close(streams.stdout)
        os.close(streams.stderr)
        await until(before)


async def test_nobody_attaches_to_what_has_ended(runtime, launch):
    wanted = launch("true")
    event = asyncio.Event()
    runtime.on_exit = lambda record: event.set()
    await runtime.start(wanted, netns=None)
    await event.wait()
    with pytest.raises(ContainerError, match="is not running"):
        await runtime.attach(wanted.id)
    client = Client()
    await commands.run(client, begin(runtime, wanted.id, "true"), BOTH)
    assert "is not running" in client.status["message"]
