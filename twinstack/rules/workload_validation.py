"""Workloads on their way: their defaults, and everything that can be wrong with them.

The pod template in them is judged as a pod is, but for what only a running pod may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import LabelSelector
from twinstack.api.objects import Document, view_of
from twinstack.api.selectors import of_selector
from twinstack.rules.metadata import problems_with_annotations, problems_with_labels
from twinstack.rules.names import label_problem, label_value_problem, qualified_problem
from twinstack.rules.pod_validation import problems_with_pod_spec
from twinstack.rules.pods import default_pod_spec
from twinstack.rules.problems import forbidden, required, unsupported, wrong
from twinstack.rules.shape import default, default_conditions, drop_zeros, part

SHARE = "25%"
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def default_deployment(document: Document) -> None:
    """The version's static defaults of a Deployment."""
    spec = part(document, "spec")
    drop_zeros(spec, ("minReadySeconds", "paused"))
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = part(spec, "strategy")
    default(strategy, "type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = part(strategy, "rollingUpdate")
        rolling.setdefault("maxUnavailable", SHARE)
        rolling.setdefault("maxSurge", SHARE)
    default_template(spec)
    drop_zeros(part(document, "status"), _COUNTS)
    default_conditions(document["status"], ("lastUpdateTime", "lastTransitionTime"))


def default_replica_set(document: Document) -> None:
    """The version's static defaults of a ReplicaSet; a selector that is left out is the template's labels."""
    spec = part(document, "spec")
    drop_zeros(spec, ("minReadySeconds",))
    spec.setdefault("replicas", 1)
    default_template(spec)
    status = part(document, "status")
    drop_zeros(status, [count for count in _COUNTS if count != "replicas"])
    status.setdefault("replicas", 0)
    default_conditions(status, ("lastTransitionTime",))


def default_replication_controller(document: Document) -> None:
    """The version's static defaults of a ReplicationController; its selector, and its labels, are its template's when left out."""
    default_replica_set(document)
    spec = document["spec"]
    labels = spec["template"]["metadata"].get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not document["metadata"].get("labels"):
            document["metadata"]["labels"] = dict(labels)


def default_daemon_set(document: Document) -> None:
    """The version's static defaults of a DaemonSet."""
    spec = part(document, "spec")
    drop_zeros(spec, ("minReadySeconds",))
    spec.setdefault("revisionHistoryLimit", 10)
    strategy = part(spec, "updateStrategy")
    default(strategy, "type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = part(strategy, "rollingUpdate")
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    default_template(spec)
    status = part(document, "status")
    drop_zeros(status, ("observedGeneration", "updatedNumberScheduled", "numberAvailable", "numberUnavailable", "conditions"))
    for count in _ALWAYS_COUNTED:
        status.setdefault(count, 0)
    default_conditions(status, ("lastTransitionTime",))


def default_stateful_set(document: Document) -> None:
    """The version's static defaults of a StatefulSet."""
    spec = part(document, "spec")
    drop_zeros(spec, ("minReadySeconds", "volumeClaimTemplates"))
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("serviceName", "")
    default(spec, "podManagementPolicy", "OrderedReady")
    strategy = part(spec, "updateStrategy")
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        part(strategy, "rollingUpdate")
    if strategy["type"] == "RollingUpdate" and strategy.get("rollingUpdate") is not None:
        strategy["rollingUpdate"].setdefault("partition", 0)
    retention = part(spec, "persistentVolumeClaimRetentionPolicy")
    default(retention, "whenDeleted", "Retain")
    default(retention, "whenScaled", "Retain")
    default_template(spec)
    status = part(document, "status")
    drop_zeros(status, ("observedGeneration", "readyReplicas", "currentReplicas", "updatedReplicas", "currentRevision", "updateRevision", "conditions"))
    status.setdefault("replicas", 0)
    status.setdefault("availableReplicas", 0)
    default_conditions(status, ("lastTransitionTime",))


_ALWAYS_COUNTED = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
_COUNTS = (
    "observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas", "fullyLabeledReplicas",
    "terminatingReplicas", "conditions",
)  # fmt: skip
_PARTS = ("updatedReplicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas")


def default_template(spec: dict[str, Any]) -> None:
    """The defaults of the pod template in a workload's spec."""
    template = part(spec, "template")
    drop_zeros(part(template, "metadata"), ("labels", "annotations"))
    default_pod_spec(part(template, "spec"))


def problems_with_deployment(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a Deployment's spec."""
    spec = after.get("spec") or {}
    problems = [*problems_with_workload(spec, before), *_problems_with_strategy(spec.get("strategy") or {})]
    history, deadline = spec.get("revisionHistoryLimit"), spec.get("progressDeadlineSeconds")
    if history is not None and history < 0:
        problems.append(wrong("spec.revisionHistoryLimit", history, "must not be negative"))
    if deadline is not None and deadline <= spec.get("minReadySeconds", 0):
        problems.append(wrong("spec.progressDeadlineSeconds", deadline, "must be greater than spec.minReadySeconds"))
    return problems


def problems_with_replica_set(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a ReplicaSet's spec."""
    return problems_with_workload(after.get("spec") or {}, before)


def problems_with_replication_controller(after: Document) -> list[FieldProblem]:
    """What is wrong with a ReplicationController's spec, whose selector may change."""
    spec = after.get("spec") or {}
    selector, template = spec.get("selector") or {}, spec.get("template") or {}
    problems = _problems_with_counts(spec)
    if not selector:
        problems.append(required("spec.selector"))
    labels = (template.get("metadata") or {}).get("labels") or {}
    if not selector.items() <= labels.items():
        problems.append(wrong("spec.template.metadata.labels", labels, "must be selected by spec.selector"))
    return [*problems, *problems_with_template(template)]


def problems_with_daemon_set(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a DaemonSet's spec."""
    spec = after.get("spec") or {}
    problems = [*problems_with_workload(spec, before), *_problems_with_update_strategy(spec.get("updateStrategy") or {})]
    history = spec.get("revisionHistoryLimit")
    if history is not None and history < 0:
        problems.append(wrong("spec.revisionHistoryLimit", history, "must not be negative"))
    return problems


def problems_with_stateful_set(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a StatefulSet's spec, of which little may change."""
    spec = after.get("spec") or {}
    problems = [*problems_with_workload(spec, None), *_problems_with_order(spec)]
    if before is not None:
        had = before.get("spec") or {}
        if changed := sorted(field for field in {*spec, *had} - _MOVABLE if spec.get(field) != had.get(field)):
            problems.append(forbidden("spec", f"may not change but for {', '.join(sorted(_MOVABLE))}; this changes {', '.join(changed)}"))
    return problems


_MOVABLE = frozenset(("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "persistentVolumeClaimRetentionPolicy", "minReadySeconds"))


def _problems_with_order(spec: Mapping[str, Any]) -> Iterator[FieldProblem]:
    if spec.get("volumeClaimTemplates"):
        yield forbidden("spec.volumeClaimTemplates", "there are no persistent volumes here, so no pod could ever start; leave it out, or use an emptyDir")
    if spec.get("podManagementPolicy") not in ("OrderedReady", "Parallel"):
        yield wrong("spec.podManagementPolicy", spec.get("podManagementPolicy"), "must be OrderedReady or Parallel")
    if spec.get("serviceName") and (problem := label_problem(spec["serviceName"])):
        yield wrong("spec.serviceName", spec["serviceName"], problem)
    for path, value in (("spec.revisionHistoryLimit", spec.get("revisionHistoryLimit")), ("spec.ordinals.start", (spec.get("ordinals") or {}).get("start"))):
        if value is not None and value < 0:
            yield wrong(path, value, "must not be negative")
    for field, value in (spec.get("persistentVolumeClaimRetentionPolicy") or {}).items():
        if value not in ("Retain", "Delete"):
            yield unsupported(f"spec.persistentVolumeClaimRetentionPolicy.{field}", value, ("Retain", "Delete"))
    strategy = spec.get("updateStrategy") or {}
    path, type_, rolling = "spec.updateStrategy", strategy.get("type"), strategy.get("rollingUpdate")
    if type_ not in ("RollingUpdate", "OnDelete"):
        yield wrong(path, strategy, "type must be RollingUpdate or OnDelete")
    elif rolling is not None and type_ == "OnDelete":
        yield wrong(f"{path}.rollingUpdate", rolling, "must be left out where type is OnDelete")
    elif rolling is not None:
        if rolling.get("partition") is not None and rolling["partition"] < 0:
            yield wrong(f"{path}.rollingUpdate.partition", rolling["partition"], "must not be negative")
        most = rolling.get("maxUnavailable")
        if most is not None and (problem := share_problem(most) or ("must not be 0" if most in (0, "0%") else None)):
            yield wrong(f"{path}.rollingUpdate.maxUnavailable", most, problem)
        elif _percent(most) > 100:
            yield wrong(f"{path}.rollingUpdate.maxUnavailable", most, "must be at most 100%")


def problems_with_stateful_set_status(after: Document, before: Document) -> list[FieldProblem]:
    """As of other workloads; and no more may be of a revision than there are."""
    status = after.get("status") or {}
    total = status.get("replicas", 0)
    problems = problems_with_workload_status(after, before)
    for field in ("currentReplicas",):
        if status.get(field, 0) < 0:
            problems.append(wrong(f"status.{field}", status[field], "must not be negative"))
        elif status.get(field, 0) > total:
            problems.append(wrong(f"status.{field}", status[field], f"must be at most status.replicas, which is {total}"))
    return problems


def problems_with_revision(after: Document, before: Document | None = None) -> list[FieldProblem]:
    """A kept template is an object, and stays as it is."""
    problems = []
    if not isinstance(after.get("data"), dict):
        problems.append(required("data"))
    if before is not None and after.get("data") != before.get("data"):
        problems.append(wrong("data", after.get("data"), "may not change"))
    if after.get("revision", 0) < 0:
        problems.append(wrong("revision", after["revision"], "must not be negative"))
    return problems


def _problems_with_update_strategy(strategy: Mapping[str, Any]) -> Iterator[FieldProblem]:
    type_, path, rolling = strategy.get("type"), "spec.updateStrategy", strategy.get("rollingUpdate")
    if type_ not in ("OnDelete", "RollingUpdate"):
        yield unsupported(path, type_, ("OnDelete", "RollingUpdate"))
    elif type_ == "RollingUpdate":
        if rolling is None:
            yield required(f"{path}.rollingUpdate")
            return
        values = {field: rolling.get(field, 0) for field in ("maxUnavailable", "maxSurge")}
        for field, value in values.items():
            if problem := share_problem(value):
                yield wrong(f"{path}.rollingUpdate.{field}", value, problem)
            elif _percent(value) > 100:
                yield wrong(f"{path}.rollingUpdate.{field}", value, "must be at most 100%")
        some = [field for field, value in values.items() if value not in (0, "0%")]
        if not some:
            yield required(f"{path}.rollingUpdate.maxUnavailable", "must not be 0 when maxSurge is 0")
        elif len(some) == 2:
            yield wrong(f"{path}.rollingUpdate.maxSurge", values["maxSurge"], "must be 0 when maxUnavailable is not")


def problems_with_daemon_set_status(after: Document, before: Document) -> list[FieldProblem]:
    """Counts are not negative."""
    status = after.get("status") or {}
    counts = (*_ALWAYS_COUNTED, "observedGeneration", "updatedNumberScheduled", "numberAvailable", "numberUnavailable")
    problems = [wrong(f"status.{field}", status[field], "must not be negative") for field in counts if status.get(field, 0) < 0]
    if (status.get("collisionCount") or 0) < ((before.get("status") or {}).get("collisionCount") or 0):
        problems.append(wrong("status.collisionCount", status.get("collisionCount"), "may not grow smaller"))
    return problems


def _problems_with_counts(spec: Mapping[str, Any]) -> list[FieldProblem]:
    return [
        wrong(f"spec.{field}", spec[field], "must not be negative")
        for field in ("replicas", "minReadySeconds")
        if spec.get(field) is not None and spec[field] < 0
    ]


def problems_with_workload(spec: Mapping[str, Any], before: Document | None, *, restarts: tuple[str, ...] = ("Always",)) -> list[FieldProblem]:
    """What workloads have in common: counts, a selector that selects the template's pods, the template; *restarts* are its restart policies."""
    problems = _problems_with_counts(spec)
    selector = spec.get("selector")
    if before is not None and selector != (before.get("spec") or {}).get("selector"):
        problems.append(wrong("spec.selector", selector, "may not change"))
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    selects = True
    if selector is None:
        problems.append(required("spec.selector"))
    elif wrong_ones := list(problems_with_selector(selector, "spec.selector")):
        problems += wrong_ones
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        problems.append(wrong("spec.selector", selector, "must not be empty, which would select every pod"))
    else:
        found = of_selector(view_of(LabelSelector, selector))
        selects = found is not None and found.matches(labels)
    if not selects:
        problems.append(wrong("spec.template.metadata.labels", labels, "must be selected by spec.selector"))
    return [*problems, *problems_with_template(template, restarts)]


def problems_with_template(template: Mapping[str, Any], restarts: tuple[str, ...] = ("Always",)) -> Iterator[FieldProblem]:
    """What is wrong with the pods that are to be made."""
    path, metadata, spec = "spec.template", template.get("metadata") or {}, template.get("spec") or {}
    yield from problems_with_labels(metadata.get("labels"), f"{path}.metadata.labels")
    yield from problems_with_annotations(metadata.get("annotations"), f"{path}.metadata.annotations")
    yield from problems_with_pod_spec(spec, f"{path}.spec")
    if spec.get("restartPolicy") not in (None, "", "Always", *restarts):
        yield unsupported(f"{path}.spec.restartPolicy", spec["restartPolicy"], restarts)
    if spec.get("activeDeadlineSeconds") is not None and "Always" in restarts:
        yield forbidden(f"{path}.spec.activeDeadlineSeconds", "a workload's pods have no deadline")


def problems_with_selector(selector: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """What is wrong with a label selector."""
    yield from problems_with_labels(selector.get("matchLabels"), f"{path}.matchLabels")
    for i, expression in enumerate(selector.get("matchExpressions") or ()):
        here, operator, values = f"{path}.matchExpressions[{i}]", expression.get("operator", ""), expression.get("values") or []
        if problem := qualified_problem(expression.get("key", "")):
            yield wrong(f"{here}.key", expression.get("key", ""), problem)
        if operator not in _OPERATORS:
            yield unsupported(f"{here}.operator", operator, _OPERATORS)
        elif operator in ("In", "NotIn") and not values:
            yield required(f"{here}.values", f"operator {operator} compares with at least one")
        elif operator not in ("In", "NotIn") and values:
            yield forbidden(f"{here}.values", f"operator {operator} compares with none")
        for j, value in enumerate(values):
            if problem := label_value_problem(value):
                yield wrong(f"{here}.values[{j}]", value, problem)


def _problems_with_strategy(strategy: Mapping[str, Any]) -> Iterator[FieldProblem]:
    type_, path = strategy.get("type"), "spec.strategy"
    rolling = strategy.get("rollingUpdate")
    if type_ not in ("Recreate", "RollingUpdate"):
        yield unsupported(f"{path}.type", type_, ("Recreate", "RollingUpdate"))
    elif type_ == "Recreate":
        if rolling is not None:
            yield forbidden(f"{path}.rollingUpdate", "must be left out where type is Recreate")
    elif rolling is None:
        yield required(f"{path}.rollingUpdate")
    else:
        nothing = True
        for field in ("maxUnavailable", "maxSurge"):
            value = rolling.get(field, 0)
            problem = share_problem(value)
            if problem:
                yield wrong(f"{path}.rollingUpdate.{field}", value, problem)
            nothing = nothing and (problem is not None or value in (0, "0%"))
        if _percent(rolling.get("maxUnavailable", 0)) > 100:
            yield wrong(f"{path}.rollingUpdate.maxUnavailable", rolling["maxUnavailable"], "must be at most 100%")
        if nothing:
            yield wrong(f"{path}.rollingUpdate.maxUnavailable", rolling.get("maxUnavailable", 0), "must not be 0 when maxSurge is 0")


def share_problem(value: Any) -> str | None:
    """Why this is neither a number nor a percentage."""
    if isinstance(value, int):
        return None if value >= 0 else "must not be negative"
    return (
        None
        if isinstance(value, str) and value.endswith("%") and value[:-1].isascii() and value[:-1].isdigit()
        else "must be a number or a percentage, such as 25%"
    )


def _percent(value: Any) -> int:
    return int(value[:-1]) if share_problem(value) is None and isinstance(value, str) else 0


def problems_with_workload_status(after: Document, before: Document) -> list[FieldProblem]:
    """Counts are not negative, and none exceeds the one that it is a part of."""
    status = after.get("status") or {}
    problems = [
        wrong(f"status.{field}", status[field], "must not be negative") for field in _COUNTS if isinstance(status.get(field), int) and status[field] < 0
    ]
    total = status.get("replicas", 0)
    problems += [
        wrong(f"status.{field}", status[field], f"must be at most status.replicas, which is {total}") for field in _PARTS if status.get(field, total) > total
    ]
    if status.get("availableReplicas", 0) > status.get("readyReplicas", 0):
        problems.append(wrong("status.availableReplicas", status["availableReplicas"], "must be at most status.readyReplicas"))
    if (status.get("collisionCount") or 0) < ((before.get("status") or {}).get("collisionCount") or 0):
        problems.append(wrong("status.collisionCount", status.get("collisionCount"), "may not grow smaller"))
    return problems
