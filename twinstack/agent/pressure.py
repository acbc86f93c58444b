"""Whether a node runs short: of memory, of disk, of process numbers.

Rule of this file: thresholds and readings in, an answer out; :func:`read` is the only look at the machine. Signals and
defaults are upstream's (``--eviction-hard``). What is short is told as a condition of the node, by which it is
tainted, so that nothing more comes; which pod has to go is for ``eviction`` to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from twinstack.net.errors import Error
from twinstack.rules.quantities import QuantityError, parse_quantity

DEFAULTS = (("memory.available", "100Mi"), ("nodefs.available", "10%"), ("nodefs.inodesFree", "5%"), ("imagefs.available", "15%"))
CONDITIONS = {
    "MemoryPressure": ("memory.available",),
    "DiskPressure": ("nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree"),
    "PIDPressure": ("pid.available",),
}
SIGNALS = frozenset(signal for signals in CONDITIONS.values() for signal in signals)


class ThresholdError(Error):
    """A threshold means nothing."""


class Reading(NamedTuple):
    """How much there is of something, and how much of it is left."""

    left: int
    whole: int


def parse_thresholds(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Thresholds by signal; ThresholdError names one that means nothing."""
    for signal, value in given.items():
        if signal not in SIGNALS:
            raise ThresholdError(f"{signal!r} is no signal; there are {', '.join(sorted(SIGNALS))}")
        amount_of(value, 0)
    return tuple(given.items())


def amount_of(value: str, whole: int) -> Fraction:
    """What a threshold means where there is so much in all; ThresholdError when it means nothing."""
    try:
        return parse_quantity(value[:-1]) * whole / 100 if value.endswith("%") else parse_quantity(value)
    except QuantityError as error:
        raise ThresholdError(f"threshold {value!r} is neither an amount nor a percentage: {error}") from error


def is_low(signal: str, value: str, readings: Mapping[str, Reading]) -> bool:
    """Whether less is left than a threshold says; what cannot be read is never low."""
    found = readings.get(signal)
    return found is not None and found.left < amount_of(value, found.whole)


def pressures(thresholds: tuple[tuple[str, str], ...], readings: Mapping[str, Reading]) -> frozenset[str]:
    """The conditions that hold."""
    low = {signal for signal, value in thresholds if is_low(signal, value, readings)}
    return frozenset(condition for condition, signals in CONDITIONS.items() if low.intersection(signals))


def read_memory() -> Reading:
    """How much memory there is, and how much of it can be had without swapping."""
    memory = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())}
    return Reading(memory["MemAvailable"], memory["MemTotal"])


def read(root: Path) -> dict[str, Reading]:
    """What this machine has left; *root* is where pods' files and images are."""
    disk = os.statvfs(root)
    blocks, inodes = Reading(disk.f_frsize * disk.f_bavail, disk.f_frsize * disk.f_blocks), Reading(disk.f_favail, disk.f_files)
    used = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    most = min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("pid_max", "threads-max"))
    found = {"memory.available": read_memory(), "pid.available": Reading(max(0, most - used), most)}
    found |= dict.fromkeys(("nodefs.available", "imagefs.available"), blocks)
    return found | (dict.fromkeys(("nodefs.inodesFree", "imagefs.inodesFree"), inodes) if inodes.whole else {})
