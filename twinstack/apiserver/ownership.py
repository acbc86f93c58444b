"""What each kind looks like to ``api.apply`` through each of its doors, and who a request's writer is.

A door's schema is found once. What a door does not open follows from the door: the main one leaves the status to the status
door where the kind has one, and the status door leaves everything but the status, and metadata, to the main one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twinstack.api import fields
from twinstack.api.apply import Door
from twinstack.api.objects import Document
from twinstack.api.resources import Resource
from twinstack.apiserver.openapi import OpenAPI, SchemaMissing

MANAGER_LENGTH: Final = 128
_POD: Final[Document] = {"metadata": {}, "spec": {"containers": None}}
# What even an empty object of a kind has, because Kubernetes' own types hold it by value. Not owned by anybody before something is in it.
_EMPTY: Final[Mapping[str, Document]] = {
    "Pod": {"spec": {"containers": None}},
    "Deployment": {"spec": {"selector": None, "template": _POD, "strategy": {}}},
    "ReplicaSet": {"spec": {"selector": None, "template": _POD}, "status": {"replicas": 0}},
    "ReplicationController": {"status": {"replicas": 0}},
    "DaemonSet": {"spec": {"selector": None, "template": _POD, "updateStrategy": {}}},
    "StatefulSet": {"spec": {"selector": None, "template": _POD, "serviceName": "", "updateStrategy": {}}, "status": {"replicas": 0, "availableReplicas": 0}},
    "PodDisruptionBudget": {"status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}},
    "Job": {"spec": {"template": _POD}},
    "CronJob": {"spec": {"schedule": "", "jobTemplate": {"metadata": {}, "spec": {"template": _POD}}}},
    "PriorityClass": {"value": 0},
    "ControllerRevision": {"revision": 0},
    "Service": {"status": {"loadBalancer": {}}},
    "Node": {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}}},
    "EndpointSlice": {"addressType": "", "endpoints": None, "ports": None},
    "Event": {
        "involvedObject": {},
        "source": {},
        "reportingComponent": "",
        "reportingInstance": "",
        **dict.fromkeys(("eventTime", "firstTimestamp", "lastTimestamp")),
    },
    "Event.events.k8s.io": {
        "regarding": {},
        "deprecatedSource": {},
        **dict.fromkeys(("eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp")),
    },
    "NetworkPolicy": {"spec": {"podSelector": {}}},
    "ClusterRole": {"rules": None},
    "Role": {"rules": None},
}
# The metadata that a kind's status door does not open either.
_CLOSED_METADATA: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "Deployment": (("metadata", "labels"),),
    "Pod": (("metadata", "deletionTimestamp"), ("metadata", "ownerReferences")),
}


class Doors:
    """The doors of all kinds, made when first asked for."""

    def __init__(self, openapi: OpenAPI) -> None:
        self._openapi = openapi
        self._made: dict[tuple[Resource, str], Door | None] = {}

    def of(self, resource: Resource, subresource: str = "") -> Door | None:
        """The door of an object itself or of a subresource; None when no schema tells what is behind it."""
        key = (resource, subresource)
        if key not in self._made:
            try:
                self._made[key] = self._make(resource, subresource)
            except SchemaMissing:
                self._made[key] = None
        return self._made[key]

    def _make(self, resource: Resource, subresource: str) -> Door:
        schema = self._openapi.schema_of(resource, subresource)
        own = self._openapi.schema_of(resource)
        closed: list[tuple[str, ...]] = []
        if subresource == "status":
            closed += [(name,) for name in own.fields if name not in ("apiVersion", "kind", "metadata", "status")]
            closed += _CLOSED_METADATA.get(resource.kind, ())
        elif subresource == "ephemeralcontainers":
            closed += [(name,) for name in own.fields if name not in ("apiVersion", "kind", "metadata", "spec")]
            closed += [("spec", name) for name in own.at("spec").fields if name != "ephemeralContainers"]
        elif subresource == "resize":
            closed += [(name,) for name in own.fields if name not in ("apiVersion", "kind", "metadata", "spec")]
            closed += [("spec", name) for name in own.at("spec").fields if name not in ("containers", "initContainers")]
        elif not subresource and resource.subresource("status") is not None:
            closed.append(("status",))
        always = _EMPTY.get(f"{resource.kind}.{resource.group}") or _EMPTY.get(resource.kind, {})
        empty: dict[str, Any] = {"metadata": {}}
        empty.update({name: {} for name in ("spec", "status") if name in schema.fields})
        empty.update({name: {**empty.get(name, {}), **value} if isinstance(value, dict) else value for name, value in always.items()})
        if resource.kind == "Node":  # every text of it is there from the beginning
            empty["status"]["nodeInfo"] = {name: "" for name, field in own.at("status").at("nodeInfo").fields.items() if field.type == "string"}
        return Door(schema, fields.of_paths(closed), empty)


def manager_of(asked: str, user_agent: str) -> str:
    """The manager's name: as asked for, else what stands before the slash in the User-Agent."""
    if asked:
        return asked
    name = user_agent.partition("/")[0]
    if not (name.isascii() and name.isprintable() and len(name) <= MANAGER_LENGTH):
        name = "".join(character for character in name if character.isprintable())
        name = name.encode()[:MANAGER_LENGTH].decode(errors="ignore")
    return name or "unknown"
