"""Roles and bindings: their defaults, and what they must look like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import LabelSelector
from twinstack.api.objects import Document, view_of
from twinstack.api.selectors import of_selector
from twinstack.net.errors import Error
from twinstack.rules.names import subdomain_problem
from twinstack.rules.problems import forbidden, required, unsupported, wrong
from twinstack.rules.rbac import GROUP

_SUBJECTS = {"User": GROUP, "Group": GROUP, "ServiceAccount": ""}


def segment_problem(name: str) -> str | None:
    """Why this cannot be one segment of a path; names of roles may hold anything else, such as ``system:node``."""
    if name in (".", ".."):
        return f"may not be {name!r}"
    found = [character for character in "/%" if character in name]
    return f"may not contain {found[0]!r}" if found else None


def default_binding(document: Document) -> None:
    """The API groups that a subject's kind and a role's reference imply."""
    for subject in document.get("subjects") or ():
        if not subject.get("apiGroup") and _SUBJECTS.get(subject.get("kind", "")):
            subject["apiGroup"] = _SUBJECTS[subject["kind"]]
    reference = document.get("roleRef")
    if isinstance(reference, dict) and not reference.get("apiGroup"):
        reference["apiGroup"] = GROUP


def problems_with_role(document: Document, *, namespaced: bool) -> list[FieldProblem]:
    """Everything that is wrong with a role's rules and its aggregation."""
    problems = [problem for i, rule in enumerate(document.get("rules") or ()) for problem in _problems_with_rule(rule, f"rules[{i}]", namespaced)]
    aggregation = document.get("aggregationRule")
    if aggregation is None:
        return problems
    selectors = aggregation.get("clusterRoleSelectors") or ()
    if not selectors:
        problems.append(required("aggregationRule.clusterRoleSelectors", "at least one selector says which ClusterRoles are meant"))
    for i, selector in enumerate(selectors):
        try:
            of_selector(view_of(LabelSelector, selector))
        except Error as error:
            problems.append(wrong(f"aggregationRule.clusterRoleSelectors[{i}]", selector, str(error)))
    return problems


def _problems_with_rule(rule: Mapping[str, Any], path: str, namespaced: bool) -> Iterator[FieldProblem]:
    if not rule.get("verbs"):
        yield required(f"{path}.verbs", "a rule without a verb allows nothing")
    urls = rule.get("nonResourceURLs") or ()
    if urls:
        if namespaced:
            yield wrong(f"{path}.nonResourceURLs", urls, "only a ClusterRole reaches what has no namespace")
        if any(rule.get(field) for field in ("apiGroups", "resources", "resourceNames")):
            yield wrong(f"{path}.nonResourceURLs", urls, "paths and resources do not stand in one rule")
        for i, url in enumerate(urls):
            if "*" in url[:-1]:
                yield wrong(f"{path}.nonResourceURLs[{i}]", url, "'*' may only stand at the end")
        return
    if not rule.get("apiGroups"):
        yield required(f"{path}.apiGroups", "the core group is an empty text")
    if not rule.get("resources"):
        yield required(f"{path}.resources", "name a resource, or nonResourceURLs")


def problems_with_binding(document: Document, before: Document | None = None, *, namespaced: bool) -> list[FieldProblem]:
    """Everything that is wrong with a binding; the role that it gives may not change."""
    reference = document.get("roleRef") or {}
    kinds = ("ClusterRole", "Role") if namespaced else ("ClusterRole",)
    problems = []
    if reference.get("apiGroup", GROUP) != GROUP:
        problems.append(unsupported("roleRef.apiGroup", reference["apiGroup"], (GROUP,)))
    if reference.get("kind") not in kinds:
        problems.append(unsupported("roleRef.kind", reference.get("kind", ""), kinds))
    name = reference.get("name", "")
    if not name:
        problems.append(required("roleRef.name"))
    elif problem := segment_problem(name):
        problems.append(wrong("roleRef.name", name, problem))
    for i, subject in enumerate(document.get("subjects") or ()):
        problems += _problems_with_subject(subject, f"subjects[{i}]", namespaced)
    if before is not None and before.get("roleRef") != document.get("roleRef"):
        problems.append(wrong("roleRef", document.get("roleRef"), "may not change; delete the binding and make another"))
    return problems


def _problems_with_subject(subject: Mapping[str, Any], path: str, namespaced: bool) -> Iterator[FieldProblem]:
    kind, name = subject.get("kind", ""), subject.get("name", "")
    if not name:
        yield required(f"{path}.name")
    if kind not in _SUBJECTS:
        yield unsupported(f"{path}.kind", kind, _SUBJECTS)
        return
    if subject.get("apiGroup", "") != _SUBJECTS[kind]:
        yield unsupported(f"{path}.apiGroup", subject.get("apiGroup", ""), (_SUBJECTS[kind],))
    if kind == "ServiceAccount":
        if name and (problem := subdomain_problem(name)):
            yield wrong(f"{path}.name", name, problem)
        if not subject.get("namespace") and not namespaced:
            yield required(f"{path}.namespace", "a ServiceAccount lives in a namespace")
    elif subject.get("namespace"):
        yield forbidden(f"{path}.namespace", f"a {kind} has no namespace")
