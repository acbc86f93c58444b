"""Life-cycle hooks: what a container is asked to do right after it has started, and before it is ended.

A hook runs a command inside the container, asks the pod's first address over HTTP (any answer is a success, as upstream
has it), or sleeps. One that names a TCP socket cannot be run, and counts as failed.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import msgspec

from twinstack.agent.containers.base import ContainerError, Record, Runtime
from twinstack.agent.environment import ConfigError
from twinstack.agent.probes import Prober
from twinstack.api.kinds import Container, HTTPGetAction
from twinstack.api.objects import view_of

_LONGEST_MESSAGE = 256


def hook_of(container: Container, name: str) -> Mapping[str, Any]:
    """A container's hook, ``postStart`` or ``preStop``; empty for none."""
    return (container.lifecycle or {}).get(name) or {}


def stop_signal(name: str) -> int:
    """The number of the signal that asks a container to end: ``SIGQUIT``, ``QUIT``, ``3`` or ``RTMIN+3``. ConfigError when it is none."""
    text, _, above = name.upper().removeprefix("SIG").partition("+")
    if text.isdecimal() and text.isascii():
        number = int(text)
    elif f"SIG{text}" in signal.Signals.__members__:
        number = signal.Signals[f"SIG{text}"] + (int(above) if above.isdecimal() else 0)
    else:
        number = 0
    if not 0 < number < signal.NSIG:
        raise ConfigError(f"stop signal {name!r} is no signal")
    return number


async def run(hook: Mapping[str, Any], container: Container, record: Record, *, runtime: Runtime, prober: Prober, address: str, seconds: float) -> str:
    """Run a hook for at most so many seconds; why it failed, empty for success."""
    if hook.get("exec"):
        try:
            output = await runtime.execute(record.id, hook["exec"].get("command") or [], timeout_seconds=seconds)
        except ContainerError as error:
            return str(error)
        if output.exit_code == 0:
            return ""
        text = output.text.decode(errors="replace")[:_LONGEST_MESSAGE]
        return f"no end within {seconds:.0f} s" if output.exit_code is None else text or f"exit status {output.exit_code}"
    if hook.get("httpGet"):
        try:
            action = view_of(HTTPGetAction, hook["httpGet"])
        except msgspec.MsgspecError as error:
            return f"httpGet: {error}"
        return await prober.visit(action, container, address, seconds)
    if hook.get("sleep"):
        await asyncio.sleep(min(seconds, float(hook["sleep"].get("seconds", 0))))
        return ""
    return f"invalid handler: a hook runs exec, httpGet or sleep, not {', '.join(hook)}"
