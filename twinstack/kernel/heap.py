"""The C library's heap, of which a program with a few threads needs one.

glibc gives each thread that allocates a heap of its own, so that threads do not wait for each other. Python's do not run
at the same time anyway; for them it is memory that nobody uses.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # mallopt(3)


def keep_one() -> None:
    """Let all threads that are begun from now on share one heap; where the C library does not know how, nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
