"""What somebody wrote by hand into Endpoints, those see too who only know slices.

The invariant: an Endpoints object whose Service stands and has no selector, which neither asks to be left alone
(``endpointslice.kubernetes.io/skip-mirror: "true"``) nor elects a leader, has one slice of ours for each family and each
port list in its subsets, with at most so many addresses of a subset, ready ones first; any other Endpoints has none.
Families are told by the addresses, not by the Service: a subset with addresses of both makes two slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from twinstack.api.kinds import Endpoint, EndpointConditions, EndpointPort, Endpoints, EndpointSlice, Service
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.services import EndpointAddress, EndpointSubset
from twinstack.api.world import Action, Create, Delete, Patch, Tell, Watch, World, own_key
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Address, Family
from twinstack.rules import endpoints as rules
from twinstack.rules.slices import identity_of
from twinstack.rules.subsets import Offer, subsets_of
from twinstack.rules.workloads import owner_reference

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
_NOT_COPIED = (rules.TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration")
_RESOURCE = resource_of(EndpointSlice)


class _Wanted(NamedTuple):
    """What one slice is to hold."""

    ports: list[EndpointPort]
    endpoints: list[Endpoint]


class EndpointSliceMirroring:
    """Slices of hand-written Endpoints, with at most *max_endpoints* addresses of a subset."""

    name = "endpointslice-mirroring-controller"

    def __init__(self, *, max_endpoints: int = 1000) -> None:
        self._most = max_endpoints
        self.watches: Sequence[Watch] = (Watch(Endpoints, own_key), Watch(Service, own_key), Watch(EndpointSlice, _keys_of_slice))

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(Endpoints, key)
        labelled = world.labelled(EndpointSlice, key.namespace, rules.SERVICE_NAME, key.name)
        ours = [each for each in labelled if each.labels.get(rules.MANAGED_BY) == MANAGER and each.metadata.deletionTimestamp is None]
        if one is None or not _is_mirrored(one, world.get(Service, key)):
            return [_deletion(each) for each in ours]
        actions: list[Action] = []
        wanted = self._wanted(one, actions)
        labels = {**one.labels, rules.SERVICE_NAME: key.name, rules.MANAGED_BY: MANAGER}
        annotations = {name: text for name, text in one.annotations.items() if name not in _NOT_COPIED}
        for each in ours:
            content = wanted.pop((each.addressType, rules.key_of_ports(each.ports)), None)
            if content is None or not any(owner.uid == one.metadata.uid for owner in each.metadata.ownerReferences):
                actions.append(_deletion(each))
                if content is not None:
                    wanted[each.addressType, rules.key_of_ports(each.ports)] = content
            elif (each.labels, each.annotations) != (labels, annotations) or _in_order(each.endpoints or ()) != content.endpoints:
                metadata = {"labels": _change(each.labels, labels), "annotations": _change(each.annotations, annotations)}
                place, meta = Key(key.namespace, each.metadata.name), each.metadata
                patch = {"metadata": metadata} | _body(content)
                actions.append(Patch(_RESOURCE, place, patch, uid=meta.uid, resource_version=meta.resourceVersion))
        if one.metadata.deletionTimestamp is None:
            for (family, _), content in wanted.items():
                actions.append(_creation(one, family, labels, annotations, content))
        return actions

    def _wanted(self, one: Endpoints, told: list[Action]) -> dict[tuple[str, rules.PortKey], _Wanted]:
        """By family and ports, what is to stand in a slice; *told* gets the events about what cannot."""
        malformed: list[str] = []
        wanted: dict[tuple[str, rules.PortKey], _Wanted] = {}
        left_out = 0
        for subset in subsets_of(_offers(one.subsets or (), malformed)):
            ports = [EndpointPort(name=port.name, port=port.port, protocol=port.protocol, appProtocol=port.appProtocol) for port in subset.ports or ()]
            every = [*((address, True) for address in subset.addresses or ()), *((address, False) for address in subset.notReadyAddresses or ())]
            left_out += max(0, len(every) - self._most)
            for address, is_ready in every[: self._most]:
                place = (Family.of(parse_address(address.ip)).value, rules.key_of_ports(ports))
                wanted.setdefault(place, _Wanted(ports, [])).endpoints.append(_endpoint(address, is_ready))
        for content in wanted.values():
            content.endpoints.sort(key=identity_of)
        if malformed:
            told.append(Tell(one, "Warning", "InvalidIPAddress", f"No IP address, and not mirrored: {', '.join(malformed[:5])}"))
        if left_out:
            told.append(Tell(one, "Warning", "TooManyAddressesToMirror", f"{left_out} addresses are not mirrored: a subset may have {self._most}"))
        return wanted


def _is_mirrored(one: Endpoints, service: Service | None) -> bool:
    return service is not None and service.spec.selector is None and one.labels.get(SKIP) != "true" and rules.LEADER not in one.annotations


def _offers(subsets: Iterable[EndpointSubset], malformed: list[str]) -> Iterable[Offer]:
    """Each address in canonical form; what is none is collected."""
    for subset in subsets:
        for addresses, is_ready in ((subset.addresses, True), (subset.notReadyAddresses, False)):
            for address in addresses or ():
                found = _parsed(address.ip)
                if found is None:
                    malformed.append(address.ip)
                    continue
                yield msgspec.structs.replace(address, ip=str(found)), is_ready, tuple(subset.ports or ())


def _parsed(text: str) -> Address | None:
    """The address; leading zeros do not matter, and one of IPv4 that is mapped into IPv6 is what it maps."""
    try:
        return parse_address(text)
    except AddressError as error:
        return parse_address(error.suggestion) if error.suggestion and "%" not in text else None


def _endpoint(address: EndpointAddress, is_ready: bool) -> Endpoint:
    return Endpoint(
        addresses=[address.ip],
        conditions=EndpointConditions(ready=is_ready),
        hostname=address.hostname or None,
        nodeName=address.nodeName,
        targetRef=address.targetRef,
    )


def _in_order(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return sorted(endpoints, key=identity_of)


def _body(content: _Wanted) -> Document:
    return {"endpoints": [document_of(one) for one in content.endpoints], "ports": [document_of(port) for port in content.ports]}


def _creation(one: Endpoints, family: str, labels: Mapping[str, str], annotations: Mapping[str, str], content: _Wanted) -> Create:
    metadata: Document = {
        "generateName": f"{one.metadata.name}-",
        "namespace": one.metadata.namespace,
        "labels": dict(labels),
        "ownerReferences": [document_of(owner_reference(one))],
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return Create(_RESOURCE, {"apiVersion": _RESOURCE.api_version, "kind": _RESOURCE.kind, "metadata": metadata, "addressType": family} | _body(content))


def _change(before: Mapping[str, str], after: Mapping[str, str]) -> Document:
    """The merge patch from one map to the other."""
    return {**after, **{name: None for name in before if name not in after}}


def _deletion(one: EndpointSlice) -> Delete:
    return Delete(_RESOURCE, Key(one.metadata.namespace, one.metadata.name), uid=one.metadata.uid)


def _keys_of_slice(before: EndpointSlice | None, after: EndpointSlice | None, world: World) -> Iterable[Key]:
    for one in (before, after):
        if one is not None and one.labels.get(rules.MANAGED_BY) == MANAGER and rules.SERVICE_NAME in one.labels:
            yield Key(one.metadata.namespace, one.labels[rules.SERVICE_NAME])
