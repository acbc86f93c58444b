"""A pod's status, told from what stands.

Rule of this file: values in, a status document out; what has not changed keeps its moment of transition. Facts:
kubelet 1.36 (phases, conditions, order of addresses: the node's primary family first).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from twinstack.agent import families
from twinstack.agent.containers.base import USER, Record
from twinstack.agent.pods import NOTHING, Failure, Seen, failed_init, is_initialized, is_sidecar, restart_at, restarts
from twinstack.agent.resizing import Told
from twinstack.agent.volumes import is_recursive
from twinstack.api.kinds import Container, ContainerStatus, Pod, condition_of
from twinstack.api.objects import Document
from twinstack.api.times import parse_time, text_of_time
from twinstack.net.cidr import parse_address
from twinstack.net.family import Address, Family

SCHEME = "twinstack://"
EVICTED = "Evicted"


def sorted_addresses(addresses: Iterable[Address], primary: Family) -> tuple[Address, ...]:
    """At most one address of each family, that of the node's primary one first."""
    listed = list(addresses)
    found = (next((address for address in listed if Family.of(address) is family), None) for family in (primary, primary.other))
    return tuple(address for address in found if address is not None)


def host_network_addresses(present: Sequence[str], host: Sequence[str]) -> tuple[str, ...]:
    """The addresses of a pod in the node's network: frozen, but for a second family that the node gains later."""
    if not present:
        return tuple(host)
    if len(present) == 1 and len(host) == 2 and Family.of(parse_address(present[0])) is not Family.of(parse_address(host[1])):
        return (present[0], host[1])
    return tuple(present)


def phase_of(pod: Pod, seen: Mapping[str, Seen], failure: Failure | None) -> str:
    """Pending, Running, Succeeded or Failed."""
    before = pod.status.phase
    if before in ("Succeeded", "Failed"):
        return before
    if failure is not None or failed_init(pod, seen) is not None:
        return "Failed"
    if not is_initialized(pod, seen):
        return "Pending"
    ones = [(container, seen.get(container.name, NOTHING)) for container in pod.spec.containers]
    if any(one.record is None for _, one in ones):
        return "Pending"
    if any(one.running for _, one in ones) or any(one.record and restarts(container, one.record, pod.spec.restartPolicy) for container, one in ones):
        return "Running" if pod.metadata.deletionTimestamp is None or any(one.running for _, one in ones) else _ended(ones)
    return _ended(ones)


def _ended(ones: Sequence[tuple[Container, Seen]]) -> str:
    return "Succeeded" if all(one.succeeded for _, one in ones) else "Failed"


def status_of(
    pod: Pod,
    *,
    seen: Mapping[str, Seen],
    sandbox: bool,
    pod_ips: Sequence[str],
    host_ips: Sequence[str],
    failure: Failure | None,
    resize: Told | None = None,
    before: Document | None = None,
    now: float,
) -> Document:
    """The status document; ``pod_ips`` empty leaves those that were told before. ``before`` is what this returned the last time."""
    phase = phase_of(pod, seen, failure)
    told: Document = {"phase": phase, "startTime": pod.status.startTime or (before or {}).get("startTime") or _text(now)}
    if pod.metadata.generation:
        told["observedGeneration"] = pod.metadata.generation
    if failure is not None:
        told |= {"reason": failure.reason, "message": failure.message}
    if host_ips:
        told |= {"hostIP": host_ips[0], "hostIPs": [{"ip": ip} for ip in host_ips]}
    present = [one.ip for one in pod.status.podIPs or ()] or ([pod.status.podIP] if pod.status.podIP else [])
    addresses = host_network_addresses(present, host_ips) if pod.spec.hostNetwork else (tuple(pod_ips) or tuple(present))
    if addresses and (sandbox or present):
        told |= {"podIP": addresses[0], "podIPs": [{"ip": ip} for ip in addresses]}
    told |= _container_statuses(pod, seen, now) if failure is None or any(one.attempt >= 0 for one in seen.values()) else {"containerStatuses": []}
    earlier = (before or {}).get("conditions", ())
    told["conditions"] = _conditions(pod, seen, phase, addresses, earlier, sandbox=sandbox, now=now)
    if resize is not None:
        told["conditions"].append(_condition(pod, resize.type, True, resize.reason, resize.message, earlier=earlier, now=now))
    if failure is not None and failure.reason == EVICTED:
        told["conditions"].append(_condition(pod, "DisruptionTarget", True, "TerminationByKubelet", failure.message, earlier=earlier, now=now))
    return told


def _container_statuses(pod: Pod, seen: Mapping[str, Seen], now: float) -> Document:
    told = {"containerStatuses": [container_status(pod, container, seen.get(container.name, NOTHING), now=now) for container in pod.spec.containers]}
    if pod.spec.initContainers:
        told["initContainerStatuses"] = [
            container_status(pod, container, seen.get(container.name, NOTHING), now=now, init=True) for container in pod.spec.initContainers
        ]
    if pod.spec.ephemeralContainers:
        told["ephemeralContainerStatuses"] = [
            container_status(pod, container, seen.get(container.name, NOTHING), now=now, once=True) for container in pod.spec.ephemeralContainers
        ]
    return told


def container_status(pod: Pod, container: Container, one: Seen, *, now: float, init: bool = False, once: bool = False) -> Document:
    """One entry of containerStatuses; *init* of an init container, *once* of one that is never started again."""
    record = one.record
    ended = not once and record is not None and not record.running
    restarted = ended and record is not None and (restarts(container, record, pod.spec.restartPolicy) if not init else record.exit_code != 0)
    ending = pod.metadata.deletionTimestamp is not None
    state: Document
    last = one.last
    if one.waiting and not one.running:
        state = {"waiting": {"reason": one.waiting, **({"message": one.message} if one.message else {})}}
        last = record or last
    elif record is None:
        state = {"waiting": {"reason": waiting_reason(pod)}}
    elif record.running:
        state = {"running": {"startedAt": _text(record.started_at)}}
    elif restarted and not ending and restart_at(one.backoff, record.finished_at) > now:
        seconds = one.backoff.seconds if one.backoff else 0
        message = f"back-off {seconds:.0f}s restarting failed container={container.name} pod={pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"
        state, last = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}, record
    else:
        state = {"terminated": _terminated(record)}
    status: Document = {
        "name": container.name,
        "state": state,
        "lastState": {"terminated": _terminated(last)} if last is not None else {},
        "ready": one.serving if not init or is_sidecar(container) else one.succeeded,
        "restartCount": max(0, one.attempt),
        "image": container.image,
        "imageID": record.labels.get("image", "") if record is not None else "",
        "started": one.running and one.started,
    }
    if record is not None:
        status["containerID"] = SCHEME + record.id
        if text := record.labels.get(USER):
            uid, gid, groups = text.split(":")
            status["user"] = {"linux": {"uid": int(uid), "gid": int(gid), "supplementalGroups": list(map(int, groups.split(",")))}}
    if container.resources or record is not None:
        status["resources"] = container.resources or {}
    if container.resources and container.resources.get("requests"):
        status["allocatedResources"] = container.resources["requests"]
    if container.volumeMounts:
        status["volumeMounts"] = [_mounted(one) for one in container.volumeMounts]
    return status


def _mounted(mount: Mapping[str, Any]) -> Document:
    """How a volume is seen in a container; whether what is mounted below it is read-only is told where it is read-only itself."""
    told: Document = {"name": mount["name"], "mountPath": mount["mountPath"]}
    if mount.get("readOnly"):
        told |= {"readOnly": True, "recursiveReadOnly": "Enabled" if is_recursive(mount) else "Disabled"}
    return told


def waiting_reason(pod: Pod) -> str:
    """Why a container waits that has not been started and of which nothing else is known."""
    return "PodInitializing" if pod.spec.initContainers else "ContainerCreating"


def _terminated(record: Record) -> Document:
    reason = record.reason or ("ContainerStatusUnknown" if record.lost else "Completed" if record.exit_code == 0 else "Error")
    told: Document = {"exitCode": record.exit_code, "reason": reason, "startedAt": _text(record.started_at), "finishedAt": _text(record.finished_at)}
    if record.signal:
        told["signal"] = record.signal
    if record.message:
        told["message"] = record.message
    return {**told, "containerID": SCHEME + record.id}


def _text(seconds: float) -> str:
    return text_of_time(datetime.fromtimestamp(seconds, UTC))


def _conditions(
    pod: Pod, seen: Mapping[str, Seen], phase: str, addresses: Sequence[str], earlier: Sequence[Document], *, sandbox: bool, now: float
) -> list[Document]:
    initialized = is_initialized(pod, seen)
    names = [container.name for container in pod.spec.containers]
    unready = [name for name in names if not seen.get(name, NOTHING).serving]
    sidecars = [container.name for container in pod.spec.initContainers or () if is_sidecar(container)]
    unready += [name for name in sidecars if not seen.get(name, NOTHING).serving]
    over = phase in ("Succeeded", "Failed")
    containers: tuple[bool, str, str] = (not unready and not over, "", "")
    if phase == "Succeeded":
        containers = (False, "PodCompleted", "")
    elif phase == "Failed":
        containers = (False, "PodFailed", "")
    elif unready:
        containers = (False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    gates = [str(gate.get("conditionType", "")) for gate in pod.spec.readinessGates or ()]
    missing = [gate for gate in gates if (found := condition_of(pod.status.conditions, gate)) is None or found.status != "True"]
    ready = containers
    if containers[0] and missing:
        ready = (False, "ReadinessGatesNotReady", " ".join(f'the status of pod readiness gate "{gate}" is not "True"' for gate in missing))
    init = [container.name for container in pod.spec.initContainers or () if not seen.get(container.name, NOTHING).succeeded]
    initial: tuple[bool, str, str] = (True, "PodCompleted" if phase == "Succeeded" else "", "")
    if not initialized:
        initial = (False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(init)}]")
    wanted: dict[str, tuple[bool, str, str]] = {
        "PodReadyToStartContainers": (sandbox, "", ""),
        "Initialized": initial,
        "Ready": ready,
        "ContainersReady": containers,
    }
    wanted |= families.conditions(pod, seen, addresses, families.Told(*containers) if over else None)
    if condition_of(pod.status.conditions, "PodScheduled") is None or any(one["type"] == "PodScheduled" for one in earlier):
        wanted["PodScheduled"] = (True, "", "")
    return [_condition(pod, type_, *value, earlier=earlier, now=now) for type_, value in wanted.items()]


def _condition(pod: Pod, type_: str, true: bool, reason: str, message: str, *, earlier: Sequence[Document], now: float) -> Document:
    before = condition_of(pod.status.conditions, type_)
    status = "True" if true else "False"
    since = next((one["lastTransitionTime"] for one in earlier if one["type"] == type_ and one["status"] == status), None)
    if since is None:
        since = before.lastTransitionTime if before is not None and before.status == status and before.lastTransitionTime else _text(now)
    told: Document = {"type": type_, "status": status, "lastTransitionTime": since}
    # an empty text is told only where a merge must take an old one away
    told |= {"reason": reason or None} if reason or (before and before.reason) else {}
    told |= {"message": message or None} if message or (before and before.message) else {}
    return told


def newly_backing_off(before: Document | None, after: Document) -> Iterator[tuple[str, str]]:
    """The containers that have begun to wait before they are started again, and what is to be said of it."""

    def waiting(status: Document | None) -> dict[str, str]:
        listed = [*(status or {}).get("initContainerStatuses", ()), *(status or {}).get("containerStatuses", ())]
        states = {one["name"]: one["state"].get("waiting", {}) for one in listed}
        return {name: state.get("message", "") for name, state in states.items() if state.get("reason") == "CrashLoopBackOff"}

    already = waiting(before)
    for name in waiting(after):
        if name not in already:
            yield name, f"Back-off restarting failed container {name}"


def told_before(pod: Pod, status: ContainerStatus | None) -> Seen:
    """What an earlier agent has told about a container of which nothing stands any more."""
    if status is None or not status.containerID:
        return NOTHING if status is None or not status.restartCount else Seen(attempt=status.restartCount)
    ended, running = status.state.terminated, status.state.running
    common: dict[str, Any] = {"id": status.containerID.removeprefix(SCHEME), "pod": pod.metadata.uid, "labels": {}, "running": False}
    if ended is not None:
        record = Record(
            **common,
            started_at=_seconds(ended.startedAt),
            finished_at=_seconds(ended.finishedAt),
            exit_code=ended.exitCode,
            signal=ended.signal,
            reason=ended.reason,
            message=ended.message,
        )
    elif running is not None:
        message = "how the container ended is not known, for nobody watched it"
        record = Record(**common, started_at=_seconds(running.startedAt), finished_at=_seconds(running.startedAt), exit_code=137, lost=True, message=message)
    else:
        last = status.lastState.terminated
        code = last.exitCode if last else 137
        record = Record(
            **common,
            finished_at=_seconds(last.finishedAt) if last else 0.0,
            started_at=_seconds(last.startedAt) if last else 0.0,
            exit_code=code,
            lost=last is None,
        )
    return Seen(record=record, attempt=status.restartCount)


def _seconds(text: str | None) -> float:
    moment = parse_time(text)
    return moment.timestamp() if moment else 0.0
