"""The probes of one pod: begun and ended with its containers, and heard.

Rule of this file: no asking (``probes``) and no judging (``families``); findings go into ``Seen`` and wake the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from twinstack.agent import families, probes
from twinstack.agent.containers.base import Record
from twinstack.agent.making import probed
from twinstack.agent.pods import NOTHING, Seen, grace_of
from twinstack.agent.probes import Prober
from twinstack.api.kinds import Container, Pod, Probe, condition_of
from twinstack.net.family import Family
from twinstack.rules.readiness import condition_type

Begin = Callable[[], "asyncio.Task[None]"]


class Probed(Protocol):
    """Whose containers are probed."""

    pod: Pod
    seen: dict[str, Seen]

    def addresses(self) -> tuple[str, ...]:
        """The pod's addresses, the first one first."""

    def kill(self, container: Container, grace: float, message: str) -> None:
        """Begin to end a container."""

    def wake(self) -> None:
        """A finding has changed something."""


class Surroundings(Protocol):
    """What probing needs of its node."""

    prober: Prober

    def event(self, pod: Pod, type_: str, reason: str, message: str, container: Container | None = None) -> None:
        """Tell people about a pod."""


class Probing:
    """Probes the containers of one pod."""

    def __init__(self, whose: Probed, node: Surroundings) -> None:
        self._whose, self._node = whose, node
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._dead: frozenset[Family] = frozenset()  # the families of which we have told that they do not answer
        self._said: dict[Family, str] = {}  # what a family's probe has complained of last

    def adopt(self) -> frozenset[Family]:
        """Know what an earlier agent has told of the families; those that answered."""
        conditions, found = self._whose.pod.status.conditions, {}
        for family in families.families_of(self._whose.addresses()):
            if (condition := condition_of(conditions, condition_type(family))) is not None:
                found[family] = condition.status == "True"
        answering = frozenset(family for family, answers in found.items() if answers)
        self._dead = frozenset(found) - answering if answering else frozenset()
        return answering

    def end(self) -> None:
        """Probe no more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def watch(self, tasks: asyncio.TaskGroup) -> None:
        """Begin and end probing as containers begin, pass their startup, and end."""
        wanted: dict[str, Begin] = {}
        spec = self._whose.pod.spec
        for container, init in (*((one, True) for one in spec.initContainers or ()), *((one, False) for one in spec.containers)):
            one = self._whose.seen.get(container.name, NOTHING)
            if not one.running or one.record is None or not probed(container, init=init):
                continue
            kinds: Sequence[tuple[str, Probe | None]] = [("liveness", container.livenessProbe), ("readiness", container.readinessProbe)]
            if one.ending is not None:  # it may serve until its end, and says so
                kinds = [("readiness", container.readinessProbe)] if one.started else []
            elif not one.started:
                kinds = [("startup", container.startupProbe)]
            for kind, probe in kinds:
                if probe is not None:
                    for family, address in self._asked_at(kind, probe).items():
                        wanted[f"{one.record.id}/{kind}/{family}"] = self._begin(tasks, container, one.record, kind, probe, family, address)
        for name in [name for name in self._tasks if name not in wanted]:
            self._tasks.pop(name).cancel()
        for name, begin in wanted.items():
            if name not in self._tasks:
                self._tasks[name] = begin()

    def _asked_at(self, kind: str, probe: Probe) -> dict[Family, str]:
        """Where a probe is made: at the first address of the pod, and readiness over the network at the other one too."""
        found = families.families_of(self._whose.addresses()) or {Family.IPV4: ""}
        return found if kind == "readiness" and families.is_asked_by_family(probe) else dict([next(iter(found.items()))])

    def _begin(self, tasks: asyncio.TaskGroup, container: Container, record: Record, kind: str, probe: Probe, family: Family, address: str) -> Begin:
        first = next(iter(families.families_of(self._whose.addresses())), family)

        async def ask(one: Probe) -> probes.Result:
            return await self._node.prober.ask(one, container, identifier=record.id, address=address)

        def tell(count: probes.Count, result: probes.Result) -> None:
            if kind == "readiness" and families.is_asked_by_family(probe):
                self._found_in_family(container, record, family, count, result)
            if family is first:
                self._found(container, record, kind, probe, count, result)

        one = self._whose.seen[container.name]
        initially = kind == "liveness" if kind != "readiness" else one.ready if family is first else one.answers.get(family, False)
        until = True if kind == "startup" else None
        return lambda: tasks.create_task(probes.watch(probe, ask, tell, initially=initially, eager=kind != "liveness", until=until))

    def _current(self, container: Container, record: Record) -> Seen | None:
        """What stands of the container, if it is the probed one still."""
        one = self._whose.seen[container.name]
        return one if one.record is not None and one.record.id == record.id and one.running else None

    def _found_in_family(self, container: Container, record: Record, family: Family, count: probes.Count, result: probes.Result) -> None:
        if (one := self._current(container, record)) is None:
            return
        if not result.ok:
            self._said[family] = f"{family} readiness probe of container {container.name} failed: {result.message}"
        if one.answers.get(family) is not count.value:
            self._whose.seen[container.name] = msgspec.structs.replace(one, answers={**one.answers, family: count.value})
            self._whose.wake()

    def _found(self, container: Container, record: Record, kind: str, probe: Probe, count: probes.Count, result: probes.Result) -> None:
        pod = self._whose.pod
        if (one := self._current(container, record)) is None:
            return
        if not result.ok:
            self._node.event(pod, "Warning", "Unhealthy", f"{kind.capitalize()} probe failed: {result.message}", container)
        if kind == "readiness":
            if one.ready == count.value:
                return
            self._whose.seen[container.name] = msgspec.structs.replace(one, ready=count.value)
        elif kind == "startup" and result.ok and count.value:
            self._whose.seen[container.name] = msgspec.structs.replace(one, started=True)
        elif not result.ok and one.ending is None and count.run >= max(1, probe.failureThreshold):
            grace = grace_of(pod) if probe.terminationGracePeriodSeconds is None else float(probe.terminationGracePeriodSeconds)
            self._whose.kill(container, grace, f"it failed its {kind} probe, and is restarted if its policy says so")
        else:
            return
        self._whose.wake()

    def compare_families(self) -> None:
        """Tell when the families of the pod begin to disagree about its readiness, and when they agree again."""
        pod, addresses = self._whose.pod, self._whose.addresses()
        dead = families.dead_families(pod, self._whose.seen, addresses)
        if dead is None or dead == self._dead:
            return
        self._dead = dead
        if not dead:
            self._node.event(pod, "Normal", "FamiliesAgree", "Readiness is the same over each of the pod's addresses again")
            return
        alive = frozenset(families.families_of(addresses)) - dead
        why = "; ".join(self._said[family] for family in sorted(dead, key=str) if family in self._said)
        text = f"Ready over {families.names_of(alive)}, but not over {families.names_of(dead)}" + (f": {why}" if why else "")
        self._node.event(pod, "Warning", "FamiliesDisagree", text)
