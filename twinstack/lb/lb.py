"""Load balancers for nodes without a cloud: addresses of both families from pools, each answered by one node on its own link, or told to routers by BGP.

Rule of this file: it wires. Every node runs the same program: all of them announce addresses, one of them, by election, gives them out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from prometheus_client import CollectorRegistry

from twinstack.api.kinds import ConfigMap, EndpointSlice, Lease, Node, Service
from twinstack.api.objects import Key
from twinstack.client import kubeconfig
from twinstack.client.cache import Cache
from twinstack.client.client import Client
from twinstack.controllers.loadbalancers import CONFIG, LoadBalancers
from twinstack.lb.announcer import LABEL, NAMESPACE, Announcer
from twinstack.lb.configuration import InForce
from twinstack.lb.figures import Figures
from twinstack.lb.lean import SERVICE_NAME, lean_node, lean_service, lean_slice
from twinstack.lb.settings import Settings, SettingsError, checked
from twinstack.lb.speaker import Speaker
from twinstack.loops import leader
from twinstack.loops.checks import Check
from twinstack.loops.events import Recorder
from twinstack.loops.health import HealthServer
from twinstack.loops.metrics import LeaderMetrics, QueueMetrics, new_registry
from twinstack.loops.reconciler import Reconciler
from twinstack.loops.supervisor import GivenUp
from twinstack.net.cidr import host_port
from twinstack.rules.balancer_owners import candidates, owners
from twinstack.rules.loadbalancers import Claim, assign_all, claim_of, is_ours

COMPONENT = "twinstack-load-balancer"
LOCK = Key("kube-system", "twinstack-load-balancer")

log = logging.getLogger(__name__)


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None, say: Callable[[str], None] = print) -> None:
    """Give out, answer for and tell addresses until cancelled. With ``dry_run``: *say* what would be, and end."""
    settings = checked(settings)
    async with AsyncExitStack() as undo:
        client = await undo.enter_async_context(Client(kubeconfig.load(settings.kubeconfig or None), user_agent=COMPONENT))
        cache = Cache(client)
        cache.watch(Service, lean=lean_service)
        cache.watch(Node, lean=lean_node)
        cache.watch(EndpointSlice, label_selector=SERVICE_NAME, lean=lean_slice)
        cache.watch(Lease, namespace=NAMESPACE, label_selector=LABEL)
        cache.watch(ConfigMap, namespace=CONFIG.namespace, field_selector=f"metadata.name={CONFIG.name}")
        configuration = InForce(settings, cache)
        recorder = Recorder(cache.perform, component="service-controller", host=settings.node_name)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(cache.run(), name="cache")
            if settings.dry_run:
                await cache.synced()
                for line in report(LoadBalancers(configuration.of_file.pools), cache):
                    say(line)
                watching.cancel()
                return
            announcer, speaker = Announcer(settings, cache, configuration), Speaker(settings, cache, configuration)
            registry = new_registry(process=False)
            registry.register(Figures(cache, configuration, announcer, speaker))
            await _serve_health(settings, registry, {"cache": cache, "configuration": configuration, "bgp": speaker}, undo)
            await cache.synced()
            group.create_task(recorder.run(), name="events")
            group.create_task(announcer.run(), name="announcer")
            group.create_task(speaker.run(), name="speaker")
            group.create_task(configuration.follow_file(), name="file of pools")
            group.create_task(_allocate(client, cache, recorder, configuration, registry), name="addresses")
            ready()


async def _allocate(client: Client, cache: Cache, recorder: Recorder, configuration: InForce, registry: CollectorRegistry) -> None:
    """Give addresses out whenever this instance leads."""
    leading, queues = LeaderMetrics(registry), QueueMetrics(registry)
    news = asyncio.Event()
    configuration.subscribe(news.set)

    async def work() -> None:
        """Decide every Service, and again when the file of pools says something else."""
        while True:
            news.clear()
            controller = LoadBalancers(configuration.of_file.pools)
            reconciler = Reconciler(controller, cache, cache.perform, recorder=recorder, metrics=queues, workers=controller.workers)
            async with asyncio.TaskGroup() as group:
                working = group.create_task(reconciler.run(), name=controller.name)
                await news.wait()
                working.cancel()

    while True:
        election = leader.Election(client, LOCK, identity=leader.identity(), lease_seconds=6.0, renew_seconds=4.0, retry_seconds=2.0, metrics=leading)
        try:
            await election.run(work)
        except* GivenUp as lost:
            log.warning("Another instance gives out addresses now", extra={"because": "; ".join(map(str, lost.exceptions))})


async def _serve_health(settings: Settings, registry: CollectorRegistry, parts: Mapping[str, Any], undo: AsyncExitStack) -> None:
    """/healthz, /livez, /readyz and /metrics."""
    if settings.health_port is None:
        return
    ready: dict[str, Check] = {
        "cache": lambda: None if parts["cache"].is_synced else "not all objects are read yet",
        "configuration": lambda: parts["configuration"].wrong or None,
        "bgp": lambda: parts["bgp"].wrong or None,
    }
    health = HealthServer(ready=ready, registry=registry)
    try:
        await health.start(settings.health_address, settings.health_port)
    except OSError as error:
        raise SettingsError(f"{host_port(settings.health_address, settings.health_port)} cannot be listened on: {error.strerror or error}") from error
    undo.push_async_callback(health.close)


def report(controller: LoadBalancers, cache: Cache) -> list[str]:
    """What every Service would have, why not more, and who would answer."""
    services = [service for service in cache.list(Service) if is_ours(service)]
    claims: list[Claim] = [claim_of(service) for service in services]
    lines = []
    for key, one in assign_all(claims, controller.pools(cache)).items():
        told = ", ".join(map(str, one.addresses)) or "waits"
        lines.append(f"{key}: {told}" + "".join(f"; {reason}" for reason in one.missing))
    living = frozenset(lease.labels[LABEL] for lease in cache.list(Lease) if lease.spec.holderIdentity)

    def slices(service: Service) -> list[EndpointSlice]:
        return list(cache.labelled(EndpointSlice, service.metadata.namespace, SERVICE_NAME, service.metadata.name))

    for address, node in owners(services, slices, candidates(cache.list(Node), living)).items():
        lines.append(f"{address}: answered by {node}")
    return lines
