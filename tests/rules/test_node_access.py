"""What belongs to a kubelet, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from twinstack.rules.node_access import node_name, references, refusal, restriction
from twinstack.rules.rbac import Attributes


class Facts:
    """Two nodes with a pod each."""

    def node_of(self, namespace: str, pod: str) -> str | None:
        return {"mine": "node1", "theirs": "node2", "nobodys": ""}.get(pod)

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        return (node, namespace, name) == ("node1", "ns", "mine")


OWN, MINE, NONE = {"metadata.name": "node1"}, {"spec.nodeName": "node1"}, {}
LEASES = "coordination.k8s.io"


@pytest.mark.parametrize(
    ("asked", "selected", "allowed"),
    [
        (Attributes("get", "", "nodes", name="node1"), NONE, True),
        (Attributes("get", "", "nodes", name="node2"), NONE, False),
        (Attributes("list", "", "nodes"), NONE, False),
        (Attributes("watch", "", "nodes", name="node1"), OWN, True),
        (Attributes("watch", "", "nodes", name="node2"), {"metadata.name": "node2"}, False),
        (Attributes("create", "", "nodes"), NONE, True),
        (Attributes("patch", "", "nodes", "status", name="node1"), NONE, True),
        (Attributes("patch", "", "nodes", "status", name="node2"), NONE, False),
        (Attributes("delete", "", "nodes", name="node1"), NONE, False),
        (Attributes("list", "", "pods"), NONE, False),
        (Attributes("list", "", "pods"), MINE, True),
        (Attributes("watch", "", "pods"), {"spec.nodeName": "node2"}, False),
        (Attributes("get", "", "pods", "", "ns", "mine"), NONE, True),
        (Attributes("get", "", "pods", "", "ns", "theirs"), NONE, False),
        (Attributes("get", "", "pods", "", "ns", "nobodys"), NONE, False),
        (Attributes("patch", "", "pods", "status", "ns", "mine"), NONE, True),
        (Attributes("patch", "", "pods", "status", "ns", "theirs"), NONE, False),
        (Attributes("patch", "", "pods", "", "ns", "mine"), NONE, False),
        (Attributes("delete", "", "pods", "", "ns", "mine"), NONE, True),
        (Attributes("delete", "", "pods", "", "ns", "theirs"), NONE, False),
        (Attributes("delete", "", "pods", "", "ns", "gone"), NONE, True),  # which is 404 then
        (Attributes("create", "", "pods", "binding", "ns", "mine"), NONE, False),
        (Attributes("create", "", "pods", "exec", "ns", "mine"), NONE, False),
        (Attributes("get", "", "secrets", "", "ns", "mine"), NONE, True),
        (Attributes("get", "", "secrets", "", "ns", "theirs"), NONE, False),
        (Attributes("get", "", "secrets", "", "other", "mine"), NONE, False),
        (Attributes("list", "", "secrets", "", "ns"), NONE, False),
        (Attributes("update", "", "secrets", "", "ns", "mine"), NONE, False),
        (Attributes("watch", "", "configmaps", "", "ns", "mine"), {"metadata.name": "mine"}, True),
        (Attributes("list", "", "configmaps"), NONE, False),
        (Attributes("create", "", "serviceaccounts", "token", "ns", "mine"), NONE, True),
        (Attributes("create", "", "serviceaccounts", "token", "ns", "theirs"), NONE, False),
        (Attributes("update", LEASES, "leases", "", "kube-node-lease", "node1"), NONE, True),
        (Attributes("update", LEASES, "leases", "", "kube-node-lease", "node2"), NONE, False),
        (Attributes("update", LEASES, "leases", "", "kube-system", "node1"), NONE, False),
        (Attributes("list", LEASES, "leases", "", "kube-node-lease"), NONE, False),
        (Attributes("list", "", "services"), NONE, True),
        (Attributes("update", "", "services", "", "ns", "s"), NONE, False),
        (Attributes("create", "", "events", "", "ns"), NONE, True),
        (Attributes("list", "rbac.authorization.k8s.io", "clusterroles"), NONE, False),
        (Attributes("get", path="/metrics"), NONE, False),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_node_reaches_what_is_its_own_and_nothing_of_another_node(asked: Attributes, selected: dict[str, str], allowed: bool) -> None:
    assert (refusal("node1", asked, selected, Facts()) is None) is allowed


def test_a_node_is_a_user_of_that_name_in_that_group() -> None:
    assert node_name("system:node:a", ("system:nodes",)) == "a"
    assert node_name("system:node:a", ()) == node_name("jane", ("system:nodes",)) == ""


def test_a_pod_refers_to_what_it_names_anywhere() -> None:
    pod = {
        "spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "s1"}},
                {"name": "b", "configMap": {"name": "c1"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "s2"}}, {"configMap": {"name": "c2"}}, {"serviceAccountToken": {"path": "t"}}]}},
                {"name": "d", "emptyDir": {}},
            ],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "s3"}}, {"configMapRef": {"name": "c3"}}]}],
            "containers": [
                {"env": [{"valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}, {"valueFrom": {"configMapKeyRef": {"name": "c4"}}}, {"name": "x"}]}
            ],
        }
    }
    expected = {("serviceaccounts", "sa"), ("secrets", "pull"), *(("secrets", f"s{i}") for i in range(1, 5)), *(("configmaps", f"c{i}") for i in range(1, 5))}
    assert set(references(pod)) == expected
    assert list(references({})) == [("serviceaccounts", "default")]


def node(name: str = "node1", *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


MIRROR = {"annotations": {"kubernetes.io/config.mirror": "x"}}


@pytest.mark.parametrize(
    ("resource", "after", "before", "subresource", "refused"),
    [
        ("nodes", node(), None, "", ""),
        ("nodes", node("node2"), None, "", "may not write node node2"),
        ("nodes", node(labels={"kubernetes.io/hostname": "node1", "example.com/x": "y"}), None, "", ""),
        ("nodes", node(labels={"node-role.kubernetes.io/control-plane": ""}), None, "", "labels"),
        ("nodes", node(labels={"node-restriction.kubernetes.io/a": "b"}), node(), "", "labels"),
        ("nodes", node(labels={"kubelet.kubernetes.io/a": "b"}), node(), "", ""),
        ("nodes", node(taints=[{"key": "a", "effect": "NoSchedule"}]), None, "", ""),
        ("nodes", node(), node(taints=[{"key": "a", "effect": "NoSchedule"}]), "", "taints"),
        ("leases", {"metadata": {"name": "node1"}}, None, "", ""),
        ("leases", {"metadata": {"name": "node2"}}, None, "", "one lease"),
        ("pods", {"metadata": {}, "spec": {"nodeName": "node1"}}, None, "", "mirror pods only"),
        ("pods", {"metadata": MIRROR, "spec": {"nodeName": "node1"}}, None, "", ""),
        ("pods", {"metadata": MIRROR, "spec": {"nodeName": "node2"}}, None, "", "belongs to its node"),
        ("pods", {"metadata": MIRROR, "spec": {"nodeName": "node1", "volumes": [{"secret": {"secretName": "s"}}]}}, None, "", "no ServiceAccount"),
        ("pods", {"metadata": {"labels": {"a": "b"}}}, {"metadata": {"labels": {"a": "b"}}}, "status", ""),
        ("pods", {"metadata": {"labels": {"a": "c"}}}, {"metadata": {"labels": {"a": "b"}}}, "status", "labels"),
        ("events", {"metadata": {"name": "x"}}, None, "", ""),
    ],
)
def test_what_a_node_writes_is_about_itself(resource: str, after: dict[str, Any], before: dict[str, Any] | None, subresource: str, refused: str) -> None:
    why = restriction("node1", resource, after, before, subresource)
    assert refused in (why or "") and bool(why) == bool(refused)
