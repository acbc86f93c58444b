"""The table of resources: what the API serves, under which names, with which verbs.

A kind that stands here is served, listed in discovery and known to the client; one that does not is
404. ``view`` is how our own programs look at it.
"""

from __future__ import annotations

from typing import NamedTuple

from twinstack.api import kinds

STANDARD = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS = ("get", "patch", "update")
_ASKED = ("create",)
_PROXIED = ("create", "delete", "get", "patch", "update")


class Subresource(NamedTuple):
    """A door beside the main one; *kind* is what passes through it, empty for the resource's own.

    Through a *stream* nothing passes but what both sides say; its kind names the query's parameters.
    """

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group: str = ""
    version: str = ""
    stream: bool = False


class Resource(NamedTuple):
    """One row of the table. ``group`` is empty for the core group."""

    group: str
    version: str
    plural: str
    singular: str
    kind: str
    namespaced: bool
    view: type[kinds.Object]
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = STANDARD
    subresources: tuple[Subresource, ...] = ()
    kept_as: tuple[str, str, str] | None = None  # group, version and plural of the resource whose objects are shown here in another form
    deprecation: str = ""  # what everybody who comes through this door is told

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``"""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def kept_group(self) -> str:
        """The group that the objects are kept in, which is the one that judges them."""
        return self.kept_as[0] if self.kept_as else self.group

    @property
    def qualified(self) -> str:
        """``services`` or ``deployments.apps``"""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path; without a namespace, a namespaced resource's path means all namespaces."""
        parts = [f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"]
        if namespace and self.namespaced:
            parts.append(f"namespaces/{namespace}")
        parts.append(self.plural)
        if name:
            parts.append(name)
        if subresource:
            parts.append(subresource)
        return "/".join(parts)

    def subresource(self, name: str) -> Subresource | None:
        return next((sub for sub in self.subresources if sub.name == name), None)


_status = Subresource("status", _STATUS)
_scale = Subresource("scale", _STATUS, "Scale", "autoscaling", "v1")


def _stream(name: str, kind: str) -> Subresource:
    return Subresource(name, ("create", "get"), kind, stream=True)


def _proxy(kind: str) -> Subresource:
    return Subresource("proxy", _PROXIED, kind, stream=True)


RESOURCES: tuple[Resource, ...] = (
    Resource("", "v1", "namespaces", "namespace", "Namespace", False, kinds.Namespace, ("ns",),
             verbs=tuple(verb for verb in STANDARD if verb != "deletecollection"),
             subresources=(Subresource("finalize", ("update",)), _status)),
    Resource("", "v1", "nodes", "node", "Node", False, kinds.Node, ("no",), subresources=(_proxy("NodeProxyOptions"), _status)),
    Resource("", "v1", "pods", "pod", "Pod", True, kinds.Pod, ("po",), ("all",),
             subresources=(_stream("attach", "PodAttachOptions"), Subresource("binding", ("create",), "Binding"),
                           Subresource("ephemeralcontainers", _STATUS),
                           Subresource("eviction", ("create",), "Eviction", "policy", "v1"), _stream("exec", "PodExecOptions"),
                           Subresource("log", ("get",)), _stream("portforward", "PodPortForwardOptions"),
                           _proxy("PodProxyOptions"), Subresource("resize", _STATUS), _status)),
    Resource("", "v1", "services", "service", "Service", True, kinds.Service, ("svc",), ("all",),
             subresources=(_proxy("ServiceProxyOptions"), _status)),
    Resource("", "v1", "endpoints", "endpoints", "Endpoints", True, kinds.Endpoints, ("ep",),
             deprecation="v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    Resource("", "v1", "configmaps", "configmap", "ConfigMap", True, kinds.ConfigMap, ("cm",)),
    Resource("", "v1", "secrets", "secret", "Secret", True, kinds.Secret),
    Resource("", "v1", "serviceaccounts", "serviceaccount", "ServiceAccount", True, kinds.ServiceAccount, ("sa",),
             subresources=(Subresource("token", _ASKED, "TokenRequest", "authentication.k8s.io", "v1"),)),
    Resource("", "v1", "events", "event", "Event", True, kinds.Event, ("ev",)),
    Resource("", "v1", "replicationcontrollers", "replicationcontroller", "ReplicationController", True, kinds.ReplicationController, ("rc",), ("all",),
             subresources=(_scale, _status)),
    Resource("apps", "v1", "deployments", "deployment", "Deployment", True, kinds.Deployment, ("deploy",), ("all",), subresources=(_scale, _status)),
    Resource("apps", "v1", "replicasets", "replicaset", "ReplicaSet", True, kinds.ReplicaSet, ("rs",), ("all",), subresources=(_scale, _status)),
    Resource("apps", "v1", "daemonsets", "daemonset", "DaemonSet", True, kinds.DaemonSet, ("ds",), ("all",), subresources=(_status,)),
    Resource("apps", "v1", "statefulsets", "statefulset", "StatefulSet", True, kinds.StatefulSet, ("sts",), ("all",), subresources=(_scale, _status)),
    Resource("apps", "v1", "controllerrevisions", "controllerrevision", "ControllerRevision", True, kinds.ControllerRevision),
    Resource("batch", "v1", "cronjobs", "cronjob", "CronJob", True, kinds.CronJob, ("cj",), ("all",), subresources=(_status,)),
    Resource("batch", "v1", "jobs", "job", "Job", True, kinds.Job, (), ("all",), subresources=(_status,)),
    Resource("coordination.k8s.io", "v1", "leases", "lease", "Lease", True, kinds.Lease),
    Resource("discovery.k8s.io", "v1", "endpointslices", "endpointslice", "EndpointSlice", True, kinds.EndpointSlice),
    Resource("policy", "v1", "poddisruptionbudgets", "poddisruptionbudget", "PodDisruptionBudget", True, kinds.PodDisruptionBudget, ("pdb",),
             subresources=(_status,)),
    Resource("rbac.authorization.k8s.io", "v1", "roles", "role", "Role", True, kinds.Role),
    Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "rolebinding", "RoleBinding", True, kinds.RoleBinding),
    Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "clusterrole", "ClusterRole", False, kinds.ClusterRole),
    Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding", False, kinds.ClusterRoleBinding),
    Resource("scheduling.k8s.io", "v1", "priorityclasses", "priorityclass", "PriorityClass", False, kinds.PriorityClass, ("pc",)),
    Resource("events.k8s.io", "v1", "events", "event", "Event", True, kinds.ReportedEvent, ("ev",), kept_as=("", "v1", "events")),
    Resource("networking.k8s.io", "v1", "networkpolicies", "networkpolicy", "NetworkPolicy", True, kinds.NetworkPolicy, ("netpol",)),
    Resource("networking.k8s.io", "v1", "servicecidrs", "servicecidr", "ServiceCIDR", False, kinds.ServiceCIDR, subresources=(_status,)),
    Resource("networking.k8s.io", "v1", "ipaddresses", "ipaddress", "IPAddress", False, kinds.IPAddress, ("ip",)),
)  # fmt: skip

# What is asked by creating it, answered at once, and not kept.
QUESTIONS: tuple[Resource, ...] = (
    Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", False, kinds.SelfSubjectReview, verbs=_ASKED),
    Resource("authentication.k8s.io", "v1", "tokenreviews", "tokenreview", "TokenReview", False, kinds.TokenReview, verbs=_ASKED),
    Resource("authorization.k8s.io", "v1", "localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview", True,
             kinds.LocalSubjectAccessReview, verbs=_ASKED),
    Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview", False,
             kinds.SelfSubjectAccessReview, verbs=_ASKED),
    Resource("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview", False,
             kinds.SelfSubjectRulesReview, verbs=_ASKED),
    Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", False,
             kinds.SubjectAccessReview, verbs=_ASKED),
)  # fmt: skip
# What is done by creating it, to an object of another kind.
BINDINGS = Resource("", "v1", "bindings", "binding", "Binding", True, kinds.Binding, verbs=_ASKED)
SHOWN_WHEN_GONE = frozenset(("pods", "services", "serviceaccounts"))  # a deletion is answered with the object, and not with a Status
SERVED = (*RESOURCES, *QUESTIONS, BINDINGS)

BY_VIEW: dict[type[kinds.Object], Resource] = {resource.view: resource for resource in SERVED}
BY_PATH: dict[tuple[str, str, str], Resource] = {(resource.group, resource.version, resource.plural): resource for resource in SERVED}
BY_KIND: dict[tuple[str, str], Resource] = {(resource.api_version, resource.kind): resource for resource in SERVED}


def resource_of(view: type[kinds.Object]) -> Resource:
    """The resource that is looked at through this view, or through one that it is made of."""
    return BY_VIEW.get(view) or next(BY_VIEW[base] for base in view.__mro__ if base in BY_VIEW)
