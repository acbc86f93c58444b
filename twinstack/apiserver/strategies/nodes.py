"""Nodes: one pod CIDR and the list of them are one thing, set once; a status may come with the creation."""

from __future__ import annotations

from collections.abc import Mapping

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed, take_back
from twinstack.rules import nodes
from twinstack.rules.windows import facts_of, problems_with_windows_node


class Nodes(Typed):
    """A node is created with its status, and later each door opens its half."""

    def fill(self, document: Document) -> None:
        nodes.default_node(document)

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        nodes.taint_new_node(document)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if not subresource:
            take_back(after, before, "status")

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return nodes.problems_with_node(view_of(kinds.Node, document))

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        check = nodes.problems_with_node_update if subresource else nodes.problems_with_node
        return check(view_of(kinds.Node, after), view_of(kinds.Node, before))

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        return [*nodes.warnings_about_node(after), *_windows_warnings(after, before)]

    def fields(self, document: Document) -> Mapping[str, str]:
        return {"spec.unschedulable": "true" if (document.get("spec") or {}).get("unschedulable") else "false"}


def _windows_warnings(after: Document, before: Document | None) -> list[str]:
    """What a Windows node cannot serve of what it registers with; told once, not with every heartbeat."""
    facts = facts_of(view_of(kinds.Node, after))
    if facts is None or (before is not None and facts_of(view_of(kinds.Node, before)) == facts):
        return []
    return [problem.message for problem in problems_with_windows_node(facts)]
