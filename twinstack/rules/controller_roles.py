"""What each controller may do, when each has a ServiceAccount of its own (``--use-service-account-credentials``).

Rule of this file: a controller's role holds what its decisions write, and what it asks for once more before it writes. What it looks
at all the time comes from the one cache of the kube-controller-manager, which reads as itself. The names of
accounts and roles are Kubernetes' own, so that what people know of them holds here.

Source: the Kubernetes documentation, "Using RBAC Authorization", section "Roles for built-in controllers".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twinstack.rules.policy_rules import ASK, READ, TELL_EVENTS, RuleDocument, lock, rule
from twinstack.rules.rbac import GROUP

NAMESPACE: Final = "kube-system"  # of the accounts
MANAGER: Final = "system:kube-controller-manager"
PREFIX: Final = "system:controller:"
_CHANGE: Final = ("patch", "update")
_PODS: Final = rule((*READ, "create", "delete", "patch"), "", "pods")
_REVISIONS: Final = rule((*READ, "create", "delete", "patch", "update"), "apps", "controllerrevisions")


def _workload(group: str, plural: str, *verbs: str) -> tuple[RuleDocument, ...]:
    """A kind that has pods: it is read, its status is written, and what it makes refers to it."""
    return rule((*READ, *verbs), group, plural), rule(_CHANGE, group, f"{plural}/status"), rule(("update",), group, f"{plural}/finalizers")


# ServiceAccount → rules, besides telling events
CONTROLLERS: Final[Mapping[str, tuple[RuleDocument, ...]]] = {
    "clusterrole-aggregation-controller": (rule(("escalate", *READ, *_CHANGE), GROUP, "clusterroles"),),
    "cronjob-controller": (
        *_workload("batch", "cronjobs", *_CHANGE),
        rule((*READ, "create", "delete", *_CHANGE), "batch", "jobs"),
        rule(("list", "delete"), "", "pods"),
    ),
    "daemon-set-controller": (*_workload("apps", "daemonsets"), rule(("list", "watch"), "", "nodes"), rule(("create",), "", "pods/binding"), _PODS, _REVISIONS),
    "deployment-controller": (
        *_workload("apps", "deployments", *_CHANGE),
        rule((*READ, "create", "delete", *_CHANGE), "apps", "replicasets"),
        rule((*READ, "update"), "", "pods"),
    ),
    "disruption-controller": (
        rule(READ, "apps", "deployments", "replicasets", "statefulsets"),
        rule(READ, "", "replicationcontrollers"),
        rule(READ, "policy", "poddisruptionbudgets"),
        rule(_CHANGE, "policy", "poddisruptionbudgets/status"),
        rule(_CHANGE, "", "pods/status"),
    ),
    "endpoint-controller": (
        rule(READ, "", "pods", "services"),
        rule((*READ, "create", "delete", *_CHANGE), "", "endpoints"),
        rule(("create",), "", "endpoints/restricted"),
    ),
    "endpointslice-controller": (
        rule(READ, "", "nodes", "pods", "services"),
        rule(("update",), "", "services/finalizers"),
        rule((*READ, "create", "delete", *_CHANGE), "discovery.k8s.io", "endpointslices"),
    ),
    "endpointslicemirroring-controller": (
        rule(READ, "", "endpoints", "services"),
        rule(("update",), "", "endpoints/finalizers", "services/finalizers"),
        rule((*READ, "create", "delete", *_CHANGE), "discovery.k8s.io", "endpointslices"),
    ),
    # It reaches whatever there is, and so does the end of namespaces.
    "generic-garbage-collector": (rule((*READ, "delete", *_CHANGE), "*", "*"),),
    "job-controller": (*_workload("batch", "jobs", *_CHANGE), _PODS),
    "namespace-controller": (
        rule((*READ, "delete"), "", "namespaces"),
        rule(_CHANGE, "", "namespaces/finalize", "namespaces/status"),
        rule(("delete", "deletecollection", "get", "list"), "*", "*"),
    ),
    "node-controller": (
        rule((*READ, "delete", *_CHANGE), "", "nodes"),
        rule(_CHANGE, "", "nodes/status"),
        rule((*READ, "delete"), "", "pods"),
        rule(_CHANGE, "", "pods/status"),
        rule(READ, "networking.k8s.io", "servicecidrs"),
    ),
    "pod-garbage-collector": (rule((*READ, "delete"), "", "pods"), rule(("get", "list"), "", "nodes"), rule(_CHANGE, "", "pods/status")),
    "replicaset-controller": (*_workload("apps", "replicasets", "update"), _PODS),
    "replication-controller": (*_workload("", "replicationcontrollers", "update"), _PODS),
    # Here it sees to kube-root-ca.crt, too.
    "service-account-controller": (rule(("create",), "", "serviceaccounts"), rule(("create", *_CHANGE), "", "configmaps")),
    "service-cidrs-controller": (
        rule((*READ, *_CHANGE), "networking.k8s.io", "servicecidrs"),
        rule(_CHANGE, "networking.k8s.io", "servicecidrs/finalizers", "servicecidrs/status"),
        rule(READ, "networking.k8s.io", "ipaddresses"),
    ),
    "statefulset-controller": (
        *_workload("apps", "statefulsets"),
        rule((*READ, "create", "delete", *_CHANGE), "", "pods"),
        _REVISIONS,
        rule(("create", "get"), "", "persistentvolumeclaims"),
    ),
    "ttl-after-finished-controller": (rule((*READ, "delete"), "batch", "jobs"),),
    "windows-node-controller": (rule(("get",), "", "nodes"), rule(("patch",), "", "nodes/status")),
}  # fmt: skip

# Those that reach into one namespace or two: ServiceAccount → namespace → rules
CONFINED: Final[Mapping[str, Mapping[str, tuple[RuleDocument, ...]]]] = {
    "bootstrap-signer": {
        "kube-public": (rule(READ, "", "configmaps"), rule(_CHANGE, "", "configmaps", names=("cluster-info",))),
        NAMESPACE: (rule(READ, "", "secrets"),),
    },
    "token-cleaner": {NAMESPACE: (rule((*READ, "delete"), "", "secrets"),)},
}

# What the program does as itself: it reads everything into its cache, holds its lease, tells events, and gets the controllers their tokens.
MANAGER_RULES: Final = (
    rule(("list", "watch"), "*", "*"),
    *TELL_EVENTS,
    *lock("kube-controller-manager"),
    rule(("get",), "", "configmaps", "namespaces", "serviceaccounts"),
    rule(("create",), "", "serviceaccounts"),
    rule(("create",), "", "serviceaccounts/token", names=(*CONTROLLERS, *CONFINED)),
    *ASK,
)


def role_of(account: str) -> str:
    """The name of the ClusterRole and of its binding."""
    return PREFIX + account


def roles() -> Mapping[str, tuple[RuleDocument, ...]]:
    """Every role by its name."""
    return {role_of(account): (*rules, *TELL_EVENTS) for account, rules in CONTROLLERS.items()}


def bindings() -> Mapping[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Every binding by its name: the role, and who has it."""
    return {role_of(account): (role_of(account), (("ServiceAccount", f"{NAMESPACE}/{account}"),)) for account in CONTROLLERS}
