"""Load balancers for nodes without a cloud: addresses of both families from pools, each answered by one node on its own link.

Rule of this file: it wires. Every node runs the same program: all of them answer for addresses, one of them, by election, gives them out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

from twinstack.api.kinds import ConfigMap, EndpointSlice, Lease, Node, Service
from twinstack.api.objects import Key
from twinstack.client import kubeconfig
from twinstack.client.cache import Cache
from twinstack.client.client import Client
from twinstack.controllers.loadbalancers import CONFIG, LoadBalancers
from twinstack.lb.announcer import LABEL, NAMESPACE, Announcer
from twinstack.lb.lean import SERVICE_NAME, lean_node, lean_service, lean_slice
from twinstack.lb.settings import Settings, checked, pools_of_file
from twinstack.loops import leader
from twinstack.loops.events import Recorder
from twinstack.loops.reconciler import Reconciler
from twinstack.loops.supervisor import GivenUp
from twinstack.rules.balancer_owners import candidates, owners
from twinstack.rules.loadbalancers import Claim, assign_all, claim_of, is_ours

COMPONENT = "twinstack-load-balancer"
LOCK = Key("kube-system", "twinstack-load-balancer")

log = logging.getLogger(__name__)


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None, say: Callable[[str], None] = print) -> None:
    """Give out and answer for addresses until cancelled. With ``dry_run``: *say* what would be, and end."""
    settings = checked(settings)
    controller = LoadBalancers(pools_of_file(settings))
    async with AsyncExitStack() as undo:
        client = await undo.enter_async_context(Client(kubeconfig.load(settings.kubeconfig or None), user_agent=COMPONENT))
        cache = Cache(client)
        cache.watch(Service, lean=lean_service)
        cache.watch(Node, lean=lean_node)
        cache.watch(EndpointSlice, label_selector=SERVICE_NAME, lean=lean_slice)
        cache.watch(Lease, namespace=NAMESPACE, label_selector=LABEL)
        cache.watch(ConfigMap, namespace=CONFIG.namespace, field_selector=f"metadata.name={CONFIG.name}")
        recorder = Recorder(cache.perform, component="service-controller", host=settings.node_name)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(cache.run(), name="cache")
            await cache.synced()
            if settings.dry_run:
                for line in report(controller, cache):
                    say(line)
                watching.cancel()
                return
            group.create_task(recorder.run(), name="events")
            group.create_task(Announcer(settings, cache).run(), name="announcer")
            group.create_task(_allocate(client, cache, recorder, controller), name="addresses")
            ready()


async def _allocate(client: Client, cache: Cache, recorder: Recorder, controller: LoadBalancers) -> None:
    """Give addresses out whenever this instance leads."""
    while True:
        election = leader.Election(client, LOCK, identity=leader.identity(), lease_seconds=6.0, renew_seconds=4.0, retry_seconds=2.0)
        reconciler = Reconciler(controller, cache, cache.perform, recorder=recorder, workers=controller.workers)
        try:
            await election.run(reconciler.run)
        except* GivenUp as lost:
            log.warning("Another instance gives out addresses now", extra={"because": "; ".join(map(str, lost.exceptions))})


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
