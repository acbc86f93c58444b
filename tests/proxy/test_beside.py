"""Beside others: iptables' tables, other packet filters' and another cluster's proxy stay byte for byte, and we work among them.

``beside.py`` tries the same with a firewalld and a Docker daemon, which nobody wants installed (and started) for tests alone.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client import CollectorRegistry

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.dataplane.ruleset import gone
from twinstack.kernel import namespaces, nftables
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy import proxy
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.ruleset import TABLE, Options, Shape
from twinstack.proxy.services import Place
from twinstack.proxy.sync import FamilySync, NodeState

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

IPS = {Family.IPV4: "10.96.7.{}", Family.IPV6: "fd00:96::7:{:x}"}
WORDS = {Family.IPV4: "iptables-nft", Family.IPV6: "ip6tables-nft"}
NODE_PORT = 30700

# What a Docker, a firewall and somebody's own rules leave in the tables of iptables, by (table, rule).
RULES = [
    ("nat", "-N DOCKER"), ("nat", "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"), ("nat", "-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER"),
    ("nat", "-A DOCKER -p tcp --dport 2375 -j REDIRECT --to-ports 2376"), ("nat", "-A POSTROUTING -o docker0 -m mark --mark 0x1/0x1 -j MASQUERADE"),
    ("filter", "-N DOCKER-USER"), ("filter", "-A FORWARD -j DOCKER-USER"), ("filter", "-A DOCKER-USER -j RETURN"),
    ("filter", "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"), ("filter", "-A INPUT -p tcp --dport 22 -j ACCEPT"),
    ("mangle", "-A PREROUTING -p udp --dport 4789 -j MARK --set-xmark 0x1/0x1"), ("raw", "-A PREROUTING -p tcp --dport 179 -j CT --notrack"),
]  # fmt: skip
NATIVE = """
table inet firewalld {
	set trusted { type ifname; elements = { "cni0" }; }
	chain filter_INPUT { type filter hook input priority filter + 10; policy accept; ct state { established, related } accept; iifname @trusted accept; }
}
table netdev somebody { chain in { comment "attached to nothing"; }; }
table bridge theirs { chain forward { type filter hook forward priority 0; policy accept; }; }
"""


class Node:
    """A node's namespace of the lab, and in it both families' proxies with a Service that changes."""

    def __init__(self, lab, where: str, stack: ExitStack, *, last: int = 1) -> None:
        self.lab, self.path, self.last = lab, lab.paths[where], last
        self.catalog, node = Catalog(), NodeState(Place("node1"))
        node.addresses = {family: (lab.ends[family].node,) for family in FAMILIES}
        self.ruleset = stack.enter_context(nftables.Nftables(self.path))
        stack.callback(lambda: nftables.apply(self.ruleset, [gone(family, TABLE) for family in FAMILIES]))
        self.syncs = {
            family: FamilySync(
                family, Shape(family, Options(pods=("saddr", lab.ends[family].pods))), ruleset=self.ruleset, conntrack=None, catalog=self.catalog, node=node,
                metrics=Metrics(CollectorRegistry()), health=FamilyHealth(60, time.time), now=time.time, min_sync_seconds=0, sync_seconds=30,
            )
            for family in FAMILIES
        }  # fmt: skip
        self._slices: dict[Family, kinds.EndpointSlice] = {}
        addresses = [IPS[family].format(last) for family in FAMILIES]
        spec = {"type": "NodePort", "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": [family.value for family in FAMILIES],
                "ports": [{"port": 80, "nodePort": NODE_PORT}], "sessionAffinity": "ClientIP"}  # fmt: skip
        self.catalog.service_changed(None, view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": "s"}, "spec": spec}))

    async def endpoints(self, pods: str) -> None:
        for family, sync in self.syncs.items():
            after = view_of(kinds.EndpointSlice, {
                "metadata": {"namespace": "ns", "name": f"s-{family}", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": family.value,
                "ports": [{"name": "", "port": 8080}], "endpoints": [{"addresses": [getattr(self.lab.ends[family], pod)]} for pod in pods],
            })  # fmt: skip
            self.catalog.slice_changed(self._slices.get(family), after)
            self._slices[family] = after
            sync.mark(Key("ns", "s"))
            await sync.sync()

    async def write_whole(self) -> None:
        for sync in self.syncs.values():
            sync._whole = True  # as after an hour
            await sync.sync()

    def works(self, answers: str) -> None:
        """Pods and strangers reach the Service in both families."""
        for family in FAMILIES:
            own = self.lab.ends[family]
            for where, address, port in (("a", IPS[family].format(self.last), 80), ("outside", own.node, NODE_PORT), ("node", own.node, NODE_PORT)):
                name, _ = self.lab.ask(where, "tcp", address, port, timeout=3)
                assert name in answers, (family, where)


def others(path: str) -> str:
    """The whole ruleset of a namespace but for our tables, as iptables and as nft tell it."""
    with namespaces.entered(path):
        saved = [subprocess.run([f"{word}-save"], check=True, capture_output=True, text=True).stdout for word in WORDS.values()]
        listed = subprocess.run(["nft", "-a", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    lines = [line for text in saved for line in text.splitlines() if not line.startswith("#")]
    blocks = [block for block in listed.split("\ntable ") if f" {TABLE} " not in block.partition("{")[0]]
    return "\n".join([*lines, *(block.rstrip() for block in blocks)]).replace("\ntable ", "\n").removeprefix("table ")


@contextmanager
def guests(path: str) -> Iterator[None]:
    """Others' rules in a namespace, of iptables and of nft."""
    with namespaces.entered(path):
        for word in WORDS.values():
            for table, rule in RULES:
                subprocess.run([word, "-t", table, *rule.split()], check=True, capture_output=True)
        subprocess.run(["nft", "-f", "-"], input=NATIVE, text=True, check=True)
    try:
        yield
    finally:
        with namespaces.entered(path):
            subprocess.run(["nft", "flush", "ruleset"], check=True)


def write_anew(path: str) -> None:
    """Others' programs write their tables again, and flush them."""
    with namespaces.entered(path):
        for word in WORDS.values():
            saved = subprocess.run([f"{word}-save"], check=True, capture_output=True).stdout
            subprocess.run([f"{word}-restore"], input=saved, check=True)
            subprocess.run([word, "-t", "nat", "-F"], check=True)


async def test_others_tables_stay_byte_for_byte_while_ours_come_change_and_go(lab):
    with guests(lab.paths["node"]), ExitStack() as stack:
        before = others(lab.paths["node"])
        assert "-A DOCKER -p tcp" in before and "trusted" in before and before.count("chain DOCKER-USER") == len(FAMILIES)
        node = Node(lab, "node", stack)
        for step in (lambda: node.endpoints("bc"), lambda: node.endpoints("b"), node.write_whole):
            await step()
            assert others(lab.paths["node"]) == before
            node.works("bc")
        with namespaces.entered(lab.paths["node"]):
            proxy.cleanup()
        assert others(lab.paths["node"]) == before


async def test_we_stay_while_others_are_written_anew(lab):
    with guests(lab.paths["node"]), ExitStack() as stack:
        node = Node(lab, "node", stack)
        await node.endpoints("bc")
        tables = {family: nftables.read_table(node.ruleset, family, TABLE) for family in FAMILIES}
        write_anew(lab.paths["node"])
        node.works("bc")
        learned = {family: nftables.read_table(node.ruleset, family, TABLE) for family in FAMILIES}
        for family in FAMILIES:
            assert learned[family].chains == tables[family].chains and learned[family].sets == tables[family].sets


async def test_another_clusters_proxy_next_door_is_untouched(lab):
    """Two clusters of one machine: each node is a namespace, and its table has the same name."""
    with ExitStack() as stack:
        one, other = Node(lab, "node", stack), Node(lab, "c", stack, last=9)
        await one.endpoints("bc")
        await other.endpoints("c")
        tables = [nftables.read_table(other.ruleset, family, TABLE) for family in FAMILIES]
        await one.endpoints("b")
        await one.write_whole()
        one.works("b")
        with namespaces.entered(lab.paths["node"]):
            proxy.cleanup()
        assert [nftables.read_table(other.ruleset, family, TABLE) for family in FAMILIES] == tables
        assert nftables.read_table(one.ruleset, FAMILIES[0], TABLE) is None
