"""What connects the spawner with a container: its standard streams, and the pipes of those who are attached to it."""

from __future__ import annotations

import os
from collections.abc import Callable


class Streams:
    """A container's standard streams: three pipes, or one terminal. ``input`` is where what its stdin reads is written, -1 for none."""

    def __init__(self, *, stdin: bool, tty: bool) -> None:
        self.input = -1
        if tty:
            master, slave = os.openpty()
            self.theirs = (slave, slave, slave)
            self.outputs = [(master, "stdout")]
            if stdin:
                self.input = os.dup(master)
            return
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        in_end = -1
        if stdin:
            in_end, self.input = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(self.input, False)
        self.theirs = (in_end, out_end, err_end)
        self.outputs = [(out, "stdout"), (err, "stderr")]

    def close_theirs(self) -> None:
        """Close the container's ends, once it has them."""
        for fd in set(self.theirs) - {-1}:
            os.close(fd)

    def close_ours(self) -> None:
        """Close our ends, when there is no container."""
        for fd in {self.input, *(fd for fd, _ in self.outputs)} - {-1}:
            os.close(fd)


class Readers:
    """The pipes of those who are attached to a container; *watch* and *forget* tell the poll of ends that are closed on the other side."""

    def __init__(self, watch: Callable[[int, Callable[[int], object]], object], forget: Callable[[int], object]) -> None:
        self._watch, self._forget = watch, forget
        self._pipes: dict[int, str] = {}

    def add(self, stream: str, descriptor: int) -> None:
        """Give a stream one more reader, whose descriptor stays the caller's."""
        copy = os.dup(descriptor)
        os.set_blocking(copy, False)
        self._pipes[copy] = stream
        self._watch(copy, self._drop)

    def show(self, stream: str, data: bytes) -> None:
        """Pass output on; a reader whose pipe is full is too slow, and is cut off: a container never waits for it."""
        for reader in [fd for fd, of in self._pipes.items() if of == stream]:
            try:
                whole = os.write(reader, data) == len(data)
            except (BlockingIOError, BrokenPipeError):
                whole = False
            if not whole:
                self._drop(reader)

    def end(self, *streams: str) -> None:
        """Let the readers of these streams read the end."""
        for reader in [fd for fd, of in self._pipes.items() if of in streams]:
            self._drop(reader)

    def _drop(self, reader: int) -> None:
        if self._pipes.pop(reader, None) is not None:
            self._forget(reader)
            os.close(reader)
