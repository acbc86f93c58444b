"""The server on loopback: UDP and TCP of both families, a real dig, upstream resolvers, what is counted."""

from __future__ import annotations

import asyncio
import random
import socket
import time

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop
from prometheus_client import CollectorRegistry, generate_latest

from twinstack.cli.main import main
from twinstack.dns.forward import Forwarder
from twinstack.dns.metrics import Metrics
from twinstack.dns.records import Record
from twinstack.dns.responder import Responder
from twinstack.dns.server import DNSError, Server
from twinstack.dns.settings import Settings, SettingsError, checked, upstreams
from twinstack.dns.zone import Zone
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES

V4, V6 = FAMILIES
D = "cluster.local."
LOOPBACKS = tuple(family.facts.loopback for family in FAMILIES)
ANYWHERE = tuple(family.facts.unspecified for family in FAMILIES)


@pytest.fixture
def demo(book, paper):
    made = book()
    made.add(paper.service("web", FAMILIES, 7))
    made.add(paper.headless("db", FAMILIES), *(paper.slice("db", family, *(paper.endpoint(family, n) for n in range(1, 101))) for family in FAMILIES))
    return made


async def dig(server: str, port: int, *words: str) -> str:
    """What Debian's dig says."""
    done = await asyncio.create_subprocess_exec("dig", f"@{server}", "-p", str(port), "+time=2", "+tries=1", *words, stdout=asyncio.subprocess.PIPE)
    out, _ = await done.communicate()
    assert done.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.slow
@pytest.mark.parametrize("addresses", [LOOPBACKS, ANYWHERE], ids=["loopback", "anywhere"])
async def test_dig_gets_every_record_by_udp_and_tcp_of_both_families(demo, serving, addresses):
    questions = [f"web.demo.svc.{D}", "A", f"web.demo.svc.{D}", "AAAA", f"_http._tcp.web.demo.svc.{D}", "SRV", f"dns-version.{D}", "TXT"]
    pointers = ["-x", "10.96.0.7", "-x", "fd00:10:96::7"]
    wanted = ["10.96.0.7", "fd00:10:96::7", f"0 100 80 web.demo.svc.{D}", '"1.1.0"', f"web.demo.svc.{D}", f"web.demo.svc.{D}"]
    async with serving(demo, addresses) as (port, _, _):
        for server in LOOPBACKS:
            for how in ("+notcp", "+tcp"):
                assert (await dig(server, port, "+short", how, *questions, *pointers)).splitlines() == wanted
            said = await dig(server, port, "+ignore", f"db.demo.svc.{D}", "AAAA")
            assert "flags: qr aa tc rd" in said and "udp: 1232" in said
            assert len((await dig(server, port, "+short", f"db.demo.svc.{D}", "AAAA")).splitlines()) == 100, "it came again by TCP"
            assert "status: NXDOMAIN" in await dig(server, port, f"nope.demo.svc.{D}", "AAAA")
            assert "status: REFUSED" in await dig(server, port, "example.com")


async def test_what_came_to_an_address_is_answered_from_it(demo, serving):
    async with serving(demo, ANYWHERE[:1]) as (port, _, _):
        for address in ("127.0.0.1", "127.1.2.3"):
            query = dns.message.make_query(f"web.demo.svc.{D}", "A")
            assert (await dns.asyncquery.udp(query, address, 2, port)).answer, "dnspython looks who answers"


@pytest.mark.parametrize("server", LOOPBACKS)
async def test_a_connection_holds_many_queries_however_they_are_cut(demo, serving, server):
    queries = [dns.message.make_query(f"{name}.demo.svc.{D}", type_) for name in ("web", "nope", "db") for type_ in ("A", "AAAA")]
    data = b"".join(len(wire).to_bytes(2, "big") + wire for wire in (query.to_wire() for query in queries))
    async with serving(demo, (server,)) as (port, _, _):
        reader, writer = await asyncio.open_connection(server, port)
        for start in range(0, len(data), 7):
            writer.write(data[start : start + 7])
            await writer.drain()
        for query in queries:
            size = int.from_bytes(await reader.readexactly(2), "big")
            assert query.is_response(dns.message.from_wire(await reader.readexactly(size)))
        writer.write(b"\0\3abc")
        assert await reader.read() == b"", "nonsense ends it"
        writer.close()


@pytest.mark.slow
async def test_a_connection_on_which_nothing_whole_comes_is_ended_and_one_that_asks_is_not(demo):
    metrics = Metrics(CollectorRegistry(), "")
    async with asyncio.TaskGroup() as tasks:
        server = Server(demo.responder, Forwarder(demo.responder, (), metrics), metrics, tasks, idle_seconds=0.3)
        ((_, port),) = await server.start(["::1"], 0)
        query = dns.message.make_query(f"db.demo.svc.{D}", "AAAA").to_wire()
        asking, silent = await asyncio.open_connection("::1", port), await asyncio.open_connection("::1", port)
        silent[1].write(b"\0\xff half a query")
        ended = asyncio.create_task(silent[0].read())
        async with asyncio.timeout(10):
            while not ended.done():
                asking[1].write(len(query).to_bytes(2, "big") + query)
                size = int.from_bytes(await asking[0].readexactly(2), "big")
                assert dns.message.from_wire(await asking[0].readexactly(size)).answer
            assert ended.result() == b"" and not asking[0].at_eof()
            assert await asking[0].read() == b"", "and then it, too, is ended"
        for _, writer in (asking, silent):
            writer.close()
        server.close()


async def test_an_address_that_is_taken_is_told_in_one_line(demo):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port, metrics = taken.getsockname()[1], Metrics(CollectorRegistry(), "")
        async with asyncio.TaskGroup() as tasks:
            with pytest.raises(DNSError, match=rf"^127\.0\.0\.1:{port} cannot be listened on: Address already in use$"):
                await Server(demo.responder, Forwarder(demo.responder, (), metrics), metrics, tasks).start(["127.0.0.1"], port)


# ---- upstream resolvers


@pytest.fixture
def world(book):
    """What a resolver of the world knows: this zone of ours is its whole world."""
    made = book()
    made.put("example", *(Record("www.cluster.local.", family.facts.dns_type, family.facts.documentation) for family in FAMILIES))
    made.put("long", *(Record("long.cluster.local.", "TXT", f'"{n:0200}"') for n in range(20)))
    return made


@pytest.fixture
def asking(book):
    """A server of another domain, which must ask."""
    made = book()
    made.zone = Zone("other.test")
    made.responder = Responder(made.zone, recursion=True)
    made.put("alias", Record("alias.other.test.", "CNAME", "www.cluster.local."))
    return made


async def ask(server: str, port: int, name: str, type_: str = "AAAA", *, tcp: bool = False) -> dns.message.Message:
    how = dns.asyncquery.tcp if tcp else dns.asyncquery.udp
    return await how(dns.message.make_query(name, type_, use_edns=0), server, 3, port)


@pytest.mark.parametrize("family", FAMILIES)
async def test_other_names_are_asked_for_and_what_is_told_is_kept(world, asking, serving, family):
    loopback = family.facts.loopback
    async with serving(world, (loopback,)) as (far, asked, _), serving(asking, (loopback,), upstreams=[(parse_address(loopback), far)]) as (port, metrics, _):
        for _ in range(3):
            message = await ask(loopback, port, "WWW.cluster.local.")
            assert [one.to_text() for one in message.answer[0]] == [V6.facts.documentation]
            assert message.flags & dns.flags.RA and not message.flags & dns.flags.AA
            assert message.question[0].name.to_text() == "WWW.cluster.local."
        assert (await ask(loopback, port, "nope.cluster.local.")).rcode() == dns.rcode.NXDOMAIN
        negative = await ask(loopback, port, "nope.cluster.local.")
        assert negative.rcode() == dns.rcode.NXDOMAIN and negative.authority
        alias = await ask(loopback, port, "alias.other.test.")
        assert [one[0].to_text() for one in alias.answer] == ["www.cluster.local.", V6.facts.documentation]
        assert sum(asked._requests.values()) == 2 and metrics.cache_hits == 4


async def test_what_a_resolver_truncates_is_asked_again_over_tcp(world, asking, serving):
    async with serving(world, ("::1",)) as (far, _, _), serving(asking, ("::1",), upstreams=[(parse_address("::1"), far)]) as (port, _, _):
        assert (await ask("::1", port, "long.cluster.local.", "TXT")).flags & dns.flags.TC
        assert len((await ask("::1", port, "long.cluster.local.", "TXT", tcp=True)).answer[0]) == 20


async def test_the_next_resolver_is_asked_when_one_is_silent_and_it_is_the_first_from_then_on(world, asking, serving):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        dead = (parse_address("127.0.0.1"), silent.getsockname()[1])
        brief = {"seconds": 0.05, "keep_seconds": 0}
        async with (
            serving(world, ("::1",)) as (far, _, _),
            serving(asking, ("::1",), upstreams=[dead, (parse_address("::1"), far)], **brief) as (port, metrics, _),
        ):
            for _ in range(2):
                assert (await ask("::1", port, "www.cluster.local.")).answer
            assert sum(metrics.forward_failures.values()) == 1
        async with serving(asking, ("::1",), upstreams=[dead], seconds=0.05) as (port, _, _):
            assert (await ask("::1", port, "www.cluster.local.")).rcode() == dns.rcode.SERVFAIL


@pytest.mark.slow
async def test_a_resolver_that_asks_us_in_turn_is_asked_no_more_until_it_does_so_no_more(asking, serving):
    loop, ours, clients, in_turn = asyncio.get_running_loop(), [0], {}, [True]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as relay:
        relay.bind(("::1", 0))
        relay.setblocking(False)

        def hand_on() -> None:
            data, client = relay.recvfrom(4096)
            if client[1] == ours[0]:
                relay.sendto(data, clients[data[:2]])
            elif in_turn[0]:
                clients[data[:2]] = client
                relay.sendto(data, ("::1", ours[0]))
            else:
                relay.sendto(dns.message.make_response(dns.message.from_wire(data)).to_wire(), client)

        loop.add_reader(relay, hand_on)
        upstreams = [(parse_address("::1"), relay.getsockname()[1])]
        async with serving(asking, ("::1",), upstreams=upstreams, seconds=0.2, circle_seconds=0.05, watched=True) as (port, metrics, _):
            ours[0] = port
            before = -1
            async with asyncio.timeout(10):
                while before != sum(metrics.forwarded.values()):  # the circle has been found: a question goes nowhere
                    before = sum(metrics.forwarded.values())
                    assert (await ask("::1", port, "www.example.")).rcode() == dns.rcode.SERVFAIL
            in_turn[0] = False
            async with asyncio.timeout(10):
                while (await ask("::1", port, "www.example.")).rcode() != dns.rcode.NOERROR:
                    pass
        loop.remove_reader(relay)


@pytest.mark.slow
async def test_a_resolver_that_sends_nonsense_or_answers_something_else_is_not_believed(asking, serving):
    loop = asyncio.get_running_loop()
    chance = random.Random(7)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as liar:
        liar.bind(("::1", 0))
        liar.setblocking(False)

        def lie() -> None:
            data, client = liar.recvfrom(4096)
            liar.sendto(chance.randbytes(chance.randint(0, 80)), client)
            liar.sendto(data[:2] + b"\x81\x80" + chance.randbytes(40), client)
            query = dns.message.from_wire(data)
            other = dns.message.make_response(dns.message.make_query("elsewhere.", "A", id=query.id))
            liar.sendto(other.to_wire(), client)

        loop.add_reader(liar, lie)
        async with serving(asking, ("::1",), upstreams=[(parse_address("::1"), liar.getsockname()[1])], seconds=0.05) as (port, metrics, _):
            for i in range(10):
                assert (await ask("::1", port, f"n{i}.cluster.local.")).rcode() == dns.rcode.SERVFAIL
            assert sum(metrics.forward_failures.values()) == 10
        loop.remove_reader(liar)


async def test_where_one_family_is_answered_nobody_is_asked_for_the_other(world, asking, serving):
    async with serving(world, ("::1",)) as (far, _, _):
        upstreams = [(parse_address("::1"), far)]
        async with serving(asking, ("::1",), upstreams=upstreams, answered=FAMILIES[:1]) as (port, metrics, _):
            assert (await ask("::1", port, "www.cluster.local.", FAMILIES[0].facts.dns_type)).answer
            asked = sum(metrics.forwarded.values())
            for name, count in (("www.cluster.local.", 0), ("alias.other.test.", 1)):
                message = await ask("::1", port, name, FAMILIES[1].facts.dns_type)
                assert (message.rcode(), len(message.answer)) == (dns.rcode.NOERROR, count)
            assert sum(metrics.forwarded.values()) == asked


@pytest.mark.parametrize("code", [dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.NXDOMAIN])
async def test_without_a_resolver_other_names_are_answered_at_once_as_told(demo, serving, code):
    async with serving(demo, ("::1",), without_upstream=int(code)) as (port, _, _):
        began = time.monotonic()
        assert (await ask("::1", port, "example.com.")).rcode() == code
        assert time.monotonic() - began < 0.5


# ---- settings and figures


async def test_queries_are_counted_under_corednss_names(demo, serving):
    async with serving(demo, LOOPBACKS) as (port, _, registry):
        await ask("::1", port, f"web.demo.svc.{D}", "A")
        await ask("127.0.0.1", port, f"nope.demo.svc.{D}", "AAAA", tcp=True)
        await ask("127.0.0.1", port, f"web.demo.svc.{D}", "TYPE65280")
        text = generate_latest(registry).decode()
    place = 'server="dns://:53",'
    for line in (
        f'coredns_dns_requests_total{{family="2",proto="udp",{place}type="A",view="",zone="."}} 1.0',
        f'coredns_dns_requests_total{{family="1",proto="tcp",{place}type="AAAA",view="",zone="."}} 1.0',
        f'coredns_dns_requests_total{{family="1",proto="udp",{place}type="other",view="",zone="."}} 1.0',
        f'coredns_dns_responses_total{{plugin="kubernetes",rcode="NXDOMAIN",{place}view="",zone="."}} 1.0',
        f'coredns_dns_request_duration_seconds_count{{{place}view="",zone="."}} 3.0',
        f'coredns_dns_response_size_bytes_count{{proto="tcp",{place}view="",zone="."}} 1.0',
    ):
        assert line in text, text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"cluster_domain": "a..b"}, "--cluster-domain 'a..b' is not a domain"),
        ({"bind_addresses": ("localhost",)}, "--bind-address: 'localhost' is not an IP address"),
        ({"bind_addresses": ()}, "--bind-address names no address"),
        ({"port": 65536}, "--port 65536 is not a port"),
        ({"forward": ("dns.example",)}, "--forward 'dns.example' is not an address, with or without a port, nor 'none'"),
        ({"forward": ("::1:53x",)}, "--forward '::1:53x' is not an address"),
        ({"pods": "all"}, "--pods 'all' is none of disabled, insecure, verified"),
        ({"ttl_seconds": -1}, "--ttl -1 is not 0 to 3600 seconds"),
        ({"udp_bytes": 100}, "--udp-size 100 is not 512 to 4096 bytes"),
        ({"reverse_cidrs": "10.0.0.1/8"}, "--reverse-cidrs: '10.0.0.1/8' has bits set beyond its prefix"),
        ({"service": "dns"}, "--service 'dns' is not a namespace and a name"),
        ({"without_upstream": "drop"}, "--without-upstream 'drop' is none of"),
        ({"answer_families": "IPv4,IPv5"}, "--answer-families 'IPv4,IPv5' is not one or both of IPv4, IPv6"),
    ],
    ids=str,
)
def test_a_flag_that_cannot_be_is_refused_by_name(changed, said):
    with pytest.raises(SettingsError) as refused:
        checked(Settings(**changed))
    assert str(refused.value).startswith(said)


def test_resolvers_are_those_named_else_those_of_the_machine_and_never_ourselves(tmp_path):
    file = tmp_path / "resolv.conf"
    file.write_text("search x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\n# nameserver 192.0.2.2\n")
    own = [parse_address("::1")]
    assert upstreams(Settings(resolv_conf=str(file)), own) == ((parse_address("192.0.2.1"), 53),)
    assert upstreams(Settings(forward=("[::1]:5353", "192.0.2.9")), own) == ((parse_address("::1"), 5353), (parse_address("192.0.2.9"), 53))
    assert upstreams(Settings(forward=("none",), resolv_conf=str(file))) == ()
    assert upstreams(Settings(resolv_conf=str(tmp_path / "absent"))) == ()


# ---- the command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kubeconfig", "/nowhere"], "error: kubeconfig /nowhere does not exist\n"),
        (["--bind-address", "localhost", "--ttl", "9999"], "error: --bind-address: 'localhost' is not an IP address; --ttl 9999 is not 0 to 3600 seconds\n"),
    ],
)
def test_the_command_ends_with_one_line_when_it_cannot_work(words, said, capfd):
    with pytest.raises(SystemExit) as ended:
        main(["dns", *words])
    assert ended.value.code == 1 and capfd.readouterr().err == said


@pytest.mark.parametrize("server", LOOPBACKS)
def test_tcp_and_udp_are_served_by_the_event_loop_that_programs_run_on(demo, serving, server):
    async def work() -> None:
        async with serving(demo, (server,)) as (port, _, _):
            for tcp in (False, True):
                assert (await ask(server, port, f"web.demo.svc.{D}", tcp=tcp)).answer

    uvloop.run(work())
