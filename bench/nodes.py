"""Pod to pod across nodes: what a second of processor time carries, directly and through the tunnel, beside the same wires without us.

Two clusters of two nodes, one joined directly and one by VXLAN, each with a pod on each node; and beside them pods, nodes and the
bridge between them as bare namespaces: the same veth pairs and MTU, static routes, no rules. One connection of each path stands from
the first round to the last, and short rounds of all paths take turns; judged is the median of the rounds' shares of the bare path, in
bytes for the processor time of both ends, the kernel's work in it included: the clock of a machine that others use says more of them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from statistics import median

from bench._paths import BLOCK, STREAM, _processor_seconds, _stream
from bench.results import Result
from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

SHARES = {"direct": 0.95, "vxlan": 0.8}  # of the bare path
BARE = {Family.IPV4: "10.9.{0}.{1}", Family.IPV6: "fd09:{0}::{1}"}
_ROUND_SECONDS = 0.1


def run(scale: float) -> list[Result]:
    """The share of the bare path that each way between nodes reaches, of each family."""
    rounds = max(6, int(60 * scale))
    with ExitStack() as stack:
        paths = {"bare": _bare(stack), **{network: _cluster(stack, network) for network in SHARES}}
        results = []
        for family in FAMILIES:
            figures = _figures({name: (ends, addresses[family]) for name, (ends, addresses) in paths.items()}, family, rounds)
            for network, share in SHARES.items():
                shares = [own / bare for own, bare in zip(figures[network], figures["bare"], strict=True)]
                detail = {f"{name}, Gbit/CPU s": median(figures[name]) for name in (network, "bare")}
                results.append(
                    Result(
                        bench="nodes",
                        name=f"pod to pod across nodes, {network}, {family}",
                        value=median(shares),
                        unit="of the bare path",
                        better="higher",
                        target=share,
                        detail={**detail, "rounds": float(rounds)},
                    )
                )
    return results


def _figures(paths: dict[str, tuple[tuple[str, str], str]], family: Family, rounds: int) -> dict[str, list[float]]:
    """Gigabits for a second of processor time, round by round, of every path."""
    found: dict[str, list[float]] = {name: [] for name in paths}
    block = memoryview(bytearray(BLOCK))
    with ExitStack() as stack:
        streams = {name: _connected(stack, ends, family, address) for name, (ends, address) in paths.items()}
        names = list(streams)
        for number in range(rounds + 2):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                client, server = streams[name]
                used, got, until = _processor_seconds(server), 0, time.perf_counter() + _ROUND_SECONDS
                while time.perf_counter() < until:
                    got += client.recv_into(block)
                if number >= 2:  # windows have grown
                    found[name].append(got * 8 / 1e9 / (_processor_seconds(server) - used))
    return found


def _connected(stack: ExitStack, ends: tuple[str, str], family: Family, address: str) -> tuple[socket.socket, int]:
    """A client in the first namespace of a stream from the second one's address, and the id of the process that sends it."""
    listening = stack.enter_context(namespaces.socket_in(ends[1], family.facts.socket_family, socket.SOCK_STREAM))
    listening.bind((address, STREAM))
    listening.listen(1)
    client = stack.enter_context(namespaces.socket_in(ends[0], family.facts.socket_family, socket.SOCK_STREAM))
    client.settimeout(10)
    client.connect((address, STREAM))
    served, _ = listening.accept()
    with served:
        _stream(served)  # forks
    sender = int.from_bytes(client.recv(4, socket.MSG_WAITALL))
    stack.callback(os.waitpid, sender, 0)
    stack.callback(os.kill, sender, signal.SIGKILL)  # it has a copy of the client's end, and would go on for ever
    return client, sender


def _bare(stack: ExitStack) -> tuple[tuple[str, str], dict[Family, str]]:
    """pod – node – bridge – node – pod, by hand."""
    places = {}
    for name in ("pod1", "node1", "fabric", "node2", "pod2"):
        places[name] = f"/run/netns/tst-bench-{os.getpid()}-{name}"
        namespaces.create(places[name], [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
        stack.callback(namespaces.remove, places[name])
    short = {name: os.path.basename(place) for name, place in places.items()}
    _ip(places["fabric"], "link add br0 type bridge", "link set br0 up")
    for number in (1, 2):
        node, pod = f"node{number}", f"pod{number}"
        _ip(
            places[node],
            f"link add uplink type veth peer name port{number} netns {short['fabric']}",
            f"link add topod type veth peer name eth0 netns {short[pod]}",
        )
        _ip(places["fabric"], f"link set port{number} master br0", f"link set port{number} up")
        _ip(places[node], "link set uplink up", "link set topod up", "link set lo up")
        _ip(places[pod], "link set eth0 up", "link set lo up")
    for family, text in BARE.items():
        bits, nodad = (24, "") if family.facts.has_broadcast else (64, "nodad")
        for number, other in ((1, 2), (2, 1)):
            node, pod = places[f"node{number}"], places[f"pod{number}"]
            _ip(node, f"addr add {text.format(0, number)}/{bits} dev uplink {nodad}", f"addr add {text.format(number, 1)}/{bits} dev topod {nodad}")
            _ip(pod, f"addr add {text.format(number, 2)}/{bits} dev eth0 {nodad}")
            _ip(pod, f"-{family.facts.cni_version} route add default via {text.format(number, 1)}")
            far = str(family.network(int(parse_address(text.format(other, 1))) - 1, bits))
            _ip(node, f"route add {far} via {text.format(0, other)}")
    return (places["pod1"], places["pod2"]), {family: text.format(2, 2) for family, text in BARE.items()}


def _ip(path: str, *commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", "-n", os.path.basename(path), *command.split()], check=True)


def _cluster(stack: ExitStack, network: str) -> tuple[tuple[str, str], dict[Family, str]]:
    """Two nodes of a cluster, with a pod on each."""
    name, home = f"tst-bench-{os.getpid()}-{network}", stack.enter_context(tempfile.TemporaryDirectory())
    environment = {**os.environ, "HOME": home, "XDG_STATE_HOME": f"{home}/state", "KUBECONFIG": f"{home}/kubeconfig"}

    def call(*words: str, text: str = "") -> str:
        return subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True, input=text).stdout

    twinstack = (sys.executable, "-m", "twinstack.cli.main")
    stack.callback(call, *twinstack, "down", "--name", name)
    call(*twinstack, "up", "--name", name, "--nodes", "2", "--network", network, "-o", "json")
    container = {"name": "c", "image": "twinstack.dev/host", "command": ["/bin/sleep", "100000"]}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod{number}"}, "spec": {**spec, "nodeName": f"node{number}"}} for number in (1, 2)]
    call("kubectl", "create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    call("kubectl", "wait", "--for=condition=Ready", "pod/pod1", "pod/pod2", "--timeout=30s")
    first, second = json.loads(call("kubectl", "get", "pods", "-o", "json"))["items"]
    ends = [f"/run/twinstack/{name}/{one['spec']['nodeName']}/netns/{one['metadata']['uid']}" for one in (first, second)]
    addresses = {Family.of(parse_address(one["ip"])): one["ip"] for one in second["status"]["podIPs"]}
    return (ends[0], ends[1]), addresses
