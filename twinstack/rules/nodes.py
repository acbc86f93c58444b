"""What a Node must look like, and what of it may never change (spec/api.md 8.1 and 8.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import Node, NodeStatus, Taint
from twinstack.api.objects import Document
from twinstack.net.cidr import parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import Family
from twinstack.rules.addresses import problems_with_pair
from twinstack.rules.names import label_value_problem, qualified_problem
from twinstack.rules.problems import duplicate, forbidden, required, unsupported, wrong
from twinstack.rules.quantities import canonicalize, parse_quantity
from twinstack.rules.services import cidr_spelling_warnings
from twinstack.rules.shape import default_conditions, drop_zeros, part

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
NOT_READY = "node.kubernetes.io/not-ready"
_INFO = (
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion", "kubeProxyVersion",
    "operatingSystem", "architecture",
)  # fmt: skip


def default_node(document: Document) -> None:
    """One pod CIDR and the list of them are one thing; what is allocatable is the capacity until somebody says otherwise."""
    spec, status = part(document, "spec"), part(document, "status")
    drop_zeros(spec, ("podCIDR", "podCIDRs", "providerID", "unschedulable", "taints"))
    single, plural = spec.get("podCIDR"), spec.get("podCIDRs")
    if single and (not plural or plural[0] != single):
        spec["podCIDRs"] = [single]
    elif plural and plural[0]:
        spec["podCIDR"] = plural[0]
    drop_zeros(status, ("addresses", "conditions", "capacity", "allocatable", "images"))
    canonicalize(status, ("capacity", "allocatable"))
    default_conditions(status, ("lastHeartbeatTime", "lastTransitionTime"))
    if status.get("capacity") and "allocatable" not in status:
        status["allocatable"] = dict(status["capacity"])
    part(part(status, "daemonEndpoints"), "kubeletEndpoint").setdefault("Port", 0)
    info = part(status, "nodeInfo")
    for field in _INFO:
        info.setdefault(field, "")


def taint_new_node(document: Document) -> None:
    """Nothing is placed on a new node before the node lifecycle has seen it ready."""
    taints = part(document, "spec").setdefault("taints", [])
    if not any(taint.get("key") == NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
        taints.append({"key": NOT_READY, "effect": "NoSchedule"})


def problems_with_node(after: Node, before: Node | None = None) -> list[FieldProblem]:
    """What is wrong with a Node through its main door."""
    problems = [*_problems_with_cidrs(after.spec.podCIDRs or []), *_problems_with_taints(after.spec.taints or []), *_problems_with_amounts(after.status)]
    return problems if before is None else [*problems, *problems_with_node_update(after, before)]


def problems_with_node_update(after: Node, before: Node) -> list[FieldProblem]:
    """What may not change, through either door."""
    problems, path = [], "spec.podCIDRs"
    new, old = after.spec.podCIDRs or [], before.spec.podCIDRs or []
    if old and len(new) != len(old):
        problems.append(forbidden(path, "may not change once set"))
    elif old:
        changed = [(was, now) for was, now in zip(old, new, strict=True) if was != now]
        problems += [forbidden(path, f"may not change from {was} to {now}") for was, now in changed]
    if before.spec.providerID and after.spec.providerID != before.spec.providerID:
        problems.append(forbidden("spec.providerID", "may not change once set"))
    if after.spec.externalID != before.spec.externalID:
        problems.append(forbidden("spec.externalID", "may not change"))
    return [*problems, *_problems_with_addresses(after.status)]


def _problems_with_cidrs(cidrs: list[str]) -> Iterator[FieldProblem]:
    families: list[Family | None] = []
    for i, text in enumerate(cidrs):
        try:
            families.append(Family.of(parse_cidr(text)))
        except AddressError as error:
            families.append(None)
            yield wrong(f"spec.podCIDRs[{i}]", text, str(error))
    yield from problems_with_pair(cidrs, "spec.podCIDRs", what="CIDR", families=families)


def _problems_with_taints(taints: list[Taint]) -> Iterator[FieldProblem]:
    seen = set()
    for i, taint in enumerate(taints):
        path = f"spec.taints[{i}]"
        if problem := qualified_problem(taint.key):
            yield wrong(f"{path}.key", taint.key, problem)
        if problem := label_value_problem(taint.value):
            yield wrong(f"{path}.value", taint.value, problem)
        if not taint.effect:
            yield required(f"{path}.effect")
        elif taint.effect not in EFFECTS:
            yield unsupported(f"{path}.effect", taint.effect, EFFECTS)
        if (taint.key, taint.effect) in seen:
            yield duplicate(path, f"{taint.key}:{taint.effect}")
        seen.add((taint.key, taint.effect))


def _problems_with_amounts(status: NodeStatus) -> Iterator[FieldProblem]:
    for field, amounts in (("capacity", status.capacity), ("allocatable", status.allocatable)):
        for name, text in (amounts or {}).items():
            if parse_quantity(text) < 0:
                yield wrong(f"status.{field}.{name}", text, "must be greater than or equal to 0")


def _problems_with_addresses(status: NodeStatus) -> Iterator[FieldProblem]:
    seen = set()
    for i, one in enumerate(status.addresses or []):
        if (one.type, one.address) in seen:
            yield duplicate(f"status.addresses[{i}]", f"{one.type}: {one.address}")
        seen.add((one.type, one.address))


def warnings_about_node(document: dict[str, Any]) -> list[str]:
    """Odd spellings of pod CIDRs."""
    cidrs = (document.get("spec") or {}).get("podCIDRs") or ()
    return [warning for i, text in enumerate(cidrs) for warning in cidr_spelling_warnings(f"spec.podCIDRs[{i}]", text)]
