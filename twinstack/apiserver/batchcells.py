"""What ``kubectl get`` shows of CronJobs and PriorityClasses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from twinstack.api.objects import Document, read
from twinstack.apiserver.cells import NONE, since, text_of_selector


def cronjob_schedule(document: Document, now: datetime) -> Any:
    """When Jobs are made."""
    return read(document, ("spec", "schedule"), "")


def cronjob_zone(document: Document, now: datetime) -> Any:
    """Where that time is told."""
    return read(document, ("spec", "timeZone")) or NONE


def cronjob_suspended(document: Document, now: datetime) -> Any:
    """Whether none are made now."""
    return "True" if read(document, ("spec", "suspend")) else "False"


def cronjob_active(document: Document, now: datetime) -> Any:
    """How many Jobs run."""
    return len(read(document, ("status", "active")) or ())


def cronjob_last(document: Document, now: datetime) -> Any:
    """How long ago it last was time."""
    last = read(document, ("status", "lastScheduleTime"))
    return since(last, now) if last else NONE


def cronjob_containers(document: Document, now: datetime) -> Any:
    """The containers' names."""
    return ",".join(str(one.get("name", "")) for one in _containers(document))


def cronjob_images(document: Document, now: datetime) -> Any:
    """The containers' images."""
    return ",".join(str(one.get("image", "")) for one in _containers(document))


def cronjob_selector(document: Document, now: datetime) -> Any:
    """The labels of the Jobs' pods."""
    try:
        return text_of_selector(read(document, ("spec", "jobTemplate", "spec", "selector"))) or NONE
    except ValueError:
        return "<error>"


def _containers(document: Document) -> Any:
    return read(document, ("spec", "jobTemplate", "spec", "template", "spec", "containers")) or ()


def priority_value(document: Document, now: datetime) -> Any:
    """How important the class is."""
    return document.get("value", 0)


def priority_default(document: Document, now: datetime) -> Any:
    """Whether pods that name no class are of this one."""
    return bool(document.get("globalDefault"))


def priority_policy(document: Document, now: datetime) -> Any:
    """Whether pods of the class drive others away."""
    return document.get("preemptionPolicy", "")
