"""Session affinity: a client stays with its endpoint, as long as that serves and the client comes back in time. Tried with traffic."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.dataplane.ruleset import AddLearned, DeleteElements, Learned, Table, gone
from twinstack.dataplane.trace import Packet, trace
from twinstack.kernel import nftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.affinity import forgetting, joined, poorer, remembering, sticky_lists, true, untrue
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.ids import Ids
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.recalling import AFFINITY, AFFINITY_PORTS
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place, ServicePort
from twinstack.proxy.sync import FamilySync, NodeState

IPS = {Family.IPV4: "10.96.2.{}", Family.IPV6: "fd00:96::2:{:x}"}
VIPS = {Family.IPV4: "203.0.113.2", Family.IPV6: "2001:db8:113::2"}
NAMES = "abc"


def service(seconds: int = 0, **spec: object) -> kinds.Service:
    addresses = [IPS[family].format(1) for family in FAMILIES]
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}} if seconds else {}
    ports = [{"name": "t", "protocol": "TCP", "port": 80, "nodePort": 30180}, {"name": "u", "protocol": "UDP", "port": 53, "nodePort": 30153}]
    return view_of(kinds.Service, {
        "metadata": {"namespace": "ns", "name": "s"},
        "spec": {"clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": [family.value for family in FAMILIES], "ports": ports,
                 "type": "NodePort", "externalIPs": list(VIPS.values()), **affinity, **spec},
    })  # fmt: skip


def endpoint_slice(family: Family, ends: object, pods: str) -> kinds.EndpointSlice:
    return view_of(kinds.EndpointSlice, {
        "metadata": {"namespace": "ns", "name": f"s-{family}", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": family.value,
        "ports": [{"name": "t", "protocol": "TCP", "port": 8080}, {"name": "u", "protocol": "UDP", "port": 5353}],
        "endpoints": [{"addresses": [getattr(ends, pod)], "nodeName": "far" if pod == "c" else "node1"} for pod in pods],
    })  # fmt: skip


class Running:
    """One family's sync, on the node of the lab."""

    def __init__(self, lab, family: Family, stack: ExitStack) -> None:
        self.lab, self.family, self.catalog, self.node = lab, family, Catalog(), NodeState(Place("node1"))
        self.node.addresses = {family: (lab.ends[family].node,)}
        self.ruleset = stack.enter_context(nftables.Nftables(lab.paths["node"]))
        stack.callback(lambda: nftables.apply(self.ruleset, gone(family, TABLE)))
        self.make = lambda: FamilySync(
            family, Shape(family, Options(pods=("saddr", lab.ends[family].pods))), ruleset=self.ruleset, conntrack=None, catalog=self.catalog,
            node=self.node, metrics=self.metrics(), health=FamilyHealth(60, time.time), now=time.time, min_sync_seconds=0, sync_seconds=30,
        )  # fmt: skip
        self.sync = self.make()
        self._service: kinds.Service | None = None
        self._slice: kinds.EndpointSlice | None = None

    def metrics(self) -> Metrics:
        self.registry = CollectorRegistry()
        return Metrics(self.registry)

    async def wants(self, one: kinds.Service | None, pods: str) -> None:
        after = endpoint_slice(self.family, self.lab.ends[self.family], pods)
        self.catalog.service_changed(self._service, one)
        self.catalog.slice_changed(self._slice, after)
        self._service, self._slice = one, after
        self.sync.mark(Key("ns", "s"))
        await self.sync.sync()

    def asks(self, where: str, to: str = "cluster", times: int = 6, protocol: str = "tcp") -> set[str]:
        """Who answers so many connections of a client."""
        own = self.lab.ends[self.family]
        port = {("tcp", "node"): 30180, ("udp", "node"): 30153}.get((protocol, to), 80 if protocol == "tcp" else 53)
        address = {"cluster": IPS[self.family].format(1), "node": own.node, "external": VIPS[self.family]}[to]
        return {self.lab.ask(where, protocol, address, port, timeout=1)[0] for _ in range(times)}

    def learned(self) -> list[str]:
        """Who was learned of: an endpoint for each client of each list."""
        own = self.lab.ends[self.family]
        pods = {getattr(own, name): name for name in NAMES}
        addresses, ports = (self.ruleset.learned(self.family, TABLE, one) for one in (AFFINITY, AFFINITY_PORTS))
        assert {one.key for one in addresses} == {one.key for one in ports}
        assert {one.value for one in ports} <= {(8080,), (5353,)}
        return [pods[str(one.value[0])] for one in addresses]


@pytest.fixture
def running(lab, family):
    with ExitStack() as stack:
        yield Running(lab, family, stack)


kernel = pytest.mark.kernel
slow = pytest.mark.slow


@kernel
@slow
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("where, to", [("a", "cluster"), ("node", "cluster"), ("c", "cluster"), ("outside", "node"), ("outside", "external"), ("a", "node")])
async def test_connections_of_a_client_stay_with_one_endpoint(running, where, to, protocol):
    await running.wants(service(3600), "abc")
    answers = {frozenset(running.asks(where, to, protocol=protocol)) for _ in range(2)}
    assert len(answers) == 1 and len(next(iter(answers))) == 1
    assert next(iter(next(iter(answers)))) in set(NAMES)


@kernel
@slow
@pytest.mark.parametrize("where", ["a", "outside", "node"])
async def test_a_client_has_one_endpoint_over_all_addresses_of_a_port_and_another_for_another_port(running, where):
    await running.wants(service(3600), "abc")
    (mine,) = running.asks(where, "external", times=1)
    for to in ("cluster", "node", "external", "cluster"):
        assert running.asks(where, to) == {mine}
    assert len(running.learned()) == 1
    running.asks(where, "cluster", protocol="udp", times=1)
    assert len(running.learned()) == 2, "the other port remembers by itself"


@kernel
@slow
async def test_changes_of_other_endpoints_do_not_move_it_and_its_own_end_does(running):
    await running.wants(service(3600), "abc")
    (mine,) = running.asks("outside", "node")
    others = [name for name in NAMES if name != mine]
    for pods in (mine + others[0], mine + others[1], mine, mine + "".join(others)):
        await running.wants(service(3600), "".join(sorted(pods)))
        assert running.asks("outside", "node") == {mine}
    await running.wants(service(3600), "".join(others))
    assert mine not in running.learned()
    (next_,) = running.asks("outside", "node")
    assert next_ in others
    await running.wants(service(3600), "abc")
    assert running.asks("outside", "node") == {next_}, "coming back, it does not get its old clients back"


@kernel
@slow
async def test_a_restart_and_a_whole_write_keep_what_was_learned_and_drop_what_is_untrue(running):
    await running.wants(service(3600), "abc")
    (mine,) = running.asks("a")
    running.sync = running.make()  # a new proxy, which knows nothing of what stands
    await running.sync.sync()
    assert running.learned() == [mine]
    assert running.asks("a") == {mine}
    running.sync = running.make()
    await running.wants(service(3600), "".join(name for name in NAMES if name != mine))
    assert running.learned() == []


@kernel
@slow
async def test_without_affinity_it_spreads_again_and_later_affinity_begins_anew(running):
    await running.wants(service(3600), "abc")
    (mine,) = running.asks("a")
    await running.wants(service(), "abc")
    assert running.learned() == []
    assert len(running.asks("a", times=40)) == 3
    await running.wants(service(3600), "".join(name for name in NAMES if name != mine))
    assert len(running.asks("a")) == 1


@kernel
@slow
async def test_after_its_timeout_a_client_is_forgotten_and_each_connection_starts_it_anew(running):
    await running.wants(service(2), "abc")
    (mine,) = running.asks("a")
    for _ in range(3):
        await asyncio.sleep(1.0)
        assert running.asks("a", times=1) == {mine}
    await asyncio.sleep(2.1)
    assert running.learned() == []
    assert len({name for _ in range(30) for name in await forgotten(running)}) > 1


async def forgotten(running) -> set[str]:
    """Who answers one connection; what is learned of it is taken out."""
    found = running.asks("a", times=1)
    running.ruleset.run("".join(f"flush map {running.family.facts.nft_family} {TABLE} {one.name}\n" for one in (AFFINITY, AFFINITY_PORTS)))
    return found


@kernel
@slow
async def test_a_local_policy_keeps_its_ways(running):
    await running.wants(service(3600, externalTrafficPolicy="Local"), "bc")
    assert running.asks("outside", "node") == {"b"}, "a stranger stays on this node"
    assert len(running.asks("a", "node")) == 1
    assert "b" in running.learned()


@kernel
@slow
async def test_a_refused_change_writes_the_whole_table_with_what_was_learned(running):
    await running.wants(service(3600), "abc")
    (mine,) = running.asks("a")
    running.ruleset.run(f"delete table {running.family.facts.nft_family} {TABLE}\n")
    await running.wants(service(3600), mine)
    assert running.asks("a") == {mine}
    assert running.registry.get_sample_value("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", {"ip_family": running.family.value}) == 1


def port(**given: object) -> ServicePort:
    base = {
        "name": "ns/s", "protocol": "tcp", "address": "10.0.0.1", "port": 80, "node_port": 30000, "externals": ("203.0.113.1",), "balancers": (),
        "sources": None, "cluster": (("10.1.0.1", 8080), ("10.1.0.2", 8080)), "local": (), "exists": True, "internal_local": False,
        "external_local": False, "affinity_seconds": 60, "here": frozenset(),
    }  # fmt: skip
    return ServicePort(**{**base, **given})


A, B, C = (("10.1.0.1", 8080), ("10.1.0.2", 8080), ("10.1.0.3", 8080))


ALL, HERE = (Ids().of(name) for name in ("ns/s/tcp", "ns/s/tcp/local"))


@pytest.mark.parametrize("given, lists", [
    ({"affinity_seconds": 0}, {}),
    ({}, {ALL: {A, B}}),
    ({"internal_local": True, "local": (C,), "externals": (), "node_port": 0}, {ALL: {A, B}, HERE: {C}}),
    ({"external_local": True, "local": (C,), "externals": ()}, {ALL: {A, B}, HERE: {C}}),
])  # fmt: skip
def test_who_may_be_remembered(given, lists):
    assert sticky_lists([port(**given)], Ids()) == lists


def test_what_is_untrue_is_what_names_an_endpoint_that_may_not_serve():
    before, after = (sticky_lists([port(cluster=some)], Ids()) for some in ((A, B), (B, C)))
    lost = poorer(before, after)
    assert lost == dict(after)
    assert poorer(before, before) == poorer({}, after) == {}
    assert poorer(before, {}) == dict.fromkeys(before, frozenset())
    entries = [Learned((client, number), backend, 60, 30) for client, number, backend in ((1, ALL, A), (2, ALL, B), (1, HERE, A), (1, "9:9", A))]
    assert untrue(entries, lost) == [entries[0]]
    assert true(entries, after) == [entries[1]]
    assert remembering([]) == forgetting([]) == ()
    first, second, *out = forgetting(entries[:1])
    assert [type(one) for one in (first, second)] == [AddLearned] * 2
    assert [(type(one), one.set, one.keys) for one in out] == [(DeleteElements, name, (entries[0].key,)) for name in ("affinity", "affinity-ports")]
    assert joined(first.elements, second.elements) == entries[:1]
    assert joined(first.elements, ()) == joined((), second.elements) == []


FRONTS = [("10.0.0.1", 80), ("203.0.113.1", 80), ("192.0.2.9", 30000)]


@pytest.mark.parametrize("front", FRONTS, ids=["cluster IP", "external IP", "node port"])
def test_the_tracer_follows_what_was_learned_whatever_address_it_was_learned_at(front):
    table = Shape(Family.IPV4, Options()).table([port()], node_addresses=["192.0.2.9"])
    packet = Packet("10.9.0.1", "tcp", *front, "eth0")
    assert {outcome.destination for outcome in trace([table], packet, local=frozenset(["192.0.2.9"]))} == {A[0], B[0]}
    remembered = {
        AFFINITY.name: {("10.9.0.1", ALL): B[:1], ("10.9.0.2", ALL): A[:1], ("10.9.0.1", HERE): A[:1]},
        AFFINITY_PORTS.name: {("10.9.0.1", ALL): B[1:], ("10.9.0.2", ALL): A[1:], ("10.9.0.1", HERE): A[1:]},
    }
    taught = Table(table.family, table.name, table.chains, table.sets, {**table.elements, **remembered})
    assert {(outcome.destination, outcome.port) for outcome in trace([taught], packet, local=frozenset(["192.0.2.9"]))} == {B}


@pytest.mark.parametrize("chosen, learns", [(ALL, True), (HERE, False), ("9:9", False)], ids=["its own", "another list", "nobody's"])
def test_an_endpoint_is_learned_of_its_own_list_alone(chosen, learns):
    """Connections are told apart by a hash; were two alike, the note of one would be taken for the other's."""
    table = Shape(Family.IPV4, Options()).table([port(external_local=True, local=(C,))])
    taught = Table(table.family, table.name, table.chains, table.sets, {**table.elements, "chosen": {(1,): (chosen,)}})
    outcomes = trace([taught], Packet("10.9.0.1", "tcp", "10.0.0.1", 80, "eth0"), local=frozenset())
    assert {outcome.destination for outcome in outcomes} == {A[0], B[0]}
    assert {any("update @affinity " in step for step in outcome.path) for outcome in outcomes} == {learns}


def test_no_two_lists_have_one_number_and_each_keeps_its_own():
    ids = Ids()
    names = [f"ns/s{i}/tcp{end}" for i in range(70_000) for end in ("", "/local")]
    numbers = [ids.of(name) for name in names]
    assert len(set(numbers)) == len(names)
    assert [ids.of(name) for name in names[:100]] == numbers[:100] == [Ids().of(name) for name in names[:100]]
    assert all(part.strip("0") and part not in ("ffff",) for number in numbers for part in number.split(":"))


def test_a_table_without_affinity_has_nothing_of_it():
    plain = Shape(Family.IPV4, Options())
    assert AFFINITY.name not in plain.table([port(affinity_seconds=0)]).sets
    sticky = plain.fitting([port()])
    assert sticky.sticky and sticky.fitting([port(affinity_seconds=0)]) is sticky
    assert {name for name in plain.table([port()]).chains if name.startswith("learn")} == {"learn", "learn-60", "learn-postrouting", "learn-input"}
    assert {name for name in plain.table([port()]).chains if "recall" in name} == {"recall", "recall-local", "node-recall", "node-recall-local"}
