"""The channels of exec and attach over a WebSocket: which protocol is spoken, what a message's first byte means.

A binary message is one byte of channel and then data. ``v5.channel.k8s.io`` can close one channel (255, then the channel's
number): that is how standard input ends; ``v4`` cannot. At the end a Status on the error channel tells how the command ended.
A port is forwarded in one of two ways: SPDY/3.1 frames in binary messages (``api.spdy``), or ``v4`` with two channels for each
port, whose first message is the port's number. Source: Kubernetes' KEP-4006 and its clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from twinstack.api.objects import Document

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
TUNNEL: Final = "SPDY/3.1+portforward.k8s.io"
COMMAND_PROTOCOLS: Final = (V5, V4)
FORWARD_PROTOCOLS: Final = (TUNNEL, V4)
SPDY_REFUSAL: Final = (
    "SPDY is not spoken here, streams are WebSockets; kubectl 1.31 and later opens those on its own, "
    "kubectl 1.29 and 1.30 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true"
)
LONGEST_MESSAGE: Final = 32 << 20


class Socket(Protocol):
    """A WebSocket that is open, as bytes in messages."""

    async def receive(self) -> bytes | None:
        """The next message; None when the other side has closed, or is gone."""

    async def send(self, message: bytes) -> None:
        """Send a message, and wait while the other side is behind; ConnectionError when it is gone."""

    async def close(self) -> None:
        """Close it; one that is closed is a success."""


def offered(header: str) -> list[str]:
    """The protocols that a client offers in its ``Sec-WebSocket-Protocol``, in its order."""
    return [name for one in header.split(",") if (name := one.strip())]


def chosen(offers: Sequence[str], spoken: Sequence[str]) -> str:
    """The first protocol in the client's order that we speak; empty when there is none."""
    return next((one for one in offers if one in spoken), "")


def frame(channel: int, data: bytes) -> bytes:
    """One message."""
    return bytes((channel,)) + data


def status_of_exit(code: int) -> Document:
    """What the error channel tells of a command that has ended."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def status_of_failure(message: str) -> Document:
    """What the error channel tells of a command that could not be run."""
    return {"metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500}
