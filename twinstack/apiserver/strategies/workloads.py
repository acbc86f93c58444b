"""Workloads: pods after one template."""

from __future__ import annotations

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Observed, Typed, take_back
from twinstack.rules import job_validation, workload_validation
from twinstack.rules.pod_types import check_pod_types
from twinstack.rules.shape import part

TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"


class Workload(Observed):
    """What they have in common: a template of pods."""

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


class ReplicationControllers(Workload):
    """The same, under the name and with the selector that they had first."""

    orphans_by_default = True

    def fill_workload(self, document: Document) -> None:
        workload_validation.default_replication_controller(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_replication_controller(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_workload_status(after, before)
        return workload_validation.problems_with_replication_controller(after)

    def fields(self, document: Document) -> dict[str, str]:
        return {"status.replicas": str((document.get("status") or {}).get("replicas", 0))}


class StatefulSets(Workload):
    """So many pods, each with a name of its own."""

    def fill_workload(self, document: Document) -> None:
        workload_validation.default_stateful_set(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_stateful_set(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_stateful_set_status(after, before)
        return workload_validation.problems_with_stateful_set(after, before)


class Jobs(Workload):
    """Pods that run to their end."""

    orphans_by_default = True

    def deletion_warnings(self) -> list[str]:
        return ["the pods of a Job stay when it is deleted without a propagationPolicy; Background takes them along, Orphan says that they shall stay"]

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        super().begin_create(document, transaction)
        job_validation.give_selector(document)

    def fill_workload(self, document: Document) -> None:
        job_validation.default_job(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return job_validation.problems_with_job(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return job_validation.problems_with_job_status(after, before)
        return job_validation.problems_with_job(after, before)

    def fields(self, document: Document) -> dict[str, str]:
        return {"status.successful": str((document.get("status") or {}).get("succeeded", 0))}


class ControllerRevisions(Typed):
    """Templates as they were."""

    def fill(self, document: Document) -> None:
        document.setdefault("revision", 0)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_revision(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return workload_validation.problems_with_revision(after, before)


class DaemonSets(Workload):
    """A pod on every node that the template fits. Changes of the template are counted, in an annotation that clients of long ago read."""

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        super().begin_create(document, transaction)
        part(document["metadata"], "annotations")[TEMPLATE_GENERATION] = "1"

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        had = (before["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "1")
        changed = not subresource and (after.get("spec") or {}).get("template") != (before.get("spec") or {}).get("template")
        part(after["metadata"], "annotations")[TEMPLATE_GENERATION] = str(int(had) + 1) if changed and had.isdigit() else had

    def fill_workload(self, document: Document) -> None:
        workload_validation.default_daemon_set(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return workload_validation.problems_with_daemon_set(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return workload_validation.problems_with_daemon_set_status(after, before)
        return workload_validation.problems_with_daemon_set(after, before)
