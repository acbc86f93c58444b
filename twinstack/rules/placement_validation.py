"""What can be wrong with where a pod wants to be: affinities, spreading, gates that hold it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.rules.names import qualified_problem
from twinstack.rules.problems import duplicate, forbidden, required, unsupported, wrong

_REQUIRED, _PREFERRED = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")


def problems_with_affinity(affinity: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """Terms of node and pod affinity."""
    node = affinity.get("nodeAffinity") or {}
    if node.get(_REQUIRED) is not None:
        here, terms = f"{path}.nodeAffinity.{_REQUIRED}.nodeSelectorTerms", node[_REQUIRED].get("nodeSelectorTerms") or ()
        if not terms:
            yield required(here, "at least one term is needed")
        for i, term in enumerate(terms):
            yield from _problems_with_node_term(term, f"{here}[{i}]")
    for i, term in enumerate(node.get(_PREFERRED) or ()):
        yield from _problem_with_weight(term, f"{path}.nodeAffinity.{_PREFERRED}[{i}]")
        yield from _problems_with_node_term(term.get("preference") or {}, f"{path}.nodeAffinity.{_PREFERRED}[{i}].preference")
    for kind in ("podAffinity", "podAntiAffinity"):
        pods = affinity.get(kind) or {}
        for i, term in enumerate(pods.get(_REQUIRED) or ()):
            yield from _problem_with_topology_key(term, f"{path}.{kind}.{_REQUIRED}[{i}]")
        for i, term in enumerate(pods.get(_PREFERRED) or ()):
            yield from _problem_with_weight(term, f"{path}.{kind}.{_PREFERRED}[{i}]")
            yield from _problem_with_topology_key(term.get("podAffinityTerm") or {}, f"{path}.{kind}.{_PREFERRED}[{i}].podAffinityTerm")


def _problem_with_weight(term: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    if not 1 <= term.get("weight", 0) <= 100:
        yield wrong(f"{path}.weight", term.get("weight", 0), "must be between 1 and 100")


def _problem_with_topology_key(term: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    key = term.get("topologyKey", "")
    if not key:
        yield required(f"{path}.topologyKey")
    elif problem := qualified_problem(key):
        yield wrong(f"{path}.topologyKey", key, problem)


def _problems_with_node_term(term: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    for i, expression in enumerate(term.get("matchExpressions") or ()):
        here, operator, values = f"{path}.matchExpressions[{i}]", expression.get("operator", ""), expression.get("values") or ()
        if operator in ("In", "NotIn"):
            if not values:
                yield required(f"{here}.values", f"{operator} needs values")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield forbidden(f"{here}.values", f"{operator} has no values")
        elif operator in ("Gt", "Lt"):
            if len(values) != 1:
                yield required(f"{here}.values", f"{operator} needs one value")
        else:
            yield wrong(f"{here}.operator", operator, "is no operator of a node selector")
        if problem := qualified_problem(expression.get("key", "")):
            yield wrong(f"{here}.key", expression.get("key", ""), problem)


def problems_with_spreading(constraints: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    """How far apart pods are to be."""
    seen: set[tuple[str, str]] = set()
    for i, one in enumerate(constraints):
        here, key, how = f"{path}[{i}]", one.get("topologyKey", ""), one.get("whenUnsatisfiable", "")
        if one.get("maxSkew", 0) <= 0:
            yield wrong(f"{here}.maxSkew", one.get("maxSkew", 0), "must be greater than zero")
        if not key:
            yield required(f"{here}.topologyKey", "can not be empty")
        elif problem := qualified_problem(key):
            yield wrong(f"{here}.topologyKey", key, problem)
        if how not in _UNSATISFIABLE:
            yield unsupported(f"{here}.whenUnsatisfiable", how, _UNSATISFIABLE)
        if (key, how) in seen:
            yield duplicate(f"{here}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {how}}}")
        seen.add((key, how))
        if one.get("minDomains") is not None and one["minDomains"] <= 0:
            yield wrong(f"{here}.minDomains", one["minDomains"], "must be greater than zero")


def problems_with_gates(gates: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    """Names of what holds a pod back."""
    seen: set[str] = set()
    for i, gate in enumerate(gates):
        name = gate.get("name", "")
        if problem := qualified_problem(name):
            yield wrong(f"{path}[{i}]", name, problem)
        if name in seen:
            yield duplicate(f"{path}[{i}]", name)
        seen.add(name)
