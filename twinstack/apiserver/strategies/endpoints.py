"""Endpoints and EndpointSlices: where a Service's traffic goes."""

from __future__ import annotations

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import endpoint_validation


class Endpoints(Typed):
    """The old way, of one address family; deprecated, and says so."""

    creates_on_update = True

    def fill(self, document: Document) -> None:
        endpoint_validation.default_endpoints(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return endpoint_validation.problems_with_endpoints(view_of(kinds.Endpoints, document))

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return endpoint_validation.problems_with_endpoints(view_of(kinds.Endpoints, after), view_of(kinds.Endpoints, before))

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        return endpoint_validation.warnings_about_endpoints(after)


class EndpointSlices(Typed):
    """One family each. Its generation also counts changes of labels, for they say whose slice it is."""

    counts_generation = True

    def fill(self, document: Document) -> None:
        endpoint_validation.default_slice(document)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if (after["metadata"].get("labels") or {}) != (before["metadata"].get("labels") or {}):
            after["metadata"]["generation"] = before["metadata"].get("generation", 0) + 1

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return endpoint_validation.problems_with_slice(view_of(kinds.EndpointSlice, document))

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return endpoint_validation.problems_with_slice(view_of(kinds.EndpointSlice, after), view_of(kinds.EndpointSlice, before))

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        return endpoint_validation.warnings_about_slice(after)
