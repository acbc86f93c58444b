"""NetworkPolicies: who may talk to whom; PodDisruptionBudgets: how many may go."""

from __future__ import annotations

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.typed import Observed, Typed
from twinstack.rules import disruptions, networkpolicies


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


class PodDisruptionBudgets(Observed):
    """What an eviction must leave of the pods that it selects."""

    def fill(self, document: Document) -> None:
        disruptions.default_budget(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return disruptions.problems_with_budget(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return disruptions.problems_with_budget_status(after)
        return disruptions.problems_with_budget(after)
