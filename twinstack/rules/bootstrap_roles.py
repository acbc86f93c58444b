"""The roles and bindings that every cluster begins with.

Rule of this file: names are Kubernetes' own, for people and charts bind to them; what a component may do is what ours
does, and no more. Each object is told in one line; :func:`bootstrap_objects` makes documents of them.

Source: the Kubernetes documentation, "Using RBAC Authorization", section "Default roles and role bindings".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from twinstack.api.objects import Document
from twinstack.rules.rbac import GROUP

ROUTER: Final = "twinstack:node-router"
BALANCER: Final = "twinstack:load-balancer"
AUTOUPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AGGREGATE: Final = "rbac.authorization.k8s.io/aggregate-to-"
READ: Final = ("get", "list", "watch")
WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")
_EVENTS: Final = ("create", "patch", "update")

_Rule = Mapping[str, Any]


def _rule(verbs: Sequence[str], group: str, *resources: str, names: Sequence[str] = ()) -> _Rule:
    rule: dict[str, Any] = {"verbs": list(verbs), "apiGroups": [group], "resources": list(resources)}
    return rule | {"resourceNames": list(names)} if names else rule


def _paths(*urls: str) -> _Rule:
    return {"verbs": ["get"], "nonResourceURLs": list(urls)}


_TELL_EVENTS: Final = (_rule(_EVENTS, "", "events"), _rule(_EVENTS, "events.k8s.io", "events"))
_ASK: Final = (_rule(("create",), "authentication.k8s.io", "tokenreviews"), _rule(("create",), "authorization.k8s.io", "subjectaccessreviews"))


def _lock(name: str) -> tuple[_Rule, ...]:
    """What an election for this lease needs."""
    return _rule(("create",), "coordination.k8s.io", "leases"), _rule(("get", "update"), "coordination.k8s.io", "leases", names=(name,))


_PODS: Final = ("pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy")
_CORE: Final = ("configmaps", "endpoints", "events", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
                "secrets", "serviceaccounts", "services", "services/proxy")  # fmt: skip
_APPS: Final = ("daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale", "statefulsets",
                "statefulsets/scale")  # fmt: skip
_NETWORKING: Final = ("ingresses", "networkpolicies")
_SEEN: Final = ("bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status", "persistentvolumeclaims",
                "persistentvolumeclaims/status", "pods", "pods/log", "pods/status", "replicationcontrollers", "replicationcontrollers/scale",
                "replicationcontrollers/status", "resourcequotas", "resourcequotas/status", "serviceaccounts", "services",
                "services/status")  # fmt: skip

_VIEW: Final = (
    _rule(READ, "", *_SEEN),
    _rule(READ, "discovery.k8s.io", "endpointslices"),
    _rule(READ, "apps", "controllerrevisions", *(f"{one}{end}" for one in ("daemonsets", "deployments", "replicasets", "statefulsets")
                                                 for end in ("", "/scale", "/status") if (one, end) != ("daemonsets", "/scale"))),
    _rule(READ, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
    _rule(READ, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
    _rule(READ, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
    _rule(READ, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
)  # fmt: skip
_EDIT: Final = (
    _rule(READ, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
    _rule(("impersonate",), "", "serviceaccounts"),
    _rule(WRITE, "", *_PODS),
    _rule(("create",), "", "pods/eviction"),
    _rule(WRITE, "", *_CORE),
    _rule(("create",), "", "serviceaccounts/token"),
    _rule(WRITE, "apps", *_APPS),
    _rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
    _rule(WRITE, "batch", "cronjobs", "jobs"),
    _rule(WRITE, "policy", "poddisruptionbudgets"),
    _rule(WRITE, "networking.k8s.io", *_NETWORKING),
    _rule((*WRITE, *READ), "coordination.k8s.io", "leases"),
)
_ADMIN: Final = (
    _rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
    _rule((*WRITE, *READ), GROUP, "rolebindings", "roles"),
)

# What a kubelet may do at all; ``node_access`` narrows it to what belongs to the node.
NODE_RULES: Final = (
    *_ASK,
    _rule(READ, "", "services"),
    _rule(("create", "get", "list", "watch", "patch", "update"), "", "nodes"),
    _rule(("patch", "update"), "", "nodes/status"),
    *_TELL_EVENTS,
    _rule((*READ, "create", "delete"), "", "pods"),
    _rule(("patch", "update"), "", "pods/status"),
    _rule(("create",), "", "pods/eviction"),
    _rule(READ, "", "configmaps", "secrets"),
    _rule(("create",), "", "serviceaccounts/token"),
    _rule(("get",), "", "serviceaccounts"),
    _rule(("create", "delete", "get", "patch", "update"), "coordination.k8s.io", "leases"),
)

_ROLES: Final[Mapping[str, tuple[_Rule, ...]]] = {
    "cluster-admin": (_rule("*", "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]}),
    "system:aggregate-to-view": _VIEW,
    "system:aggregate-to-edit": _EDIT,
    "system:aggregate-to-admin": _ADMIN,
    "system:discovery": (_paths("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"),),
    "system:basic-user": (
        _rule(("create",), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        _rule(("create",), "authentication.k8s.io", "selfsubjectreviews"),
    ),
    "system:public-info-viewer": (_paths("/healthz", "/livez", "/readyz", "/version", "/version/"),),
    "system:monitoring": (_paths("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"),),
    "system:service-account-issuer-discovery": (_paths("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
                                                       "/openid/v1/jwks/"),),
    "system:auth-delegator": _ASK,
    "system:kubelet-api-admin": (
        _rule(("get", "list", "watch", "proxy"), "", "nodes"),
        _rule("*", "", "nodes/configz", "nodes/healthz", "nodes/log", "nodes/metrics", "nodes/pods", "nodes/proxy", "nodes/stats"),
    ),
    "system:node": NODE_RULES,
    "system:node-proxier": (
        _rule(("list", "watch"), "", "services"),
        _rule(READ, "", "nodes"),
        _rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
        _rule(("list", "watch"), "networking.k8s.io", "servicecidrs"),
        *_TELL_EVENTS,
    ),
    # Who knows the ways between nodes looks at all of them, which kubelets do not.
    ROUTER: (_rule(READ, "", "nodes"),),
    # Every node's: addresses in the Services' status, an election, and a lease by which the nodes know each other to live.
    BALANCER: (
        *_TELL_EVENTS,
        _rule(READ, "", "nodes", "services"),
        _rule(("patch",), "", "services/status"),
        _rule(READ, "discovery.k8s.io", "endpointslices"),
        _rule(READ, "", "configmaps", names=("twinstack-load-balancer",)),
        _rule((*READ, "create", "patch", "update"), "coordination.k8s.io", "leases"),
    ),
    "system:kube-dns": (_rule(READ, "", "namespaces", "pods", "services"), _rule(READ, "discovery.k8s.io", "endpointslices")),
    "system:kube-scheduler": (
        *_TELL_EVENTS,
        *_lock("kube-scheduler"),
        _rule(READ, "", "nodes"),
        _rule((*READ, "delete"), "", "pods"),
        _rule(("create",), "", "bindings", "pods/binding"),
        _rule(("patch", "update"), "", "pods/status"),
        _rule(READ, "", "namespaces", "persistentvolumeclaims", "persistentvolumes", "replicationcontrollers", "services"),
        _rule(READ, "apps", "replicasets", "statefulsets"),
        _rule(READ, "policy", "poddisruptionbudgets"),
        *_ASK,
    ),
    # The garbage collector and the end of namespaces reach whatever there is, so reading, changing and deleting is for all kinds.
    "system:kube-controller-manager": (
        _rule(("delete", "deletecollection", "get", "list", "patch", "update", "watch"), "*", "*"),
        *_TELL_EVENTS,
        *_lock("kube-controller-manager"),
        _rule(("create",), "", "configmaps", "endpoints", "persistentvolumeclaims", "pods", "secrets", "serviceaccounts", "serviceaccounts/token"),
        _rule(("create",), "apps", "controllerrevisions", "replicasets"),
        _rule(("create",), "batch", "jobs"),
        _rule(("create",), "discovery.k8s.io", "endpointslices"),
        _rule(("escalate",), GROUP, "clusterroles"),
        *_ASK,
    ),
}  # fmt: skip

# ClusterRole → what it gathers, in the order in which the controller finds it: so nobody has anything to write
_AGGREGATED: Final[Mapping[str, tuple[str, ...]]] = {
    "admin": ("system:aggregate-to-edit", "system:aggregate-to-view", "system:aggregate-to-admin"),
    "edit": ("system:aggregate-to-edit", "system:aggregate-to-view"),
    "view": ("system:aggregate-to-view",),
}
_MARKS: Final[Mapping[str, str]] = {"edit": "admin", "view": "edit"} | {f"system:aggregate-to-{name}": name for name in _AGGREGATED}

AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
_BINDINGS: Final[Mapping[str, tuple[str, tuple[tuple[str, str], ...]]]] = {
    "cluster-admin": ("cluster-admin", (("Group", "system:masters"),)),
    "system:discovery": ("system:discovery", (("Group", AUTHENTICATED),)),
    "system:basic-user": ("system:basic-user", (("Group", AUTHENTICATED),)),
    "system:public-info-viewer": ("system:public-info-viewer", (("Group", AUTHENTICATED), ("Group", UNAUTHENTICATED))),
    "system:monitoring": ("system:monitoring", (("Group", "system:monitoring"),)),
    "system:service-account-issuer-discovery": ("system:service-account-issuer-discovery", (("Group", "system:serviceaccounts"),)),
    "system:node": ("system:node", ()),  # the Node authorizer is who asks for these rules
    "system:node-proxier": ("system:node-proxier", (("User", "system:kube-proxy"),)),
    ROUTER: (ROUTER, (("User", ROUTER),)),
    BALANCER: (BALANCER, (("User", BALANCER), ("ServiceAccount", "kube-system/twinstack-load-balancer"))),
    "system:kube-dns": ("system:kube-dns", (("User", "system:kube-dns"), ("ServiceAccount", "kube-system/kube-dns"))),
    "system:kube-scheduler": ("system:kube-scheduler", (("User", "system:kube-scheduler"),)),
    "system:kube-controller-manager": ("system:kube-controller-manager", (("User", "system:kube-controller-manager"),)),
}


def bootstrap_objects() -> list[Document]:
    """The documents, roles first."""
    documents = [_role(name, list(rules)) for name, rules in _ROLES.items()]
    for name, parts in _AGGREGATED.items():
        role = _role(name, [rule for part in parts for rule in _ROLES[part]])
        documents.append(role | {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {_AGGREGATE + name: "true"}}]}})
    return documents + [_binding(name, role, subjects) for name, (role, subjects) in _BINDINGS.items()]


def _metadata(name: str) -> Document:
    labels = dict(_LABELS)
    if mark := _MARKS.get(name):
        labels[_AGGREGATE + mark] = "true"
    return {"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}}


def _role(name: str, rules: list[_Rule]) -> Document:
    return {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": _metadata(name), "rules": [dict(rule) for rule in rules]}


def _binding(name: str, role: str, subjects: Sequence[tuple[str, str]]) -> Document:
    document: Document = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
    }
    if subjects:
        document["subjects"] = [_subject(kind, who) for kind, who in subjects]
    return document


def _subject(kind: str, who: str) -> Document:
    if kind == "ServiceAccount":
        namespace, _, name = who.partition("/")
        return {"kind": kind, "namespace": namespace, "name": name}
    return {"kind": kind, "apiGroup": GROUP, "name": who}
