"""Stale UDP flows are forgotten; all others stay."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import ExitStack

import pytest

from twinstack.kernel import namespaces, nftables
from twinstack.kernel.conntrack import Conntrack, Stale
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES

pytestmark = pytest.mark.kernel


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


@pytest.fixture
def tracked(netns, family):
    """Connection tracking in a namespace where port 53 of the loopback is translated to 5353, with three flows to 53 and one to 54."""
    path, word, loopback = netns("ct"), family.facts.nft_family, family.facts.loopback
    with ExitStack() as stack:
        with namespaces.entered(path):
            conntrack = Conntrack()
        stack.callback(conntrack.close)
        _up(path)
        ruleset = stack.enter_context(nftables.Nftables(path))
        ruleset.run(f"add table {word} x\nadd chain {word} x o {{ type nat hook output priority -100; }}\nadd rule {word} x o udp dport 53 dnat to :5353\n")
        for port in (53, 53, 53, 54):
            one = stack.enter_context(namespaces.socket_in(path, family.facts.socket_family, socket.SOCK_DGRAM))
            one.connect((loopback, port))
            one.send(b"?")
        yield conntrack


def _up(path: str) -> None:
    subprocess.run(["ip", "-n", path.rpartition("/")[2], "link", "set", "lo", "up"], check=True)


def ports(conntrack, family):
    return sorted((flow.port, flow.answers_port) for flow in conntrack.flows(family))


def test_flows_tell_where_they_went_and_who_answers(tracked, family):
    assert ports(tracked, family) == [(53, 5353)] * 3 + [(54, 54)]
    assert {(flow.destination, flow.answers) for flow in tracked.flows(family)} == {(family.facts.loopback, family.facts.loopback)}


@pytest.mark.parametrize(
    "stale, left",
    [
        pytest.param(Stale("lo", 53, "lo", 5353), [(54, 54)], id="the flows of a front end and an endpoint"),
        pytest.param(Stale("", 53, "lo", 5353), [(54, 54)], id="the flows of a node port"),
        pytest.param(Stale("", 54, "", 54), [(53, 5353)] * 3, id="the flows that nobody translated"),
        pytest.param(Stale("lo", 53, "lo", 9999), [(53, 5353)] * 3 + [(54, 54)], id="none, when another endpoint is gone"),
        pytest.param(Stale("lo", 53, "other", 5353), [(53, 5353)] * 3 + [(54, 54)], id="none, when an endpoint of another address is gone"),
        pytest.param(Stale("other", 53, "lo", 5353), [(53, 5353)] * 3 + [(54, 54)], id="none, when another front end is meant"),
    ],
)
def test_forgotten_are(tracked, family, stale, left):
    known = {"lo": family.facts.loopback, "other": str(family.address(1000)), "": ""}
    tracked.forget(family, [stale._replace(destination=known[stale.destination], answers=known[stale.answers])])
    assert ports(tracked, family) == left


def test_many_ports_are_forgotten_by_one_list(tracked, family):
    tracked.forget(family, [Stale("", port, "", 0) for port in range(40, 80)])
    assert ports(tracked, family) == []


def test_the_other_family_is_left_alone(tracked, family):
    tracked.forget(family.other, [Stale("", 53, "", 0)])
    assert len(tracked.flows(family)) == 4


def test_a_flow_that_ended_meanwhile_is_a_success(tracked, family):
    flows = tracked.flows(family)
    tracked.forget_flows(family, flows)
    tracked.forget_flows(family, flows)
    assert tracked.flows(family) == []


def test_two_threads_do_not_read_each_others_answers(tracked, family):
    """As the two families' syncs do: each thread asks and forgets beside the other."""
    failures: list[BaseException] = []

    def ask(which):
        try:
            for _ in range(60):
                tracked.flows(which)
                tracked.forget(which, [Stale("", 9, "", 9)])
        except BaseException as error:  # a thread's failure is told below
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(which,), daemon=True) for which in FAMILIES]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert not failures and not any(one.is_alive() for one in threads)
    assert len(tracked.flows(family)) == 4


def test_sctp_is_a_protocol_like_another(tracked, family):
    """The kernel here has no SCTP sockets, but tracks what it is told."""
    namespace = f"tst-{os.getpid()}-ct"
    client, front, near, far = (str(parse_address(family.facts.documentation) + number) for number in range(4))
    for source_port, endpoint in ((1001, near), (1002, near), (1003, far)):
        flow = ["-s", client, "-d", front, "-r", endpoint, "-q", client, "--sport", str(source_port), "--dport", "99", "--reply-port-src", "9999"]
        told = ["--reply-port-dst", str(source_port), "-t", "100", "--state", "ESTABLISHED", "--orig-vtag", "1", "--reply-vtag", "1"]
        subprocess.run(["ip", "netns", "exec", namespace, "conntrack", "-I", "-p", "sctp", *flow, *told], check=True, capture_output=True)
    assert tracked.forget(family, [Stale(front, 99, near, 9999)]) == 0, "UDP is another protocol"
    assert tracked.forget(family, [Stale(front, 99, near, 9999, "sctp")]) == 2
    assert [(flow.answers, flow.protocol) for flow in tracked.flows(family, "sctp")] == [(far, "sctp")]
    assert len(tracked.flows(family)) == 4
