"""What an Event must look like, and its two forms: that of the core group and that of events.k8s.io.

Rule of this file: there is one Event, kept in the core form, and two doors to it. What came through either is seen through both.

Theory. The old form tells when something happened first and last and how often, and by what component; the new form has one time
with microseconds, a controller and its instance, and a series. In the core form the new fields have the old names below;
seen from the other group the old fields are called deprecated. Whoever writes a new event (one with an ``eventTime``, or
through the new door) says who reports it and what was done; an old one only has to live in the namespace of what it is about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.rules.configuration import kept_time
from twinstack.rules.names import qualified_problem
from twinstack.rules.problems import required, wrong
from twinstack.rules.shape import drop_zeros, part

EVENTS_GROUP = "events.k8s.io"
NEW_VERSION = f"{EVENTS_GROUP}/v1"
MOST_TEXT, MOST_NOTE = 128, 1024
# core → events.k8s.io; every other field has one name
NAMES: Mapping[str, str] = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_CORE_NAMES = {new: core for core, new in NAMES.items()}
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_TEXTS = ("reason", "message", "type", "action", "count", "reportingComponent", "reportingInstance")
# what never changes through the new door, by core name; the series does
_STANDING = (
    "involvedObject", "reason", "message", "source", "firstTimestamp", "lastTimestamp", "count", "type", "eventTime", "action", "related",
    "reportingComponent", "reportingInstance",
)  # fmt: skip


def default_event(document: Document) -> None:
    """The fields that an Event always shows in the core form. BadRequest when a time is none."""
    part(document, "involvedObject")
    drop_zeros(document, _TEXTS)
    part(document, "source")
    for field in ("reportingComponent", "reportingInstance"):
        document.setdefault(field, "")
    for field, micro in (("firstTimestamp", False), ("lastTimestamp", False), ("eventTime", True)):
        text = document.setdefault(field, None)
        if text is not None:
            document[field] = kept_time(text, field, micro=micro)
    series = document.get("series")
    if series and series.get("lastObservedTime") is not None:
        series["lastObservedTime"] = kept_time(series["lastObservedTime"], "series.lastObservedTime", micro=True)


def new_form(document: Document) -> Document:
    """An Event in core form as events.k8s.io shows it."""
    shown: Document = {"kind": "Event", "apiVersion": NEW_VERSION, "metadata": document["metadata"]}
    for field, value in document.items():
        if field not in shown:
            shown[NAMES.get(field, field)] = value
    drop_zeros(shown, ("reportingController", "reportingInstance"))
    return shown


def core_form(document: Document) -> Document:
    """The inverse of :func:`new_form`, with the fields that the core form always shows."""
    kept = with_core_names(document)
    default_event(kept)
    return kept


def with_core_names(document: Document) -> Document:
    """Each field under the name that it has in the core form, and no more."""
    kept: Document = {"kind": "Event", "apiVersion": "v1", "metadata": document.get("metadata")}
    for field, value in document.items():
        if field not in kept:
            kept[_CORE_NAMES.get(field, field)] = value
    return kept


def problems_with_event(document: Document, *, new_door: bool = False) -> list[FieldProblem]:
    """What is wrong with a new Event in core form, which came through either door."""
    problems = list(_problems_with_any(document, "reportingController" if new_door else "reportingComponent"))
    if not new_door:
        return problems
    problems += _problems_with_series(document)
    if not document.get("eventTime"):
        problems.append(required("eventTime", "the time with microseconds"))
    if document.get("type") not in ("Normal", "Warning"):
        problems.append(wrong("type", document.get("type", ""), "must be Normal or Warning"))
    problems += [
        wrong(field, document[field], "must not be set through this door") for field in ("firstTimestamp", "lastTimestamp", "count") if document.get(field)
    ]
    source = document.get("source") or {}
    if source.get("component") or source.get("host"):
        problems.append(wrong("source", source, "must not be set through this door"))
    return problems


def problems_with_event_update(after: Document, before: Document, *, new_door: bool = False) -> list[FieldProblem]:
    """What is wrong with a change; through the new door only the series changes."""
    problems = list(_problems_with_any(after, "reportingController" if new_door else "reportingComponent"))
    if not new_door:
        return problems
    if (after.get("series") or None) != (before.get("series") or None):
        problems += _problems_with_series(after)
    for field in _STANDING:
        if (after.get(field) or None) != (before.get(field) or None):
            problems.append(wrong("reportingController" if field == "reportingComponent" else field, after.get(field), "may not change"))
    return problems


def _problems_with_any(document: Document, controller_path: str) -> Iterator[FieldProblem]:
    namespace = (document.get("metadata") or {}).get("namespace", "")
    involved = (document.get("involvedObject") or {}).get("namespace", "")
    if not document.get("eventTime"):
        if involved != namespace and (involved or namespace != "default"):
            yield wrong("involvedObject.namespace", involved, f"must be the event's own namespace, {namespace!r}")
        return
    if not involved and namespace not in ("default", "kube-system"):
        yield wrong("involvedObject.namespace", involved, "events about what has no namespace live in default or kube-system")
    controller = document.get("reportingComponent") or ""
    if not controller:
        yield required(controller_path, "who reports it")
    if problem := qualified_problem(controller):
        yield wrong(controller_path, controller, problem)
    for field in ("reportingInstance", "action", "reason"):
        text = document.get(field) or ""
        if not text:
            yield required(field)
        elif len(text) > MOST_TEXT:
            yield wrong(field, "", f"must be no more than {MOST_TEXT} characters")
    if len(document.get("message") or "") > MOST_NOTE:
        yield wrong("message", "", f"must be no more than {MOST_NOTE} characters")


def _problems_with_series(document: Document) -> Iterator[FieldProblem]:
    series = document.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        yield wrong("series.count", series.get("count", 0), "a series begins with the second")
    if not series.get("lastObservedTime"):
        yield required("series.lastObservedTime")


def event_fields(document: Mapping[str, Any]) -> dict[str, str]:
    """What events can be selected by, from the core form."""
    involved, source = document.get("involvedObject") or {}, document.get("source") or {}
    fields = {f"involvedObject.{name}": str(involved.get(name, "")) for name in _INVOLVED}
    reporting = document.get("reportingComponent") or ""
    component = source.get("component") or reporting
    return {**fields, "reason": document.get("reason", ""), "type": document.get("type", ""), "source": component, "reportingComponent": reporting}


def new_event_fields(document: Mapping[str, Any]) -> dict[str, str]:
    """What events can be selected by, from the new form."""
    fields = event_fields({_CORE_NAMES.get(field, field): value for field, value in document.items()})
    regarding = {name.replace("involvedObject.", "regarding."): value for name, value in fields.items() if name.startswith("involvedObject.")}
    return {**regarding, "reason": fields["reason"], "type": fields["type"], "reportingController": fields["reportingComponent"]}
