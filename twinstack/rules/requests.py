"""What a pod asks of its node: CPU, memory, storage and whatever else nodes have so and so much of.

Rule of this file: a pod or a node in, amounts out. CPU is counted in thousandths, everything else in whole units.

Theory. Containers run together, init containers one after the other before them; an init container that keeps running
(``restartPolicy: Always``, KEP-753) runs beside everything that is started after it. So a pod needs the most that it needs at any moment,
and its overhead (KEP-688) on top. What is asked for the pod as a whole (KEP-2837) takes the place of its containers' sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twinstack.api.kinds import Container, Node, Pod
from twinstack.rules.quantities import QuantityError, parse_quantity

CPU, MEMORY, STORAGE, PODS = "cpu", "memory", "ephemeral-storage", "pods"
Amounts = Mapping[str, int]

# For the choice among nodes only: a pod that asks for nothing is no burden to the one, and takes the other's place all the same.
_AT_LEAST = {CPU: 100, MEMORY: 200 << 20}


def amounts_of(given: Mapping[str, Any] | None) -> dict[str, int]:
    """Amounts of a document as numbers, rounded up; what is no amount is left out, as the API server lets none in."""
    result = {}
    for name, text in (given or {}).items():
        try:
            result[name] = math.ceil(parse_quantity(text) * (1000 if name == CPU else 1))
        except QuantityError:
            continue
    return result


def requests_of(pod: Pod) -> dict[str, int]:
    """What must be free on a node for the pod to run there."""
    return _most(pod, lambda container: amounts_of((container.resources or {}).get("requests")))


def burden_of(pod: Pod) -> dict[str, int]:
    """The same for the choice among nodes: each container counts as something."""
    return _most(pod, lambda container: {**_AT_LEAST, **amounts_of((container.resources or {}).get("requests"))})


def _most(pod: Pod, asked: Any) -> dict[str, int]:
    together: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in pod.spec.initContainers or ():
        amounts = asked(container)
        if _keeps_running(container):
            together.update(amounts)
            peak |= together
        else:
            peak |= together + Counter(amounts)
    for container in pod.spec.containers:
        together.update(asked(container))
    result = dict(peak | together)
    result |= amounts_of((pod.spec.resources or {}).get("requests"))
    for name, amount in amounts_of(pod.spec.overhead).items():
        result[name] = result.get(name, 0) + amount
    return result


def _keeps_running(container: Container) -> bool:
    return container.restartPolicy == "Always"


def allocatable_of(node: Node) -> dict[str, int]:
    """What the node has for pods."""
    return amounts_of(node.status.allocatable)


def total(many: Iterable[Amounts]) -> Counter[str]:
    """The sum of amounts."""
    result: Counter[str] = Counter()
    for one in many:
        result.update(one)
    return result


def lacking(asked: Amounts, used: Mapping[str, int], allocatable: Amounts) -> Sequence[str]:
    """The names of what is asked for and not free.

    Nobody is held to what a node does not tell of CPU, memory and storage; of anything else it has none.
    """
    found = []
    for name, amount in asked.items():
        there = allocatable.get(name)
        if amount <= 0 or (there is None and name in (CPU, MEMORY, STORAGE)):
            continue
        if amount > (there or 0) - used.get(name, 0):
            found.append(name)
    return found
