"""A cluster on paper: three nodes, four pods, and the Services of the examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.net.cidr import parse_address
from twinstack.net.family import ByFamily, Family
from twinstack.prove.matrix import Place
from twinstack.prove.sight import Layout, Seen

# What stands for each family on paper: pods, Services, nodes.
NETWORKS = {Family.IPV4: ("10.244.0.{}", "10.96.0.{}", "172.30.0.{}"), Family.IPV6: ("fd00:10:244::{}", "fd00:10:96::{}", "fd00:172::{}")}


class Paper:
    """Makes the objects of a cluster of the given families."""

    def __init__(self, families: tuple[Family, ...]) -> None:
        self.families = families
        self.layout = Layout(
            families=families,
            nodes=tuple(Place(f"node{i}", f"/netns/node{i}", self.addresses(2, 10 + i), f"node{i}") for i in (1, 2, 3)),
            outside=Place("outside", "/netns/outside", self.addresses(2, 200), "outside"),
            pod_netns=lambda node, uid: f"/netns/{node}/{uid}",
        )

    def addresses(self, which: int, number: int) -> ByFamily[Any]:
        return ByFamily((family, parse_address(NETWORKS[family][which].format(number))) for family in self.families)

    def pod(self, name: str, node: str, number: int, *, app: str = "web", ready: bool = True, **status: Any) -> kinds.Pod:
        ips = [{"ip": str(address)} for address in self.addresses(0, number).values()]
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        document = {
            "metadata": {"name": name, "namespace": "demo", "uid": f"uid-{name}", "labels": {"app": app}},
            "spec": {"nodeName": node},
            "status": {"podIPs": ips, "conditions": [condition], **status},
        }
        return view_of(kinds.Pod, document)

    def service(self, name: str, number: int, *, app: str = "web", families: tuple[Family, ...] = (), ingress: int = 0, **spec: Any) -> kinds.Service:
        families = families or self.families
        ips = [NETWORKS[family][1].format(number) for family in families]
        document = {
            "metadata": {"name": name, "namespace": "demo"},
            "spec": {
                "selector": {"app": app},
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}],
                "clusterIP": ips[0],
                "clusterIPs": ips,
                "ipFamilies": [str(family) for family in families],
                "ipFamilyPolicy": "PreferDualStack",
                **spec,
            },
            "status": {"loadBalancer": {"ingress": [{"ip": NETWORKS[family][1].format(ingress), "ipMode": "VIP"} for family in families if ingress]}},
        }
        return view_of(kinds.Service, document)

    def slices(self, service: str, pods: list[kinds.Pod]) -> list[kinds.EndpointSlice]:
        result = []
        for i, family in enumerate(self.families):
            endpoints = [{"addresses": [pod.status.podIPs[i].ip], "targetRef": {"kind": "Pod", "name": pod.metadata.name}} for pod in pods]  # type: ignore[index]
            metadata = {"name": f"{service}-{family}", "labels": {"kubernetes.io/service-name": service}}
            document = {"metadata": metadata, "addressType": str(family), "endpoints": endpoints, "ports": [{"port": 8080, "protocol": "TCP"}]}
            result.append(view_of(kinds.EndpointSlice, document))
        return result

    def deployment(self, name: str, replicas: int, available: int | None = None) -> kinds.Deployment:
        available = replicas if available is None else available
        status = {"observedGeneration": 1, "replicas": replicas, "updatedReplicas": replicas, "availableReplicas": available}
        return view_of(kinds.Deployment, {"metadata": {"name": name, "generation": 1}, "spec": {"replicas": replicas}, "status": status})

    def seen(self) -> Seen:
        web = [self.pod("web-1", "node1", 1), self.pod("web-2", "node2", 2), self.pod("web-3", "node3", 3), self.pod("web-4", "node1", 4)]
        alone = self.pod("alone-1", "node2", 9, app="alone")
        ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
        services = [
            self.service("prefer-dual", 10, ports=[{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}]),
            self.service("single", 11, families=self.families[:1], ipFamilyPolicy="SingleStack"),
            self.service("headless", 12, clusterIP="None", clusterIPs=["None"]),
            self.service("nodeport", 13, type="NodePort", ports=ports),
            self.service("alone", 14, app="alone"),
            self.service("loadbalancer", 15, type="LoadBalancer", ingress=99),
        ]
        slices = [one for service in services for one in self.slices(service.metadata.name, [alone] if service.metadata.name == "alone" else web)]
        return Seen([self.deployment("web", 4), self.deployment("alone", 1)], [*web, alone], services, slices)


@pytest.fixture
def paper() -> Callable[..., Paper]:
    return lambda *families: Paper(families)
