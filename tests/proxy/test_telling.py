"""What of a Service nobody answers is told once, in any order of arrival, and not what is only on its way."""

from __future__ import annotations

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.lean import Lean
from twinstack.proxy.telling import Telling

ADDRESSES = {Family.IPV4: "10.96.0.1", Family.IPV6: "fd00:96::1"}


def service(*families: Family, name: str = "s", **spec) -> kinds.Service:
    ips = [ADDRESSES[family] for family in families]
    given = {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": [family.value for family in families], "ports": [{"port": 80}], **spec}
    return view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": name}, "spec": given})


def endpoint_slice(family: Family, service_name: str = "s") -> kinds.EndpointSlice:
    metadata = {"namespace": "ns", "name": f"{service_name}-{family}", "labels": {"kubernetes.io/service-name": service_name}}
    return view_of(kinds.EndpointSlice, {"metadata": metadata, "addressType": family.value, "ports": [{"port": 80}], "endpoints": []})


class World:
    """A catalog, and what was told; time passes when :meth:`pass_time` is called."""

    def __init__(self) -> None:
        self.catalog, self.told, self._due = Catalog(), [], []
        self.telling = Telling(self.catalog, tell=lambda one, message: self.told.append((one.metadata.name, message)), later=self._due.append)

    def service(self, before, after) -> None:
        self.catalog.service_changed(before, after)
        self.telling.service_changed(before, after)

    def slice(self, before, after) -> None:
        for key, _ in self.catalog.slice_changed(before, after):
            self.telling.slices_changed(key)

    def pass_time(self) -> None:
        due, self._due[:] = list(self._due), []
        for look in due:
            look()


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


@pytest.mark.parametrize("first", ["service", "slice"])
@pytest.mark.parametrize("lean", [False, True], ids=["as read", "as kept"])
def test_a_slice_of_a_family_that_its_service_lacks_is_told_once(family, first, lean):
    world, kept = World(), Lean()
    one, stray = service(family), endpoint_slice(family.other)
    if lean:
        one, stray = kept.service(one), kept.slice(stray)
    for what in ((world.service, one), (world.slice, stray)) if first == "service" else ((world.slice, stray), (world.service, one)):
        what[0](None, what[1])
    assert world.told == []
    world.pass_time()
    message = f"ignored, because this Service is {family.value} only: EndpointSlice s-{family.other} ({family.other.value})"
    assert world.told == [("s", message)]
    world.slice(stray, stray)
    world.service(one, one)
    world.pass_time()
    assert world.told == [("s", message)], "again is not news"
    world.slice(stray, None)
    world.pass_time()
    world.slice(None, stray)
    world.pass_time()
    assert world.told == [("s", message)] * 2, "one that comes again is"


def test_a_change_of_families_is_not_told_while_it_is_on_its_way(family):
    world = World()
    world.service(None, service(family))
    world.slice(None, endpoint_slice(family.other))  # the Service became dual-stack, and its slice came first
    world.service(service(family), service(family, family.other))
    world.pass_time()
    world.service(service(family, family.other), service(family))  # and back: its slice goes a moment later
    world.slice(endpoint_slice(family.other), None)
    world.pass_time()
    assert world.told == []


def test_slices_of_a_family_that_the_service_has_and_of_nobodys_service_are_nothing_to_tell():
    world = World()
    world.service(None, service(*FAMILIES))
    for family in FAMILIES:
        world.slice(None, endpoint_slice(family))
        world.slice(None, endpoint_slice(family, "nobody"))
    headless = view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": "h"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}})
    world.service(None, headless)
    world.slice(None, endpoint_slice(Family.IPV6, "h"))
    world.pass_time()
    assert world.told == []


def test_addresses_are_told_at_once_and_again_only_when_they_change(family):
    world = World()
    wrong = {Family.IPV4: "203.0.113.1", Family.IPV6: "2001:db8::1"}[family.other]
    one = service(family, externalIPs=[wrong])
    world.service(None, one)
    world.service(one, one)
    assert world.told == [("s", f"ignored, because this Service is {family.value} only: spec.externalIPs[0] {wrong!r}")]
    world.service(one, service(family, externalIPs=[wrong, wrong]))
    assert len(world.told) == 2
    world.service(one, None)
    assert len(world.told) == 2
