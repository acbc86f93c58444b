"""Node ports that Services hold and should not: out of the range, or held by another Service too.

Rule of this file: the Services and the range in, findings out. Nothing can be mended here without breaking somebody, so it is told
(spec/api.md 5.7). The first Service that holds a port is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from twinstack.api.kinds import Object
from twinstack.api.objects import Document, view_of
from twinstack.rules.services import held_ports


class PortFinding(NamedTuple):
    """Whom it is about, and what to tell."""

    about: Object
    reason: str
    message: str


def findings(services: Iterable[Document], allowed: range) -> Iterator[PortFinding]:
    """Every port that a Service holds and should not."""
    holders: dict[int, str] = {}
    for document in services:
        ports = set(held_ports(document))
        if not ports:
            continue
        service = view_of(Object, document)
        name = f"{service.metadata.namespace}/{service.metadata.name}"
        for port in sorted(ports):
            if port in holders:
                yield PortFinding(service, "PortAlreadyAllocated", f"node port {port} belongs to Service {holders[port]}; please recreate this one")
                continue
            holders[port] = name
            if port not in allowed:
                message = f"node port {port} is not within {allowed.start}-{allowed.stop - 1}; please recreate the Service"
                yield PortFinding(service, "PortOutOfRange", message)
