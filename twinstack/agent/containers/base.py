"""What a container runtime is to the agent: it starts, tells how things ended, runs commands, forgets.

The agent's pods know this protocol only; ``process`` is the first runtime behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from twinstack.net.errors import Error

USER = "user"  # label of a record: as whom its first process was started


def label_of_user(uid: int | None, gid: int | None, groups: Iterable[int]) -> str:
    """User, group and all groups, the group among them, as a label's text."""
    return f"{uid or 0}:{gid or 0}:{','.join(map(str, dict.fromkeys((gid or 0, *groups))))}"


class Mount(NamedTuple):
    """A file or directory of the host that stands at *target* in the container."""

    source: str
    target: str
    readonly: bool = False
    follows: bool = False  # what is mounted below it on the host later appears (HostToContainer)
    recursively: bool = False  # whether what is mounted below it is read-only, too


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a container is started with. ``labels`` come back in its records.

    ``init`` is the path of a program that runs as PID 1 with the command as its child, empty for none.
    ``uid`` and ``gid`` None mean the superuser's.
    """

    id: str
    pod: str
    labels: Mapping[str, str]
    argv: Sequence[str]
    env: Mapping[str, str]
    hostname: str
    log: str
    log_size: int = 0  # bytes of a log file before the next is begun, and how many files there are at most; 0 for the default
    log_files: int = 0
    cwd: str = "/"
    mounts: Sequence[Mount] = ()
    init: str = ""
    uid: int | None = None
    gid: int | None = None
    groups: Sequence[int] = ()
    stdin: bool = False
    tty: bool = False
    cgroups: Sequence[str] = ()  # the files by which it joins its control groups
    oom_score: int = 0  # how soon the kernel ends it where the node lacks memory
    pids: str = ""  # in whose PID namespace it is: empty for its own, pod, host, container for that of *beside*
    beside: str = ""  # the id of another container
    host_ipc: bool = False
    readonly: bool = False  # whether a host process may write nothing but its volumes
    # of a container from an image: its bundle and the image's root; what it may do, also in commands that are run in it later
    bundle: str = ""
    rootfs: str = ""
    capabilities: Sequence[int] | None = None  # None: all that the node's agent has
    no_new_privileges: bool = False
    seccomp: bytes = b""  # the program that its commands are held to (in a bundle crun has the profile)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime knows of a container. Times are seconds of the wall clock; ``exit_code`` is 128 + n after signal n."""

    id: str
    pod: str
    labels: Mapping[str, str]
    pid: int = 0
    running: bool = True
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    signal: int = 0
    lost: bool = False  # it ended while nobody watched, so how it ended is not known
    reason: str = ""  # why it ended, where that is not told by the exit code
    message: str = ""


class ContainerError(Error):
    """The runtime could not do what was asked. ``errno`` is the kernel's number, 0 when it is not the kernel that refused."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class Output(NamedTuple):
    """How a command inside a container ended; ``exit_code`` is None when its time was up."""

    exit_code: int | None
    text: bytes


class Streams(NamedTuple):
    """Our ends of a process's standard streams, to be closed by who got them; -1 where there is none.

    With a terminal, what is written to ``stdin`` is typed and what is read from ``stdout`` is shown; ``stderr`` is -1.
    """

    stdin: int
    stdout: int
    stderr: int
    tty: bool


class Command(Protocol):
    """A command that runs inside a container."""

    streams: Streams

    async def ended(self) -> int:
        """Its exit code, 128 + n after signal n; ContainerError when that is not known."""

    async def signal(self, number: int) -> None:
        """Signal it and what it has started; one that has ended is a success."""


class Runtime(Protocol):
    """Runs containers. Everything raises ContainerError when it cannot."""

    on_exit: Callable[[Record], None]

    def records(self) -> Sequence[Record]:
        """All containers that stand or have ended and were not removed."""

    async def start(self, launch: Launch, *, netns: str | None) -> Record:
        """Start a container in the network namespace of this path, or in the node's own."""

    async def signal(self, identifier: str, number: int) -> None:
        """Signal a container's PID 1; one that has ended is a success."""

    async def execute(self, identifier: str, argv: Sequence[str], *, timeout_seconds: float) -> Output:
        """Run a command inside a container; only the first part of what it says is kept."""

    async def begin(self, identifier: str, argv: Sequence[str], *, stdin: bool, tty: bool) -> Command:
        """Start a command inside a container, to be talked with."""

    async def attach(self, identifier: str) -> Streams:
        """Streams that show what a running container says from now on, and that it hears if it was started with stdin."""

    async def end_input(self, identifier: str) -> None:
        """Let a container that was started with stdin and without a terminal read the end of file."""

    async def remove(self, identifier: str) -> None:
        """Forget a container that has ended."""

    async def forget(self, pod: str) -> None:
        """Let go of what the containers of a pod shared."""
