"""What runs when the plugin is executed: hand the request to the node's daemon, or work it off here.

Rule of this file: nothing is imported that is not built into the interpreter or next to it. The interpreter
needs 6 ms to start, this file almost nothing; ``json``, ``socket`` and ``enum`` would cost as much again each.

Theory. A node's daemon (``cni.daemon``) listens on an abstract Unix socket. Such a name belongs to the network
namespace, so that every node of a lab has its own under the same name, and it is seen from every mount
namespace. Anybody may listen on it, therefore the other side must be root or ourselves. The pod's namespace
goes along as an open descriptor, because the daemon may not see the path.

``native/twinstack-cni.c`` is the same in C, and takes this file's place where there was a compiler at set-up.

Request: two lengths (big-endian, 4 bytes), the CNI variables (``K=V`` separated by zero bytes), the configuration.
Answer: the exit status as one byte, then stdout.
"""

from __future__ import annotations

import _socket
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ADDRESS = b"\0twinstack-cni"
ROLE = "TWINSTACK_PLUGIN"  # by which of our names we were executed
_NAMES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", ROLE)


def call(environment: dict[str, str], data: bytes) -> tuple[int, bytes] | None:
    """The daemon's exit status and stdout; None when there is no daemon to ask, and nothing has happened yet."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        try:
            connection.connect(ADDRESS)
        except OSError:
            return None
        owner = int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
        if owner not in (0, os.geteuid()):
            return None
        variables = b"\0".join(f"{name}={environment[name]}".encode(errors="surrogateescape") for name in _NAMES if name in environment)
        head = len(variables).to_bytes(4, "big") + len(data).to_bytes(4, "big")
        try:
            netns = os.open(environment.get("CNI_NETNS", ""), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # gone, or none given: the plugin says what that means
            netns = -1
        rights = [] if netns < 0 else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, netns.to_bytes(4, sys.byteorder))]
        answer = b""
        try:
            connection.sendmsg([head], rights)
            connection.sendall(variables + data)
            while part := connection.recv(65536):
                answer += part
        except OSError:  # it ended meanwhile
            answer = b""
    finally:
        connection.close()
    if not answer:
        # it ended while it worked; a runtime that is told so calls DEL
        return 1, b'{"cniVersion":"1.1.0","code":11,"msg":"the network daemon of this node ended before it answered"}\n'
    return answer[0], answer[1:]


def _by_a_child(work: Callable[[], None]) -> None:
    """Have a child do it, which holds neither the runtime's pipes nor the runtime up; do it here when there can be none."""
    try:
        child = os.fork()
    except OSError:
        return work()
    if child:
        return
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        work()
    finally:
        os._exit(0)


def main(role: str = "") -> None:
    """Answer a runtime's request on stdout and exit; *role* is the name of the plugin that was executed."""
    environment = {**os.environ, ROLE: role}
    data = sys.stdin.buffer.read()
    done = call(environment, data)
    if done is None:
        from twinstack.cni.plugin import respond

        done = respond(environment, data, later=_by_a_child)
    status, out = done
    while out:
        out = out[os.write(1, out) :]
    os._exit(status)
