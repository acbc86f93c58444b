"""What runs inside one process of a cluster: a few programs in one event loop, each begun again when it fails.

Rule of this file: it knows programs as functions, and its supervisor as a socket; what they do is not its business.

Theory. Control plane and nodes are a process each, because importing Python's libraries costs more memory and time
than running them; the programs in a process still talk to each other through the API server only. A program that
raises, or is told to restart, is begun again later each time, while the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import msgspec

from twinstack.lab.logfiles import belonging_to
from twinstack.loops.supervisor import FIRST_DELAY_SECONDS
from twinstack.net.errors import Error

log = logging.getLogger(__name__)
_LAST_DELAY_SECONDS = 10.0
_WELL_SECONDS = 10.0  # a program that ran so long begins again at once


class Program(NamedTuple):
    """A program: works until cancelled, calls its argument once it serves. ``after`` serves before this one is begun."""

    run: Callable[[Callable[[], None]], Awaitable[None]]
    after: str = ""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process tells its supervisor: a component's new state, or a fact such as a node that is ready."""

    component: str = ""
    state: str = ""
    message: str = ""
    node: str = ""


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the supervisor is told, and tells a process: a component or process to restart, a node to begin, one to end for good."""

    restart: str = ""
    add: str = ""
    remove: str = ""


class Host:
    """Runs programs until cancelled."""

    def __init__(self, programs: Mapping[str, Program], channel: socket.socket) -> None:
        self._programs = programs
        self._channel = channel
        self._serving = {name: asyncio.Event() for name in programs}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._restarts: set[str] = set()

    def report(self, report: Report) -> None:
        with contextlib.suppress(OSError):  # the supervisor is gone; the programs work on
            self._channel.send(msgspec.json.encode(report))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._channel.setblocking(False)
        loop.add_reader(self._channel.fileno(), self._ordered)
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in self._programs:
                    tasks.create_task(self._keep_running(name))
        finally:
            loop.remove_reader(self._channel.fileno())

    def _ordered(self) -> None:
        try:
            data = self._channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the supervisor is gone
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            return
        order = msgspec.json.decode(data, type=Order)
        if order.restart in self._tasks:
            self._restarts.add(order.restart)
            self._tasks[order.restart].cancel()

    async def _keep_running(self, name: str) -> None:
        program, delay = self._programs[name], FIRST_DELAY_SECONDS
        loop = asyncio.get_running_loop()
        with belonging_to(name):
            if program.after:
                await self._serving[program.after].wait()
            while True:
                began = loop.time()
                self.report(Report(name, "starting"))
                message = await self._run_once(name, program)
                if message is None:  # told to
                    delay = FIRST_DELAY_SECONDS
                    continue
                self.report(Report(name, "failed", message))
                delay = FIRST_DELAY_SECONDS if loop.time() - began >= _WELL_SECONDS else delay
                await asyncio.sleep(delay)
                delay = min(_LAST_DELAY_SECONDS, delay * 2)

    async def _run_once(self, name: str, program: Program) -> str | None:
        """Run a program to its end; why it ended, None when it was told to restart."""
        task = self._tasks[name] = asyncio.ensure_future(program.run(lambda: self._serves(name)))
        try:
            await task
            return "it ended by itself"
        except asyncio.CancelledError:
            if name not in self._restarts:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                raise
            self._restarts.discard(name)
            log.info("Restarting, as ordered")
            return None
        except Exception as error:
            said = reason_of(error)
            log.error("The program failed", exc_info=None if isinstance(error, Error) else error, extra={"err": said})
            return said

    def _serves(self, name: str) -> None:
        self._serving[name].set()
        self.report(Report(name, "running"))


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line: the first error of ours in a group of many, else the first at all."""
    leaves = _leaves(error)
    chosen = next((leaf for leaf in leaves if isinstance(leaf, Error)), leaves[0])
    text = str(chosen).strip().split("\n")[0]
    return text if isinstance(chosen, Error) and text else f"{type(chosen).__name__}: {text}".rstrip(": ")


def _leaves(error: BaseException) -> list[BaseException]:
    return [leaf for one in error.exceptions for leaf in _leaves(one)] if isinstance(error, BaseExceptionGroup) else [error]


async def until_terminated(work: Awaitable[None]) -> None:
    """Run until SIGTERM or SIGINT, which cancel the work and let it clean up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
