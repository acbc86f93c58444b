"""PriorityClasses: how important pods are."""

from __future__ import annotations

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem, Forbidden
from twinstack.api.objects import Document
from twinstack.api.resources import resource_of
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed
from twinstack.rules import priorities


class PriorityClasses(Typed):
    """A name for a number. Its generation is 1 for ever."""

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        document["metadata"]["generation"] = 1
        _refuse_second_default(document, transaction)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        _refuse_second_default(after, transaction)

    def fill(self, document: Document) -> None:
        priorities.default_class(document)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return priorities.problems_with_class(document)

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        return priorities.problems_with_class(after, before)


def _refuse_second_default(document: Document, transaction: Transaction) -> None:
    if not document.get("globalDefault"):
        return
    name = document["metadata"].get("name", "")
    for key, one in transaction.reader.views(resource_of(kinds.PriorityClass), kinds.PriorityClass):
        if one.globalDefault and key.name != name:
            raise Forbidden(
                f'priorityclasses.scheduling.k8s.io "{name}" is forbidden: PriorityClass {key.name} is the default already, and there is one only',
                kind="priorityclasses",
                name=name,
                group="scheduling.k8s.io",
            )
