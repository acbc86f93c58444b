"""Mounts of this machine: found by where they are, and taken away."""

from __future__ import annotations

import ctypes
import errno
import os

from twinstack.kernel.errors import KernelError, translated

_CLONE_NEWNS, _MS_REC, _MS_SLAVE, _MNT_DETACH = 0x00020000, 0x4000, 0x80000, 2
_MS_NOSUID, _MS_NODEV = 2, 4
_libc = ctypes.CDLL(None, use_errno=True)


def mounted_below(directory: str) -> list[str]:
    """The mount points in a directory or below it, innermost first."""
    place = os.path.realpath(directory)
    with translated("read the mount table"), open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4].encode("latin-1", "surrogateescape").decode("unicode_escape") for line in file]
    return [point for point in reversed(points) if point == place or point.startswith(f"{place}/")]


def unmount_below(directory: str) -> None:
    """Take away every mount in a directory or below it, even those in use; none is a success."""
    for point in mounted_below(directory):
        if _libc.umount2(os.fsencode(point), _MNT_DETACH) != 0:
            number = ctypes.get_errno()
            if number not in (errno.EINVAL, errno.ENOENT):  # gone already
                raise KernelError(number, f"unmount {point}")


def mount_memory(directory: str, *, mode: int = 0o777, group: int | None = None, size: int | None = None) -> None:
    """Mount a file system of memory at a directory; *size* in bytes, None for half of the machine's memory."""
    options = f"mode={mode:o}" + (f",gid={group}" if group is not None else "") + (f",size={size}" if size is not None else "")
    if _libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options.encode()) != 0:
        raise KernelError(ctypes.get_errno(), f"mount a tmpfs at {directory}")


def show_own_devices() -> None:
    """Give this process a mount table of its own in which /sys shows the links of its network namespace.

    sysfs shows those of the namespace that it was mounted in. Only a process without threads may call this.
    """
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise KernelError(ctypes.get_errno(), "make a mount namespace")
    if _libc.mount(b"", b"/", None, _MS_REC | _MS_SLAVE, None) != 0:
        raise KernelError(ctypes.get_errno(), "keep mounts to ourselves")
    if _libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None) != 0:
        raise KernelError(ctypes.get_errno(), "mount /sys")
