"""One node's part in answering for load balancers' addresses: it tells that it lives, and answers for what is its own.

Rule of this file: who owns what is decided in ``rules.balancer_owners``, who lives in ``members``; here it is done.

Theory. The owner of an address answers questions for it, and tells everybody when it becomes the owner, some times, since nobody
acknowledges. The address is on no interface: the packets meet the Service proxy's table before the host asks whether they
are its own. A node that is cut off from the API server goes on with what it had, since it cannot tell whether it is alone; as
soon as it hears another answer for an address of its own then, it falls silent about that one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from twinstack.api import errors
from twinstack.api.kinds import ConfigMap, EndpointSlice, Lease, Node, Service
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_micro_time
from twinstack.client.cache import Cache
from twinstack.kernel.errors import KernelError
from twinstack.kernel.neighbours import Asked, NeighbourDoor, announcement, answer, mac_of
from twinstack.kernel.netlink import Netlink
from twinstack.lb.configuration import InForce
from twinstack.lb.lean import SERVICE_NAME, concerns_owners
from twinstack.lb.members import Members
from twinstack.lb.settings import Settings, SettingsError
from twinstack.net.family import Address, Family
from twinstack.rules.balancer_owners import announced, candidates, owners
from twinstack.rules.balancer_pools import LINK
from twinstack.rules.loadbalancers import is_ours

NAMESPACE, PREFIX = "kube-system", "twinstack-lb-"
LABEL = "twinstack.dev/load-balancer-node"
REPEATS_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
IDLE_SECONDS = 10.0
_DEFENCE_SECONDS = 1.0
_LEASES = resource_of(Lease)

log = logging.getLogger(__name__)


class Announcer:
    """Answers for a node's share of addresses while :meth:`run` runs. The cache must have been read once."""

    def __init__(self, settings: Settings, cache: Cache, configuration: InForce) -> None:
        self._settings, self._cache, self._configuration = settings, cache, configuration
        self._node = settings.node_name
        self._members = Members(self._node, lease_seconds=settings.lease_seconds)
        self._changed, self._begun = asyncio.Event(), asyncio.Event()
        self._door: NeighbourDoor | None = None
        self._held: dict[Address, float] = {}  # and when it was last defended
        self._yielded: set[Address] = set()
        self._due: list[tuple[float, Address]] = []  # announcements to come
        self._written = False  # the Lease is known to exist
        self._complaint = ""

    @property
    def held(self) -> frozenset[Address]:
        """The addresses that this node answers for."""
        return frozenset(self._held)

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease up, so that others need not wait."""
        with ExitStack() as undo:
            if self._settings.interface:
                self._opened()  # a name that is none is told at once
            for view in (Service, EndpointSlice, Node):
                undo.callback(self._cache.subscribe(view, self._woken))
            undo.callback(self._cache.subscribe(ConfigMap, lambda before, after: self._changed.set()))
            self._configuration.subscribe(self._changed.set)
            undo.callback(self._cache.subscribe(Lease, self._lease_seen))
            undo.callback(self._close)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._renew(), name="lease")
                    group.create_task(self._work(), name="announcements")
            finally:
                await self._give_up()

    # ---- Leases

    def _lease_seen(self, before: Lease | None, after: Lease | None) -> None:
        one = after or before
        if one is None or LABEL not in one.labels:
            return
        renewal = after.spec.renewTime if after is not None and after.spec.holderIdentity else None
        news = self._members.observe(one.labels[LABEL], renewal, self._now())
        if self._members.judge(self._now()):
            self._changed.set()
        if news:
            if one.labels[LABEL] == self._node:  # we were away, and neighbours may have been told otherwise
                self._yielded.clear()
                self._announce(self._held)
            self._changed.set()

    async def _renew(self) -> None:
        while True:
            self._begun.clear()
            began = self._now()
            try:
                async with asyncio.timeout(self._settings.lease_seconds):
                    await self._write_lease(self._node)
                self._complain("")
            except (errors.APIError, TimeoutError) as error:
                self._complain(str(error) or "no answer in time")
            pause = self._settings.renew_seconds if self._members.active else IDLE_SECONDS
            try:
                async with asyncio.timeout(max(0.05, began + pause - self._now())):
                    await self._begun.wait()
            except TimeoutError:
                continue

    def _complain(self, text: str) -> None:
        if text and not self._complaint:
            log.warning("The node's lease cannot be renewed; addresses stay where they are", extra={"error": text})
        elif self._complaint and not text:
            log.info("The node's lease is renewed again")
        self._complaint = text

    async def _write_lease(self, holder: str) -> None:
        key = Key(NAMESPACE, PREFIX + self._node)
        seconds = max(1, round(self._settings.lease_seconds))
        spec: Document = {"holderIdentity": holder or None, "renewTime": text_of_micro_time(datetime.now(UTC)), "leaseDurationSeconds": seconds}
        node = self._cache.get(Node, Key("", self._node))
        if not self._written and node is not None and holder:
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": node.metadata.uid}
            metadata = {"namespace": key.namespace, "name": key.name, "labels": {LABEL: self._node}, "ownerReferences": [owner]}
            document = {"apiVersion": _LEASES.api_version, "kind": _LEASES.kind, "metadata": metadata, "spec": spec}
            try:
                await self._cache.client.create(_LEASES, document)
            except errors.AlreadyExists:
                await self._cache.client.patch(_LEASES, key, {"metadata": {"labels": {LABEL: self._node}, "ownerReferences": [owner]}, "spec": spec})
            self._written = True
        elif self._written:
            try:
                await self._cache.client.patch(_LEASES, key, {"spec": spec})
            except errors.NotFound:
                self._written = False  # it is made anew next time

    async def _give_up(self) -> None:
        try:
            async with asyncio.timeout(0.5):
                await self._write_lease("")
        except (errors.APIError, TimeoutError) as error:
            log.info("The node's lease could not be given up; it will expire", extra={"error": str(error)})

    # ---- Addresses

    def _woken(self, before: Any, after: Any) -> None:
        if concerns_owners(before, after) and self._counts(after or before):
            self._changed.set()
        if isinstance(after, Node) and before is None and after.metadata.name == self._node:
            self._begun.set()  # whose Lease waits for it

    def _counts(self, one: Service | EndpointSlice | Node) -> bool:
        """Where endpoints are counts for Services with externalTrafficPolicy Local."""
        if not isinstance(one, EndpointSlice):
            return True
        service = self._cache.get(Service, Key(one.metadata.namespace, one.labels.get(SERVICE_NAME, "")))
        return service is not None and service.spec.externalTrafficPolicy == "Local" and is_ours(service)

    async def _work(self) -> None:
        while True:
            now = self._now()
            waits = [wait for wait in (self._members.patience(now), self._due[0][0] - now if self._due else None) if wait is not None]
            try:
                async with asyncio.timeout(max(0.0, min(waits)) if waits else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
            news = self._changed.is_set()
            self._changed.clear()
            if self._members.judge(self._now()) or news:
                self._settle()
            self._repeat()

    def _settle(self) -> None:
        """Hold what is ours now."""
        services = [service for service in self._cache.list(Service) if is_ours(service)]
        way_of = self._configuration.current.way_of
        anything = any(way_of(address) == LINK for address in announced(services))
        if anything and not self._members.active:
            self._members.begin()
            self._begun.set()
        elif not anything and self._members.active:
            self._members.rest()
        nodes = candidates(self._cache.list(Node), self._members.living)
        found = owners(services, self._slices, nodes) if anything else {}
        wanted = {address for address, owner in found.items() if owner == self._node and way_of(address) == LINK} - self._yielded
        for address in self._held.keys() - wanted:
            self._release(address)
        if new := wanted - self._held.keys():
            self._take(new)

    def _slices(self, service: Service) -> Iterable[EndpointSlice]:
        return self._cache.labelled(EndpointSlice, service.metadata.namespace, SERVICE_NAME, service.metadata.name)

    def _take(self, addresses: Iterable[Address]) -> None:
        door = self._opened()
        if door is None:
            return
        for address in addresses:
            try:
                door.join(address)
            except KernelError as error:
                log.warning("A switch may keep questions from us", extra={"address": str(address), "error": str(error)})
            self._held[address] = 0.0
            log.info("Answering for an address", extra={"address": str(address), "interface": door.link})
        self._announce(addresses)

    def _release(self, address: Address) -> None:
        self._held.pop(address, None)
        if self._door is not None:
            try:
                self._door.part(address)
            except KernelError as error:
                log.info("A group could not be left", extra={"address": str(address), "error": str(error)})
        log.info("No longer answering for an address", extra={"address": str(address)})

    def _announce(self, addresses: Iterable[Address]) -> None:
        now = self._now()
        self._due = sorted([*self._due, *((now + pause, address) for address in addresses for pause in REPEATS_SECONDS)], key=lambda due: due[0])
        self._repeat()

    def _repeat(self) -> None:
        """Send the announcements that are due."""
        now = self._now()
        while self._due and self._due[0][0] <= now:
            address = self._due.pop(0)[1]
            if address in self._held and self._door is not None:
                self._send(self._door, address, announcement(address, self._door.mac))

    @staticmethod
    def _send(door: NeighbourDoor, address: Address, frame: bytes) -> None:
        try:
            door.send(Family.of(address), frame)
        except KernelError as error:
            log.info("Neighbours cannot be told", extra={"address": str(address), "error": str(error)})

    # ---- The link

    def _opened(self) -> NeighbourDoor | None:
        """The door of our link; None while it is not known, because the node is not."""
        if self._door is not None:
            return self._door
        node = self._cache.get(Node, Key("", self._node))
        found = link_of(self._settings.interface, [one.address for one in (node.status.addresses or () if node is not None else ())])
        if found is None:
            log.warning("No interface has an address of this node; --interface names one", extra={"node": self._node})
            return None
        self._door = NeighbourDoor(*found)
        for one in self._door.sockets():
            asyncio.get_running_loop().add_reader(one.fileno(), self._heard, self._door, one)
        return self._door

    def _close(self) -> None:
        if self._door is not None:
            for one in self._door.sockets():
                asyncio.get_running_loop().remove_reader(one.fileno())
            self._door.close()
            self._door = None

    def _heard(self, door: NeighbourDoor, one: Any) -> None:
        try:
            said = door.receive(one)
        except KernelError as error:
            log.warning("Neighbours cannot be heard", extra={"error": str(error)})
            return
        for word in said:
            if word.target not in self._held:
                continue
            if isinstance(word, Asked):
                self._send(door, word.target, answer(word, door.mac))
            else:
                self._contested(word.target, word.mac)

    def _contested(self, address: Address, mac: bytes) -> None:
        """Another says that it has an address of ours."""
        now = self._now()
        if not self._members.is_current(now):
            log.warning("Another node answers for an address while we are cut off; it is theirs", extra={"address": str(address), "mac": mac.hex(":")})
            self._yielded.add(address)
            self._release(address)
        elif now >= self._held[address] + _DEFENCE_SECONDS:
            self._held[address] = now
            self._announce([address])

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def link_of(name: str, addresses: Iterable[str], *, kernel: Callable[[], Netlink] = Netlink) -> tuple[str, int, bytes] | None:
    """Name, index and link-layer address of the named link, or of the one with the first of these addresses that a link has.

    SettingsError when there is none of that name.
    """
    with kernel() as netlink:
        if not name:
            links = {str(one.address): one.link for one in netlink.addresses()}
            name = next((links[text] for text in addresses if text in links), "")
            if not name:
                return None
        link = netlink.link(name)
        if link is None or not link.mac:
            raise SettingsError(f"--interface={name}: there is no link of that name with a link-layer address")
        return link.name, link.number, mac_of(link.mac)
