"""Measurement: connections from inside namespaces, retried while the cluster settles, and told when they fail."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import dns.message
import dns.rrset
import pytest

from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.loops.clock import SteppingClock
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, ByFamily, Family
from twinstack.prove import measurement
from twinstack.prove.matrix import Attempt, Cell, Path, Place, Reply, State
from twinstack.prove.measurement import NoAnswer

F4, F6 = Family.IPV4, Family.IPV6
ONE = Attempt(Place("a", "/a"), parse_address("192.0.2.1"), 80)
PATH = Path("way", "what", ByFamily({F4: (ONE, ONE)}), absent="why not")


async def test_a_cell_is_the_median_of_its_connections_and_absent_where_there_are_none() -> None:
    seconds = iter([0.001, 0.002, 0.003, 0.004, 0.005, 9.0])

    async def dial(attempt: Attempt) -> Reply:
        return Reply(next(seconds))

    (row,) = await measurement.walk([PATH], [F4, F6], dial=dial)
    assert row.cells[F4] == Cell(State.WORKS, 0.0035, 6)
    assert row.cells[F6] == Cell(State.ABSENT, detail="why not") and row.works


async def test_a_path_that_is_owed_and_missing_fails() -> None:
    async def dial(attempt: Attempt) -> Reply:
        return Reply(0.001)

    (row,) = await measurement.walk([PATH._replace(owed=frozenset({F6}))], [F4, F6], dial=dial)
    assert row.cells[F6] == Cell(State.FAILS, detail="why not") and not row.works


async def test_what_fails_at_first_is_tried_again_while_the_cluster_settles() -> None:
    clock, tries = SteppingClock(), []

    async def dial(attempt: Attempt) -> Reply:
        tries.append(clock.monotonic())
        if clock.monotonic() < 1:
            raise NoAnswer("refused")
        return Reply(0.001)

    walking = asyncio.create_task(measurement.walk([PATH], [F4], dial=dial, clock=clock, settle_seconds=5))
    await clock.step(6)
    (row,) = walking.result()
    assert row.cells[F4].state is State.WORKS and row.cells[F4].connections == 6


async def test_what_fails_after_that_is_told_and_the_rest_goes_on() -> None:
    clock = SteppingClock()

    async def dial(attempt: Attempt) -> Reply:
        raise NoAnswer("a → b: connection refused")

    walking = asyncio.create_task(measurement.walk([PATH, PATH._replace(verdict=Cell(State.REFUSED))], [F4], dial=dial, clock=clock, settle_seconds=5))
    await clock.step(6)
    one, other = walking.result()
    assert one.cells[F4] == Cell(State.FAILS, None, 0, "a → b: connection refused")
    assert other.cells[F4].state is State.REFUSED and other.works and not one.works


@pytest.fixture
def place() -> Iterator[Place]:
    path = f"/run/netns/tst-prove-{os.getpid()}"
    namespaces.create(path)
    try:
        with Netlink(path) as link:
            link.change_link("lo", up=True)
            link.commit()
        yield Place("here", path, ByFamily((family, parse_address(family.facts.loopback)) for family in FAMILIES))
    finally:
        namespaces.remove(path)


@pytest.mark.kernel
async def test_a_connection_is_made_inside_a_namespace_in_both_families(place: Place) -> None:
    async with measurement.echo_server(place) as port:
        for address in place.addresses.values():
            reply = await measurement.dial(Attempt(place, address, port))
            assert reply.client == str(address) and 0 < reply.seconds < 1
    with pytest.raises(NoAnswer, match=r"here → \[::1\]:\d+/TCP: "):
        await measurement.dial(Attempt(place, place.addresses[F6], port))


@pytest.mark.kernel
async def test_a_datagram_is_answered_or_told_to_be_lost(place: Place) -> None:
    def answer(one: object) -> None:
        _, client = server.recvfrom(100)
        server.sendto(b'{"pod": "p", "client": "x"}', client)

    with namespaces.socket_in(place.netns, F6.facts.socket_family, 2) as server:
        server.bind(("::1", 0))
        server.setblocking(False)
        attempt = Attempt(place, place.addresses[F6], server.getsockname()[1], "UDP")
        asyncio.get_running_loop().add_reader(server, answer, None)
        assert (await measurement.dial(attempt)).pod == "p"
        asyncio.get_running_loop().remove_reader(server)
        with pytest.raises(NoAnswer, match=r"no answer within 0\.01 s"):
            await measurement.dial(attempt, timeout_seconds=0.01)


@pytest.mark.kernel
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_name_must_lead_to_the_address_before_that_is_tried(place: Place, family: Family) -> None:
    loopback = place.addresses[family]

    def answer() -> None:
        data, client = server.recvfrom(512)
        reply = dns.message.make_response(dns.message.from_wire(data))
        name = reply.question[0].name
        if name.to_text().startswith("web"):
            reply.answer.append(dns.rrset.from_text(name, 5, "IN", family.facts.dns_type, str(loopback)))
        server.sendto(reply.to_wire(), client)

    with namespaces.socket_in(place.netns, family.facts.socket_family, 2) as server:
        server.bind((str(loopback), measurement.DNS_PORT))
        server.setblocking(False)
        asyncio.get_running_loop().add_reader(server, answer)
        async with measurement.echo_server(place) as port:
            attempt = Attempt(place, loopback, port, name="web.demo.svc.cluster.local.", resolver=loopback)
            assert (await measurement.dial(attempt)).client == str(loopback)
            with pytest.raises(NoAnswer, match=rf"here → nobody\. as .*/TCP: asked for its {family.facts.dns_type}, {loopback} says NOERROR"):
                await measurement.dial(attempt._replace(name="nobody."))
        asyncio.get_running_loop().remove_reader(server)


async def test_a_namespace_that_is_gone_is_told() -> None:
    with pytest.raises(NoAnswer, match=r"a → 192\.0\.2\.1:80/TCP"):
        await measurement.dial(ONE._replace(source=Place("a", "/run/netns/tst-prove-missing")))
