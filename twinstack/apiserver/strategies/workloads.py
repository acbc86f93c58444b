"""Deployments and ReplicaSets: a number of pods after one template."""

from __future__ import annotations

import msgspec

from twinstack.api import kinds
from twinstack.api.errors import BadRequest, FieldProblem
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed, take_back
from twinstack.rules import workload_validation


class Workload(Typed):
    """What the two have in common: generations, and a status of counts."""

    has_status = True
    counts_generation = True

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        document["status"] = {}
        self.default(document)

    def check_template(self, document: Document) -> None:
        """BadRequest when the pod in the template has a field of another type than it must have."""
        try:
            view_of(kinds.PodSpec, document["spec"]["template"]["spec"])
        except msgspec.ValidationError as error:
            raise BadRequest(f"{self.resource.kind} cannot be handled: spec.template.spec: {error}") from error


class Deployments(Workload):
    """Pods that are replaced step by step when the template changes. Its status door does not open its labels."""

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if subresource == "status":
            take_back(after["metadata"], before["metadata"], "labels")

    def fill(self, document: Document) -> None:
        workload_validation.default_deployment(document)
        self.check_template(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_deployment(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_workload_status(after, before)
        return workload_validation.problems_with_deployment(after, before)


class ReplicaSets(Workload):
    """So many pods, all alike."""

    def fill(self, document: Document) -> None:
        workload_validation.default_replica_set(document)
        self.check_template(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_replica_set(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_workload_status(after, before)
        return workload_validation.problems_with_replica_set(after, before)

    def fields(self, document: Document) -> dict[str, str]:
        return {"status.replicas": str((document.get("status") or {}).get("replicas", 0))}
