"""Routes from this node to the pods of the others, through the node of the same family.

Wanted minus applied: what we have made is known by our route protocol number, and what is not wanted any more is
removed. A family in which a node has no address has no route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from twinstack.agent import overlay
from twinstack.agent.node import host_ips_of
from twinstack.api.kinds import Node
from twinstack.dataplane.host import Route, Step, difference, text_of
from twinstack.kernel.errors import KernelError
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.tunnels import Tunnel
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import Family

log = logging.getLogger(__name__)
RETRY_SECONDS = 2.0


def wanted_routes(nodes: Iterable[Node], own_name: str) -> list[Route]:
    """A route for each pod CIDR of each other node."""
    routes = []
    for node in nodes:
        if node.metadata.name == own_name:
            continue
        try:
            gateways = {Family.of(address): address for address in map(parse_address, reversed(host_ips_of(node)))}
            cidrs = [parse_cidr(text) for text in node.spec.podCIDRs or ()]
        except AddressError as error:
            log.warning("A node's addresses cannot be read", extra={"node": node.metadata.name, "error": str(error)})
            continue
        routes += [Route(cidr, gateway=gateways[Family.of(cidr)]) for cidr in cidrs if Family.of(cidr) in gateways]
    return routes


class Router:
    """Keeps the kernel's routes what they ought to be."""

    def __init__(self, nodes: Callable[[], Iterable[Node]], own_name: str, tunnel: Callable[[], Tunnel] | None = None) -> None:
        """*tunnel* makes this node's end of the overlay and returns it; without it routes lead directly to nodes."""
        self._nodes, self._own_name, self._tunnel = nodes, own_name, tunnel
        self._told: list[str] = []
        self._changed = asyncio.Event()

    def change(self) -> None:
        """A node has changed."""
        self._changed.set()

    async def run(self) -> None:
        """Apply whenever a node changes, until cancelled; what the kernel refuses is tried again."""
        while True:
            self._changed.clear()
            try:
                for step in self.apply():
                    log.info("Route", extra={"step": str(step)})
                delay = None
            except (KernelError, overlay.OverlayError) as error:
                log.warning("A route could not be set", extra={"error": str(error)})
                delay = RETRY_SECONDS
            try:
                async with asyncio.timeout(delay):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def apply(self) -> list[Step]:
        """One round: the steps that were taken. A route that is refused does not keep the others away."""
        wanted = wanted_routes(self._nodes(), self._own_name) if self._tunnel is None else self._apply_overlay(self._tunnel())
        with Netlink() as kernel:
            # the kernel names the link that a gateway is reached by, and we leave that to it
            steps = difference([route if self._tunnel else route._replace(link="") for route in kernel.routes()], wanted)
            failure: KernelError | None = None
            for step in steps:
                try:
                    kernel.apply([step])
                except KernelError as error:
                    failure = KernelError(error.errno, text_of(step.value), error.detail)
        if failure is not None:
            raise failure
        return steps

    def _apply_overlay(self, tunnel: Tunnel) -> list[Route]:
        wanted, problems = overlay.wanted_overlay(self._nodes(), self._own_name, tunnel)
        if problems != self._told:
            for problem in problems:
                log.warning("A node cannot be reached through the tunnel", extra={"error": problem})
            self._told = problems
        for change in overlay.apply(wanted):
            log.info("Overlay", extra={"step": change})
        return wanted.routes
