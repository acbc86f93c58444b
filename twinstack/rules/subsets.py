"""How addresses and ports make the subsets of an Endpoints object.

Rule of this file: which pod offers which ports in, canonical subsets out.

Theory. Subsets say "each of these addresses on each of these ports". They are canonical when ports offered by the same
addresses stand together, so that the same facts always make the same object: each port is mapped to its addresses,
then ports with the same addresses are joined. An address that is ready and not ready at once is not ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twinstack.api.services import CoreEndpointPort, EndpointAddress, EndpointSubset

Offer = tuple[EndpointAddress, bool, tuple[CoreEndpointPort, ...]]
"""An address, whether it is ready, and its ports; none at all is an offer, too."""

_Place = tuple[str, str]  # an address and its pod's uid
_Port = tuple[str, int, str, str]


def _place(address: EndpointAddress) -> _Place:
    return address.ip, address.targetRef.uid if address.targetRef else ""


def _port(port: CoreEndpointPort) -> _Port:
    return port.name, port.port, port.protocol, port.appProtocol or ""


def subsets_of(offers: Iterable[Offer]) -> list[EndpointSubset]:
    """The canonical subsets."""
    addresses: dict[_Place, EndpointAddress] = {}
    ports: dict[_Port, CoreEndpointPort] = {}
    by_port: dict[_Port | None, dict[_Place, bool]] = {}
    for address, is_ready, offered in offers:
        place = _place(address)
        addresses.setdefault(place, address)
        for port in offered or (None,):
            key = None if port is None else _port(port)
            if port is not None and key is not None:
                ports.setdefault(key, port)
            places = by_port.setdefault(key, {})
            places[place] = places.get(place, True) and is_ready
    joined: dict[tuple[tuple[_Place, bool], ...], list[_Port]] = {}
    for key, places in by_port.items():
        group = joined.setdefault(tuple(sorted(places.items())), [])
        if key is not None:
            group.append(key)
    result = [
        EndpointSubset(
            addresses=[addresses[place] for place, is_ready in group if is_ready] or None,
            notReadyAddresses=[addresses[place] for place, is_ready in group if not is_ready] or None,
            ports=[ports[key] for key in sorted(keys)] or None,
        )
        for group, keys in joined.items()
    ]
    return sorted(result, key=_order)


def _order(subset: EndpointSubset) -> tuple[list[_Port], list[_Place]]:
    return [_port(port) for port in subset.ports or ()], [_place(one) for one in (subset.addresses or subset.notReadyAddresses or ())]


def cut(subsets: Sequence[EndpointSubset], most: int) -> tuple[list[EndpointSubset], bool]:
    """The subsets with at most so many addresses, ready ones preferred, in proportion; and whether any was left out."""
    ready = sum(len(subset.addresses or ()) for subset in subsets)
    unready = sum(len(subset.notReadyAddresses or ()) for subset in subsets)
    if ready + unready <= most:
        return list(subsets), False
    keep_ready = _shares([len(subset.addresses or ()) for subset in subsets], min(ready, most))
    keep_unready = _shares([len(subset.notReadyAddresses or ()) for subset in subsets], most - min(ready, most))
    result = [
        EndpointSubset(
            addresses=(subset.addresses or [])[:some] or None, notReadyAddresses=(subset.notReadyAddresses or [])[:others] or None, ports=subset.ports
        )
        for subset, some, others in zip(subsets, keep_ready, keep_unready, strict=True)
    ]
    return [subset for subset in result if subset.addresses or subset.notReadyAddresses], True


def _shares(counts: Sequence[int], total: int) -> list[int]:
    whole = sum(counts)
    if whole <= total:
        return list(counts)
    left, result = total, []
    for count in counts:
        share = min(left, -(-count * total // whole))
        result.append(share)
        left -= share
    return result
