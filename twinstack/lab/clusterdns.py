"""A cluster's DNS: where it answers, the Service in front of it, and what the server is told.

Theory. The server runs beside the control plane, in a process of its own, so that names are found while the API server is away.
Pods know it by the well-known address of each Service range, its tenth, as clusters everywhere have it; the Service has
no selector, and slices of ours, one of each family, lead to the control plane's addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twinstack.api import errors
from twinstack.api.kinds import EndpointSlice, Service
from twinstack.api.objects import Document, key_of
from twinstack.api.resources import Resource, resource_of
from twinstack.lab.places import Places
from twinstack.lab.topology import Topology
from twinstack.net.cidr import nth
from twinstack.net.family import Address, Network

COMPONENT = "dns"
USER = "system:kube-dns"
DOMAIN = "cluster.local"
NAMESPACE, NAME = "kube-system", "kube-dns"
METRICS_PORT = 9153
PORTS: tuple[tuple[str, int, str], ...] = (("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", METRICS_PORT, "TCP"))
_WELL_KNOWN, _IN_SMALL = 10, 2  # which address of a range; the second where the range ends before


def addresses(topology: Topology) -> tuple[Address, ...]:
    """The well-known addresses, primary family first."""
    return tuple(map(_address, topology.service_cidrs.values()))


def _address(network: Network) -> Address:
    return nth(network, _WELL_KNOWN if network.num_addresses > _WELL_KNOWN + 2 else _IN_SMALL)


def objects(topology: Topology) -> list[tuple[Resource, Document]]:
    """The Service, and a slice of each family."""
    labels = {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
    texts = list(map(str, addresses(topology)))
    ports = [{"name": name, "port": number, "protocol": protocol} for name, number, protocol in PORTS]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": NAME, "labels": labels},
        "spec": {
            "clusterIP": texts[0],
            "clusterIPs": texts,
            "ipFamilies": [str(family) for family in topology.families],
            "ipFamilyPolicy": "PreferDualStack" if len(texts) > 1 else "SingleStack",
            "ports": [{**port, "targetPort": port["port"]} for port in ports],
        },
    }
    slices = [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": NAMESPACE,
                "name": f"{NAME}-{family.value.lower()}",
                "labels": {**labels, "kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "twinstack.dev"},
            },
            "addressType": family.value,
            "ports": ports,
            "endpoints": [{"addresses": [str(topology.control_plane.addresses[family])], "conditions": {"ready": True, "serving": True}}],
        }
        for family in topology.families
    ]
    return [(resource_of(Service), service), *((resource_of(EndpointSlice), one) for one in slices)]


async def publish(topology: Topology, places: Places) -> None:
    """Make the Service and its slices, or make them so again."""
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client

    async with Client(kubeconfig.load(places.kubeconfig("admin")), user_agent="twinstack") as client:
        for resource, document in objects(topology):
            key = key_of(document)
            try:
                # Asked first: to create a Service that exists is refused because its own address is taken.
                await client.get(resource, key)
            except errors.NotFound:
                await client.create(resource, document)
            else:
                fields = {name: value for name, value in document.items() if name not in ("apiVersion", "kind", "addressType")}
                await client.patch(resource, key, fields)


async def serve(topology: Topology, places: Places, ready: Callable[[], None]) -> None:
    """Run the server on the control plane's addresses; nobody is asked for other names, because a lab leads nowhere."""
    from twinstack.dns.dns import run
    from twinstack.dns.settings import NONE, Settings

    await publish(topology, places)
    networks: list[Any] = [*topology.pod_cidrs.values(), *topology.service_cidrs.values()]
    settings = Settings(
        kubeconfig=places.kubeconfig(COMPONENT),
        cluster_domain=DOMAIN,
        bind_addresses=tuple(map(str, topology.node_addresses(topology.control_plane))),
        forward=(NONE,),
        reverse_cidrs=",".join(map(str, networks)),
        service=f"{NAMESPACE}/{NAME}",
    )
    await run(settings, ready=ready)
