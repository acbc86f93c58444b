"""NetworkPolicies: who may talk to whom."""

from __future__ import annotations

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import networkpolicies


class NetworkPolicies(Typed):
    """Stored and judged; who enforces them reads them through the API."""

    counts_generation = True

    def fill(self, document: Document) -> None:
        networkpolicies.default_policy(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return networkpolicies.problems_with_policy(view_of(kinds.NetworkPolicy, document))

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return networkpolicies.problems_with_policy(view_of(kinds.NetworkPolicy, after), view_of(kinds.NetworkPolicy, before))

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        return networkpolicies.warnings_about_policy(view_of(kinds.NetworkPolicy, after))
