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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from twinstack.agent import families, probes
from twinstack.agent.containers.base import ContainerError, Record, Runtime
from twinstack.agent.environment import ConfigError
from twinstack.agent.making import ImageRefused, Maker, probed
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
    next_backoff,
)  # fmt: skip
from twinstack.agent.probes import Prober
from twinstack.agent.sandboxes import Sandbox, Sandboxes
from twinstack.agent.status import SCHEME, newly_backing_off, status_of, told_before
from twinstack.api import cni, errors
from twinstack.api.kinds import Container, Pod, Probe, condition_of
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time
from twinstack.kernel.errors import KernelError
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family
from twinstack.rules.readiness import condition_type

log = logging.getLogger(__name__)
PODS = resource_of(Pod)
HOLD_SECONDS = 0.15  # a pod that is only just being made is told once it runs, or after this
RETRY_SECONDS = 1.0
CONFIG_RETRY_SECONDS = 10.0
KEPT_ATTEMPTS = 2
SIGTERM, SIGKILL = 15, 9


class Surroundings(Protocol):
    """What a worker needs of its node."""

    runtime: Runtime
    sandboxes: Sandboxes
    maker: Maker
    prober: Prober
    node_name: str

    def host_ips(self) -> tuple[str, ...]:
        """The node's own addresses, the primary one first."""

    def event(self, pod: Pod, type_: str, reason: str, message: str, container: Container | None = None) -> None:
        """Tell people about a pod."""

    async def patch_status(self, key: Key, patch: Document) -> None:
        """Write a pod's status."""

    async def delete(self, key: Key, uid: str) -> None:
        """Let a pod's object go."""


class Worker:
    """Keeps one pod true until it is gone."""

    def __init__(self, pod: Pod, node: Surroundings) -> None:
        self.pod = pod
        self.gone = False
        self.seen: dict[str, Seen] = {}
        self.sandbox: Sandbox | None = None
        self._node = node
        self._key = Key(pod.metadata.namespace, pod.metadata.name)
        self._wake, self._told = asyncio.Event(), asyncio.Event()
        self._status: Document | None = None  # as it ought to be told
        self._written: Document | None = None  # as it was told last
        self._failure: Failure | None = None
        self._kills: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._dead: frozenset[Family] = frozenset()  # the families of which we have told that they do not answer
        self._said: dict[Family, str] = {}  # what a family's probe has complained of last
        self._finished = False
        self.on_running: Callable[[float], None] | None = None  # hears once how many seconds passed until the pod ran
        self._born = time.monotonic()
        self._tasks: asyncio.TaskGroup

    # ---- what wakes it

    def update(self, pod: Pod) -> None:
        """The pod's object has changed; what somebody else has written into its status is written over."""
        self.pod = pod
        written = self._written
        if written is not None and pod.status.phase:
            ready = condition_of(pod.status.conditions, "Ready")
            ours = next((one["status"] for one in written["conditions"] if one["type"] == "Ready"), None)
            if pod.status.phase != written["phase"] or (ready is not None and ready.status != ours):
                self._written = None
        self._wake.set()

    def remove(self) -> None:
        """The pod's object is gone."""
        self.gone = True
        self._wake.set()

    def ended(self, record: Record) -> None:
        """One of the pod's containers has ended."""
        for name, one in self.seen.items():
            if one.record is not None and one.record.id == record.id and one.running:
                self.seen[name] = msgspec.structs.replace(one, record=record, ready=False, started=False, answers={}, ending=None)
                if (task := self._kills.pop(name, None)) is not None:
                    task.cancel()
        self._wake.set()

    # ---- its life

    async def run(self) -> None:
        """Work until nothing of the pod is left."""
        self._adopt()
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            teller = tasks.create_task(self._tell())
            while not self._finished:
                self._wake.clear()
                now = time.time()
                self._deadline(now)
                plan = decide(self.pod, sandbox=self.sandbox is not None, seen=self.seen, failure=self._failure, gone=self.gone, now=now)
                progressed = False
                for step in plan.steps:
                    progressed = await self._perform(step) or progressed
                self._renew_status(time.time())
                if not progressed and not self._finished:
                    await self._sleep(plan.look_again)
            for task in (teller, *self._kills.values(), *self._probes.values()):
                task.cancel()

    async def _sleep(self, until: float | None) -> None:
        moments = [moment for moment in (until, self._deadline_at()) if moment is not None]
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
        self._kills, self._probes, self._written = {}, {}, None
        node, status = self._node, self.pod.status
        if status.phase == "Failed" and status.reason:
            self._failure = Failure(status.reason, status.message)
        sandbox = node.sandboxes.load(self.pod.metadata.uid)
        if sandbox is not None and node.sandboxes.stands(sandbox):
            self.sandbox = sandbox
        by_family = {
            family: condition.status == "True"
            for family in families.families_of(self._addresses())
            if (condition := condition_of(status.conditions, condition_type(family))) is not None
        }
        self._dead = frozenset(family for family, answers in by_family.items() if not answers) if any(by_family.values()) else frozenset()
        told = {one.name: one for one in [*(status.initContainerStatuses or ()), *(status.containerStatuses or ())]}
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
            newest = records[-1]
            same = before is not None and before.containerID == SCHEME + newest.id
            self.seen[container.name] = Seen(
                record=newest,
                last=records[-2] if len(records) > 1 else None,
                attempt=int(newest.labels["attempt"]),
                started=newest.running and (container.startupProbe is None or bool(same and before and before.started)),
                ready=newest.running and (container.readinessProbe is None or bool(same and before and before.ready)),
                answers={family: True for family, answers in by_family.items() if answers and same},
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
                self._kill(container, grace, message)
                return False
            case RemoveSandbox():
                return await self._remove_sandbox()
            case Finish():
                return await self._finish()

    async def _make_sandbox(self) -> bool:
        node, pod = self._node, self.pod
        try:
            self.sandbox = await node.sandboxes.make(pod, host_name=node.node_name, host_ips=tuple(map(parse_address, node.host_ips())))
        except (cni.CNIError, KernelError, OSError) as error:
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
            launch = await node.maker.launch(pod, container, attempt, sandbox, node.host_ips())
        except (ConfigError, errors.APIError, OSError, msgspec.MsgspecError) as error:
            reason = "ErrImageNeverPull" if isinstance(error, ImageRefused) else "CreateContainerConfigError"
            if (before.waiting, before.message) != (reason, str(error)):
                node.event(pod, "Warning", "Failed", f"Error: {error}", container)
            retry = RETRY_SECONDS if isinstance(error, errors.ServiceUnavailable) else CONFIG_RETRY_SECONDS
            self.seen[container.name] = msgspec.structs.replace(before, waiting=reason, message=str(error), retry_at=now + retry)
            return True
        backoff = before.backoff
        if before.record is not None:
            backoff = next_backoff(before.backoff, before.record.finished_at, now)
        try:
            record = await node.runtime.start(launch, netns=sandbox.netns or None)
        except (ContainerError, KernelError) as error:
            if isinstance(error, KernelError) or not error.errno:
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
            started=record.running and container.startupProbe is None,
            ready=record.running and container.readinessProbe is None,
        )
        node.sandboxes.drop_log(pod.metadata.uid, container.name, attempt - KEPT_ATTEMPTS)
        if before.last is not None and not before.last.reason:
            with contextlib.suppress(ContainerError):  # it is forgotten with the pod at the latest
                await node.runtime.remove(before.last.id)
        return True

    def _kill(self, container: Container, grace: float, message: str) -> None:
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
                await runtime.signal(record.id, SIGTERM)
                await asyncio.sleep(max(2.0 if hook and (container.lifecycle or {}).get("preStop") else 0.0, deadline - loop.time()))
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
        hook: Mapping[str, Any] = (container.lifecycle or {}).get("preStop") or {}
        if hook.get("sleep"):
            await asyncio.sleep(min(grace, float(hook["sleep"].get("seconds", 0))))
        elif hook.get("exec"):
            try:
                output = await self._node.runtime.execute(record.id, hook["exec"].get("command") or [], timeout_seconds=grace)
                problem = "" if output.exit_code == 0 else output.text.decode(errors="replace")[:256] or f"exit status {output.exit_code}"
            except ContainerError as error:
                problem = str(error)
            if problem:
                self._node.event(self.pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {problem}", container)

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
        self._watch_probes()
        sandbox, before = self.sandbox, self._status
        self._status = status_of(
            self.pod,
            seen=self.seen,
            sandbox=sandbox is not None,
            pod_ips=sandbox.addresses if sandbox else (),
            host_ips=self._node.host_ips(),
            failure=self._failure,
            before=before,
            now=now,
        )
        if self.on_running is not None and self._status["phase"] == "Running":
            self.on_running(time.monotonic() - self._born)
            self.on_running = None
        self._compare_families()
        for name, message in newly_backing_off(before, self._status):
            container = next(one for one in everything(self.pod) if one.name == name)
            self._node.event(self.pod, "Warning", "BackOff", message, container)
        if self._status != self._written:
            self._told.set()

    def _compare_families(self) -> None:
        """Tell when the families of the pod begin to disagree about its readiness, and when they agree again."""
        dead = families.dead_families(self.pod, self.seen, self._addresses())
        if dead is None or dead == self._dead:
            return
        self._dead = dead
        if not dead:
            self._node.event(self.pod, "Normal", "FamiliesAgree", "Readiness is the same over each of the pod's addresses again")
            return
        alive = frozenset(families.families_of(self._addresses())) - dead
        why = "; ".join(self._said[family] for family in sorted(dead, key=str) if family in self._said)
        text = f"Ready over {families.names_of(alive)}, but not over {families.names_of(dead)}" + (f": {why}" if why else "")
        self._node.event(self.pod, "Warning", "FamiliesDisagree", text)

    def _addresses(self) -> tuple[str, ...]:
        """The pod's addresses, the first one first: the node's own for a pod in the node's network."""
        return self.sandbox.addresses if self.sandbox and self.sandbox.addresses else tuple(self._node.host_ips())

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
        await self._node.patch_status(self._key, {"metadata": {"uid": self.pod.metadata.uid}, "status": sent})
        self._written = status

    # ---- probing

    def _watch_probes(self) -> None:
        """Begin and end probing as containers begin, pass their startup, and end."""
        wanted: dict[str, Callable[[], Any]] = {}
        for container, init in self._containers():
            one = self.seen.get(container.name, NOTHING)
            if not one.running or one.record is None or one.ending is not None or not probed(container, init=init):
                continue
            kinds: Sequence[tuple[str, Probe | None]] = (
                [("startup", container.startupProbe)] if not one.started else [("liveness", container.livenessProbe), ("readiness", container.readinessProbe)]
            )
            for kind, probe in kinds:
                if probe is not None:
                    for family, address in self._asked_at(kind, probe).items():
                        wanted[f"{one.record.id}/{kind}/{family}"] = self._probing(container, one.record, kind, probe, family, address)
        for name in [name for name in self._probes if name not in wanted]:
            self._probes.pop(name).cancel()
        for name, start in wanted.items():
            if name not in self._probes:
                self._probes[name] = start()

    def _containers(self) -> list[tuple[Container, bool]]:
        return [*((container, True) for container in self.pod.spec.initContainers or ()), *((container, False) for container in self.pod.spec.containers)]

    def _asked_at(self, kind: str, probe: Probe) -> dict[Family, str]:
        """Where a probe is made: at the first address of the pod, and readiness over the network at the other one too."""
        found = families.families_of(self._addresses()) or {Family.IPV4: ""}
        return found if kind == "readiness" and families.is_asked_by_family(probe) else dict([next(iter(found.items()))])

    def _probing(self, container: Container, record: Record, kind: str, probe: Probe, family: Family, address: str) -> Callable[[], asyncio.Task[None]]:
        first = next(iter(families.families_of(self._addresses())), family)

        async def ask(one: Probe) -> probes.Result:
            return await self._node.prober.ask(one, container, identifier=record.id, address=address)

        def tell(count: probes.Count, result: probes.Result) -> None:
            if kind == "readiness" and families.is_asked_by_family(probe):
                self._found_in_family(container, record, family, count, result)
            if family is first:
                self._found(container, record, kind, probe, count, result)

        one = self.seen[container.name]
        initially = kind == "liveness" if kind != "readiness" else one.ready if family is first else one.answers.get(family, False)
        until = True if kind == "startup" else None
        return lambda: self._tasks.create_task(probes.watch(probe, ask, tell, initially=initially, eager=kind != "liveness", until=until))

    def _found_in_family(self, container: Container, record: Record, family: Family, count: probes.Count, result: probes.Result) -> None:
        one = self.seen[container.name]
        if one.record is None or one.record.id != record.id or not one.running or one.ending is not None:
            return
        if not result.ok:
            self._said[family] = f"{family} readiness probe of container {container.name} failed: {result.message}"
        if one.answers.get(family) is not count.value:
            self.seen[container.name] = msgspec.structs.replace(one, answers={**one.answers, family: count.value})
            self._wake.set()

    def _found(self, container: Container, record: Record, kind: str, probe: Probe, count: probes.Count, result: probes.Result) -> None:
        one = self.seen[container.name]
        if one.record is None or one.record.id != record.id or not one.running or one.ending is not None:
            return
        if not result.ok:
            self._node.event(self.pod, "Warning", "Unhealthy", f"{kind.capitalize()} probe failed: {result.message}", container)
        if kind == "readiness":
            if one.ready == count.value:
                return
            self.seen[container.name] = msgspec.structs.replace(one, ready=count.value)
        elif kind == "startup" and result.ok and count.value:
            self.seen[container.name] = msgspec.structs.replace(one, started=True)
        elif not result.ok and count.run >= max(1, probe.failureThreshold):
            grace = grace_of(self.pod) if probe.terminationGracePeriodSeconds is None else float(probe.terminationGracePeriodSeconds)
            self._kill(container, grace, f"it failed its {kind} probe, and is restarted if its policy says so")
        else:
            return
        self._wake.set()


async def clean_up(node: Surroundings, uid: str) -> None:
    """Forget a pod of which nothing runs any more: its ended containers, what they shared, its directory."""
    for record in node.runtime.records():
        if record.pod == uid:
            with contextlib.suppress(ContainerError):
                await node.runtime.remove(record.id)
    with contextlib.suppress(ContainerError):
        await node.runtime.forget(uid)
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
