"""kube-proxy: watches Services and EndpointSlices, and keeps each family's table true to them.

Rule of this file: it wires. What a Service is stands in ``services``, what the table holds in ``ruleset``, how it gets
to the kernel in ``sync``. On the way out nothing is removed: connections go on while the proxy is away, and the
next one replaces the table in one transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from twinstack.api import kinds
from twinstack.api.objects import Document, Key, encode
from twinstack.api.world import Action
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.client.throttle import Throttle
from twinstack.dataplane import text
from twinstack.dataplane.ruleset import Chain, Match, Verdict, gone, table_of, whole
from twinstack.kernel import nftables
from twinstack.kernel.conntrack import Conntrack
from twinstack.kernel.errors import KernelError
from twinstack.loops.events import Recorder
from twinstack.loops.health import HealthServer
from twinstack.loops.metrics import new_registry
from twinstack.net.cidr import collapsed, parse_cidr
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import FAMILIES, Family, Network
from twinstack.proxy import healthcheck, limits, recalling
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.configuration import GROUP, to_configuration
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.healthports import HealthPorts
from twinstack.proxy.lean import Lean
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import HEADLESS, PROXY_NAME, ZONE, Place, canonical, node_addresses
from twinstack.proxy.settings import PRIMARY, Settings, bind_family, checked, doubts_about, listen_addresses, options_for
from twinstack.proxy.sync import FamilySync, NodeState
from twinstack.proxy.telling import LATER_SECONDS, REASON, Telling

NODE_SECONDS = 30.0
POD_CIDRS_SECONDS = 300.0
SERVICE_CIDRS_SECONDS = 2.0
BIND_RETRY_SECONDS = 5.0
OLDEST_KERNEL = (5, 13)
SKIP_KERNEL_CHECK = "KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK"

log = logging.getLogger(__name__)


class ProxyError(Error):
    """The proxy cannot work here."""


def cleanup() -> None:
    """Remove our tables of both families; KernelError when nftables refuses."""
    with nftables.Nftables() as ruleset:
        for family in _supported(ruleset):
            nftables.apply(ruleset, gone(family, TABLE))


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None, ruleset: nftables.Ruleset | None = None) -> None:
    """Serve Services in the network namespace of this thread until cancelled; ready when the first tables are in the kernel.

    With ``dry_run`` the tables are printed instead, and that is all. *ruleset* replaces the kernel's.
    """
    settings = checked(settings)
    _check_kernel()
    connection = kubeconfig.load(settings.kubeconfig or None, server=settings.master)
    async with contextlib.AsyncExitStack() as stack:
        if ruleset is None:
            own = nftables.Nftables()
            stack.callback(own.close)
            ruleset = own
        families = _supported(ruleset)
        if not settings.dry_run:
            limits.apply(settings)
            _set_oom_score(settings)
        if not families:
            raise ProxyError("this kernel has nftables for neither family")
        client = await stack.enter_async_context(Client(connection, user_agent="kube-proxy"))
        conntrack = _conntrack()
        if conntrack:
            stack.callback(conntrack.close)
        async with asyncio.TaskGroup() as group:
            proxy = Proxy(settings, client, ruleset, conntrack, families)
            tasks = [group.create_task(work) for work in proxy.watches()]
            await proxy.start(group)
            if settings.dry_run:
                for sync in proxy.syncs.values():
                    await sync.make()
                    print(text.listing(sync.table()), end="")
                for task in tasks:
                    task.cancel()
                return
            serving = [group.create_task(sync.run()) for sync in proxy.syncs.values()]
            group.create_task(proxy.serve())
            group.create_task(proxy.health_ports())
            await asyncio.gather(*(sync.synced.wait() for sync in proxy.syncs.values()))
            ready()
            await asyncio.gather(*serving)


class Proxy:
    """The watches, and one :class:`FamilySync` for each family."""

    def __init__(self, settings: Settings, client: Client, ruleset: nftables.Ruleset, conntrack: Conntrack | None, families: Iterable[Family]) -> None:
        self.settings = settings
        self.name = (settings.hostname_override or socket.gethostname()).strip().lower()
        self.syncs: dict[Family, FamilySync] = {}
        self._ruleset = ruleset
        self._conntrack = conntrack
        self._families = tuple(families)
        self._remembering = frozenset(family for family in self._families if _remembers(ruleset, family))
        self._pod_cidrs: tuple[Network, ...] = ()
        self._catalog = Catalog()
        self._node = NodeState(Place(self.name))
        self._registry = new_registry(process=False)
        self._metrics = Metrics(self._registry)
        throttle = Throttle(settings.kube_api_qps, settings.kube_api_burst)

        async def perform(action: Action) -> Document | None:
            await throttle.turn()
            return await client.perform(action)

        self._recorder = Recorder(perform, component="kube-proxy", host=self.name)
        self._telling = Telling(
            self._catalog,
            tell=lambda service, message: self._recorder.tell(service, "Warning", REASON, message),
            later=lambda look: asyncio.get_running_loop().call_later(LATER_SECONDS, look),
        )
        lean = Lean()
        self._services = Informer(client, kinds.Service, label_selector=f"!{PROXY_NAME}", field_selector="spec.clusterIP!=None", lean=lean.service)
        self._slices = Informer(client, kinds.EndpointSlice, label_selector=f"!{HEADLESS}", lean=lean.slice)
        self._nodes = Informer(client, kinds.Node, field_selector=f"metadata.name={self.name}")
        self._cidrs = Informer(client, kinds.ServiceCIDR)
        self._health_ports = HealthPorts(
            self._catalog,
            self._node,
            self._families,
            hosts=self._health_hosts,
            healthy=self._healthy,
            failed=lambda service, message: self._recorder.tell(service, "Warning", "FailedToStartServiceHealthcheck", message),
        )

    def watches(self) -> list[Any]:
        """The work that keeps our knowledge true."""
        return [self._services.run(), self._slices.run(), self._nodes.run(), self._cidrs.run(), self._recorder.run()]

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Wait for what the first table needs, then make the syncs."""
        node = await self._wait_for_node()
        if self.settings.detect_local_mode == "NodeCIDR":
            self._pod_cidrs = await self._wait_for_pod_cidrs()
        await self._services.synced()
        await self._slices.synced()
        with contextlib.suppress(TimeoutError):  # a server may not know the kind
            async with asyncio.timeout(SERVICE_CIDRS_SECONDS):
                await self._cidrs.synced()
        self._read_node(node)
        primary = next(iter(self._node.addresses), None)
        if primary is not None and primary not in self._families:
            raise ProxyError(f"node {self.name} is {primary} first, but this kernel has no nftables for {primary}")
        for doubt in doubts_about(self.settings, primary=primary or bind_family(self.settings), families=self._families):
            log.warning(doubt)
        self._node.service_cidrs = _service_cidrs(self._cidrs.list())
        now = time.time
        for family in self._families:
            self.syncs[family] = FamilySync(
                family,
                Shape(family, self._options_for(family)),
                ruleset=self._ruleset,
                conntrack=self._conntrack,
                catalog=self._catalog,
                node=self._node,
                metrics=self._metrics,
                health=FamilyHealth(2 * self.settings.sync_period_seconds, now),
                now=now,
                min_sync_seconds=self.settings.min_sync_period_seconds,
                sync_seconds=self.settings.sync_period_seconds,
            )
        self._services.subscribe(self._on_service)
        self._slices.subscribe(self._on_slice)
        self._nodes.subscribe(self._on_node)
        self._cidrs.subscribe(self._on_cidrs)
        if node is not None:
            self._recorder.tell(node, "Normal", "Starting", "The Service proxy starts.")

    def _options_for(self, family: Family) -> Options:
        return options_for(self.settings, family, self._pod_cidrs)._replace(affinity=family in self._remembering)

    async def serve(self) -> None:
        """Health and metrics, until cancelled."""
        healthz, metrics = listen_addresses(self.settings)
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            if healthz:
                families = {family: sync.health for family, sync in self.syncs.items()}
                app = healthcheck.application(families, now=time.time, eligible=self._eligible, metrics=self._metrics)
                runner = web.AppRunner(app, access_log=None)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                site = self._bound("health", "FailedToStartProxierHealthcheck", healthz, lambda: web.TCPSite(runner, *healthz).start())
                group.create_task(site)
            if metrics:
                server = HealthServer(registry=self._registry, routes={"/proxyMode": self._mode, "/configz": self._configz, "/tables": self._tables})
                stack.push_async_callback(server.close)
                group.create_task(self._bound("metrics", "FailedToStartMetricServer", metrics, lambda: server.start(*metrics)))
            await asyncio.Event().wait()

    async def _bound(self, what: str, reason: str, where: tuple[str, int], listen: Callable[[], Any]) -> None:
        """Listen; an address that is taken is told to the node and tried again for ever, or ends the program where asked."""
        while True:
            try:
                await listen()
                return
            except OSError as error:
                message = f"cannot serve {what} on {where[0]} port {where[1]}: {error.strerror or error}"
                if self.settings.bind_address_hard_fail:
                    raise ProxyError(message) from error
                log.error(message)
                if (node := self._nodes.get(Key("", self.name))) is not None:
                    self._recorder.tell(node, "Warning", reason, message)
                await asyncio.sleep(BIND_RETRY_SECONDS)

    async def _mode(self, request: web.Request) -> web.Response:
        return web.Response(text="nftables")

    async def _configz(self, request: web.Request) -> web.Response:
        return web.Response(body=encode({GROUP: to_configuration(self.settings)}), content_type="application/json")

    async def _tables(self, request: web.Request) -> web.Response:
        """The wanted tables as nft would list them."""
        return web.Response(text="".join(text.listing(sync.table()) for sync in self.syncs.values()))

    async def health_ports(self) -> None:
        """Health-check node ports, until cancelled."""
        await self._health_ports.run()

    def _health_hosts(self, family: Family) -> tuple[str, ...]:
        """Where they listen: where node ports answer by default, else everywhere."""
        return self._node.addresses.get(family, ()) if self.settings.nodeport_addresses == (PRIMARY,) else ("",)

    def _healthy(self) -> bool:
        return all(sync.health.healthy for sync in self.syncs.values()) and self._eligible()

    def _eligible(self) -> bool:
        return healthcheck.node_eligible(self._nodes.get(Key("", self.name)))

    # ---- what changes

    def _on_service(self, before: kinds.Service | None, after: kinds.Service | None) -> None:
        key = self._catalog.service_changed(before, after)
        if key is None:
            return
        self._telling.service_changed(before, after)
        self._health_ports.look()
        for family, sync in self.syncs.items():
            self._metrics.service_changes.labels(family.value).inc()
            sync.mark(key)

    def _on_slice(self, before: kinds.EndpointSlice | None, after: kinds.EndpointSlice | None) -> None:
        for key, family in self._catalog.slice_changed(before, after):
            self._telling.slices_changed(key)
            if family in self.syncs:
                self._metrics.endpoint_changes.labels(family.value).inc()
                self.syncs[family].mark(key, endpoints=True)

    def _on_node(self, before: kinds.Node | None, after: kinds.Node | None) -> None:
        known = (self._node.place, self._node.addresses)
        if after is not None and after.metadata.name == self.name:
            self._read_node(after)
        if after is not None and self._pod_cidrs and (cidrs := _pod_cidrs(after)) and cidrs != self._pod_cidrs:
            log.info("The node's pod CIDRs changed", extra={"cidrs": list(map(str, cidrs))})
            self._pod_cidrs = cidrs
            for family, sync in self.syncs.items():
                sync.set_options(self._options_for(family))
        if (self._node.place, self._node.addresses) != known:
            log.info("The node's place or addresses changed", extra={"zone": self._node.place.zone})
            self._health_ports.look()
            for sync in self.syncs.values():
                sync.mark_everything()

    def _on_cidrs(self, before: kinds.ServiceCIDR | None, after: kinds.ServiceCIDR | None) -> None:
        cidrs = _service_cidrs(self._cidrs.list())
        if cidrs != self._node.service_cidrs:
            self._node.service_cidrs = cidrs
            for sync in self.syncs.values():
                sync.mark_node()

    def _read_node(self, node: kinds.Node | None) -> None:
        if node is not None:
            self._node.place = Place(self.name, (node.metadata.labels or {}).get(ZONE, ""))
            self._node.addresses = node_addresses(node)
        family = bind_family(self.settings)
        bound = canonical(self.settings.bind_address, family)
        if bound and bound != family.facts.unspecified:
            self._node.addresses = {**self._node.addresses, family: (bound,)}

    async def _wait_for_node(self) -> kinds.Node | None:
        """Our Node once it has an address; after a while whatever there is, so that cluster IPs work at least."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NODE_SECONDS):
                return await self._node_that(lambda node: bool(node_addresses(node)))
        log.warning("The node has no address yet; node ports are not served until it has", extra={"node": self.name})
        return self._nodes.get(Key("", self.name))

    async def _wait_for_pod_cidrs(self) -> tuple[Network, ...]:
        try:
            async with asyncio.timeout(POD_CIDRS_SECONDS):
                node = await self._node_that(lambda node: bool(node.spec.podCIDRs))
        except TimeoutError:
            raise ProxyError(f"node {self.name} has no podCIDRs, which --detect-local-mode=NodeCIDR needs") from None
        return _pod_cidrs(node)

    async def _node_that(self, fits: Callable[[kinds.Node], bool]) -> kinds.Node:
        found: asyncio.Future[kinds.Node] = asyncio.get_running_loop().create_future()

        def look(before: kinds.Node | None, after: kinds.Node | None) -> None:
            if after is not None and after.metadata.name == self.name and fits(after) and not found.done():
                found.set_result(after)

        unsubscribe = self._nodes.subscribe(look)
        try:
            return await found
        finally:
            unsubscribe()


def _pod_cidrs(node: kinds.Node) -> tuple[Network, ...]:
    return tuple(parse_cidr(text, masked=True) for text in node.spec.podCIDRs or ())


def _service_cidrs(objects: Iterable[kinds.ServiceCIDR]) -> dict[Family, tuple[str, ...]]:
    networks: dict[Family, list[Network]] = {}
    for one in objects:
        for cidr in one.spec.cidrs:
            try:
                network = parse_cidr(cidr)
            except AddressError as error:
                log.warning("A ServiceCIDR is not understood", extra={"name": one.metadata.name, "error": str(error)})
                continue
            networks.setdefault(Family.of(network), []).append(network)
    return {family: tuple(map(text.interval_text, collapsed(found))) for family, found in networks.items()}


def _supported(ruleset: nftables.Ruleset) -> list[Family]:
    """The families for which this kernel takes a table, and tracks connections."""
    found = []
    for family in FAMILIES:
        try:
            probe = whole(table_of(family, f"{TABLE}-probe", [Chain("tracked", ((Match(("ct state",), "new"), Verdict("accept")),))], []))
            nftables.apply(ruleset, probe, check=True)
            found.append(family)
        except KernelError as error:
            if error.denied:
                raise
            log.warning("This kernel has no nftables for a family; it is not served", extra={"family": family.value, "error": str(error)})
    return found


def _remembers(ruleset: nftables.Ruleset, family: Family) -> bool:
    """Whether this kernel takes the rules of session affinity."""
    probe = table_of(family, f"{TABLE}-probe", recalling.chains(), recalling.sets())
    try:
        nftables.apply(ruleset, whole(probe), check=True)
    except KernelError as error:
        log.warning("This kernel cannot keep clients with their endpoint; sessionAffinity is left out", extra={"family": family.value, "error": str(error)})
        return False
    return True


def _conntrack() -> Conntrack | None:
    try:
        return Conntrack()
    except KernelError as error:
        log.warning("Stale UDP and SCTP flows will not be removed", extra={"error": str(error)})
        return None


def _set_oom_score(settings: Settings) -> None:
    if settings.oom_score_adj is not None:
        try:
            limits.set_oom_score(settings.oom_score_adj)
        except KernelError as error:
            log.warning("The kernel may end this process early when memory runs out", extra={"error": str(error)})


def _check_kernel() -> None:
    release = os.uname().release
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST_KERNEL and not os.environ.get(SKIP_KERNEL_CHECK):
        raise ProxyError(f"kernel {release} is too old: nftables mode needs {'.'.join(map(str, OLDEST_KERNEL))} ({SKIP_KERNEL_CHECK}=1 tries it all the same)")
