"""Making a cluster, step by step, with an undo beside every step; and the orders it takes while it runs.

Rule of this file: the order of things. Each thing itself has a file of its own.

Theory. The supervisor spends its first moments importing Python's libraries; meanwhile this process makes namespaces,
wires and certificates. Then it says "go", listens to what the supervisor tells, and leaves. Whatever goes wrong, also
Ctrl-C, runs the undo: the same removal that ``down`` runs.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import msgspec

from twinstack import __version__
from twinstack.client import kubeconfig
from twinstack.cni.executable import write_executable
from twinstack.kernel import processes
from twinstack.kernel.errors import translated
from twinstack.lab import clusterdns, credentials, fabric, preflight, record, removal, wiring
from twinstack.lab.errors import LabError
from twinstack.lab.hosting import Order
from twinstack.lab.places import MARK, Places
from twinstack.lab.record import Record
from twinstack.lab.topology import Topology
from twinstack.net.cidr import host_port
from twinstack.net.family import FAMILIES

FAILURES = 3  # of one component before up gives up
Tell = Callable[[str, float], None]  # a step that is done, and the seconds that it took
Hear = Callable[[str], None]  # what is being waited for now


class Options(NamedTuple):
    """How a cluster is brought up, beside what it is made of."""

    kubeconfig: str = ""
    set_context: bool = True
    wait_seconds: float = 60.0
    verbosity: int = 0


class Cluster(NamedTuple):
    """A cluster that is up."""

    topology: Topology
    places: Places
    kubeconfig: str
    server: str
    seconds: float
    steps: Mapping[str, float]


def up(
    topology: Topology,
    options: Options = Options(),  # noqa: B008 - an immutable value
    tell: Tell = lambda step, seconds: None,
    hear: Hear = lambda text: None,
) -> Cluster:
    """Make a cluster and return when its nodes are ready. LabError when it cannot be; then nothing of it is left."""
    began = time.monotonic()
    steps = _Steps(tell)
    places = Places.of(topology.name)
    preflight.check()
    preflight.check_announcing(topology)
    if removal.exists(removal.find(topology.name)):
        raise LabError(
            f"there is a cluster {topology.name}, or something left of one: `twinstack down --name {topology.name}` removes it, another --name goes beside it"
        )
    user_file = str(kubeconfig.file_to_write(options.kubeconfig or None))
    kubeconfig.check_writable(user_file)
    with ExitStack() as undo, preflight.listen(topology.port) as listener:
        topology = topology._replace(port=listener.getsockname()[1])
        with translated(f"make cluster {topology.name}"):
            os.makedirs(os.path.dirname(places.runtime), mode=0o755, exist_ok=True)
            os.mkdir(places.runtime, 0o755)  # of two at once, one fails here
            undo.callback(removal.remove, places)
            os.makedirs(places.logs, mode=0o755)
            os.chmod(places.state, 0o700)
            os.symlink(places.state, places.link)
        steps.done("check this machine")
        supervisor = undo.enter_context(_Supervisor(places, listener))
        record.write(places.record, Record.of(topology, created=time.time(), version=__version__, kubeconfig=user_file, verbosity=options.verbosity))
        wiring.make(topology, places)
        steps.done(f"wire {len(topology.nodes)} nodes, a control plane and an outside")
        entry = credentials.make(topology, places)
        write_executable(places.cni_bin)
        steps.done("issue certificates")
        _follow(supervisor, topology, steps, options.wait_seconds, hear)
        server = f"https://{host_port(FAMILIES[0].facts.loopback, topology.port)}"
        kubeconfig.merge(user_file, msgspec.structs.replace(entry, server=server), set_current=options.set_context)
        steps.done("add the kubeconfig context")
        undo.pop_all()
        supervisor.leave()
    return Cluster(topology, places, user_file, server, time.monotonic() - began, steps.taken)


class _Steps:
    """Tells each step with the time since the one before."""

    def __init__(self, tell: Tell) -> None:
        self._tell, self._last = tell, time.monotonic()
        self.taken: dict[str, float] = {}

    def done(self, step: str) -> None:
        now = time.monotonic()
        self.taken[step] = now - self._last
        self._tell(step, now - self._last)
        self._last = now


class _Supervisor:
    """The supervisor as its starter sees it: begun at once, told to go later, listened to until all is ready."""

    def __init__(self, places: Places, listener: socket.socket) -> None:
        go_reader, self._go = os.pipe()
        self._reports, report_writer = os.pipe()
        self._places = places
        self._rest = b""
        log = os.open(places.log("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        command = [sys.executable, "-P", "-m", "twinstack.cli.main", "supervise", f"--name={places.name}"]
        command += [f"--go-fd={go_reader}", f"--report-fd={report_writer}", f"--listen-fd={listener.fileno()}"]
        environment = {**os.environ, MARK: places.name}
        try:
            self.pid = processes.start_detached(command, env=environment, stdout_fd=log, stderr_fd=log, pass_fds=(go_reader, report_writer, listener.fileno()))
        finally:
            for descriptor in (log, go_reader, report_writer):
                os.close(descriptor)

    def __enter__(self) -> _Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        processes.end(self.pid, 0)

    def leave(self) -> None:
        """Listen no longer."""
        for name in ("_go", "_reports"):
            if (descriptor := getattr(self, name)) >= 0:
                os.close(descriptor)
                setattr(self, name, -1)

    def go(self) -> None:
        """Let it begin the cluster's processes: all that they need is there."""
        with suppress(BrokenPipeError):  # it ended; what it said is told below
            os.write(self._go, b"go\n")

    def facts(self, deadline: float) -> Iterator[dict[str, Any]]:
        """What it tells, until the deadline (monotonic); LabError when it ends."""
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._reports], [], [], left)[0]:
                return
            data = os.read(self._reports, 65536)
            if not data:
                raise LabError(f"the supervisor ended: {_last_line(self._places.log('supervisor'))}")
            *lines, self._rest = (self._rest + data).split(b"\n")
            yield from (json.loads(line) for line in lines)


def _follow(supervisor: _Supervisor, topology: Topology, steps: _Steps, wait_seconds: float, hear: Hear) -> None:
    """Say go, and wait until every component serves and every node is ready."""
    supervisor.go()
    deadline = time.monotonic() + wait_seconds
    nodes = {node.name for node in topology.nodes}
    waiting: set[str] = set()
    every: set[str] = set()
    failures: dict[str, int] = {}
    message = ""
    begun = False
    for fact in supervisor.facts(deadline):
        match fact:
            case {"event": "imported"}:
                steps.done("import the programs")
            case {"event": "begun", "components": components}:
                waiting |= set(components)
                every |= waiting
                begun = True
            case {"event": "component", "component": name, "state": "running"}:
                waiting.discard(name)
                if name == "kube-apiserver":
                    steps.done("start the API server")
            case {"event": "component", "component": name, "state": "failed", "message": said}:
                failures[name] = failures.get(name, 0) + 1
                message = f"{name}: {said}"
                if failures[name] >= FAILURES:
                    raise LabError(message)
            case {"event": "node", "node": name}:
                nodes.discard(name)
        if begun and not waiting and not nodes:
            steps.done(f"{len(topology.nodes)} nodes ready")
            return
        if begun:
            hear(f"{len(every) - len(waiting)} of {len(every)} components serve, {len(topology.nodes) - len(nodes)} of {len(topology.nodes)} nodes are ready")
    what = f"nodes {', '.join(sorted(nodes))} are not ready" if nodes else f"{', '.join(sorted(waiting))} do not serve"
    raise LabError(f"{what} after {wait_seconds:g} s" + (f"; last failure: {message}" if message else ""))


def _last_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


def order(places: Places, wanted: Order) -> None:
    """Have the supervisor do something. LabError when it cannot, or there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(5.0)
        try:
            connection.connect(places.control)
            connection.send(msgspec.json.encode(wanted))
            answer = json.loads(connection.recv(65536))
        except (OSError, ValueError) as error:
            raise LabError(f"cluster {places.name} has no supervisor that answers: {error}; `twinstack down` and `up` make a new one") from error
    if answer["error"]:
        raise LabError(answer["error"])


def restart(places: Places, component: str, wait_seconds: float = 30.0) -> float:
    """Begin a component or a whole process anew, and return the seconds until it serves again."""
    began, clock = time.time(), time.monotonic()
    order(places, Order(restart=component))
    while time.monotonic() - clock < wait_seconds:
        known = record.read_components(places)
        mine = [
            one
            for one in (known.components if known else [])
            if component in (one.name, one.name.partition("/")[0]) or _is_of_control_plane(one.name, component)
        ]
        if mine and all(one.state == "running" and one.since > began for one in mine):
            return time.monotonic() - clock
        time.sleep(0.02)
    raise LabError(f"{component} does not serve again after {wait_seconds:g} s: `twinstack logs {component}` may say why")


def _is_of_control_plane(component: str, process: str) -> bool:
    return process == "control-plane" and "/" not in component and component not in (clusterdns.COMPONENT, fabric.COMPONENT)
