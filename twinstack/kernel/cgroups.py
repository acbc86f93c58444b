"""Control groups of this machine, of both versions: made below a base of ours, limited, joined, counted, removed.

Theory. Version 1 has a tree for each controller, version 2 one tree for all; a machine may have both, each controller
being in one of them (hybrid). In version 1 we begin where the process stands that containers are forked from, so that
nothing escapes a limit that it has itself. In version 2 a group that holds processes may not limit the groups below
it, so we begin at the root of the tree and switch the controllers on downwards. A group is a directory; it is
removed when nothing runs in it any more.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CONTROLLERS = ("cpu", "memory", "pids")
# By which a process of one thread joins a group. In version 1 it may move as a thread, for which the kernel need not stop all other threads of the machine
# for a moment, as it does for a process (a grace period of RCU: some 10 ms).
JOIN = ("tasks", "cgroup.procs")


class Limits(NamedTuple):
    """What a group is held to; None leaves the kernel's default. ``cpu_quota`` is in microseconds of each period."""

    memory: int | None = None
    cpu_quota: int | None = None
    cpu_period: int = 100_000
    cpu_shares: int | None = None  # version 1: 1024 is one processor
    cpu_weight: int | None = None  # version 2: 1 to 10000
    pids: int | None = None


class Tree(NamedTuple):
    """A mounted tree: its version, which of our controllers it has, and the directory below which groups are made."""

    version: int
    controllers: tuple[str, ...]
    root: Path
    base: Path

    def files(self, limits: Limits) -> Iterator[tuple[str, str]]:
        """File and text of each limit that this tree has a controller for."""
        if "memory" in self.controllers and limits.memory is not None:
            yield ("memory.limit_in_bytes", "memory.max")[self.version - 1], str(limits.memory)
            if self.version == 2:
                yield "memory.oom.group", "1"
        if "cpu" in self.controllers:
            if limits.cpu_quota is not None:
                if self.version == 1:
                    yield "cpu.cfs_period_us", str(limits.cpu_period)
                    yield "cpu.cfs_quota_us", str(limits.cpu_quota)
                else:
                    yield "cpu.max", f"{limits.cpu_quota} {limits.cpu_period}"
            if self.version == 1 and limits.cpu_shares is not None:
                yield "cpu.shares", str(limits.cpu_shares)
            if self.version == 2 and limits.cpu_weight is not None:
                yield "cpu.weight", str(limits.cpu_weight)
        if "pids" in self.controllers and limits.pids is not None:
            yield "pids.max", str(limits.pids)


def trees(name: str, *, mounts: str, own: str) -> list[Tree]:
    """The trees of this machine that have a controller of ours.

    *mounts* is a ``/proc/PID/mountinfo``, *own* a ``/proc/PID/cgroup``, *name* that of our group in each tree.
    """
    stands: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            stands[controller] = path
    found: dict[tuple[str, ...], Tree] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), (*after.split(" "), "", "")[:3]
        within, point = fields[3], Path(fields[4])
        if kind == "cgroup":
            here = tuple(one for one in CONTROLLERS if one in options.split(","))
            path = os.path.relpath(stands.get(here[0], "/") if here else "/", within) if here else "."
            base = point if path.startswith("..") else point / path
            if here:
                found.setdefault(here, Tree(1, here, point, base / name))
        elif kind == "cgroup2":
            listed = _text(point / "cgroup.controllers").split()
            here = tuple(one for one in CONTROLLERS if one in listed)
            if here:
                found.setdefault(here, Tree(2, here, point, point / name))
    return list(found.values())


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class Groups:
    """Our groups: ``usable`` are the controllers that may be used, ``problems`` say why others may not."""

    def __init__(self, found: Iterable[Tree]) -> None:
        self.problems: list[str] = []
        self._trees: list[Tree] = []
        for tree in found:
            try:
                _make(tree, tree.base)
            except OSError as error:
                self.problems.append(f"{', '.join(tree.controllers)}: {tree.base}: {error.strerror}")
            else:
                self._trees.append(tree)
        self.usable = frozenset(one for tree in self._trees for one in tree.controllers)
        if absent := [one for one in CONTROLLERS if one not in self.usable and not any(one in problem for problem in self.problems)]:
            self.problems.append(f"{', '.join(absent)}: this machine has no such control group")

    def make(self, path: str, limits: Limits) -> list[str]:
        """Make or change a group; the files by which a process joins it, in those trees that limit something. OSError names what failed."""
        joined = []
        for tree in self._trees:
            files = list(tree.files(limits))
            if files:
                group = tree.base / path
                _make(tree, group)
                for name, text in files:
                    (group / name).write_text(text)
                joined.append(str(group / JOIN[tree.version - 1]))
        return joined

    def oom_kills(self, path: str) -> int:
        """How many processes of this group, or of one below it, the kernel has ended because memory was short."""
        total = 0
        for tree in self._trees:
            if "memory" in tree.controllers:
                text = _text(tree.base / path / ("memory.oom_control", "memory.events")[tree.version - 1])
                total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))
        return total

    def remove(self, path: str) -> bool:
        """Remove a group and those below it; False when something runs there still. One that is not there is a success."""
        removed = [_remove(tree.base / path) for tree in self._trees]  # from every tree, whatever the first one says
        return all(removed)

    def close(self) -> None:
        """Remove our base where nothing stands in it."""
        for tree in self._trees:
            with suppress(OSError):
                tree.base.rmdir()

    def listed(self, path: str = "") -> set[str]:
        """The groups that stand directly below our base, or below one of our groups."""
        folders = [tree.base / path for tree in self._trees]
        return {entry for folder in folders if folder.is_dir() for entry in os.listdir(folder) if (folder / entry).is_dir()}


def _make(tree: Tree, group: Path) -> None:
    """Make a group and what it stands in, with its controllers switched on."""
    if tree.version == 1:
        group.mkdir(parents=True, exist_ok=True)
        return
    here = tree.root
    for part in group.relative_to(tree.root).parts:
        _switch_on(here, tree.controllers)
        here /= part
        here.mkdir(exist_ok=True)


def _switch_on(group: Path, controllers: tuple[str, ...]) -> None:
    control = group / "cgroup.subtree_control"
    missing = [one for one in controllers if one not in _text(control).split()]
    if missing:
        control.write_text(" ".join(f"+{one}" for one in missing))


def _remove(group: Path) -> bool:
    try:
        with os.scandir(group) as entries:
            below = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        removed = [_remove(one) for one in below]  # every one that can be, whatever the first one says
        if not all(removed):
            return False
        os.rmdir(group)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def find() -> list[Path]:
    """The roots of all trees that are mounted here."""
    lines = _text(Path("/proc/self/mountinfo")).splitlines()
    return [Path(line.split(" ")[4]) for line in lines if line.partition(" - ")[2].startswith(("cgroup ", "cgroup2 "))]


def remove_named(prefix: str, *, seconds: float = 2.0) -> list[str]:
    """Remove every group whose name begins with *prefix*, wherever it stands; those that are in use still after so long.

    What has just been killed is in its group for a moment.
    """
    deadline = time.monotonic() + seconds
    while busy := _remove_named(prefix):
        if time.monotonic() >= deadline:
            break
        time.sleep(0.01)
    return busy


def _remove_named(prefix: str) -> list[str]:
    busy = []
    for root in find():
        for folder, names, _ in os.walk(root):
            for name in [name for name in names if name.startswith(prefix)]:
                names.remove(name)
                if not _remove(Path(folder, name)):
                    busy.append(os.path.join(folder, name))
    return busy


def of_process(name: str, pid: int | str = "self") -> Groups:
    """The groups below where a process stands, under this name."""
    return Groups(trees(name, mounts=_text(Path("/proc/self/mountinfo")), own=_text(Path(f"/proc/{pid}/cgroup"))))
