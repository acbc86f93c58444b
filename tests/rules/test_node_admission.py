"""What a node says to a pod that it was given."""

from __future__ import annotations

from typing import Any

import pytest

from twinstack.api.kinds import Node, Pod
from twinstack.api.objects import view_of
from twinstack.rules.node_admission import refusal


def node(**changed: Any) -> Node:
    status = {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}, **changed.pop("status", {})}
    return view_of(Node, {"metadata": {"name": "node1", "labels": {"zone": "a"}}, "spec": changed, "status": status})


def pod(cpu: str = "", memory: str = "", *, port: int = 0, **spec: Any) -> Pod:
    requests = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
    container = {"name": "c", "resources": {"requests": requests}, "ports": [{"containerPort": 80, "hostPort": port}] if port else []}
    return view_of(Pod, {"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [container], **spec}})


def affinity(operator: str) -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": "zone", "operator": operator, "values": ["a"]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


NO_EXECUTE = {"taints": [{"key": "gone", "value": "x", "effect": "NoExecute"}]}


@pytest.mark.parametrize(
    ("wanted", "where", "others", "reason"),
    [
        pytest.param(pod("2"), node(), [], None, id="all of the node"),
        pytest.param(pod("2"), node(), [pod(), pod()], None, id="others ask for nothing"),
        pytest.param(pod("1500m"), node(), [pod("501m")], "OutOfcpu", id="a thousandth of a processor too much"),
        pytest.param(pod("3", "2Gi"), node(), [], "OutOfcpu", id="the first of two that are short"),
        pytest.param(pod("1", "600Mi"), node(), [pod("1", "600Mi")], "OutOfmemory", id="memory is short"),
        pytest.param(pod(), node(), [pod(), pod(), pod()], "OutOfpods", id="one pod too many"),
        pytest.param(pod(nodeSelector={"zone": "a"}), node(), [], None, id="the node has the label"),
        pytest.param(pod(nodeSelector={"zone": "b"}), node(), [], "NodeAffinity", id="the node has another value of the label"),
        pytest.param(pod(affinity=affinity("In")), node(), [], None, id="node affinity holds"),
        pytest.param(pod(affinity=affinity("NotIn")), node(), [], "NodeAffinity", id="node affinity does not hold"),
        pytest.param(pod(port=8080), node(), [pod(port=8081)], None, id="another port of the node"),
        pytest.param(pod(port=8080), node(), [pod(port=8080)], "NodePorts", id="a port of the node that is taken"),
        pytest.param(pod(), node(**NO_EXECUTE), [], "TaintToleration", id="a taint that ends pods"),
        pytest.param(pod(tolerations=[{"key": "gone", "operator": "Exists"}]), node(**NO_EXECUTE), [], None, id="a taint that is tolerated"),
        pytest.param(pod(), node(taints=[{"key": "k", "effect": "NoSchedule"}]), [], None, id="a taint that is the scheduler's business"),
        pytest.param(pod(), node(unschedulable=True), [], None, id="a node that is cordoned"),
    ],
)
def test_a_node_takes_or_refuses_a_pod(wanted: Pod, where: Node, others: list[Pod], reason: str | None) -> None:
    found = refusal(wanted, where, others)
    assert (found.reason if found else None) == reason


def test_a_refusal_tells_the_amounts() -> None:
    assert refusal(pod("1500m"), node(), [pod("1")]) == ("OutOfcpu", "the node has too little cpu: 1500 asked for, 1000 of 2000 taken")
