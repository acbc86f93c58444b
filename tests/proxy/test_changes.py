"""Any sequence of events, applied as differences, ends in the kernel where a whole write ends. The kernel judges, and the fake beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.dataplane.ruleset import Table, gone, whole
from twinstack.kernel import nftables
from twinstack.kernel.fake import FakeNftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place
from twinstack.proxy.sync import FamilySync, NodeState

NAMES = "abcd"
BASES = {Family.IPV4: ("10.96.4.{}", "10.1.4.{}", "203.0.113.{}"), Family.IPV6: ("fd00:96::4:{:x}", "fd00:1::4:{:x}", "2001:db8:113::{:x}")}

names = st.sampled_from(NAMES)
services = st.tuples(
    st.just("service"), names,
    st.none() | st.fixed_dictionaries({
        "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
        "internalTrafficPolicy": st.sampled_from(["Cluster", "Local"]), "externalTrafficPolicy": st.sampled_from(["Cluster", "Local"]),
        "external": st.none() | st.integers(1, 2), "node_port": st.sampled_from([0, 30301, 30302]), "protocol": st.sampled_from(["TCP", "UDP", "SCTP"]),
        "ranges": st.booleans(),
    }),
)  # fmt: skip
slices = st.tuples(
    st.just("slice"), names, st.none() | st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.booleans()), max_size=36, unique_by=lambda one: one[0])
)
others = st.tuples(st.sampled_from(["node", "cidrs", "pods"]), st.integers(1, 3), st.none())
events = st.lists(services | slices | others | st.tuples(st.just("sync"), st.none(), st.none()), max_size=14)


class World:
    """The state of a cluster, told to the syncs of two kernels."""

    def __init__(self, family: Family, rulesets: list[nftables.Ruleset]) -> None:
        self.family, self.catalog, self.node = family, Catalog(), NodeState(Place("here"))
        self.options = self._options(1)
        self.make: Callable[[nftables.Ruleset], FamilySync] = lambda ruleset: FamilySync(
            family, Shape(family, self.options), ruleset=ruleset, conntrack=None, catalog=self.catalog, node=self.node,
            metrics=Metrics(CollectorRegistry()), health=FamilyHealth(60, time.time), now=time.time, min_sync_seconds=0, sync_seconds=30,
        )  # fmt: skip
        self.syncs = [self.make(ruleset) for ruleset in rulesets]
        self._slices: dict[str, kinds.EndpointSlice] = {}

    def _options(self, number: int) -> Options:
        return Options(pods=("saddr", {Family.IPV4: f"10.{number}.0.0/16", Family.IPV6: f"fd00:{number}::/64"}[self.family]))

    def tell(self, what: str, which: Any, how: Any) -> None:
        family = self.family
        cluster, pod, outer = BASES[family]
        if what == "service":
            before = self.catalog.services.get(Key("ns", which))
            self._mark(self.catalog.service_changed(before, self._service(which, how, cluster, outer) if how else None))
        elif what == "slice":
            after = self._slice(which, how, pod) if how is not None else None
            for key, _ in self.catalog.slice_changed(self._slices.pop(which, None), after):
                self._mark(key)
            if after is not None:
                self._slices[which] = after
        elif what == "node":
            self.node.place, self.node.addresses = Place("here" if which == 1 else "there"), {family: (outer.format(200 + which),)}
            for sync in self.syncs:
                sync.mark_everything()
        elif what == "cidrs":
            self.node.service_cidrs = {family: ({Family.IPV4: f"10.{95 + which}.0.0/16", Family.IPV6: f"fd00:{95 + which}::/112"}[family],)}
            for sync in self.syncs:
                sync.mark_node()
        else:
            self.options = self._options(which)
            for sync in self.syncs:
                sync.set_options(self.options)

    def _mark(self, key: Key | None) -> None:
        if key is not None:
            for sync in self.syncs:
                sync.mark(key)

    def _service(self, name: str, how: dict, cluster: str, outer: str) -> kinds.Service:
        address = cluster.format(1 + NAMES.index(name))
        spec = {key: how[key] for key in ("type", "sessionAffinity", "internalTrafficPolicy", "externalTrafficPolicy")}
        port = {"name": "p", "port": 80, "protocol": how["protocol"], "nodePort": how["node_port"] if how["type"] != "ClusterIP" else 0}
        ranges = [{Family.IPV4: "10.0.0.0/8", Family.IPV6: "fd00::/8"}[self.family]] if how["ranges"] else []
        return view_of(kinds.Service, {
            "metadata": {"namespace": "ns", "name": name},
            "spec": {**spec, "clusterIP": address, "clusterIPs": [address], "ipFamilies": [self.family.value], "ports": [port],
                     "externalIPs": [outer.format(how["external"])] if how["external"] else [], "loadBalancerSourceRanges": ranges},
            "status": {"loadBalancer": {"ingress": [{"ip": outer.format(100 + NAMES.index(name))}] if how["type"] == "LoadBalancer" else []}},
        })  # fmt: skip

    def _slice(self, name: str, endpoints: list, pod: str) -> kinds.EndpointSlice:
        return view_of(kinds.EndpointSlice, {
            "metadata": {"namespace": "ns", "name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}}, "addressType": self.family.value,
            "ports": [{"name": "p", "port": 8080, "protocol": protocol} for protocol in ("TCP", "UDP", "SCTP")],
            "endpoints": [{"addresses": [pod.format(number)], "nodeName": "here" if here else "there", "conditions": {"ready": ready}}
                          for number, here, ready in endpoints],
        })  # fmt: skip


@pytest.mark.kernel
@pytest.mark.slow
def test_differences_end_where_a_whole_write_ends(lab, family):
    fake = FakeNftables()
    with nftables.Nftables(lab.paths["b"]) as ruleset:

        @settings(max_examples=60, deadline=None)
        @given(events)
        def holds(some) -> None:
            nftables.apply(ruleset, gone(family, TABLE))
            fake.tables.clear()

            async def scenario() -> None:
                world = World(family, [ruleset, fake])
                for event in (*some, ("sync", None, None)):
                    if event[0] == "sync":
                        for sync in world.syncs:
                            await sync.sync()
                    else:
                        world.tell(*event)
                by_differences = nftables.read_table(ruleset, family, TABLE)
                anew = world.make(fake)
                await anew.make()
                wanted = _trimmed(anew.table(), world.syncs[0].table())
                assert _trimmed(world.syncs[0].table(), wanted) == wanted, "the value"
                assert by_differences == world.syncs[0].table() == fake.tables[family, TABLE], "the kernels"
                nftables.apply(ruleset, whole(world.syncs[0].table()))
                assert nftables.read_table(ruleset, family, TABLE) == by_differences, "a whole write"

            asyncio.run(scenario())

        holds()
        nftables.apply(ruleset, gone(family, TABLE))


def _trimmed(table: Table, other: Table) -> Table:
    """The table without the frame's chains and sets that the other lacks: one that once needed more room keeps it."""
    chains = {name: chain for name, chain in table.chains.items() if name in other.chains}
    sets = {name: one for name, one in table.sets.items() if name in other.sets}
    return Table(table.family, table.name, chains, sets, {name: dict(held) for name, held in table.elements.items() if name in sets})


def test_the_families_are_both_tried():
    assert set(BASES) == set(FAMILIES)
