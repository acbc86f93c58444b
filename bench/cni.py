"""CNI ADD and DEL, executed as a runtime does it, against Debian's bridge + host-local plugins.

Every plugin gets the same: environment, configuration on stdin, a fresh pod namespace, both families. The two
take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

from bench.results import Result, percentile
from twinstack.api.cni import network_config
from twinstack.cni.daemon import Daemon
from twinstack.cni.executable import native_client, write_executable
from twinstack.kernel import namespaces
from twinstack.net.family import FAMILIES

DEBIAN = "/usr/lib/cni"
TARGETS = {("ADD", "native"): 5.0, ("ADD", "Python"): 14.0, ("DEL", "native"): 15.0, ("DEL", "Python"): 15.0}  # milliseconds on an idle machine
CIDRS = ("10.9.0.0/16", "fd09::/64")


def _ours(place: str, network: str) -> dict[str, Any]:
    whole = network_config(network, CIDRS, data_dir=place)
    return {"cniVersion": "1.0.0", "name": network, **whole["plugins"][0]}


def _debian(place: str) -> dict[str, Any]:
    ipam = {
        "type": "host-local",
        "dataDir": place,
        "ranges": [[{"subnet": cidr}] for cidr in CIDRS],
        "routes": [{"dst": family.facts.everything} for family in FAMILIES],
    }
    return {"cniVersion": "1.0.0", "name": "debian", "type": "bridge", "bridge": "br0", "isGateway": True, "ipam": ipam}


class Runtime:
    """Executes a plugin in a node's namespace as a container runtime does it."""

    def __init__(self, node: str, executable: str, config: dict[str, Any]) -> None:
        self._node, self._executable, self._config = node, executable, json.dumps(config).encode()
        self.seconds: dict[str, list[float]] = {"ADD": [], "DEL": []}

    def __call__(self, command: str, container: str, netns: str) -> None:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": DEBIAN,
            "PATH": os.environ.get("PATH", ""),
        }
        with namespaces.entered(self._node):
            start = time.perf_counter()
            done = subprocess.run([self._executable], input=self._config, env=environment, capture_output=True, check=False)
            self.seconds[command].append(time.perf_counter() - start)
        if done.returncode != 0:
            raise RuntimeError(f"{self._executable} {command}: {done.stdout.decode()}{done.stderr.decode()}")


def run(scale: float) -> list[Result]:
    """The median of both commands, for our executables with the node's daemon and for the script alone, beside Debian's plugins."""
    rounds = max(5, int(60 * scale))
    with ExitStack() as undo:
        place = undo.enter_context(tempfile.TemporaryDirectory())
        script = write_executable(os.path.join(place, "python"), native=False)
        native = write_executable(os.path.join(place, "native")) if native_client() else ""

        def node(name: str) -> str:
            path = f"/run/netns/tst-bench-{os.getpid()}-{name}"
            namespaces.create(path, [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
            undo.callback(namespaces.remove, path)
            return path

        alone, served = node("alone"), node("served")
        with namespaces.entered(served):
            undo.callback(Daemon().close)
        runtimes = {"native": Runtime(served, native, _ours(place, "served"))} if native else {}
        runtimes["Python"] = Runtime(served, script, _ours(place, "served"))
        runtimes["alone"] = Runtime(alone, script, _ours(place, "alone"))
        if os.path.exists(f"{DEBIAN}/bridge"):
            runtimes["bridge + host-local"] = Runtime(node("debian"), f"{DEBIAN}/bridge", _debian(place))
        for number in range(rounds):
            for name, runtime in runtimes.items():
                _one_pod(runtime, f"{number}-{name.split()[0]}")
    baseline = runtimes.pop("bridge + host-local", None)
    return [
        Result(
            bench="cni",
            name=f"{command}, {'script without the daemon' if name == 'alone' else f'{name} client with the daemon'}",
            value=median(runtime.seconds[command]) * 1000,
            unit="ms",
            target=TARGETS.get((command, name)),
            baseline="bridge + host-local" if baseline else "",
            baseline_value=median(baseline.seconds[command]) * 1000 if baseline else None,
            detail={"p90": percentile(runtime.seconds[command], 0.9) * 1000, "rounds": float(rounds)},
        )
        for command in ("ADD", "DEL")
        for name, runtime in runtimes.items()
    ]


def _one_pod(runtime: Runtime, container: str) -> None:
    netns = f"/run/netns/tst-bench-{os.getpid()}-pod-{container}"
    namespaces.create(netns)
    try:
        runtime("ADD", container, netns)
        runtime("DEL", container, netns)
    finally:
        namespaces.remove(netns)
