"""A WebSocket of aiohttp's, of either end, as the channels' ``Socket``."""

from __future__ import annotations

import aiohttp
from aiohttp import web

from twinstack.api.channels import Socket


class WebSocket(Socket):
    """Bytes in messages; a text message is its UTF-8."""

    def __init__(self, socket: web.WebSocketResponse | aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def receive(self) -> bytes | None:
        message = await self._socket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type is aiohttp.WSMsgType.TEXT:
            return str(message.data).encode()
        return None

    async def send(self, message: bytes) -> None:
        if self._socket.closed:
            raise ConnectionResetError("the other side has closed the WebSocket")
        await self._socket.send_bytes(message)

    async def close(self) -> None:
        if not self._socket.closed:
            await self._socket.close()
