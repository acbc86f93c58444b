"""What is seen of a cluster before its paths are tried: the demo's objects, and whether they are ready to be tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from twinstack.api import kinds
from twinstack.api.objects import decode_view
from twinstack.api.resources import resource_of
from twinstack.client.client import Client
from twinstack.loops.clock import Clock, SystemClock
from twinstack.net.cidr import parse_address
from twinstack.net.errors import Error
from twinstack.net.family import Address, ByFamily, Family
from twinstack.prove.matrix import Place, Sight, balancers_of

V = TypeVar("V", bound=kinds.Object)

POLL_SECONDS = 0.05
SERVICE_NAME = "kubernetes.io/service-name"


class NotReady(Error):
    """The time is over; the message says what is missing."""


class Layout(NamedTuple):
    """What the API does not tell: the places of a cluster on this machine."""

    families: tuple[Family, ...]
    nodes: tuple[Place, ...]
    outside: Place
    pod_netns: Callable[[str, str], str]  # (node, uid) → the file of the pod's network namespace
    resolvers: ByFamily[Address] = ByFamily()  # where pods look names up
    unmasqueraded: tuple[Family, ...] = ()  # families whose pods reach outside under their own addresses


class Seen(NamedTuple):
    """The objects of the demo's namespace, at one time."""

    deployments: Sequence[kinds.Deployment]
    pods: Sequence[kinds.Pod]
    services: Sequence[kinds.Service]
    slices: Sequence[kinds.EndpointSlice]


async def look(client: Client, namespace: str) -> Seen:
    """Read them."""

    async def listed(view: type[V]) -> list[V]:
        answer = await client.list_raw(resource_of(view), namespace)
        return [decode_view(view, item) for item in answer.items or ()]

    return Seen(await listed(kinds.Deployment), await listed(kinds.Pod), await listed(kinds.Service), await listed(kinds.EndpointSlice))


def missing(seen: Seen, wanted: Mapping[str, int]) -> list[str]:
    """What is not ready yet: *wanted* are the pods of each Deployment. Empty when all is."""
    found = {one.metadata.name: one for one in seen.deployments}
    result = []
    for name, replicas in wanted.items():
        one = found.get(name)
        ready = min(one.status.availableReplicas, one.status.updatedReplicas) if one else 0
        if one is None or ready < replicas or one.status.replicas != replicas or one.status.observedGeneration < one.metadata.generation:
            result.append(f"Deployment {name} has {ready} of {replicas} pods ready")
    result.extend(_pod_troubles(seen.pods))
    for service in seen.services:
        if service.spec.type == "LoadBalancer" and len(given := balancers_of(service)) < len(service.spec.ipFamilies):
            result.append(f"Service {service.metadata.name} has {len(given)} of {len(service.spec.ipFamilies)} load balancer's addresses")
        if service.spec.selector:
            pods = [pod for pod in seen.pods if _is_ready(pod) and service.spec.selector.items() <= pod.labels.items()]
            for family in service.spec.ipFamilies:
                addresses = set(_ready_addresses(seen.slices, service.metadata.name, family))
                expected = {one.ip for pod in pods for one in pod.status.podIPs or () if Family.of(parse_address(one.ip)).value == family}
                if addresses != expected or not addresses:
                    result.append(f"Service {service.metadata.name} has {len(addresses)} of {len(expected)} {family} endpoints ready")
    return result


async def wait_until_ready(
    client: Client,
    namespace: str,
    wanted: Mapping[str, int],
    *,
    timeout_seconds: float,
    clock: Clock | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Seen:
    """Look until all is ready. Errors: NotReady, which says what is missing."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + timeout_seconds
    while True:
        seen = await look(client, namespace)
        lacking = missing(seen, wanted)
        if not lacking:
            return seen
        progress(lacking[0])
        if clock.monotonic() >= deadline:
            raise NotReady(f"not ready within {timeout_seconds:g} s: " + "; ".join(lacking))
        await clock.sleep(POLL_SECONDS)


async def wait_until_gone(client: Client, namespace: str, *, timeout_seconds: float, clock: Clock | None = None) -> bool:
    """Wait until the namespace is no more; False when it still is after that time."""
    clock = clock or SystemClock()
    deadline = clock.monotonic() + timeout_seconds
    resource = resource_of(kinds.Namespace)
    while any(decode_view(kinds.Namespace, item).metadata.name == namespace for item in (await client.list_raw(resource)).items or ()):
        if clock.monotonic() >= deadline:
            return False
        await clock.sleep(POLL_SECONDS)
    return True


def sight_of(
    seen: Seen, layout: Layout, *, many: str, alone: str, outside_port: int, pod_port: int, refusals: Mapping[str, str], wanted: Sequence[kinds.Service]
) -> Sight:
    """All that a plan needs; *many* and *alone* are the values of the pods' label ``app``, *alone* also the name of its Service."""
    pods = [pod for pod in seen.pods if _is_ready(pod)]
    return Sight(
        families=layout.families,
        pods=[_place(pod, layout) for pod in pods if pod.labels.get("app") == many],
        alone=[_place(pod, layout) for pod in pods if pod.labels.get("app") == alone],
        nodes=layout.nodes,
        outside=layout.outside,
        outside_port=outside_port,
        pod_port=pod_port,
        services={one.metadata.name: one for one in sorted(seen.services, key=_order_of(wanted))},
        own_service=alone,
        slices=seen.slices,
        refusals=refusals,
        wanted=wanted,
        resolvers=layout.resolvers,
        unmasqueraded=layout.unmasqueraded,
    )


def _order_of(wanted: Sequence[kinds.Service]) -> Callable[[kinds.Service], tuple[int, str]]:
    order = {one.metadata.name: number for number, one in enumerate(wanted)}
    return lambda one: (order.get(one.metadata.name, len(order)), one.metadata.name)


def _place(pod: kinds.Pod, layout: Layout) -> Place:
    addresses = ByFamily.of(parse_address(one.ip) for one in pod.status.podIPs or ())
    return Place(pod.metadata.name, layout.pod_netns(pod.spec.nodeName, pod.metadata.uid), addresses, pod.spec.nodeName)


def _is_ready(pod: kinds.Pod) -> bool:
    condition = kinds.condition_of(pod.status.conditions, "Ready")
    return condition is not None and condition.status == "True" and pod.metadata.deletionTimestamp is None


def _ready_addresses(slices: Sequence[kinds.EndpointSlice], service: str, family: str) -> Iterable[str]:
    for one in slices:
        if one.labels.get(SERVICE_NAME) == service and one.addressType == family:
            for endpoint in one.endpoints or ():
                if endpoint.conditions.ready is not False:
                    yield from endpoint.addresses


def _pod_troubles(pods: Sequence[kinds.Pod]) -> Iterable[str]:
    for pod in pods:
        scheduled = kinds.condition_of(pod.status.conditions, "PodScheduled")
        if scheduled is not None and scheduled.status == "False":
            yield f"pod {pod.metadata.name} has no node: {scheduled.message or scheduled.reason}"
        for status in pod.status.containerStatuses or ():
            waiting = status.state.waiting
            if waiting is not None and waiting.reason not in ("", "ContainerCreating", "PodInitializing"):
                yield f"pod {pod.metadata.name} on {pod.spec.nodeName} waits: {waiting.reason}{': ' + waiting.message if waiting.message else ''}"
