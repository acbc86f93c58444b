"""The kube-scheduler: one controller, which gives each waiting pod a node."""

from __future__ import annotations

from collections.abc import Callable

from twinstack.api import kinds
from twinstack.client.controllers import Common, run_controllers
from twinstack.client.lean import Lean

COMPONENT = "kube-scheduler"
PORT = 10259


class Settings(Common, frozen=True, kw_only=True):
    """One field per flag."""

    secure_port: int = PORT
    scheduler_names: tuple[str, ...] = ("default-scheduler",)


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Schedule until cancelled; *ready* is called once it is at work."""
    from twinstack.controllers.scheduling import Scheduling

    await run_controllers(COMPONENT, [Scheduling(scheduler_names=settings.scheduler_names)], settings, lean={kinds.Pod: Lean().placed}, ready=ready)
