"""What containers may use, kept by control groups: one for each pod that asks for or is held to something, one in it for each container.

A pod that names no amounts has no group, unless each pod's number of processes is limited. Where control groups cannot
be written, pods run without limits, and the agent says so when it starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from fractions import Fraction

import msgspec

from twinstack.agent.amounts import CPU, MEMORY, Amounts, amounts_of, cpu_quota, cpu_shares, cpu_weight, pod_amounts
from twinstack.agent.containers.base import Record
from twinstack.agent.environment import ConfigError
from twinstack.api.kinds import Container, Pod
from twinstack.kernel.cgroups import Groups, Limits

log = logging.getLogger(__name__)
KILLED = 137
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


class Limiter:
    """Keeps the groups of a node's pods. *pids*: how many processes a pod may have, None for any number."""

    def __init__(self, groups: Groups, *, pids: int | None = None) -> None:
        self._groups, self._pids = groups, pids
        self._made: set[str] = set()  # uids of pods
        if groups.problems:
            log.warning("Limits of resources are not all kept", extra={"problems": "; ".join(groups.problems)})

    def join(self, pod: Pod, container: Container, identifier: str) -> list[str]:
        """Make a container's group; the files by which it is joined. ConfigError when the kernel refuses."""
        amounts = pod_amounts(pod)
        if not amounts.requests and self._pids is None:
            return []
        uid = pod.metadata.uid
        self._made.add(uid)
        try:
            self._groups.make(_pod(uid), limits_of(amounts, pids=self._pids))
            return self._groups.make(_container(uid, identifier), limits_of(amounts_of(container), pids=self._pids))
        except OSError as error:
            raise ConfigError(f'the limits of container "{container.name}" cannot be set: {error.filename}: {error.strerror}') from error

    def judged(self, record: Record) -> Record:
        """A container's end, with its reason if the kernel has ended it because memory was short."""
        if record.running or record.exit_code != KILLED or record.reason or record.pod not in self._made:
            return record
        if self._groups.oom_kills(_container(record.pod, record.id)) or self._groups.oom_kills(_pod(record.pod)):
            return msgspec.structs.replace(record, reason="OOMKilled")
        return record

    def adopt(self, uids: Iterable[str]) -> None:
        """Know the groups that an earlier agent has made, and remove those of pods that are no more."""
        known = {_pod(uid): uid for uid in uids}
        for name in self._groups.listed():
            if name in known:
                self._made.add(known[name])
            elif not self._groups.remove(name):
                log.warning("A control group of a pod that is gone is still in use", extra={"group": name})

    async def remove(self, uid: str, identifier: str) -> None:
        """Remove a container's group."""
        if uid in self._made:
            await self._remove(_container(uid, identifier))

    async def forget(self, uid: str) -> None:
        """Remove a pod's groups."""
        if uid in self._made:
            await self._remove(_pod(uid))
            self._made.discard(uid)

    def close(self) -> None:
        """Leave nothing behind when no pod has a group."""
        self._groups.close()

    async def _remove(self, path: str) -> None:
        for _ in range(ATTEMPTS):
            if self._groups.remove(path):
                return
            await asyncio.sleep(PAUSE_SECONDS)
        log.warning("A control group is still in use", extra={"group": path})


def _pod(uid: str) -> str:
    return f"pod{uid}"


def _container(uid: str, identifier: str) -> str:
    return f"pod{uid}/{identifier}"
