"""What rules have taught a map, read back."""

from __future__ import annotations

import errno
import socket
import subprocess

import pytest

from twinstack.dataplane.ruleset import AddChain, AddLearned, AddRule, AddSet, AddTable, DeleteElements, Hook, Learned, Map, Match, Steps, Tag, Update
from twinstack.kernel import namespaces, nftables
from twinstack.kernel.errors import KernelError
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

DYNAMIC = ("dynamic", "timeout")
ADDRESSES = Map("addresses", ("numgen random mod 65536", "tag"), ("daddr",), DYNAMIC, size=1000)
PORTS = Map("ports", ("numgen random mod 65536", "tag"), ("dport",), DYNAMIC, size=1000)
KEY = ("client", "tag")
TEACH = (
    Match(("l4proto",), "{ tcp, udp, sctp }"),
    Tag(("daddr", "l4proto", "dport"), "ids"),
    Update("addresses", KEY, ("daddr",), 90),
    Update("ports", KEY, ("dport",), 90),
)
IDS = Map("ids", ("daddr", "l4proto", "dport"), ("tag",))

pytestmark = pytest.mark.kernel


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


def steps(family: Family, *more) -> Steps:
    return Steps(family, "t", (AddTable(), *map(AddSet, (ADDRESSES, PORTS, IDS)), AddChain("learn"), *more))


def entries(family: Family, count: int) -> tuple[Learned, ...]:
    base = parse_address(family.facts.documentation)
    return tuple(Learned((7 * i, f"{1 + i:x}:beef"), (str(base + 1000 + i),), 600, 300) for i in range(count))


def test_the_kernel_lists_a_rule_that_teaches_as_it_was_meant(netns, family):
    with nftables.Nftables(netns("teach")) as ruleset:
        nftables.apply(ruleset, steps(family, AddRule("learn", TEACH)))
        table = nftables.read_table(ruleset, family, "t")
        assert table is not None and table.chains["learn"].rules == (TEACH,)
        assert table.sets == {"addresses": ADDRESSES, "ports": PORTS, "ids": IDS}


@pytest.mark.slow
def test_what_was_put_in_is_read_whole_and_goes(netns, family):
    some = entries(family, 900)
    with nftables.Nftables(netns("read")) as ruleset:
        nftables.apply(ruleset, steps(family, AddLearned("addresses", some)))
        found = ruleset.learned(family, "t", ADDRESSES)
        assert {(one.key, one.value, one.timeout_seconds) for one in found} == {(one.key, one.value, 600) for one in some}
        assert all(250 < one.expires_seconds <= 300 for one in found)
        again = Steps(family, "t", (AddLearned("addresses", some[:2]), DeleteElements("addresses", tuple(one.key for one in some[:2]))))
        nftables.apply(ruleset, again)
        assert len(ruleset.learned(family, "t", ADDRESSES)) == 898


def test_what_a_packet_taught_is_read_and_can_be_taken_out(netns, family):
    """The key that the kernel made of a packet and the one that is written as text are the same."""
    path, own = netns("packet"), family.facts.loopback
    with nftables.Nftables(path) as ruleset, namespaces.entered(path):
        ruleset.run(f"add table {family.facts.nft_family} t\n")
        hooked = (AddChain("sent", Hook("filter", "output", 0)), AddRule("sent", TEACH))
        nftables.apply(ruleset, steps(family, *hooked))
        ruleset.run(f"add element {family.facts.nft_family} t ids {{ {own} . udp . 53 : 12:3456 }}\n")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with socket.socket(family.facts.socket_family, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", (own, 53))
        (address,), (port,) = ruleset.learned(family, "t", ADDRESSES), ruleset.learned(family, "t", PORTS)
        assert address.key == port.key and address.key[1] == "12:3456"
        assert (address.value, port.value) == ((own,), (53,))
        nftables.apply(ruleset, Steps(family, "t", (DeleteElements("addresses", (address.key,)), DeleteElements("ports", (port.key,)))))
        assert ruleset.learned(family, "t", ADDRESSES) == ruleset.learned(family, "t", PORTS) == []


def test_a_map_that_is_not_there_is_missing(netns, family):
    with nftables.Nftables(netns("missing")) as ruleset:
        with pytest.raises(KernelError) as missing:
            ruleset.learned(family, "t", ADDRESSES)
        assert missing.value.missing and missing.value.errno == errno.ENOENT
