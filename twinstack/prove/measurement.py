"""Connections really made: from inside any network namespace, over TCP and UDP, and what came back.

A socket belongs to the namespace that it was made in and can be used from anywhere, so one process, one event
loop and no second process measure every path of a cluster.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError
from twinstack.loops.clock import Clock, SystemClock
from twinstack.net.cidr import host_port
from twinstack.net.errors import Error
from twinstack.net.family import Address, ByFamily, Family
from twinstack.prove.matrix import Attempt, Cell, Path, Place, Reply, Row, State, cell_of, judge

REPEATS = 3
TIMEOUT_SECONDS = 3.0  # more than one retransmission of a SYN
RESEND_SECONDS = 0.5  # of a datagram
PAUSE_SECONDS = 0.05
DNS_PORT = 53

Dial = Callable[[Attempt], Awaitable[Reply]]


class NoAnswer(Error):
    """A connection was not answered as it should be; the message says from where to where, and what happened."""


async def dial(attempt: Attempt, *, timeout_seconds: float = TIMEOUT_SECONDS, clock: Clock | None = None) -> Reply:
    """Connect, ask, hear the answer. Errors: NoAnswer."""
    clock = clock or SystemClock()
    kind = socket.SOCK_STREAM if attempt.protocol == "TCP" else socket.SOCK_DGRAM
    try:
        with namespaces.socket_in(attempt.source.netns, Family.of(attempt.address).facts.socket_family, kind) as one:
            one.setblocking(False)
            began = clock.monotonic()
            async with asyncio.timeout(timeout_seconds):
                if attempt.name and attempt.resolver is not None:
                    await _look_up(attempt, attempt.resolver)
                data = await (_ask if attempt.protocol == "TCP" else _ask_by_datagram)(one, attempt)
            seconds = clock.monotonic() - began
        answer = json.loads(data)
        return Reply(seconds, str(answer.get("pod", "")), str(answer.get("client", "")))
    except TimeoutError as error:
        raise NoAnswer(f"{attempt}: no answer within {timeout_seconds:g} s") from error
    except (OSError, KernelError) as error:
        raise NoAnswer(f"{attempt}: {getattr(error, 'strerror', '') or error}") from error
    except (ValueError, AttributeError) as error:
        raise NoAnswer(f"{attempt}: the answer is not what our example answers") from error


async def _look_up(attempt: Attempt, resolver: Address) -> None:
    """Ask for the name as the C library of a pod does. Errors: NoAnswer when it does not lead to the address."""
    import dns.exception  # late: the demo's command line loads without it
    import dns.message
    import dns.rcode

    family = Family.of(attempt.address).facts
    query = dns.message.make_query(attempt.name, family.dns_type)
    with namespaces.socket_in(attempt.source.netns, Family.of(resolver).facts.socket_family, socket.SOCK_DGRAM) as one:
        one.setblocking(False)
        data = await _answer_of(one, resolver, DNS_PORT, query.to_wire())
    try:
        answer = dns.message.from_wire(data)
    except dns.exception.DNSException as error:
        raise NoAnswer(f"{attempt}: {resolver} answers what is no DNS: {error}") from error
    found = [data.to_text() for records in answer.answer for data in records]
    if str(attempt.address) not in found:
        said = ", ".join(found) or dns.rcode.to_text(answer.rcode())
        raise NoAnswer(f"{attempt}: asked for its {family.dns_type}, {resolver} says {said}")


async def _ask(one: socket.socket, attempt: Attempt) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, (str(attempt.address), attempt.port))
    request = f"GET / HTTP/1.1\r\nHost: {host_port(attempt.address, attempt.port)}\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(one, request.encode())
    heard = b""
    while more := await loop.sock_recv(one, 65536):
        heard += more
    return heard.partition(b"\r\n\r\n")[2]


async def _ask_by_datagram(one: socket.socket, attempt: Attempt) -> bytes:
    return await _answer_of(one, attempt.address, attempt.port, b"hello\n")


async def _answer_of(one: socket.socket, address: Address, port: int, question: bytes) -> bytes:
    """What comes back for a datagram, which is sent again and again until something does."""
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, (str(address), port))
    while True:
        await loop.sock_sendall(one, question)
        try:
            async with asyncio.timeout(RESEND_SECONDS):
                return await loop.sock_recv(one, 65536)
        except TimeoutError:
            continue


async def walk(
    paths: Sequence[Path],
    families: Sequence[Family],
    *,
    dial: Dial = dial,
    repeats: int = REPEATS,
    settle_seconds: float = 10.0,
    clock: Clock | None = None,
    progress: Callable[[Path], None] = lambda path: None,
) -> list[Row]:
    """Try every path, one connection after another; a row for each.

    What fails within the first *settle_seconds* is tried again: nodes take a moment to learn of new Services.
    """
    clock = clock or SystemClock()
    deadline = clock.monotonic() + settle_seconds
    rows = []
    for path in paths:
        progress(path)
        cells = [(family, await _cell(path, family, dial, repeats, deadline, clock)) for family in families]
        rows.append(Row(path.way, path.subject, ByFamily(cells)))
    return rows


async def _cell(path: Path, family: Family, dial: Dial, repeats: int, deadline: float, clock: Clock) -> Cell:
    if path.verdict is not None:
        return path.verdict
    attempts = path.attempts.get(family)
    if not attempts:
        return Cell(State.FAILS if family in path.owed else State.ABSENT, detail=path.absent)
    replies: list[Reply] = []
    for attempt in attempts:
        made = 0
        while made < repeats:
            try:
                reply = await dial(attempt)
                wrong = judge(attempt, reply)
            except NoAnswer as error:
                wrong = str(error)
            else:
                if not wrong:
                    replies.append(reply)
                    made += 1
                    continue
            if clock.monotonic() >= deadline:
                return cell_of(replies, wrong)
            await clock.sleep(PAUSE_SECONDS)
    return cell_of(replies, "")


@asynccontextmanager
async def echo_server(place: Place) -> AsyncIterator[int]:
    """Tell whoever connects to one of the place's addresses how he is seen there; gives the port, the same for all addresses."""
    listening: list[asyncio.Server] = []
    try:
        port = 0
        for address in place.addresses.values():
            one = namespaces.socket_in(place.netns, Family.of(address).facts.socket_family, socket.SOCK_STREAM)
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((str(address), port))
                port = one.getsockname()[1]
                listening.append(await asyncio.start_server(_echo, sock=one))
            except BaseException:
                one.close()
                raise
        yield port
    finally:
        for server in listening:
            server.close()
        for server in listening:
            await server.wait_closed()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
            client = str(writer.get_extra_info("peername")[0])
            body = json.dumps({"pod": "", "client": client}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the client went away or said nothing: it tells so itself
    finally:
        writer.close()
