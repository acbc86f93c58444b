"""Pods: a spec that stands, a status that a node reports, and a deletion that waits for the node."""

from __future__ import annotations

from collections.abc import Mapping

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem, Forbidden
from twinstack.api.objects import Document
from twinstack.api.resources import resource_of
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import pod_validation, pods, resizing
from twinstack.rules.pod_types import check_pod_types
from twinstack.rules.priorities import give_priority
from twinstack.rules.problems import forbidden

_CLASSES = resource_of(kinds.PriorityClass)


class Pods(Typed):
    """Nothing of a pod's spec changes but what :func:`pod_validation.problems_with_pod_update` lists, and its node by a Binding."""

    has_status = True
    counts_generation = True
    empty_fields = frozenset({"status.podIPs"})

    def fill(self, document: Document) -> None:
        check_pod_types(document.get("spec") or {})
        pods.default_pod(document)

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        classes = {key.name: one for key, one in transaction.reader.views(_CLASSES, kinds.PriorityClass)}
        default = min((one for one in classes.values() if one.globalDefault), key=lambda one: one.value, default=None)
        why = give_priority(document["spec"], classes.get, default)
        if why is not None:
            name = document["metadata"].get("name", "")
            raise Forbidden(f'pods "{name}" is forbidden: {why}', kind="pods", name=name)
        pods.complete_new_pod(document)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if not subresource:
            pods.complete_changed_pod(after, before)
        elif subresource == "status":
            pods.complete_changed_status(after, before)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        problems = list(pod_validation.problems_with_pod_spec(document["spec"]))
        if document["spec"].get("ephemeralContainers"):
            problems.append(forbidden("spec.ephemeralContainers", "may only be added to a pod that is there"))
        return problems

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if subresource == "status":
            return pod_validation.problems_with_pod_status(after, before)
        if subresource == "ephemeralcontainers":
            return pod_validation.problems_with_ephemeral_containers(after, before)
        if subresource == "resize":
            return list(resizing.problems_with_resize(after, before))
        return [] if subresource else pod_validation.problems_with_pod_update(after, before)

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        return pod_validation.warnings_about_pod(after)

    def fields(self, document: Document) -> Mapping[str, str]:
        spec, status = document.get("spec") or {}, document.get("status") or {}
        addresses = status.get("podIPs") or ()
        return {
            "spec.nodeName": spec.get("nodeName", ""),
            "spec.restartPolicy": spec.get("restartPolicy", ""),
            "spec.schedulerName": spec.get("schedulerName", ""),
            "spec.serviceAccountName": spec.get("serviceAccountName", ""),
            "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
            "status.phase": status.get("phase", ""),
            "status.podIP": addresses[0].get("ip", "") if addresses else "",
            "status.nominatedNodeName": status.get("nominatedNodeName", ""),
        }

    def grace_period_seconds(self, document: Document, asked: int | None) -> int:
        return pods.grace_period_seconds(document, asked)
