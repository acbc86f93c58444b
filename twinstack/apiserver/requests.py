"""From a method, a path and a query to what is asked for. Pure.

A path is ``/api/v1/…`` or ``/apis/<group>/<version>/…``, then optionally ``namespaces/<namespace>``, then
a resource, a name, a subresource. What is not in the table of resources is 404, a verb that it does not have 405.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

from twinstack.api.errors import BadRequest, MethodNotAllowed, NotFound
from twinstack.api.resources import BY_PATH, Resource, Subresource

_NUMBER = re.compile(r"-?[0-9]{1,18}\Z")
_NO_RESOURCE = "the server could not find the requested resource"
_NO_METHOD = "the server does not allow this method on the requested resource"
GROUPS = frozenset(group for group, _, _ in BY_PATH)


class Query:
    """The parameters of a request."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    @staticmethod
    def parse(text: str) -> Query:
        if not text:
            return _EMPTY
        try:
            return Query(parse_qs(text, keep_blank_values=True, max_num_fields=100, errors="strict"))
        except ValueError as error:
            raise BadRequest(f"the query cannot be read: {error}") from error

    def text(self, name: str) -> str:
        values = self._values.get(name)
        return values[0] if values else ""

    def narrowed(self, condition: str) -> Query:
        """The same with one more condition on fields."""
        return Query({**self._values, "fieldSelector": [",".join(filter(None, (self.text("fieldSelector"), condition)))]})

    def texts(self, name: str) -> Sequence[str]:
        return self._values.get(name, ())

    def has(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        """``?name``, ``?name=true``; only ``false`` and ``0`` mean no."""
        values = self._values.get(name)
        return bool(values) and values[0].lower() not in ("false", "0")  # type: ignore[index]

    def number(self, name: str) -> int | None:
        """A whole number; None when absent or empty."""
        text = self.text(name)
        if not text:
            return None
        if not _NUMBER.match(text):
            raise BadRequest(f"the parameter {name} is a whole number, not {text[:40]!r}")
        return int(text)


_EMPTY = Query({})


class Request(NamedTuple):
    """What is asked for. ``namespace`` is empty for all namespaces and for cluster-wide resources; ``name`` for a collection."""

    verb: str  # get list watch create update patch delete deletecollection
    resource: Resource
    namespace: str
    name: str
    subresource: Subresource | None
    query: Query

    @property
    def sub(self) -> str:
        return self.subresource.name if self.subresource else ""

    @property
    def scope(self) -> str:
        """For the metrics: cluster, namespace or resource."""
        if self.name:
            return "resource"
        return "namespace" if self.namespace else "cluster"


_WITH_NAME = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# What is passed on is allowed by what it does here; nothing but a rule for every verb allows OPTIONS, as upstream has it.
_PROXIED = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "OPTIONS": ""}
_WITHOUT_NAME = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}


class NoSuchPath(NotFound):
    """Nothing at all is served where the path leads; said in plain text, for no API's rules hold there."""

    def __init__(self) -> None:
        super().__init__("404 page not found")


def is_known_place(path: str) -> bool:
    """Whether a path that leads to nothing is at least below a group that is served."""
    parts = path.split("/")[1:]
    return parts[0] == "api" or (parts[0] == "apis" and len(parts) > 1 and parts[1] in GROUPS)


def is_resource_path(path: str) -> bool:
    """Whether a path may name objects; the others are health, metrics and discovery."""
    if path.startswith("/api/v1/"):
        return len(path) > 8
    return (path.startswith("/apis/") and path.count("/") > 3 and not path.endswith("/")) or (path.startswith("/apis/") and path.count("/") > 4)


def _without_way(parts: list[str]) -> list[str]:
    """The parts of a path without those that follow an object's ``proxy``, which are read elsewhere."""
    if parts[:2] != ["api", "v1"]:
        return parts
    at = 6 if parts[2:3] == ["namespaces"] else 4
    return parts[: at + 1] if parts[at : at + 1] == ["proxy"] else parts


def parse(method: str, path: str, query_text: str = "") -> Request:
    """What a request asks for; BadRequest, NotFound or MethodNotAllowed when it asks for nothing we have."""
    parts = path.split("/")[1:]
    if "proxy" in parts:
        parts = _without_way(parts)
    if parts and parts[-1] == "":
        parts.pop()
    if "%" in path:
        try:
            parts = [unquote(part, errors="strict") for part in parts]
        except UnicodeDecodeError as error:
            raise BadRequest("the path is not UTF-8") from error
        if any("/" in part or "\0" in part for part in parts):
            raise NotFound(_NO_RESOURCE)
    if "" in parts:
        raise NotFound(_NO_RESOURCE)
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
        if group not in GROUPS:
            raise NoSuchPath()
    else:
        raise NotFound(_NO_RESOURCE)
    namespace = ""
    watched = rest[0] == "watch" and len(rest) > 1 and method == "GET"  # how watches were asked for before there was ?watch
    if watched:
        rest = rest[1:]
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0]))
    if resource is None or len(rest) > (2 if watched else 3) or (namespace and not resource.namespaced):
        raise NotFound(_NO_RESOURCE)
    name = rest[1] if len(rest) > 1 else ""
    if name and resource.namespaced and not namespace:
        raise NotFound(_NO_RESOURCE)
    if name in (".", "..") or namespace in (".", ".."):
        raise BadRequest("a name is not '.' or '..'")
    if len(rest) > 2 and rest[2] == "proxy" and (subresource := resource.subresource("proxy")) is not None:
        if method not in _PROXIED:
            raise MethodNotAllowed(_NO_METHOD)
        return Request(_PROXIED[method], resource, namespace, name, subresource, _EMPTY)  # the query is not for us
    query = Query.parse(query_text)
    if len(rest) > 2:
        subresource = resource.subresource(rest[2])
        if subresource is None:
            raise NotFound(_NO_RESOURCE)
        verb = "create" if method == "POST" else _WITH_NAME.get(method, "")
        if verb not in subresource.verbs:
            raise MethodNotAllowed(_NO_METHOD)
        return Request(verb, resource, namespace, name, subresource, query)
    verb = (_WITH_NAME if name else _WITHOUT_NAME).get(method, "")
    if watched:
        if name:
            query = query.narrowed(f"metadata.name={name}")
        verb, name = "watch", ""
    elif verb == "list" and query.flag("watch"):
        verb = "watch"
    if verb not in resource.verbs or (verb == "create" and resource.namespaced and not namespace):
        raise MethodNotAllowed(_NO_METHOD)
    return Request(verb, resource, namespace, name, None, query)
