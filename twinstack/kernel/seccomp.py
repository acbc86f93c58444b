"""A seccomp profile as the program that the kernel runs before each system call, by libseccomp.

Rule of this file: profile in, program out; whoever wants to be held to it gives it to the kernel (``launch.limit``).

Facts: libseccomp 2.5 (seccomp.h); the OCI runtime specification's words for its constants.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Collection, Mapping
from typing import Any

from twinstack.kernel.errors import KernelError

_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000, "SCMP_ACT_KILL_THREAD": 0x00000000, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
_OPERATIONS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
_ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X86_64": 0xC000003E, "SCMP_ARCH_X32": 0x4000003E, "SCMP_ARCH_ARM": 0x40000028, "SCMP_ARCH_AARCH64": 0xC00000B7,
}  # fmt: skip
_UNKNOWN = -1  # __NR_SCMP_ERROR


class _Argument(ctypes.Structure):
    _fields_ = (("index", ctypes.c_uint), ("operation", ctypes.c_int), ("first", ctypes.c_uint64), ("second", ctypes.c_uint64))


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise KernelError(errno.ENOENT, "load libseccomp.so.2", "apt-get install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    return library


def compiled(profile: Mapping[str, Any]) -> bytes:
    """The program (struct sock_filter, one after the other); KernelError when libseccomp does not take the profile."""
    library = _library()
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_action(profile["defaultAction"], profile.get("defaultErrnoRet")))))
    if not context:
        raise KernelError(errno.EINVAL, f"seccomp profile with {profile['defaultAction']}")
    try:
        for name in profile.get("architectures") or ():
            if name not in _ARCHITECTURES:
                raise KernelError(errno.EINVAL, f"seccomp profile for {name}")
            _check(library.seccomp_arch_add(context, ctypes.c_uint32(_ARCHITECTURES[name])), f"add {name}", {errno.EEXIST})
        for rule in profile.get("syscalls") or ():
            arguments = [_Argument(one["index"], _OPERATIONS[one["op"]], one["value"], one.get("valueTwo", 0)) for one in rule.get("args") or ()]
            array = (_Argument * len(arguments))(*arguments)
            action = ctypes.c_uint32(_action(rule["action"], rule.get("errnoRet")))
            for name in rule["names"]:
                number = library.seccomp_syscall_resolve_name(name.encode())
                if number != _UNKNOWN and rule["action"] != profile["defaultAction"]:
                    _check(library.seccomp_rule_add_array(context, action, number, len(arguments), array), f"rule for {name}")
        descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(library.seccomp_export_bpf(context, descriptor), "export")
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)
    except (KeyError, TypeError, AttributeError) as error:
        raise KernelError(errno.EINVAL, "seccomp profile", f"{type(error).__name__}: {error}") from error
    finally:
        library.seccomp_release(context)


def _action(name: str, number: int | None) -> int:
    if name not in _ACTIONS:
        raise KernelError(errno.EINVAL, f"seccomp action {name}")
    return _ACTIONS[name] | ((errno.EPERM if number is None else number) & 0xFFFF if name == "SCMP_ACT_ERRNO" else 0)


def _check(result: int, what: str, tolerated: Collection[int] = ()) -> None:
    if result < 0 and -result not in tolerated:
        raise KernelError(-result, f"seccomp: {what}")
