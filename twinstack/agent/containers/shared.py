"""The namespaces that the containers of a pod share, kept by the spawner.

Rule of this file: as in ``spawner``, the standard library's thinnest part only.

A pod has an IPC and a UTS namespace of its own, unless it is in the host's IPC namespace. Each container has a PID
namespace, in which it is process 1, so that its end is the end of all that it has started; unless the pod shares one
(``shareProcessNamespace``), whose process 1 does nothing but bury the dead, or is in the host's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from twinstack.agent.containers import launch

MARK = "TWINSTACK_CONTAINER"  # by which the processes of a container are found that has no PID namespace of its own
_IPC, _UTS = ("ipc", launch.CLONE_NEWIPC), ("uts", launch.CLONE_NEWUTS)

Namespaces = list[tuple[int, int]]
"""Descriptors of namespaces, and the flag of the kind of each."""


def _own(name: str) -> int:
    return os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)


class Shared:
    """What pods share; everything is made with a pod's first container and goes with :meth:`forget`."""

    def __init__(self) -> None:
        self._ours = [(_own(name), flag) for name, flag in (_IPC, _UTS)]
        self._our_pids = _own("pid")
        self._pods: dict[str, Namespaces] = {}
        self._pauses: dict[str, tuple[int, int]] = {}  # process 1 of a pod's PID namespace: pid, pidfd

    def namespaces(self, pod: str, hostname: str, *, host_ipc: bool) -> Namespaces:
        """The IPC and UTS namespaces of a pod."""
        if pod not in self._pods:
            kinds = (_UTS,) if host_ipc else (_IPC, _UTS)
            try:
                launch.unshare(sum(flag for _, flag in kinds))
                launch.set_hostname(hostname)
                self._pods[pod] = [(_own(name), flag) for name, flag in kinds]
            finally:
                for descriptor, flag in self._ours:
                    launch.setns(descriptor, flag)
        return self._pods[pod]

    @contextmanager
    def children_in(self, pid_namespace: int | None) -> Iterator[None]:
        """Children forked in the body are born in the PID namespace of this pidfd's process; None: in a new one."""
        if pid_namespace is None:
            launch.unshare(launch.CLONE_NEWPID)
        else:
            launch.setns(pid_namespace, launch.CLONE_NEWPID)
        try:
            yield
        finally:
            launch.setns(self._our_pids, launch.CLONE_NEWPID)

    @contextmanager
    def children_of(self, pod: str, pids: str) -> Iterator[None]:
        """Children forked in the body are a container's; *pids* is empty, ``pod`` or ``host``."""
        if pids == "host":
            yield
            return
        with self.children_in(self._pause(pod) if pids == "pod" else None):
            yield

    def first_process(self, pod: str) -> int:
        """Process 1 of the PID namespace that a pod's containers share, by its number in our own."""
        self._pause(pod)
        return self._pauses[pod][0]

    def _pause(self, pod: str) -> int:
        if pod in self._pauses and self._has_ended(pod):
            os.close(self._pauses.pop(pod)[1])
        if pod not in self._pauses:
            with self.children_in(None):
                pid = os.fork()
                if pid == 0:
                    _bury_the_dead()
            self._pauses[pod] = pid, os.pidfd_open(pid)
        return self._pauses[pod][1]

    def _has_ended(self, pod: str) -> bool:
        try:
            signal.pidfd_send_signal(self._pauses[pod][1], 0)
        except ProcessLookupError:
            return True
        return False

    def forget(self, pod: str) -> None:
        """Let go of what a pod shared, and end what still runs in its PID namespace."""
        for descriptor, _ in self._pods.pop(pod, []):
            os.close(descriptor)
        if pod in self._pauses:
            _, pidfd = self._pauses.pop(pod)
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _bury_the_dead() -> NoReturn:
    """Be process 1 of a PID namespace: hold nothing open, wait for whoever has lost its parent."""
    try:
        launch.end_with_parent()
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.closerange(0, os.sysconf("SC_OPEN_MAX"))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            signal.sigwait({signal.SIGCHLD})
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
    finally:
        os._exit(1)


def end_rest(spec: dict[str, Any], leader: int) -> None:
    """End what a container leaves behind that was not process 1 of a namespace of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
    mark = f"{MARK}={spec['id']}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    ours = mark in file.read().split(b"\0")
                if ours:
                    os.kill(int(entry), signal.SIGKILL)
            except OSError:  # it has ended meanwhile
                continue
