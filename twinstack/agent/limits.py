"""What containers may use, kept by control groups: one for each pod, one in it for each container.

A pod that names no amounts of processor or memory (quality of service BestEffort) stands in a group with all of its kind, which
together get the least share of a contended processor; the others stand beside that group, each with the share that
it has asked for. Where control groups cannot be written, pods run without limits, and the agent says so when it starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec

from twinstack.agent.amounts import CPU, MEMORY, NOTHING, Amounts, amounts_of, cpu_quota, cpu_shares, cpu_weight, pod_amounts
from twinstack.agent.containers.base import Record
from twinstack.agent.environment import ConfigError
from twinstack.api.kinds import Container, Pod
from twinstack.kernel.cgroups import Groups, Limits
from twinstack.rules.pods import quality_of
from twinstack.rules.priorities import BUILT_IN

log = logging.getLogger(__name__)
KILLED = 137
BEST_EFFORT = "besteffort"
NODE_CRITICAL = BUILT_IN["system-node-critical"]
LEAST_OOM_SCORE, MOST_OOM_SCORE = -997, 1000
ATTEMPTS, PAUSE_SECONDS = 20, 0.02  # what has just been killed is in its group for a moment


def limits_of(amounts: Amounts, *, pids: int | None = None) -> Limits:
    """A group's limits."""
    memory, quota, request = amounts.limits.get(MEMORY), amounts.limits.get(CPU), amounts.requests.get(CPU, Fraction())
    return Limits(
        memory=int(memory) if memory else None,
        cpu_quota=cpu_quota(quota) if quota else None,
        cpu_shares=cpu_shares(request),
        cpu_weight=cpu_weight(request),
        pids=pids,
    )


def oom_score_of(pod: Pod, container: Container, memory: int) -> int:
    """How soon the kernel ends a container where the whole node lacks memory (``oom_score_adj``); *memory*: bytes that the node has.

    Kubernetes' figures: of pods in between, those first that use the most beyond what they have asked for.
    """
    quality = _quality(pod)
    if quality == "Guaranteed" or (pod.spec.priority or 0) >= NODE_CRITICAL:
        return LEAST_OOM_SCORE
    if quality == "BestEffort":
        return MOST_OOM_SCORE
    asked = int(amounts_of(container).requests.get(MEMORY, Fraction()))
    return min(MOST_OOM_SCORE - 1, max(MOST_OOM_SCORE + LEAST_OOM_SCORE, MOST_OOM_SCORE - MOST_OOM_SCORE * asked // max(1, memory)))


class Limiter:
    """Keeps the groups of a node's pods. *pids*: how many processes a pod may have, None for any number."""

    def __init__(self, groups: Groups, *, pids: int | None = None) -> None:
        self._groups, self._pids = groups, pids
        self._made: dict[str, str] = {}  # uid of a pod → its group
        if groups.problems:
            log.warning("Limits of resources are not all kept", extra={"problems": "; ".join(groups.problems)})

    def join(self, pod: Pod, container: Container, identifier: str) -> list[str]:
        """Make a container's group; the files by which it is joined. ConfigError when the kernel refuses."""
        uid = pod.metadata.uid
        group = self._made[uid] = group_of(pod)
        try:
            if group.startswith(BEST_EFFORT):
                self._groups.make(BEST_EFFORT, limits_of(NOTHING))
            self._groups.make(group, limits_of(pod_amounts(pod), pids=self._pids))
            return self._groups.make(f"{group}/{identifier}", limits_of(amounts_of(container), pids=self._pids))
        except OSError as error:
            raise ConfigError(f'the limits of container "{container.name}" cannot be set: {error.filename}: {error.strerror}') from error

    def change(self, before: Pod, after: Pod, staying: Iterable[tuple[Container, str]], ending: Sequence[tuple[Container, str]]) -> None:
        """Give a pod's running containers (with their ids) other amounts; ConfigError when the kernel refuses.

        No group may be held to less than one that stands in it: so the pod's has the larger of both while its containers' change. Containers that are
        about to end keep their memory, and the pod's group has it until they are started anew.
        """
        group = self._made.get(after.metadata.uid)
        if group is None:  # nothing of it was ever started
            return
        old, new = (limits_of(pod_amounts(pod), pids=self._pids) for pod in (before, after))
        try:
            memory = _looser(old.memory, new.memory)
            self._groups.make(group, new._replace(memory=memory, cpu_quota=_looser(old.cpu_quota, new.cpu_quota)))
            for container, identifier in staying:
                self._groups.make(f"{group}/{identifier}", limits_of(amounts_of(container), pids=self._pids))
            for container, identifier in ending:
                self._groups.make(f"{group}/{identifier}", limits_of(amounts_of(container), pids=self._pids)._replace(memory=None))
            self._groups.make(group, new._replace(memory=memory) if ending else new)
        except OSError as error:
            raise ConfigError(f"the limits cannot be changed: {error.filename}: {error.strerror}") from error

    def judged(self, record: Record) -> Record:
        """A container's end, with its reason if the kernel has ended it because memory was short."""
        if record.running or record.exit_code != KILLED or record.reason or (group := self._made.get(record.pod)) is None:
            return record
        if self._groups.oom_kills(f"{group}/{record.id}") or self._groups.oom_kills(group):
            return msgspec.structs.replace(record, reason="OOMKilled")
        return record

    def adopt(self, uids: Iterable[str]) -> None:
        """Know the groups that an earlier agent has made, and remove those of pods that are no more."""
        known = {_pod(uid): uid for uid in uids}
        listed = {name: name for name in self._groups.listed() - {BEST_EFFORT}} | {name: f"{BEST_EFFORT}/{name}" for name in self._groups.listed(BEST_EFFORT)}
        self._made = {known[name]: group for name, group in listed.items() if name in known}
        for group in [group for name, group in listed.items() if name not in known]:
            if not self._groups.remove(group):
                log.warning("A control group of a pod that is gone is still in use", extra={"group": group})

    async def remove(self, uid: str, identifier: str) -> None:
        """Remove a container's group."""
        if uid in self._made:
            await self._remove(f"{self._made[uid]}/{identifier}")

    async def forget(self, uid: str) -> None:
        """Remove a pod's groups."""
        if uid in self._made:
            await self._remove(self._made[uid])
            self._made.pop(uid, None)

    def close(self) -> None:
        """Leave nothing behind when no pod has a group."""
        if not self._made:
            self._groups.remove(BEST_EFFORT)
        self._groups.close()

    async def _remove(self, path: str) -> None:
        for _ in range(ATTEMPTS):
            if self._groups.remove(path):
                return
            await asyncio.sleep(PAUSE_SECONDS)
        log.warning("A control group is still in use", extra={"group": path})


def _looser(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else max(one, other)


def group_of(pod: Pod) -> str:
    """The group of a pod."""
    return f"{BEST_EFFORT}/{_pod(pod.metadata.uid)}" if _quality(pod) == "BestEffort" else _pod(pod.metadata.uid)


def _quality(pod: Pod) -> str:
    lists = {"containers": pod.spec.containers, "initContainers": pod.spec.initContainers or ()}
    return quality_of({field: [{"resources": one.resources} for one in listed] for field, listed in lists.items()})


def _pod(uid: str) -> str:
    return f"pod{uid}"
