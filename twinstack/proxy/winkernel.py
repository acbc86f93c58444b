"""The Service proxy of a Windows node: watches, and hands what ``windows`` plans to HNS. Elsewhere it can only print.

Rule of this file: a thin shell. Every decision stands in ``windows``. No Windows has run it yet, and it says so when it starts.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

from twinstack.api import kinds
from twinstack.api.objects import Key, encode
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.kernel.hns import Hns
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.services import HEADLESS, PROXY_NAME, node_addresses
from twinstack.proxy.settings import Settings, SettingsError
from twinstack.proxy.windows import L2BRIDGE, OVERLAY, Network, Plan, WindowsNode, difference, plan

log = logging.getLogger(__name__)


class Service(Protocol):
    """What takes the documents: HNS, or what stands for it."""

    id: str
    type: str

    def make_endpoint(self, document: dict[str, Any]) -> None:
        """Make an endpoint under its own id."""

    def make_balancer(self, document: dict[str, Any]) -> None:
        """Make a load balancer under its own id."""

    def delete_endpoint(self, id_: str) -> None:
        """Delete an endpoint."""

    def delete_balancer(self, id_: str) -> None:
        """Delete a load balancer."""

    def balancers(self) -> list[str]:
        """The ids of all load balancers."""


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None, hns: Service | None = None) -> None:
    """Keep HNS true to the Services until cancelled; with ``dry_run`` print the documents and end.

    KernelError at once where there is no HNS. A dry run assumes an overlay if a source VIP is given, else an l2bridge
    that can do both families, and that HNS has this node's endpoints.
    """
    if hns is None and not settings.dry_run:
        if not settings.network_name:
            raise SettingsError("--proxy-mode=kernelspace needs --network-name, the HNS network of the pods")
        hns = Hns(settings.network_name)
    name = (settings.hostname_override or socket.gethostname()).strip().lower()
    changed = asyncio.Event()
    catalog = Catalog()
    async with Client(kubeconfig.load(settings.kubeconfig or None, server=settings.master), user_agent="kube-proxy") as client, asyncio.TaskGroup() as group:
        services = Informer(client, kinds.Service, label_selector=f"!{PROXY_NAME}", field_selector="spec.clusterIP!=None")
        slices = Informer(client, kinds.EndpointSlice, label_selector=f"!{HEADLESS}")
        nodes = Informer(client, kinds.Node, field_selector=f"metadata.name={name}")
        tasks = [group.create_task(one.run()) for one in (services, slices, nodes)]
        for one in (services, slices, nodes):
            await one.synced()

        def on_service(before: kinds.Service | None, after: kinds.Service | None) -> None:
            catalog.service_changed(before, after)
            changed.set()

        def on_slice(before: kinds.EndpointSlice | None, after: kinds.EndpointSlice | None) -> None:
            catalog.slice_changed(before, after)
            changed.set()

        services.subscribe(on_service)
        slices.subscribe(on_slice)
        nodes.subscribe(lambda before, after: changed.set())

        def wanted() -> Plan:
            node = windows_node(settings, name, nodes.get(Key("", name)), hns)
            return plan([(service, catalog.slices(key)) for key, service in catalog.services.items()], node)

        if settings.dry_run:
            made = wanted()
            for document in (*made.endpoints, *made.balancers):
                print(encode(document).decode())
            for problem in made.problems:
                log.warning(problem)
            for task in tasks:
                task.cancel()
            return
        assert hns is not None
        log.warning("These policies are handed to HNS by code that no Windows has run yet")
        await _keep(hns, wanted, changed, settings.min_sync_period_seconds, ready)


async def _keep(hns: Service, wanted: Callable[[], Plan], changed: asyncio.Event, pause_seconds: float, ready: Callable[[], None]) -> None:
    """Apply differences for ever, from nothing: what other balancers there are at the start is removed, as upstream does."""
    for id_ in hns.balancers():
        hns.delete_balancer(id_)
    applied = Plan((), ())
    while True:
        changed.clear()
        plan_ = wanted()
        change = difference(applied, plan_)
        for id_ in change.delete_balancers:
            hns.delete_balancer(id_)
        for id_ in change.delete_endpoints:
            hns.delete_endpoint(id_)
        for document in change.make_endpoints:
            hns.make_endpoint(document)
        for document in change.make_balancers:
            hns.make_balancer(document)
        for problem in set(plan_.problems) - set(applied.problems):
            log.warning(problem)
        applied = plan_
        ready()
        await changed.wait()
        await asyncio.sleep(pause_seconds)


def windows_node(settings: Settings, name: str, node: kinds.Node | None, hns: Service | None) -> WindowsNode:
    """What is known of the node: from its Node object, the flags and HNS."""
    addresses: dict[Family, str] = {family: found[0] for family, found in node_addresses(node).items()} if node is not None else {}
    vips = {Family.of(address): str(address) for address in map(parse_address, filter(None, settings.source_vip.split(",")))}
    network = Network(settings.network_name or "assumed", hns.id if hns else "assumed", hns.type if hns else OVERLAY if vips else L2BRIDGE)
    return WindowsNode(
        name=name,
        addresses=addresses,
        network=network,
        dsr=settings.enable_dsr,
        source_vips=vips,
        root_endpoint=settings.root_hnsendpoint_name,
        forward_healthcheck_vip=settings.forward_healthcheck_vip,
    )
