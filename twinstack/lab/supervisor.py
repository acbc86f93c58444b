"""The process that looks after a cluster: imports everything once, forks each process from that, begins again what ends.

Rule of this file: no thread and no event loop, because it forks; and it survives everything that it looks after.

Theory. Python needs half a second to import what the programs need; a fork of a process that has imported it needs
milliseconds and shares its memory. Before the first fork the garbage collector is told to leave alone what exists
(``gc.freeze``), or its marks would copy every page. Everything a child tells comes over its channel; that a child has
ended is told by SIGCHLD. What is known is kept in a file, so that ``status`` asks nobody.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

import msgspec

from twinstack.kernel import namespaces
from twinstack.lab import logfiles, record
from twinstack.lab.hosting import Host, Order, Program, Report, until_terminated
from twinstack.lab.places import Places
from twinstack.lab.record import Component, Components
from twinstack.net.errors import Error

log = logging.getLogger(__name__)
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS, _WELL_SECONDS = 0.1, 10.0, 10.0
_GRACE_SECONDS = 5.0


class Process(NamedTuple):
    """A process to look after: where it lives, and what runs in it, made after the fork."""

    name: str
    netns: str
    programs: Callable[[Callable[[Report], None]], Mapping[str, Program]]
    components: tuple[str, ...]
    after: str = ""  # the component that serves before this process is begun for the first time

    def belongs_to(self, name: str) -> bool:
        """Whether this is the process of that name, or one of a machine of that name."""
        return self.name == name or any(component.startswith(f"{name}/") for component in self.components)


class _Child:
    def __init__(self, process: Process) -> None:
        self.process = process
        self.pid = 0
        self.channel: socket.socket | None = None
        self.began = 0.0
        self.delay = _FIRST_DELAY_SECONDS
        self.begin_at: float | None = None  # monotonic; None: not to be begun by time
        self.kill_at: float | None = None
        self.ordered = False  # its end was asked for
        self.leaving = False  # and it is not to be begun again


class Supervisor:
    """Keeps processes running until it is told to end."""

    def __init__(
        self,
        places: Places,
        processes: list[Process],
        reports: IO[str] | None,
        *,
        verbosity: int = 0,
        make: Callable[[str], Sequence[Process]] = lambda name: (),
    ) -> None:
        """*make*: the processes of a node that joins later."""
        self._make = make
        self._places, self._reports, self._verbosity = places, reports, verbosity
        self._children = {process.name: _Child(process) for process in processes}
        self._components = {name: Component(name=name, pid=0, state="waiting", since=time.time()) for process in processes for name in process.components}
        self._serving: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._ending = False
        self._inherited: list[socket.socket] = []

    def run(self) -> None:
        """Begin everything, and look after it until SIGTERM or SIGINT; then end it."""
        wake_reader, wake_writer = socket.socketpair()
        for one in (wake_reader, wake_writer):
            one.setblocking(False)
        signal.set_wakeup_fd(wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        control = self._listen()
        self._inherited = [wake_reader, wake_writer, control]
        self._selector.register(wake_reader, selectors.EVENT_READ, lambda: self._woken(wake_reader))
        self._selector.register(control, selectors.EVENT_READ, lambda: self._obey(control))
        for child in self._children.values():
            if not child.process.after:
                self._begin(child)
        while not self._ending:
            for key, _ in self._selector.select(self._patience()):
                self._attend(key.data)
            self._attend(self._by_time)
            self._attend(self._tidy)
        self._end_children()

    def _attend(self, what: Callable[[], None]) -> None:
        """Do one thing, and live on whatever becomes of it: nobody looks after us."""
        try:
            what()
        except Exception:
            log.exception("The supervisor made a mistake")

    # Processes

    def _begin(self, child: _Child) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child.began, child.begin_at, child.kill_at, child.ordered = time.monotonic(), None, None, False
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                ours.close()
                self._forget_everything()
                status = _be(child.process, theirs, self._places, self._verbosity)
            except BaseException:
                logging.getLogger(__name__).exception("The process failed")
            finally:
                os._exit(status)
        theirs.close()
        child.pid, child.channel = pid, ours
        ours.setblocking(False)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._heard(child, ours))
        for name in child.process.components:
            self._change(name, pid=pid, state="starting")

    def _forget_everything(self) -> None:
        """Let go, in a new process, of what belongs to the supervisor."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        for one in self._inherited:
            one.close()
        for child in self._children.values():
            if child.channel is not None:
                child.channel.close()
        if self._reports is not None:
            self._reports.close()

    def _heard(self, child: _Child, channel: socket.socket) -> None:
        try:
            data = channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(channel)
            channel.close()
            if child.channel is channel:
                child.channel = None
            return
        report = msgspec.json.decode(data, type=Report)
        if report.component in self._components:
            self._change(report.component, state=report.state, message=report.message)
            if report.state == "running":
                self._served(report.component)
        elif report.node:
            self._tell(event="node", node=report.node)

    def _served(self, component: str) -> None:
        self._serving.add(component)
        for child in self._children.values():
            if child.pid == 0 and child.begin_at is None and child.process.after == component:
                self._begin(child)

    def _woken(self, reader: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            reader.recv(4096)
        self._reap()

    def _reap(self) -> None:
        for child in list(self._children.values()):
            if child.pid == 0:
                continue
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if pid == 0:
                continue
            child.pid, child.kill_at = 0, None
            if child.leaving:
                self._forget(child)
                continue
            ran = time.monotonic() - child.began
            if child.ordered:
                child.delay, wait, message = _FIRST_DELAY_SECONDS, 0.0, ""
            else:
                child.delay = _FIRST_DELAY_SECONDS if ran >= _WELL_SECONDS else min(_LAST_DELAY_SECONDS, child.delay * 2)
                wait, message = child.delay, _end_of(status)
                log.error("A process ended and is begun again", extra={"host": child.process.name, "end": message, "seconds": wait})
            child.begin_at = time.monotonic() + wait
            for name in child.process.components:
                self._change(name, pid=0, state="failed" if message else "starting", message=message)

    def _patience(self) -> float | None:
        times = [at for child in self._children.values() for at in (child.begin_at, child.kill_at) if at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _by_time(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.kill_at is not None and child.kill_at <= now:
                child.kill_at = None
                self._signal(child, signal.SIGKILL)
            if child.begin_at is not None and child.begin_at <= now and child.pid == 0:
                self._begin(child)

    def _tidy(self) -> None:
        logfiles.rotate(self._places.log("supervisor"))

    def _signal(self, child: _Child, number: signal.Signals) -> None:
        if child.pid:
            with contextlib.suppress(ProcessLookupError):  # it is ours and not waited for yet, so the number is still its own
                os.kill(child.pid, number)

    def _end(self, *_: Any) -> None:
        self._ending = True

    def _end_children(self) -> None:
        for child in self._children.values():
            self._signal(child, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_SECONDS
        while any(child.pid for child in self._children.values()) and time.monotonic() < deadline:
            for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
                key.data()
            self._reap()
        for child in self._children.values():
            self._signal(child, signal.SIGKILL)

    # Orders

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._places.control)
        os.makedirs(os.path.dirname(self._places.control), exist_ok=True)
        control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        mask = os.umask(0o177)
        try:
            control.bind(self._places.control)
        finally:
            os.umask(mask)
        control.listen(8)
        return control

    def _obey(self, control: socket.socket) -> None:
        try:
            connection, _ = control.accept()
        except BlockingIOError:
            return
        with connection:
            connection.settimeout(1.0)
            try:
                order = msgspec.json.decode(connection.recv(65536), type=Order)
                error_told = self._add(order.add) if order.add else self._remove(order.remove) if order.remove else self._restart(order.restart)
                connection.send(json.dumps({"error": error_told}).encode())
            except (OSError, Error, msgspec.DecodeError) as error:
                log.warning("An order was not understood", extra={"err": error})

    def _add(self, name: str) -> str:
        """Begin a node that has joined."""
        made = self._make(name)
        if not made or self._of(name):
            return f"{name} is there already" if made else f"there is no place for {name}"
        for process in made:
            child = self._children[process.name] = _Child(process)
            for component in process.components:
                self._components[component] = Component(name=component, pid=0, state="waiting", since=time.time())
            self._begin(child)
        return ""

    def _of(self, name: str) -> list[_Child]:
        """The processes of a machine, or the one of this name."""
        return [child for child in self._children.values() if child.process.belongs_to(name)]

    def _remove(self, name: str) -> str:
        """End a node for good; one that is not there is a success."""
        for child in self._of(name):
            child.leaving, child.begin_at = True, None
            if child.pid:
                self._signal(child, signal.SIGTERM)
                child.kill_at = time.monotonic() + _GRACE_SECONDS
            else:
                self._forget(child)
        return ""

    def _forget(self, child: _Child) -> None:
        del self._children[child.process.name]
        for component in child.process.components:
            del self._components[component]
        self._write()

    def _write(self) -> None:
        record.write(self._places.components, Components(supervisor=os.getpid(), components=list(self._components.values())))

    def _restart(self, name: str) -> str:
        """Begin a process or one of its components anew; what is wrong with that, or nothing."""
        whole = self._of(name)
        for child in whole:
            child.ordered = True
            if child.pid:
                self._signal(child, signal.SIGTERM)
                child.kill_at = time.monotonic() + _GRACE_SECONDS
            else:
                child.begin_at = time.monotonic()
        if whole:
            return ""
        owner = next((child for child in self._children.values() if name in child.process.components), None)
        if owner is None:
            return f"there is no component {name}; `twinstack status` lists them"
        if owner.pid == 0 or owner.channel is None:
            return f"process {owner.process.name} of component {name} does not run"
        owner.channel.send(msgspec.json.encode(Order(restart=name)))
        return ""

    # What is known

    def _change(self, name: str, *, pid: int | None = None, state: str, message: str = "") -> None:
        if name not in self._components:  # its node has left
            return
        before = self._components[name]
        begun = state == "starting" and before.state in ("running", "failed", "starting")
        after = Component(
            name=name,
            pid=before.pid if pid is None else pid,
            state=state,
            since=time.time(),
            restarts=before.restarts + (1 if begun and before.state != "starting" else 0),
            message=message or (before.message if state != "running" else ""),
        )
        if after.state == before.state and after.pid == before.pid and after.message == before.message:
            return
        self._components[name] = after
        self._write()
        self._tell(event="component", component=name, state=state, message=message)

    def _tell(self, **fact: Any) -> None:
        """Tell ``up``, while it listens."""
        if self._reports is None:
            return
        try:
            self._reports.write(json.dumps(fact) + "\n")
            self._reports.flush()
        except OSError:  # it listens no longer
            reports, self._reports = self._reports, None
            with contextlib.suppress(OSError):
                reports.close()


def _be(process: Process, channel: socket.socket, places: Places, verbosity: int) -> int:
    """Become a process of the cluster, and return its exit status when it ends."""
    import uvloop

    namespaces.enter(process.netns)
    path = places.log(process.name)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    logfiles.install(places.log, process.name, verbosity=verbosity)
    host: Host

    def report(one: Report) -> None:
        host.report(one)

    async def work() -> None:
        nonlocal host
        host = Host(process.programs(report), channel)
        await host.run()

    uvloop.run(until_terminated(work()))
    return 0


def _end_of(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"it was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"it ended with status {os.WEXITSTATUS(status)}"


def prepare() -> None:
    """What is done once before the first fork: everything is imported, and the garbage collector leaves it alone."""
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()
