"""Jobs on their way: their defaults, their generated selector, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.rules.indexes import parse_indexes, text_of_indexes
from twinstack.rules.names import subdomain_problem
from twinstack.rules.problems import required, unsupported, wrong
from twinstack.rules.shape import default, default_conditions, drop_zeros, part
from twinstack.rules.workload_validation import default_template, problems_with_template, problems_with_workload

_COUNTS = ("active", "succeeded", "failed")
_FIXED = ("completions", "selector", "template", "completionMode", "manualSelector")
_FIXED_POLICIES = ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "managedBy")
_FINAL = frozenset(("Complete", "Failed"))
_DIRECTIVES = frozenset(("nodeSelector", "affinity", "tolerations", "schedulingGates"))
_FOR_INDEXED = ("successPolicy", "backoffLimitPerIndex", "maxFailedIndexes")
_ACTIONS = ("Count", "FailIndex", "FailJob", "Ignore")
_MODES, _REPLACEMENTS = ("Indexed", "NonIndexed"), ("Failed", "TerminatingOrFailed")
_LONGEST_INDEXED, _LONGEST_MANAGER, _MOST_RULES, _NO_LIMIT = 100_000, 63, 20, 2**31 - 1
RESTARTS = ("OnFailure", "Never")


def default_job(document: Document) -> None:
    """The version's static defaults of a Job; its labels are its template's when left out."""
    default_job_spec(part(document, "spec"))
    _give_labels(document)
    status = part(document, "status")
    drop_zeros(status, (*_COUNTS, "conditions", "completedIndexes"))
    default_conditions(status, ("lastProbeTime", "lastTransitionTime"))


def default_job_spec(spec: dict[str, Any]) -> None:
    """The same of what a Job is made of."""
    if spec.get("parallelism") is None:
        spec["parallelism"] = 1
        spec.setdefault("completions", 1)
    for field, value in (("backoffLimit", 6 if spec.get("backoffLimitPerIndex") is None else _NO_LIMIT), ("suspend", False), ("manualSelector", False)):
        spec.setdefault(field, value)
    default(spec, "completionMode", "NonIndexed")
    default(spec, "podReplacementPolicy", "TerminatingOrFailed" if spec.get("podFailurePolicy") is None else "Failed")
    default_job_template(spec)


def default_job_template(spec: dict[str, Any]) -> None:
    """The defaults of Jobs that are still to be made, which is when they get their others."""
    for rule in (spec.get("podFailurePolicy") or {}).get("rules") or ():
        for pattern in rule.get("onPodConditions") or ():
            pattern.setdefault("status", "True")
    default_template(spec)


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
        fixed = [field for field in (*_FIXED, *_FIXED_POLICIES) if not (field == "completions" and spec.get("completionMode") == "Indexed")]
        if had.get("suspend") and not (before.get("status") or {}).get("startTime"):
            # Nothing runs yet, so something else may still say where it will.
            spec, had = {**spec, "template": _without_directives(spec)}, {**had, "template": _without_directives(had)}
        problems += [wrong(f"spec.{field}", spec.get(field), "may not change") for field in fixed if spec.get(field) != had.get(field)]
        if "completions" not in fixed and spec.get("completions") != had.get("completions") and spec.get("completions") != spec.get("parallelism"):
            problems.append(
                wrong("spec.completions", spec.get("completions"), "of an Indexed Job may change only together with parallelism, to the same number")
            )
    return problems


def _without_directives(spec: dict[str, Any]) -> dict[str, Any]:
    """A Job's template without what may change while it is suspended and was never started: where its pods go, and what they get there."""
    template = spec.get("template") or {}
    pod = {name: value for name, value in (template.get("spec") or {}).items() if name not in _DIRECTIVES}
    for field in ("initContainers", "containers"):
        if pod.get(field):
            pod[field] = [{name: value for name, value in one.items() if name != "resources"} for one in pod[field]]
    metadata = {name: value for name, value in (template.get("metadata") or {}).items() if name not in ("labels", "annotations")}
    return {**template, "metadata": metadata, "spec": pod}


def problems_with_job_spec(spec: dict[str, Any], path: str) -> list[FieldProblem]:
    """What is wrong with a Job that is to be made, but for its selector, which it gets then."""
    problems = [*_problems_with_numbers(spec), *problems_with_template(spec.get("template") or {}, RESTARTS)]
    return [FieldProblem(path + one.path.removeprefix("spec"), one.type, one.value, one.detail) for one in problems]


def _problems_with_numbers(spec: dict[str, Any]) -> Iterator[FieldProblem]:
    for field in ("parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes", "ttlSecondsAfterFinished"):
        value = spec.get(field)
        if value is not None and value < 0:
            yield wrong(f"spec.{field}", value, "must not be negative")
    for field, given in (("completionMode", _MODES), ("podReplacementPolicy", _REPLACEMENTS)):
        if spec.get(field) not in (None, *given):
            yield unsupported(f"spec.{field}", spec.get(field), given)
    if spec.get("managedBy") is not None:
        domain, _, path = spec["managedBy"].partition("/")
        if not path or subdomain_problem(domain) or len(spec["managedBy"]) > _LONGEST_MANAGER:
            yield wrong(
                "spec.managedBy", spec["managedBy"], f"must be a path with a domain before it, such as example.com/it, of at most {_LONGEST_MANAGER} characters"
            )
    indexed = spec.get("completionMode") == "Indexed"
    if indexed and spec.get("completions") is None:
        yield required("spec.completions", "an Indexed Job needs to know how many indexes there are")
    if indexed and (spec.get("parallelism") or 0) > _LONGEST_INDEXED:
        yield wrong("spec.parallelism", spec["parallelism"], f"of an Indexed Job must be at most {_LONGEST_INDEXED}")
    for field in _FOR_INDEXED if not indexed else ():
        if spec.get(field) is not None:
            yield wrong(f"spec.{field}", spec[field], "is for Indexed Jobs only")
    if spec.get("maxFailedIndexes") is not None and spec.get("backoffLimitPerIndex") is None:
        yield required("spec.backoffLimitPerIndex", "maxFailedIndexes counts what it makes fail")
    if spec.get("maxFailedIndexes") is not None and spec.get("completions") is not None and spec["maxFailedIndexes"] > spec["completions"]:
        yield wrong("spec.maxFailedIndexes", spec["maxFailedIndexes"], "must be at most completions")
    pod = (spec.get("template") or {}).get("spec") or {}
    if pod.get("restartPolicy") == "Always":
        yield required("spec.template.spec.restartPolicy", f"a pod that is to end is restarted {' or '.join(RESTARTS)}")
    if spec.get("podFailurePolicy") is not None:
        yield from _problems_with_failure_policy(spec["podFailurePolicy"], spec, pod)
    if spec.get("successPolicy") is not None:
        yield from _problems_with_success_policy(spec["successPolicy"], spec)


def _problems_with_failure_policy(policy: dict[str, Any], spec: dict[str, Any], pod: dict[str, Any]) -> Iterator[FieldProblem]:
    path = "spec.podFailurePolicy"
    if pod.get("restartPolicy") != "Never":
        yield wrong("spec.template.spec.restartPolicy", pod.get("restartPolicy"), "must be Never with a podFailurePolicy")
    if spec.get("podReplacementPolicy") not in (None, "Failed"):
        yield wrong("spec.podReplacementPolicy", spec.get("podReplacementPolicy"), "must be Failed with a podFailurePolicy")
    rules = policy.get("rules") or []
    if len(rules) > _MOST_RULES:
        yield wrong(f"{path}.rules", len(rules), f"may be at most {_MOST_RULES}")
    names = {one.get("name") for field in ("initContainers", "containers") for one in pod.get(field) or ()}
    for number, rule in enumerate(rules):
        here = f"{path}.rules[{number}]"
        if rule.get("action") not in _ACTIONS:
            yield unsupported(f"{here}.action", rule.get("action"), _ACTIONS)
        if rule.get("action") == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            yield wrong(f"{here}.action", "FailIndex", "needs backoffLimitPerIndex")
        codes = rule.get("onExitCodes")
        if (codes is None) is not bool(rule.get("onPodConditions")):
            yield wrong(here, rule.get("action"), "must say onExitCodes or onPodConditions, one of them")
        if codes is None:
            continue
        values, operator = codes.get("values") or [], codes.get("operator")
        if operator not in ("In", "NotIn"):
            yield unsupported(f"{here}.onExitCodes.operator", operator, ("In", "NotIn"))
        if not values or values != sorted(set(values)):
            yield wrong(f"{here}.onExitCodes.values", values, "must be exit codes in order, each once")
        if operator == "In" and 0 in values:
            yield wrong(f"{here}.onExitCodes.values", 0, "is no failure")
        if codes.get("containerName") not in (None, *names):
            yield wrong(f"{here}.onExitCodes.containerName", codes["containerName"], "is no container of the pod")


def _problems_with_success_policy(policy: dict[str, Any], spec: dict[str, Any]) -> Iterator[FieldProblem]:
    path, rules = "spec.successPolicy.rules", policy.get("rules") or []
    if not rules:
        yield required(path, "at least one rule is needed")
    elif len(rules) > _MOST_RULES:
        yield wrong(path, len(rules), f"may be at most {_MOST_RULES}")
    for number, rule in enumerate(rules):
        text, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if text is None and count is None:
            yield required(f"{path}[{number}]", "succeededIndexes or succeededCount, or both, must be said")
        numbers = parse_indexes(text)
        if text is not None and (text_of_indexes(numbers) != text or not numbers or max(numbers) >= (spec.get("completions") or 0)):
            example = text_of_indexes(one for one in numbers if one < (spec.get("completions") or 0))
            yield wrong(f"{path}[{number}].succeededIndexes", text, f"must be indexes in order, such as {example or '0'}, below completions")
        if count is not None and not 0 < count <= (len(numbers) if text is not None else spec.get("completions") or 0):
            yield wrong(f"{path}[{number}].succeededCount", count, "must be positive, and at most as many as there are")


def problems_with_job_status(after: Document, before: Document) -> list[FieldProblem]:
    """What no Job's status may say, where it says something new: others than our own controller may run Jobs (``managedBy``)."""
    return list(_problems_with_status(after.get("status") or {}, before.get("status") or {}, after.get("spec") or {}))


def _problems_with_status(now: dict[str, Any], was: dict[str, Any], spec: dict[str, Any]) -> Iterator[FieldProblem]:
    for field in (*_COUNTS, "ready", "terminating"):
        if (now.get(field) or 0) < 0:
            yield wrong(f"status.{field}", now[field], "must not be negative")
    changed = {field for field in (*_COUNTS, "ready", "terminating", "completionTime", "startTime") if now.get(field) != was.get(field)}
    true, had = ({one.get("type") for one in status.get("conditions") or () if one.get("status") == "True"} for status in (now, was))
    finished = bool(true & _FINAL)
    ends = finished != bool(had & _FINAL)
    for field in ("active", "terminating"):
        if finished and (ends or field in changed) and now.get(field):
            yield wrong(f"status.{field}", now[field], "must be 0 once the Job has ended")
    if finished and (ends or "startTime" in changed) and not now.get("startTime"):
        yield required("status.startTime", "a Job that has ended had begun")
    if "Complete" in true and (ends or "completionTime" in changed) and not now.get("completionTime"):
        yield required("status.completionTime", "a Job that is Complete was so at some time")
    if "Complete" not in true and (ends or "completionTime" in changed) and now.get("completionTime"):
        yield wrong("status.completionTime", now["completionTime"], "is for Jobs that are Complete")
    if now.get("completionTime") and was.get("completionTime") and "completionTime" in changed:
        yield wrong("status.completionTime", now["completionTime"], "may not change")
    for final, decided in (("Complete", "SuccessCriteriaMet"), ("Failed", "FailureTarget")):
        if final in true and decided not in true and (final not in had or decided in had):
            yield wrong("status.conditions", None, f"{final} comes after {decided}")
    for one, other in (("Complete", "Failed"), ("Complete", "FailureTarget"), ("SuccessCriteriaMet", "Failed"), ("SuccessCriteriaMet", "FailureTarget")):
        if {one, other} <= true and not {one, other} <= had:
            yield wrong("status.conditions", None, f"{one} and {other} exclude each other")
    for gone in sorted((had - true) & {*_FINAL, "FailureTarget", "SuccessCriteriaMet"}):
        yield wrong("status.conditions", None, f"{gone} is for ever")
    if changed & {"ready", "active"} and (now.get("ready") or 0) > (now.get("active") or 0):
        yield wrong("status.ready", now["ready"], "must be at most active")
    if (now.get("failed") or 0) < (was.get("failed") or 0):
        yield wrong("status.failed", now.get("failed", 0), "must not decrease")
    elastic = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    if not elastic and (now.get("succeeded") or 0) < (was.get("succeeded") or 0):
        yield wrong("status.succeeded", now.get("succeeded", 0), "must not decrease")
    if "startTime" in changed and was.get("startTime") and not spec.get("suspend"):
        yield required("status.startTime", "stays as long as the Job is not suspended")
