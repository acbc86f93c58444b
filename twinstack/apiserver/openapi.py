"""The schema of what is served: for our own checks and patches, and published for clients.

It comes from the ``kubernetes-validate`` package, which carries the published schema of each Kubernetes release;
nothing of it is copied here. The file of 1.6 MB is cut, without being parsed, into one slice of bytes per definition,
and what no served kind refers to is dropped: 9 ms, and half a megabyte stays. A definition is parsed when it is
first needed, and each published document is put together on the first request for it. So nothing needs to be
kept on disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

from twinstack.api.objects import decode, encode
from twinstack.api.resources import SERVED, Resource
from twinstack.api.schema import Schema, Schemas, name_in
from twinstack.apiserver import gnostic, paths
from twinstack.apiserver.discovery import KUBERNETES_VERSION
from twinstack.apiserver.replies import JSON, Reply, accepted
from twinstack.net.errors import Error

_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
# Named by the paths rather than by the kinds.
_ALWAYS: Final = tuple(_META + name for name in ("DeleteOptions", "Patch", "Status", "WatchEvent"))
_PACKAGE: Final = "kubernetes_validate"
# What is text or a number. OpenAPI 2 cannot say so, and Kubernetes says there that it is text.
_PLACEHOLDERS: Final[Mapping[str, Mapping[paths.Dialect, Mapping[str, Any]]]] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        paths.V2: {"type": "string", "format": "int-or-string"},
        paths.V3: {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    },
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {paths.V2: {"type": "string"}, paths.V3: {"oneOf": [{"type": "string"}, {"type": "number"}]}},
}
_REFERENCE: Final = re.compile(rb'"#/\$defs/([^"]+)"')
_GVK: Final = "x-kubernetes-group-version-kind"


class SchemaMissing(Error):
    """The package that carries Kubernetes' published schema is not there, or knows no fitting release."""


def schema_file() -> Path:
    """The file of definitions of our release or the nearest earlier one. SchemaMissing when there is none."""
    spec = find_spec(_PACKAGE)  # found, not imported: the package imports a validator that we do not need
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found = {}
        for path in Path(place, "kubernetes-json-schema").glob("v*-local/_definitions.json"):
            release = re.match(r"v(\d+)\.(\d+)\.", path.parent.name)
            if release:
                found[int(release[1]), int(release[2])] = path
        major, minor, _ = map(int, KUBERNETES_VERSION.split("."))
        fitting = [release for release in found if release <= (major, minor)]
        if fitting:
            return found[max(fitting)]
    raise SchemaMissing("the schema of Kubernetes is missing: install the Python package kubernetes-validate 1.36 or later")


class _File(msgspec.Struct):
    definitions: dict[str, msgspec.Raw] = msgspec.field(name="$defs")


class _Marks(msgspec.Struct):
    kinds: list[dict[str, str]] = msgspec.field(name=_GVK, default_factory=list)


class OpenAPI:
    """The schemas of the served kinds. Nothing is read before the first question."""

    def __init__(self, *, resources: Sequence[Resource] = SERVED, path: Path | None = None) -> None:
        self._resources = resources
        self._path = path
        self._made: dict[str, Reply] = {}

    # ---- for the server itself

    def schema_of(self, resource: Resource, subresource: str = "") -> Schema:
        """The schema of what passes through a resource's door, or through a door beside it."""
        sub = resource.subresource(subresource) if subresource else None
        if sub and sub.kind:
            return self.schema_of_kind(sub.group or resource.group, sub.version or resource.version, sub.kind)
        return self.schema_of_kind(resource.group, resource.version, resource.kind)

    def schema_of_kind(self, group: str, version: str, kind: str) -> Schema:
        """The schema of a kind. SchemaMissing when the published schema does not know it."""
        name = self._names.get((group, version, kind))
        if name is None:
            raise SchemaMissing(f"the published schema has no kind {kind} in {group or 'core'}/{version}")
        return self._schemas.get(name)

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(self._definition)

    def _definition(self, name: str) -> Mapping[str, Any]:
        node: Mapping[str, Any] = decode(self._definitions[name])
        return node

    @cached_property
    def _cut(self) -> tuple[dict[str, bytes], dict[tuple[str, str, str], str]]:
        """The bytes of each definition that is needed, and the names of the kinds."""
        whole = msgspec.json.decode((self._path or schema_file()).read_bytes(), type=_File).definitions
        wanted = set()
        for resource in self._resources:
            wanted |= {(resource.group, resource.version, resource.kind), (resource.group, resource.version, f"{resource.kind}List")}
            wanted |= {(sub.group or resource.group, sub.version or resource.version, sub.kind) for sub in resource.subresources if sub.kind and not sub.stream}
        names: dict[tuple[str, str, str], str] = {}
        marks = msgspec.json.Decoder(_Marks)
        mark = _GVK.encode()
        for name, raw in whole.items():
            if mark in bytes(raw):
                for one in marks.decode(raw).kinds:
                    key = (one.get("group", ""), one.get("version", ""), one.get("kind", ""))
                    if key in wanted:
                        names[key] = name
        definitions: dict[str, bytes] = {}
        todo = [*names.values(), *_ALWAYS]
        while todo:
            name = todo.pop()
            if name not in definitions and name in whole:
                definitions[name] = bytes(whole[name])
                todo += (found.decode() for found in _REFERENCE.findall(definitions[name]))
        return dict(sorted(definitions.items())), names

    @property
    def _definitions(self) -> dict[str, bytes]:
        return self._cut[0]

    @property
    def _names(self) -> dict[tuple[str, str, str], str]:
        return self._cut[1]

    # ---- for clients

    def answer(self, path: str, accept: str = "") -> Reply | None:
        """The document at a path under ``/openapi``; None when there is none there, or none in a form the client takes."""
        path = path.rstrip("/")
        asked = [media_type for media_type, _ in accepted(accept)]
        if path == "/openapi/v2":
            for media_type in asked:
                if media_type in gnostic.ASKED_FOR:
                    return self._reply("v2.pb", gnostic.MEDIA_TYPE, self._v2_protobuf)
                if media_type in (JSON, "*/*", "application/*"):
                    return self._reply("v2.json", JSON, self._v2)
            return Reply(406, "text/plain; charset=utf-8", b"/openapi/v2 is served as application/json and " + gnostic.ASKED_FOR[0].encode() + b"\n")
        if path == "/openapi/v3":
            return self._reply("v3", JSON, self._v3_index)
        if path.startswith("/openapi/v3/"):
            groups = self._group_versions
            where = path.removeprefix("/openapi/v3/")
            if where in groups:
                if not {JSON, "*/*", "application/*"}.intersection(asked):
                    return Reply(406, "text/plain; charset=utf-8", b"/openapi/v3 is served as application/json\n")
                return self._reply(where, JSON, lambda: self._v3(groups[where]))
        return None

    def _reply(self, key: str, content_type: str, make: Callable[[], bytes]) -> Reply:
        reply = self._made.get(key)
        if reply is None:
            body = make()
            reply = self._made[key] = Reply(200, content_type, body, f'"{_digest(body)}"')
        return reply

    @cached_property
    def _group_versions(self) -> Mapping[str, list[Resource]]:
        found: dict[str, list[Resource]] = {}
        for resource in self._resources:
            found.setdefault(f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}", []).append(resource)
        return found

    @cached_property
    def stamp(self) -> str:
        """The hash that names the contents; what they follow from is enough for it, and they need not be made yet."""
        digest = hashlib.sha256(repr(self._resources).encode())
        for content in self._definitions.values():
            digest.update(content)
        return digest.hexdigest()[:32].upper()

    def _v3_index(self) -> bytes:
        return encode({"paths": {where: {"serverRelativeURL": f"/openapi/v3/{where}?hash={self.stamp}"} for where in sorted(self._group_versions)}})

    def _closure(self, names: Iterable[str]) -> list[str]:
        seen: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in self._definitions and name not in seen:
                seen.add(name)
                todo += (found.decode() for found in _REFERENCE.findall(self._definitions[name]))
        return sorted(seen)

    def _name_of(self, group: str, version: str, kind: str) -> str:
        return self._names.get((group, version, kind)) or _META + kind

    def _paths(self, resources: Iterable[Resource], dialect: paths.Dialect) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for resource in resources:
            yield from paths.path_items(resource, self._name_of, dialect)

    def _v3(self, resources: Sequence[Resource]) -> bytes:
        names = [*_ALWAYS]
        for resource in resources:
            names += [self._name_of(resource.group, resource.version, kind) for kind in (resource.kind, f"{resource.kind}List")]
            names += [self._name_of(sub.group or resource.group, sub.version or resource.version, sub.kind) for sub in resource.subresources if sub.kind]
        items = _members(self._paths(resources, paths.V3))
        schemas = _members((name, published(self._definition(name), name, paths.V3)) for name in self._closure(names))
        head = encode({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": f"v{KUBERNETES_VERSION}"}})
        return head[:-1] + b',"paths":{' + items + b'},"components":{"schemas":{' + schemas + b"}}}"

    def _v2(self) -> bytes:
        items = _members(self._paths(self._resources, paths.V2))
        definitions = _members((name, published(self._definition(name), name, paths.V2)) for name in self._definitions)
        head = encode({"swagger": "2.0", "info": {"title": "Kubernetes", "version": f"v{KUBERNETES_VERSION}"}})
        return head[:-1] + b',"paths":{' + items + b'},"definitions":{' + definitions + b"}}"

    def _v2_protobuf(self) -> bytes:
        return gnostic.document(
            title="Kubernetes",
            version=f"v{KUBERNETES_VERSION}",
            paths=(gnostic.path_item(path, item) for path, item in self._paths(self._resources, paths.V2)),
            definitions=(gnostic.definition(name, published(self._definition(name), name, paths.V2)) for name in self._definitions),
        )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32].upper()


def _members(items: Iterable[tuple[str, Mapping[str, Any]]]) -> bytes:
    """The members of a JSON object, encoded one by one so that the whole never stands in memory as objects."""
    return b",".join(encode(name) + b":" + encode(item) for name, item in items)


def published(node: Mapping[str, Any], name: str, dialect: paths.Dialect) -> Mapping[str, Any]:
    """A definition as Kubernetes publishes it; the package's own is made for a validator (null allowed, kinds as enumerations)."""
    if name in _PLACEHOLDERS:
        return {**{key: value for key, value in node.items() if key == "description"}, **_PLACEHOLDERS[name][dialect]}
    result = _published(node, dialect)
    if _GVK in node:
        for field in ("apiVersion", "kind"):
            if field in result.get("properties", {}):
                result["properties"][field].pop("enum", None)
    return result


def _published(node: Mapping[str, Any], dialect: paths.Dialect) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "$ref":
            reference = {"$ref": dialect.reference(name_in(value))}
            # In OpenAPI 3.0 nothing may stand beside a reference.
            result |= {"allOf": [reference]} if dialect is paths.V3 and len(node) > 1 else reference
        elif key == "type" and isinstance(value, list):
            result[key] = next(one for one in value if one != "null")
        elif key == "properties":
            result[key] = {name: _published(child, dialect) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            result[key] = _published(value, dialect)
        elif key != "$schema":
            result[key] = value
    return result
