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
from twinstack.api.errors import APIError, Conflict, NotFound
from twinstack.api.objects import Document, Key, key_of, view_of
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.apiserver.allocators import IP_ADDRESSES, SERVICE_CIDRS, SERVICES, Context
from twinstack.apiserver.strategies.base import API
from twinstack.net.cidr import nth, parse_address
from twinstack.net.family import Address, Family
from twinstack.rules import address_records, cidrs
from twinstack.rules.addresses import special_problem
from twinstack.rules.families import SINGLE

log = logging.getLogger(__name__)

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
DEFAULT_CIDR = "kubernetes"
OWN_SERVICE = Key("default", "kubernetes")
BREATH = 256  # objects looked at before others are served
AGAIN_SECONDS, KEEP_SECONDS, REPAIR_SECONDS = 1.0, 10.0, 180.0
_NAMESPACES, _ENDPOINTS, _SLICES, _EVENTS = (resource_of(view) for view in (kinds.Namespace, kinds.Endpoints, kinds.EndpointSlice, kinds.Event))


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
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        passes += 1
        await bootstrap.keep()
        if passes % (REPAIR_SECONDS // KEEP_SECONDS) == 0:
            await bootstrap.repair()


class Bootstrap:
    """The passes. A step that fails is logged and tried again with the next pass."""

    def __init__(self, api: API, context: Context, settings: BootstrapSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api, self._context, self._settings, self._now = api, context, settings, now
        # With sockets that were opened already, the flag may say 0.
        self._port: int = settings.secure_port or settings.sockets[0].getsockname()[1]
        self._told: set[str] = set()

    async def first_pass(self) -> bool:
        """Namespaces, ranges, repair, the own Service; whether all that must be there is there."""
        await self.keep()
        await self.repair()
        reader = self._api.reader
        return reader.get(SERVICE_CIDRS, Key("", DEFAULT_CIDR)) is not None and all(reader.get(_NAMESPACES, Key("", name)) for name in SYSTEM_NAMESPACES)

    async def keep(self) -> None:
        """Make again what is missing."""
        for step in (self._keep_namespaces, self._keep_default_cidr, self._keep_own_service, self._keep_own_endpoints):
            try:
                await step()
            except APIError as error:
                log.warning("A part of the bootstrap failed and will be tried again: %s", error, extra={"step": step.__name__.strip("_")})

    async def _keep_namespaces(self) -> None:
        for name in SYSTEM_NAMESPACES:
            if self._api.reader.get(_NAMESPACES, Key("", name)) is None:
                await self._api.create(_NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

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
            await self._api.update(SERVICE_CIDRS, document)
            return
        condition = kinds.condition_of(stored.status.conditions, "Ready")
        if stored.spec.cidrs != wanted:
            detail = f"the flags say {', '.join(wanted)}, the object says {', '.join(stored.spec.cidrs)}; it is left as it is"
            await self._tell_once(document, "KubernetesDefaultServiceCIDRInconsistent", detail)
        elif condition is None or condition.status == "Unknown":
            others = [one for one in (document.get("status") or {}).get("conditions") or () if one.get("type") != "Ready"]
            is_so = {"type": "Ready", "status": "True", "lastTransitionTime": text_of_time(self._now()), "reason": "", "message": "addresses are handed out"}
            document["status"] = {**(document.get("status") or {}), "conditions": [*others, is_so]}
            await self._api.update(SERVICE_CIDRS, document, "status")
        elif condition.status == "False":
            await self._tell_once(document, condition.reason or "NotReady", condition.message or "the default ServiceCIDR is not ready")

    async def _keep_own_service(self) -> None:
        if self._api.reader.get(SERVICES, OWN_SERVICE) is not None:
            return
        primary = self._context.families[0]
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
                    "type": "ClusterIP",
                    "clusterIP": str(nth(self._context.ranges[primary], 1)),
                    "ipFamilyPolicy": SINGLE,
                    "ipFamilies": [primary.value],
                    "sessionAffinity": "None",
                    "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": self._port}],
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

    # ---- the records of addresses

    async def repair(self) -> None:
        """Bring IPAddresses and Services into agreement, Services first (spec/api.md 4.9).

        One object at a time and by what is stored at that moment, and others are served in between: there may be many.
        """
        seen = 0
        for resource, findings in ((SERVICES, self._findings_about_service), (IP_ADDRESSES, self._findings_about_record)):
            for document in self._api.reader.each(resource):
                for finding in findings(key_of(document)):
                    try:
                        await self._act_upon(finding)
                    except APIError as error:
                        log.warning("An IPAddress could not be repaired: %s", error, extra={"address": finding.address})
                seen += 1
                if seen % BREATH == 0:
                    await asyncio.sleep(0)

    def _findings_about_service(self, key: Key) -> list[address_records.Finding]:
        holder = self._holder(key)
        if holder is None:
            return []
        return list(
            address_records.findings_about_service(key, holder, record_of=self._record, holder_of=self._holder, hands_out=self._context.addresses.contains)
        )

    def _findings_about_record(self, key: Key) -> list[address_records.Finding]:
        record = self._record(key.name)
        return list(address_records.findings_about_record(record, holder_of=self._holder, now=self._now())) if record else []

    def _holder(self, key: Key) -> address_records.Holder | None:
        document = self._api.reader.get(SERVICES, key)
        return view_of(address_records.Holder, document) if document else None

    def _record(self, name: str) -> kinds.IPAddress | None:
        document = self._api.reader.get(IP_ADDRESSES, Key("", name))
        return view_of(kinds.IPAddress, document) if document else None

    async def _act_upon(self, finding: address_records.Finding) -> None:
        if finding.remove:
            with contextlib.suppress(NotFound, Conflict):  # somebody else was faster
                await self._api.delete(IP_ADDRESSES, Key("", finding.address))
        if finding.record is not None:
            await self._api.create(IP_ADDRESSES, finding.record)
        if finding.reason:
            await self._tell(finding.about, finding.reason, finding.message)

    # ---- events

    async def _tell_once(self, about: Document, reason: str, message: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            await self._tell(view_of(kinds.Object, about), reason, message)

    async def _tell(self, about: kinds.Object, reason: str, message: str) -> None:
        log.warning("%s: %s", reason, message, extra={"about": f"{about.kind} {about.metadata.namespace}/{about.metadata.name}"})
        await self._api.create(_EVENTS, _event(about, reason, message, self._now()))


def _event(about: kinds.Object, reason: str, message: str, now: datetime) -> Document:
    namespace = about.metadata.namespace or "default"
    meta = about.metadata
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta.name.replace(':', '-').strip('-')}.{int(now.timestamp() * 1e6):x}", "namespace": namespace},
        "involvedObject": {
            key: value
            for key, value in (("apiVersion", about.apiVersion), ("kind", about.kind), ("namespace", meta.namespace), ("name", meta.name), ("uid", meta.uid))
            if value
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": text_of_time(now),
        "lastTimestamp": text_of_time(now),
        "source": {"component": "twinstack-kube-apiserver"},
        "reportingComponent": "twinstack-kube-apiserver",
    }
