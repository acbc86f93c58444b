"""Which system calls a container may make: the profile that ``seccompProfile`` names, as the OCI runtime specification has it.

Rule of this file: documents in, a document out; ``kernel.seccomp`` makes a program of it.

Theory. ``RuntimeDefault`` forbids what reaches past namespaces: the machine's clock, modules, keys, mounts, other processes' memory, new namespaces,
and interfaces that keep having holes. What a capability is there for is allowed to whoever has it. All else is allowed: a list of what
is forbidden grows slower than one of what programs need. ``clone3`` tells its flags by a pointer, where no filter sees them; it "does not exist", and
libraries then take ``clone``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from twinstack.agent.environment import ConfigError

Document = dict[str, Any]
_EPERM, _ENOSYS = 1, 38
_NEVER = (
    "_sysctl", "add_key", "create_module", "get_kernel_syms", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl", "nfsservctl", "query_module",
    "request_key", "swapoff", "swapon", "sysfs", "uselib", "userfaultfd", "ustat", "vm86", "vm86old",
)  # fmt: skip
_UNLESS: Mapping[str, tuple[str, ...]] = {
    "BPF": ("bpf",),
    "DAC_READ_SEARCH": ("open_by_handle_at",),
    "PERFMON": ("perf_event_open",),
    "SYSLOG": ("syslog",),
    "SYS_ADMIN": (
        "bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree",
        "perf_event_open", "pivot_root", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount", "umount2", "unshare",
    ),
    "SYS_BOOT": ("kexec_file_load", "kexec_load", "reboot"),
    "SYS_CHROOT": ("chroot",),
    "SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "SYS_NICE": ("get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"),
    "SYS_PACCT": ("acct",),
    "SYS_PTRACE": ("kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"),
    "SYS_RAWIO": ("ioperm", "iopl"),
    "SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "SYS_TTY_CONFIG": ("vhangup",),
}  # fmt: skip
_NEW_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)  # CLONE_NEW*
_VSOCK = 40  # AF_VSOCK, which knows no network namespace
# the machine's own calling conventions, and the older ones that its kernel takes
_ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}
_KNOWN = {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}


def default_profile(capabilities: Iterable[str]) -> Document:
    """``RuntimeDefault`` for a container with these capabilities (without ``CAP_``)."""
    have = set(capabilities)
    allowed = {name for capability in have for name in _UNLESS.get(capability, ())}
    forbidden = sorted({*_NEVER, *(name for names in _UNLESS.values() for name in names)} - allowed)
    rules: list[Document] = [_refusal(forbidden), _refusal(["socket"], arguments=[_argument("SCMP_CMP_EQ", _VSOCK)])]
    if "SYS_ADMIN" not in have:
        rules += [_refusal(["clone"], arguments=[_argument("SCMP_CMP_MASKED_EQ", flag, flag)]) for flag in _NEW_NAMESPACES]
        rules.append(_refusal(["clone3"], number=_ENOSYS))
    return {"defaultAction": "SCMP_ACT_ALLOW", "architectures": list(_ARCHITECTURES.get(platform.machine(), ())), "syscalls": rules}


def _refusal(names: list[str], *, number: int = _EPERM, arguments: list[Document] | None = None) -> Document:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": number, **({"args": arguments} if arguments else {})}


def _argument(operation: str, value: int, second: int = 0) -> Document:
    return {"index": 0, "value": value, "valueTwo": second, "op": operation}


class Profiles(NamedTuple):
    """What a node has: where ``Localhost`` profiles lie, and what a container has that names none."""

    directory: Path
    default: str = "Unconfined"


def profile_of(pod: Mapping[str, Any], container: Mapping[str, Any], capabilities: Iterable[str], profiles: Profiles) -> Document | None:
    """The profile that a container asks for, of its own ``securityContext`` or its pod's; None where there is none.

    ConfigError when it cannot be had.
    """
    asked = container.get("seccompProfile") or pod.get("seccompProfile") or {}
    kind = asked.get("type") or profiles.default
    if kind == "Unconfined" or container.get("privileged"):
        return None
    if kind == "RuntimeDefault":
        return default_profile(capabilities)
    return _from_file(profiles.directory, str(asked.get("localhostProfile") or ""))


def _from_file(directory: Path, name: str) -> Document:
    path = directory / name
    if not name or name.startswith("/") or ".." in Path(name).parts:
        raise ConfigError(f"seccomp profile {name!r} is no file below {directory}")
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"seccomp profile {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or "defaultAction" not in document or (more := set(document) - _KNOWN):
        what = f"has {', '.join(sorted(more))}, which" if isinstance(document, dict) and "defaultAction" in document else "has no defaultAction, or"
        raise ConfigError(f"seccomp profile {path} {what} is not as the OCI runtime specification has a profile (linux.seccomp)")
    return document
