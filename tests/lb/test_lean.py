"""What a node keeps of what it watches, and what of it matters."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import EndpointSlice, Node, Service
from twinstack.api.objects import view_of
from twinstack.lb.lean import concerns_owners, lean_node, lean_service, lean_slice
from twinstack.net.family import FAMILIES
from twinstack.rules.balancer_owners import candidates, endpoint_nodes


def service(version: str = "1", *, type_: str = "LoadBalancer", ip: str = "192.0.2.1", **spec) -> Service:
    status = {"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}] if ip else []}}
    return view_of(
        Service,
        {"metadata": {"namespace": "n", "name": "s", "resourceVersion": version}, "spec": {"type": type_, "selector": {"a": "b"}, **spec}, "status": status},
    )


def node(version: str = "1", **status) -> Node:
    conditions = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}, {"type": "DiskPressure", "status": "False"}]
    metadata = {"name": "a", "uid": "u", "resourceVersion": version, "labels": {"x": "y", "node.kubernetes.io/exclude-from-external-load-balancers": "false"}}
    return view_of(Node, {"metadata": metadata, "status": {"conditions": conditions, **status}})


def endpoints(*pods: tuple[str, bool]) -> EndpointSlice:
    return view_of(
        EndpointSlice,
        {
            "metadata": {"namespace": "n", "name": "s-1", "labels": {"kubernetes.io/service-name": "s", "other": "x"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [f"10.0.0.{i}"], "nodeName": name, "conditions": {"ready": ready}} for i, (name, ready) in enumerate(pods)],
        },
    )


def test_services_with_a_load_balancer_are_kept_and_others_counted() -> None:
    assert lean_service(service()) == service()
    assert lean_service(service(type_="ClusterIP", ip="")).spec.selector is None


def test_of_slices_the_nodes_are_left() -> None:
    lean = lean_slice(endpoints(("a", True), ("a", True), ("b", False)))
    assert [(one.nodeName, one.conditions.ready) for one in lean.endpoints or ()] == [("a", True), ("b", False)]
    assert endpoint_nodes([lean], FAMILIES[0]) == {"a"} and lean.labels == {"kubernetes.io/service-name": "s"}


def test_of_nodes_what_makes_them_candidates_is_left() -> None:
    lean = lean_node(node(capacity={"cpu": "4"}))
    assert lean.status.capacity is None and lean.metadata.uid == "u"
    assert candidates([lean], frozenset("a")) == ("a",)


@pytest.mark.parametrize(
    ("before", "after", "matters"),
    [
        (None, service(), True),
        (service(), None, True),
        (service("1"), service("2"), False),
        (service(), service("2", ip="192.0.2.2"), True),
        (service(), service("2", externalTrafficPolicy="Local"), True),
        (None, service(ip=""), False),
        (lean_node(node()), lean_node(node("2", capacity={"cpu": "4"})), False),
        (lean_node(node()), lean_node(node("2", conditions=[])), True),
        (lean_slice(endpoints(("a", True))), lean_slice(endpoints(("a", True), ("a", True))), False),
        (lean_slice(endpoints(("a", True))), lean_slice(endpoints(("a", False))), True),
    ],
)
def test_what_can_change_an_owner(before, after, matters) -> None:
    assert concerns_owners(before, after) is matters
