"""What of a Service nobody answers, told as events: addresses, source ranges and slices of a family that it lacks.

Rule of this file: it looks and tells; what is ignored is decided in ``services``. Upstream drops all this silently.

Theory. A Service's own words are looked at when they change. Slices are written by another program, which hears of a change of
families when we do, and its slices and the Service come to us in any order; so a slice of a family that its Service lacks is
told only when that is still so some seconds later.
"""

from __future__ import annotations

from collections.abc import Callable

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.net.family import FAMILIES
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.services import cluster_ip, ignored, is_ours

REASON = "KubeProxyIncorrectIPVersion"
LATER_SECONDS = 5.0


class Telling:
    """Tells each thing once. *tell* takes a Service and a message; *later* calls a function after a while."""

    def __init__(self, catalog: Catalog, *, tell: Callable[[kinds.Service, str], None], later: Callable[[Callable[[], None]], object]) -> None:
        self._catalog, self._tell, self._later = catalog, tell, later
        self._waiting: set[Key] = set()
        self._told: dict[Key, tuple[str, ...]] = {}  # of Services with such slices alone

    def service_changed(self, before: kinds.Service | None, after: kinds.Service | None) -> None:
        """A Service came, changed or went."""
        if after is None:
            if before is not None:
                self._told.pop(_key(before), None)
            return
        left_out = ignored(after)
        if left_out and (before is None or ignored(before) != left_out):
            self._say(after, left_out)
        self.slices_changed(_key(after))

    def slices_changed(self, key: Key) -> None:
        """A slice of the Service came, changed or went, or the Service did."""
        if key not in self._waiting and (self._strays(key) or key in self._told):
            self._waiting.add(key)
            self._later(lambda: self._look(key))

    def _look(self, key: Key) -> None:
        self._waiting.discard(key)
        strays = self._strays(key)
        service = self._catalog.services.get(key)
        if strays and service is not None and self._told.get(key) != strays:
            self._say(service, [f"EndpointSlice {name}" for name in strays])
        if strays:
            self._told[key] = strays
        else:
            self._told.pop(key, None)

    def _strays(self, key: Key) -> tuple[str, ...]:
        """The names of the Service's slices of a family that it lacks."""
        service = self._catalog.services.get(key)
        slices = self._catalog.slices(key)
        if service is None or all(one.addressType in service.spec.ipFamilies for one in slices) or not is_ours(service):
            return ()  # the first question is quick, and mostly the last
        own = {family.value for family in FAMILIES if cluster_ip(service, family) is not None}
        return tuple(sorted(f"{one.metadata.name} ({one.addressType})" for one in slices if one.addressType not in own))

    def _say(self, service: kinds.Service, what: list[str]) -> None:
        families = " and ".join(family.value for family in FAMILIES if cluster_ip(service, family) is not None)
        self._tell(service, f"ignored, because this Service is {families} only: {', '.join(what)}")


def _key(service: kinds.Service) -> Key:
    return Key(service.metadata.namespace, service.metadata.name)
