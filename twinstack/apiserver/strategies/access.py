"""Roles and bindings. Who may write them, and that nobody gives what they do not have, is the business of ``admission``."""

from __future__ import annotations

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import roles
from twinstack.rules.shape import drop_zeros


class Roles(Typed):
    """What may be done."""

    creates_on_update = True

    def fill(self, document: Document) -> None:
        drop_zeros(document, ("rules",))
        for rule in document.get("rules") or ():
            drop_zeros(rule, ("apiGroups", "resources", "resourceNames", "nonResourceURLs"))

    def name_problem(self, name: str) -> str | None:
        return roles.segment_problem(name)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return roles.problems_with_role(document, namespaced=self.resource.namespaced)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return roles.problems_with_role(after, namespaced=self.resource.namespaced)

    def on_read(self, document: Document) -> None:
        document.setdefault("rules", None)


class Bindings(Typed):
    """Who has a role."""

    creates_on_update = True

    def fill(self, document: Document) -> None:
        drop_zeros(document, ("subjects",))
        for subject in document.get("subjects") or ():
            drop_zeros(subject, ("apiGroup", "namespace"))
        roles.default_binding(document)

    def name_problem(self, name: str) -> str | None:
        return roles.segment_problem(name)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return roles.problems_with_binding(document, namespaced=self.resource.namespaced)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return roles.problems_with_binding(after, before, namespaced=self.resource.namespaced)
