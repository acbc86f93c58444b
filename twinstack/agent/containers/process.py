"""Containers as host processes: the agent's end of the spawner.

The agent finds the node's spawner by its socket under the root directory, or starts one. When the spawner dies
its containers die with it; they are told as ended with exit code 137, *lost*, and a new spawner takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from twinstack.agent.containers import oci, spawner
from twinstack.agent.containers.base import ContainerError, Launch, Output, Record, Streams
from twinstack.kernel import namespaces, processes

log = logging.getLogger(__name__)
LONGEST_OUTPUT = 10 * 1024
ATTACHED_BYTES = 1 << 20  # how far behind someone who is attached may be
_SOCKET = "spawner.sock"


class ProcessRuntime:
    """Runs containers as processes of this host, through the spawner of *root*.

    ``async with`` it: one agent at a time has a root directory (ContainerError otherwise). Leaving lets the
    containers run on.
    """

    def __init__(self, root: Path) -> None:
        self.on_exit: Callable[[Record], None] = lambda record: None
        self._root = root
        self._records: dict[str, Record] = {}
        self._connection: socket.socket | None = None
        self._spawner_pid = 0
        self._seq = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._commands: dict[str, asyncio.Future[int]] = {}
        self._closing = False
        self._undo = contextlib.ExitStack()

    async def __aenter__(self) -> ProcessRuntime:
        self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            self._directory = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._directory)
            lock = os.open(self._root / "kubelet.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ContainerError(f"{self._root} is in use by another kubelet; give each one a --root-dir of its own") from None
            undo.callback(self._disconnect)
            await self._connect()
            self._undo = undo.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._closing = True
        self._undo.close()

    @property
    def spawner_pid(self) -> int:
        """The process that containers are forked from."""
        return self._spawner_pid

    # ---- the connection

    async def _connect(self) -> None:
        address = f"/proc/self/fd/{self._directory}/{_SOCKET}"  # a socket's path may be only 107 bytes long, a root directory longer
        # one that has nothing to keep may end in the very moment in which we come; then another is started
        connection, hello = await self._greet(address) or await self._greet(address) or (None, {})
        if connection is None:
            raise ContainerError(f"the spawner has ended; see {self._root / 'spawner.log'}")
        if hello.get("protocol") != spawner.PROTOCOL:
            connection.close()
            raise ContainerError(f"the spawner of {self._root} speaks protocol {hello.get('protocol')}, not {spawner.PROTOCOL}; drain the node and end it")
        self._connection, self._spawner_pid = connection, hello["pid"]
        self._records |= {record.id: record for record in map(_record, hello["containers"])}
        asyncio.get_running_loop().add_reader(connection.fileno(), self._readable)

    async def _greet(self, address: str) -> tuple[socket.socket, dict[str, Any]] | None:
        """Connect with the spawner, or with one that is started now, and hear its first word; None when it has ended before that."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            try:
                connection.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                self._start_spawner(address)
                connection.connect(address)
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            hello = await self._first_message(connection)
        except BaseException:
            connection.close()
            raise
        if hello is None:
            connection.close()
            return None
        return connection, hello

    def _start_spawner(self, address: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        if ended := oci.end_leftovers(self._root / "pods"):
            log.warning("Containers of a spawner that is gone are ended", extra={"containers": ended})
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, open(self._root / "spawner.log", "ab") as output:
            listener.bind(address)
            os.chmod(address, 0o600)
            listener.listen(4)
            package = str(Path(spawner.__file__).parents[3])
            program = f"import sys; sys.path.insert(0, {package!r}); from twinstack.agent.containers.spawner import main; main()"
            self._spawner_pid = processes.start_detached(
                [sys.executable, "-IS", "-c", program, str(listener.fileno())],
                env=dict(os.environ),
                stdout_fd=output.fileno(),
                stderr_fd=output.fileno(),
                pass_fds=[listener.fileno()],
            )

    async def _first_message(self, connection: socket.socket) -> dict[str, Any] | None:
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(connection.fileno(), readable.set)
        try:
            async with asyncio.timeout(10):
                await readable.wait()
        except TimeoutError:
            raise ContainerError(f"the spawner does not answer; see {self._root / 'spawner.log'}") from None
        finally:
            loop.remove_reader(connection.fileno())
        try:
            received = spawner.receive(connection)
        except ConnectionResetError:
            received = None
        return received[0] if received is not None else None

    def _disconnect(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
            self._connection = None
        gone = ContainerError("the spawner has ended")
        futures: list[asyncio.Future[Any]] = [*self._waiting.values(), *self._commands.values()]
        for future in futures:
            if not future.done():
                future.set_exception(gone)
        self._waiting.clear()
        self._commands.clear()

    async def watch(self) -> None:
        """Keep a spawner at work until cancelled: when one has died, tell its containers' ends and start another."""
        while True:
            pid = self._spawner_pid
            await processes.ended(pid)
            if self._closing:
                return
            processes.reap(pid)
            log.error("The spawner has died, and its containers with it", extra={"pid": pid})
            self._disconnect()
            lost = [record for record in self._records.values() if record.running]
            await self._connect()
            for record in lost:
                self._ended(msgspec.structs.replace(record, running=False, finished_at=time.time(), exit_code=137, lost=True))
            await asyncio.sleep(1)  # one that dies at once must not be started in a tight loop

    def _readable(self) -> None:
        while self._connection is not None:
            try:
                received = spawner.receive(self._connection)
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._disconnect()
                return
            self._take(*received)

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message.get("event") == "exited":
            self._ended(_record(message["container"]))
        elif message.get("event") == "command-exited":
            future = self._commands.pop(message["command"], None)
            if future is not None and not future.done():
                future.set_result(message["exit_code"])
        elif (waiting := self._waiting.pop(message.get("seq") or 0, None)) is not None and not waiting.done():
            if error := message.get("error"):
                waiting.set_exception(ContainerError(error["message"], error["errno"]))
            else:
                waiting.set_result({**message, "descriptors": descriptors})
                return
        for descriptor in descriptors:
            os.close(descriptor)

    def _ended(self, record: Record) -> None:
        self._records[record.id] = record
        self.on_exit(record)

    async def _ask(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        if self._connection is None:
            raise ContainerError("the spawner is being started")
        self._seq += 1
        seq = self._seq
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = future
        try:
            spawner.send(self._connection, {**message, "seq": seq}, descriptors)
            return await future
        except OSError as error:
            raise ContainerError(f"the spawner does not listen: {error}", error.errno or 0) from error
        finally:
            self._waiting.pop(seq, None)

    # ---- what the agent asks for

    def records(self) -> Sequence[Record]:
        """All containers that stand or have ended and were not removed."""
        return list(self._records.values())

    async def start(self, launch: Launch, *, netns: str | None) -> Record:
        """Start a container; ContainerError says which step the kernel refused."""
        try:
            with _opened(netns) as descriptors:
                answer = await self._ask({"op": "start", **msgspec.to_builtins(launch)}, descriptors)
        except ContainerError:
            if launch.bundle:
                shutil.rmtree(launch.bundle, ignore_errors=True)
            raise
        record = _record(answer["container"])
        known = self._records.get(record.id)
        if known is None or known.running:
            self._records[record.id] = record
        return self._records[record.id]

    async def signal(self, identifier: str, number: int) -> None:
        """Signal a container's PID 1; one that has ended is a success."""
        try:
            await self._ask({"op": "signal", "id": identifier, "signal": int(number)})
        except ContainerError as error:
            if error.errno != errno.ESRCH and self._records.get(identifier, _GONE).running:
                raise

    async def execute(self, identifier: str, argv: Sequence[str], *, timeout_seconds: float) -> Output:
        """Run a command inside a container, and keep the first part of what it says."""
        loop = asyncio.get_running_loop()
        name = f"{identifier}/{self._seq + 1}"  # the number of the request that follows
        ended = self._commands[name] = loop.create_future()
        kept = bytearray()
        eof = asyncio.Event()
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)

        def take() -> None:
            try:
                data = os.read(reading, 65536)
            except BlockingIOError:
                return
            kept.extend(data[: max(0, LONGEST_OUTPUT - len(kept))])
            if not data:
                loop.remove_reader(reading)
                eof.set()

        try:
            try:
                await self._ask({"op": "exec", "id": identifier, "command": name, "argv": list(argv)}, (writing, writing))
            finally:
                os.close(writing)
            loop.add_reader(reading, take)
            code: int | None
            try:
                async with asyncio.timeout(timeout_seconds):
                    code = await ended
                    await eof.wait()
            except TimeoutError:
                code = ended.result() if ended.done() and not ended.cancelled() else None
                with contextlib.suppress(ContainerError):  # it has ended in the same moment
                    await self._ask({"op": "signal-command", "command": name, "signal": int(signal.SIGKILL)})
            return Output(code, bytes(kept))
        finally:
            self._commands.pop(name, None)
            if not ended.done():
                ended.cancel()
            loop.remove_reader(reading)
            os.close(reading)

    async def begin(self, identifier: str, argv: Sequence[str], *, stdin: bool, tty: bool) -> _Command:
        """Start a command inside a container, to be talked with."""
        name = f"{identifier}/{self._seq + 1}"
        future = self._commands[name] = asyncio.get_running_loop().create_future()
        request = {"op": "exec", "id": identifier, "command": name, "argv": list(argv), "tty": tty}
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as passed:
            undo.callback(self._commands.pop, name, None)
            if tty:
                near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with near, far:
                    near.setblocking(False)
                    await self._ask(request, (far.fileno(),))
                    _, descriptors, _, _ = socket.recv_fds(near, 1, 1, socket.MSG_CMSG_CLOEXEC)
                master = descriptors[0]
                undo.callback(os.close, master)
                ours = Streams(os.dup(master) if stdin else -1, master, -1, True)
            else:
                from_stdin, to_stdin = os.pipe2(os.O_CLOEXEC) if stdin else (os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1)
                (from_stdout, to_stdout), (from_stderr, to_stderr) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
                for end in (from_stdin, to_stdout, to_stderr):
                    passed.callback(os.close, end)
                for end in {to_stdin, from_stdout, from_stderr} - {-1}:
                    undo.callback(os.close, end)
                ours = Streams(to_stdin, from_stdout, from_stderr, False)
                await self._ask(request, (from_stdin, to_stdout, to_stderr))
            for end in set(ours[:3]) - {-1}:
                os.set_blocking(end, False)
            undo.pop_all()
        return _Command(ours, name, future, self)

    async def attach(self, identifier: str) -> Streams:
        """Streams that show what a running container says from now on, and that it hears if it was started with stdin."""
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as passed:
            ends = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(2)]
            for reading, writing in ends:
                undo.callback(os.close, reading)
                passed.callback(os.close, writing)
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, ATTACHED_BYTES)
            answer = await self._ask({"op": "attach", "id": identifier}, tuple(writing for _, writing in ends))
            undo.pop_all()
        (stdout, _), (stderr, _) = ends
        return Streams(answer["descriptors"][0] if answer["descriptors"] else -1, stdout, stderr, answer["tty"])

    async def end_input(self, identifier: str) -> None:
        """Let a container that was started with stdin and without a terminal read the end of file."""
        await self._ask({"op": "end-input", "id": identifier})

    async def signal_command(self, name: str, number: int) -> None:
        """Signal a command that was begun, and what it has started."""
        try:
            await self._ask({"op": "signal-command", "command": name, "signal": int(number)})
        except ContainerError as error:
            if error.errno != errno.ESRCH:
                raise

    async def remove(self, identifier: str) -> None:
        """Forget a container that has ended."""
        record = self._records.get(identifier)
        if record is not None and not record.lost:
            await self._ask({"op": "remove", "id": identifier})
        self._records.pop(identifier, None)
        if record is not None and (bundle := record.labels.get(oci.BUNDLE)):
            await asyncio.to_thread(shutil.rmtree, bundle, ignore_errors=True)

    async def forget(self, pod: str) -> None:
        """Let go of the namespaces that the containers of a pod shared."""
        await self._ask({"op": "forget", "pod": pod})


class _Command:
    """A command that was begun."""

    def __init__(self, streams: Streams, name: str, future: asyncio.Future[int], runtime: ProcessRuntime) -> None:
        self.streams = streams
        self._name, self._future, self._runtime = name, future, runtime

    async def ended(self) -> int:
        return await asyncio.shield(self._future)

    async def signal(self, number: int) -> None:
        await self._runtime.signal_command(self._name, number)


_GONE = Record(id="", pod="", labels={}, running=False)


@contextlib.contextmanager
def _opened(netns: str | None) -> Iterator[tuple[int, ...]]:
    if netns is None:
        yield ()
        return
    descriptor = namespaces.opened(netns)
    try:
        yield (descriptor,)
    finally:
        os.close(descriptor)


def _record(told: dict[str, Any]) -> Record:
    return msgspec.convert(told, Record)
