"""The fabric as a router that nodes speak BGP with: it takes in load balancers' addresses, and sends packets over all ways to them.

Rule of this file: only with ``--announce bgp`` does the fabric run anything.

Theory. It listens for whoever calls from the nodes' half of the underlay, so nodes may come and go, in one session for each family of
the cluster; believes them only about the networks that load balancers have; and gives its kernel every way, which chooses by
addresses and ports, so that the connections of one client spread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from twinstack.dataplane import bird as text
from twinstack.kernel import namespaces
from twinstack.kernel.bird import Bird
from twinstack.lab.hosting import Program
from twinstack.lab.places import Places
from twinstack.lab.supervisor import Process
from twinstack.lab.topology import Topology, halves, router
from twinstack.net.errors import Error
from twinstack.rules.balancer_peers import Peer
from twinstack.rules.balancer_pools import BGP

ROLE, COMPONENT = "fabric", "bgp-router"
ROUTER_ASN, NODES_ASN = 64512, 64513  # of those that anybody may use (RFC 6996)

log = logging.getLogger(__name__)


class RouterError(Error):
    """The router does not run."""


def peers(topology: Topology) -> list[Peer]:
    """Whom the nodes are to tell: the fabric, in each family of the cluster."""
    if topology.announce != BGP:
        return []
    ours = router(topology.underlay)
    return [Peer(ours[family], ROUTER_ASN, NODES_ASN, bfd=True) for family in topology.families]


def processes(topology: Topology, places: Places) -> list[Process]:
    """The fabric's own process, when there is a reason for one."""
    if topology.announce != BGP:
        return []
    program = Program(lambda ready: serve(topology, places, ready))
    return [Process(ROLE, places.netns(ROLE), lambda report: {COMPONENT: program}, (COMPONENT,))]


async def serve(topology: Topology, places: Places, ready: Callable[[], None]) -> None:
    """Run the router until cancelled; RouterError when it ends by itself."""
    ours, nodes = router(topology.underlay), halves(topology.underlay, 0)
    ends = [text.Listening(ours[family], ROUTER_ASN, nodes[family], NODES_ASN, topology.routed_networks[family]) for family in topology.families]
    for family in topology.families:
        namespaces.write_sysctl(family.facts.multipath_hash, "1")
    one = Bird(f"{places.node_runtime(ROLE)}/bird")
    await one.start(text.router(ROLE, ends))
    try:
        ready()
        await one.ended()
    finally:
        one.close()
    raise RouterError("bird has ended")
