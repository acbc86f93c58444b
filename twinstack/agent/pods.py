"""What is to be done for a pod, decided from what it asks for and what stands.

Rule of this file: a pure state machine. :func:`decide` looks at the pod's document, at its sandbox and at its
containers, and returns the steps that are possible now and the moment when to look again; ``workers`` performs
them and calls again when anything has changed. Deciding twice without a change in between gives the same steps,
so nothing is lost when the agent dies between two of them.

Theory. A pod's life is a line: sandbox, init containers one after the other, containers all together, the end.
What moves it back is an end of a container that its restart policy undoes (after a back-off of 10 s that doubles
up to 5 minutes and is forgotten after 10 quiet minutes); what ends it is a deletion, a deadline, a refusal, or
that all containers have ended for good. An init container that is always restarted runs beside the others (a
sidecar, KEP-753): it counts as passed once it has started, and is ended last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from twinstack.agent.containers.base import Record
from twinstack.api.kinds import Container, Pod
from twinstack.net.family import Family

FIRST_BACKOFF_SECONDS, LAST_BACKOFF_SECONDS = 10.0, 300.0
QUIET_SECONDS = 600.0
DEFAULT_GRACE_SECONDS = 30
LEAST_GRACE_SECONDS = 2.0  # of a sidecar whose pod has spent its grace before it
FORCED_GRACE_SECONDS = 1.0  # of a pod whose object was deleted without waiting for its node


class Backoff(NamedTuple):
    """How long a container that has ended again must wait, and when that was last raised."""

    seconds: float
    updated: float


def is_quiet(backoff: Backoff | None, ended: float) -> bool:
    """Whether an end begins the count anew."""
    return backoff is None or ended - backoff.updated > QUIET_SECONDS


def restart_at(backoff: Backoff | None, ended: float) -> float:
    """When a container that ended then may be started again; the first restart does not wait."""
    return ended if backoff is None or is_quiet(backoff, ended) else ended + backoff.seconds


def next_backoff(backoff: Backoff | None, ended: float, now: float, longest: float = LAST_BACKOFF_SECONDS) -> Backoff:
    """The back-off after a restart."""
    if backoff is None or is_quiet(backoff, ended):
        return Backoff(min(longest, FIRST_BACKOFF_SECONDS), now)
    return Backoff(min(longest, backoff.seconds * 2), now)


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What stands of one container. ``record`` is of its newest attempt, ``last`` of the one before."""

    record: Record | None = None
    last: Record | None = None
    attempt: int = -1
    backoff: Backoff | None = None
    waiting: str = ""  # the reason why it could not be made
    message: str = ""
    retry_at: float = 0.0
    started: bool = False  # its startup probe has passed, or it has none
    ready: bool = False
    answers: Mapping[Family, bool] = {}  # what its readiness probe has found at the pod's address of each family, where that counts
    ending: float | None = None  # the grace, in seconds, of the end that is under way

    @property
    def running(self) -> bool:
        return self.record is not None and self.record.running

    @property
    def serving(self) -> bool:
        """Whether it is ready, as its status tells it."""
        return self.running and self.started and self.ready

    @property
    def ended(self) -> bool:
        return self.record is not None and not self.record.running

    @property
    def succeeded(self) -> bool:
        return self.record is not None and self.ended and self.record.exit_code == 0


NOTHING = Seen()


class Failure(NamedTuple):
    """Why a pod as a whole has failed, whatever its containers do."""

    reason: str
    message: str
    grace_seconds: float | None = None  # how long its containers have to end at most; None: as long as the pod says


class MakeSandbox(NamedTuple):
    """Make the pod's network namespace, addresses and files."""


class Start(NamedTuple):
    """Start a container for the n-th time, counted from 0."""

    container: Container
    attempt: int


class Kill(NamedTuple):
    """End a container, with so many seconds to do it by itself."""

    container: Container
    grace_seconds: float
    message: str


class RemoveSandbox(NamedTuple):
    """Give the pod's addresses and namespace back."""


class Finish(NamedTuple):
    """Nothing of the pod stands any more: say so, and let its object go."""


Step = MakeSandbox | Start | Kill | RemoveSandbox | Finish


class Plan(NamedTuple):
    """The steps that are possible now, and the moment (seconds of the wall clock) when to look again."""

    steps: tuple[Step, ...] = ()
    look_again: float | None = None


def is_sidecar(container: Container) -> bool:
    """Whether an init container runs beside the others."""
    return container.restartPolicy == "Always"


def restarts(container: Container, record: Record, policy: str) -> bool:
    """Whether a container that has ended is started again: by its rules, else by its own policy, else by its pod's."""
    if container.restartPolicy is not None:
        if any(_matches(rule, record.exit_code) for rule in container.restartPolicyRules or ()):
            return True
        policy = container.restartPolicy
    return policy == "Always" or (policy == "OnFailure" and record.exit_code != 0)


def _matches(rule: Mapping[str, Any], exit_code: int) -> bool:
    """Whether a rule (KEP-5307) says that a container with this exit code is started again."""
    codes = rule.get("exitCodes") or {}
    among = exit_code in (codes.get("values") or ())
    return rule.get("action") == "Restart" and (among if codes.get("operator") == "In" else not among if codes.get("operator") == "NotIn" else False)


def everything(pod: Pod) -> Iterator[Container]:
    """All containers, init containers first, those last that were added to look into the pod (ephemeral ones)."""
    yield from pod.spec.initContainers or ()
    yield from pod.spec.containers
    yield from pod.spec.ephemeralContainers or ()


def is_initialized(pod: Pod, seen: Mapping[str, Seen]) -> bool:
    """Whether every init container has done its part."""
    if any(seen.get(container.name, NOTHING).attempt >= 0 for container in pod.spec.containers):
        return True
    return all(_passed(container, seen.get(container.name, NOTHING)) for container in pod.spec.initContainers or ())


def _passed(container: Container, one: Seen) -> bool:
    return one.succeeded if not is_sidecar(container) else one.running and one.started


def failed_init(pod: Pod, seen: Mapping[str, Seen]) -> Container | None:
    """The init container whose end has ended the pod."""
    for container in pod.spec.initContainers or ():
        record = seen.get(container.name, NOTHING).record
        if record and not record.running and record.exit_code != 0 and not restarts(container, record, pod.spec.restartPolicy):
            return container
    return None


def is_over(pod: Pod, seen: Mapping[str, Seen]) -> bool:
    """Whether all containers have ended for good."""
    if pod.status.phase in ("Succeeded", "Failed") or failed_init(pod, seen) is not None:
        return True
    for container in pod.spec.containers:
        record = seen.get(container.name, NOTHING).record
        if record is None or record.running or restarts(container, record, pod.spec.restartPolicy):
            return False
    return bool(pod.spec.containers)


def grace_of(pod: Pod) -> float:
    """How many seconds a container of this pod has to end by itself."""
    if pod.metadata.deletionGracePeriodSeconds is not None:
        return float(pod.metadata.deletionGracePeriodSeconds)
    grace = pod.spec.terminationGracePeriodSeconds
    return float(DEFAULT_GRACE_SECONDS if grace is None else grace)


def decide(
    pod: Pod, *, sandbox: bool, seen: Mapping[str, Seen], failure: Failure | None, gone: bool = False, ending_since: float | None = None, now: float
) -> Plan:
    """The next steps.

    ``sandbox``: whether it stands; ``gone``: the object has been deleted without waiting for us; ``ending_since``: when the
    pod's end began, None if it has not, or if its containers have ended by themselves.
    """
    deleted = gone or pod.metadata.deletionTimestamp is not None
    if deleted or failure is not None or is_over(pod, seen):
        why = "the pod is being deleted" if deleted else failure.message if failure else "the pod is over"
        grace = min(FORCED_GRACE_SECONDS, grace_of(pod)) if gone else grace_of(pod)
        if failure is not None and failure.grace_seconds is not None:
            grace = min(failure.grace_seconds, grace)
        spent = 0.0 if ending_since is None else now - ending_since
        return _end(pod, sandbox=sandbox, seen=seen, deleted=deleted, grace=grace, spent=spent, why=why)
    if not sandbox:
        # containers that an earlier sandbox has left cannot move into the new one
        stray = [container for container in everything(pod) if seen.get(container.name, NOTHING).running]
        if stray:
            kills = (Kill(container, grace_of(pod), "its sandbox is gone") for container in stray if seen[container.name].ending is None)
            return Plan(tuple(kills))
        return Plan((MakeSandbox(),))
    return _begin(pod, seen, now)


def _end(pod: Pod, *, sandbox: bool, seen: Mapping[str, Seen], deleted: bool, grace: float, spent: float, why: str) -> Plan:
    """First the containers, all together; then the sidecars, the last one first, in what is left of the grace."""
    sidecars = [container for container in pod.spec.initContainers or () if is_sidecar(container)]
    others = [container for container in everything(pod) if container not in sidecars]
    left = max(min(LEAST_GRACE_SECONDS, grace), grace - spent)
    for group, seconds in ((others, grace), *(([sidecar], left) for sidecar in reversed(sidecars))):
        running = [container for container in group if seen.get(container.name, NOTHING).running]
        if running:
            return Plan(tuple(Kill(container, seconds, why) for container in running if _is_sooner(grace, seen[container.name].ending)))
    if sandbox:
        return Plan((RemoveSandbox(),))
    return Plan((Finish(),) if deleted else ())


def _is_sooner(grace: float, ending: float | None) -> bool:
    return ending is None or grace < ending


def _begin(pod: Pod, seen: Mapping[str, Seen], now: float) -> Plan:
    steps: list[Step] = []
    moments: list[float] = []

    def start(container: Container, one: Seen) -> None:
        moment = one.retry_at
        if one.record is not None:
            moment = max(moment, restart_at(one.backoff, one.record.finished_at))
        if moment > now:
            moments.append(moment)
        else:
            steps.append(Start(container, one.attempt + 1))

    for container in pod.spec.ephemeralContainers or ():  # once, whatever the others do
        if (one := seen.get(container.name, NOTHING)).record is None:
            start(container, one)
    initialized = is_initialized(pod, seen)
    for container in pod.spec.initContainers or ():
        one = seen.get(container.name, NOTHING)
        if initialized and not is_sidecar(container):
            continue
        if one.record is None or (one.ended and not one.succeeded and not initialized) or (one.ended and is_sidecar(container)):
            start(container, one)
        if not initialized and not _passed(container, one):
            return Plan(tuple(steps), min(moments, default=None))
    for container in pod.spec.containers:
        one = seen.get(container.name, NOTHING)
        if one.record is None or (one.ended and restarts(container, one.record, pod.spec.restartPolicy)):
            start(container, one)
    return Plan(tuple(steps), min(moments, default=None))
