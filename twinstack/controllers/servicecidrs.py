"""A ServiceCIDR stays until no address depends on it alone.

The invariant: a ServiceCIDR that lives has our finalizer and is Ready. One that is being deleted keeps the finalizer
while a Service's address lies in it that no other ServiceCIDR covers, and says so; once it may go, it goes a little
after its deletion, so that every API server has stopped to hand out addresses from it (KEP-1880).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from twinstack.api.kinds import Condition, IPAddress, ServiceCIDR, condition_of
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.times import seconds_since
from twinstack.api.world import Action, After, Patch, Watch, World
from twinstack.net.cidr import contains, parse_address, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import Address, Family, Network
from twinstack.rules.workloads import with_condition

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
MANAGED_BY, MANAGER = "ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io"
_RESOURCE = resource_of(ServiceCIDR)
_PAUSE_SECONDS = 10.0


class ServiceCIDRs:
    """Finalizers and readiness of ServiceCIDRs."""

    name = "service-cidr-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(ServiceCIDR, _keys_of_cidr), Watch(IPAddress, _keys_of_address))

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(ServiceCIDR, key)
        if one is None:
            return []
        metadata = one.metadata
        if metadata.deletionTimestamp is None:
            actions: list[Action] = []
            if FINALIZER not in metadata.finalizers:
                actions.append(_finalizers(one, [*metadata.finalizers, FINALIZER]))
            return actions + _conditions(one, "True", "", "Addresses of these CIDRs are handed out.", world)
        if FINALIZER not in metadata.finalizers:
            return []
        if (held := _held_by(one, world)) is not None:
            return _conditions(one, "False", "Terminating", f"Addresses are still in use, {held} among them.", world)
        waited = seconds_since(metadata.deletionTimestamp, world.now)
        if waited is not None and waited < _PAUSE_SECONDS:
            return [After(_PAUSE_SECONDS - waited)]
        return [_finalizers(one, [name for name in metadata.finalizers if name != FINALIZER])]


def _finalizers(one: ServiceCIDR, finalizers: list[str]) -> Patch:
    key, metadata = Key("", one.metadata.name), one.metadata
    return Patch(_RESOURCE, key, {"metadata": {"finalizers": finalizers or None}}, uid=metadata.uid, resource_version=metadata.resourceVersion)


def _conditions(one: ServiceCIDR, status: str, reason: str, message: str, world: World) -> list[Action]:
    before = condition_of(one.status.conditions, "Ready")
    if before is not None and before.status == status and before.reason == reason:
        return []
    after = with_condition(one.status.conditions, "Ready", status, reason, message, world.now)
    patch: Document = {"status": {"conditions": [_full(condition) for condition in after]}}
    return [Patch(_RESOURCE, Key("", one.metadata.name), patch, subresource="status", uid=one.metadata.uid)]


def _full(condition: Condition) -> Document:
    """``reason`` and ``message`` are required fields here, empty ones included."""
    return {"reason": "", "message": ""} | document_of(condition)


def _networks(one: ServiceCIDR) -> Iterator[Network]:
    for text in one.spec.cidrs:
        try:
            yield parse_cidr(text)
        except AddressError:
            continue  # the API server lets none such in


def _held_by(one: ServiceCIDR, world: World) -> Address | None:
    """An address that lies in this ServiceCIDR alone; None when it may go."""
    others = [network for other in world.list(ServiceCIDR) if other.metadata.name != one.metadata.name for network in _networks(other)]
    alone = [network for network in _networks(one) if not any(contains(other, network) for other in others)]
    if not alone:
        return None
    for record in world.list(IPAddress):
        if record.labels.get(MANAGED_BY) != MANAGER:
            continue
        try:
            address = parse_address(record.metadata.name)
        except AddressError:
            continue
        inside = any(_usable(network, address) for network in alone)
        if inside and not any(_usable(other, address) for other in others):
            return address
    return None


def _usable(network: Network, address: Address) -> bool:
    """Whether the address can have come from this network: its first one never does, nor its last where that is reserved."""
    if not contains(network, address) or address == network.network_address:
        return False
    return not (Family.of(network).facts.has_broadcast and address == network.broadcast_address)


# ---- What wakes us


def _keys_of_cidr(before: ServiceCIDR | None, after: ServiceCIDR | None, world: World) -> Iterable[Key]:
    if after is not None:
        yield Key("", after.metadata.name)
    if before is None or after is None:  # it may cover what another holds
        yield from (Key("", one.metadata.name) for one in world.list(ServiceCIDR) if one.metadata.deletionTimestamp)


def _keys_of_address(before: IPAddress | None, after: IPAddress | None, world: World) -> Iterable[Key]:
    if before is None or after is None:
        yield from (Key("", one.metadata.name) for one in world.list(ServiceCIDR) if one.metadata.deletionTimestamp)
