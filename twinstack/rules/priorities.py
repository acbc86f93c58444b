"""How important pods are: classes of priority, and which a new pod has.

Rule of this file: documents in, problems out or priorities written into a pod.

Theory (spec: PriorityClass, KEP-268). A class gives a name to a number. A pod names a class, or is of the one that is the default; the number is
written into it, and never follows later changes of the class. What begins with ``system-`` is the cluster's own: two such classes are there without
being made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import PriorityClass
from twinstack.api.objects import Document
from twinstack.rules.problems import forbidden, unsupported, wrong

HIGHEST = 1_000_000_000  # of those that users make
BUILT_IN = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
DESCRIPTIONS = {
    "system-cluster-critical": "For pods that the cluster needs, and that may move to another node if necessary.",
    "system-node-critical": "For pods that the cluster needs, each on the node where it is.",
}
_POLICIES = ("Never", "PreemptLowerPriority")


def default_class(document: Document) -> None:
    """The version's static defaults of a PriorityClass."""
    document.setdefault("value", 0)
    if not document.get("preemptionPolicy"):
        document["preemptionPolicy"] = "PreemptLowerPriority"


def problems_with_class(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a PriorityClass; its number and policy stand once it is made."""
    name, value, policy = after["metadata"].get("name", ""), after.get("value", 0), after.get("preemptionPolicy")
    problems = []
    if before is not None:
        if value != before.get("value", 0):
            problems.append(forbidden("value", "may not change"))
        if policy != before.get("preemptionPolicy"):
            problems.append(wrong("preemptionPolicy", policy, "may not change"))
        return problems
    if name.startswith("system-") and (BUILT_IN.get(name) != value or after.get("globalDefault")):
        problems.append(forbidden("metadata.name", "names that begin with system- are the cluster's own"))
    elif not name.startswith("system-") and value > HIGHEST:
        problems.append(forbidden("value", f"must be at most {HIGHEST}"))
    if policy not in _POLICIES:
        problems.append(unsupported("preemptionPolicy", policy, _POLICIES))
    return problems


def built_in_classes() -> list[Document]:
    """The cluster's own classes."""
    head = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
    return [{**head, "metadata": {"name": name}, "value": value, "description": DESCRIPTIONS[name]} for name, value in BUILT_IN.items()]


def give_priority(spec: dict[str, Any], class_of: Callable[[str], PriorityClass | None], default: PriorityClass | None) -> str | None:
    """Write into a new pod what its class means; the reason for which that cannot be, if there is one."""
    name = spec.get("priorityClassName") or ""
    found = class_of(name) if name else default
    if found is None and name in BUILT_IN:
        found = PriorityClass(value=BUILT_IN[name])
    if found is None and name:
        return f"no PriorityClass with name {name} was found"
    value = found.value if found else 0
    if spec.get("priority") not in (None, value):
        return f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; its class computes it: {value}"
    policy = (found.preemptionPolicy if found else "") or "PreemptLowerPriority"
    if spec.get("preemptionPolicy") not in (None, policy):
        return f"the string value of PreemptionPolicy ({spec['preemptionPolicy']}) must not be provided in pod spec; its class computes it: {policy}"
    if found is not None and not name:
        spec["priorityClassName"] = found.metadata.name
    spec["priority"] = value
    spec["preemptionPolicy"] = policy
    return None
