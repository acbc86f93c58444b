"""ARP and neighbour discovery: frames as bytes, and a door in a namespace of the test's own."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from twinstack.kernel import namespaces, neighbours
from twinstack.kernel.neighbours import Asked, NeighbourDoor, Told, filter_of, language
from twinstack.kernel.netlink import Netlink
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES

MINE, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
OURS = {"IPv4": "192.0.2.9", "IPv6": "2001:db8::9"}
ASKER = {"IPv4": "192.0.2.1", "IPv6": "2001:db8::1"}
# as tcpdump shows them on a Linux host that pings 192.0.2.9 and 2001:db8::9
QUESTIONS = {
    "IPv4": "ffffffffffff 020000000002 0806 0001 0800 06 04 0001 020000000002 c0000201 000000000000 c0000209",
    "IPv6": "3333ff000009 020000000002 86dd 60000000 0020 3a ff 20010db8000000000000000000000001 ff0200000000000000000001ff000009"
    " 87 00 CHECK 00000000 20010db8000000000000000000000009 01 01 020000000002",
}


def frame(text: str) -> bytes:
    plain = text.replace(" ", "")
    if "CHECK" in plain:
        empty = bytes.fromhex(plain.replace("CHECK", "0000"))
        data = empty[22:54] + (len(empty) - 54).to_bytes(4) + (58).to_bytes(4) + empty[54:]
        total = sum(int.from_bytes(data[i : i + 2]) for i in range(0, len(data), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        plain = plain.replace("CHECK", f"{total ^ 0xFFFF:04x}")
    return bytes.fromhex(plain)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_question_is_read_and_its_answer_tells_the_asker(family) -> None:
    ours, asker = parse_address(OURS[str(family)]), parse_address(ASKER[str(family)])
    asked = Asked(ours, asker, THEIRS)
    question = frame(QUESTIONS[str(family)])
    assert asked in neighbours.parse(question)
    answer = neighbours.answer(asked, MINE)
    assert answer[:6] == THEIRS and answer[6:12] == MINE
    assert neighbours.parse(answer) == [Told(ours, MINE)]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_an_announcement_is_for_all_and_is_no_question(family) -> None:
    ours = parse_address(OURS[str(family)])
    told = neighbours.announcement(ours, MINE)
    assert told[0] & 1, "a group's address"
    assert neighbours.parse(told) == [Told(ours, MINE)]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_who_looks_whether_an_address_is_taken_is_told(family) -> None:
    answer = neighbours.answer(Asked(parse_address(OURS[str(family)]), None, THEIRS), MINE)
    assert neighbours.parse(answer)[0] == Told(parse_address(OURS[str(family)]), MINE)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_broken_frames_mean_nothing(family) -> None:
    whole = frame(QUESTIONS[str(family)])
    for length in range(len(whole)):
        assert neighbours.parse(whole[:length]) == []
    if family.facts.neighbour_protocol == "ndp":
        for at in (21, 55, 56, 60):  # hop limit, code, checksum, reserved
            assert neighbours.parse(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) == []


def passes(program: list[tuple[int, int, int, int]], data: bytes) -> bool:
    """Classic BPF, as far as the filters go."""
    at, loaded = 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == 0x06:
            return value != 0
        if code == 0x15:
            at += yes if loaded == value else no
        else:
            size = {0x30: 1, 0x28: 2}[code]
            if value + size > len(data):
                return False
            loaded = int.from_bytes(data[value : value + size])


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_filter_passes_the_protocols_own_frames_alone(family) -> None:
    program = filter_of(language(family).conditions)
    own = [frame(QUESTIONS[str(family)]), neighbours.announcement(parse_address(OURS[str(family)]), MINE)]
    others = [frame(QUESTIONS[str(family.other)]), own[0][:12] + b"\x08\x00" + own[0][14:], bytes(80)]
    if family.facts.neighbour_protocol == "ndp":
        others += [own[0][:54] + b"\x80" + own[0][55:], own[0][:20] + b"\x06" + own[0][21:]]
    assert [passes(program, one) for one in own] == [True] * 2
    assert not any(passes(program, one) for one in others)


@pytest.fixture
def link() -> Iterator[tuple[str, str]]:
    """Two namespaces on one wire: a host that asks, and one whose door answers."""
    paths = [f"/run/netns/tst-nb-{os.getpid()}-{which}" for which in ("host", "door")]
    sysctls = [pair for family in FAMILIES for pair in family.facts.route_default_sysctls]
    try:
        for path in paths:
            namespaces.create(path, sysctls)
        descriptor = namespaces.opened(paths[1])
        with Netlink(paths[0]) as host, Netlink(paths[1]) as door:
            host.add_veth("eth0", "eth0", number=11, peer_number=12, peer_netns=descriptor)
            host.change_link("eth0", up=True)
            for text, prefix in (("192.0.2.1", 24), ("2001:db8::1", 64)):
                host.add_address("eth0", parse_address(text), prefix)
            host.commit()
            door.change_link("eth0", up=True)
            door.commit()
            assert host.wait_until_running(["eth0"]) and door.wait_until_running(["eth0"])
        os.close(descriptor)
        yield paths[0], paths[1]
    finally:
        for path in paths:
            if os.path.lexists(path):
                namespaces.remove(path)


def neighbour(path: str, address: str) -> str:
    """What a host remembers of an address."""
    return subprocess.run(["nsenter", f"--net={path}", "ip", "neigh", "show", address], capture_output=True, text=True, check=True).stdout


@pytest.mark.kernel
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_host_finds_an_address_that_is_on_no_interface_and_believes_who_tells_last(link, family) -> None:
    host, path = link
    address = parse_address(OURS[str(family)])
    with Netlink(path) as netlink:
        found = netlink.link("eth0")
    assert found is not None
    mac = neighbours.mac_of(found.mac)
    door = NeighbourDoor("eth0", found.number, mac, path)
    try:
        door.join(address)
        with namespaces.socket_in(host, family.facts.socket_family, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", (str(address), 9))
        deadline = time.monotonic() + 5
        while found.mac not in neighbour(host, str(address)) and time.monotonic() < deadline:
            for one in select.select(door.sockets(), [], [], 0.1)[0]:
                for word in door.receive(one):
                    if isinstance(word, Asked) and word.target == address:
                        door.send(family, neighbours.answer(word, mac))
        assert found.mac in neighbour(host, str(address))
        door.send(family, neighbours.announcement(address, THEIRS))
        while "02:00:00:00:00:02" not in neighbour(host, str(address)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "02:00:00:00:00:02" in neighbour(host, str(address))
        door.part(address)
    finally:
        door.close()
