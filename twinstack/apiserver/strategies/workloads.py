"""Deployments and ReplicaSets: a number of pods after one template."""

from __future__ import annotations

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed, take_back
from twinstack.rules import workload_validation
from twinstack.rules.pod_types import check_pod_types


class Workload(Typed):
    """What the two have in common: generations, and a status of counts."""

    has_status = True
    counts_generation = True

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        document["status"] = {}
        self.default(document)

    def fill(self, document: Document) -> None:
        template = (document.get("spec") or {}).get("template") or {}
        check_pod_types(template.get("spec") or {}, template=True)
        self.fill_workload(document)

    def fill_workload(self, document: Document) -> None:
        """The defaults of the kind, once the pod in the template is known to be of the right types."""


class Deployments(Workload):
    """Pods that are replaced step by step when the template changes. Its status door does not open its labels."""

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if subresource == "status":
            take_back(after["metadata"], before["metadata"], "labels")

    def fill_workload(self, document: Document) -> None:
        workload_validation.default_deployment(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_deployment(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_workload_status(after, before)
        return workload_validation.problems_with_deployment(after, before)


class ReplicaSets(Workload):
    """So many pods, all alike."""

    def fill_workload(self, document: Document) -> None:
        workload_validation.default_replica_set(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_replica_set(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_workload_status(after, before)
        return workload_validation.problems_with_replica_set(after, before)

    def fields(self, document: Document) -> dict[str, str]:
        return {"status.replicas": str((document.get("status") or {}).get("replicas", 0))}
