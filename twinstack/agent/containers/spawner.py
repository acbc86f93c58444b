"""The process that is the parent of a node's containers, and outlives the agent.

Rule of this file: single-threaded, the standard library's thinnest part only, no decision. It forks what it is
told to, keeps what it knows of each container until told to forget it, and writes the containers' logs.

Theory. Only a process's parent learns how it ended, so the parent must not be the agent, which is restarted
at will. The spawner runs in a session of its own and listens on a socket; an agent connects, is told all
containers that stand, and takes over. A container dies with the spawner (PR_SET_PDEATHSIG), so nothing is ever
left that nobody watches; and killing a container's PID 1 kills all that it has started.

One message is one SEQPACKET datagram of JSON; one too long for that travels in a memfd. A request carries
``op`` and ``seq`` and is answered by ``{"seq", ...}`` or ``{"seq", "error": {"errno", "message"}}``:

start    id, pod, labels, argv, env, cwd, hostname, mounts, log, init, uid, gid, groups, stdin, tty,
         cgroups (files to join by), pids ("pod" or "host"), host_ipc; descriptor: network namespace (optional)
exec     id, command, argv, tty; descriptors: stdin (optional), stdout, stderr; with tty one socket, through which the master end
         of a terminal comes that is the container's own
attach   id; descriptors: two pipes that get what the container says on stdout and stderr from now on, one for a terminal's;
         answered with its input's descriptor, where it has one
end-input  id (of a container with stdin and without tty: it reads the end of file)
signal   id, signal          signal-command  command, signal
remove   id (of an ended container)             forget  pod (what its containers shared)
list

Events: ``{"event": "exited", "container": {...}}``, ``{"event": "command-exited", "command", "exit_code"}``.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from twinstack.agent.containers import launch
from twinstack.agent.containers.crilog import LARGEST_FILE, MOST_FILES, Log
from twinstack.agent.containers.pipes import Readers, Streams
from twinstack.agent.containers.shared import Shared, end_rest

PROTOCOL = 1
LONGEST_DATAGRAM = 100_000
READ = 65536
PATIENCE_SECONDS = 60

Message = dict[str, Any]


class Refused(Exception):
    """A request that cannot be carried out."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


def send(connection: socket.socket, message: Message, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message; BlockingIOError when the other side does not keep up."""
    data = json.dumps(message).encode()
    if len(data) <= LONGEST_DATAGRAM:
        socket.send_fds(connection, [data], list(descriptors))
        return
    body = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with open(body, "wb", closefd=False) as file:
            file.write(data)
        socket.send_fds(connection, [b"@"], [body, *descriptors])
    finally:
        os.close(body)


def receive(connection: socket.socket) -> tuple[Message, list[int]] | None:
    """Take one message and its descriptors, which are the caller's to close; None at the end."""
    data, descriptors, _, _ = socket.recv_fds(connection, LONGEST_DATAGRAM + 1, 8, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    if data == b"@":
        body = descriptors.pop(0)
        os.lseek(body, 0, os.SEEK_SET)
        with open(body, "rb") as file:
            data = file.read()
    message: Message = json.loads(data)
    return message, descriptors


def _said(bundle: str) -> str:
    """The last thing that crun has written into its log."""
    try:
        with open(f"{bundle}/log", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
        return str(json.loads(lines[-1])["msg"]) if lines else ""
    except (OSError, ValueError, KeyError):
        return ""


def _error_told(told: bytes) -> Message:
    number, _, text = told.decode(errors="replace").partition(" ")
    return {"errno": int(number), "message": text}


class _Container:
    """A process that was started, and how it ended."""

    def __init__(self, spec: Message, pid: int) -> None:
        self.spec = spec
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.started_at = time.time()
        self.finished_at = 0.0
        self.exit_code = -1
        self.signal = 0
        self.log: Log | None = None
        self.pipes: dict[int, str] = {}
        self.input = -1  # where what its stdin reads is written: a pipe, or the terminal's master end
        self.readers: Readers | None = None  # those who are attached
        self.ready = False
        self.being_made = bool(spec.get("bundle"))  # the process is crun's, and the container will be another
        self.reported = False

    @property
    def running(self) -> bool:
        return not self.finished_at

    def record(self) -> Message:
        told: Message = {
            "id": self.spec["id"],
            "pod": self.spec["pod"],
            "labels": self.spec.get("labels") or {},
            "pid": self.pid,
            "running": self.running,
            "started_at": self.started_at,
        }
        if not self.running:
            told |= {"finished_at": self.finished_at, "exit_code": self.exit_code, "signal": self.signal}
        return told


class Spawner:
    """See the module's text. *listener* is a listening SEQPACKET socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._served = False
        self._agent: socket.socket | None = None
        self._outbox: deque[tuple[Message, tuple[int, ...]]] = deque()  # descriptors are ours to close
        self._containers: dict[str, _Container] = {}
        self._by_pid: dict[int, _Container] = {}
        self._strangers: dict[int, int] = {}  # children that ended before anybody told us whose they are
        self._own_pidfd = os.pidfd_open(os.getpid())
        launch.adopt_orphans()
        self._commands: dict[int, str] = {}  # pid → the agent's name of it
        self._shared = Shared()
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[int], object]] = {}
        self._files_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._files_limit[1], self._files_limit[1]))
        listener.setblocking(False)
        self._watch(listener.fileno(), self._accept)
        wakeup, self._wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._watch(wakeup, self._children)

    def run(self) -> None:
        """Work until the agent is gone and there is nothing to keep for the next one."""
        while self._agent is not None or self._containers or not self._served:
            ready = self._poll.poll(-1 if self._served else PATIENCE_SECONDS)
            if not ready and not self._served:
                return  # whoever started us has ended before it could connect
            for fd, _ in ready:
                if handler := self._handlers.get(fd):
                    handler(fd)

    def _watch(self, fd: int, handler: Callable[[int], object], events: int = select.EPOLLIN) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, events)  # an end that is closed on the other side is told in any case

    def _forget(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)

    # ---- the agent

    def _accept(self, fd: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        self._drop_agent()
        self._served = True
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._agent = connection
        self._watch(connection.fileno(), self._agent_speaks)
        self._say({"event": "hello", "protocol": PROTOCOL, "pid": os.getpid(), "containers": [one.record() for one in self._containers.values() if one.ready]})

    def _drop_agent(self) -> None:
        if self._agent is not None:
            self._forget(self._agent.fileno())
            self._agent.close()
            self._agent = None
            for _, descriptors in self._outbox:
                for descriptor in descriptors:
                    os.close(descriptor)
            self._outbox.clear()

    def _say(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        if self._agent is None:
            return
        self._outbox.append((message, tuple(os.dup(descriptor) for descriptor in descriptors)))
        self._flush()

    def _flush(self) -> None:
        while self._agent is not None and self._outbox:
            message, descriptors = self._outbox[0]
            try:
                send(self._agent, message, descriptors)
            except BlockingIOError:
                self._poll.modify(self._agent.fileno(), select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:  # it went away; the next one is told everything anew
                self._drop_agent()
                return
            self._outbox.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        if self._agent is not None:
            self._poll.modify(self._agent.fileno(), select.EPOLLIN)

    def _agent_speaks(self, fd: int) -> None:
        self._flush()
        while self._agent is not None:
            try:
                received = receive(self._agent)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._drop_agent()
                return
            message, descriptors = received
            try:
                answer = self._perform(message, descriptors)
            except Refused as error:
                answer = {"error": {"errno": error.number, "message": str(error)}}
            except (OSError, launch.Step) as error:
                answer = {"error": {"errno": getattr(error, "errno", None) or getattr(error, "number", 0), "message": str(error)}}
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            if answer is not None:
                self._say({"seq": message.get("seq"), **answer})

    def _perform(self, message: Message, descriptors: list[int]) -> Message | None:
        """Carry out a request; None when it is answered later."""
        op = message.get("op")
        if op == "start":
            self._start(message, descriptors)
            return None
        if op == "exec":
            self._execute(message, descriptors)
            return None
        if op == "attach":
            self._attach(message, descriptors)
            return None
        if op == "end-input":
            container = self._find(message["id"])
            if not container.spec.get("tty"):
                self._close_input(container)
            return {}
        if op == "signal":
            container = self._find(message["id"])
            if container.running:
                signal.pidfd_send_signal(container.pidfd, message["signal"])
            return {}
        if op == "signal-command":
            for pid, name in self._commands.items():
                if name == message["command"]:
                    os.killpg(pid, message["signal"])
            return {}
        if op == "remove":
            container = self._find(message["id"])
            if container.running:
                raise Refused(f"container {message['id']} is running")
            self._release(container)
            return {}
        if op == "forget":
            self._shared.forget(message["pod"])
            return {}
        if op == "list":
            return {"containers": [one.record() for one in self._containers.values() if one.ready]}
        raise Refused(f"no operation {op!r}")

    def _find(self, identifier: str) -> _Container:
        container = self._containers.get(identifier)
        if container is None:
            raise Refused(f"no container {identifier}")
        return container

    # ---- starting

    def _start(self, spec: Message, descriptors: list[int]) -> None:
        if spec["id"] in self._containers:
            raise Refused(f"container {spec['id']} is there already")
        namespaces = [(fd, launch.CLONE_NEWNET) for fd in descriptors[:1]] + self._shared.namespaces(
            spec["pod"], spec["hostname"], host_ipc=bool(spec.get("host_ipc"))
        )
        log = Log(spec["log"], largest=spec.get("log_size") or LARGEST_FILE, files=spec.get("log_files") or MOST_FILES)
        streams = Streams(stdin=bool(spec.get("stdin")), tty=bool(spec.get("tty")))
        report, report_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            become = launch.become_image if spec.get("bundle") else launch.become_container
            if spec.get("bundle") and spec.get("pids") == "pod":
                os.symlink(f"/proc/{self._shared.first_process(spec['pod'])}/ns/pid", f"{spec['bundle']}/pidns")  # as oci.PID_NAMESPACE says
            with self._born_in(spec):
                pid = os.fork()
                if pid == 0:
                    stdin, stdout, stderr = streams.theirs
                    become(
                        spec, namespaces=namespaces, stdin=stdin, stdout=stdout, stderr=stderr, report=report_end, files_limit=self._files_limit
                    )  # fmt: skip
        except BaseException:
            streams.close_ours()
            os.close(report)
            log.close()
            raise
        finally:
            streams.close_theirs()
            os.close(report_end)
        container = _Container(spec, pid)
        container.log, container.input = log, streams.input
        self._by_pid[pid] = self._containers[spec["id"]] = container
        for fd, stream in streams.outputs:
            os.set_blocking(fd, False)
            container.pipes[fd] = stream
            self._watch(fd, partial(self._output, container))
        self._watch(report, lambda fd: self._started(container, fd))

    def _born_in(self, spec: Message) -> AbstractContextManager[None]:
        """Where a container's first process is born; crun finds the PID namespace of a bundle by itself."""
        if spec.get("bundle"):
            return nullcontext()
        if spec.get("beside"):
            beside = self._find(spec["beside"])
            if not beside.running:
                raise Refused(f"container {spec['beside']} is not running")
            return self._shared.children_in(beside.pidfd)
        return self._shared.children_of(spec["pod"], spec.get("pids") or "")

    def _started(self, container: _Container, report: int) -> None:
        """The report pipe has ended: without a word when the container has executed its command."""
        told = self._report(report)
        if told is None:
            return
        container.reported = True
        if container.spec.get("bundle") and not told:
            if container.being_made and not container.running:
                self._failed(container, f"crun ended with status {container.exit_code} and said nothing")
            return  # crun tells by its end
        seq = container.spec.pop("seq", None)
        if not told:
            container.ready = True
            self._say({"seq": seq, "container": container.record()})
            if not container.running:
                self._say({"event": "exited", "container": container.record()})
            return
        del self._containers[container.spec["id"]]
        self._drain(container)
        self._close_input(container)
        self._say({"seq": seq, "error": _error_told(told)})

    def _report(self, report: int) -> bytes | None:
        """What a forked child has to tell: nothing when it has executed its command; None when it is not that far."""
        try:
            told = os.read(report, 4096)
        except BlockingIOError:  # the number was another file's when its event was taken
            return None
        self._forget(report)
        os.close(report)
        return told

    def _execute(self, message: Message, descriptors: list[int]) -> None:
        container = self._find(message["id"])
        if not container.running or not container.ready:
            raise Refused(f"container {message['id']} is not running")
        stdin, stdout, stderr = {1: (*descriptors, -1, -1), 2: (-1, *descriptors)}.get(len(descriptors), tuple(descriptors))
        report, report_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with self._shared.children_in(container.pidfd):
                pid = os.fork()
                if pid == 0:
                    launch.become_command(
                        message["argv"], container.spec, container=container.pidfd, stdin=stdin, stdout=stdout, stderr=stderr, tty=bool(message.get("tty")),
                        report=report_end, files_limit=self._files_limit,
                    )  # fmt: skip
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(report_end)
        self._commands[pid] = message["command"]
        seq = message.get("seq")
        self._watch(report, lambda fd: self._command_started(fd, seq))

    def _command_started(self, report: int, seq: int | None) -> None:
        told = self._report(report)
        if told is not None:
            self._say({"seq": seq, "error": _error_told(told)} if told else {"seq": seq})

    def _attach(self, message: Message, descriptors: list[int]) -> None:
        container = self._find(message["id"])
        if not container.running or not container.ready:
            raise Refused(f"container {message['id']} is not running")
        streams = [stream for stream in ("stdout", "stderr") if stream in container.pipes.values()]
        for stream, descriptor in zip(("stdout", "stderr"), descriptors, strict=False):
            if stream in streams:
                container.readers = container.readers or Readers(partial(self._watch, events=0), self._forget)
                container.readers.add(stream, descriptor)
        inputs = (container.input,) if container.input >= 0 else ()
        self._say({"seq": message.get("seq"), "tty": bool(container.spec.get("tty"))}, inputs)

    @staticmethod
    def _close_input(container: _Container) -> None:
        if container.input >= 0:
            os.close(container.input)
            container.input = -1

    # ---- output and ends

    def _output(self, container: _Container, fd: int) -> bool:
        """Take what the container has written; False when there is no more for now."""
        try:
            data = os.read(fd, READ)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # nobody has the terminal open any more
        log = container.log
        if data:
            if log is not None:
                log.feed(container.pipes[fd], data)
            if container.readers is not None:
                container.readers.show(container.pipes[fd], data)
            return True
        stream = container.pipes.pop(fd)
        if container.readers is not None:
            container.readers.end(stream)
        self._forget(fd)
        os.close(fd)
        if log is not None:
            log.end(stream)
            if not container.pipes:
                self._close_log(container)
        return False

    @staticmethod
    def _close_log(container: _Container) -> None:
        if container.log is not None:
            container.log.close()
            if container.log.lost:
                print(f"{container.log.path}: {container.log.lost} bytes could not be written", file=sys.stderr, flush=True)
            container.log = None

    def _drain(self, container: _Container) -> None:
        """Take all that was written before the end, so that a log is whole when the end is told."""
        for fd in list(container.pipes):
            while self._output(container, fd):
                pass

    def _children(self, fd: int) -> None:
        try:
            while os.read(fd, 512):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(pid, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, code: int) -> None:
        number, exit_code = (-code, 128 - code) if code < 0 else (0, code)
        if (name := self._commands.pop(pid, None)) is not None:
            self._say({"event": "command-exited", "command": name, "exit_code": exit_code})
            return
        container = self._by_pid.pop(pid, None)
        if container is None:
            if any(one.being_made for one in self._by_pid.values()):
                self._strangers[pid] = code  # a container whose crun has not ended yet, maybe
            return
        if container.being_made and code == 0:
            self._made(container)
            return
        container.finished_at = time.time()
        container.exit_code, container.signal = exit_code, number
        os.close(container.pidfd)
        if container.spec.get("pids"):
            end_rest(container.spec, pid)
        if self._containers.get(container.spec["id"]) is not container:
            return  # its start has failed, and was told
        if container.being_made:
            message = _said(container.spec["bundle"])
            if message or container.reported:
                self._failed(container, message or f"crun ended with status {exit_code} and said nothing")
            return
        self._drain(container)
        self._close_input(container)
        if container.ready:
            self._say({"event": "exited", "container": container.record()})

    def _made(self, container: _Container) -> None:
        """crun has made the container and ended; the container's own process has become our child."""
        with open(f"{container.spec['bundle']}/pid", encoding="ascii") as file:
            pid = int(file.read())
        os.close(container.pidfd)
        container.pid, container.being_made, container.ready, container.started_at = pid, False, True, time.time()
        code = self._strangers.pop(pid, None)
        container.pidfd = os.dup(self._own_pidfd) if code is not None else os.pidfd_open(pid)
        self._by_pid[pid] = container
        self._say({"seq": container.spec.pop("seq", None), "container": container.record()})
        if code is not None:
            self._ended(pid, code)
        if not any(one.being_made for one in self._by_pid.values()):
            self._strangers.clear()

    def _failed(self, container: _Container, message: str) -> None:
        """crun could not make the container."""
        del self._containers[container.spec["id"]]
        self._drain(container)
        self._close_input(container)
        self._say({"seq": container.spec.pop("seq", None), "error": {"errno": errno.EINVAL, "message": message}})

    def _release(self, container: _Container) -> None:
        for fd in list(container.pipes):
            self._forget(fd)
            os.close(fd)
        container.pipes.clear()
        if container.readers is not None:
            container.readers.end("stdout", "stderr")
        self._close_log(container)
        del self._containers[container.spec["id"]]


def main() -> None:
    """Run with the listening socket's descriptor as the only argument."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(listener.fileno(), False)
    Spawner(listener).run()
