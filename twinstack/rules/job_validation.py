"""Jobs on their way: their defaults, their generated selector, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.rules.problems import forbidden, required, unsupported, wrong
from twinstack.rules.shape import default, default_conditions, drop_zeros, part
from twinstack.rules.workload_validation import default_template, problems_with_workload

_COUNTS = ("active", "succeeded", "failed")
_FIXED = ("completions", "selector", "template", "completionMode", "manualSelector")
_NOT_SERVED = ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "maxFailedIndexes", "managedBy")
RESTARTS = ("OnFailure", "Never")


def default_job(document: Document) -> None:
    """The version's static defaults of a Job; its labels are its template's when left out."""
    spec = part(document, "spec")
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
        spec.setdefault("completions", 1)
    for field, value in (("backoffLimit", 6), ("suspend", False), ("manualSelector", False)):
        spec.setdefault(field, value)
    default(spec, "completionMode", "NonIndexed")
    default(spec, "podReplacementPolicy", "TerminatingOrFailed")
    default_template(spec)
    _give_labels(document)
    status = part(document, "status")
    drop_zeros(status, (*_COUNTS, "conditions", "completedIndexes"))
    default_conditions(status, ("lastProbeTime", "lastTransitionTime"))


def _give_labels(document: Document) -> None:
    labels = document["spec"]["template"]["metadata"].get("labels")
    if labels and not document["metadata"].get("labels"):
        document["metadata"]["labels"] = dict(labels)


def give_selector(document: Document) -> None:
    """A Job selects its own pods by its uid, unless somebody insists on a selector of their own."""
    spec, metadata = document["spec"], document["metadata"]
    if spec.get("manualSelector"):
        return
    labels = part(part(part(spec, "template"), "metadata"), "labels")
    for prefix in ("", "batch.kubernetes.io/"):
        labels[f"{prefix}controller-uid"] = metadata["uid"]
        labels[f"{prefix}job-name"] = metadata.get("name", "")
    part(part(spec, "selector"), "matchLabels")["batch.kubernetes.io/controller-uid"] = metadata["uid"]
    _give_labels(document)


def problems_with_job(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a Job's spec, of which little may change."""
    spec = after.get("spec") or {}
    problems = [*_problems_with_numbers(spec), *problems_with_workload(spec, None, restarts=RESTARTS)]
    if before is not None:
        had: dict[str, Any] = before.get("spec") or {}
        problems += [wrong(f"spec.{field}", spec.get(field), "may not change") for field in _FIXED if spec.get(field) != had.get(field)]
    return problems


def _problems_with_numbers(spec: dict[str, Any]) -> Iterator[FieldProblem]:
    for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
        value = spec.get(field)
        if value is not None and value < 0:
            yield wrong(f"spec.{field}", value, "must not be negative")
    for field in _NOT_SERVED:
        if spec.get(field) is not None:
            yield forbidden(f"spec.{field}", "is not served here yet; leave it out")
    if spec.get("completionMode") == "Indexed":
        yield forbidden("spec.completionMode", "Indexed is not served here yet; NonIndexed is")
    elif spec.get("completionMode") != "NonIndexed":
        yield unsupported("spec.completionMode", spec.get("completionMode"), ("NonIndexed", "Indexed"))
    if spec.get("podReplacementPolicy") == "Failed":
        yield forbidden("spec.podReplacementPolicy", "Failed is not served here yet; TerminatingOrFailed is")
    elif spec.get("podReplacementPolicy") != "TerminatingOrFailed":
        yield unsupported("spec.podReplacementPolicy", spec.get("podReplacementPolicy"), ("Failed", "TerminatingOrFailed"))
    if ((spec.get("template") or {}).get("spec") or {}).get("restartPolicy") == "Always":
        yield required("spec.template.spec.restartPolicy", f"a pod that is to end is restarted {' or '.join(RESTARTS)}")


def problems_with_job_status(after: Document) -> list[FieldProblem]:
    """Counts are not negative."""
    status = after.get("status") or {}
    fields = (*_COUNTS, "ready", "terminating")
    return [wrong(f"status.{field}", status[field], "must not be negative") for field in fields if (status.get(field) or 0) < 0]
