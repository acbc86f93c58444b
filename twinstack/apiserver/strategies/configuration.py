"""The small kinds: namespaces, ConfigMaps, Secrets, ServiceAccounts, leases, events."""

from __future__ import annotations

from collections.abc import Mapping

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed, take_back
from twinstack.rules import configuration, events
from twinstack.rules.names import label_problem
from twinstack.rules.shape import drop_zeros, part


class Namespaces(Typed):
    """A namespace goes only when everything in it has gone, which ``spec.finalizers`` waits for."""

    has_status = True

    def fill(self, document: Document) -> None:
        configuration.default_namespace(document)

    def name_problem(self, name: str) -> str | None:
        return label_problem(name)

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        document["status"] = {"phase": "Active"}
        finalizers = part(document, "spec").setdefault("finalizers", [])
        if configuration.NAMESPACE_FINALIZER not in finalizers:
            finalizers.append(configuration.NAMESPACE_FINALIZER)
        configuration.default_namespace(document)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if not subresource:
            take_back(after, before, "spec")

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return configuration.problems_with_namespace_status(after) if subresource == "status" else []

    def fields(self, document: Document) -> Mapping[str, str]:
        return {"status.phase": (document.get("status") or {}).get("phase", "")}


class ConfigMaps(Typed):
    """Texts and bytes by key."""

    def fill(self, document: Document) -> None:
        configuration.default_config_map(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return configuration.problems_with_config_map(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return configuration.problems_with_config_map(after, before)


class Secrets(Typed):
    """Bytes by key, of a type that says which keys there must be."""

    def fill(self, document: Document) -> None:
        configuration.default_secret(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return configuration.problems_with_secret(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return configuration.problems_with_secret(after, before)

    def fields(self, document: Document) -> Mapping[str, str]:
        return {"type": document.get("type", "")}


class ServiceAccounts(Typed):
    """Who a pod is."""

    def fill(self, document: Document) -> None:
        drop_zeros(document, ("secrets", "imagePullSecrets"))


class Leases(Typed):
    """Who holds something, and since when; an update says which version it changes."""

    creates_on_update = True
    unconditional_update = False

    def fill(self, document: Document) -> None:
        configuration.default_lease(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return configuration.problems_with_lease(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return configuration.problems_with_lease(after)


class Events(Typed):
    """What happened, told beside the object that it happened to."""

    creates_on_update = True
    owns = False

    def fill(self, document: Document) -> None:
        events.default_event(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return events.problems_with_event(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return events.problems_with_event_update(after, before)

    def fields(self, document: Document) -> Mapping[str, str]:
        return events.event_fields(document)


class NewEvents(Typed):
    """The same events through the door of events.k8s.io, where their fields have other names and more is asked of them."""

    creates_on_update = True
    owns = False

    def kept(self, document: Document) -> Document:
        return events.core_form(document)

    def shown(self, document: Document) -> Document:
        return events.new_form(document)

    def fill(self, document: Document) -> None:
        filled = events.new_form(events.core_form(document))
        document.clear()
        document.update(filled)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return events.problems_with_event(events.core_form(document), new_door=True)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return events.problems_with_event_update(events.core_form(after), events.core_form(before), new_door=True)

    def fields(self, document: Document) -> Mapping[str, str]:
        return events.new_event_fields(document)
