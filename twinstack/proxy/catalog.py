"""The Services and EndpointSlices that the proxy knows, by Service, and which Services a change touches.

Rule of this file: it holds views and answers with keys. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.services import SERVICE_NAME, PackedSlice


def service_key(one: kinds.EndpointSlice) -> Key | None:
    """The Service that a slice belongs to; None when it names none."""
    name = one.service if isinstance(one, PackedSlice) else (one.metadata.labels or {}).get(SERVICE_NAME)
    return Key(one.metadata.namespace, name) if name else None


class Catalog:
    """What was told last. Each change answers which Service it touches, in which families."""

    def __init__(self) -> None:
        self.services: dict[Key, kinds.Service] = {}
        self._slices: dict[Key, tuple[kinds.EndpointSlice, ...]] = {}

    def service_changed(self, before: kinds.Service | None, after: kinds.Service | None) -> Key | None:
        """Take in a Service; its key, or None when nothing was told."""
        one = after or before
        if one is None:
            return None
        key = Key(one.metadata.namespace, one.metadata.name)
        if after is None:
            self.services.pop(key, None)
        else:
            self.services[key] = after
        return key

    def slice_changed(self, before: kinds.EndpointSlice | None, after: kinds.EndpointSlice | None) -> list[tuple[Key, Family]]:
        """Take in a slice; the Services touched, each with the slice's family. Slices of names (FQDN) touch nothing."""
        touched: list[tuple[Key, Family]] = []
        for one, present in ((before, False), (after, True)):
            key = service_key(one) if one is not None else None
            family = next((family for family in FAMILIES if one is not None and one.addressType == family.value), None)
            if one is None or key is None or family is None:
                continue
            held = tuple(other for other in self._slices.get(key, ()) if other.metadata.name != one.metadata.name) + ((one,) if present else ())
            if held:
                self._slices[key] = held
            else:
                self._slices.pop(key, None)
            if (key, family) not in touched:
                touched.append((key, family))
        return touched

    def slices(self, key: Key) -> Collection[kinds.EndpointSlice]:
        """The slices of a Service."""
        return self._slices.get(key, ())

    def keys(self) -> Iterable[Key]:
        """All Services."""
        return self.services.keys()
