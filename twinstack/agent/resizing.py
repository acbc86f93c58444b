"""What a pod's containers have while their pod asks for more or less (KEP-1287).

Rule of this file: it keeps what was given, asks the node for room, and has the control groups changed; the pod that the rest of the agent
sees has the amounts that were given, and not those that are asked for.

Theory. What was given is told in the containers' statuses, where an agent that begins finds it again. A change that the node will never have room
for is told as Infeasible, one that has to wait for others to go as Deferred, and is tried again. A container that says so is started
anew with its new amounts; all others keep running, and only their control groups change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from twinstack.agent.environment import ConfigError
from twinstack.agent.limits import Limiter
from twinstack.agent.pods import NOTHING, Seen, grace_of
from twinstack.api.kinds import Container, Pod
from twinstack.rules.node_admission import Refusal
from twinstack.rules.resizing import needs_restart, resizable, with_resources

RETRY_SECONDS: Final = 5.0
PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"


class Told(NamedTuple):
    """A condition of a change that is not done."""

    type: str
    reason: str
    message: str


class Room(Protocol):
    """Who knows what a node has."""

    limiter: Limiter

    def shortage(self, pod: Pod, *, alone: bool) -> Refusal | None:
        """What the node has too little of for the pod, beside its other pods, or if it were *alone*."""

    def event(self, pod: Pod, type_: str, reason: str, message: str, container: Container | None = None) -> None:
        """Tell people about a pod."""


class Resizing:
    """The amounts of one pod's containers."""

    def __init__(self) -> None:
        self._has: dict[str, Mapping[str, Any]] = {}
        self._wanted: Pod | None = None
        self.told: Told | None = None
        self.retry_at: float | None = None

    def adopt(self, pod: Pod) -> Pod:
        """Know what an earlier agent has given, and return the pod as it stands."""
        given = [*(pod.status.initContainerStatuses or ()), *(pod.status.containerStatuses or ())]
        self._has = {one.name: one.resources for one in given if one.resources is not None and one.state.running is not None}
        return self.standing(pod)

    def standing(self, pod: Pod) -> Pod:
        """The pod with what its containers have; a container that is seen first has what it asks for."""
        self._wanted = pod
        for container in resizable(pod):
            self._has.setdefault(container.name, container.resources or {})
        return with_resources(pod, self._has)

    def change(self, standing: Pod, seen: Mapping[str, Seen], node: Room, kill: Callable[[Container, float, str], None], now: float) -> Pod:
        """Give what is asked for, where that can be; the pod as it stands then."""
        wanted = self._wanted
        self.retry_at = None
        if wanted is None or with_resources(wanted, self._has) is wanted:
            self.told = None
            return standing
        for alone, reason in ((True, "Infeasible"), (False, "Deferred")):
            if why := node.shortage(wanted, alone=alone):
                self._tell(node, wanted, Told(PENDING, reason, why.message))
                self.retry_at = now + RETRY_SECONDS
                return standing
        changed = [one for one in resizable(wanted) if (one.resources or {}) != self._has[one.name]]
        running = [(one, record.id) for one in changed if (record := seen.get(one.name, NOTHING).record) is not None and record.running]
        ending = [one for one in running if needs_restart(one[0], self._has[one[0].name])]
        try:
            node.limiter.change(standing, wanted, [one for one in running if one not in ending], ending)
        except ConfigError as error:
            self._tell(node, wanted, Told(IN_PROGRESS, "Error", str(error)))
            self.retry_at = now + RETRY_SECONDS
            return standing
        self._has = {one.name: one.resources or {} for one in resizable(wanted)}
        self.told = None
        for container, _ in ending:
            kill(container, grace_of(wanted), "it asks to be started anew with other resources")
        node.event(wanted, "Normal", "ResizeCompleted", f"Resized: {', '.join(one.name for one in changed)}")
        return wanted

    def _tell(self, node: Room, pod: Pod, told: Told) -> None:
        if told != self.told:
            node.event(pod, "Warning", f"Resize{told.reason}", told.message)
        self.told = told
