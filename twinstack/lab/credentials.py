"""Who is who in a cluster: one authority, and a certificate and kubeconfig for each who talks to the API server."""

from __future__ import annotations

import os
from collections.abc import Iterable

from twinstack.client import certificates, kubeconfig
from twinstack.client.certificates import Authority, Pair
from twinstack.kernel.errors import translated
from twinstack.lab import clusterdns
from twinstack.lab.places import API_PORT, Places
from twinstack.lab.places import files_of as files_of
from twinstack.lab.topology import Node, Topology
from twinstack.net.cidr import host_port, nth
from twinstack.net.family import FAMILIES

COMPONENTS = {
    "kube-controller-manager": "system:kube-controller-manager",
    "kube-scheduler": "system:kube-scheduler",
    "kube-proxy": "system:kube-proxy",
    "node-router": "twinstack:node-router",
    "load-balancer": "twinstack:load-balancer",
    clusterdns.COMPONENT: clusterdns.USER,
}


def make(topology: Topology, places: Places) -> kubeconfig.Entry:
    """Write every key, certificate and kubeconfig into the state directory; returns the user's own entry, without its server."""
    with translated(f"write {places.pki}"):
        os.makedirs(places.pki, mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(places.kubeconfig("admin")), mode=0o700, exist_ok=True)
    authority = certificates.new_authority(f"{topology.context}-ca")
    _write(places, "ca", Pair(*authority))
    service = [str(nth(network, 1)) for network in topology.service_cidrs.values()]
    loopback = [family.facts.loopback for family in FAMILIES]
    _write(
        places,
        "apiserver",
        certificates.issue(
            authority,
            common_name="kube-apiserver",
            dns_names=["localhost", *(f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local"))],
            addresses=[*map(str, topology.control_plane.addresses.values()), *service, *loopback],
            server=True,
        ),
    )
    _write(places, "kubelet-client", _client(authority, "kube-apiserver-kubelet-client"))
    server = f"https://{host_port(topology.address_of(topology.control_plane), API_PORT)}"
    for component, user in COMPONENTS.items():
        _kubeconfig(places, component, server, authority, _client(authority, user))
    for node in topology.nodes:
        _node(topology, places, authority, node)
    admin = _client(authority, "kubernetes-admin", ["system:masters"])
    _kubeconfig(places, "admin", server, authority, admin)
    return kubeconfig.Entry(name=topology.context, server="", authorities=authority.certificate, pair=admin)


def add(topology: Topology, places: Places, node: Node) -> None:
    """Write the key, certificate and kubeconfig of one more node."""
    files = files_of(places, "ca")
    with translated(f"read {files.key}"), open(files.certificate, "rb") as certificate, open(files.key, "rb") as key:
        authority = Authority(certificate.read(), key.read())
    _node(topology, places, authority, node)


def _node(topology: Topology, places: Places, authority: Authority, node: Node) -> None:
    server = f"https://{host_port(topology.address_of(topology.control_plane), API_PORT)}"
    _write(places, node.name, _serving(authority, node))
    _kubeconfig(places, node.name, server, authority, _client(authority, f"system:node:{node.name}", ["system:nodes"]))


def _client(authority: Authority, user: str, groups: Iterable[str] = ()) -> Pair:
    return certificates.issue(authority, common_name=user, organizations=tuple(groups), client=True)


def _serving(authority: Authority, node: Node) -> Pair:
    """The certificate of a kubelet's own server."""
    addresses = [str(address) for address in node.addresses.values()]
    return certificates.issue(
        authority, common_name=f"system:node:{node.name}", organizations=("system:nodes",), dns_names=[node.name], addresses=addresses, server=True
    )


def _write(places: Places, name: str, pair: Pair) -> None:
    files = files_of(places, name)
    for path, data, mode in ((files.certificate, pair.certificate, 0o644), (files.key, pair.key, 0o600)):
        with translated(f"write {path}"), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
            file.write(data)


def _kubeconfig(places: Places, who: str, server: str, authority: Authority, pair: Pair) -> None:
    kubeconfig.merge(places.kubeconfig(who), kubeconfig.Entry(name=who, server=server, authorities=authority.certificate, pair=pair))
