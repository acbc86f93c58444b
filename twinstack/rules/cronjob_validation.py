"""CronJobs on their way: their defaults, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.rules.job_validation import default_job_template, problems_with_job_spec
from twinstack.rules.problems import required, unsupported, wrong
from twinstack.rules.schedules import ScheduleError, check_schedule, zone_of
from twinstack.rules.shape import default, part

POLICIES = ("Allow", "Forbid", "Replace")
LONGEST_NAME = 52  # a Job's name is the CronJob's and eleven characters more


def default_cron_job(document: Document) -> None:
    """The version's static defaults of a CronJob and of the Jobs that it makes."""
    spec = part(document, "spec")
    default(spec, "concurrencyPolicy", "Allow")
    for field, value in (("suspend", False), ("successfulJobsHistoryLimit", 3), ("failedJobsHistoryLimit", 1)):
        spec.setdefault(field, value)
    template = part(spec, "jobTemplate")
    part(template, "metadata")
    default_job_template(part(template, "spec"))
    part(document, "status")


def problems_with_cron_job(document: Document, before: Document | None = None) -> list[FieldProblem]:
    """What is wrong with a CronJob; one that was accepted once may keep its schedule and zone."""
    return list(_problems(document, (before or {}).get("spec") or {}))


def _problems(document: Document, had: dict[str, Any]) -> Iterator[FieldProblem]:
    spec = document.get("spec") or {}
    name = (document.get("metadata") or {}).get("name", "")
    if len(name) > LONGEST_NAME and not had:
        yield wrong("metadata.name", name, f"must be no more than {LONGEST_NAME} characters, as its Jobs have longer ones")
    schedule = spec.get("schedule") or ""
    if not schedule:
        yield required("spec.schedule", "such as '*/5 * * * *'")
    elif "TZ" in schedule:
        if schedule != had.get("schedule"):
            yield wrong("spec.schedule", schedule, "must not name a time zone; spec.timeZone does")
    else:
        try:
            check_schedule(schedule)
        except ScheduleError as error:
            yield wrong("spec.schedule", schedule, str(error))
    if spec.get("timeZone") is not None and spec["timeZone"] != had.get("timeZone"):
        try:
            zone_of(spec["timeZone"])
            if not spec["timeZone"]:
                yield wrong("spec.timeZone", "", "must be left out, or name a zone such as Etc/UTC")
        except ScheduleError as error:
            yield wrong("spec.timeZone", spec["timeZone"], str(error))
    for field in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        value = spec.get(field)
        if value is not None and value < 0:
            yield wrong(f"spec.{field}", value, "must not be negative")
    if spec.get("concurrencyPolicy") not in POLICIES:
        yield unsupported("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), POLICIES)
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    if job.get("selector") is not None:
        yield wrong("spec.jobTemplate.spec.selector", job["selector"], "each Job selects its own pods")
    if job.get("manualSelector"):
        yield unsupported("spec.jobTemplate.spec.manualSelector", True, ("false",))
    yield from problems_with_job_spec(job, "spec.jobTemplate.spec")
