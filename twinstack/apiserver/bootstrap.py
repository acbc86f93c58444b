"""What the API server sees to by itself: system namespaces, the default ServiceCIDR, its own Service, the addresses' records.

Rule of this file: everything is said as "make it so" and may be said again at any time. The first pass gates
readiness; afterwards the same passes run every few seconds, so that what somebody deletes comes back (spec/api.md 4.6, 4.9, 7.4, 7.5).

The server is its own client here, through :class:`strategies.base.API`: no way around validation, no second writer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from twinstack.api import kinds
from twinstack.api.errors import APIError
from twinstack.api.objects import Document, Key, document_of, key_of, view_of
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.apiserver.allocators import SERVICE_CIDRS, SERVICES, Context
from twinstack.apiserver.announcements import Announcements
from twinstack.apiserver.repair import BREATH, Repair
from twinstack.apiserver.strategies.base import API
from twinstack.net.cidr import nth, parse_address
from twinstack.net.family import Address, Family
from twinstack.rules import cidrs
from twinstack.rules.address_records import HolderSketch
from twinstack.rules.addresses import special_problem
from twinstack.rules.families import SINGLE
from twinstack.rules.priorities import built_in_classes
from twinstack.rules.reconfiguration import concern_about

log = logging.getLogger(__name__)

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
DEFAULT_CIDR = "kubernetes"
OWN_SERVICE = Key("default", "kubernetes")
AGAIN_SECONDS, KEEP_SECONDS, REPAIR_SECONDS, WITHDRAW_SECONDS = 1.0, 10.0, 180.0, 2.0
MOST_NAMED = 20
_NAMESPACES, _ENDPOINTS, _SLICES = (resource_of(view) for view in (kinds.Namespace, kinds.Endpoints, kinds.EndpointSlice))
_CLASSES = resource_of(kinds.PriorityClass)


class BootstrapSettings(Protocol):
    """The part of the server's settings that the bootstrap looks at; ``advertise_address`` is found out already."""

    @property
    def advertise_address(self) -> str: ...

    @property
    def secure_port(self) -> int: ...

    @property
    def sockets(self) -> Sequence[socket.socket]: ...

    @property
    def endpoint_reconciler_type(self) -> str: ...

    @property
    def kubernetes_service_node_port(self) -> int: ...


async def run(
    api: API,
    context: Context,
    settings: BootstrapSettings,
    *,
    ready: Callable[[], None] = lambda: None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Make the first pass, call *ready*, then keep it so until cancelled."""
    bootstrap = Bootstrap(api, context, settings, now)
    while True:
        if await bootstrap.first_pass():
            break
        await asyncio.sleep(AGAIN_SECONDS)
    ready()
    passes = 0
    try:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            passes += 1
            await bootstrap.keep()
            if passes % (REPAIR_SECONDS // KEEP_SECONDS) == 0:
                await bootstrap.repair()
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await bootstrap.withdraw()


class Bootstrap:
    """The passes. A step that fails is logged and tried again with the next pass."""

    def __init__(self, api: API, context: Context, settings: BootstrapSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api, self._context, self._settings, self._now = api, context, settings, now
        # With sockets that were opened already, the flag may say 0.
        self._port: int = settings.secure_port or settings.sockets[0].getsockname()[1]
        self._announcements = Announcements(api, now)
        self._repair = Repair(api, context, self._announcements, now)
        self._told: set[str] = set()

    async def first_pass(self) -> bool:
        """Namespaces, ranges, repair, the own Service; whether all that must be there is there."""
        await self.keep()
        await self._repair.all()
        await self._tell_of_other_families()
        reader = self._api.reader
        return reader.get(SERVICE_CIDRS, Key("", DEFAULT_CIDR)) is not None and all(reader.get(_NAMESPACES, Key("", name)) for name in SYSTEM_NAMESPACES)

    async def keep(self) -> None:
        """Make again what is missing."""
        for step in (
            self._keep_namespaces,
            self._keep_priority_classes,
            self._keep_default_cidr,
            self._keep_own_service,
            self._keep_own_endpoints,
            self._repair.missing,
        ):
            try:
                await step()
            except APIError as error:
                log.warning("A part of the bootstrap failed and will be tried again: %s", error, extra={"step": step.__name__.strip("_")})

    async def repair(self) -> None:
        """Bring the records of addresses and ports into agreement with the Services."""
        await self._repair.all()

    async def withdraw(self) -> None:
        """Take this server's address out of its endpoints: it is about to stop (spec/api.md 7.5)."""
        if self._settings.endpoint_reconciler_type == "none":
            return
        for resource, field in ((_ENDPOINTS, "subsets"), (_SLICES, "endpoints")):
            stored = self._api.reader.get(resource, OWN_SERVICE)
            if stored is not None and stored.get(field):
                try:
                    await self._api.update(resource, {**stored, field: []})
                except APIError as error:
                    log.warning("The server stops and its address stays in its endpoints: %s", error)

    async def _tell_of_other_families(self) -> None:
        """Name the Services that the cluster's families no longer fit, which happens when the flags change over the same data."""
        concerned = []
        has = {family.value for family in self._context.families}
        for seen, (key, sketch) in enumerate(self._api.reader.views(SERVICES, HolderSketch), 1):
            # The cheap look first: there may be many thousands, and most are of the cluster's families.
            if (not has.issuperset(sketch.spec.ipFamilies or ()) or key == OWN_SERVICE) and (document := self._api.reader.get(SERVICES, key)):
                service = view_of(kinds.Service, document)
                if told := concern_about(service, self._context.families):
                    concerned.append((service, told))
            if seen % BREATH == 0:
                await asyncio.sleep(0)
        if not concerned:
            return
        names = [str(key_of(document_of(service))) for service, _ in concerned]
        log.warning(
            "%d Services do not fit the families of --service-cluster-ip-range: %s%s",
            len(names), ", ".join(names[:MOST_NAMED]), " and others" if len(names) > MOST_NAMED else "",
            extra={"families": ",".join(family.value for family in self._context.families)},
        )  # fmt: skip
        self._announcements.begin_pass()
        for service, told in concerned:
            try:
                await self._announcements.tell(service, told.reason, told.message)
            except APIError as error:
                log.warning("A Service that does not fit could not be told of: %s", error)

    async def _keep_namespaces(self) -> None:
        for name in SYSTEM_NAMESPACES:
            if self._api.reader.get(_NAMESPACES, Key("", name)) is None:
                await self._api.create(_NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    async def _keep_priority_classes(self) -> None:
        for document in built_in_classes():
            if self._api.reader.get(_CLASSES, key_of(document)) is None:
                await self._api.create(_CLASSES, document)

    async def _keep_default_cidr(self) -> None:
        """The table of spec/api.md 4.6."""
        wanted = [str(network) for network in self._context.ranges.values()]
        document = self._api.reader.get(SERVICE_CIDRS, Key("", DEFAULT_CIDR))
        if document is None:
            document = await self._api.create(SERVICE_CIDRS, cidrs.service_cidr(DEFAULT_CIDR, list(self._context.ranges.values())))
        stored = view_of(kinds.ServiceCIDR, document)
        if stored.metadata.deletionTimestamp:
            return
        if len(wanted) == 2 and stored.spec.cidrs == wanted[:1]:
            document["spec"] = {"cidrs": wanted}
            try:
                await self._api.update(SERVICE_CIDRS, document)
            except APIError as error:
                await self._announcements.tell(stored, "KubernetesDefaultServiceCIDRError", f"the second range could not join: {error}")
            return
        condition = kinds.condition_of(stored.status.conditions, "Ready")
        if stored.spec.cidrs != wanted:
            detail = f"the flags say {', '.join(wanted)}, the object says {', '.join(stored.spec.cidrs)}; it is left as it is"
            await self._announcements.tell(stored, "KubernetesDefaultServiceCIDRInconsistent", detail)
        elif condition is None or condition.status == "Unknown":
            others = [one for one in (document.get("status") or {}).get("conditions") or () if one.get("type") != "Ready"]
            is_so = {"type": "Ready", "status": "True", "lastTransitionTime": text_of_time(self._now()), "reason": "", "message": "addresses are handed out"}
            document["status"] = {**(document.get("status") or {}), "conditions": [*others, is_so]}
            await self._api.update(SERVICE_CIDRS, document, "status")
        elif condition.status == "False":
            await self._announcements.tell(stored, condition.reason or "NotReady", condition.message or "the default ServiceCIDR is not ready")

    async def _keep_own_service(self) -> None:
        if self._api.reader.get(SERVICES, OWN_SERVICE) is not None:
            return
        primary = self._context.families[0]
        port: Document = {"name": "https", "protocol": "TCP", "port": 443, "targetPort": self._port}
        if self._settings.kubernetes_service_node_port:
            port["nodePort"] = self._settings.kubernetes_service_node_port
        await self._api.create(
            SERVICES,
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": OWN_SERVICE.name,
                    "namespace": OWN_SERVICE.namespace,
                    "labels": {"component": "apiserver", "provider": "kubernetes"},
                },
                "spec": {
                    "type": "NodePort" if self._settings.kubernetes_service_node_port else "ClusterIP",
                    "clusterIP": str(nth(self._context.ranges[primary], 1)),
                    "ipFamilyPolicy": SINGLE,
                    "ipFamilies": [primary.value],
                    "sessionAffinity": "None",
                    "ports": [port],
                },
            },
        )

    async def _keep_own_endpoints(self) -> None:
        address = self._advertised()
        if address is None:
            return
        port = {"name": "https", "port": self._port, "protocol": "TCP"}
        endpoints = {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": OWN_SERVICE.name, "namespace": OWN_SERVICE.namespace, "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": str(address)}], "ports": [port]}],
        }
        stored = self._api.reader.get(_ENDPOINTS, OWN_SERVICE)
        if stored is None:
            await self._api.create(_ENDPOINTS, endpoints)
        elif stored.get("subsets") != endpoints["subsets"]:
            await self._api.update(_ENDPOINTS, {**stored, "subsets": endpoints["subsets"]})
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": OWN_SERVICE.name, "namespace": OWN_SERVICE.namespace, "labels": {"kubernetes.io/service-name": OWN_SERVICE.name}},
            "addressType": Family.of(address).value,
            "endpoints": [{"addresses": [str(address)], "conditions": {"ready": True}}],
            "ports": [port],
        }
        stored = self._api.reader.get(_SLICES, OWN_SERVICE)
        if stored is not None and stored.get("addressType") != slice_["addressType"]:  # it may not change, so another takes its place
            await self._api.delete(_SLICES, OWN_SERVICE)
            stored = None
        if stored is None:
            await self._api.create(_SLICES, slice_)
        elif (stored.get("endpoints"), stored.get("ports")) != (slice_["endpoints"], slice_["ports"]):
            await self._api.update(_SLICES, {**stored, "endpoints": slice_["endpoints"], "ports": slice_["ports"]})

    def _advertised(self) -> Address | None:
        """Where others reach this server; None when nothing is to be published."""
        text = self._settings.advertise_address
        if self._settings.endpoint_reconciler_type == "none" or not text:
            return None
        problem = special_problem(text)
        if problem:
            if "advertise" not in self._told:
                self._told.add("advertise")
                log.warning("No endpoints are published for the kubernetes Service: the advertised address %s %s", text, problem)
            return None
        return parse_address(text)
