"""Supervision: what fails is begun again, later each time; what fails for ever is given up."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from twinstack.loops.clock import Clock, SystemClock
from twinstack.net.errors import Error

FIRST_DELAY_SECONDS = 0.1
LAST_DELAY_SECONDS = 30.0
WELL_SECONDS = 60.0  # who ran so long fails for the first time again

log = logging.getLogger(__name__)


class GivenUp(Error):
    """A loop failed too often, or lost what it needs to go on."""


async def supervise(
    name: str,
    work: Callable[[], Awaitable[None]],
    *,
    clock: Clock | None = None,
    attempts: int | None = None,
    first_delay_seconds: float = FIRST_DELAY_SECONDS,
    last_delay_seconds: float = LAST_DELAY_SECONDS,
) -> None:
    """Run the work until it ends by itself; begin it again when it raises.

    Errors: GivenUp, with the last error as its cause, after so many *attempts* that failed in a row.
    """
    clock = clock or SystemClock()
    failed = 0
    while True:
        began = clock.monotonic()
        try:
            await work()
            return
        except Exception as error:
            failed = 1 if clock.monotonic() - began >= WELL_SECONDS else failed + 1
            if attempts is not None and failed >= attempts:
                raise GivenUp(f"{name} failed {failed} times in a row: {error}") from error
            seconds = min(last_delay_seconds, first_delay_seconds * 2 ** min(failed - 1, 30))
            log.error("A loop failed and is begun again", exc_info=error, extra={"loop": name, "seconds": seconds})
        await clock.sleep(seconds)
