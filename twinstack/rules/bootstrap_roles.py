"""The roles and bindings that every cluster begins with.

Rule of this file: names are Kubernetes' own, for people and charts bind to them; what a component may do is what ours
does, and no more. Each object is told in one line; :func:`bootstrap_objects` makes documents of them.

Source: the Kubernetes documentation, "Using RBAC Authorization", section "Default roles and role bindings".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from twinstack.api.objects import Document
from twinstack.rules import controller_roles
from twinstack.rules.policy_rules import ASK, READ, TELL_EVENTS, WRITE, RuleDocument, lock, reading, rule
from twinstack.rules.rbac import GROUP

ROUTER: Final = "twinstack:node-router"
BALANCER: Final = "twinstack:load-balancer"
AUTOUPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AGGREGATE: Final = "rbac.authorization.k8s.io/aggregate-to-"

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
    rule(READ, "", *_SEEN),
    rule(READ, "discovery.k8s.io", "endpointslices"),
    rule(READ, "apps", "controllerrevisions", *(f"{one}{end}" for one in ("daemonsets", "deployments", "replicasets", "statefulsets")
                                                 for end in ("", "/scale", "/status") if (one, end) != ("daemonsets", "/scale"))),
    rule(READ, "autoscaling", "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
    rule(READ, "batch", "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
    rule(READ, "policy", "poddisruptionbudgets", "poddisruptionbudgets/status"),
    rule(READ, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
)  # fmt: skip
_EDIT: Final = (
    rule(READ, "", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
    rule(("impersonate",), "", "serviceaccounts"),
    rule(WRITE, "", *_PODS),
    rule(("create",), "", "pods/eviction"),
    rule(WRITE, "", *_CORE),
    rule(("create",), "", "serviceaccounts/token"),
    rule(WRITE, "apps", *_APPS),
    rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
    rule(WRITE, "batch", "cronjobs", "jobs"),
    rule(WRITE, "policy", "poddisruptionbudgets"),
    rule(WRITE, "networking.k8s.io", *_NETWORKING),
    rule((*WRITE, *READ), "coordination.k8s.io", "leases"),
)
_ADMIN: Final = (
    rule(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
    rule((*WRITE, *READ), GROUP, "rolebindings", "roles"),
)

# What a kubelet may do at all; ``node_access`` narrows it to what belongs to the node.
NODE_RULES: Final = (
    *ASK,
    rule(READ, "", "services"),
    rule(("create", "get", "list", "watch", "patch", "update"), "", "nodes"),
    rule(("patch", "update"), "", "nodes/status"),
    *TELL_EVENTS,
    rule((*READ, "create", "delete"), "", "pods"),
    rule(("patch", "update"), "", "pods/status"),
    rule(("create",), "", "pods/eviction"),
    rule(READ, "", "configmaps", "secrets"),
    rule(("create",), "", "serviceaccounts/token"),
    rule(("get",), "", "serviceaccounts"),
    rule(("create", "delete", "get", "patch", "update"), "coordination.k8s.io", "leases"),
)

_ROLES: Final[Mapping[str, tuple[RuleDocument, ...]]] = {
    "cluster-admin": (rule("*", "*", "*"), {"verbs": ["*"], "nonResourceURLs": ["*"]}),
    "system:aggregate-to-view": _VIEW,
    "system:aggregate-to-edit": _EDIT,
    "system:aggregate-to-admin": _ADMIN,
    "system:discovery": (reading("/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"),),
    "system:basic-user": (
        rule(("create",), "authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
        rule(("create",), "authentication.k8s.io", "selfsubjectreviews"),
    ),
    "system:public-info-viewer": (reading("/healthz", "/livez", "/readyz", "/version", "/version/"),),
    "system:monitoring": (reading("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*"),),
    "system:service-account-issuer-discovery": (reading("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
                                                       "/openid/v1/jwks/"),),
    "system:auth-delegator": ASK,
    "system:kubelet-api-admin": (
        rule(("get", "list", "watch", "proxy"), "", "nodes"),
        rule("*", "", "nodes/configz", "nodes/healthz", "nodes/log", "nodes/metrics", "nodes/pods", "nodes/proxy", "nodes/stats"),
    ),
    "system:node": NODE_RULES,
    "system:node-bootstrapper": (rule(("create", *READ), "certificates.k8s.io", "certificatesigningrequests"),),
    "system:node-problem-detector": (rule(("get",), "", "nodes"), rule(("patch",), "", "nodes/status"), *TELL_EVENTS),
    "system:node-proxier": (
        rule(("list", "watch"), "", "services"),
        rule(READ, "", "nodes"),
        rule(("list", "watch"), "discovery.k8s.io", "endpointslices"),
        rule(("list", "watch"), "networking.k8s.io", "servicecidrs"),
        *TELL_EVENTS,
    ),
    # Who knows the ways between nodes looks at all of them, which kubelets do not.
    ROUTER: (rule(READ, "", "nodes"),),
    # Every node's: addresses in the Services' status, an election, and a lease by which the nodes know each other to live.
    BALANCER: (
        *TELL_EVENTS,
        rule(READ, "", "nodes", "services"),
        rule(("patch",), "", "services/status"),
        rule(READ, "discovery.k8s.io", "endpointslices"),
        rule(READ, "", "configmaps", names=("twinstack-load-balancer",)),
        rule((*READ, "create", "patch", "update"), "coordination.k8s.io", "leases"),
    ),
    "system:kube-dns": (rule(READ, "", "namespaces", "pods", "services"), rule(READ, "discovery.k8s.io", "endpointslices")),
    "system:kube-scheduler": (
        *TELL_EVENTS,
        *lock("kube-scheduler"),
        rule(READ, "", "nodes"),
        rule((*READ, "delete"), "", "pods"),
        rule(("create",), "", "bindings", "pods/binding"),
        rule(("patch", "update"), "", "pods/status"),
        rule(READ, "", "namespaces", "persistentvolumeclaims", "persistentvolumes", "replicationcontrollers", "services"),
        rule(READ, "apps", "replicasets", "statefulsets"),
        rule(READ, "policy", "poddisruptionbudgets"),
        *ASK,
    ),
    controller_roles.MANAGER: controller_roles.MANAGER_RULES,
    **controller_roles.roles(),
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
    "system:node-problem-detector": ("system:node-problem-detector", (("User", "system:node-problem-detector"),)),
    "system:node-proxier": ("system:node-proxier", (("User", "system:kube-proxy"),)),
    ROUTER: (ROUTER, (("User", ROUTER),)),
    BALANCER: (BALANCER, (("User", BALANCER), ("ServiceAccount", "kube-system/twinstack-load-balancer"))),
    "system:kube-dns": ("system:kube-dns", (("User", "system:kube-dns"), ("ServiceAccount", "kube-system/kube-dns"))),
    "system:kube-scheduler": ("system:kube-scheduler", (("User", "system:kube-scheduler"),)),
    controller_roles.MANAGER: (controller_roles.MANAGER, (("User", controller_roles.MANAGER),)),
    **controller_roles.bindings(),
}


def bootstrap_objects() -> list[Document]:
    """The documents, roles first."""
    documents = [_role(name, list(rules)) for name, rules in _ROLES.items()]
    for name, parts in _AGGREGATED.items():
        role = _role(name, [rule for part in parts for rule in _ROLES[part]])
        documents.append(role | {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {_AGGREGATE + name: "true"}}]}})
    documents += [_binding(name, role, subjects) for name, (role, subjects) in _BINDINGS.items()]
    for account, places in controller_roles.CONFINED.items():
        for namespace, rules in places.items():
            name, subject = controller_roles.role_of(account), ("ServiceAccount", f"{controller_roles.NAMESPACE}/{account}")
            documents += [_within(namespace, _role(name, list(rules))), _within(namespace, _binding(name, name, [subject]))]
    return documents


def _within(namespace: str, one: Document) -> Document:
    """A role or its binding as one of a namespace."""
    document = one | {"kind": one["kind"].removeprefix("Cluster"), "metadata": {**one["metadata"], "namespace": namespace}}
    return document | ({"roleRef": {**one["roleRef"], "kind": "Role"}} if "roleRef" in one else {})


def _metadata(name: str) -> Document:
    labels = dict(_LABELS)
    if mark := _MARKS.get(name):
        labels[_AGGREGATE + mark] = "true"
    return {"name": name, "labels": labels, "annotations": {AUTOUPDATE: "true"}}


def _role(name: str, rules: list[RuleDocument]) -> Document:
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
