"""The options of a write: what Kubernetes calls CreateOptions, UpdateOptions and PatchOptions. Everything wrong with them is told at once."""

from __future__ import annotations

from typing import Final, NamedTuple

from twinstack.api.errors import FieldProblem, ProblemType, invalid
from twinstack.apiserver.calls import Call
from twinstack.apiserver.ownership import MANAGER_LENGTH, manager_of
from twinstack.apiserver.requests import Query

MODES: Final = ("Ignore", "Warn", "Strict")
META: Final = "meta.k8s.io"


class Options(NamedTuple):
    """How to write. ``manager`` is never empty; ``mode`` is what becomes of unknown and duplicate fields."""

    dry_run: bool
    manager: str
    mode: str
    force: bool


def options_of(call: Call, query: Query, kind: str, *, apply: bool = False) -> Options:
    """The options of this *kind*; Invalid when they will not do. An *apply* must name its manager, and it alone may be forced."""
    agent = call.headers.get("User-Agent", "")
    if not call.query and not apply:
        return Options(False, manager_of("", agent), "Warn", False)
    manager, mode = query.text("fieldManager"), query.text("fieldValidation") or "Warn"
    dry_runs = [value for value in query.texts("dryRun") if value]
    problems: list[FieldProblem] = []
    if apply and not manager:
        problems.append(FieldProblem("fieldManager", ProblemType.REQUIRED, None, "is required for an apply"))
    if not apply and query.has("force"):
        problems.append(FieldProblem("force", ProblemType.FORBIDDEN, None, "only an apply may be forced"))
    if any(value != "All" for value in dry_runs):
        problems.append(FieldProblem("dryRun", ProblemType.NOT_SUPPORTED, dry_runs, 'supported values: "All"'))
    if len(manager.encode()) > MANAGER_LENGTH:
        problems.append(FieldProblem("fieldManager", ProblemType.TOO_LONG, None, f"may not be more than {MANAGER_LENGTH} bytes"))
    elif not manager.isprintable():
        problems.append(FieldProblem("fieldManager", ProblemType.INVALID, manager, "must be made of printable characters"))
    if mode not in MODES:
        problems.append(FieldProblem("fieldValidation", ProblemType.NOT_SUPPORTED, mode, 'supported values: "Ignore", "Strict", "Warn"'))
    if problems:
        raise invalid(kind, "", problems, group=META)
    return Options(bool(dry_runs), manager_of(manager, agent), mode, apply and query.flag("force"))
