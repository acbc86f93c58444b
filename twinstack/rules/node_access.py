"""What a kubelet may do, and to what: its own Node, its own pods, its lease, and what its pods refer to.

Pure. The rules of the role ``system:node`` say what kubelets do at all; here stands which of it belongs to one node. The facts,
which pods a node has and what they refer to, come from whoever asks.

Source: the Kubernetes documentation, "Using Node Authorization" and "NodeRestriction".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from twinstack.api.objects import Document
from twinstack.rules.bootstrap_roles import NODE_RULES
from twinstack.rules.rbac import Attributes, Rule, allows, rule_of

PREFIX: Final = "system:node:"
NODES_GROUP: Final = "system:nodes"
LEASE_NAMESPACE: Final = "kube-node-lease"
MIRROR: Final = "kubernetes.io/config.mirror"
RULES: Final[tuple[Rule, ...]] = tuple(rule_of(rule) for rule in NODE_RULES)
_LABEL_DOMAINS: Final = ("kubernetes.io", "k8s.io")
# What a kubelet may say about itself in those domains; so may anything below the last two.
_OWN_LABELS: Final = frozenset({
    "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os", "beta.kubernetes.io/arch", "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type", "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone", "failure-domain.kubernetes.io/region", "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/region", "topology.kubernetes.io/zone", "node.kubernetes.io/exclude-from-external-load-balancers",
})  # fmt: skip
_OWN_PREFIXES: Final = ("kubelet.kubernetes.io", "node.kubernetes.io")


class NodeFacts(Protocol):
    """What is known about nodes and their pods."""

    def node_of(self, namespace: str, pod: str) -> str | None:
        """The node of a pod, empty while it has none; None when there is no such pod."""

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """Whether a pod of this node refers to this configmap, secret or serviceaccount."""


def node_name(user: str, groups: tuple[str, ...]) -> str:
    """The node that a user is; empty for anybody else."""
    return user.removeprefix(PREFIX) if user.startswith(PREFIX) and NODES_GROUP in groups else ""


def refusal(node: str, asked: Attributes, selected: Mapping[str, str], facts: NodeFacts) -> str | None:
    """Why a node may not do this; None when it may. *selected* are the fields that a list or watch insists on."""
    if asked.path or not any(allows(rule, asked) for rule in RULES):
        return "kubelets do not do this"
    if asked.group == "" and asked.resource == "nodes":
        if asked.verb == "create" or (asked.name or selected.get("metadata.name")) == node:
            return None
        return f"it is not about node {node} alone"
    if asked.group == "" and asked.resource == "pods":
        return _pod_refusal(node, asked, selected, facts)
    if asked.resource == "leases":
        if asked.namespace == LEASE_NAMESPACE and (asked.verb == "create" or asked.name == node):
            return None
        return f"a node has one lease, {LEASE_NAMESPACE}/{node}"
    if asked.group == "" and asked.resource in ("configmaps", "secrets", "serviceaccounts"):
        if asked.namespace and asked.name and facts.refers(node, asked.resource, asked.namespace, asked.name):
            return None
        return f"no pod of node {node} refers to it"
    return None


def _pod_refusal(node: str, asked: Attributes, selected: Mapping[str, str], facts: NodeFacts) -> str | None:
    if asked.verb in ("list", "watch"):
        return None if selected.get("spec.nodeName") == node else f"a node looks at its own pods only: spec.nodeName={node}"
    if asked.verb == "create" and not asked.subresource:
        return None
    found = facts.node_of(asked.namespace, asked.name)
    return None if found is None or found == node else f"the pod does not belong to node {node}"


def references(pod: Document) -> Iterator[tuple[str, str]]:
    """What a pod refers to in its namespace: resource and name."""
    spec = pod.get("spec") or {}
    yield "serviceaccounts", spec.get("serviceAccountName") or "default"
    for secret in spec.get("imagePullSecrets") or ():
        yield "secrets", secret.get("name", "")
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume)
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from _of_volume(source)
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            for source in container.get("envFrom") or ():
                yield from _named(source, "configMapRef", "secretRef")
            for variable in container.get("env") or ():
                yield from _named(variable.get("valueFrom") or {}, "configMapKeyRef", "secretKeyRef")


def _of_volume(source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _named(source, "configMap", "secret")


def _named(source: Mapping[str, Any], config_map: str, secret: str) -> Iterator[tuple[str, str]]:
    if found := source.get(config_map):
        yield "configmaps", found.get("name", "")
    if found := source.get(secret):
        yield "secrets", found.get("secretName") or found.get("name", "")


# ---- what a node writes


def restriction(node: str, resource: str, after: Document, before: Document | None, subresource: str) -> str | None:
    """Why a node may not write this; None when it may. *before* is None for a new object."""
    metadata = after.get("metadata") or {}
    if resource == "nodes":
        return _node_restriction(node, after, before, subresource)
    if resource == "leases":
        return None if metadata.get("name") == node else f"a node has one lease, {LEASE_NAMESPACE}/{node}"
    if resource == "pods" and before is None:
        spec = after.get("spec") or {}
        if not (metadata.get("annotations") or {}).get(MIRROR):
            return "a kubelet creates mirror pods only"
        if spec.get("nodeName") != node:
            return f"a mirror pod belongs to its node: spec.nodeName must be {node}"
        named = [name for kind, name in references({**after, "spec": {**spec, "serviceAccountName": "-"}}) if name != "-"]
        return "a mirror pod refers to no ServiceAccount, Secret or ConfigMap" if named or spec.get("serviceAccountName") else None
    if resource == "pods" and subresource == "status" and before is not None:
        old = before.get("metadata") or {}
        if (metadata.get("labels") or {}) != (old.get("labels") or {}):
            return "a kubelet does not change the labels of a pod"
    return None


def _node_restriction(node: str, after: Document, before: Document | None, subresource: str) -> str | None:
    name = (after.get("metadata") or {}).get("name")
    if name != node:
        return f"node {node} may not write node {name}"
    if before is not None:
        if (after.get("spec") or {}).get("taints", []) != (before.get("spec") or {}).get("taints", []):
            return "a kubelet does not change the taints of its node"
        if (after.get("metadata") or {}).get("ownerReferences") != (before.get("metadata") or {}).get("ownerReferences"):
            return "a kubelet does not change the owners of its node"
    new = (after.get("metadata") or {}).get("labels") or {}
    old = ((before or {}).get("metadata") or {}).get("labels") or {}
    wrong = sorted(label for label in new.keys() | old.keys() if new.get(label) != old.get(label) and not _may_label(label))
    return f"a kubelet does not set these labels of its node: {', '.join(wrong)}" if wrong else None


def _may_label(label: str) -> bool:
    domain = label.partition("/")[0] if "/" in label else ""
    if domain == "node-restriction.kubernetes.io" or domain.endswith(".node-restriction.kubernetes.io"):
        return False
    if not any(domain == one or domain.endswith("." + one) for one in _LABEL_DOMAINS):
        return True
    return label in _OWN_LABELS or any(domain == one or domain.endswith("." + one) for one in _OWN_PREFIXES)
