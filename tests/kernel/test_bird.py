"""A BIRD of our own in a namespace, beside a router's in another: what one says the other's kernel knows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from twinstack.dataplane.bird import Listening, Session, router, speaker
from twinstack.kernel import bird, namespaces, processes
from twinstack.kernel.bird import Bird
from twinstack.kernel.errors import KernelError
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.family import FAMILIES, Address, Family

pytestmark = [pytest.mark.kernel, pytest.mark.slow]
UNDERLAY = {family: parse_cidr(text) for family, text in zip(FAMILIES, ("172.30.9.0/24", "fd00:9::/64"), strict=True)}
TOLD = {family: parse_cidr(text) for family, text in zip(FAMILIES, ("172.31.9.0/24", "fd00:31::/64"), strict=True)}
NODES = ("a", "b")


def own(family: Family, number: int) -> Address:
    return UNDERLAY[family][number]


@pytest.fixture
def wires(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A router's namespace with a bridge, and two nodes' on it."""
    names = {name: f"/run/netns/tst-bird-{os.getpid()}-{name}" for name in ("router", *NODES)}
    try:
        for path in names.values():
            namespaces.create(path, [pair for family in FAMILIES for pair in family.facts.route_default_sysctls])
        with Netlink(names["router"]) as kernel:
            kernel.change_link("lo", up=True)
            kernel.add_link("br0", "bridge", number=2, up=True)
            for family, network in UNDERLAY.items():
                kernel.add_address("br0", own(family, 1), network.prefixlen)
            for number, name in enumerate(NODES):
                descriptor = namespaces.opened(names[name])
                kernel.add_veth(f"to{name}", "eth0", number=10 + number, peer_number=2, peer_netns=descriptor)
                kernel.change_link(f"to{name}", up=True, master="br0")
                kernel.commit()
                with Netlink(descriptor) as node:
                    node.change_link("lo", up=True)
                    node.change_link("eth0", up=True)
                    for family, network in UNDERLAY.items():
                        node.add_address("eth0", own(family, 11 + number), network.prefixlen)
                    node.commit()
                os.close(descriptor)
            kernel.commit()
        yield names
    finally:
        for path in names.values():
            namespaces.remove(path)


def routers_text() -> str:
    return router("router", [Listening(own(family, 1), 64512, UNDERLAY[family], 64513, TOLD[family]) for family in FAMILIES])


def nodes_text(number: int, *routes: Address, bfd: bool = True) -> str:
    return speaker(NODES[number], [Session(own(family, 11 + number), 64513, own(family, 1), 64512, bfd=bfd) for family in FAMILIES], routes)


@asynccontextmanager
async def running(directory: Path, netns: str, text: str) -> AsyncIterator[Bird]:
    one = Bird(str(directory), netns=netns)
    await one.start(text)
    try:
        yield one
    finally:
        one.close()


async def until(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


async def hops(netns: str, address: Address) -> set[str]:
    """The next hops that the router's kernel knows for an address."""
    command = ["ip", "-o", f"-{Family.of(address).facts.version}", "route", "show", str(address)]
    text = (await processes.run(command, netns=netns)).stdout.decode()
    words = text.replace("\\", " ").split()
    return {words[i + 1] for i, word in enumerate(words) if word == "via"}


async def test_both_families_are_told_over_sessions_of_their_own_all_ways_are_used_and_taken_back(wires: dict[str, str], tmp_path: Path) -> None:
    routes = [TOLD[family][7] for family in FAMILIES]
    outside = parse_address("203.0.113.9")
    async with running(tmp_path / "r", wires["router"], routers_text()), running(tmp_path / "a", wires["a"], nodes_text(0, *routes, outside)) as first:
        async with running(tmp_path / "b", wires["b"], nodes_text(1, *routes)):
            for family, address in zip(FAMILIES, routes, strict=True):
                both = {str(own(family, 11)), str(own(family, 12))}

                async def all_ways(address: Address = address, both: set[str] = both) -> bool:
                    return await hops(wires["router"], address) == both

                await until(all_ways, "both ways")
            assert [one.info for one in await first.protocols() if one.kind == "BGP"] == ["Established"] * 2
            assert await hops(wires["router"], outside) == set(), "the router takes in only what is of the pools"
        for family, address in zip(FAMILIES, routes, strict=True):

            async def one_way(address: Address = address, left: str = str(own(family, 11))) -> bool:
                return await hops(wires["router"], address) == {left}

            await until(one_way, "one way when the other instance has ended")
        await first.configure(nodes_text(0, routes[1]))

        async def gone() -> bool:
            return not await hops(wires["router"], routes[0])

        await until(gone, "a route taken back")
        assert await hops(wires["router"], routes[1]) == {str(own(FAMILIES[1], 11))}, "its twin stays"
        with pytest.raises(KernelError, match=r"ask bird to configure: .*bird.conf"):
            await first.configure("nonsense;")
        assert await hops(wires["router"], routes[1]) == {str(own(FAMILIES[1], 11))}, "what is refused changes nothing"


async def test_one_that_was_left_running_is_taken_over_if_it_answers_and_one_that_ends_is_noticed(wires: dict[str, str], tmp_path: Path) -> None:
    directory, route = tmp_path / "a", TOLD[FAMILIES[1]][7]
    async with running(tmp_path / "r", wires["router"], routers_text()):
        before = Bird(str(directory), netns=wires["a"])
        await before.start(nodes_text(0, route))

        async def told() -> bool:
            return await hops(wires["router"], route) == {str(own(FAMILIES[1], 11))}

        await until(told, "route")
        async with running(directory, wires["a"], nodes_text(0, route, TOLD[FAMILIES[0]][7])) as after:
            assert after.pid == before.pid and await told(), "nothing is taken back"
            os.kill(after.pid, signal.SIGSTOP)  # it does not answer any more
            third = Bird(str(directory), netns=wires["a"])
            await third.start(nodes_text(0))
            assert not processes.alive(after.pid) and processes.marked(bird.MARK, str(directory)) == [third.pid]
            os.kill(third.pid, signal.SIGKILL)
            async with asyncio.timeout(10):
                await third.ended()
    assert processes.marked(bird.MARK, str(directory)) == []


async def test_without_the_program_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bird, "_DIRECTORIES", str(tmp_path))
    with pytest.raises(KernelError, match="not installed; the package bird2 has it") as told:
        await Bird(str(tmp_path)).start(nodes_text(0))
    assert told.value.missing


async def test_a_configuration_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"bird.conf.*syntax error"):
        await Bird(str(tmp_path)).start("nonsense;")


@pytest.mark.parametrize(
    "more", [{}, {"multihop": True}, {"bfd": True}, {"multihop": True, "bfd": True}, {"port": 1179, "hold_seconds": 3}, {"own_asn": 64512}], ids=str
)
async def test_bird_takes_whatever_a_peer_may_be(tmp_path: Path, more: dict) -> None:
    sessions = [Session(own(family, 11), 64513, own(family, 1), 64512)._replace(**more) for family in FAMILIES]
    (tmp_path / "bird.conf").write_text(speaker("a", sessions, [network[7] for network in TOLD.values()]))
    done = await processes.run([bird.find() or "bird", "-p", "-c", str(tmp_path / "bird.conf")])
    assert done.returncode == 0, done.stderr


async def test_a_router_that_is_farther_away_hears_a_node_over_several_hops(wires: dict[str, str], tmp_path: Path) -> None:
    """The router stands on the second node, which is reached by way of the bridge's namespace alone."""
    far = dict(zip(FAMILIES, map(parse_address, ("172.30.8.1", "fd00:8::1")), strict=True))
    with Netlink(wires["b"]) as kernel:
        for family, address in far.items():
            kernel.add_address("lo", address, family.bits)
        kernel.commit()
    for family, address in far.items():
        for name, gateway in (("router", own(family, 12)), ("a", own(family, 1))):
            command = ["ip", f"-{family.facts.version}", "route", "add", str(address), "via", str(gateway)]
            assert (await processes.run(command, netns=wires[name])).returncode == 0
    routes = [TOLD[family][9] for family in FAMILIES]
    ends = [Listening(far[family], 64512, UNDERLAY[family], 64513, TOLD[family]) for family in FAMILIES]
    text = router("far", ends).replace("  passive yes;", "  multihop; passive yes;").replace("bfd yes;", "bfd no;")
    sessions = [Session(own(family, 11), 64513, far[family], 64512, multihop=True) for family in FAMILIES]
    async with running(tmp_path / "r", wires["b"], text), running(tmp_path / "a", wires["a"], speaker("a", sessions, routes)) as node:

        async def heard() -> bool:
            return [one.info for one in await node.protocols() if one.kind == "BGP"] == ["Established"] * 2

        await until(heard, "both sessions")


async def test_a_session_needs_the_same_password_at_both_ends(wires: dict[str, str], tmp_path: Path) -> None:
    text = router("router", [Listening(own(family, 1), 64512, UNDERLAY[family], 64513, TOLD[family], password="one key") for family in FAMILIES])
    sessions = [Session(own(family, 11), 64513, own(family, 1), 64512, password=key) for family, key in zip(FAMILIES, ("one key", "another"), strict=True)]
    async with running(tmp_path / "r", wires["router"], text), running(tmp_path / "a", wires["a"], speaker("a", sessions, ())) as node:

        async def established() -> list[bool]:
            known = {one.name: one.info == "Established" for one in await node.protocols()}
            return [known[session.name] for session in sessions]

        async def first() -> bool:
            return (await established())[0]

        async def both() -> bool:
            return all(await established())

        await until(first, "the session with the right password")
        assert not await both(), "the wrong one is not heard"
        await node.configure(speaker("a", [session._replace(password="one key") for session in sessions], ()))
        await until(both, "the session whose password was put right")


@pytest.mark.parametrize("seconds", [30, 0], ids=["routes stay where it was agreed to", "routes are taken back where it was not"])
async def test_while_it_is_away_for_a_restart(wires: dict[str, str], tmp_path: Path, seconds: int) -> None:
    routes = [TOLD[family][7] for family in FAMILIES]
    sessions = [Session(own(family, 11), 64513, own(family, 1), 64512, restart_seconds=seconds) for family in FAMILIES]
    wanted = {address: {str(own(Family.of(address), 11))} for address in routes}
    holes: set[Address] = set()

    async def all_told() -> bool:
        missing = {address for address in routes if await hops(wires["router"], address) != wanted[address]}
        holes.update(missing)
        return not missing

    async def none_told() -> bool:
        return not any([await hops(wires["router"], address) for address in routes])

    async def watch() -> None:
        while True:
            await all_told()

    async with running(tmp_path / "r", wires["router"], routers_text()):
        before = Bird(str(tmp_path / "a"), netns=wires["a"])
        await before.start(speaker("a", sessions, routes), returns=seconds > 0)
        await until(all_told, "routes")
        holes.clear()
        watching = asyncio.create_task(watch())
        await before.leave()
        assert not processes.marked(bird.MARK, str(tmp_path / "a"))
        if not seconds:
            await until(none_told, "routes taken back")
        after = Bird(str(tmp_path / "a"), netns=wires["a"])
        await after.start(speaker("a", sessions, routes[:1]), returns=seconds > 0)  # the other one was given up meanwhile

        async def one_told() -> bool:
            return [await hops(wires["router"], address) for address in routes] == [wanted[routes[0]], set()]

        try:
            await until(one_told, "the routes of now")
            watching.cancel()
            assert (routes[0] in holes) is (seconds == 0), "what is told before and after is there all the time"
        finally:
            after.close()
