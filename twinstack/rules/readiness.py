"""Is a pod ready in a family, and does that count for its endpoints?

Rule of this file: a pod and the annotations of its namespace in, an answer out.

Theory. Upstream's ``Ready`` is what probes of a pod's first address have found. The node agent also asks the pod's
other address, and tells each family's finding as a condition of its own (``twinstack.dev/ReadyIPv4`` and its twin);
``Ready`` stays what it was. Where the pod asks for it by an annotation, or its namespace does and the pod does not
refuse, a family whose condition is not True has no endpoint. It only ever takes away: a pod that is not
``Ready`` is ready in no family.
"""

from __future__ import annotations

from collections.abc import Mapping

from twinstack.api.kinds import Namespace, Pod, condition_of
from twinstack.api.objects import Key
from twinstack.api.world import World
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.workloads import ready

PER_FAMILY = "twinstack.dev/per-family-readiness"  # "true" or "false", on a pod or on its namespace; the pod's word counts


def condition_type(family: Family) -> str:
    """The pod condition that tells what this family's probes have found."""
    return f"twinstack.dev/Ready{family}"


def asks(annotations: Mapping[str, str]) -> bool:
    """Whether annotations ask for endpoints by family."""
    return annotations.get(PER_FAMILY) == "true"


def counts_by_family(pod: Pod, world: World) -> bool:
    """Whether what was found in a family decides about the pod's endpoint there."""
    if PER_FAMILY in pod.annotations:
        return asks(pod.annotations)
    namespace = world.get(Namespace, Key("", pod.metadata.namespace))
    return namespace is not None and asks(namespace.annotations)


def found_ready(pod: Pod, family: Family) -> bool:
    """Whether nothing speaks against the family: its condition is True, or nobody tells it, for nothing is probed there."""
    condition = condition_of(pod.status.conditions, condition_type(family))
    return condition is None or condition.status == "True"


def ready_in(pod: Pod, family: Family, *, by_family: bool) -> bool:
    """Whether the pod counts as ready for its endpoint of this family."""
    return ready(pod) and (not by_family or found_ready(pod, family))


def readiness_of(pod: Pod) -> tuple[object, ...]:
    """Everything of a pod that readiness is told by; differs whenever an endpoint's readiness may."""
    return (ready(pod), *(found_ready(pod, family) for family in FAMILIES), pod.annotations.get(PER_FAMILY))
