"""The paths of the OpenAPI documents: what can be done to each resource, and how.

Clients look here for the kinds that a path takes (``x-kubernetes-group-version-kind``), and for whether the server checks
fields itself (query parameter ``fieldValidation``) and knows dry runs (``dryRun``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from twinstack.api.resources import SHOWN_WHEN_GONE, Resource, Subresource

NameOf = Callable[[str, str, str], str]  # group, version, kind → the definition's name


class Dialect(NamedTuple):
    """What differs between OpenAPI 2.0 and 3.0 here."""

    major: int
    prefix: str

    def reference(self, name: str) -> str:
        return self.prefix + name


V2: Final = Dialect(2, "#/definitions/")
V3: Final = Dialect(3, "#/components/schemas/")

_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml")
_JSON: Final = ("application/json",)
_LIST: Final[Mapping[str, str]] = {
    "allowWatchBookmarks": "boolean",
    "continue": "string",
    "fieldSelector": "string",
    "labelSelector": "string",
    "limit": "integer",
    "resourceVersion": "string",
    "resourceVersionMatch": "string",
    "sendInitialEvents": "boolean",
    "timeoutSeconds": "integer",
    "watch": "boolean",
}
_WRITE: Final[Mapping[str, str]] = {"dryRun": "string", "fieldManager": "string", "fieldValidation": "string"}
_DELETE: Final[Mapping[str, str]] = {"dryRun": "string", "gracePeriodSeconds": "integer", "propagationPolicy": "string"}

# verb → HTTP method, action, query parameters, body
_VERBS: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "list": ("get", "list", _LIST),
    "create": ("post", "post", _WRITE),
    "deletecollection": ("delete", "deletecollection", {**_DELETE, **_LIST}),
    "get": ("get", "get", {}),
    "update": ("put", "put", _WRITE),
    "patch": ("patch", "patch", {**_WRITE, "force": "boolean"}),
    "delete": ("delete", "delete", _DELETE),
}
_STREAMS: Final[Mapping[str, Mapping[str, str]]] = {
    "exec": {"command": "string", "container": "string", "stderr": "boolean", "stdin": "boolean", "stdout": "boolean", "tty": "boolean"},
    "attach": {"container": "string", "stderr": "boolean", "stdin": "boolean", "stdout": "boolean", "tty": "boolean"},
    "portforward": {"ports": "integer"},
    "proxy": {"path": "string"},
}
_PROXIED: Final = ("get", "put", "post", "delete", "options", "head", "patch")
_CODES: Final[Mapping[str, tuple[str, ...]]] = {"create": ("201", "202"), "update": ("201",), "patch": ("201",), "delete": ("202",)}
_COLLECTION: Final = ("list", "create", "deletecollection")
_ITEM: Final = ("get", "update", "patch", "delete")


def path_items(resource: Resource, name_of: NameOf, dialect: Dialect) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each path of a resource with what can be done there."""
    maker = _Maker(resource, name_of, dialect)
    namespace = ("namespace",) if resource.namespaced else ()
    collection = resource.path("{namespace}")
    if resource.namespaced and "list" in resource.verbs:
        yield resource.path(), maker.item(("list",), (), scope="ForAllNamespaces")
    yield collection, maker.item([verb for verb in _COLLECTION if verb in resource.verbs], namespace)
    one = resource.path("{namespace}", "{name}")
    if set(_ITEM) & set(resource.verbs):
        yield one, maker.item([verb for verb in _ITEM if verb in resource.verbs], (*namespace, "name"))
    for sub in resource.subresources:
        if sub.name == "proxy":
            yield f"{one}/proxy", maker.proxy((*namespace, "name"), sub)
            yield f"{one}/proxy/{{path}}", maker.proxy((*namespace, "name", "path"), sub)
        else:
            yield f"{one}/{sub.name}", maker.item(sub.verbs, (*namespace, "name"), sub=sub)


class _Maker(NamedTuple):
    resource: Resource
    name_of: NameOf
    dialect: Dialect

    def item(self, verbs: Any, in_path: tuple[str, ...], *, sub: Subresource | None = None, scope: str = "") -> Mapping[str, Any]:
        """A path item with an operation for each verb."""
        item: dict[str, Any] = {}
        for verb in verbs:
            method, action, query = _VERBS[verb]
            item[method] = self._stream(method, sub) if sub is not None and sub.stream else self._operation(verb, action, query, sub, scope)
        parameters = [self._parameter(name, "path", "string") for name in in_path]
        if parameters:
            item["parameters"] = parameters
        return item

    def proxy(self, in_path: tuple[str, ...], sub: Subresource) -> Mapping[str, Any]:
        """A path item with an operation for each method that is passed on."""
        item = {method: self._stream(method, sub, "WithPath" if "path" in in_path else "") for method in _PROXIED}
        return item | {"parameters": [self._parameter(name, "path", "string") for name in in_path]}

    def _operation(self, verb: str, action: str, query: Mapping[str, str], sub: Subresource | None, scope: str) -> Mapping[str, Any]:
        resource = self.resource
        group, version, kind = resource.group, resource.version, resource.kind
        if sub and sub.kind:
            group, version, kind = sub.group or group, sub.version or version, sub.kind
        words = {"list": "list", "deletecollection": "deleteCollection", "update": "replace", "get": "read"}
        place = (resource.group.partition(".")[0] or "core").capitalize() + resource.version.upper()
        namespaced = "Namespaced" if resource.namespaced and not scope else ""
        operation: dict[str, Any] = {
            "tags": [place[:1].lower() + place[1:]],
            "operationId": words.get(verb, verb) + place + namespaced + resource.kind + (sub.name.capitalize() if sub else "") + scope,
        }
        parameters = [self._parameter(name, "query", type_) for name, type_ in query.items()]
        shown = resource.plural in SHOWN_WHEN_GONE
        text = sub is not None and sub.name == "log"
        body = self._body(verb, group, version, kind)
        answer = f"{kind}List" if verb == "list" else "Status" if verb == "deletecollection" or (verb == "delete" and not shown) else kind
        schema = {"type": "string"} if text else self._schema(group, version, answer)
        consumed = _PATCHES if verb == "patch" else _JSON
        codes = ("200", *_CODES.get(verb, ()))
        if self.dialect is V3:
            if body:
                operation["requestBody"] = {"required": verb != "delete", "content": {media_type: {"schema": body} for media_type in consumed}}
            media_type = "text/plain" if text else "application/json"
            operation["responses"] = {code: {"description": "OK", "content": {media_type: {"schema": schema}}} for code in codes}
        else:
            if body:
                operation["consumes"] = list(consumed)
                parameters.insert(0, {"name": "body", "in": "body", "required": verb != "delete", "schema": body})
            operation["produces"] = ["text/plain" if text else "application/json"]
            operation["responses"] = {code: {"description": "OK", "schema": schema} for code in codes}
        if parameters:
            operation["parameters"] = parameters
        operation["x-kubernetes-action"] = action
        operation["x-kubernetes-group-version-kind"] = {"group": group, "kind": kind, "version": version}
        return operation

    def _stream(self, method: str, sub: Subresource, suffix: str = "") -> Mapping[str, Any]:
        """The operation of a stream, which takes parameters and answers with whatever is said."""
        resource = self.resource
        place = (resource.group.partition(".")[0] or "core").capitalize() + resource.version.upper()
        namespaced = "Namespaced" if resource.namespaced else ""
        answer: dict[str, Any] = {"description": "OK"}
        answer |= {"content": {"*/*": {"schema": {"type": "string"}}}} if self.dialect is V3 else {"schema": {"type": "string"}}
        operation: dict[str, Any] = {
            "tags": [place[:1].lower() + place[1:]],
            "operationId": f"connect{place}{method.capitalize()}{namespaced}{resource.kind}{sub.name.capitalize()}{suffix}",
            "parameters": [self._parameter(name, "query", type_) for name, type_ in _STREAMS[sub.name].items() if not suffix],
            "responses": {"200": answer},
            "x-kubernetes-action": "connect",
            "x-kubernetes-group-version-kind": {"group": resource.group, "kind": sub.kind, "version": resource.version},
        }
        if self.dialect is V2:
            operation |= {"consumes": ["*/*"], "produces": ["*/*"]}
        return operation

    def _body(self, verb: str, group: str, version: str, kind: str) -> Mapping[str, Any] | None:
        if verb in ("create", "update"):
            return self._schema(group, version, kind)
        if verb == "patch":
            return self._schema("", "v1", "Patch")
        return self._schema("", "v1", "DeleteOptions") if verb in ("delete", "deletecollection") else None

    def _schema(self, group: str, version: str, kind: str) -> Mapping[str, Any]:
        return {"$ref": self.dialect.reference(self.name_of(group, version, kind))}

    def _parameter(self, name: str, where: str, type_: str) -> Mapping[str, Any]:
        parameter: dict[str, Any] = {"name": name, "in": where}
        if where == "path":
            parameter["required"] = True
        return parameter | ({"schema": {"type": type_}} if self.dialect is V3 else {"type": type_})
