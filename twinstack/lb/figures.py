"""What the load balancer counts: read from what is there when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from twinstack.api.kinds import Service
from twinstack.api.world import World
from twinstack.lb.announcer import Announcer
from twinstack.lb.configuration import InForce
from twinstack.lb.speaker import Speaker
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.balancer_owners import announced
from twinstack.rules.balancer_pools import BGP, LINK


class Figures(Collector):
    """The figures of one node."""

    def __init__(self, world: World, configuration: InForce, announcer: Announcer, speaker: Speaker) -> None:
        self._world, self._configuration, self._announcer, self._speaker = world, configuration, announcer, speaker

    def collect(self) -> Iterator[Metric]:
        """All figures, of this moment."""
        mine = GaugeMetricFamily("twinstack_load_balancer_announced_addresses", "The addresses that this node announces.", labels=["way", "family"])
        for way, addresses in ((LINK, self._announcer.held), (BGP, self._speaker.told)):
            for family in FAMILIES:
                mine.add_metric([way, family.value], sum(Family.of(address) is family for address in addresses))
        sessions = GaugeMetricFamily("twinstack_load_balancer_bgp_session_up", "1 while a peer hears this node.", labels=["peer"])
        for peer, up in sorted(self._speaker.sessions.items()):
            sessions.add_metric([peer], up)
        sizes = GaugeMetricFamily("twinstack_load_balancer_pool_addresses", "The addresses of a pool.", labels=["pool", "family"])
        used = GaugeMetricFamily("twinstack_load_balancer_pool_addresses_in_use", "The addresses of a pool that Services have.", labels=["pool", "family"])
        taken = announced(self._world.list(Service))
        for pool in self._configuration.current.pools:
            for family in FAMILIES:
                sizes.add_metric([pool.name, family.value], pool.size(family))
                used.add_metric([pool.name, family.value], sum(Family.of(address) is family and pool.holds(address) for address in taken))
        yield from (mine, sessions, sizes, used)
