"""What ``kubectl get`` shows of CronJobs and PriorityClasses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from twinstack.api.objects import Document, read
from twinstack.apiserver.cells import NONE, since, text_of_selector


def cronjob_schedule(document: Document, now: datetime) -> Any:
    return read(document, ("spec", "schedule"), "")


def cronjob_zone(document: Document, now: datetime) -> Any:
    return read(document, ("spec", "timeZone")) or NONE


def cronjob_suspended(document: Document, now: datetime) -> Any:
    return "True" if read(document, ("spec", "suspend")) else "False"


def cronjob_active(document: Document, now: datetime) -> Any:
    return len(read(document, ("status", "active")) or ())


def cronjob_last(document: Document, now: datetime) -> Any:
    last = read(document, ("status", "lastScheduleTime"))
    return since(last, now) if last else NONE


def cronjob_containers(document: Document, now: datetime) -> Any:
    return ",".join(str(one.get("name", "")) for one in _containers(document))


def cronjob_images(document: Document, now: datetime) -> Any:
    return ",".join(str(one.get("image", "")) for one in _containers(document))


def cronjob_selector(document: Document, now: datetime) -> Any:
    try:
        return text_of_selector(read(document, ("spec", "jobTemplate", "spec", "selector"))) or NONE
    except ValueError:
        return "<error>"


def _containers(document: Document) -> Any:
    return read(document, ("spec", "jobTemplate", "spec", "template", "spec", "containers")) or ()


def priority_value(document: Document, now: datetime) -> Any:
    return document.get("value", 0)


def priority_default(document: Document, now: datetime) -> Any:
    return bool(document.get("globalDefault"))


def priority_policy(document: Document, now: datetime) -> Any:
    return document.get("preemptionPolicy", "")
