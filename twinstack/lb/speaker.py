"""One node's part in telling routers the addresses of BGP's pools: its own BIRD has the routes that are the node's to tell.

Rule of this file: which routes those are is decided in ``rules.balancer_owners``; here they are put into BIRD, which is kept running.

Theory. By BGP an address need not have one owner: every node that may take its traffic says so, and the router spreads connections over
them. So nobody has to know who lives: a node that dies falls silent, and the router forgets it after the hold time, or in a second
where both speak BFD; one that stops, or drains, takes its routes back at once, unless it agreed with
the router that it may come back (RFC 4724): then its routes stay for that time. While the API server is away, all stays.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import Any

from twinstack.api.kinds import ConfigMap, EndpointSlice, Node, Service
from twinstack.api.objects import Key
from twinstack.client.cache import Cache
from twinstack.dataplane import bird as text
from twinstack.kernel.bird import Bird
from twinstack.kernel.errors import KernelError
from twinstack.lb.configuration import InForce
from twinstack.lb.lean import SERVICE_NAME, concerns_owners
from twinstack.lb.settings import Settings, bgp_password
from twinstack.net.cidr import parse_address
from twinstack.net.family import Address, ByFamily, Family
from twinstack.rules.balancer_owners import speakers, spoken_by
from twinstack.rules.balancer_pools import BGP
from twinstack.rules.loadbalancers import is_ours

LOOK_SECONDS = 2.0
_RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)


class Speaker:
    """Tells a node's routes while :meth:`run` runs. The cache must have been read once.

    ``told`` are the addresses, ``sessions`` whether each peer hears them, ``wrong`` is what keeps us from telling.
    """

    def __init__(self, settings: Settings, cache: Cache, configuration: InForce) -> None:
        self._cache, self._configuration = cache, configuration
        self._node, self._password = settings.node_name, bgp_password(settings)
        self._bird = Bird(settings.run_dir)
        self._changed, self._begun = asyncio.Event(), asyncio.Event()
        self._applied = ""
        self.told: frozenset[Address] = frozenset()
        self.sessions: dict[str, bool] = {}
        self.wrong = ""

    async def run(self) -> None:
        """Take part until cancelled; then take the routes back."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._end)
            for view in (Service, EndpointSlice, Node):
                undo.callback(self._cache.subscribe(view, self._woken))
            undo.callback(self._cache.subscribe(ConfigMap, lambda before, after: self._changed.set()))
            self._configuration.subscribe(self._changed.set)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._work(), name="routes")
                group.create_task(self._mind(), name="bird")
                group.create_task(self._look(), name="sessions")

    async def _end(self) -> None:
        """Take the routes back; where a peer agreed to keep them over a restart, let it."""
        if self._applied and self._returns:
            await self._bird.leave()
        else:
            self._bird.close()

    @property
    def _returns(self) -> bool:
        return any(peer.restart_seconds for peer in self._configuration.current.peers)

    def _woken(self, before: Any, after: Any) -> None:
        if concerns_owners(before, after):
            self._changed.set()

    async def _work(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._settle()
                self.wrong = ""
            except KernelError as error:
                if self.wrong != str(error):
                    log.error("Routes cannot be told", extra={"error": str(error)})
                self.wrong = str(error)
                asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._changed.set)

    async def _settle(self) -> None:
        """Let BIRD have what is ours now; there is one only while a pool needs it."""
        configuration = self._configuration.current
        if not configuration.speaks_bgp:
            if self._applied:
                self._bird.close()
                self._applied, self.told, self.sessions = "", frozenset(), {}
            return
        sessions = self._sessions()
        if sessions is None:  # the node is not known yet; when it is, we are woken
            return
        routes = self._routes()
        wanted = text.speaker(self._node, sessions, routes)
        if wanted == self._applied:
            return
        if self._applied:
            await self._bird.configure(wanted)
        else:
            await self._bird.start(wanted, returns=self._returns)
            self._begun.set()
        for peer in {str(peer.address) for peer in configuration.peers} - {str(session.peer) for session in sessions}:
            log.warning("The node has no address of a peer's family, and tells it nothing", extra={"peer": peer})
        for words, some in (("Telling routers of an address", routes - self.told), ("No longer telling routers of an address", self.told - routes)):
            for address in sorted(map(str, some)):
                log.info(words, extra={"address": address})
        self._applied, self.told = wanted, routes

    async def _mind(self) -> None:
        """Begin again when a BIRD ends that we did not end."""
        while True:
            await self._begun.wait()
            self._begun.clear()
            pid = self._bird.pid
            await self._bird.ended()
            if self._bird.pid == pid:
                log.error("bird has ended, and is begun again")
                self._bird.close()
                self._applied, self.told, self.sessions = "", frozenset(), {}
                self._changed.set()

    def _routes(self) -> frozenset[Address]:
        services = [service for service in self._cache.list(Service) if is_ours(service)]
        nodes = speakers(self._cache.list(Node))
        found = spoken_by(self._node, services, self._slices, nodes)
        return frozenset(address for address in found if self._configuration.current.way_of(address) == BGP)

    def _slices(self, service: Service) -> list[EndpointSlice]:
        return list(self._cache.labelled(EndpointSlice, service.metadata.namespace, SERVICE_NAME, service.metadata.name))

    def _sessions(self) -> list[text.Session] | None:
        """A session for each peer of a family that the node has an address of; None while it has none at all."""
        node = self._cache.get(Node, Key("", self._node))
        texts = [one.address for one in (node.status.addresses or () if node is not None else ()) if one.type == "InternalIP"]
        if not texts:
            return None
        own, found = ByFamily.of(list(map(parse_address, texts))), []
        for peer in self._configuration.current.peers:
            family = Family.of(peer.address)
            if family in own:
                found.append(text.Session(own[family], peer.own_asn, peer.address, peer.asn, *peer[3:], password=self._password))
        return found

    async def _look(self) -> None:
        """Follow how the sessions are."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not self._applied:
                continue
            names = {session.name: str(session.peer) for session in self._sessions() or ()}
            try:
                known = [one for one in await self._bird.protocols() if one.name in names]
            except KernelError as error:
                log.warning("bird cannot be asked", extra={"error": str(error)})
                continue
            for one in known:
                peer, up = names[one.name], one.info.startswith("Established")
                if self.sessions.get(peer, False) is not up:
                    log.log(logging.INFO if up else logging.WARNING, "A session is up" if up else "A session is down", extra={"peer": peer, "bird": one.info})
                self.sessions[peer] = up
            self.sessions = {peer: up for peer, up in self.sessions.items() if peer in names.values()}
