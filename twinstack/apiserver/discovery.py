"""What the server serves, told to clients that know nothing yet: discovery, its aggregated form, the version.

Everything here follows from ``api.resources.SERVED`` and is made once.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from twinstack.api.objects import encode
from twinstack.api.resources import SERVED, Resource, Subresource
from twinstack.apiserver.replies import JSON, Reply, accepted

# The release whose behaviour we agree with; clients compare it with their own.
KUBERNETES_VERSION: Final = "1.36.2"
_AGGREGATED: Final = "APIGroupDiscoveryList"
_AGGREGATED_GROUP: Final = "apidiscovery.k8s.io"
_AGGREGATED_VERSIONS: Final = ("v2", "v2beta1")

HEALTH_PATHS: Final = ("/healthz", "/livez", "/readyz", "/metrics")


def version_info() -> Mapping[str, str]:
    """The document at ``/version``."""
    major, minor, _ = KUBERNETES_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": f"v{KUBERNETES_VERSION}+twinstack",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system().lower()}/{_MACHINES.get(platform.machine(), platform.machine())}",
    }


_MACHINES: Final[Mapping[str, str]] = {"x86_64": "amd64", "aarch64": "arm64"}


class Discovery:
    """The discovery documents. *server_address* (``host:port``) is where clients from anywhere reach this server."""

    def __init__(self, *, server_address: str = "", resources: Sequence[Resource] = SERVED) -> None:
        self._resources = resources
        self._address = server_address

    def answer(self, path: str, accept: str = "") -> Reply | None:
        """The document at a path; None when there is none there."""
        path = path.rstrip("/") or "/"
        if path in ("/api", "/apis"):
            version = _aggregated_version(accept)
            if version:
                return self._aggregated(core=path == "/api", version=version)
        body = self._documents.get(path)
        return None if body is None else Reply(200, JSON, body)

    @cached_property
    def _documents(self) -> Mapping[str, bytes]:
        documents: dict[str, Any] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": self._addresses()},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group_document(group, versions) for group, versions in self._groups.items()]},
            "/version": version_info(),
        }
        for group, versions in self._groups.items():
            documents[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group_document(group, versions)}
        for (group, version), rows in self._by_version.items():
            api_version = f"{group}/{version}" if group else version
            documents[f"/apis/{api_version}" if group else f"/api/{version}"] = {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": api_version,
                "resources": [entry for row in rows for entry in _entries(row)],
            }
        openapi = [
            "/openapi/v2",
            "/openapi/v3",
            *(f"/openapi/v3{path}" for path in sorted(documents) if path.count("/") > 1 and path.rpartition("/")[2] == "v1"),
        ]
        documents["/"] = {"paths": sorted([*documents, *HEALTH_PATHS, *openapi])}
        return {path: encode(document) for path, document in documents.items()}

    @cached_property
    def _by_version(self) -> Mapping[tuple[str, str], list[Resource]]:
        found: dict[tuple[str, str], list[Resource]] = {}
        for resource in self._resources:
            found.setdefault((resource.group, resource.version), []).append(resource)
        return found

    @cached_property
    def _groups(self) -> Mapping[str, list[str]]:
        """The versions of each named group; the core group has a place of its own."""
        found: dict[str, list[str]] = {}
        for group, version in self._by_version:
            if group:
                found.setdefault(group, []).append(version)
        return found

    def _addresses(self) -> list[Mapping[str, str]]:
        return [{"clientCIDR": "0.0.0.0/0", "serverAddress": self._address}] if self._address else []

    def _aggregated(self, *, core: bool, version: str) -> Reply:
        items = []
        for group, versions in {"": ["v1"]}.items() if core else self._groups.items():
            items.append(
                {
                    "metadata": {"name": group, "creationTimestamp": None},
                    "versions": [
                        {"version": one, "resources": [_aggregated_entry(row) for row in self._by_version[group, one]], "freshness": "Current"}
                        for one in versions
                    ],
                }
            )
        document = {"kind": _AGGREGATED, "apiVersion": f"{_AGGREGATED_GROUP}/{version}", "metadata": {}, "items": items}
        body = encode(document)
        return Reply(200, f"{JSON};g={_AGGREGATED_GROUP};v={version};as={_AGGREGATED}", body, f'"{hashlib.sha256(body).hexdigest().upper()}"')


def _aggregated_version(accept: str) -> str:
    """The version of aggregated discovery that the client asks for first; empty when it wants the plain documents."""
    for media_type, parameters in accepted(accept):
        if media_type not in (JSON, "*/*"):
            continue
        if not parameters.get("as"):
            return ""
        version = parameters.get("v", "")
        if parameters.get("as") == _AGGREGATED and parameters.get("g") == _AGGREGATED_GROUP and version in _AGGREGATED_VERSIONS:
            return version
    return ""


def _group_document(group: str, versions: Sequence[str]) -> Mapping[str, Any]:
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _entries(resource: Resource) -> list[Mapping[str, Any]]:
    """The rows of a resource and its subresources in an APIResourceList."""
    main: dict[str, Any] = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        main["shortNames"] = list(resource.short_names)
    if resource.categories:
        main["categories"] = list(resource.categories)
    rows: list[Mapping[str, Any]] = [main]
    for sub in resource.subresources:
        row: dict[str, Any] = {"name": f"{resource.plural}/{sub.name}", "singularName": "", "namespaced": resource.namespaced}
        if sub.group:
            row |= {"group": sub.group, "version": sub.version}
        rows.append(row | {"kind": sub.kind or resource.kind, "verbs": list(sub.verbs)})
    return rows


def _aggregated_entry(resource: Resource) -> Mapping[str, Any]:
    entry: dict[str, Any] = {
        "resource": resource.plural,
        "responseKind": _response_kind(resource),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.subresources:
        entry["subresources"] = [
            {"subresource": sub.name, "responseKind": _response_kind(resource, sub), "verbs": list(sub.verbs)} for sub in resource.subresources
        ]
    return entry


def _response_kind(resource: Resource, sub: Subresource | None = None) -> Mapping[str, str]:
    """What the door answers with. The group and version are told only where they are not those of the door itself."""
    if sub and sub.kind:
        return {"group": sub.group, "version": sub.version, "kind": sub.kind}
    return {"group": "", "version": "", "kind": resource.kind}
