"""What a Service costs a connection: connections and throughput for a second of processor time, through it and to the pod's own address.

Pods on a node, in namespaces of this run's own. Short rounds of both ways in turn; judged is what client and server got for
their processor time, the kernel's work in it included. Others' load on the machine is not in it: by the clock, the same two
ways differ by 5 % from run to run in either direction, by processor time by 2 %.

Throughput is that of two connections which stand from the first round to the last, so that no window has to grow; halfway the two
client pods change places, lest one be the luckier. Of connections each way has a client pod to itself, and connection tracking
is emptied between rounds: one through a Service and one to the pod's own address from the same client and port are the
same to the server, where the first waits in TIME_WAIT and makes the second wait for a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.results import Result
from twinstack.dataplane.ruleset import Steps, whole
from twinstack.kernel import namespaces, nftables
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.ruleset import Options, Shape
from twinstack.proxy.services import ServicePort

MOST_SERVICES = 100_000
LEAST_SHARE = {"connections": 0.9, "throughput": 0.97}  # of what the pod's own address gives
NAMES = ("server", "direct", "through")
PODS = {Family.IPV4: ("10.128.1.2", "10.128.1.3", "10.128.1.4"), Family.IPV6: ("fd00:244::1:2", "fd00:244::1:3", "fd00:244::1:4")}
POD_CIDRS = {Family.IPV4: "10.128.0.0/9", Family.IPV6: "fd00:244::/64"}
FRONTS = {Family.IPV4: "10.96.0.0", Family.IPV6: "fd00:96::"}
ANSWER, STREAM = 8080, 8081  # ports of the server: one byte, or as much as goes
BLOCK = 1 << 18


def path_figures(scale: float) -> list[Result]:
    """Both figures of both families, with 10 Services and with many."""
    results: list[Result] = []
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(_namespace("node"))
        pods = {name: stack.enter_context(_namespace(name)) for name in NAMES}
        ruleset = stack.enter_context(nftables.Nftables(node))
        _wire(node, pods)
        servers = {
            (family, port): stack.enter_context(_serving(pods["server"], family, port, serve))
            for family in FAMILIES
            for port, serve in ((ANSWER, _answer), (STREAM, _stream))
        }
        for size in (10, int(MOST_SERVICES * scale)):
            for family in FAMILIES:
                nftables.apply(ruleset, _table(family, size))
                for figure, unit, spent in (
                    ("connections", "1/CPU s", _connections(family, servers[family, ANSWER], node, pods, scale)),
                    ("throughput", "Gbit/CPU s", _throughput(family, pods, scale)),
                ):
                    results.append(_compared(figure, unit, family, size, spent))
    half = len(results) // 2
    return results + [_flat(few, many) for few, many in zip(results[:half], results[half:], strict=True)]


def _flat(few: Result, many: Result) -> Result:
    """How much of the share of the pod's own address is left with many Services: the machine's mood is in both parts of a share."""
    return Result(
        bench="proxy",
        name=f"{many.name}: its share against that with few",
        value=(many.ratio or 0.0) / (few.ratio or 1.0),
        unit="",
        better="higher",
        target=0.95,
    )


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    path = f"/run/netns/tst-{os.getpid()}-bench-{name}"
    namespaces.create(path, [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
    try:
        yield path
    finally:
        namespaces.remove(path)


def _wire(node: str, pods: dict[str, str]) -> None:
    for i, (name, path) in enumerate(pods.items()):
        _ip(node, f"link add {name} type veth peer name eth0 netns {os.path.basename(path)}", f"link set {name} up", "link set lo up")
        _ip(path, "link set lo up", "link set eth0 up")
        for family in FAMILIES:
            address, gateway, bits = PODS[family][i], family.facts.pod_gateway, family.bits
            nodad = "" if family.facts.has_broadcast else "nodad"
            _ip(node, f"addr add {gateway}/{bits} dev {name} scope link {nodad}", f"route add {address} dev {name}")
            _ip(path, f"addr add {address}/{bits} dev eth0 {nodad}", f"route add {gateway} dev eth0", f"route add default via {gateway} dev eth0")


def _ip(path: str, *commands: str) -> None:
    subprocess.run(["ip", "-n", os.path.basename(path), "-batch", "-"], input="\n".join(commands), text=True, check=True)


def _front(family: Family, number: int) -> str:
    return str(family.address(int(parse_address(FRONTS[family])) + number))


def _table(family: Family, size: int) -> Steps:
    """A table of so many Services; the first has the server behind two ports."""
    own = PODS[family][0]

    def service(number: int, port: int, backends: tuple[tuple[str, int], ...]) -> ServicePort:
        return ServicePort(f"bench/svc-{number}:{port}", "tcp", _front(family, number), port, 0, (), (), None, backends, (), True, False, False, 0, frozenset())

    some = [service(0, port, ((own, port),)) for port in (ANSWER, STREAM)]
    far = int(parse_address(own)) + 1000
    some += [service(number, 80, tuple((str(family.address(far + 3 * number + i)), 8080) for i in range(3))) for number in range(1, size)]
    return whole(Shape(family, Options(pods=("saddr", POD_CIDRS[family]))).table(some))


@contextlib.contextmanager
def _serving(path: str, family: Family, port: int, serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A process of its own that serves each connection in turn; its id."""
    with namespaces.socket_in(path, family.facts.socket_family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((PODS[family][0], port))
        listening.listen(1024)
        pid = os.fork()
        if not pid:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
                while True:
                    client, _ = listening.accept()
                    with client, contextlib.suppress(OSError):
                        serve(client)
            finally:
                os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _answer(client: socket.socket) -> None:
    client.send(b"x")


def _stream(client: socket.socket) -> None:
    """Two streams go at once, so each has a process, which says first who it is."""
    if os.fork():
        return
    block = b"x" * BLOCK
    try:
        client.sendall(os.getpid().to_bytes(4))
        while True:
            client.sendall(block)
    finally:
        os._exit(0)


def _processor_seconds(server: int) -> float:
    """What this process and the server have used; the clock of another process has its number inverted (man 3 clock_getcpuclockid)."""
    return time.process_time() + time.clock_gettime((~server << 3) | 2)


class _Way:
    """What one way has given so far, and what it took."""

    def __init__(self) -> None:
        self.got = self.used = self.took = 0.0

    @contextlib.contextmanager
    def round(self, server: int) -> Iterator[None]:
        began, before = time.perf_counter(), _processor_seconds(server)
        yield
        self.used += _processor_seconds(server) - before
        self.took += time.perf_counter() - began


_Ways = tuple[_Way, _Way]  # direct, through a Service


def _connections(family: Family, server: int, node: str, pods: dict[str, str], scale: float) -> _Ways:
    """Connections by one client, one after the other."""
    ways = _Way(), _Way()
    hosts = (PODS[family][0], _front(family, 0))
    for i in range(40 if scale >= 1 else 8):
        for which in (0, 1) if i % 2 else (1, 0):
            subprocess.run(["nsenter", f"--net={node}", "conntrack", "-F"], check=True, capture_output=True)
            with namespaces.entered(pods[NAMES[1 + which]]), ways[which].round(server):
                until = time.perf_counter() + 0.2
                while time.perf_counter() < until:
                    with socket.socket(family.facts.socket_family, socket.SOCK_STREAM) as one:
                        one.connect((hosts[which], ANSWER))
                        one.recv(1)
                    ways[which].got += 1
    return ways


def _throughput(family: Family, pods: dict[str, str], scale: float) -> _Ways:
    """Gigabits over one connection each way."""
    ways = _Way(), _Way()
    hosts = (PODS[family][0], _front(family, 0))
    block = memoryview(bytearray(BLOCK))
    for names in (NAMES[1:], NAMES[:0:-1]):
        with contextlib.ExitStack() as stack:
            streams = []
            for name, host in zip(names, hosts, strict=True):
                one = stack.enter_context(namespaces.socket_in(pods[name], family.facts.socket_family, socket.SOCK_STREAM))
                one.connect((host, STREAM))
                streams.append((one, int.from_bytes(one.recv(4, socket.MSG_WAITALL))))
            for i in range(100 if scale >= 1 else 10):
                for which in (0, 1) if i % 2 else (1, 0):
                    one, server = streams[which]
                    with ways[which].round(server):
                        until = time.perf_counter() + 0.05
                        while time.perf_counter() < until:
                            ways[which].got += one.recv_into(block) * 8 / 1e9
    return ways


def _compared(figure: str, unit: str, family: Family, size: int, ways: _Ways) -> Result:
    direct, through = ways
    own = direct.got / direct.used
    return Result(
        bench="proxy",
        name=f"{figure} through one of {size:,} Services, {family}",
        value=through.got / through.used,
        unit=unit,
        better="higher",
        baseline="the pod's own address",
        baseline_value=own,
        target=LEAST_SHARE[figure] * own,
        detail={"a second by the clock": through.got / through.took, "the same of the pod's own address": direct.got / direct.took},
    )
