"""Network namespaces as files: made, entered, left and removed.

Rule of this file: a namespace is named by the path of the file that it is bound to, as ``ip netns`` does it
(/run/netns/NAME). A thread enters and leaves; nothing here forks, so everything is safe inside an event
loop as long as nothing is awaited while a namespace is entered.

Theory. ``unshare`` and ``setns`` of a network namespace act on the calling thread only. The namespace lives
as long as a process, a file descriptor or a bind mount of ``/proc/thread-self/ns/net`` holds it. Unlinking
the file detaches its mounts in all mount namespaces (Linux 3.18), so that a pod's private copy of the mount
table does not keep a namespace alive. ``/proc/sys/net`` is always that of the thread that opens it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from twinstack.kernel.errors import KernelError, translated

CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, command: str) -> None:
    if result != 0:
        raise KernelError(ctypes.get_errno(), command)


def setns(descriptor: int, command: str) -> None:
    """Move this thread into the network namespace that the descriptor refers to."""
    _checked(_libc.setns(descriptor, CLONE_NEWNET), command)


def opened(path: str) -> int:
    """A file descriptor of the namespace, to be closed by the caller; KernelError when the file is missing."""
    with translated(f"open {path}"):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def entered(namespace: str | int) -> Iterator[None]:
    """Let this thread stand in the namespace, a path or an open descriptor, within the body.

    Never await in the body: other tasks would run in the wrong namespace.
    """
    before = opened(_OWN)
    try:
        descriptor = namespace if isinstance(namespace, int) else opened(namespace)
        try:
            setns(descriptor, f"enter {namespace}")
        finally:
            if descriptor is not namespace:
                os.close(descriptor)
        try:
            yield
        finally:
            setns(before, "return from a namespace")
    finally:
        os.close(before)


def enter(path: str) -> None:
    """Move this thread into the namespace for good: how a program that was started elsewhere becomes a node's."""
    descriptor = opened(path)
    try:
        setns(descriptor, f"enter {path}")
    finally:
        os.close(descriptor)


def create(path: str, sysctls: Iterable[tuple[str, str]] = ()) -> None:
    """Make a new network namespace and bind it to *path*, making parent directories.

    *sysctls* are set in it before anybody else can see it; a key such as ``net/ipv4/ip_forward``.
    KernelError ``.exists`` when there is a file already. Nothing is left behind on failure.
    """
    with translated(f"create {path}"):
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    before = -1
    try:
        before = opened(_OWN)
        _checked(_libc.unshare(CLONE_NEWNET), f"create {path}")
        try:
            for key, value in sysctls:
                write_sysctl(key, value)
            _checked(_libc.mount(_OWN.encode(), os.fsencode(path), None, _MS_BIND, None), f"bind {path}")
        finally:
            setns(before, "return from a new namespace")
    except BaseException:
        os.unlink(path)
        raise
    finally:
        if before >= 0:
            os.close(before)


def remove(path: str) -> None:
    """Unbind the namespace and remove its file; one that is gone already, or a stale file, is a success."""
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):
        raise KernelError(number, f"unbind {path}")
    try:
        with translated(f"remove {path}"):
            os.unlink(path)
    except KernelError as error:
        if not error.missing:
            raise


def exists(path: str) -> bool:
    """Whether a living namespace is bound to the path; a file that a reboot left behind is none."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


def identity(path: str = _OWN) -> int:
    """The inode number of a namespace, the same for all its names; KernelError when there is none."""
    with translated(f"stat {path}"):
        return os.stat(path).st_ino


def socket_in(path: str, family: int, type: int) -> socket.socket:
    """A new socket that lives in the namespace, for use from anywhere."""
    with entered(path):
        return socket.socket(family, type)


def processes_in(path: str) -> list[int]:
    """The processes whose main thread is in the namespace; empty when the namespace is gone."""
    return processes_in_any([path])


def processes_in_any(paths: Iterable[str]) -> list[int]:
    """The processes whose main thread is in one of the namespaces, by one walk over /proc."""
    wanted = {identity(path) for path in paths if exists(path)}
    if not wanted:
        return []
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                inode = os.stat(f"/proc/{name}/ns/net").st_ino
            except OSError:  # it ended meanwhile
                continue
            if inode in wanted:
                found.append(int(name))
    return found


def write_sysctl(key: str, value: str) -> None:
    """Set a kernel parameter such as ``net/ipv4/ip_forward`` in this thread's namespace."""
    with translated(f"set {key} to {value}"):
        descriptor = os.open(f"/proc/sys/{key}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)


def read_sysctl(key: str) -> str:
    """A kernel parameter of this thread's namespace."""
    with translated(f"read {key}"), open(f"/proc/sys/{key}", encoding="ascii") as file:
        return file.read().strip()


def join(pid: int) -> None:
    """Move this process into the network, mount, host name and IPC namespaces of another, and what it forks into its process ids'.

    Only a process without threads may (setns(2)); the caller forks and executes.
    """
    with translated(f"find process {pid}"):
        descriptor = os.pidfd_open(pid)
    try:
        # CLONE_NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET by one pidfd: Linux 5.8
        _checked(_libc.setns(descriptor, 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | CLONE_NEWNET), f"join process {pid}")
    finally:
        os.close(descriptor)
