"""PriorityClasses: how important pods are."""

from __future__ import annotations

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import priorities


class PriorityClasses(Typed):
    """A name for a number."""

    counts_generation = True

    def fill(self, document: Document) -> None:
        priorities.default_class(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return priorities.problems_with_class(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return priorities.problems_with_class(after, before)
