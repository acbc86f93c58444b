"""A Service of type LoadBalancer has an address of each of its families in its status, as far as pools have them.

The invariant: a Service that we serve has upstream's finalizer and the addresses that ``rules.loadbalancers`` gives it, and one that
wants no load balancer any more has neither. A Service of another's class is never touched.

Which addresses are taken is read from all Services of the world: this controller must be run by one worker, which takes the answer to
each of its writes into the world before it decides the next Service.

Source: Kubernetes' service controller (cloud-provider), for the finalizer, the door that it is written through, and the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twinstack.api.kinds import ConfigMap, Node, Service
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, Patch, Tell, Watch, World
from twinstack.net.family import Address
from twinstack.rules.balancer_changes import changes
from twinstack.rules.balancer_owners import may_balance
from twinstack.rules.balancer_pools import AddressPool, PoolsError, parse_pools
from twinstack.rules.loadbalancers import CLASS, FINALIZER, assign, claim_of, held_by, is_ours

CONFIG = Key("kube-system", "twinstack-load-balancer")
ENTRY = "config.yaml"  # of the ConfigMap
_RESOURCE = resource_of(Service)


class LoadBalancers:
    """Addresses of *pools*, or of those in the ConfigMap where there is one."""

    name = "load-balancer-controller"
    workers = 1  # two Services must not be decided from the same world

    def __init__(self, pools: Sequence[AddressPool] = ()) -> None:
        self._pools = tuple(pools)
        self._seen: dict[Key, Service] = {}  # as we saw them last: what an event tells is a difference, and nothing in the world is one
        self.watches: Sequence[Watch] = (Watch(Service, self._keys_of_service), Watch(ConfigMap, _keys_of_config), Watch(Node, _keys_of_node))

    def decide(self, key: Key, world: World) -> list[Action]:
        service = world.get(Service, key)
        told = self._told(key, service)
        if service is None:
            return told
        if not is_ours(service):
            return [*told, *(_cleaned(service) if _is_left(service) else ())]
        return [*told, *self._served(service, world)]

    def refused(self, key: Key, error: Exception, world: World) -> list[Action]:
        """Say so at the Service."""
        service = world.get(Service, key)
        if service is None:
            return []
        return [Tell(service, "Warning", "SyncLoadBalancerFailed" if is_ours(service) else "DeleteLoadBalancerFailed", f"The API server refuses it: {error}")]

    def _told(self, key: Key, service: Service | None) -> list[Action]:
        """What has changed since we looked last."""
        before = self._seen.pop(key, None)
        if service is None:
            return []
        if is_ours(service):
            self._seen[key] = service
        return [Tell(service, "Normal", reason, message) for reason, message in (changes(before, service) if before is not None else ())]

    def _keys_of_service(self, before: Service | None, after: Service | None, world: World) -> Iterable[Key]:
        if before is not None and after is not None and not is_ours(before) and is_ours(after):
            self._seen.setdefault(Key(after.metadata.namespace, after.metadata.name), before)
        return _keys_of_service(before, after, world)

    def _served(self, service: Service, world: World) -> list[Action]:
        """What a Service that is ours lacks."""
        try:
            pools = self.pools(world)
        except PoolsError as error:
            message = f"ConfigMap {CONFIG} is refused, and every Service keeps what it has: {error}"
            return [] if held_by(service) else [Tell(service, "Warning", "SyncLoadBalancerFailed", message)]
        found = assign(claim_of(service), (claim_of(other) for other in world.list(Service) if _holds(other)), pools)
        actions: list[Action] = []
        if not _stands(service, found.addresses):
            told = ", ".join(map(str, found.addresses)) or "none"
            held = held_by(service)
            if FINALIZER not in service.metadata.finalizers:
                actions.append(Tell(service, "Normal", "EnsuringLoadBalancer", "Looking for an address of each family"))
            actions.append(_written(service, found.addresses))
            if held != found.addresses:
                lost = [str(address) for address in held if address not in found.addresses]
                told += f"; given up: {', '.join(lost)}" if lost else ""
                actions.append(Tell(service, "Normal", "UpdatedLoadBalancer" if held else "EnsuredLoadBalancer", f"The load balancer's addresses: {told}"))
        if found.addresses and not _anybody(world):
            actions.append(Tell(service, "Warning", "UnAvailableLoadBalancer", "No node may take the load balancer's traffic"))
        if found.missing:
            actions.append(Tell(service, "Warning", "SyncLoadBalancerFailed", _why(service, found.missing)))
        return actions

    def pools(self, world: World) -> tuple[AddressPool, ...]:
        """The pools in force; PoolsError when the ConfigMap's are none."""
        config = world.get(ConfigMap, CONFIG)
        text = (config.data or {}).get(ENTRY) if config is not None else None
        if config is not None and text is None:
            raise PoolsError(f"it has no entry {ENTRY}")
        return self._pools if text is None else parse_pools(text)


def _anybody(world: World) -> bool:
    """Whether some node may take traffic; where no node is known, somebody else knows of them."""
    nodes = world.list(Node)
    return not nodes or any(map(may_balance, nodes))


def _why(service: Service, missing: Sequence[str]) -> str:
    policy = service.spec.ipFamilyPolicy
    ending = {"RequireDualStack": "; RequireDualStack gets both or waits", "PreferDualStack": "; what is missing is given when there is room"}.get(
        policy or "", ""
    )
    return "; ".join(missing) + ending


def _stands(service: Service, addresses: Sequence[Address]) -> bool:
    """Whether a Service is as it ought to be."""
    ingress = service.status.loadBalancer.ingress or []
    wanted = [(str(address), "VIP", "") for address in addresses]
    return FINALIZER in service.metadata.finalizers and [(one.ip, one.ipMode, one.hostname) for one in ingress] == wanted


def _written(service: Service, addresses: Sequence[Address]) -> Patch:
    finalizers = service.metadata.finalizers if FINALIZER in service.metadata.finalizers else [*service.metadata.finalizers, FINALIZER]
    return _patch(service, finalizers, [{"ip": str(address), "ipMode": "VIP"} for address in addresses])


def _patch(service: Service, finalizers: Sequence[str], ingress: list[Document]) -> Patch:
    """Finalizer and status in one write, through the door of the status, as upstream's service controller does."""
    metadata = service.metadata
    patch: Document = {"metadata": {"finalizers": list(finalizers) or None}, "status": {"loadBalancer": {"ingress": ingress or None}}}
    key = Key(metadata.namespace, metadata.name)
    return Patch(_RESOURCE, key, patch, subresource="status", uid=metadata.uid, resource_version=metadata.resourceVersion)


def _is_left(service: Service) -> bool:
    """Whether something of ours is to be taken away: the finalizer stands, and no other class's implementation may need it."""
    other = service.spec.type == "LoadBalancer" and service.spec.loadBalancerClass not in (None, CLASS)
    return FINALIZER in service.metadata.finalizers and not other


def _cleaned(service: Service) -> list[Action]:
    finalizers = [name for name in service.metadata.finalizers if name != FINALIZER]
    return [
        Tell(service, "Normal", "DeletingLoadBalancer", "Giving the load balancer's addresses back"),
        _patch(service, finalizers, []),
        Tell(service, "Normal", "DeletedLoadBalancer", "The load balancer's addresses are given back"),
    ]


def _holds(service: Service) -> bool:
    """Whether a Service's addresses are taken: it is ours, or was, and has not been cleaned up."""
    return bool(service.status.loadBalancer.ingress) and (is_ours(service) or _is_left(service))


# ---- What wakes us


def _keys_of_service(before: Service | None, after: Service | None, world: World) -> Iterable[Key]:
    one = after or before
    if one is None or not any(_concerns(service) for service in (before, after)):
        return
    own = Key(one.metadata.namespace, one.metadata.name)
    yield own
    was, now = (set(held_by(service)) if service is not None and _holds(service) else set() for service in (before, after))
    others_terms = before is None or after is None or claim_of(before)._replace(held=()) != claim_of(after)._replace(held=())
    freed = bool(was - now) or (bool(now) and others_terms)
    if was == now and not freed:
        return
    for other in world.list(Service):
        key = Key(other.metadata.namespace, other.metadata.name)
        # What was given back may be what another waits for; and who has the same address must be able to share it.
        if key != own and is_ours(other) and ((freed and _waits(other)) or now & set(held_by(other))):
            yield key


def _concerns(service: Service | None) -> bool:
    return service is not None and (is_ours(service) or _is_left(service))


def _waits(service: Service) -> bool:
    """Whether a Service has not all that it asks for."""
    claim = claim_of(service)
    return len(claim.held) < len(claim.families) or any(address not in claim.held for address in claim.named.values())


def _keys_of_config(before: ConfigMap | None, after: ConfigMap | None, world: World) -> Iterable[Key]:
    one = after or before
    if one is not None and Key(one.metadata.namespace, one.metadata.name) == CONFIG:
        yield from (Key(service.metadata.namespace, service.metadata.name) for service in world.list(Service) if is_ours(service))


def _keys_of_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    """When the last node goes that may take traffic, all who wait for it are told."""
    if before is not None and may_balance(before) and not _anybody(world):
        yield from (Key(service.metadata.namespace, service.metadata.name) for service in world.list(Service) if is_ours(service))
