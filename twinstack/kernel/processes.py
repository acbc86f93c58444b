"""Other programs: run to their end, started for good, found by a mark, ended.

Rule of this file: a process is waited for through a pidfd, so that a number that was given to somebody
else meanwhile is never signalled. A mark is an environment variable that a program was executed with; it
is inherited by what it forks, and survives everything but another exec with another environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import NamedTuple

from twinstack.kernel.errors import KernelError, translated
from twinstack.kernel.namespaces import entered


class Completed(NamedTuple):
    """How a program ended. ``returncode`` is negative when a signal ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, stdin: bytes = b"", timeout: float | None = None, netns: str | None = None
) -> Completed:
    """Run a program to its end, feeding it *stdin*.

    It is killed when *timeout* seconds have passed (TimeoutError), or when the caller is cancelled.
    KernelError ``.missing`` when there is no such program. What it reads and writes are files of memory, so that
    nothing has to be done until it ends, and what it may leave running does not keep us waiting.
    """
    with ExitStack() as undo:
        streams = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdin", "stdout", "stderr")]
        for descriptor in streams:
            undo.callback(os.close, descriptor)
        with open(streams[0], "r+b", closefd=False) as file:
            file.write(stdin)
        os.lseek(streams[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(streams)]
        spawn = os.posix_spawn if "/" in argv[0] else os.posix_spawnp
        with translated(argv[0]), nullcontext() if netns is None else entered(netns):
            environment = dict(os.environ if env is None else env)
            pid = spawn(argv[0], list(argv), environment, file_actions=actions, setsigmask=(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))
        pidfd = os.pidfd_open(pid)
        undo.callback(os.close, pidfd)
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(pidfd, over.set)
        undo.callback(loop.remove_reader, pidfd)
        try:
            async with asyncio.timeout(timeout):
                await over.wait()
        finally:
            if not over.is_set():
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await over.wait()
            code = _code(pid)
        return Completed(code, *(_whole(descriptor) for descriptor in streams[1:]))


def _code(pid: int) -> int:
    """How a child that has ended did so."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _whole(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def start_detached(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdout_fd: int,
    stderr_fd: int,
    pass_fds: Sequence[int] = (),
    netns: str | None = None,
) -> int:
    """Start a program in a session of its own that outlives us, and return its process id.

    ``argv[0]`` is a path. Its standard input is empty; *pass_fds* keep their numbers. The caller stays its
    parent: see :func:`reap`.
    """
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, stdout_fd, 1), (os.POSIX_SPAWN_DUP2, stderr_fd, 2)]
    actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in pass_fds]
    try:
        with translated(argv[0]), nullcontext() if netns is None else entered(netns):
            return os.posix_spawn(argv[0], list(argv), dict(env), file_actions=actions, setsid=True, setsigmask=(), setsigdef=(signal.SIGPIPE,))
    finally:
        os.close(null)


def marked(name: str, value: str | None = None) -> list[int]:
    """The processes that were executed with this environment variable, of any value when *value* is None."""
    start = f"{name}=".encode()
    wanted = None if value is None else start + value.encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:  # it ended meanwhile, or is not ours to look at
            continue
        if any(variable == wanted if wanted is not None else variable.startswith(start) for variable in variables):
            found.append(int(entry))
    return found


def variable(pid: int, name: str) -> str | None:
    """The environment variable that a process was executed with; None when it has none, or is gone."""
    start = f"{name}=".encode()
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    return next((one[len(start) :].decode(errors="replace") for one in variables if one.startswith(start)), None)


def alive(pid: int) -> bool:
    """Whether the process exists and has not ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def started_at(pid: int) -> float | None:
    """When the process was started, in seconds of the wall clock; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def reap(pid: int) -> None:
    """Take note of a child's end, if it ended; a process that is not our child is left alone."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def end(pid: int, grace_seconds: float) -> bool:
    """End a process: SIGTERM, and SIGKILL when it still runs *grace_seconds* later; True when it had to be killed."""
    return bool(end_all([pid], grace_seconds))


def end_all(pids: Iterable[int], grace_seconds: float) -> list[int]:
    """End processes together, and return those that had to be killed. Processes that are gone are a success."""
    handles = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles[os.pidfd_open(pid)] = pid
    try:
        killed = []
        for number, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
            if number is signal.SIGTERM and patience <= 0:
                continue
            remaining = _running(handles, 0.0)
            if number is signal.SIGKILL:
                killed = [handles[fd] for fd in remaining]
            for fd in remaining:
                try:
                    signal.pidfd_send_signal(fd, number)
                except ProcessLookupError:  # it ended meanwhile
                    continue
                except PermissionError as error:
                    raise KernelError(errno.EPERM, f"end process {handles[fd]}") from error
            _running({fd: handles[fd] for fd in remaining}, patience)
        return killed
    finally:
        for fd, pid in handles.items():
            os.close(fd)
            reap(pid)


def _running(handles: Mapping[int, int], patience_seconds: float) -> list[int]:
    """Wait until all have ended, or for so long; the descriptors of those that still run."""
    poll = select.poll()
    for fd in handles:
        poll.register(fd, select.POLLIN)
    remaining = set(handles)
    deadline = time.monotonic() + patience_seconds
    while remaining:
        left = deadline - time.monotonic()
        for fd, _ in poll.poll(max(0.0, left) * 1000):
            poll.unregister(fd)
            remaining.discard(fd)
        if left <= 0:
            break
    return sorted(remaining)


async def ended(pid: int) -> None:
    """Wait until a process has ended, our child or not; returns at once when there is none."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    try:
        loop.add_reader(fd, done.set)
        await done.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
