"""Another program run to its end, for callers without an event loop.

Rule of this file: it imports ``subprocess``, which costs ten milliseconds; whoever must start fast imports this file only
when there is something to run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from twinstack.kernel.errors import translated


class Completed(NamedTuple):
    """How a program ended. ``returncode`` is negative when a signal ended it."""

    returncode: int
    stdout: bytes
    stderr: bytes


def execute(argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", timeout_seconds: float) -> Completed:
    """Run a program to its end; TimeoutError when it takes longer, and then it is killed. KernelError when it cannot be run."""
    with translated(f"execute {argv[0]}"):
        process = subprocess.Popen(list(argv), env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        try:
            out, err = process.communicate(stdin, timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise TimeoutError(f"{argv[0]} did not end within {timeout_seconds:g} s") from None
        except BaseException:
            process.kill()
            raise
    return Completed(process.returncode, out, err)
