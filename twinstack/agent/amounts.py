"""What a container may use, as numbers: limits and requests, and values of the downward API.

Rule of this file: documents in, numbers out. Sources: the Kubernetes documentation, "Resource Management for Pods and
Containers" and "Downward API".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from twinstack.api.kinds import Container, Pod
from twinstack.rules.quantities import QuantityError, parse_quantity

CPU, MEMORY, STORAGE = "cpu", "memory", "ephemeral-storage"
PERIOD_MICROSECONDS = 100_000
LEAST_QUOTA, LEAST_SHARES, MOST_SHARES = 1_000, 2, 262_144


class Amounts(NamedTuple):
    """What a container, or a pod, asks for (``requests``) and is held to (``limits``), by resource, in base units."""

    requests: Mapping[str, Fraction]
    limits: Mapping[str, Fraction]


NOTHING = Amounts({}, {})


def _parsed(given: Any) -> dict[str, Fraction]:
    return {name: parse_quantity(value) for name, value in (given or {}).items()}


def amounts_of(container: Container) -> Amounts:
    """A container's amounts; a limit without a request is its request too. QuantityError when one means nothing."""
    resources = container.resources or {}
    limits = _parsed(resources.get("limits"))
    return Amounts({**limits, **_parsed(resources.get("requests"))}, limits)


def pod_amounts(pod: Pod) -> Amounts:
    """The sum over a pod's containers, or what its largest init container needs; a limit only where each container has one."""
    beside = [*pod.spec.containers, *(one for one in pod.spec.initContainers or () if one.restartPolicy == "Always")]
    before = [amounts_of(one) for one in pod.spec.initContainers or () if one.restartPolicy != "Always"]
    ones = [amounts_of(one) for one in beside]
    requests: dict[str, Fraction] = {}
    limits: dict[str, Fraction] = {}
    for name in {name for one in (*ones, *before) for name in (*one.requests, *one.limits)}:
        requests[name] = max([sum((one.requests.get(name, Fraction()) for one in ones), Fraction()), *(one.requests.get(name, Fraction()) for one in before)])
        if all(name in one.limits for one in (*ones, *before)):
            limits[name] = max([sum((one.limits[name] for one in ones), Fraction()), *(one.limits[name] for one in before)])
    return Amounts(requests, limits)


def cpu_quota(limit: Fraction) -> int:
    """Microseconds of processor time in each period."""
    return max(LEAST_QUOTA, math.ceil(limit * PERIOD_MICROSECONDS))


def cpu_shares(request: Fraction) -> int:
    """The share of a processor that is contended for: 1024 is one."""
    return min(MOST_SHARES, max(LEAST_SHARES, int(request * 1024)))


def cpu_weight(request: Fraction) -> int:
    """The same for cgroups v2, 1 to 10000 (KEP-2254)."""
    return 1 + (cpu_shares(request) - LEAST_SHARES) * 9999 // (MOST_SHARES - LEAST_SHARES)


def field_value(reference: Mapping[str, Any], container: Container, allocatable: Mapping[str, str]) -> str:
    """The downward API's value of a resourceFieldRef: a limit that is not set is what the node has. ValueError when it has none."""
    kind, _, name = str(reference.get("resource", "")).partition(".")
    amounts = amounts_of(container)
    if kind not in ("limits", "requests") or not (name in (CPU, MEMORY, STORAGE) or name.startswith("hugepages-")):
        raise ValueError(f"resourceFieldRef names {reference.get('resource')!r}, which is no limit or request of cpu, memory, storage or huge pages")
    amount = (amounts.limits if kind == "limits" else amounts.requests).get(name)
    if amount is None:
        amount = parse_quantity(allocatable.get(name, "0")) if kind == "limits" else Fraction()
    divisor = parse_quantity(reference.get("divisor") or "1") or Fraction(1)
    return str(math.ceil(amount / divisor))


def problems_with(pod: Pod) -> Iterator[str]:
    """The amounts that mean nothing."""
    for container in (*(pod.spec.initContainers or ()), *pod.spec.containers):
        try:
            amounts_of(container)
        except QuantityError as error:
            yield f'container "{container.name}": resources: {error}'
