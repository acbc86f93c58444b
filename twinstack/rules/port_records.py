"""Node ports that Services hold and should not: out of the range, or held by another Service too.

Rule of this file: Services, one by one, and the range in; findings out. Nothing can be mended here without breaking somebody, so it is told
(spec/api.md 5.7). The first Service that holds a port is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from twinstack.api.kinds import Object
from twinstack.api.objects import Document, view_of
from twinstack.rules.services import held_ports


class PortFinding(NamedTuple):
    """Whom it is about, and what to tell."""

    about: Object
    reason: str
    message: str


class Holders:
    """Who holds which port, learned from one Service after the other."""

    def __init__(self, allowed: range) -> None:
        self._allowed = allowed
        self._holders: dict[int, str] = {}

    def findings(self, document: Document) -> Iterator[PortFinding]:
        """Every port that this Service holds and should not."""
        ports = held_ports(document)
        if not ports:
            return
        service = view_of(Object, document)
        name = f"{service.metadata.namespace}/{service.metadata.name}"
        for port in sorted(ports):
            holder = self._holders.setdefault(port, name)
            if holder != name:
                yield PortFinding(service, "PortAlreadyAllocated", f"node port {port} belongs to Service {holder}; please recreate this one")
            elif port not in self._allowed:
                message = f"node port {port} is not within {self._allowed.start}-{self._allowed.stop - 1}; please recreate the Service"
                yield PortFinding(service, "PortOutOfRange", message)
