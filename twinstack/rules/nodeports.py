"""Which node ports a Service needs: told as a sequence of wishes, granted one by one.

Rule of this file: it does not know which numbers are free. It takes a ``NodePorts`` that grants a number asked for, or any;
what was granted is written into the ports as it goes. Freeing is nobody's wish: a number is free when no
stored Service holds it any more.

A create and an update differ (spec/api.md 5.3): on a create, ports of the same number (53/TCP and 53/UDP) share one node
port; on an update each that has none gets its own.
"""

from __future__ import annotations

from typing import Any, Protocol

from twinstack.api.errors import FieldProblem, InternalError
from twinstack.rules.problems import forbidden, wrong
from twinstack.rules.services import needs_health_check, node_ports, wants_node_ports


class SameNodePort(InternalError):
    """An update asks for one number of one protocol twice. Told without a reason, as upstream does."""

    code, reason = 500, ""


class NodePorts(Protocol):
    """Grants node ports within one request."""

    def take(self, number: int) -> str | None:
        """Take this very number; why not, when it cannot be had."""

    def take_any(self) -> int | None:
        """Take any number; None when none is left."""


def plan_create(spec: dict[str, Any], pool: NodePorts, *, name: str) -> list[FieldProblem]:
    """Fill in the node ports of a new Service; stops at the first that cannot be had. InternalError when none is left."""
    shared: dict[int, int] = {}  # port → node port
    ports = spec.get("ports") or ()
    for i, port in enumerate(ports):
        wanted = port.get("nodePort", 0)
        if not wanted and not wants_node_ports(spec):
            continue
        granted = shared.get(port.get("port", 0))
        if granted is None:
            number = next((other["nodePort"] for other in ports if other.get("port", 0) == port.get("port", 0) and other.get("nodePort")), 0)
            if not number:
                number = _any(pool, name)
            elif problem := pool.take(number):
                return [wrong(f"spec.ports[{i}].nodePort", number, problem)]
            shared[port.get("port", 0)] = port["nodePort"] = number
        elif not wanted:
            port["nodePort"] = granted
        elif wanted != granted and (problem := pool.take(wanted)):
            return [wrong(f"spec.ports[{i}].nodePort", wanted, problem)]
    return []


def plan_update(after: dict[str, Any], before: dict[str, Any], pool: NodePorts, *, name: str) -> list[FieldProblem]:
    """Fill in the node ports of a changed Service, keeping those it had.

    InternalError when none is left, or when two ports of one protocol ask for the same number.
    """
    # A port that an ExternalName spells out was never taken: it may be another's.
    held = node_ports(before) if before.get("type") in ("NodePort", "LoadBalancer") else set()
    taken: set[int] = set()
    seen: set[tuple[str, int]] = set()
    for i, port in enumerate(after.get("ports") or ()):
        wanted = port.get("nodePort", 0)
        if not wanted and not wants_node_ports(after):
            continue
        if not wanted:
            port["nodePort"] = _any(pool, name)
        elif wanted not in held and wanted not in taken:
            if problem := pool.take(wanted):
                return [wrong(f"spec.ports[{i}].nodePort", wanted, problem)]
            taken.add(wanted)
        pair = (port.get("protocol", ""), port["nodePort"])
        if pair in seen:
            raise SameNodePort(f"two ports of Service {name!r} ask for node port {pair[1]}/{pair[0]}")
        seen.add(pair)
    return []


def plan_health_check(after: dict[str, Any], before: dict[str, Any] | None, pool: NodePorts, *, name: str) -> list[FieldProblem]:
    """Fill in the health check's node port where it is needed. InternalError when it cannot be had."""
    if not needs_health_check(after):
        return []
    wanted = after.get("healthCheckNodePort", 0)
    if before is not None and needs_health_check(before):
        if wanted != before.get("healthCheckNodePort", 0):
            return [forbidden("spec.healthCheckNodePort", "may not change while it is in use")]
    elif not wanted:
        after["healthCheckNodePort"] = _any(pool, name)
    elif problem := pool.take(wanted):
        raise InternalError(f"health check node port {wanted} of Service {name!r}: {problem}")
    return []


def _any(pool: NodePorts, name: str) -> int:
    number = pool.take_any()
    if number is None:
        raise InternalError(f"no node port is left for Service {name!r}: range is full")
    return number
