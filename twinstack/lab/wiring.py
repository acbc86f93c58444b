"""The namespaces and wires of a cluster: nodes and a control plane on one bridge, an outside behind a router.

Rule of this file: it makes; what is made is computed from the topology, and removed by ``lab.removal``.

::

    outside ──── fabric (router) ──┬── control-plane
                 bridge ts0        ├── node1
                                   └── node2 …

The fabric knows no pod: a packet from a pod that is not masqueraded finds no way back, as in a real network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import ExitStack

from twinstack.dataplane.host import STATIC_PROTOCOL, Route
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.lab.errors import LabError
from twinstack.lab.places import Places
from twinstack.lab.topology import Node, Topology, router
from twinstack.net.cidr import parse_cidr
from twinstack.net.family import FAMILIES, Address, ByFamily, Network

LINK = "eth0"  # every machine's own
_BRIDGE, _TO_OUTSIDE = "ts0", "tsoutside"
_FIRST_NUMBER = 100  # of the fabric's ends; a machine's own has 2


def roles(topology: Topology) -> list[str]:
    """The namespaces of a cluster."""
    return ["fabric", topology.outside.name, topology.control_plane.name, *(node.name for node in topology.nodes)]


def make(topology: Topology, places: Places) -> None:
    """Make all namespaces and wires, ready to carry packets; on failure what was made is left for the caller to remove."""
    sysctls = [pair for family in FAMILIES for pair in family.facts.route_default_sysctls]
    for role in roles(topology):
        namespaces.create(places.netns(role), sysctls)
    machines = [topology.control_plane, *topology.nodes]
    with ExitStack() as undo:
        fabric = undo.enter_context(Netlink(places.netns("fabric")))
        fabric.change_link("lo", up=True)
        fabric.add_link(_BRIDGE, "bridge", number=2, up=True)
        _give(fabric, _BRIDGE, topology.underlay, router(topology.underlay))
        ends = [_TO_OUTSIDE]
        _wire(fabric, undo, places, topology.outside, _TO_OUTSIDE, _FIRST_NUMBER, topology.outside_networks)
        _give(fabric, _TO_OUTSIDE, topology.outside_networks, router(topology.outside_networks))
        for machine in machines:
            end = f"ts{machine.name}"
            _wire(fabric, undo, places, machine, end, _FIRST_NUMBER + 1 + machine.number, topology.underlay, master=_BRIDGE)
            ends.append(end)
        fabric.commit()
        if not fabric.wait_until_running([_BRIDGE, *ends], 5.0):
            raise LabError("the links between the namespaces did not come up within 5 seconds; the kernel's log (dmesg) may say why")


def add(topology: Topology, places: Places, machine: Node) -> None:
    """Make one more node's namespace and wire."""
    namespaces.create(places.netns(machine.name), [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
    end, number = f"ts{machine.name}", _FIRST_NUMBER + 1 + machine.number
    with ExitStack() as undo:
        fabric = undo.enter_context(Netlink(places.netns("fabric")))
        _wire(fabric, undo, places, machine, end, number, topology.underlay, master=_BRIDGE)
        if not fabric.wait_until_running([end], 5.0):
            raise LabError(f"the link to {machine.name} did not come up within 5 seconds; the kernel's log (dmesg) may say why")


def cut(places: Places, name: str) -> None:
    """Take a node's wire away, which would go with its namespace a moment later."""
    with Netlink(places.netns("fabric")) as fabric:
        fabric.remove_link(f"ts{name}")
        fabric.commit()


def mac_of(cluster: str, machine: str) -> str:
    """A machine's hardware address. One that leaves and comes back has the same, as a real one has, because others remember it for minutes."""
    # second-lowest bit of the first octet: locally administered (RFC 7042)
    return "02:4c:" + hashlib.sha256(f"{cluster}\n{machine}".encode()).digest()[:4].hex(":")


def _wire(
    fabric: Netlink, undo: ExitStack, places: Places, machine: Node, end: str, number: int, networks: ByFamily[Network], *, master: str | None = None
) -> None:
    """Make a machine's link to the fabric, its addresses and its default routes."""
    descriptor = namespaces.opened(places.netns(machine.name))
    undo.callback(os.close, descriptor)
    fabric.add_veth(end, LINK, number=number, peer_number=2, peer_mac=mac_of(places.name, machine.name), peer_netns=descriptor)
    fabric.change_link(end, up=True, master=master)
    fabric.commit()
    with Netlink(descriptor) as own:
        own.change_link("lo", up=True)
        own.change_link(LINK, up=True)
        _give(own, LINK, networks, machine.addresses)
        for family, gateway in router(networks).items():
            own.add_route(Route(parse_cidr(family.facts.everything), LINK, gateway), protocol=STATIC_PROTOCOL)
        own.commit()
        own.wait_until_running([LINK], 5.0)
        own.wait_until_local(machine.addresses.values(), 5.0)


def _give(kernel: Netlink, link: str, networks: ByFamily[Network], addresses: ByFamily[Address]) -> None:
    for family, address in addresses.items():
        kernel.add_address(link, address, networks[family].prefixlen)


def stale(places: Places, names: Iterable[str]) -> list[str]:
    """Which of these roles have a namespace or the stale file of one."""
    return [name for name in names if os.path.lexists(places.netns(name))]
