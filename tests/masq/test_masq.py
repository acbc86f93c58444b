"""The masquerade agent: the file it reads, the table it wants, the rounds it makes, and what the kernel does."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.dataplane.ruleset import Masquerade
from twinstack.dataplane.trace import Packet, trace
from twinstack.kernel import namespaces, nftables
from twinstack.kernel.fake import FakeNftables
from twinstack.masq.masq import TABLE, run, sync_once, wanted
from twinstack.masq.settings import Config, ConfigError, Settings, checked, default_config, parse_config, parse_ports
from twinstack.net.cidr import parse_cidr
from twinstack.net.family import FAMILIES, Family

BOTH = Settings(enable_ipv6=True)


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


def cidrs(config: Config) -> list[str]:
    return [str(network) for network in config.cidrs]


# ---- the file


def test_without_a_word_the_private_ranges_are_exempt():
    assert cidrs(parse_config("", BOTH)) == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
    assert parse_config("{}", BOTH) == default_config(BOTH)
    assert len(default_config(Settings(nomasq_all_reserved_ranges=True)).cidrs) == 11


def test_a_given_list_replaces_the_default_for_both_families():
    config = parse_config("nonMasqueradeCIDRs: [fd00::/8]\nresyncInterval: 1m30s\nmasqLinkLocalIPv6: true\n", BOTH)
    assert cidrs(config) == ["fd00::/8"]
    assert (config.resync_seconds, config.link_local) == (90.0, {Family.IPV6})


def test_json_does_and_unknown_keys_are_ignored():
    assert cidrs(parse_config('{"nonMasqueradeCIDRs": ["10.1.0.0/16"], "NonMasqueradeCIDRs": ["x"], "more": 1}', BOTH)) == ["10.1.0.0/16"]


REFUSED = [
    pytest.param("nonMasqueradeCIDRs: [10.0.0.0/8, 10.0.0.1/8]", r"nonMasqueradeCIDRs\[1\].*10.0.0.0/8", id="host bits"),
    pytest.param("nonMasqueradeCIDRs: [nonsense]", "not a CIDR", id="no CIDR"),
    pytest.param("nonMasqueradeCIDRs: 10.0.0.0/8", "not a list", id="no list"),
    pytest.param("nonMasqueradeCIDRs: [7]", "not a list of CIDRs", id="a number"),
    pytest.param("nonMasqueradeCIDRs: [10.0.0.0/8, 11.0.0.0/8]\ncidrLimit: 1", "more than cidrLimit", id="too many"),
    pytest.param("cidrLimit: many", "cidrLimit", id="a limit that is none"),
    pytest.param("resyncInterval: soon", "resyncInterval", id="an interval that is none"),
    pytest.param("resyncInterval: 0s", "greater than zero", id="no interval"),
    pytest.param("masqLinkLocal: maybe", "neither true nor false", id="neither true nor false"),
    pytest.param("[1, 2]", "not a mapping", id="a list"),
    pytest.param("{", "neither YAML nor JSON", id="no YAML"),
]


@pytest.mark.parametrize("text, why", REFUSED)
def test_a_bad_file_is_refused_whole(text, why):
    with pytest.raises(ConfigError, match=why):
        parse_config(text, BOTH)


def test_the_second_family_needs_its_flag():
    with pytest.raises(ConfigError, match="--enable-ipv6"):
        parse_config("nonMasqueradeCIDRs: [fd00::/8]", Settings())


@given(st.text(max_size=80))
def test_any_file_is_a_configuration_or_our_error(text):
    try:
        parse_config(text, BOTH)
    except ConfigError:
        return


def test_flags_are_checked():
    assert parse_ports("1024-29999,32768-65535") == ((1024, 29999), (32768, 65535))
    for given_ in ({"to_ports": "5"}, {"to_ports": "9-5"}, {"to_ports": "1-70000"}, {"masq_chain": "a b"}, {"masq_chain": ""}):
        with pytest.raises(ConfigError):
            checked(Settings(**given_))
    assert checked(Settings(masq_chain="MINE")).masq_chain == "MINE"


# ---- the table

HOME = {Family.IPV4: ("10.1.0.1", "10.2.0.1", "198.51.100.1", "169.254.7.7"), Family.IPV6: ("fd00::1", "fd00:2::1", "2001:db8::1", "fe80::7")}
CONFIG = Config(cidrs=(parse_cidr("10.0.0.0/8"), parse_cidr("10.2.0.0/16"), parse_cidr("fd00::/8"), parse_cidr("fd00:2::1/128")))


def masqueraded(config: Config, settings: Settings, family: Family, destination: str) -> set[bool]:
    packet = Packet(HOME[family][0], "tcp", destination, 80, "va")
    return {one.masqueraded for one in trace([wanted(config, settings, family)], packet, local=frozenset())}


def test_what_leaves_is_masqueraded_and_what_stays_is_not(family):
    _, inside, outside, link_local = HOME[family]
    assert masqueraded(CONFIG, BOTH, family, outside) == {True}
    assert masqueraded(CONFIG, BOTH, family, inside) == {False}
    assert masqueraded(CONFIG, BOTH, family, link_local) == {False}
    also = Config(cidrs=CONFIG.cidrs, link_local=frozenset({family}))
    assert masqueraded(also, BOTH, family, link_local) == {True}
    assert masqueraded(default_config(BOTH), BOTH, Family.IPV6, HOME[Family.IPV6][1]) == {True}, "there is no default exemption"


def test_ports_are_shared_out_by_their_number(family):
    settings = Settings(to_ports="1000-1999,2000-4999,5000-5000", random_fully=False)
    rules = wanted(CONFIG, settings, family).chains["IP-MASQ-AGENT"].rules
    assert [rule[-1] for rule in rules[1:]] == [Masquerade(ports, random=False) for ports in ("1000-1999", "2000-4999", "5000", "")]
    assert [(rule[1].left, rule[1].right) for rule in rules[1:3]] == [(("numgen random mod 4001",), "1000"), (("numgen random mod 3001",), "3000")]
    assert masqueraded(CONFIG, settings, family, HOME[family][2]) == {True}


# ---- the rounds


async def test_a_missing_file_means_the_defaults(tmp_path):
    kernel = FakeNftables()
    settings = Settings(config_file=str(tmp_path / "none"), enable_ipv6=True)
    assert await sync_once(settings, kernel) == default_config(settings)
    assert kernel.tables == {(family, TABLE): wanted(default_config(settings), settings, family) for family in FAMILIES}


async def test_a_bad_file_leaves_the_rules_as_they_are(tmp_path):
    kernel, path = FakeNftables(), tmp_path / "config"
    settings = Settings(config_file=str(path), enable_ipv6=True)
    path.write_text("nonMasqueradeCIDRs: [10.0.0.0/8, fd00::/8]")
    await sync_once(settings, kernel)
    before = dict(kernel.tables)
    for bad in ("nonMasqueradeCIDRs: [x]", "{"):
        path.write_text(bad)
        assert await sync_once(settings, kernel) is None
        assert kernel.tables == before
    path.unlink()
    path.mkdir()
    assert await sync_once(settings, kernel) is None
    assert kernel.tables == before


async def test_a_refusal_of_the_first_family_leaves_the_second_for_the_next_round(tmp_path):
    kernel, settings = FakeNftables(), Settings(config_file=str(tmp_path / "none"), enable_ipv6=True)
    kernel.fail_next = 1
    await sync_once(settings, kernel)
    assert kernel.tables == {}
    await sync_once(settings, kernel)
    assert len(kernel.tables) == 2


class Watched(FakeNftables):
    """Tells the event loop of each change."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.written, self._loop = asyncio.Event(), loop

    def run(self, script: str, *, check: bool = False) -> str:
        answer = super().run(script, check=check)
        self._loop.call_soon_threadsafe(self.written.set)
        return answer


async def test_it_runs_round_after_round_until_it_is_cancelled(tmp_path):
    kernel, path = Watched(asyncio.get_running_loop()), tmp_path / "config"
    path.write_text("resyncInterval: 1ms")
    first = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(run(Settings(config_file=str(path)), ready=first.set, ruleset=kernel))
        await first.wait()
        assert (Family.IPV4, TABLE) in kernel.tables
        kernel.tables.clear()
        kernel.written.clear()
        async with asyncio.timeout(5):
            await kernel.written.wait()
        assert (Family.IPV4, TABLE) in kernel.tables
        running.cancel()


async def test_a_dry_run_prints_and_touches_nothing(tmp_path, capsys):
    kernel = FakeNftables()
    await run(Settings(config_file=str(tmp_path / "none"), dry_run=True, enable_ipv6=True), ruleset=kernel)
    assert capsys.readouterr().out.count("table ") == 2
    assert kernel.tables == {}


# ---- the kernel


@pytest.mark.kernel
@pytest.mark.parametrize("ports", ["", "2000-2999,5000-5000"])
def test_the_kernel_masquerades_what_leaves(family, ports):
    """A pod, its node, and two places behind the node: one exempt, one not."""
    names = [f"tst-{os.getpid()}-mq-{name}" for name in ("node", "pod", "far")]
    paths = [f"/run/netns/{name}" for name in names]
    pod, node, exempt, far = {
        Family.IPV4: ("10.1.0.2", "203.0.113.1", "10.2.0.1", "203.0.113.2"), Family.IPV6: ("fd00:1::2", "2001:db8::1", "fd00:2::1", "2001:db8::2"),
    }[family]  # fmt: skip
    bits, gateway, nodad = family.bits, family.facts.pod_gateway, "nodad" if family is Family.IPV6 else ""
    try:
        for path in paths:
            namespaces.create(path, family.facts.route_default_sysctls)
        commands = {
            names[0]: [
                "link set lo up", f"link add vp type veth peer name eth0 netns {names[1]}", f"link add vx type veth peer name eth0 netns {names[2]}",
                "link set vp up", "link set vx up", f"addr add {gateway}/{bits} dev vp scope link {nodad}", f"route add {pod} dev vp",
                f"addr add {node}/{bits - 8} dev vx {nodad}", f"route add {exempt} via {far}",
            ],
            names[1]: [
                "link set lo up", "link set eth0 up", f"addr add {pod}/{bits} dev eth0 {nodad}", f"route add {gateway} dev eth0",
                f"route add default via {gateway} dev eth0",
            ],
            names[2]: [
                "link set lo up", "link set eth0 up", f"addr add {far}/{bits - 8} dev eth0 {nodad}", f"addr add {exempt}/{bits} dev lo {nodad}",
                f"route add default via {node}",
            ],
        }  # fmt: skip
        for name, lines in commands.items():
            done = subprocess.run(["ip", "-n", name, "-batch", "-"], input="\n".join(lines), text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
        with nftables.Nftables(paths[0]) as ruleset:
            nftables.apply(ruleset, _whole(wanted(CONFIG, Settings(to_ports=ports), family)))
        for destination, seen in ((exempt, pod), (far, node)):
            server = namespaces.socket_in(paths[2], family.facts.socket_family, socket.SOCK_DGRAM)
            client = namespaces.socket_in(paths[1], family.facts.socket_family, socket.SOCK_DGRAM)
            with server, client:
                server.settimeout(5)
                server.bind((destination, 9))
                client.sendto(b"?", (destination, 9))
                source = server.recvfrom(10)[1]
            assert source[0] == seen
            if ports and seen == node:
                assert 2000 <= source[1] <= 2999 or source[1] == 5000
    finally:
        for path in paths:
            namespaces.remove(path)


def _whole(table):
    from twinstack.dataplane.ruleset import whole

    return whole(table)


@pytest.mark.kernel
def test_the_kernel_accepts_every_exemption():
    path = f"/run/netns/tst-{os.getpid()}-mq"
    namespaces.create(path)
    try:
        with nftables.Nftables(path) as ruleset:

            @given(
                st.sampled_from(FAMILIES), st.lists(st.tuples(st.integers(0, 255), st.integers(1, 24)), max_size=8), st.sampled_from(["", "1-9,20-20,30-99"])
            )
            def accepted(family, numbers, ports):
                shift = family.bits - 24
                networks = tuple(parse_cidr(f"{family.address(number << shift << 8)}/{prefix}", masked=True) for number, prefix in numbers)
                table = wanted(Config(cidrs=networks), Settings(to_ports=ports), family)
                nftables.apply(ruleset, _whole(table))
                assert nftables.read_table(ruleset, family, TABLE) == table

            accepted()
    finally:
        namespaces.remove(path)
