"""A cluster's DNS: where it answers, the Service in front of it, and what the servers are told.

Theory. One server runs beside the control plane, so that names are found while the API server is away; others on the first nodes, so
that names are found while any one machine is; each in a process of its own, so that nobody's work delays it. Pods know them by the
well-known address of each Service range, its tenth, as clusters everywhere have it. The Service has no selector, and its slices, one
of each family, are ours: every half second each server is asked by each family, and who is silent three times in a row is ready in
that family no more. Whoever is left stays, since to be sent to somebody who is thought dead is better than to nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from twinstack.api import errors
from twinstack.api.kinds import EndpointSlice, Service
from twinstack.api.objects import Document, key_of
from twinstack.api.resources import Resource, resource_of
from twinstack.lab.hosting import Program, Report
from twinstack.lab.places import Places
from twinstack.lab.supervisor import Process
from twinstack.lab.topology import Node, Topology
from twinstack.net.cidr import nth
from twinstack.net.family import Address, Family, Network

COMPONENT = "dns"
USER = "system:kube-dns"
DOMAIN = "cluster.local"
NAMESPACE, NAME = "kube-system", "kube-dns"
METRICS_PORT = 9153
PORTS: tuple[tuple[str, int, str], ...] = (("dns", 53, "UDP"), ("dns-tcp", 53, "TCP"), ("metrics", METRICS_PORT, "TCP"))
ROUND_SECONDS, SILENCES = 0.5, 3  # how often a server is asked, and how many silences are too many
_ON_NODES = 2
_WATCH = "dns-watch"  # no component of anybody's: it goes with the control plane's server
_WELL_KNOWN, _IN_SMALL = 10, 2  # which address of a range; the second where the range ends before

log = logging.getLogger(__name__)


def addresses(topology: Topology) -> tuple[Address, ...]:
    """The well-known addresses, primary family first."""
    return tuple(map(_address, topology.service_cidrs.values()))


def _address(network: Network) -> Address:
    return nth(network, _WELL_KNOWN if network.num_addresses > _WELL_KNOWN + 2 else _IN_SMALL)


def instances(topology: Topology) -> tuple[Node, ...]:
    """The machines with a server: the control plane, and the first two nodes."""
    return (topology.control_plane, *(node for node in topology.nodes if node.number <= _ON_NODES))


def objects(topology: Topology, silent: frozenset[Address] = frozenset()) -> list[tuple[Resource, Document]]:
    """The Service, and a slice of each family, in which the *silent* are not ready."""
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
            "endpoints": [_endpoint(topology, machine, family, silent) for machine in instances(topology)],
        }
        for family in topology.families
    ]
    return [(resource_of(Service), service), *((resource_of(EndpointSlice), one) for one in slices)]


def _endpoint(topology: Topology, machine: Node, family: Family, silent: frozenset[Address]) -> Document:
    answers = machine.addresses[family] not in silent
    place = {} if machine is topology.control_plane else {"nodeName": machine.name}
    return {"addresses": [str(machine.addresses[family])], "conditions": {"ready": answers, "serving": answers, "terminating": False}, **place}


class Watchman:
    """Who answers, judged from what was heard: a value that is told each round's silences.

    At first only the control plane's server is trusted, as the others take longer to begin.
    """

    def __init__(self, topology: Topology) -> None:
        self._families = topology.families
        first = topology.control_plane
        self._silences = {one.addresses[family]: 0 if one is first else SILENCES for one in instances(topology) for family in topology.families}

    @property
    def watched(self) -> list[Address]:
        """The servers' addresses."""
        return list(self._silences)

    @property
    def silent(self) -> frozenset[Address]:
        """Who is not to be sent to. Where all of a family are silent, none is."""
        found = {address for address, count in self._silences.items() if count >= SILENCES}
        dead = {family for family in self._families if all(one in found for one in self._silences if Family.of(one) is family)}
        return frozenset(address for address in found if Family.of(address) not in dead)

    def heard(self, answered: Mapping[Address, bool]) -> None:
        """Who answered in a round, and who did not."""
        for address, did in answered.items():
            self._silences[address] = 0 if did else self._silences[address] + 1


def processes(topology: Topology, places: Places, *, after: str) -> list[Process]:
    """A process for each server; in the control plane's is the watch, too, and the server once the Service is there."""
    control_plane, *nodes = instances(topology)
    first = {
        _WATCH: Program(lambda ready: keep(topology, places, ready)),
        COMPONENT: Program(lambda ready: serve(topology, places, control_plane, ready), after=_WATCH),
    }
    found = [Process(COMPONENT, places.netns(control_plane.name), lambda report: first, (COMPONENT,), after=after)]
    for node in nodes:
        component = f"{node.name}/{COMPONENT}"
        program = Program(lambda ready, node=node: serve(topology, places, node, ready))  # type: ignore[misc]
        found.append(Process(f"{COMPONENT}-{node.name}", places.netns(node.name), _only(component, program), (component,), after=after))
    return found


def _only(component: str, program: Program) -> Callable[[Callable[[Report], None]], Mapping[str, Program]]:
    return lambda report: {component: program}


async def keep(topology: Topology, places: Places, ready: Callable[[], None]) -> None:
    """Make the Service and its slices, or make them so again; then keep in the slices who answers, until cancelled."""
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client

    watchman, published = Watchman(topology), frozenset[Address]()
    async with Client(kubeconfig.load(places.kubeconfig("admin")), user_agent="twinstack") as client:
        for resource, document in objects(topology, watchman.silent):
            await _publish(client, resource, document)
        published = watchman.silent
        ready()
        while True:
            began = asyncio.get_running_loop().time()
            answers = await asyncio.gather(*map(_answers, watchman.watched))
            watchman.heard(dict(zip(watchman.watched, answers, strict=True)))
            if (silent := watchman.silent) != published:
                try:
                    for resource, document in objects(topology, silent)[1:]:
                        await client.patch(resource, key_of(document), {"endpoints": document["endpoints"]})
                except errors.APIError as error:  # it is tried again in the next round
                    log.info("Who answers cannot be told", extra={"error": str(error)})
                else:
                    log.info("Other servers answer", extra={"silent": ", ".join(map(str, silent)) or "none"})
                    published = silent
            await asyncio.sleep(max(0.0, began + ROUND_SECONDS - asyncio.get_running_loop().time()))


async def _answers(address: Address) -> bool:
    """Whether a server answers for its zone; one that has not read everything yet does not."""
    import dns.asyncquery  # Heavy, and not needed by who makes or asks a cluster.

    question = dns.message.make_query(f"dns-version.{DOMAIN}", "TXT")
    try:
        return (await dns.asyncquery.udp(question, str(address), ROUND_SECONDS)).rcode() == dns.rcode.NOERROR
    except (OSError, TimeoutError, dns.exception.DNSException):
        return False


async def _publish(client: Any, resource: Resource, document: Document) -> None:
    key = key_of(document)
    try:
        # Asked first: to create a Service that exists is refused because its own address is taken.
        await client.get(resource, key)
    except errors.NotFound:
        await client.create(resource, document)
    else:
        fields = {name: value for name, value in document.items() if name not in ("apiVersion", "kind", "addressType")}
        await client.patch(resource, key, fields)


async def serve(topology: Topology, places: Places, machine: Node, ready: Callable[[], None]) -> None:
    """Run a server on a machine's addresses; unless the user names a resolver, nobody is asked for other names, because a lab leads nowhere."""
    from twinstack.dns.dns import leave_memory_alone, run
    from twinstack.dns.settings import HEALTH_PORT, NONE, READY_PORT, Settings

    alone = machine is topology.control_plane
    networks: list[Any] = [*topology.pod_cidrs.values(), *topology.service_cidrs.values()]
    settings = Settings(
        kubeconfig=places.kubeconfig(COMPONENT),
        cluster_domain=DOMAIN,
        bind_addresses=tuple(map(str, topology.node_addresses(machine))),
        forward=topology.dns_forward or (NONE,),
        hide_dead_families=topology.dns_hide_dead_families,
        reverse_cidrs=",".join(map(str, networks)),
        service=f"{NAMESPACE}/{NAME}",
        health_port=HEALTH_PORT if alone else None,  # a node's other ports are its pods'
        ready_port=READY_PORT if alone else None,
    )

    def begun() -> None:
        leave_memory_alone()
        ready()

    await run(settings, ready=begun)
