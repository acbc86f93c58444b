"""The cells of a Pod's row: its state in one word is a small law of its own (spec/api.md section 10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from twinstack.api.objects import Document
from twinstack.apiserver.cells import NONE, parse_time, text_of_duration

_Status = Mapping[str, Any]


def _spec(document: Document) -> Mapping[str, Any]:
    return document.get("spec") or {}


def _status(document: Document) -> Mapping[str, Any]:
    return document.get("status") or {}


def _state(status: _Status, which: str, state: str = "state") -> Mapping[str, Any] | None:
    return (status.get(state) or {}).get(which)


def _is_true(document: Document, type_: str) -> bool:
    return any(one.get("type") == type_ and one.get("status") == "True" for one in _status(document).get("conditions") or ())


def _restartable(document: Document) -> set[str]:
    """The names of the init containers that go on running beside the others (sidecars)."""
    return {one.get("name", "") for one in _spec(document).get("initContainers") or () if one.get("restartPolicy") == "Always"}


def _statuses(document: Document) -> tuple[list[_Status], list[_Status]]:
    """The statuses of the init containers, and of the others."""
    status = _status(document)
    return status.get("initContainerStatuses") or [], status.get("containerStatuses") or []


def _ended(terminated: Mapping[str, Any]) -> str:
    """How a container ended, in one word."""
    reason = terminated.get("reason")
    if reason:
        return str(reason)
    signal = terminated.get("signal")
    return f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode') or 0}"


def pod_ready(document: Document, now: datetime) -> Any:
    """Ready containers of all; sidecars count among them."""
    sidecars = _restartable(document)
    total = len(_spec(document).get("containers") or ()) + len(sidecars)
    inits, others = _statuses(document)
    ready = sum(1 for one in inits if one.get("name") in sidecars and one.get("started") and one.get("ready"))
    ready += sum(1 for one in others if one.get("ready") and _state(one, "running") is not None)
    return f"{ready}/{total}"


def pod_status(document: Document, now: datetime) -> Any:
    """The state in one word."""
    status = _status(document)
    text = str(status.get("reason") or status.get("phase") or "")
    if any(one.get("type") == "PodScheduled" and one.get("reason") == "SchedulingGated" for one in status.get("conditions") or ()):
        text = "SchedulingGated"
    initializing = _initializing(document)
    text = initializing or text
    if not initializing or _is_true(document, "Initialized"):
        text = _of_containers(document, text)
    if (document.get("metadata") or {}).get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            return "Unknown"
        if status.get("phase") not in ("Succeeded", "Failed"):
            return "Terminating"
    return text


def _initializing(document: Document) -> str:
    """What the first unfinished init container is at; empty when all are done."""
    sidecars = _restartable(document)
    for index, one in enumerate(_statuses(document)[0]):
        terminated = _state(one, "terminated")
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if one.get("name") in sidecars and one.get("started"):
            continue
        if terminated is not None:
            return f"Init:{_ended(terminated)}"
        waiting = _state(one, "waiting")
        reason = waiting.get("reason") if waiting else ""
        if reason and reason != "PodInitializing":
            return f"Init:{reason}"
        return f"Init:{index}/{len(_spec(document).get('initContainers') or ())}"
    return ""


def _of_containers(document: Document, text: str) -> str:
    """The word of the first container that has something to say; *text* when none has."""
    running = False
    failed = ""
    for one in reversed(_statuses(document)[1]):
        waiting, terminated = _state(one, "waiting"), _state(one, "terminated")
        if waiting and waiting.get("reason"):
            text = str(waiting["reason"])
        elif terminated is not None:
            text = _ended(terminated)
            if terminated.get("exitCode"):
                failed = text
        elif one.get("ready") and _state(one, "running") is not None:
            running = True
    if text == "Completed":
        if running and _is_true(document, "Ready"):
            return "Running"
        if failed:
            return failed
        if running:
            return "NotReady"
    return text


def _ends(statuses: list[_Status]) -> Iterator[datetime]:
    for one in statuses:
        terminated = _state(one, "terminated", "lastState")
        finished = parse_time(terminated.get("finishedAt")) if terminated else None
        if finished is not None:
            yield finished


def pod_restarts(document: Document, now: datetime) -> Any:
    """How many, and how long ago the last was."""
    inits, others = _statuses(document)
    sidecars = _restartable(document)
    if _initializing(document) and not _is_true(document, "Initialized"):
        counted = inits
    else:
        counted = [*(one for one in inits if one.get("name") in sidecars), *others]
    count = sum(one.get("restartCount") or 0 for one in counted)
    last = max(_ends(counted), default=None)
    return f"{count} ({text_of_duration(now - last)} ago)" if count and last else str(count)


def pod_ip(document: Document, now: datetime) -> Any:
    """The first address."""
    status = _status(document)
    addresses = status.get("podIPs")
    return (addresses[0].get("ip") if addresses else status.get("podIP")) or NONE


def pod_ips(document: Document, now: datetime) -> Any:
    """All addresses, primary first."""
    status = _status(document)
    addresses = [one.get("ip") or "" for one in status.get("podIPs") or ()]
    return ",".join(addresses) or status.get("podIP") or NONE


def pod_node(document: Document, now: datetime) -> Any:
    return _spec(document).get("nodeName") or NONE


def pod_nominated_node(document: Document, now: datetime) -> Any:
    return _status(document).get("nominatedNodeName") or NONE


def pod_readiness_gates(document: Document, now: datetime) -> Any:
    """Those that are true, of all."""
    gates = _spec(document).get("readinessGates") or ()
    if not gates:
        return NONE
    return f"{sum(_is_true(document, one.get('conditionType', '')) for one in gates)}/{len(gates)}"


def pod_conditions(document: Document) -> list[Document]:
    """The conditions of the row: Completed, for a pod that has ended."""
    phase = _status(document).get("phase")
    if phase in ("Succeeded", "Failed"):
        message = "Every container has ended well." if phase == "Succeeded" else "A container has failed."
        return [{"type": "Completed", "status": "True", "reason": phase, "message": message}]
    return []
