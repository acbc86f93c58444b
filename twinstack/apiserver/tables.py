"""What ``kubectl get`` prints: server-side Tables (spec/api.md section 10), and metadata alone.

All columns are sent, those of priority 1 too; the client hides them unless asked for ``-o wide``. Cells are JSON
values as they are: some columns are declared as strings and hold numbers, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from twinstack.api import errors
from twinstack.api.objects import Document
from twinstack.api.resources import Resource
from twinstack.apiserver import batchcells, cells, podcells
from twinstack.apiserver.replies import JSON, accepted
from twinstack.rules.events import EVENTS_GROUP, with_core_names

YAML: Final = "application/yaml"
META: Final = "meta.k8s.io"
_PEOPLES_PROGRAM: Final = "kubectl/"
META_VERSION: Final = "meta.k8s.io/v1"
_META_VERSIONS: Final[Mapping[str, str]] = {"v1": META_VERSION, "v1beta1": "meta.k8s.io/v1beta1"}
_SHAPES: Final[Mapping[str, Literal["table", "partial", "partial-list"]]] = {
    "Table": "table",
    "PartialObjectMetadata": "partial",
    "PartialObjectMetadataList": "partial-list",
}


class Form(NamedTuple):
    """What a client wants its objects as; *version* is that of the Table or of the metadata, *people* says that people will look at the Table."""

    shape: Literal["table", "partial", "partial-list", "json"] = "json"
    version: str = META_VERSION
    people: bool = False


AS_JSON: Final = Form()


def wants(accept: str, agent: str = "") -> Form:
    """What a client wants its objects as: the first thing in its ``Accept`` that we can give. NotAcceptable when there is none.

    A table for people has columns more than Kubernetes' own, for ``-o wide``; whoever comes with another program than
    kubectl gets Kubernetes' table to the letter.

    Whoever asks for protobuf gets JSON, which every client that asks for it reads as well.
    """
    form = _wants(accept)
    return form._replace(people=True) if form.shape == "table" and agent.startswith(_PEOPLES_PROGRAM) else form


@lru_cache(maxsize=256)
def _wants(accept: str) -> Form:
    only_protobuf = False
    for media_type, parameters in accepted(accept):
        if media_type == YAML:  # JSON, until the answer is all there
            return AS_JSON
        if media_type in (JSON, "*/*", "application/*"):
            kind = parameters.get("as")
            if not kind:
                return AS_JSON
            shape, version = _SHAPES.get(kind), _META_VERSIONS.get(parameters.get("v", ""))
            if shape and version and parameters.get("g") == META:
                return Form(shape, version)
        elif media_type == "application/vnd.kubernetes.protobuf":
            only_protobuf = True
    if only_protobuf:
        return AS_JSON
    raise errors.NotAcceptable(
        "only these media types are served: application/json, application/yaml, also as=Table or as=PartialObjectMetadata of meta.k8s.io/v1"
    )


class Column(NamedTuple):
    """One column of a Table; *cell* reads it from a document at a time."""

    name: str
    type: str
    description: str
    cell: Callable[[Document, datetime], Any]
    priority: int = 0
    format: str = ""


def _definitions(columns: Sequence[Column]) -> list[Document]:
    return [{"name": c.name, "type": c.type, "format": c.format, "description": c.description, "priority": c.priority} for c in columns]


def table(
    resource: Resource,
    documents: Iterable[Document],
    *,
    now: datetime,
    include_object: str = "Metadata",
    metadata: Mapping[str, Any] | None = None,
    headers: bool = True,
    form: Form = AS_JSON,
) -> Document:
    """The Table of these objects, of the form's version; for people with the columns that are ours.

    *metadata* is the list's (resourceVersion, continue, remainingItemCount) or, for a single object, ``{"resourceVersion": …}``
    of it. *include_object* is the query parameter ``includeObject``; BadRequest when it is none of Metadata, Object, None.
    *headers* is False for every event of a watch but the first.
    """
    if include_object not in ("", "Metadata", "Object", "None"):
        raise errors.BadRequest(f"includeObject must be Metadata, Object or None, not {include_object!r}")
    columns = COLUMNS[resource.kind] + (FOR_PEOPLE.get(resource.kind, ()) if form.people else ())
    readers = [column.cell for column in columns]
    readers += _CELLS_WITHOUT_COLUMN.get(resource.kind, [])
    conditions = _CONDITIONS.get(resource.kind)
    rows: list[Document] = []
    for document in documents:
        read = with_core_names(document) if resource.group == EVENTS_GROUP else document
        row: Document = {"cells": [cell(read, now) for cell in readers]}
        if conditions and (found := conditions(document)):
            row["conditions"] = found
        if include_object == "Object":
            row["object"] = document
        else:
            row["object"] = None if include_object == "None" else partial_metadata(document, form.version)
        rows.append(row)
    return {
        "kind": "Table",
        "apiVersion": form.version,
        "metadata": dict(metadata or {}),
        "columnDefinitions": _definitions(columns) if headers else [],
        "rows": rows,
    }


def partial_metadata(document: Document, version: str = META_VERSION) -> Document:
    """The metadata of an object and nothing else."""
    return {"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": document.get("metadata") or {}}


def partial_metadata_list(documents: Iterable[Document], metadata: Mapping[str, Any], version: str = META_VERSION) -> Document:
    """The metadata of the objects of a list."""
    items = [partial_metadata(one, version) for one in documents]
    return {"kind": "PartialObjectMetadataList", "apiVersion": version, "metadata": dict(metadata), "items": items}


def refuse_mismatch(form: Form, *, lists: bool) -> None:
    """NotAcceptable when the metadata of one object is asked of a list, or that of a list of one object."""
    if form.shape == ("partial" if lists else "partial-list"):
        asked, found = ("PartialObjectMetadata", "a list") if lists else ("PartialObjectMetadataList", "no list")
        raise errors.NotAcceptable(f"{asked} was asked for, but what is asked for is {found}")


def _name(description: str = "The object's name, unique among its kind and namespace.") -> Column:
    return Column("Name", "string", description, cells.name, format="name")


_AGE = Column("Age", "string", "How long ago the object was created.", cells.age)


def _column(name: str, cell: Callable[[Document, datetime], Any], description: str, *, type_: str = "string", wide: bool = False, format_: str = "") -> Column:
    return Column(name, type_, description, cell, 1 if wide else 0, format_)


_REPLICAS: Final = (
    _column("Desired", cells.replicas_desired, "How many replicas are wanted.", type_="integer"),
    _column("Current", cells.replicas_current, "How many replicas there are.", type_="integer"),
    _column("Ready", cells.replicas_ready, "How many replicas are ready.", type_="integer"),
)
_WORKLOAD: Final = (
    _column("Containers", cells.template_containers, "The names of the containers in the pod template.", wide=True),
    _column("Images", cells.template_images, "The images of the containers in the pod template.", wide=True),
)

_BINDING: Final = (
    _column("Role", cells.binding_role, "The role that is given."),
    _AGE,
    _column("Users", cells.binding_subjects("User"), "The users who have it.", wide=True),
    _column("Groups", cells.binding_subjects("Group"), "The groups that have it.", wide=True),
    _column("ServiceAccounts", cells.binding_subjects("ServiceAccount"), "The ServiceAccounts that have it.", wide=True),
)

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "Service": (
        _name(),
        _column("Type", cells.service_type, "How the Service is exposed."),
        _column("Cluster-IP", cells.service_cluster_ip, "The Service's primary virtual address."),
        _column("External-IP", cells.service_external_ip, "Addresses or names at which the Service is reached from outside."),
        _column("Port(s)", cells.service_ports, "The Service's ports, with their node ports and protocols."),
        _AGE,
        _column("Selector", cells.service_selector, "The labels of the pods behind the Service.", wide=True),
    ),
    "Node": (
        _name(),
        _column("Status", cells.node_status, "Whether the node is ready, and whether pods may be scheduled to it."),
        _column("Roles", cells.node_roles, "The roles that the node's labels name."),
        _AGE,
        _column("Version", cells.node_version, "The kubelet's version."),
        _column("Internal-IP", cells.node_internal_ip, "The node's first internal address.", wide=True),
        _column("External-IP", cells.node_external_ip, "The node's first external address.", wide=True),
        _column("OS-Image", cells.node_os_image, "The operating system, as the node reports it.", wide=True),
        _column("Kernel-Version", cells.node_kernel, "The kernel's version, as the node reports it.", wide=True),
        _column("Container-Runtime", cells.node_runtime, "The container runtime and its version.", wide=True),
    ),
    "Pod": (
        _name(),
        _column("Ready", podcells.pod_ready, "How many of the pod's containers are ready."),
        _column("Status", podcells.pod_status, "The pod's state in one word."),
        _column("Restarts", podcells.pod_restarts, "How often the pod's containers were restarted, and when last."),
        _AGE,
        _column("IP", podcells.pod_ip, "The pod's primary address.", wide=True),
        _column("Node", podcells.pod_node, "The node that runs the pod.", wide=True),
        _column("Nominated Node", podcells.pod_nominated_node, "The node where room is being made for the pod.", wide=True),
        _column("Readiness Gates", podcells.pod_readiness_gates, "How many of the pod's readiness gates are true.", wide=True),
    ),
    "Endpoints": (_name(), _column("Endpoints", cells.endpoints, "The addresses and ports that are ready."), _AGE),
    "EndpointSlice": (
        _name(),
        _column("AddressType", cells.slice_address_type, "The family of the slice's addresses."),
        _column("Ports", cells.slice_ports, "The ports of every endpoint in the slice."),
        _column("Endpoints", cells.slice_endpoints, "The addresses in the slice, ready or not."),
        _AGE,
    ),
    "ServiceCIDR": (_name(), _column("CIDRs", cells.service_cidrs, "The ranges that Services get their addresses from."), _AGE),
    "IPAddress": (_name(), _column("ParentRef", cells.parent_ref, "What the address belongs to.")),
    "NetworkPolicy": (_name(), _column("Pod-Selector", cells.policy_pods, "The pods that the policy is about."), _AGE),
    "Scale": (
        _name(),
        _column("Desired", cells.replicas_desired, "How many replicas are wanted.", type_="integer"),
        _column("Available", cells.replicas_current, "How many replicas there are.", type_="integer"),
        _AGE,
    ),
    "Namespace": (_name(), _column("Status", cells.phase, "The namespace's phase."), _AGE),
    "Event": (
        _column("Last Seen", cells.event_last_seen, "When the event was observed last."),
        _column("Type", cells.event_type, "Normal or Warning."),
        _column("Reason", cells.event_reason, "Why, in one word."),
        _column("Object", cells.event_object, "What the event is about."),
        _column("Subobject", cells.event_subobject, "The part of the object that the event is about.", wide=True),
        _column("Source", cells.event_source, "Who reported the event.", wide=True),
        _column("Message", cells.event_message, "What happened."),
        _column("First Seen", cells.event_first_seen, "When the event was observed first.", wide=True),
        _column("Count", cells.event_count, "How often the event was observed.", wide=True),
        _column("Name", cells.name, "The object's name, unique among its kind and namespace.", wide=True, format_="name"),
    ),
    "Deployment": (
        _name(),
        _column("Ready", cells.deployment_ready, "How many replicas are ready, of those wanted."),
        _column("Up-to-date", cells.deployment_updated, "How many replicas have the present template."),
        _column("Available", cells.deployment_available, "How many replicas have been ready for long enough."),
        _AGE,
        *_WORKLOAD,
        _column("Selector", cells.deployment_selector, "The labels of the Deployment's pods.", wide=True),
    ),
    "ReplicaSet": (
        _name(),
        *_REPLICAS,
        _AGE,
        *_WORKLOAD,
        _column("Selector", cells.replicaset_selector, "The labels of the ReplicaSet's pods.", wide=True),
    ),
    "ReplicationController": (
        _name(),
        *_REPLICAS,
        _AGE,
        *_WORKLOAD,
        _column("Selector", cells.replicationcontroller_selector, "The labels of the ReplicationController's pods.", wide=True),
    ),
    "StatefulSet": (_name(), _column("Ready", cells.deployment_ready, "How many replicas are ready, of those wanted."), _AGE, *_WORKLOAD),
    "Job": (
        _name(),
        _column("Status", cells.job_status, "How the Job stands."),
        _column("Completions", cells.job_completions, "How many pods have succeeded, of those wanted."),
        _column("Duration", cells.job_duration, "How long it ran."),
        _AGE,
        *_WORKLOAD,
        _column("Selector", cells.replicaset_selector, "The labels of the Job's pods.", wide=True),
    ),
    "CronJob": (
        _name(),
        _column("Schedule", batchcells.cronjob_schedule, "When Jobs are made."),
        _column("Timezone", batchcells.cronjob_zone, "Where that time is told."),
        _column("Suspend", batchcells.cronjob_suspended, "Whether none are made now.", type_="boolean"),
        _column("Active", batchcells.cronjob_active, "How many Jobs run.", type_="integer"),
        _column("Last Schedule", batchcells.cronjob_last, "How long ago it last was time."),
        _AGE,
        _column("Containers", batchcells.cronjob_containers, "The containers' names.", wide=True),
        _column("Images", batchcells.cronjob_images, "The containers' images.", wide=True),
        _column("Selector", batchcells.cronjob_selector, "The labels of the Jobs' pods.", wide=True),
    ),
    "PriorityClass": (
        _name(),
        _column("Value", batchcells.priority_value, "How important the class is.", type_="integer"),
        _column("Global-Default", batchcells.priority_default, "Whether pods that name no class are of this one.", type_="boolean"),
        _AGE,
        _column("PreemptionPolicy", batchcells.priority_policy, "Whether pods of the class drive others away."),
    ),
    "PodDisruptionBudget": (
        _name(),
        _column("Min Available", cells.budget_least, "How many pods must stay."),
        _column("Max Unavailable", cells.budget_most, "How many pods may be away."),
        _column("Allowed Disruptions", cells.budget_allowed, "How many pods may be taken away now.", type_="integer"),
        _AGE,
    ),
    "ControllerRevision": (
        _name(),
        _column("Controller", cells.revision_controller, "Whose template it was."),
        _column("Revision", cells.revision_number, "The how-manieth template it was.", type_="integer"),
        _AGE,
    ),
    "DaemonSet": (
        _name(),
        _column("Desired", cells.daemons_desired, "How many nodes the pod is wanted on.", type_="integer"),
        _column("Current", cells.daemons_current, "How many of these nodes have one.", type_="integer"),
        _column("Ready", cells.daemons_ready, "On how many of them it is ready.", type_="integer"),
        _column("Up-to-date", cells.daemons_updated, "On how many of them it is of the present template.", type_="integer"),
        _column("Available", cells.daemons_available, "On how many of them it has been ready for long enough.", type_="integer"),
        _column("Node Selector", cells.daemons_nodes, "The labels of the nodes that it is wanted on."),
        _AGE,
        *_WORKLOAD,
        _column("Selector", cells.replicaset_selector, "The labels of the DaemonSet's pods.", wide=True),
    ),
    "ConfigMap": (_name(), _column("Data", cells.configmap_data, "How many keys it holds."), _AGE),
    "Secret": (
        _name(),
        _column("Type", cells.secret_type, "What the Secret is for."),
        _column("Data", cells.secret_data, "How many keys it holds."),
        _AGE,
    ),
    "ServiceAccount": (_name(), _AGE),
    "Role": (_name(), _column("Created At", cells.created_at, "When the Role was made.")),
    "ClusterRole": (_name(), _column("Created At", cells.created_at, "When the ClusterRole was made.")),
    "RoleBinding": (_name(), *_BINDING),
    "ClusterRoleBinding": (_name(), *_BINDING),
    "Lease": (_name(), _column("Holder", cells.lease_holder, "Who holds the lease."), _AGE),
}

# What a dual-stack cluster's user wants to see and Kubernetes does not show.
FOR_PEOPLE: Final[Mapping[str, tuple[Column, ...]]] = {
    "Service": (
        _column("Cluster-IPs", cells.service_cluster_ips, "All virtual addresses of the Service.", wide=True),
        _column("IP-Families", cells.service_families, "The Service's families, primary first, and the policy that they come from.", wide=True),
    ),
    "Node": (
        _column("Internal-IPs", cells.node_internal_ips, "All internal addresses of the node.", wide=True),
        _column("Pod-CIDRs", cells.node_pod_cidrs, "The ranges that the node's pods get their addresses from.", wide=True),
    ),
    "Pod": (_column("IPs", podcells.pod_ips, "All addresses of the pod.", wide=True),),
}

# Kubernetes has two columns and three cells here (spec/api.md section 12, 39).
_CELLS_WITHOUT_COLUMN: Final[Mapping[str, list[Callable[[Document, datetime], Any]]]] = {"IPAddress": [cells.age]}
_CONDITIONS: Final[Mapping[str, Callable[[Document], list[Document]]]] = {"Pod": podcells.pod_conditions}
