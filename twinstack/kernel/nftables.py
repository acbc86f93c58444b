"""nftables in the process: scripts in, the kernel's answer out, one transaction a call.

Rule of this file: it moves text. What the text should be is decided in ``dataplane``.

Theory. libnftables (the library behind ``nft``) is called through ctypes, which costs a millisecond where starting
the program costs five. A context holds a netlink socket, which belongs to the network namespace in which the
context was made; so the namespace is entered for that moment only. All commands of one call are one transaction:
the kernel takes all of them or none. The library is not made for threads: each context has a lock, and calls release Python's
own lock, so that a long transaction can run beside an event loop (``asyncio.to_thread``).
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import errno
import os
import re
import threading
from collections.abc import Sequence
from typing import Protocol

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import Learned, Map, Steps, Table
from twinstack.kernel import learning, namespaces
from twinstack.kernel.errors import KernelError
from twinstack.net.family import Family

_NUMBERS = (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOMEM, errno.ENOSPC, errno.EMSGSIZE)
_BY_MESSAGE = {os.strerror(number): number for number in _NUMBERS}
_WHERE = re.compile(r"[^:\s]+:(\d+):[\d-]+: Error: (.*)")
_TRIM_ABOVE = 1 << 20  # bytes of script after which the library's memory is given back

_process = threading.Lock()  # the library keeps a few things per process


class Ruleset(Protocol):
    """The packet filter of one network namespace, the kernel's or a fake."""

    def run(self, script: str, *, check: bool = False) -> str:
        """Do all commands or none, and return what they print; *check* lets the kernel judge and then changes nothing.

        KernelError with nft's message and the line when it is refused.
        """

    def learned(self, family: Family, table: str, one: Map) -> list[Learned]:
        """What rules have put into a dynamic map of ours; KernelError (``.missing``) when there is no such map."""


class Nftables:
    """The kernel's nftables in one network namespace: the caller's at the time of making, or that of a path.

    KernelError when libnftables is not installed (``.missing``) or nftables may not be used (``.denied``).
    """

    def __init__(self, namespace: str | None = None) -> None:
        self._library = _loaded()
        self._lock = _process
        with namespaces.entered(namespace) if namespace else contextlib.nullcontext():
            self._context = self._library.nft_ctx_new(0)
            self._learning = learning.Learning()
        if not self._context:
            self._learning.close()
            raise KernelError(errno.ENOMEM, "open nftables")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, script: str, *, check: bool = False) -> str:
        with self._lock:
            if not self._context:
                raise KernelError(errno.EBADF, "use a closed nftables context")
            self._library.nft_ctx_set_dry_run(self._context, check)
            failed = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context)
            complaint = self._library.nft_ctx_get_error_buffer(self._context)
            if failed:
                raise _error(self._located(script) or complaint.decode(errors="replace"), script)
            if len(script) > _TRIM_ABOVE:
                give_back()
        return str(output.decode())

    def learned(self, family: Family, table: str, one: Map) -> list[Learned]:
        with self._lock:
            return self._learning.learned(family, table, one)

    def _located(self, script: str) -> str:
        """What nft complains about with line numbers, which it knows only of files; empty when it does not complain again."""
        descriptor = os.memfd_create("ruleset")
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(script.encode())
            self._library.nft_ctx_set_dry_run(self._context, True)
            self._library.nft_run_cmd_from_filename(self._context, f"/proc/self/fd/{descriptor}".encode())
            self._library.nft_ctx_get_output_buffer(self._context)
            return str(self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace"))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the netlink socket; twice is once."""
        with self._lock:
            if self._context:
                self._library.nft_ctx_free(self._context)
                self._learning.close()
                self._context = None

    def __enter__(self) -> Nftables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def apply(ruleset: Ruleset, steps: Steps | Sequence[Steps], *, check: bool = False) -> None:
    """Make the steps, of one table or several, in one transaction; nothing at all is no call."""
    each = [steps] if isinstance(steps, Steps) else steps
    script = "".join(map(text.script, each))
    if script:
        ruleset.run(script, check=check)


def give_back() -> None:
    """Give memory that was freed back to the system, which the C library keeps otherwise; after something large."""
    ctypes.CDLL(None).malloc_trim(0)


def read_table(ruleset: Ruleset, family: Family, name: str) -> Table | None:
    """The table as the kernel holds it; None when it holds none."""
    try:
        return text.parse_listing(ruleset.run(f"list table {family.facts.nft_family} {name}\n"))
    except KernelError as error:
        if error.missing:
            return None
        raise


def _loaded() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        raise KernelError(errno.ENOENT, "load libnftables.so.1", "not found; it comes with the package nftables") from error
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    for name in ("nft_run_cmd_from_buffer", "nft_run_cmd_from_filename"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def _error(complaint: str, script: str) -> KernelError:
    """The first thing that nft complains about, with the line of the script."""
    found = _WHERE.search(complaint)
    if not found:
        return KernelError(_number(complaint), "nft", " ".join(complaint.split()) or "failed without a message")
    lines = script.splitlines()
    number = int(found[1])
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    return KernelError(_number(found[2]), "nft", f"{found[2]} (line {number}: {line[:200]}{'…' if len(line) > 200 else ''})")


def _number(message: str) -> int:
    return next((number for words, number in _BY_MESSAGE.items() if words in message), errno.EINVAL)
