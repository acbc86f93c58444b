"""ServiceCIDRs and IPAddresses: where Service addresses come from, and who has which (spec/api.md section 9)."""

from __future__ import annotations

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import cidrs


class ServiceCIDRs(Typed):
    """Immutable, but for a second family that may join; its status door opens nothing else, not even metadata."""

    has_status = True

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        document["status"] = {}

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if subresource == "status":
            after["metadata"] = {**before["metadata"]}

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return cidrs.problems_with_service_cidr(view_of(kinds.ServiceCIDR, document))

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return cidrs.problems_with_service_cidr(view_of(kinds.ServiceCIDR, after), view_of(kinds.ServiceCIDR, before))


class IPAddresses(Typed):
    """Named by the address itself, and for ever its parent's."""

    def fill(self, document: Document) -> None:
        parent = (document.get("spec") or {}).get("parentRef") or {}
        for field in ("group", "namespace"):
            if parent.get(field) == "":
                del parent[field]

    def generated_name(self, prefix: str, suffix: str) -> str:
        return prefix  # chance makes no address (spec/api.md section 9)

    def name_problem(self, name: str) -> str | None:
        return cidrs.address_name_problem(name)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return cidrs.problems_with_ip_address(view_of(kinds.IPAddress, document))

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return cidrs.problems_with_ip_address(view_of(kinds.IPAddress, after), view_of(kinds.IPAddress, before))
