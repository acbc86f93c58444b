"""The programs of a cluster and what each is told: from the topology to settings.

Rule of this file: it fills in flags. What a program does with them is the program's business; here, as on the command
line, it gets nothing but its settings.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from twinstack.kernel import heap
from twinstack.kernel.errors import KernelError, translated
from twinstack.lab import clusterdns, fabric
from twinstack.lab.hosting import Program, Report
from twinstack.lab.places import API_PORT, Places, files_of
from twinstack.lab.supervisor import Process
from twinstack.lab.topology import Node, Topology, balancers, halves
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.balancer_pools import pools_of, text_of_pools

log = logging.getLogger(__name__)
APISERVER, CONTROLLERS, SCHEDULER = "kube-apiserver", "kube-controller-manager", "kube-scheduler"
_WATCH = "node-watch"  # tells the supervisor which nodes are ready; no component of anybody's
# what is imported before the first fork, beside what this file imports by itself: what the nodes' processes need, of which there are many;
# the control plane imports its own once, in its own process, and no node carries it
IMPORTS = (
    "twinstack.agent.agent",
    "twinstack.client.kubeconfig",
    "twinstack.cni.daemon",
    "twinstack.dns.dns",
    "twinstack.lb.lb",
    "twinstack.masq.masq",
    "twinstack.proxy.proxy",
    "twinstack.loops.health",
    "encodings.idna",
    "uvloop",
)
Ready = Callable[[], None]


def import_everything() -> None:
    """Import what the nodes' processes need, so that their forks share it."""
    for module in IMPORTS:
        importlib.import_module(module)


def processes(topology: Topology, places: Places, listener: socket.socket | None) -> list[Process]:
    """The processes of a cluster: the control plane, then its DNS and one per node once the API server serves."""
    control_plane = topology.control_plane.name
    return [
        Process(
            control_plane,
            places.netns(control_plane),
            lambda report: _control_plane(topology, places, listener, report),
            (APISERVER, CONTROLLERS, SCHEDULER),
        ),
        *clusterdns.processes(topology, places, after=APISERVER),
        *fabric.processes(topology, places),
        *(
            Process(
                node.name,
                places.netns(node.name),
                lambda report, node=node: _node(topology, places, node),  # type: ignore[misc]
                tuple(_node(topology, places, node)),
                after=APISERVER,
            )
            for node in topology.nodes
        ),
    ]


def write_files(topology: Topology, places: Places) -> None:
    """Write the files that programs read: ip-masq-agent's configuration, and the load balancer's pools."""
    families = _masqueraded(topology)
    networks = [topology.pod_cidrs, topology.service_cidrs, halves(topology.underlay, 0)]
    texts = [str(group[family]) for group in networks for family in families if family in group and family not in topology.unmasqueraded]
    texts += [family.facts.everything for family in topology.unmasqueraded]
    path = _masq_config(places)
    with translated(f"write {path}"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"nonMasqueradeCIDRs": texts, "masqLinkLocal": False}, file)
        with open(_pools_config(places), "w", encoding="utf-8") as file:
            file.write(text_of_pools(pools_of(balancers(topology), way=topology.announce), fabric.peers(topology)))


def _masq_config(places: Places) -> str:
    return f"{places.state}/ip-masq-agent.json"


def _pools_config(places: Places) -> str:
    return f"{places.state}/load-balancer.yaml"


def _masqueraded(topology: Topology) -> tuple[Family, ...]:
    return FAMILIES if FAMILIES[1] in topology.families else FAMILIES[:1]


# ---- The control plane


def _control_plane(topology: Topology, places: Places, listener: socket.socket | None, report: Callable[[Report], None]) -> Mapping[str, Program]:
    return {
        APISERVER: Program(lambda ready: _apiserver(topology, places, listener, ready)),
        CONTROLLERS: Program(lambda ready: _controllers(topology, places, ready), after=APISERVER),
        SCHEDULER: Program(lambda ready: _scheduler(places, ready), after=APISERVER),
        _WATCH: Program(lambda ready: _watch_nodes(topology, places, report), after=APISERVER),
    }


async def _apiserver(topology: Topology, places: Places, listener: socket.socket | None, ready: Ready) -> None:
    from twinstack.apiserver.app import run
    from twinstack.apiserver.settings import Settings

    serving, client = files_of(places, "apiserver"), files_of(places, "kubelet-client")
    authority = files_of(places, "ca").certificate
    address = topology.address_of(topology.control_plane)
    settings = Settings(
        data_dir=places.apiserver_data,
        bind_address=Family.of(address).facts.unspecified,
        secure_port=API_PORT,
        advertise_address=str(address),
        client_ca_file=authority,
        authorization_mode="Node,RBAC",
        enable_admission_plugins=("ServiceAccount",),
        tls_cert_file=serving.certificate,
        tls_private_key_file=serving.key,
        service_cluster_ip_range=_texts(topology.service_cidrs.values()),
        kubelet_client_certificate=client.certificate,
        kubelet_client_key=client.key,
        kubelet_certificate_authority=authority,
        sockets=() if listener is None else (listener.dup(),),  # the server closes its own; another start needs it again
    )
    await run(settings, ready=ready)


async def _controllers(topology: Topology, places: Places, ready: Ready) -> None:
    from twinstack.client.kube_controller_manager import Settings, run

    masks = {family: topology.masks.get(family) or 0 for family in FAMILIES}
    settings = Settings(
        kubeconfig=places.kubeconfig(CONTROLLERS),
        use_service_account_credentials=True,
        leader_elect=False,  # there is no second one, and after a crash nobody waits for a lease to end
        allocate_node_cidrs=True,
        cluster_cidr=_texts(topology.pod_cidrs.values()),
        service_cluster_ip_range=_texts(topology.service_cidrs.values()),
        node_cidr_mask_sizes=(masks[FAMILIES[0]], masks[FAMILIES[1]]),
        root_ca_file=files_of(places, "ca").certificate,
    )
    await run(settings, ready=ready)


async def _scheduler(places: Places, ready: Ready) -> None:
    from twinstack.client.kube_scheduler import Settings, run

    await run(Settings(kubeconfig=places.kubeconfig(SCHEDULER), leader_elect=False), ready=ready)


async def _watch_nodes(topology: Topology, places: Places, report: Callable[[Report], None]) -> None:
    """Tell of each node that becomes ready, and keep the ways to pods: the control plane's, and the fabric's to those that are not masqueraded."""
    from twinstack.api.kinds import Node as NodeView
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client
    from twinstack.client.informer import Informer

    waiting = {node.name for node in topology.nodes}

    def look(before: Any, after: Any) -> None:
        if after is not None and after.metadata.name in waiting and is_ready(after, len(topology.families)):
            waiting.discard(after.metadata.name)
            report(Report(node=after.metadata.name))
        _lead_to_pods(None, topology.families, informer.list())
        if topology.unmasqueraded:
            _lead_to_pods(places.netns("fabric"), topology.unmasqueraded, informer.list())

    async with Client(kubeconfig.load(places.kubeconfig("admin")), user_agent="twinstack") as client:
        informer = Informer(client, NodeView)
        informer.subscribe(look)
        await informer.run()


def _lead_to_pods(netns: str | None, families: Collection[Family], nodes: Iterable[Any]) -> None:
    """Let a machine know the way to pods, over their nodes; None: this one.

    The fabric needs it for pods that reach outside under their own addresses, the control plane for what the API server passes on to pods. It hangs on
    the nodes' own network, so this holds in a tunnelled cluster as well.
    """
    from twinstack.agent.routes import wanted_routes
    from twinstack.dataplane.host import difference
    from twinstack.kernel.netlink import Netlink

    wanted = [route for route in wanted_routes(nodes, "") if route.family in families]
    try:
        with Netlink(netns) as machine:
            machine.apply(difference([route._replace(link="") for route in machine.routes()], wanted))
    except KernelError as error:
        log.warning("A route to pods is not taken", extra={"netns": netns or "own", "error": str(error)})


def is_ready(node: Any, families: int) -> bool:
    """Whether a node is ready, with an address and a block of pod addresses of each family."""
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in node.status.conditions or ())
    internal = [one for one in node.status.addresses or () if one.type == "InternalIP"]
    return ready and len(internal) == families and len(node.spec.podCIDRs or ()) == families


# ---- A node


def _node(topology: Topology, places: Places, node: Node) -> Mapping[str, Program]:
    heap.keep_one()
    programs: dict[str, Callable[[Ready], Any]] = {
        "network-plugin": _network_plugin,
        "ip-masq-agent": lambda ready: _masq(topology, places, ready),
        "kube-proxy": lambda ready: _proxy(topology, places, node, ready),
        "load-balancer": lambda ready: _balancer(places, node, ready),
        "kubelet": lambda ready: _kubelet(topology, places, node, ready),
    }
    return {f"{node.name}/{name}": Program(run) for name, run in programs.items()}


async def _network_plugin(ready: Ready) -> None:
    """The daemon that the network plugin's executable hands its work to."""
    from twinstack.cni.daemon import Daemon

    daemon = Daemon()
    try:
        ready()
        await asyncio.Event().wait()
    finally:
        daemon.close()


async def _masq(topology: Topology, places: Places, ready: Ready) -> None:
    from twinstack.masq.masq import run
    from twinstack.masq.settings import Settings

    await run(Settings(config_file=_masq_config(places), enable_ipv6=len(_masqueraded(topology)) > 1), ready=ready)


async def _proxy(topology: Topology, places: Places, node: Node, ready: Ready) -> None:
    from twinstack.proxy.proxy import run
    from twinstack.proxy.settings import Settings

    settings = Settings(
        kubeconfig=places.kubeconfig("kube-proxy"),
        hostname_override=node.name,
        bind_address=Family.of(topology.address_of(node)).facts.unspecified,
        cluster_cidr=_texts(topology.pod_cidrs.values()),
        min_sync_period_seconds=0.0,  # a change costs a millisecond; upstream's second would be felt in every step of a demo
    )
    await run(settings, ready=ready)


async def _balancer(places: Places, node: Node, ready: Ready) -> None:
    from twinstack.lb.lb import run
    from twinstack.lb.settings import Settings

    settings = Settings(
        kubeconfig=places.kubeconfig("load-balancer"),
        config=_pools_config(places),
        hostname_override=node.name,
        run_dir=f"{places.node_runtime(node.name)}/bird",
    )
    await run(settings, ready=ready)


async def _kubelet(topology: Topology, places: Places, node: Node, ready: Ready) -> None:
    from twinstack.agent.agent import run
    from twinstack.agent.settings import Settings

    serving = files_of(places, node.name)
    settings = Settings(
        kubeconfig=Path(places.kubeconfig(node.name)),
        routes_kubeconfig=Path(places.kubeconfig("node-router")),
        node_name=node.name,
        node_ips=topology.node_addresses(node),
        root_dir=Path(places.node_root(node.name)),
        netns_dir=Path(places.pod_netns_dir(node.name)),
        image_dir=Path(places.images),
        cni_conf_dir=Path(places.cni_conf(node.name)),
        cni_bin_dirs=(Path(places.cni_bin),),
        cni_data_dir=Path(places.cni_data(node.name)),
        write_cni_config=True,
        network_name=topology.context,
        cgroup_root=places.control_group(node.name),
        max_pods=250,  # what an IPv4 block of a node holds; a machine of many nodes is there to try many pods, too
        eviction_hard=(),  # the disk of whoever tries a cluster may be nearly full
        network=topology.network,
        vxlan_underlay=topology.vxlan_underlay,
        address=Family.of(topology.address_of(node)).facts.unspecified,
        client_ca_file=Path(files_of(places, "ca").certificate),
        tls_cert_file=Path(serving.certificate),
        tls_key_file=Path(serving.key),
        labels=(("kubernetes.io/hostname", node.name),),
        cluster_dns=clusterdns.addresses(topology),
        cluster_domain=clusterdns.DOMAIN,
    )
    await run(settings, ready=ready)


def _texts(networks: Any) -> str:
    return ",".join(map(str, networks))
