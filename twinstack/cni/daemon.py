"""The node's network daemon: works off what the plugin's executable hands over.

Rule of this file: it changes only who does the work; ``plugin.respond`` does it, here as in the executable.

Theory. Python needs longer to import what the plugin needs than the kernel to wire a pod. A process that lives
anyway answers in a millisecond; the executable falls back to doing the work itself when nobody listens.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from twinstack.cni.plugin import respond
from twinstack.cni.thin import ADDRESS
from twinstack.kernel.errors import translated

log = logging.getLogger(__name__)
_LARGEST = 4 << 20  # bytes of one request; a GC of a thousand pods has a hundred thousand


class Daemon:
    """Listens in the network namespace of the thread that makes it, and answers in threads of its own until closed."""

    def __init__(self, address: bytes = ADDRESS) -> None:
        """KernelError when another one listens already."""
        self._address = address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with translated("listen for the network plugin"), ExitStack() as failed:
            failed.callback(self._listener.close)
            self._listener.bind(address)
            self._listener.listen(128)
            failed.pop_all()
        self._thread = threading.Thread(target=self._accept, name="cni", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; requests that are being worked off are finished."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), name="cni-request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        waiting: list[Callable[[], None]] = []
        with connection, ExitStack() as undo:
            connection.settimeout(10)
            try:
                owner = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
                if owner not in (0, os.geteuid()):
                    log.warning("A request for the network plugin came from somebody else", extra={"uid": owner})
                    return
                head, descriptors, _, _ = socket.recv_fds(connection, 8, 1)
                for descriptor in descriptors:
                    undo.callback(os.close, descriptor)
                sizes = struct.unpack("!II", head + _exactly(connection, 8 - len(head)))
                if sum(sizes) > _LARGEST:
                    log.warning("A request for the network plugin is too large", extra={"bytes": sum(sizes)})
                    return
                variables, data = (_exactly(connection, size) for size in sizes)
                pairs = (one.partition("=") for one in variables.decode(errors="surrogateescape").split("\0"))
                status, out = respond({key: value for key, _, value in pairs}, data, descriptors[0] if descriptors else None, later=waiting.append)
                connection.sendall(bytes([status]) + out)
                connection.close()
                for work in waiting:
                    work()
            except (OSError, EOFError) as error:  # the other side went away
                log.warning("A request for the network plugin was not finished", extra={"err": error})
            except Exception:
                log.exception("A request for the network plugin failed")


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(65536, size - len(parts)))
        if not part:
            raise EOFError("the request is cut short")
        parts += part
    return bytes(parts)
