"""How every long-running program starts and ends.

A program is ``async def run(settings, *, ready)``: it works until it is cancelled, undoes what it must on the
way out, and calls ``ready()`` once it serves. SIGTERM and SIGINT cancel it; our own errors end it with one
line on stderr and status 1, so that a supervisor sees a failure and a person sees a reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from twinstack.loops import logs
from twinstack.net.errors import Error

F = TypeVar("F", bound=Callable[..., Any])


def logging_options(function: F) -> F:
    """The flags that all programs share: ``-v``/``--v`` and ``--logging-format``."""
    function = click.option("-v", "--v", "verbosity", type=int, default=0, show_default=True, help="Log verbosity; 2 and above shows details.")(function)
    return click.option("--logging-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="klog's text or JSON lines.")(function)


async def until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Run until done or until SIGTERM or SIGINT, which cancel the work and let it clean up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    if task.cancelled() and not stopped:
        raise asyncio.CancelledError


def run_program(work: Coroutine[Any, Any, None], *, verbosity: int = 0, logging_format: str = "text") -> None:
    """Run a program to its end on uvloop, with logs on stderr; exits 1 with one line on our own errors."""
    import uvloop

    logs.configure(verbosity=verbosity, format_=logging_format)
    try:
        uvloop.run(until_signalled(work))
    except* Error as group:
        for error in _leaves(group):
            click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])]
