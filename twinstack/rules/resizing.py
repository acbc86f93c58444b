"""Pods whose containers are given more or less while they run (KEP-1287): what may change, and what has.

Rule of this file: pods in, problems, pods or differences out. Whether a node has the room is ``rules.node_admission``'s to say.

Theory. Through the door ``resize`` pass the amounts of processor and memory of containers that run, and nothing else; whatever else is sent is
dropped, but for other containers, which are refused. The quality of service stays, because a pod's control group stands where its
class stands; so an amount may be changed or added, and not taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import is_
from typing import Any

import msgspec

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import Container, Pod
from twinstack.api.objects import Document
from twinstack.rules.container_validation import problems_with_resources
from twinstack.rules.node_access import MIRROR
from twinstack.rules.pods import quality_of
from twinstack.rules.problems import duplicate, forbidden, required, unsupported, wrong

RESIZABLE = ("cpu", "memory")
_LISTS = ("containers", "initContainers")
_RESTARTS = ("NotRequired", "RestartContainer")
Resources = Mapping[str, Any]


def resized_spec(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The spec that stood, with the amounts that were sent; other containers than stood are kept, to be refused."""
    spec = dict(before)
    for field in _LISTS:
        old, new = before.get(field) or [], after.get(field) or []
        if [one.get("name") for one in old] != [one.get("name") for one in new]:
            spec[field] = new
        elif old:
            spec[field] = [{**one, "resources": sent.get("resources") or {}} for one, sent in zip(old, new, strict=True)]
    return spec


def problems_with_resize(after: Document, before: Document) -> Iterator[FieldProblem]:
    """What is wrong with a change of amounts."""
    if MIRROR in (before["metadata"].get("annotations") or {}):
        yield forbidden("metadata", "the mirror of a static pod has what its node's file says")
    new, old = after.get("spec") or {}, before.get("spec") or {}
    for field in _LISTS:
        ours, theirs = old.get(field) or (), new.get(field) or ()
        if [one.get("name") for one in ours] != [one.get("name") for one in theirs]:
            yield forbidden(f"spec.{field}", "may be neither added, removed nor renamed")
            return
        for i, (was, one) in enumerate(zip(ours, theirs, strict=True)):
            path = f"spec.{field}[{i}].resources"
            had, wanted = was.get("resources") or {}, one.get("resources") or {}
            if had == wanted:
                continue
            yield from problems_with_resources(wanted, path)
            if field == "initContainers" and was.get("restartPolicy") != "Always":
                yield forbidden(path, "of an init container that ends may not change")
            yield from _problems_with_amounts(wanted, had, path)
    if quality_of(new) != quality_of(old):
        yield wrong("spec", quality_of(new), "the quality of service may not change by a resize")


def _problems_with_amounts(wanted: Resources, had: Resources, path: str) -> Iterator[FieldProblem]:
    for kind in ("limits", "requests"):
        old, new = had.get(kind) or {}, wanted.get(kind) or {}
        for name in sorted(old.keys() | new.keys()):
            if name not in RESIZABLE and old.get(name) != new.get(name):
                yield forbidden(f"{path}.{kind}", f"only {' and '.join(RESIZABLE)} may change")
            elif name not in new:
                yield forbidden(f"{path}.{kind}", "amounts may not be taken away")
    if (had.get("claims") or None) != (wanted.get("claims") or None):
        yield forbidden(f"{path}.claims", f"only {' and '.join(RESIZABLE)} may change")


def problems_with_policies(container: Mapping[str, Any], path: str, restart: str) -> Iterator[FieldProblem]:
    """What is wrong with what a container says of changes to itself; *restart* is the pod's restart policy."""
    named: set[str] = set()
    for i, one in enumerate(container.get("resizePolicy") or ()):
        here, name, policy = f"{path}.resizePolicy[{i}]", one.get("resourceName", ""), one.get("restartPolicy", "")
        if not name:
            yield required(f"{here}.resourceName")
        elif name not in RESIZABLE:
            yield unsupported(f"{here}.resourceName", name, RESIZABLE)
        elif name in named:
            yield duplicate(f"{here}.resourceName", name)
        named.add(name)
        if policy not in _RESTARTS:
            yield unsupported(f"{here}.restartPolicy", policy, _RESTARTS)
        elif policy == "RestartContainer" and restart == "Never":
            yield wrong(f"{here}.restartPolicy", policy, "must be NotRequired, because the pod's restartPolicy is Never")


# ---- What a node makes of it


def resizable(pod: Pod) -> Iterator[Container]:
    """The containers whose amounts may change while they run."""
    yield from pod.spec.containers
    yield from (one for one in pod.spec.initContainers or () if one.restartPolicy == "Always")


def with_resources(pod: Pod, has: Mapping[str, Resources]) -> Pod:
    """The pod with other amounts of containers, by their names; the very same where they are what it says."""

    def changed(one: Container) -> Container:
        kept = has.get(one.name)
        return one if kept is None or kept == (one.resources or {}) else msgspec.structs.replace(one, resources=dict(kept))

    containers = [changed(one) for one in pod.spec.containers]
    inits = [changed(one) for one in pod.spec.initContainers] if pod.spec.initContainers is not None else None
    if all(map(is_, (*containers, *(inits or ())), (*pod.spec.containers, *(pod.spec.initContainers or ())))):
        return pod
    return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, containers=containers, initContainers=inits))


def needs_restart(wanted: Container, has: Resources) -> bool:
    """Whether a container says that it has to be started anew for what changes."""
    policies = {one.get("resourceName"): one.get("restartPolicy") for one in wanted.resizePolicy or ()}
    asked = wanted.resources or {}
    return any(
        policies.get(name) == "RestartContainer" and (asked.get(kind) or {}).get(name) != (has.get(kind) or {}).get(name)
        for name in RESIZABLE
        for kind in ("limits", "requests")
    )
