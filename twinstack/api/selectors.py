"""Label and field selectors: from text or object to a predicate.

Label syntax: ``a=b``, ``a==b``, ``a!=b``, ``a in (b,c)``, ``a notin (b,c)``, ``a``, ``!a``, ``a>1``, ``a<1``, joined by commas
(all must hold). Field syntax: ``path=value``, ``path!=value``, joined by commas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from twinstack.api.errors import BadRequest
from twinstack.api.kinds import LabelSelector

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
_TOKEN = re.compile(r"\s*(?:(notin|in)\b(?=\s*\()|(==|!=|=|!|<|>|\(|\)|,)|([^\s,()=!<>]+))")
_TERM = re.compile(r"(?:\\.|[^,\\]|\\\Z)+", re.DOTALL)
_CONDITION = re.compile(r"(.*?)(==|!=|=)(.*)\Z", re.DOTALL)
_VALUE = re.compile(r"(?:[^\\,=]|\\[\\,=])*\Z", re.DOTALL)
_ESCAPE = re.compile(r"\\([\\,=])")
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}\Z")


class Requirement(NamedTuple):
    """One condition on a label: operator is In, NotIn, Exists, DoesNotExist, Gt or Lt; the last two compare whole numbers."""

    key: str
    operator: str
    values: frozenset[str]

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.operator == "In":
            return labels.get(self.key) in self.values
        if self.operator == "NotIn":
            return labels.get(self.key) not in self.values
        if self.operator in ("Gt", "Lt"):
            held = labels.get(self.key, "")
            bound = int(next(iter(self.values)))
            return bool(_WHOLE.match(held)) and (int(held) > bound if self.operator == "Gt" else int(held) < bound)
        return (self.key in labels) == (self.operator == "Exists")


class Selector(NamedTuple):
    """All requirements must hold; none at all matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        held = labels or {}
        return all(requirement.matches(held) for requirement in self.requirements)


EVERYTHING = Selector()


def _check_key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if not _NAME.match(name) or (slash and (len(prefix) > 253 or not _PREFIX.match(prefix))):
        raise BadRequest(f"unable to parse selector: {key!r} is not a label key")
    return key


def _check_value(value: str) -> str:
    if value and not _NAME.match(value):
        raise BadRequest(f"unable to parse selector: {value!r} is not a label value")
    return value


def parse_labels(text: str) -> Selector:
    """The selector that a ``labelSelector`` text means; BadRequest when it means none."""
    tokens: list[str] = []
    position = 0
    text = text.strip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            raise BadRequest(f"unable to parse selector {text!r} at {text[position:]!r}")
        tokens.append(found.group(0).strip())
        position = found.end()
    requirements: list[Requirement] = []
    i = 0

    def at(index: int) -> str:
        return tokens[index] if index < len(tokens) else ""

    while i < len(tokens):
        if at(i) == "!":
            requirements.append(Requirement(_check_key(at(i + 1)), "DoesNotExist", frozenset()))
            i += 2
        elif at(i + 1) in ("=", "==", "!="):
            value = at(i + 2) if at(i + 2) != "," else ""
            operator = "NotIn" if at(i + 1) == "!=" else "In"
            requirements.append(Requirement(_check_key(at(i)), operator, frozenset((_check_value(value),))))
            i += 3 if value else 2
        elif at(i + 1) in ("<", ">"):
            if not _WHOLE.match(at(i + 2)):
                raise BadRequest(f"unable to parse selector {text!r}: a whole number must follow {at(i + 1)!r}")
            requirements.append(Requirement(_check_key(at(i)), "Gt" if at(i + 1) == ">" else "Lt", frozenset((at(i + 2),))))
            i += 3
        elif at(i + 1) in ("in", "notin"):
            if at(i + 2) != "(" or ")" not in tokens[i + 3 :]:
                raise BadRequest(f"unable to parse selector {text!r}: values in parentheses are missing")
            close = tokens.index(")", i + 3)
            inner = tokens[i + 3 : close]
            values: list[str] = []
            expecting = True
            for token in inner:
                if token == ",":
                    if expecting:
                        values.append("")
                    expecting = True
                elif expecting:
                    values.append(_check_value(token))
                    expecting = False
                else:
                    raise BadRequest(f"unable to parse selector {text!r}: a comma is missing before {token!r}")
            if expecting:
                values.append("")
            requirements.append(Requirement(_check_key(at(i)), "In" if at(i + 1) == "in" else "NotIn", frozenset(values)))
            i = close + 1
        else:
            requirements.append(Requirement(_check_key(at(i)), "Exists", frozenset()))
            i += 1
        if i < len(tokens):
            if at(i) != ",":
                raise BadRequest(f"unable to parse selector {text!r}: a comma is missing before {at(i)!r}")
            i += 1
            if i == len(tokens):
                raise BadRequest(f"unable to parse selector {text!r}: nothing follows the last comma")
    return Selector(tuple(requirements))


def of_map(labels: Mapping[str, str] | None) -> Selector:
    """The selector of a Service: every label must have this value."""
    return Selector(tuple(Requirement(key, "In", frozenset((value,))) for key, value in sorted((labels or {}).items())))


def of_selector(selector: LabelSelector | None) -> Selector | None:
    """The selector of a workload; None, which matches nothing, when there is none."""
    if selector is None:
        return None
    requirements = list(of_map(selector.matchLabels).requirements)
    for expression in selector.matchExpressions or ():
        if expression.operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise BadRequest(f"{expression.operator!r} is not a label selector operator")
        requirements.append(Requirement(expression.key, expression.operator, frozenset(expression.values or ())))
    return Selector(tuple(requirements))


class FieldRequirement(NamedTuple):
    """One condition on a field."""

    path: str
    value: str
    equal: bool


def parse_fields(text: str) -> tuple[FieldRequirement, ...]:
    """The conditions of a ``fieldSelector`` text; a backslash escapes a comma, an equals sign or itself, and spaces belong to what they touch."""
    result: list[FieldRequirement] = []
    for term in _TERM.findall(text):
        found = _CONDITION.match(term)
        if not found:
            raise BadRequest(f"invalid field selector {term!r}: it has the form path=value or path!=value")
        path, operator, value = found.groups()
        if not _VALUE.match(value):
            raise BadRequest(f"invalid field selector {term!r}: in the value, '=' and ',' are written as '\\=' and '\\,', and a backslash twice")
        result.append(FieldRequirement(path, _ESCAPE.sub(r"\1", value), operator != "!="))
    return tuple(result)
