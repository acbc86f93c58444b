"""How changes reach the kernel: as differences, whole after a refusal, and what is told about it."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.dataplane.ruleset import Goto, Verdict
from twinstack.kernel.errors import KernelError
from twinstack.kernel.fake import FakeNftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth, node_eligible, report
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place, service_ports
from twinstack.proxy.sync import FamilySync, NodeState


def service(name: str, number: int, **spec) -> kinds.Service:
    addresses = [f"10.96.0.{number}", f"fd00:96::{number:x}"]
    given = {"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": ["IPv4", "IPv6"], "ports": [{"port": 80, "protocol": "TCP"}], **spec}
    return view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": name}, "spec": given})


def endpoint_slice(name: str, family: Family, *numbers: int) -> kinds.EndpointSlice:
    base = {Family.IPV4: "10.1.0.{}", Family.IPV6: "fd00:1::{:x}"}[family]
    return view_of(kinds.EndpointSlice, {
        "metadata": {"namespace": "ns", "name": f"{name}-{family}", "labels": {"kubernetes.io/service-name": name}},
        "addressType": family.value, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [base.format(number)]} for number in numbers],
    })  # fmt: skip


class World:
    """A catalog, a fake kernel, and the sync of each family between them."""

    def __init__(self) -> None:
        self.catalog, self.kernel, self.registry = Catalog(), FakeNftables(), CollectorRegistry()
        self.node, self.time = NodeState(Place("here")), 1000.0
        self._metrics = Metrics(self.registry)
        self.syncs = {family: self.make(family) for family in FAMILIES}

    def make(self, family: Family, *, min_sync_seconds: float = 0) -> FamilySync:
        return FamilySync(
            family, Shape(family, Options()), ruleset=self.kernel, conntrack=None, catalog=self.catalog, node=self.node, metrics=self._metrics,
            health=FamilyHealth(60, self.now), now=self.now, min_sync_seconds=min_sync_seconds, sync_seconds=30,
        )  # fmt: skip

    def now(self) -> float:
        return self.time

    def put(self, before: kinds.Service | None, after: kinds.Service | None) -> None:
        key = self.catalog.service_changed(before, after)
        for sync in self.syncs.values():
            sync.mark(key)

    def slice(self, before: kinds.EndpointSlice | None, after: kinds.EndpointSlice | None) -> None:
        for key, family in self.catalog.slice_changed(before, after):
            self.syncs[family].mark(key)

    async def sync(self) -> None:
        for sync in self.syncs.values():
            await sync.sync()

    def elements(self, family: Family, name: str):
        return self.kernel.tables[family, TABLE].elements.get(name, {})

    def metric(self, name: str, family: Family, **labels: str) -> float:
        return self.registry.get_sample_value(f"kubeproxy_{name}", {"ip_family": family.value, **labels})


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


async def test_the_first_sync_writes_everything_and_the_next_only_what_changed(family):
    world = World()
    world.put(None, service("a", 1))
    world.slice(None, endpoint_slice("a", family, 1, 2))
    await world.sync()
    assert set(world.elements(family, "services").values()) == {Goto("pick-2")}
    world.kernel.scripts.clear()
    world.slice(endpoint_slice("a", family, 1, 2), endpoint_slice("a", family, 1, 3))
    await world.sync()
    (script,) = world.kernel.scripts
    assert [line.split()[:2] for line in script.splitlines()] == [["delete", "element"], ["add", "element"]]
    assert world.kernel.tables[family, TABLE] == world.syncs[family].table()


async def test_nothing_changed_is_no_transaction():
    world = World()
    world.put(None, service("a", 1))
    await world.sync()
    world.kernel.scripts.clear()
    world.put(service("a", 1), service("a", 1))
    await world.sync()
    assert world.kernel.scripts == []


async def test_a_service_that_is_gone_leaves_nothing(family):
    world = World()
    await world.sync()
    empty = world.kernel.tables[family, TABLE]
    world.put(None, service("a", 1, type="NodePort", ports=[{"port": 80, "nodePort": 30000}], externalTrafficPolicy="Local"))
    world.slice(None, endpoint_slice("a", family, 1, 2))
    await world.sync()
    assert world.kernel.tables[family, TABLE] != empty
    world.put(service("a", 1), None)
    await world.sync()
    assert world.kernel.tables[family, TABLE] == empty


async def test_a_refused_change_writes_the_whole_table_and_is_counted(family):
    world = World()
    await world.sync()
    world.put(None, service("a", 1))
    world.kernel.fail_next = 1
    await world.syncs[family].sync()
    assert world.kernel.tables[family, TABLE] == world.syncs[family].table()
    assert world.metric("sync_proxy_rules_nftables_sync_failures_total", family) == 1
    assert world.kernel.scripts[-1].splitlines()[1].startswith("delete table")


async def test_a_refused_table_is_written_whole_at_the_next_try(family):
    world = World()
    await world.sync()
    world.put(None, service("a", 1))
    world.kernel.fail_next = 2
    with pytest.raises(KernelError):
        await world.syncs[family].sync()
    await world.syncs[family].sync()
    assert world.kernel.tables[family, TABLE] == world.syncs[family].table()


async def test_more_endpoints_than_the_table_has_room_for_make_it_grow(family):
    world = World()
    world.put(None, service("a", 1))
    await world.sync()
    world.slice(None, endpoint_slice("a", family, *range(1, 41)))
    await world.sync()
    assert set(world.elements(family, "services").values()) == {Goto("pick-40")}
    assert "pick-96" in world.kernel.tables[family, TABLE].chains
    world.slice(endpoint_slice("a", family, *range(1, 41)), endpoint_slice("a", family, *range(1, 52)))
    world.kernel.scripts.clear()
    await world.sync()
    assert not any("delete table" in script for script in world.kernel.scripts)


@pytest.mark.slow
async def test_more_elements_than_a_map_was_declared_for_write_the_whole_table(family):
    def of_ports(count: int) -> kinds.Service:
        return service("a", 1, ports=[{"name": f"p{number}", "port": number, "protocol": "TCP"} for number in range(1, count + 1)])

    world = World()
    sync = world.syncs[family]
    world.put(None, of_ports(10_000))
    await sync.sync()
    for count, whole in ((20_000, False), (20_001, True)):
        world.kernel.scripts.clear()
        world.put(None, of_ports(count))
        await sync.sync()
        (script,) = world.kernel.scripts
        assert ("delete table" in script) is whole
        assert world.kernel.tables[family, TABLE] == sync.table()
    assert world.kernel.tables[family, TABLE].sets["services"].size == 40_002
    assert world.metric("sync_proxy_rules_nftables_sync_failures_total", family) == 0


async def test_a_node_that_moves_concerns_every_service(family):
    world = World()
    world.put(None, service("a", 1, internalTrafficPolicy="Local"))
    one = endpoint_slice("a", family, 1)
    placed = view_of(kinds.EndpointSlice, {
        "metadata": {"namespace": "ns", "name": "s", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": family.value,
        "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": one.endpoints[0].addresses, "nodeName": "there"}],
    })  # fmt: skip
    world.slice(None, placed)
    await world.sync()
    assert world.metric("sync_proxy_rules_no_local_endpoints_total", family, traffic_policy="internal") == 1
    assert list(world.elements(family, "services").values()) == [Verdict("return")]
    world.node.place = Place("there")
    world.syncs[family].mark_everything()
    await world.sync()
    assert list(world.elements(family, "services").values()) == [Goto("pick-1")]
    assert world.metric("sync_proxy_rules_no_local_endpoints_total", family, traffic_policy="internal") == 0


async def test_other_options_make_other_rules_of_the_same_services(family):
    world = World()
    world.put(None, service("a", 1, type="NodePort", ports=[{"port": 80, "nodePort": 30000}], externalTrafficPolicy="Local"))
    world.slice(None, endpoint_slice("a", family, 1))
    await world.sync()
    options = Options(pods=("saddr", {Family.IPV4: "10.1.0.0/24", Family.IPV6: "fd00:1::/64"}[family]))
    world.syncs[family].set_options(options)
    await world.sync()
    ports = service_ports(service("a", 1, type="NodePort", ports=[{"port": 80, "nodePort": 30000}], externalTrafficPolicy="Local"),
                          [endpoint_slice("a", family, 1)], family, Place("here"))  # fmt: skip
    assert world.kernel.tables[family, TABLE] == Shape(family, options).table([port._replace(name="ns/a") for port in ports])


async def test_the_cluster_and_the_node_have_a_part_of_their_own(family):
    world = World()
    address, cidr = {Family.IPV4: ("192.0.2.1", "10.96.0.0/16"), Family.IPV6: ("2001:db8::1", "fd00:96::/112")}[family]
    world.node.addresses = {family: (address, family.facts.loopback)}
    world.node.service_cidrs = {family: (cidr,)}
    await world.sync()
    assert set(world.elements(family, "node-addresses")) == {(address,)}
    assert set(world.elements(family, "service-ranges")) == {(cidr,)}
    world.node.service_cidrs = {}
    world.syncs[family].mark_node()
    await world.sync()
    assert not world.elements(family, "service-ranges")


async def test_two_services_that_claim_one_external_address_do_not_break_the_table():
    world = World()
    for name, number in (("b", 1), ("a", 2)):
        world.put(None, service(name, number, externalIPs=["203.0.113.1"]))
        world.slice(None, endpoint_slice(name, Family.IPV4, number))
    await world.sync()
    assert world.elements(Family.IPV4, "endpoints")["203.0.113.1", "tcp", 80, 0] == ("10.1.0.2", 8080)
    world.put(service("a", 2), None)
    await world.sync()
    assert world.elements(Family.IPV4, "endpoints")["203.0.113.1", "tcp", 80, 0] == ("10.1.0.1", 8080)


async def test_nobody_takes_a_cluster_ip_by_an_external_address():
    world = World()
    world.put(None, service("a", 1, externalIPs=["10.96.0.2"]))
    world.put(None, service("victim", 2))
    for name, number in (("a", 1), ("victim", 2)):
        world.slice(None, endpoint_slice(name, Family.IPV4, number))
    await world.sync()
    assert world.elements(Family.IPV4, "endpoints")["10.96.0.2", "tcp", 80, 0] == ("10.1.0.2", 8080)
    assert world.elements(Family.IPV4, "services")["10.96.0.2", "tcp", 80] == Goto("pick-1")
    world.slice(endpoint_slice("victim", Family.IPV4, 2), None)
    await world.sync()
    assert world.elements(Family.IPV4, "services")["10.96.0.2", "tcp", 80] == Verdict("return")


async def test_changes_in_any_order_end_in_the_same_table():
    ends = []
    one, two = service("a", 1), service("b", 2)
    moves = [(one,), (two,), *((endpoint_slice(name, family, 1, 2),) for name in "ab" for family in FAMILIES)]
    for order in itertools.islice(itertools.permutations(moves), 0, None, 45):
        world = World()
        for (move,) in order:
            (world.put if isinstance(move, kinds.Service) else world.slice)(None, move)
            await world.sync()
        ends.append(dict(world.kernel.tables))
    assert all(end == ends[0] for end in ends)


async def test_a_burst_is_one_transaction_while_it_runs():
    world = World()
    sync = world.syncs[Family.IPV4]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(sync.run())
        await sync.synced.wait()
        world.kernel.scripts.clear()
        for number in range(1, 200):
            key = world.catalog.service_changed(None, service(f"s{number}", number))
            sync.mark(key)
        sync.synced.clear()
        await sync.synced.wait()
        assert len(world.kernel.scripts) == 1
        running.cancel()


async def test_a_burst_of_a_thousand_changed_slices_is_two_transactions_at_most():
    """They come as from a watch, some at a time; the first of them are written at once, the others together."""
    world = World()
    family = Family.IPV6
    before = {number: endpoint_slice(f"s{number}", family, number % 200) for number in range(1000)}
    for number, one in before.items():
        world.put(None, service(f"s{number}", number))
        world.slice(None, one)
    sync = world.make(family, min_sync_seconds=0.5)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(sync.run())
        await sync.synced.wait()
        world.kernel.scripts.clear()
        for number, one in before.items():
            for key, _ in world.catalog.slice_changed(one, endpoint_slice(f"s{number}", family, 200)):
                sync.mark(key, endpoints=True)
            if number % 50 == 49:
                await asyncio.sleep(0)
        base = "fd00:1::c8"
        async with asyncio.timeout(20):
            while {value[0] for value in world.elements(family, "endpoints").values()} != {base}:
                sync.synced.clear()
                await sync.synced.wait()
        assert len(world.kernel.scripts) <= 2
        running.cancel()


def test_a_family_is_unhealthy_when_a_change_waits_too_long():
    time = 100.0
    health = {family: FamilyHealth(60, lambda: time) for family in FAMILIES}
    health[Family.IPV6].queued()
    time = 150.0
    assert report(health, now=time, eligible=True)[0] == 200
    time = 161.0
    code, body = report(health, now=time, eligible=True)
    assert code == 503 and not body["healthy"] and body["nodeEligible"]
    assert body["status"]["IPv4"]["healthy"] and not body["status"]["IPv6"]["healthy"]
    assert body["lastUpdated"] == "1970-01-01T00:01:40Z" and body["currentTime"] == "1970-01-01T00:02:41Z"
    health[Family.IPV6].synced(161.0)
    assert report(health, now=time, eligible=None) == (200, {
        "lastUpdated": "1970-01-01T00:02:41Z", "currentTime": "1970-01-01T00:02:41Z", "healthy": True,
        "status": {family.value: {"lastUpdated": "1970-01-01T00:02:41Z", "healthy": True} for family in FAMILIES},
    })  # fmt: skip


def test_a_change_that_came_during_a_sync_still_waits():
    time = 100.0
    health = FamilyHealth(60, lambda: time)
    began = time
    time = 101.0
    health.queued()
    health.synced(began)
    time = 170.0
    assert not health.healthy


@pytest.mark.parametrize("metadata, taints, eligible", [
    ({}, [], True), ({}, [{"key": "other"}], True), ({}, [{"key": "ToBeDeletedByClusterAutoscaler"}], False),
    ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, [], False),
])  # fmt: skip
def test_a_node_that_goes_is_not_eligible(metadata, taints, eligible):
    node = view_of(kinds.Node, {"metadata": {"name": "n", **metadata}, "spec": {"taints": taints}})
    assert node_eligible(node) is eligible
    assert not node_eligible(None)


def test_slices_of_names_and_of_no_service_touch_nothing():
    catalog = Catalog()
    one = endpoint_slice("a", Family.IPV4, 1)
    assert catalog.slice_changed(None, one) == [(Key("ns", "a"), Family.IPV4)]
    fqdn = view_of(kinds.EndpointSlice, {"metadata": {"namespace": "ns", "name": "x", "labels": {"kubernetes.io/service-name": "a"}}, "addressType": "FQDN"})
    loose = view_of(kinds.EndpointSlice, {"metadata": {"namespace": "ns", "name": "y"}, "addressType": "IPv4"})
    assert catalog.slice_changed(None, fqdn) == catalog.slice_changed(None, loose) == []
    assert catalog.slice_changed(one, None) == [(Key("ns", "a"), Family.IPV4)]
    assert list(catalog.slices(Key("ns", "a"))) == []


async def test_what_was_learned_of_an_endpoint_goes_in_the_transaction_that_takes_it_out(family):
    world = World()
    world.put(None, service("a", 1, sessionAffinity="ClientIP"))
    world.slice(None, endpoint_slice("a", family, 1, 2))
    await world.sync()
    assert len(world.kernel.scripts) == len(FAMILIES), "the table and its rules that teach are one transaction"
    table = world.kernel.tables[family, TABLE]
    ((number,),) = set(table.elements["ids"].values())
    stays, goes = (view[0] for view in (endpoint_slice("a", family, one).endpoints[0].addresses for one in (1, 2)))
    taught = {"affinity": {(7, number): (stays,), (8, number): (goes,)}, "affinity-ports": {(7, number): (8080,), (8, number): (8080,)}}
    world.kernel.tables[family, TABLE] = replace(table, elements={**table.elements, **taught})
    world.kernel.scripts.clear()
    world.slice(endpoint_slice("a", family, 1, 2), endpoint_slice("a", family, 1))
    await world.syncs[family].sync()
    (script,) = world.kernel.scripts
    gone = [line.split()[4] for line in script.splitlines() if line.startswith("delete element")]
    assert sorted(gone) == ["affinity", "affinity-ports", "endpoints", "services", "serving"]
    assert world.elements(family, "affinity") == {(7, number): (stays,)}
    assert world.elements(family, "affinity-ports") == {(7, number): (8080,)}
