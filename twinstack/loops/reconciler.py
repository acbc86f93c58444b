"""The reconciler: what runs a controller.

Rule of this file: a controller decides, this acts. Queueing, performing, retrying and telling exist here once, for all controllers.

Theory. A controller is a function from the world to actions that would make its invariant true. Running it is a loop over keys:

    something changed ─→ keys to look at ─→ decide(key, world) ─→ actions ─→ performed ─→ the world has changed

It is level-triggered: what happened is forgotten as soon as the key is queued, only what *is* gets decided upon.
Hence nothing that goes wrong needs handling of its own, except looking again:

| answer to an action                          | meaning                                        | what follows                  |
|----------------------------------------------|------------------------------------------------|-------------------------------|
| success                                      | the answer is in the cache already             | the next action               |
| Conflict, AlreadyExists, NotFound            | the cache was behind                           | decide anew, soon             |
| Forbidden for a namespace that is going      | there is nothing to do there any more          | decide anew, later and later  |
| TooManyRequests, ServiceUnavailable          | the server asks for patience                   | decide anew, not before asked |
| any other failure, or a bug in the decision  | somebody must look: it is logged               | decide anew, later and later  |

A controller may have a method ``refused(key, error, world) -> list[Action]``: what to do when the server refuses what was decided, such as to
say so in a status. Actions are performed in order, and those after a failure are left out: they were decided for a world that has not come about.
Creations of one kind that follow each other do not depend on each other, and are performed together; so are patches of one
kind by a controller that says so (``independent = True``). A controller that makes many objects of one template says ``slow_start = True``:
it makes one, then two, four and so on together, so that a template which the server refuses is refused once and not a hundred times.

One key is never worked on twice at once (``loops.queue``), and the answers to its own writes are in the cache before it is looked at
again (``client.cache``): so a controller needs no memory of what it has just done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key
from twinstack.api.world import Action, After, Controller, Create, Patch, Tell, Watch, World
from twinstack.loops.clock import Clock, SystemClock
from twinstack.loops.events import Recorder
from twinstack.loops.metrics import QueueMetrics
from twinstack.loops.queue import Closed, Queue

Perform = Callable[[Action], Awaitable[Document | None]]

MOST_TOGETHER = 16

log = logging.getLogger(__name__)


class Source(World, Protocol):
    """A world that also tells its changes. Who subscribes is first told what is there."""

    def subscribe(self, view: type[kinds.Object], callback: Callable[[Any, Any], None]) -> Callable[[], None]: ...


class Reconciler:
    """One controller at work. The source must have been read once before :meth:`run`."""

    def __init__(
        self,
        controller: Controller,
        source: Source,
        perform: Perform,
        *,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        metrics: QueueMetrics | None = None,
        workers: int = 1,
    ) -> None:
        self.controller, self.source = controller, source
        self.queue: Queue[Key] = Queue(clock or SystemClock(), name=controller.name, metrics=metrics)
        self._perform, self._recorder, self._workers = perform, recorder, workers
        self._together = (Create, Patch) if getattr(controller, "independent", False) else (Create,)
        self._slow_start = bool(getattr(controller, "slow_start", False))

    async def run(self) -> None:
        """Keep the invariant until cancelled."""
        with ExitStack() as undo:
            undo.callback(self.queue.close)
            for watch in self.controller.watches:
                undo.callback(self.source.subscribe(watch.view, self._waker(watch)))
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"{self.controller.name} {number}")

    def _waker(self, watch: Watch) -> Callable[[Any, Any], None]:
        def wake(before: Any, after: Any) -> None:
            for key in watch.keys(before, after, self.source):
                self.queue.add(key)

        return wake

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.take()
            except Closed:
                return
            try:
                await self.reconcile(key)
            finally:
                self.queue.done(key)

    async def reconcile(self, key: Key) -> None:
        """Decide one key and perform what was decided; whatever fails, the key is looked at again."""
        try:
            actions = self.controller.decide(key, self.source)
            later = await self._perform_all(actions)
        except (errors.Conflict, errors.AlreadyExists, errors.NotFound) as error:
            self._again(key, error, logging.DEBUG)
        except (errors.TooManyRequests, errors.ServiceUnavailable, errors.Timeout) as error:
            self._again(key, error, logging.INFO, at_least_seconds=float(error.retry_after_seconds or 0))
        except errors.APIError as error:
            going = any(cause.get("reason") == "NamespaceTerminating" for cause in error.causes)
            if not going:
                await self._tell_refusal(key, error)
            self._again(key, error, logging.DEBUG if going else logging.ERROR)
        except Exception as error:
            log.exception("A decision failed", extra={"controller": self.controller.name, "key": key})
            self._again(key, error, logging.DEBUG)
        else:
            self.queue.forget(key)
            if later is not None:
                self.queue.add_after(key, later)

    async def _tell_refusal(self, key: Key, error: errors.APIError) -> None:
        """Where the controller has something to say to what the server refuses, do that."""
        refused = getattr(self.controller, "refused", None)
        if refused is None:
            return
        try:
            await self._perform_all(refused(key, error, self.source))
        except errors.APIError as other:
            log.debug("A refusal could not be told", extra={"controller": self.controller.name, "key": key, "because": str(other)})

    async def _perform_all(self, actions: Sequence[Action]) -> float | None:
        """Perform in order; in how many seconds to look again, where that is asked for."""
        later: float | None = None
        for batch in batches(actions, self._together, slow_start=self._slow_start):
            first = batch[0]
            if isinstance(first, After):
                later = first.seconds if later is None else min(later, first.seconds)
            elif isinstance(first, Tell):
                if self._recorder is not None:
                    self._recorder.tell(first.about, first.type, first.reason, first.message)
            elif len(batch) == 1:
                await self._perform(first)
            else:
                # Each is awaited to its end even when another fails, since it may have been done.
                answers = await asyncio.gather(*(self._perform(action) for action in batch), return_exceptions=True)
                for answer in answers:
                    if isinstance(answer, BaseException):
                        raise answer
        return later

    def _again(self, key: Key, error: Exception, level: int, *, at_least_seconds: float = 0.0) -> None:
        seconds = self.queue.add_failed(key, at_least_seconds=at_least_seconds)
        text = f"{type(error).__name__}: {error}"
        log.log(level, "A key is decided anew", extra={"controller": self.controller.name, "key": key, "seconds": seconds, "because": text})


def batches(actions: Sequence[Action], together: tuple[type[Create | Patch], ...] = (Create,), *, slow_start: bool = False) -> Iterator[list[Action]]:
    """The actions in order, with those of one of these types and one kind that follow each other taken together.

    With *slow_start* the first of such a row is alone, and each time twice as many are taken.
    """
    batch: list[Action] = []
    first = most = 1 if slow_start else MOST_TOGETHER
    for action in actions:
        last = batch[-1] if batch else None
        alike = isinstance(action, together) and type(action) is type(last) and action.resource == last.resource
        if batch and not (alike and len(batch) < most):
            yield batch
            most = min(2 * most, MOST_TOGETHER) if alike else first
            batch = []
        batch.append(action)
    if batch:
        yield batch
