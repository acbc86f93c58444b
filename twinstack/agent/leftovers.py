"""What is left of a pod of which nothing runs any more, and its removal.

Rule of this file: all of it may have been done before, by an agent that died; what is not there is a success.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from twinstack.agent.containers.base import ContainerError

if TYPE_CHECKING:
    from twinstack.agent.workers import Surroundings

SIGKILL = 9


async def clean_up(node: Surroundings, uid: str) -> None:
    """Forget a pod of which nothing runs any more: its ended containers, what they shared, its directory."""
    for record in node.runtime.records():
        if record.pod == uid:
            with contextlib.suppress(ContainerError):
                await node.runtime.remove(record.id)
    with contextlib.suppress(ContainerError):
        await node.runtime.forget(uid)
    node.maker.forget(uid)
    await node.limiter.forget(uid)
    await asyncio.to_thread(node.sandboxes.forget, uid)


async def end_orphan(node: Surroundings, uid: str) -> None:
    """End what is left of a pod whose object was deleted while no agent was there. Errors are those of the steps; try again."""
    while running := [record for record in node.runtime.records() if record.pod == uid and record.running]:
        for record in running:
            await node.runtime.signal(record.id, SIGKILL)
        await asyncio.sleep(0.05)
    if (sandbox := node.sandboxes.load(uid)) is not None:
        await node.sandboxes.remove(sandbox)
    await clean_up(node, uid)
