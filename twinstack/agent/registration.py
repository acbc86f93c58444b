"""The node's standing with the API server: its object, its status, its lease.

The object is made when there is none; its status is looked at every few seconds and at once when something has
changed, and written when it differs or when five minutes have passed; the lease is renewed at a quarter of its time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from twinstack.agent import overlay, pressure
from twinstack.agent.containers.images import Images
from twinstack.agent.network import Network
from twinstack.agent.node import (
    PROVIDED_NODE_IP,
    Machine,
    NodeAddressError,
    allocatable,
    images_told,
    keeps_addresses,
    node_addresses,
    node_document,
    node_status,
    provided_node_ip,
    without_heartbeats,
)
from twinstack.agent.settings import EXTERNAL, Settings
from twinstack.api import errors
from twinstack.api.kinds import Lease, Node, NodeStatus
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_micro_time, text_of_time
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.kernel.errors import KernelError
from twinstack.kernel.netlink import Netlink
from twinstack.loops.events import Recorder
from twinstack.net.cidr import parse_address
from twinstack.net.family import Address

log = logging.getLogger(__name__)
NODES, LEASES = resource_of(Node), resource_of(Lease)
LOOKUP_SECONDS = 2.0
LEASE_NAMESPACE = "kube-node-lease"
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 0.05, 5.0


class Registration:
    """Keeps one node's object, status and lease."""

    def __init__(
        self, settings: Settings, name: str, client: Client, nodes: Informer[Node], network: Network, host: Machine, recorder: Recorder, images: Images
    ) -> None:
        self._recorder, self._images, self._began = recorder, images, False
        self.addresses: Sequence[Address] = ()
        self.allocatable = allocatable(settings, host)
        self._settings, self._name, self._key = settings, name, Key("", name)
        self._client, self._nodes, self._network, self._machine = client, nodes, network, host
        self._changed, self._registered = asyncio.Event(), asyncio.Event()
        self._problem = "the node's status has not been written yet"
        self._uid = ""
        self._pressed: dict[str, datetime] = {}  # when a pressure was seen last
        self._written: Document | None = None
        self._written_at = datetime.min.replace(tzinfo=UTC)

    def change(self) -> None:
        """The node's object has changed."""
        self._changed.set()

    async def uid(self) -> str:
        """The uid of the node's object, once it is registered."""
        await self._registered.wait()
        return self._uid

    async def registered(self) -> None:
        """Wait until the API server knows the node and its status."""
        await self._registered.wait()

    def health(self) -> str | None:
        """Why the node is not kept, for /healthz."""
        return self._problem or None

    async def find_addresses(self) -> None:
        """Find the node's addresses; NodeAddressError when --node-ip names one that is not here."""
        if self._settings.cloud_provider == EXTERNAL and not self._settings.node_ips:
            return  # the cloud controller manager will tell them
        named = () if any(not address.is_unspecified for address in self._settings.node_ips) else await self._named()
        with Netlink() as kernel:
            self.addresses = node_addresses(self._settings.node_ips, self._name, kernel.addresses(), kernel.routes(protocol=None), named=named)

    async def _named(self) -> tuple[Address, ...]:
        """What the node's name stands for; nothing where nobody says so in time."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(self._name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError):
            return ()
        return tuple(parse_address(str(one[4][0]).partition("%")[0]) for one in found)

    # ---- object and status

    async def keep_status(self) -> None:
        """Register the node and keep its status, until cancelled."""
        delay = RETRY_SECONDS
        while True:
            self._changed.clear()
            try:
                await self._once()
            except (errors.APIError, NodeAddressError, overlay.OverlayError, KernelError) as error:
                self._problem = f"the node's status cannot be written: {error}"
                log.warning("The node's status could not be written", extra={"node": self._name, "error": str(error)})
                await asyncio.sleep(delay)
                delay = min(LONGEST_RETRY_SECONDS, delay * 2)
                continue
            self._problem, delay = "", RETRY_SECONDS
            self._registered.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.status_seconds):
                    await self._changed.wait()

    async def _once(self) -> None:
        await self.find_addresses()
        known = self._nodes.get(self._key)
        if known is None:
            if not self._nodes.is_synced or self._settings.register_node:
                await self._register()
            else:
                raise errors.NotFound(f'node "{self._name}" is not registered, and --register-node=false leaves that to somebody else')
            known = self._nodes.get(self._key)
        elif not self._uid:
            await self._adopt(known)
        self._uid = known.metadata.uid if known is not None else self._uid
        mtu = await self._tell_tunnel(known)
        cidrs = known.spec.podCIDRs if known is not None else None
        self._network.pod_cidrs = cidrs or self._network.pod_cidrs
        if cidrs and self._settings.write_cni_config and self._network.write(self._settings.network_name, cidrs, data_dir=self._settings.cni_data_dir, mtu=mtu):
            log.info("The network configuration is written", extra={"node": self._name, "podCIDRs": ",".join(cidrs)})
        now = datetime.now(UTC)
        status = self._status(known, now)
        same = self._written is not None and without_heartbeats(self._written) == without_heartbeats(status) and not self._was_overwritten(known)
        if same and now - self._written_at < timedelta(seconds=self._settings.report_seconds):
            return
        await self._write(status)
        self._tell_changes(known, status)
        self._written, self._written_at = status, now

    def _tell_changes(self, before: Node | None, status: Document) -> None:
        """Tell people, as events of the node, that we have begun, that the machine was booted anew, and which conditions have changed."""
        node = self._nodes.get(self._key)
        if node is None:
            return
        known = before.status if before is not None else NodeStatus()
        was = {one.type: one.status for one in known.conditions or ()} if self._began else {}
        if not self._began:
            self._began = True
            self._recorder.tell(node, "Normal", "Starting", "Starting kubelet.")
            boot = status["nodeInfo"]["bootID"]
            if self._written is None and (known.nodeInfo or {}).get("bootID", boot) != boot:
                self._recorder.tell(node, "Warning", "Rebooted", f"Node {self._name} has been rebooted, boot id: {boot}")
        for condition in status["conditions"]:
            if was.get(condition["type"]) != condition["status"]:
                reason = condition["reason"].replace("Kubelet", "Node", 1)
                self._recorder.tell(node, "Normal", reason, f"Node {self._name} status is now: {reason}")

    async def _tell_tunnel(self, known: Node | None) -> int:
        """Make this node's end of the tunnel, and tell the other nodes of it; the MTU of pods' links, 0 for the kernel's default."""
        text, mtu = None, 0
        if self._settings.network == overlay.VXLAN:
            tunnel = overlay.ensure_tunnel(self._name, self._settings.vxlan_underlay, self.addresses)
            text, mtu = overlay.annotation_of(tunnel), tunnel.mtu
        if known is not None and known.annotations.get(overlay.ANNOTATION) != text:
            self._nodes.take(await self._client.patch(NODES, self._key, {"metadata": {"annotations": {overlay.ANNOTATION: text}}}))
        return mtu

    def _status(self, known: Node | None, now: datetime) -> Document:
        return node_status(
            self._settings,
            self._name,
            self._machine,
            self.addresses,
            port=self._settings.port,
            problem=self._network.problem(),
            before=known,
            now=text_of_time(now),
            pressures=self._pressures(now),
            images=images_told(self._images.all(), self._settings.most_images),
        )

    def _pressures(self, now: datetime) -> set[str]:
        """What the node is short of, or was until lately."""
        seen = pressure.pressures(self._settings.eviction_hard, pressure.read(self._settings.root_dir))
        for condition in seen:
            if condition not in self._pressed:
                log.warning("The node is short of something", extra={"node": self._name, "condition": condition})
        self._pressed |= dict.fromkeys(seen, now)
        self._pressed = {condition: last for condition, last in self._pressed.items() if now - last < timedelta(seconds=self._settings.pressure_seconds)}
        return set(self._pressed)

    def _was_overwritten(self, known: Node | None) -> bool:
        """Whether somebody, such as the node life cycle controller, has said otherwise meanwhile."""
        if known is None or self._written is None:
            return False
        ours = {one["type"]: one["status"] for one in self._written["conditions"]}
        return any(one.type in ours and one.status != ours[one.type] for one in known.status.conditions or ())

    async def _register(self) -> None:
        document = node_document(self._settings, self._name, self._machine)
        document["status"] = status = self._status(None, datetime.now(UTC))
        try:
            answer = await self._client.create(NODES, document)
        except errors.AlreadyExists:
            answer = await self._client.get(NODES, self._key)
        else:
            log.info("The node is registered", extra={"node": self._name})
            if (answer.get("status") or {}).get("addresses"):
                self._written, self._written_at = status, datetime.now(UTC)
        self._uid = answer["metadata"].get("uid", "")
        self._nodes.take(answer)
        await self._label(answer["metadata"].get("labels") or {}, answer["metadata"].get("annotations") or {})

    async def _adopt(self, known: Node) -> None:
        await self._label(known.labels, known.annotations)

    async def _label(self, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        """Set our labels and our annotation on a node that was there before; the others stay."""
        wanted = node_document(self._settings, self._name, self._machine)["metadata"]["labels"]
        missing = {key: value for key, value in wanted.items() if labels.get(key) != value}
        provided = provided_node_ip(self._settings)
        told = {PROVIDED_NODE_IP: provided} if annotations.get(PROVIDED_NODE_IP) != provided else {}
        if missing or told:
            self._nodes.take(await self._client.patch(NODES, self._key, {"metadata": {"labels": missing, "annotations": told}}))

    async def _write(self, status: Document) -> None:
        # a list keyed by type cannot hold two InternalIPs in a merge, so the addresses are replaced whole (spec of kubelet, patch trap)
        sent = {**status, "addresses": [{"$patch": "replace"}, *status["addresses"]]}
        if keeps_addresses(self._settings, self._nodes.get(self._key)):
            del sent["addresses"]
        patch = {"status": sent}
        self._nodes.take(await self._client.patch(NODES, self._key, patch, subresource="status", kind="strategic"))

    # ---- lease

    async def keep_lease(self) -> None:
        """Renew the lease at a quarter of its time, until cancelled."""
        await self._registered.wait()
        seconds = self._settings.lease_seconds
        delay = RETRY_SECONDS
        lease: Document | None = None
        while True:
            try:
                lease = await self._renew(lease)
            except errors.APIError as error:
                log.warning("The node's lease could not be renewed", extra={"node": self._name, "error": error.message})
                lease = None
                await asyncio.sleep(delay)
                delay = min(LONGEST_RETRY_SECONDS, delay * 2)
                continue
            delay = RETRY_SECONDS
            await asyncio.sleep(seconds / 4)

    async def _renew(self, lease: Document | None) -> Document:
        now = text_of_micro_time(datetime.now(UTC))
        key = Key(LEASE_NAMESPACE, self._name)
        if lease is None:
            with contextlib.suppress(errors.NotFound):
                lease = await self._client.get(LEASES, key)
        spec = {"holderIdentity": self._name, "leaseDurationSeconds": self._settings.lease_seconds, "renewTime": now}
        if lease is not None:
            return await self._client.update(LEASES, {**lease, "spec": {**lease.get("spec", {}), **spec}})
        owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": self._uid}
        metadata = {"name": self._name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]}
        return await self._client.create(LEASES, {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec})
