"""One pod's worker: looks at what stands, asks ``pods`` what to do, does it, tells the API server.

Rule of this file: no decision. A worker sleeps until its pod's object changes, a container ends, a probe finds
something else, or a moment comes; then it looks at everything anew. Its state can be rebuilt: from the runtime's
records, from the sandbox's note, from what the API server was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from twinstack.agent import hooks
from twinstack.agent.containers.base import ContainerError, Record, Runtime
from twinstack.agent.environment import ConfigError
from twinstack.agent.hostfiles import HostnameError
from twinstack.agent.leftovers import SIGKILL, clean_up
from twinstack.agent.limits import Limiter
from twinstack.agent.making import STOP, Maker
from twinstack.agent.pods import (
    NOTHING,
    Failure,
    Finish,
    Kill,
    MakeSandbox,
    RemoveSandbox,
    Seen,
    Start,
    Step,
    decide,
    everything,
    grace_of,
    is_over,
    next_backoff,
)  # fmt: skip
from twinstack.agent.probes import Prober
from twinstack.agent.probing import Probing
from twinstack.agent.pulls import ALSO_TOLD, ImageRefused
from twinstack.agent.resizing import IN_PROGRESS, PENDING, Resizing
from twinstack.agent.sandboxes import Sandbox, Sandboxes
from twinstack.agent.status import EVICTED, SCHEME, newly_backing_off, status_of, told_before
from twinstack.agent.sysctls import SysctlForbidden
from twinstack.agent.volumes import VolumeError
from twinstack.api import cni, errors
from twinstack.api.kinds import Container, Pod, condition_of
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time
from twinstack.kernel.errors import KernelError
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family
from twinstack.rules.node_admission import Refusal

log = logging.getLogger(__name__)
PODS = resource_of(Pod)
HOLD_SECONDS = 0.15  # a pod that is only just being made is told once it runs, or after this
RETRY_SECONDS = 1.0
CONFIG_RETRY_SECONDS = 10.0
KEPT_ATTEMPTS = 2
LONGEST_HOOK_SECONDS = 24 * 3600.0  # nothing limits a postStart hook but the end of its container
SIGTERM = 15


class Surroundings(Protocol):
    """What a worker needs of its node."""

    runtime: Runtime
    sandboxes: Sandboxes
    maker: Maker
    limiter: Limiter
    prober: Prober
    node_name: str
    longest_backoff: float

    def host_ips(self) -> tuple[str, ...]:
        """The node's own addresses, the primary one first."""

    def shortage(self, pod: Pod, *, alone: bool) -> Refusal | None:
        """What the node has too little of for the pod, beside its other pods, or if it were *alone*."""

    def event(self, pod: Pod, type_: str, reason: str, message: str, container: Container | None = None) -> None:
        """Tell people about a pod."""

    async def patch_status(self, key: Key, patch: Document) -> None:
        """Write a pod's status."""

    async def delete(self, key: Key, uid: str) -> None:
        """Let a pod's object go."""


class Worker:
    """Keeps one pod true until it is gone."""

    def __init__(self, pod: Pod, node: Surroundings) -> None:
        self._resizing = Resizing()
        self.pod = self._resizing.adopt(pod)  # with what its containers have, which may not be what they ask for
        self.gone = False
        self.seen: dict[str, Seen] = {}
        self.sandbox: Sandbox | None = None
        self._node = node
        self._key = Key(pod.metadata.namespace, pod.metadata.name)
        self._wake, self._told, self._stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._status: Document | None = None  # as it ought to be told
        self._written: Document | None = None  # as it was told last
        self._failure: Failure | None = None
        self._kills: dict[str, asyncio.Task[None]] = {}
        self._probing = Probing(self, node)
        self._refreshes = asyncio.Event()
        self._mismatch: tuple[str, str] | None = None  # the addresses of the node of which we have told that they differ in family
        self._ending_since: float | None = None
        self._finished = False
        self.on_running: Callable[[float], None] | None = None  # hears once how many seconds passed until the pod ran
        self._born = time.monotonic()
        self._tasks: asyncio.TaskGroup

    # ---- what wakes it

    def wake(self) -> None:
        """Something of the pod has changed: look at it anew."""
        self._wake.set()

    def update(self, pod: Pod) -> None:
        """The pod's object has changed; what somebody else has written into its status is written over."""
        if (pod.labels, pod.annotations) != (self.pod.labels, self.pod.annotations):
            self._refreshes.set()
        self.pod = self._resizing.standing(pod)
        written = self._written
        if written is not None and pod.status.phase:
            ready = condition_of(pod.status.conditions, "Ready")
            ours = next((one["status"] for one in written["conditions"] if one["type"] == "Ready"), None)
            if pod.status.phase != written["phase"] or (ready is not None and ready.status != ours):
                self._written = None
        self._wake.set()

    def tell_again(self) -> None:
        """Write the status once more, whatever was written before."""
        self._written = None
        self._told.set()

    def evict(self, why: str, grace: float) -> None:
        """The pod has to go, and has so many seconds to end by itself."""
        if self._failure is None:
            self._node.event(self.pod, "Warning", EVICTED, why)
            self._failure = Failure(EVICTED, why, grace)
            self._wake.set()

    def refuse(self, why: Refusal) -> None:
        """The node does not take the pod."""
        self._node.event(self.pod, "Warning", why.reason, why.message)
        self._failure = Failure(why.reason, f"Pod was refused by its node: {why.message}")

    @property
    def holds_place(self) -> bool:
        """Whether what the pod asked for is taken: until it is over, or has to end, and nothing of it runs."""
        if any(one.running for one in self.seen.values()):
            return True
        ending = self.gone or self._failure is not None or self.pod.metadata.deletionTimestamp is not None
        return not ending and not is_over(self.pod, self.seen)

    async def stopped(self) -> None:
        """Wait until none of the pod's containers runs."""
        while any(one.running for one in self.seen.values()):
            self._stopped.clear()
            await self._stopped.wait()

    def remove(self) -> None:
        """The pod's object is gone."""
        self.gone = True
        self._wake.set()

    def ended(self, record: Record) -> None:
        """One of the pod's containers has ended."""
        for container in everything(self.pod):
            name, one = container.name, self.seen.get(container.name, NOTHING)
            if one.record is not None and one.record.id == record.id and one.running:
                record = self._with_last_words(record, container)
                self.seen[name] = msgspec.structs.replace(one, record=record, ready=False, started=False, answers={}, ending=None)
                if (task := self._kills.pop(name, None)) is not None:
                    task.cancel()
        self._stopped.set()
        self._wake.set()

    def _with_last_words(self, record: Record, container: Container) -> Record:
        if record.running or record.message:
            return record
        return msgspec.structs.replace(record, message=self._node.sandboxes.last_words(record, container))

    # ---- its life

    async def run(self) -> None:
        """Work until nothing of the pod is left."""
        self._adopt()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            loops = [tasks.create_task(self._tell()), tasks.create_task(self._keep_volumes())]
            while not self._finished:
                self._wake.clear()
                now = time.time()
                self._deadline(now)
                if self._ending_since is None and (self.gone or self.pod.metadata.deletionTimestamp is not None or self._failure is not None):
                    self._ending_since = now
                if self._ending_since is None:
                    self.pod = self._resizing.change(self.pod, self.seen, self._node, self.kill, now)
                plan = decide(
                    self.pod,
                    sandbox=self.sandbox is not None,
                    seen=self.seen,
                    failure=self._failure,
                    gone=self.gone,
                    ending_since=self._ending_since,
                    now=now,
                )
                progressed = False
                for step in plan.steps:
                    progressed = await self._perform(step) or progressed
                self._renew_status(time.time())
                if not progressed and not self._finished:
                    await self._sleep(plan.look_again)
            self._probing.end()
            for task in (*loops, *self._kills.values()):
                task.cancel()

    async def _sleep(self, until: float | None) -> None:
        moments = [moment for moment in (until, self._deadline_at(), self._resizing.retry_at) if moment is not None]
        timeout = max(0.0, min(moments) - time.time()) if moments else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    def _deadline_at(self) -> float | None:
        seconds, start = self.pod.spec.activeDeadlineSeconds, parse_time(self.pod.status.startTime)
        return start.timestamp() + seconds if seconds is not None and start is not None and self._failure is None else None

    def _deadline(self, now: float) -> None:
        moment = self._deadline_at()
        if moment is not None and now >= moment and self.pod.status.phase not in ("Succeeded", "Failed"):
            self._failure = Failure("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")

    def _adopt(self) -> None:
        """Find again what an earlier agent has left: the sandbox, the containers, what was told of those that are no more."""
        self._kills, self._written = {}, None
        node, status = self._node, self.pod.status
        if status.phase == "Failed" and status.reason:
            self._failure = Failure(status.reason, status.message)
        sandbox = node.sandboxes.load(self.pod.metadata.uid)
        if sandbox is not None and node.sandboxes.stands(sandbox):
            self.sandbox = sandbox
        self._probing = Probing(self, node)
        answering = self._probing.adopt()
        told = {one.name: one for one in [*(status.initContainerStatuses or ()), *(status.containerStatuses or ()), *(status.ephemeralContainerStatuses or ())]}
        found: dict[str, list[Record]] = {}
        for record in node.runtime.records():
            if record.pod == self.pod.metadata.uid:
                found.setdefault(record.labels["container"], []).append(record)
        for container in everything(self.pod):
            records = sorted(found.get(container.name, ()), key=lambda record: int(record.labels["attempt"]))
            before = told.get(container.name)
            if not records:
                self.seen[container.name] = told_before(self.pod, before)
                continue
            newest = self._with_last_words(node.limiter.judged(records[-1]), container)
            same = before is not None and before.containerID == SCHEME + newest.id
            self.seen[container.name] = Seen(
                record=newest,
                last=records[-2] if len(records) > 1 else None,
                attempt=int(newest.labels["attempt"]),
                started=newest.running and (container.startupProbe is None or bool(same and before and before.started)),
                ready=newest.running and (container.readinessProbe is None or bool(same and before and before.ready)),
                answers=dict.fromkeys(answering, True) if same else {},
            )

    # ---- doing

    async def _perform(self, step: Step) -> bool:
        """Do one step; whether it is worth looking again at once."""
        match step:
            case MakeSandbox():
                return await self._make_sandbox()
            case Start(container, attempt):
                return await self._start(container, attempt)
            case Kill(container, grace, message):
                self.kill(container, grace, message)
                return False
            case RemoveSandbox():
                return await self._remove_sandbox()
            case Finish():
                return await self._finish()

    async def _make_sandbox(self) -> bool:
        node, pod = self._node, self.pod
        node.maker.read_ahead(pod)
        try:
            host_ips = tuple(map(parse_address, node.host_ips()))
            self.sandbox = await node.sandboxes.make(pod, host_name=node.node_name, host_ips=host_ips)
            for reason, message in node.sandboxes.dns_problems(pod, host_ips):
                node.event(pod, "Warning", reason, message)
        except SysctlForbidden as error:
            node.event(pod, "Warning", "SysctlForbidden", str(error))
            self._failure = Failure("SysctlForbidden", str(error))
        except (cni.CNIError, HostnameError, KernelError, OSError) as error:
            node.event(pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            await self._pause(RETRY_SECONDS)
            return True
        return True

    async def _pause(self, seconds: float) -> None:
        """Wait before a failed step is tried again, unless the pod changes meanwhile."""
        self._renew_status(time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _start(self, container: Container, attempt: int) -> bool:
        node, pod, sandbox = self._node, self.pod, self.sandbox
        assert sandbox is not None
        now = time.time()
        before = self.seen.get(container.name, NOTHING)
        try:
            brought = node.maker.puller.wants(container)
            if brought and not await self._unless_leaving(node.maker.puller.bring(pod, container)):
                return True
            target = self.seen.get(container.targetContainerName, NOTHING).record
            launch = await node.maker.launch(pod, container, attempt, sandbox, node.host_ips(), target=target)
            if launch.rootfs and not brought:
                node.event(pod, "Normal", "Pulled", f'Container image "{container.image}" is here already', container)
        except (ConfigError, errors.APIError, KernelError, OSError, msgspec.MsgspecError) as error:
            unmounted = isinstance(error, VolumeError)  # concerns the pod: its containers wait as if nothing were
            reason = error.reason if isinstance(error, ImageRefused) else "" if unmounted else "CreateContainerConfigError"
            if (before.waiting, before.message) != (reason, str(error)):
                if (told := ALSO_TOLD.get(reason)) is not None:
                    node.event(pod, "Warning", told, str(error), container)
                if unmounted:
                    node.event(pod, "Warning", "FailedMount", str(error))
                else:
                    node.event(pod, "Warning", "Failed", f"Error: {error}", container)
            retry = RETRY_SECONDS if isinstance(error, errors.ServiceUnavailable) else CONFIG_RETRY_SECONDS
            if unmounted:  # what was applied together with the pod comes soon: as long again as has been waited
                retry = min(CONFIG_RETRY_SECONDS, max(RETRY_SECONDS, time.monotonic() - self._born))
            if isinstance(error, ImageRefused) and error.retry_seconds is not None:
                retry = error.retry_seconds
            self.seen[container.name] = msgspec.structs.replace(before, waiting=reason, message=str(error), retry_at=now + retry)
            return True
        backoff = before.backoff
        if before.record is not None:
            backoff = next_backoff(before.backoff, before.record.finished_at, now, node.longest_backoff)
        try:
            record = await node.runtime.start(launch, netns=sandbox.netns or None)
            record = self._with_last_words(node.limiter.judged(record), container)  # it may have ended already
        except (ContainerError, KernelError) as error:
            if isinstance(error, KernelError) or not error.errno:
                log.warning("A container cannot be started at the moment", extra={"pod": self._key, "container": container.name, "error": str(error)})
                await self._pause(RETRY_SECONDS)  # the runtime itself is not there at the moment
                return True
            record = Record(
                id=launch.id, pod=launch.pod, labels=launch.labels, running=False, started_at=now, finished_at=now, exit_code=128,
                reason="StartError", message=str(error),
            )  # fmt: skip
            node.event(pod, "Warning", "Failed", f"Error: failed to start container {container.name!r}: {error}", container)
        else:
            node.event(pod, "Normal", "Created", f"Container created: {container.name}", container)
            node.event(pod, "Normal", "Started", f"Container started: {container.name}", container)
        self.seen[container.name] = Seen(
            record=record,
            last=before.record,
            attempt=attempt,
            backoff=backoff,
            started=record.running and container.startupProbe is None and not hooks.hook_of(container, "postStart"),
            ready=record.running and container.readinessProbe is None,
        )
        if record.running and (hook := hooks.hook_of(container, "postStart")):
            await self._post_start(hook, container, record)
        node.sandboxes.drop_log(pod.metadata.uid, container.name, attempt - KEPT_ATTEMPTS)
        if before.last is not None and not before.last.reason:
            with contextlib.suppress(ContainerError):  # it is forgotten with the pod at the latest
                await node.runtime.remove(before.last.id)
                await node.limiter.remove(pod.metadata.uid, before.last.id)
        return True

    async def _post_start(self, hook: Mapping[str, Any], container: Container, record: Record) -> None:
        """Run the hook before anything else is started; a container whose hook fails is ended."""
        address = next(iter(self.addresses()), "")
        node = self._node
        hooked = hooks.run(hook, container, record, runtime=node.runtime, prober=node.prober, address=address, seconds=LONGEST_HOOK_SECONDS)
        running = asyncio.ensure_future(hooked)
        if not await self._unless_leaving(running, lambda: not self.seen[container.name].running):
            return
        if problem := running.result():
            node.event(self.pod, "Warning", "FailedPostStartHook", f"PostStartHook failed: {problem}", container)
            self.kill(container, grace_of(self.pod), "FailedPostStartHook")
        else:
            one = self.seen[container.name]
            self.seen[container.name] = msgspec.structs.replace(one, started=one.running and container.startupProbe is None)

    async def _unless_leaving(self, work: Awaitable[object], over: Callable[[], bool] = lambda: False) -> bool:
        """Wait for work of which much may be; False when it was given up, because the pod leaves or it is *over* for another reason."""
        running = asyncio.ensure_future(work)
        running.add_done_callback(lambda done: done.cancelled() or done.exception())  # of work that was given up, nobody asks
        try:
            while not running.done():
                self._renew_status(time.time())
                self._wake.clear()
                waking = asyncio.ensure_future(self._wake.wait())
                await asyncio.wait([running, waking], return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                if over() or self.gone or self.pod.metadata.deletionTimestamp is not None or self._failure is not None:
                    return False
        finally:
            running.cancel()
            self._wake.set()
        running.result()
        return True

    def kill(self, container: Container, grace: float, message: str) -> None:
        """Begin to end a container; it is started again if the pod's policy says so."""
        one = self.seen[container.name]
        if one.record is None or not one.running:
            return
        again = one.ending is not None
        if not again:
            self._node.event(self.pod, "Normal", "Killing", f"Stopping container {container.name}: {message}", container)
        if (task := self._kills.pop(container.name, None)) is not None:
            task.cancel()
        self.seen[container.name] = msgspec.structs.replace(one, ending=grace)
        self._kills[container.name] = self._tasks.create_task(self._end(container, one.record, grace, hook=not again))

    async def _end(self, container: Container, record: Record, grace: float, *, hook: bool) -> None:
        """End one container: its preStop hook and SIGTERM within the grace, then SIGKILL."""
        runtime = self._node.runtime
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        if hook and grace > 0:
            await self._pre_stop(container, record, grace)
        try:
            if grace > 0:
                await runtime.signal(record.id, int(record.labels.get(STOP, SIGTERM)))
                await asyncio.sleep(max(2.0 if hook and hooks.hook_of(container, "preStop") else 0.0, deadline - loop.time()))
            while any(one.record is not None and one.record.id == record.id and one.running for one in self.seen.values()):
                await runtime.signal(record.id, SIGKILL)
                await asyncio.sleep(5)
        except ContainerError as error:
            log.warning("A container could not be signalled", extra={"container": record.id, "error": str(error)})
            one = self.seen[container.name]
            self.seen[container.name] = msgspec.structs.replace(one, ending=None)
            await asyncio.sleep(RETRY_SECONDS)
            self._wake.set()

    async def _pre_stop(self, container: Container, record: Record, grace: float) -> None:
        node, address = self._node, next(iter(self.addresses()), "")
        if hook := hooks.hook_of(container, "preStop"):
            problem = await hooks.run(hook, container, record, runtime=node.runtime, prober=node.prober, address=address, seconds=grace)
            if problem:
                node.event(self.pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {problem}", container)

    async def _keep_volumes(self) -> None:
        """Bring what the API fills up to date now and then, and end a pod whose emptyDir has grown too large."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._node.maker.refresh_in(self.pod)):
                    await self._refreshes.wait()
            self._refreshes.clear()
            if self.sandbox is not None and any(one.running for one in self.seen.values()):
                await self._node.maker.refresh(self.pod, self.sandbox, self._node.host_ips())
                if self._failure is None and (problem := await self._node.maker.over_limit(self.pod)):
                    self.evict(problem, 0.0)

    def addresses(self) -> tuple[str, ...]:
        """The pod's addresses, the first one first: the node's own for a pod in the node's network."""
        return self.sandbox.addresses if self.sandbox and self.sandbox.addresses else tuple(self._node.host_ips())

    async def _remove_sandbox(self) -> bool:
        node, sandbox = self._node, self.sandbox
        assert sandbox is not None
        try:
            await node.sandboxes.remove(sandbox)
            await node.runtime.forget(sandbox.uid)
        except (cni.CNIError, KernelError, ContainerError, OSError) as error:
            node.event(self.pod, "Warning", "FailedKillPod", f"error killing pod: {error}")
            await self._pause(RETRY_SECONDS)
            return True
        self.sandbox = None
        return True

    async def _finish(self) -> bool:
        """Tell the last status, let the object go, and remove what is left on the node."""
        node, uid = self._node, self.pod.metadata.uid
        if (half_made := node.sandboxes.load(uid)) is not None:  # an earlier agent has died while it made this one
            self.sandbox = half_made
            return await self._remove_sandbox()
        if not self.gone:
            self._renew_status(time.time())
            try:
                await self._write_status()
                await node.delete(self._key, uid)
            except (errors.NotFound, errors.Conflict):
                pass  # gone, or another pod of this name by now
            except errors.APIError as error:
                log.info("A pod's object could not be deleted yet", extra={"pod": self._key, "error": error.message})
                await self._pause(RETRY_SECONDS)
                return True
        await clean_up(node, uid)
        self._finished = True
        return True

    # ---- telling

    def _renew_status(self, now: float) -> None:
        self._probing.watch(self._tasks)
        sandbox, before = self.sandbox, self._status
        self._status = status_of(
            self.pod,
            seen=self.seen,
            sandbox=sandbox is not None,
            pod_ips=sandbox.addresses if sandbox else (),
            host_ips=self._node.host_ips(),
            failure=self._failure,
            resize=self._resizing.told,
            before=before,
            now=now,
        )
        if self.on_running is not None and self._status["phase"] == "Running":
            self.on_running(time.monotonic() - self._born)
            self.on_running = None
        self._probing.compare_families()
        self._compare_host_ips()
        for name, message in newly_backing_off(before, self._status):
            container = next(one for one in everything(self.pod) if one.name == name)
            self._node.event(self.pod, "Warning", "BackOff", message, container)
        if self._status != self._written:
            self._told.set()

    def _compare_host_ips(self) -> None:
        """Tell once when the node's first address is of another family than the one that was told before."""
        before, now = self.pod.status.hostIP, self._node.host_ips()
        if not before or not now or self._mismatch == (before, now[0]):
            return
        if Family.of(parse_address(before)) is not Family.of(parse_address(now[0])):
            self._mismatch = (before, now[0])
            text = f"The pod's status has hostIP {before}, and the node's first address is {now[0]}, of the other family"
            self._node.event(self.pod, "Warning", "HostIPsIPFamilyMismatch", text)

    async def _tell(self) -> None:
        """Write the status whenever it has changed; a pod that is only just being made waits a moment."""
        while True:
            await self._told.wait()
            if self._written is None and self._status is not None and self._is_young(self._status):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HOLD_SECONDS):
                        while self._is_young(self._status):
                            self._told.clear()
                            await self._told.wait()
            self._told.clear()
            try:
                await self._write_status()
            except errors.NotFound:
                continue  # the informer will say so
            except errors.APIError as error:
                log.info("A pod's status could not be written yet", extra={"pod": self._key, "error": error.message})
                await asyncio.sleep(RETRY_SECONDS)
                self._told.set()

    @staticmethod
    def _is_young(status: Document) -> bool:
        states = [one["state"] for one in [*status["containerStatuses"], *status.get("initContainerStatuses", ())]]
        return status["phase"] == "Pending" and all(state.get("waiting", {}).get("reason") in ("ContainerCreating", "PodInitializing") for state in states)

    async def _write_status(self) -> None:
        status = self._status
        if status is None or status == self._written or self.gone:
            return
        sent = dict(status)
        for field in ("podIPs", "hostIPs"):
            if field in sent:
                sent[field] = [{"$patch": "replace"}, *sent[field]]
        there, said = ({one.type for one in self.pod.status.conditions or ()}, {one["type"] for one in status["conditions"]})
        over = [{"$patch": "delete", "type": type_} for type_ in (PENDING, IN_PROGRESS) if type_ in there - said]
        sent["conditions"] = [*over, *status["conditions"]]
        await self._node.patch_status(self._key, {"metadata": {"uid": self.pod.metadata.uid}, "status": sent})
        self._written = status
