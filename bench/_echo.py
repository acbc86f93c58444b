"""The baseline of the API server's figures: the same HTTP library over TLS, answering with bytes that it has already.

``/bytes/N`` answers with N bytes; ``/watch`` stays open; a POST is told to every open watch as it came, then answered.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop
from aiohttp import web

from twinstack.client.certificates import self_signed, server_context


async def main(port: int) -> None:
    streams: dict[asyncio.Transport, None] = {}
    bodies: dict[str, bytes] = {}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        if request.method == "POST":
            body = await request.read()
            chunk = b"%x\r\n%b\r\n" % (len(body), body)
            for transport in list(streams):
                if transport.is_closing():
                    del streams[transport]
                else:
                    transport.write(chunk)
            return web.Response(body=body, status=201, headers={"Content-Type": "application/json"})
        if path == "/watch":
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            assert request.transport is not None
            streams[request.transport] = None
            await asyncio.sleep(3600)
            return response
        if path not in bodies:
            bodies[path] = b"x" * int(path.rpartition("/")[2])
        return web.Response(body=bodies[path], headers={"Content-Type": "application/json"})

    server = web.Server(handle, access_log=None)
    listening = await asyncio.get_running_loop().create_server(
        server, sock=socket.create_server(("127.0.0.1", port)), ssl=server_context(self_signed("bench", addresses=["127.0.0.1"]))
    )
    print("ready", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
