"""What the kernel refused, as one error whose vocabulary is errno.

The kinds of refusal are asked (``error.missing``), not subclassed: the kernel has one word for each already.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from twinstack.net.errors import Error

_MISSING = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.ENXIO, errno.EADDRNOTAVAIL})
_DENIED = frozenset({errno.EPERM, errno.EACCES})


class KernelError(Error):
    """The kernel, or a program that speaks for it, refused *command*.

    ``errno`` is the kernel's number; ``detail`` replaces its text where the kernel, or the program, said more.
    """

    def __init__(self, number: int, command: str, detail: str = "") -> None:
        super().__init__(f"{command}: {detail or os.strerror(number)}")
        self.errno = number
        self.command = command
        self.detail = detail

    @property
    def missing(self) -> bool:
        """Whether the thing named does not exist (ENOENT, ENODEV, ESRCH, ENXIO, EADDRNOTAVAIL)."""
        return self.errno in _MISSING

    @property
    def exists(self) -> bool:
        """Whether the thing to be made is there already (EEXIST)."""
        return self.errno == errno.EEXIST

    @property
    def denied(self) -> bool:
        """Whether we lack the right (EPERM, EACCES)."""
        return self.errno in _DENIED


@contextmanager
def translated(command: str) -> Iterator[None]:
    """Tell an OSError of the body as a KernelError about *command*."""
    try:
        yield
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, command) from error
