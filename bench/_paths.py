"""What a Service costs a connection: connections a second and throughput, through it and to the pod's own address.

Pods on a node, in namespaces of this run's own. Each way has a client pod to itself, and connection tracking is
emptied between rounds: a connection through a Service and one to the pod's own address from the same client and
port are the same to the server, where the first waits in TIME_WAIT and makes the second wait for a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.results import Result, percentile
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
        for family in FAMILIES:
            for port, serve in ((ANSWER, _answer), (STREAM, _stream)):
                stack.enter_context(_serving(pods["server"], family, port, serve))
        for size in (10, int(MOST_SERVICES * scale)):
            for family in FAMILIES:
                nftables.apply(ruleset, _table(family, size))
                for figure, port, measure in (("connections", ANSWER, _connections), ("throughput", STREAM, _throughput)):
                    results.append(_compared(figure, measure, family, port, size, node, pods, scale))
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
def _serving(path: str, family: Family, port: int, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """A process of its own that serves each connection in turn."""
    with namespaces.socket_in(path, family.facts.socket_family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((PODS[family][0], port))
        listening.listen(1024)
        pid = os.fork()
        if not pid:
            try:
                while True:
                    client, _ = listening.accept()
                    with client, contextlib.suppress(OSError):
                        serve(client)
            finally:
                os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _answer(client: socket.socket) -> None:
    client.send(b"x")


def _stream(client: socket.socket) -> None:
    block = b"x" * BLOCK
    while True:
        client.sendall(block)


def _connections(family: Family, where: tuple[str, int], seconds: float) -> float:
    """Connections a second by one client, one after the other."""
    made, began = 0, time.perf_counter()
    while time.perf_counter() < began + seconds:
        with socket.socket(family.facts.socket_family, socket.SOCK_STREAM) as one:
            one.connect(where)
            one.recv(1)
        made += 1
    return made / (time.perf_counter() - began)


def _throughput(family: Family, where: tuple[str, int], seconds: float) -> float:
    """Gigabits a second over one connection."""
    block = memoryview(bytearray(BLOCK))
    with socket.socket(family.facts.socket_family, socket.SOCK_STREAM) as one:
        one.connect(where)
        one.recv_into(block)
        got, began = 0, time.perf_counter()
        while time.perf_counter() < began + seconds:
            got += one.recv_into(block)
        return got * 8 / (time.perf_counter() - began) / 1e9


def _compared(
    figure: str,
    measure: Callable[[Family, tuple[str, int], float], float],
    family: Family,
    port: int,
    size: int,
    node: str,
    pods: dict[str, str],
    scale: float,
) -> Result:
    """Many short rounds of both ways in turn, and the upper quartile of each: a busy machine only ever makes a round slower."""
    rounds, seconds = (24, 0.3) if scale >= 1 else (6, max(0.1, 0.3 * scale))
    direct: list[float] = []
    through: list[float] = []
    ways = (("direct", PODS[family][0], direct), ("through", _front(family, 0), through))
    for i in range(rounds):
        for name, host, found in ways if i % 2 else ways[::-1]:
            subprocess.run(["nsenter", f"--net={node}", "conntrack", "-F"], check=True, capture_output=True)
            with namespaces.entered(pods[name]):
                found.append(measure(family, (host, port), seconds))
    return Result(
        bench="proxy",
        name=f"{figure} through one of {size:,} Services, {family}",
        value=percentile(through, 0.75),
        unit="1/s" if figure == "connections" else "Gbit/s",
        better="higher",
        baseline="the pod's own address",
        baseline_value=percentile(direct, 0.75),
        target=LEAST_SHARE[figure] * percentile(direct, 0.75),
        detail={"median_ratio_of_pairs": statistics.median(one / other for one, other in zip(through, direct, strict=True))},
    )
