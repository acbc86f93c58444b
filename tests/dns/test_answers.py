"""What is answered: existence told exactly, sections, EDNS, truncation, and any bytes at all."""

from __future__ import annotations

import random

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.dns.records import Record
from twinstack.dns.responder import Abroad
from twinstack.net.family import FAMILIES, Family

V4, V6 = FAMILIES
D = "cluster.local."


@pytest.fixture
def demo(book, paper):
    """A zone with a Service of each sort."""
    made = book(guess_pods=True, reverse=["96.10.in-addr.arpa."])
    made.add(paper.service("both", FAMILIES, 7))
    made.add(paper.service("four", [V4], 8))
    made.add(paper.service("six", [V6], 9))
    made.add(paper.headless("db", FAMILIES), *(paper.slice("db", family, paper.endpoint(family, 20, hostname="db-0")) for family in FAMILIES))
    made.add(paper.headless("half", FAMILIES), paper.slice("half", V6, paper.endpoint(V6, 30)))
    made.add(paper.headless("empty", FAMILIES), paper.slice("empty", V4, paper.endpoint(V4, 31, ready=False)))
    for name, target in (("outside", "example.com"), ("inside", f"both.demo.svc.{D}"), ("lost", f"nothing.demo.svc.{D}"), ("circle", f"circle.demo.svc.{D}")):
        made.add(paper.service(name, (), type="ExternalName", externalName=target, clusterIP="", clusterIPs=[]))
    return made


DATA, NODATA, NXDOMAIN, ABROAD = "data", "no data", "no such name", "somebody else"
TABLE = [
    (f"both.demo.svc.{D}", "A", DATA),
    (f"both.demo.svc.{D}", "AAAA", DATA),
    (f"four.demo.svc.{D}", "A", DATA),
    (f"four.demo.svc.{D}", "AAAA", NODATA),
    (f"six.demo.svc.{D}", "A", NODATA),
    (f"six.demo.svc.{D}", "AAAA", DATA),
    (f"both.demo.svc.{D}", "TXT", NODATA),
    (f"both.demo.svc.{D}", "MX", NODATA),
    (f"both.demo.svc.{D}", "SRV", NODATA),
    (f"both.demo.svc.{D}", "HTTPS", NODATA),
    (f"both.demo.svc.{D}", "ANY", NODATA),
    (f"inside.demo.svc.{D}", "ANY", NODATA),
    (f"nope.demo.svc.{D}", "ANY", NXDOMAIN),
    (f"10-0-0-7.demo.pod.{D}", "ANY", NODATA),
    (D, "ANY", NODATA),
    (f"_tcp.both.demo.svc.{D}", "ANY", NODATA),
    (f"*.demo.svc.{D}", "A", NXDOMAIN),
    (f"any.demo.svc.{D}", "A", NXDOMAIN),
    (f"_any._any.both.demo.svc.{D}", "SRV", NXDOMAIN),
    (f"_http._tcp.both.demo.svc.{D}", "SRV", DATA),
    (f"_http._tcp.both.demo.svc.{D}", "A", NODATA),
    (f"_tcp.both.demo.svc.{D}", "SRV", NODATA),
    (f"_https._tcp.both.demo.svc.{D}", "SRV", NXDOMAIN),
    (f"_http._udp.both.demo.svc.{D}", "SRV", NXDOMAIN),
    (f"nope.demo.svc.{D}", "A", NXDOMAIN),
    (f"both.nowhere.svc.{D}", "AAAA", NXDOMAIN),
    (f"demo.svc.{D}", "A", NODATA),
    (f"nowhere.svc.{D}", "A", NXDOMAIN),
    (f"svc.{D}", "A", NODATA),
    (f"pod.{D}", "A", NODATA),
    (f"demo.pod.{D}", "A", NODATA),
    (D, "A", NODATA),
    (D, "SOA", DATA),
    (D, "NS", DATA),
    (f"demo.{D}", "A", NXDOMAIN),
    (f"dns-version.{D}", "TXT", DATA),
    (f"dns-version.{D}", "A", NODATA),
    (f"db.demo.svc.{D}", "A", DATA),
    (f"db.demo.svc.{D}", "AAAA", DATA),
    (f"db-0.db.demo.svc.{D}", "AAAA", DATA),
    (f"db-1.db.demo.svc.{D}", "AAAA", NXDOMAIN),
    (f"half.demo.svc.{D}", "AAAA", DATA),
    (f"half.demo.svc.{D}", "A", NODATA),
    (f"empty.demo.svc.{D}", "A", NXDOMAIN),
    (f"10-0-0-7.demo.pod.{D}", "A", DATA),
    (f"10-0-0-7.demo.pod.{D}", "AAAA", NODATA),
    (f"fd00--7.demo.pod.{D}", "AAAA", DATA),
    (f"10-0-0-7.nowhere.pod.{D}", "A", NXDOMAIN),
    (f"10-0-0-777.demo.pod.{D}", "A", NXDOMAIN),
    (f"x.10-0-0-7.demo.pod.{D}", "A", NXDOMAIN),
    ("7.0.96.10.in-addr.arpa.", "PTR", DATA),
    ("7.0.96.10.in-addr.arpa.", "A", NODATA),
    ("99.0.96.10.in-addr.arpa.", "PTR", NXDOMAIN),
    ("0.96.10.in-addr.arpa.", "PTR", NODATA),
    ("99.0.97.10.in-addr.arpa.", "PTR", ABROAD),
    (f"9.{'0.' * 19}6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", "PTR", DATA),
    (f"1.1.{'0.' * 18}6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.", "PTR", ABROAD),
    ("example.com.", "A", ABROAD),
    ("com.", "NS", ABROAD),
    (".", "NS", ABROAD),
    ("arpa.", "NS", ABROAD),
    ("xcluster.local.", "A", ABROAD),
    (f"outside.demo.svc.{D}", "A", ABROAD),
    (f"outside.demo.svc.{D}", "CNAME", DATA),
    (f"inside.demo.svc.{D}", "AAAA", DATA),
    (f"lost.demo.svc.{D}", "A", NXDOMAIN),
]


@pytest.mark.parametrize(("name", "type_", "wanted"), TABLE, ids=[f"{name} {type_} is {wanted}" for name, type_, wanted in TABLE])
def test_a_name_without_such_a_record_is_told_from_a_name_that_is_not(demo, name, type_, wanted):
    if wanted is ABROAD:
        assert demo.goes_abroad(name, type_)
        return
    for again in range(2):  # built, and kept
        message = demo.ask(name, type_)
        assert message.rcode() == (dns.rcode.NXDOMAIN if wanted is NXDOMAIN else dns.rcode.NOERROR), again
        assert message.flags & dns.flags.AA
        if wanted is DATA:
            assert message.answer and not message.authority
        else:
            (soa,) = message.authority
            assert soa.rdtype == dns.rdatatype.SOA and soa.ttl == soa[0].minimum == 5
            assert name.endswith(soa.name.to_text()), "the SOA is that of the zone"


def test_names_are_told_apart_by_no_case_and_the_question_keeps_its_own(demo):
    for _ in range(2):
        message = demo.ask("BoTH.demo.SVC.cluster.LOCAL.", "A")
        assert message.question[0].name.to_text() == "BoTH.demo.SVC.cluster.LOCAL."
        assert [one.to_text() for one in message.answer[0]] == ["10.96.0.7"]


def test_ports_bring_the_addresses_of_both_families_along(demo):
    message = demo.ask(f"_http._tcp.db.demo.svc.{D}", "SRV")
    assert [one.to_text() for one in message.answer[0]] == [f"0 100 8080 db-0.db.demo.svc.{D}"]
    found = {(dns.rdatatype.to_text(one.rdtype), one.name.to_text(), one[0].to_text()) for one in message.additional}
    assert found == {("A", f"db-0.db.demo.svc.{D}", "10.96.0.20"), ("AAAA", f"db-0.db.demo.svc.{D}", "fd00:10:96::14")}


def test_an_alias_brings_along_what_it_leads_to_and_a_circle_ends(demo):
    message = demo.ask(f"inside.demo.svc.{D}", "A")
    assert [(one.name.to_text(), dns.rdatatype.to_text(one.rdtype)) for one in message.answer] == [
        (f"inside.demo.svc.{D}", "CNAME"),
        (f"both.demo.svc.{D}", "A"),
    ]
    assert demo.ask(f"circle.demo.svc.{D}", "A").rcode() == dns.rcode.SERVFAIL


def test_what_changes_is_answered_at_once_and_what_goes_is_gone(book, paper):
    one = book()
    one.add(paper.service("web", FAMILIES, 7))
    assert one.ask(f"web.demo.svc.{D}", "A").answer[0][0].to_text() == "10.96.0.7"
    serial = one.ask(D, "SOA").answer[0][0].serial
    nothing = (f"nope.demo.svc.{D}", f"demo.svc.{D}")
    assert [one.ask(name, "A").authority[0][0].serial for name in nothing] == [serial] * 2
    one.add(paper.service("web", FAMILIES, 8))
    assert one.ask(f"web.demo.svc.{D}", "A").answer[0][0].to_text() == "10.96.0.8"
    assert one.ask(f"_http._tcp.web.demo.svc.{D}", "SRV").additional[0][0].to_text() == "10.96.0.8"
    assert one.ask(D, "SOA").answer[0][0].serial > serial
    assert all(one.ask(name, "A").authority[0][0].serial > serial for name in nothing), "what says that there is nothing is of now, too"
    one.add(paper.service("web", [V6], 8))
    assert one.ask(f"web.demo.svc.{D}", "A").rcode() == dns.rcode.NOERROR and not one.ask(f"web.demo.svc.{D}", "A").answer
    one.zone.drop("web")
    assert one.ask(f"web.demo.svc.{D}", "A").rcode() == dns.rcode.NXDOMAIN
    one.zone.drop("demo")
    assert one.ask(f"svc.{D}", "A").rcode() == dns.rcode.NXDOMAIN


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(["x", "x.y", "y", "z.y", "w.z.y"]), max_size=4)), max_size=12))
def test_names_exist_as_long_as_something_is_at_or_below_them(changes):
    from twinstack.dns import wire
    from twinstack.dns.zone import Zone

    zone, held = Zone("c.local"), {}
    before = set(zone.nodes)
    for source, names in changes:
        held[source] = names
        zone.put(source, [Record(f"{name}.c.local.", "TXT", '"t"') for name in names])
        below = {name for names in held.values() for name in names}
        wanted = {".".join(name.split(".")[i:]) for name in below for i in range(name.count(".") + 1)}
        assert set(zone.nodes) - before == {wire.name_of(f"{name}.c.local.") for name in wanted}
    for source in held:
        zone.drop(source)
    assert set(zone.nodes) == before


def test_names_that_are_too_long_are_left_out_and_told_and_the_rest_is_answered(book):
    from twinstack.api import kinds
    from twinstack.api.objects import view_of
    from twinstack.dns.records import Options, service_records

    long = ".".join(["d" * 60] * 3)
    one = book()
    slices = [
        view_of(
            kinds.EndpointSlice, {"addressType": "IPv4", "ports": [{"name": "p", "port": 1}], "endpoints": [{"addresses": ["10.0.0.1"], "hostname": "h" * 63}]}
        )
    ]
    service = view_of(kinds.Service, {"metadata": {"namespace": "n" * 10, "name": "s" * 40}, "spec": {"clusterIP": "None"}})
    records = service_records(service, slices, Options(domain=long))
    wrong = one.zone.put("long", records)
    assert wrong == [f"{'h' * 63}.{'s' * 40}.{'n' * 10}.svc.{long}."]
    base = f"{'s' * 40}.{'n' * 10}.svc.{long}."
    assert one.ask(base, "A").answer and not one.goes_abroad(base, "A")


SRV = st.tuples(*[st.integers(0, 65535)] * 3, st.sampled_from(["a.", "a.b-c.svc.cluster.local.", "_x._tcp.y."])).map(lambda parts: " ".join(map(str, parts)))


@given(
    st.one_of(
        st.sampled_from(FAMILIES).flatmap(lambda family: st.integers(0, 2**family.bits - 1).map(lambda n: (family.facts.dns_type, str(family.address(n))))),
        SRV.map(lambda text: ("SRV", text)),
        st.sampled_from(["CNAME", "PTR", "NS"]).map(lambda type_: (type_, "www.example.com.")),
    )
)
def test_data_is_written_as_dnspython_writes_it(record):
    from twinstack.dns import wire

    try:
        written = wire.data_of(*record)
    except ValueError:  # an address of one family in the other's clothes
        assert "::ffff:" in record[1]
        return
    assert written == dns.rdata.from_text("IN", *record).to_wire()


def test_several_addresses_take_turns(book, paper):
    one = book()
    one.add(paper.headless("db", [V6]), paper.slice("db", V6, *(paper.endpoint(V6, n) for n in range(1, 5))))
    firsts = {one.ask(f"db.demo.svc.{D}", "AAAA").answer[0][0].to_text() for _ in range(8)}
    assert len(firsts) == 4


@pytest.fixture
def many(book, paper):
    one = book()
    one.add(paper.headless("db", FAMILIES), *(paper.slice("db", family, *(paper.endpoint(family, n) for n in range(1, 101))) for family in FAMILIES))
    return one


@pytest.mark.parametrize(("offered", "limit"), [(-1, 512), (512, 512), (300, 512), (1000, 1000), (1232, 1232), (4096, 1232), (65535, 1232)])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit_is_cut_between_records_and_marked(many, family: Family, offered, limit):
    edns = {} if offered < 0 else {"use_edns": 0, "payload": offered}
    for _ in range(2):
        message = many.ask(f"db.demo.svc.{D}", family.facts.dns_type, **edns)
        size = len(message.wire)
        assert message.flags & dns.flags.TC
        assert limit - 28 < size <= limit, "as many as fit"
        assert message.edns == (-1 if offered < 0 else 0)
    assert len(many.ask(f"db.demo.svc.{D}", family.facts.dns_type, stream=True).answer[0]) == 100
    assert not many.ask(f"db.demo.svc.{D}", family.facts.dns_type, stream=True).flags & dns.flags.TC


def test_addresses_that_come_along_are_left_out_before_anything_is_truncated(book, paper):
    one = book()
    one.add(paper.headless("db", FAMILIES), *(paper.slice("db", family, *(paper.endpoint(family, n) for n in range(1, 5))) for family in FAMILIES))
    message = one.ask(f"_http._tcp.db.demo.svc.{D}", "SRV", use_edns=0, payload=800)
    assert not message.flags & dns.flags.TC
    assert len(message.answer[0]) == 8 and 0 < len(message.additional) < 8


def test_edns_is_answered_with_edns_and_a_version_to_come_with_badvers(demo):
    message = demo.ask(f"both.demo.svc.{D}", "A", use_edns=0, want_dnssec=True)
    assert message.edns == 0 and message.payload == 1232 and message.ednsflags & dns.flags.DO
    assert demo.ask(f"both.demo.svc.{D}", "A").edns == -1
    assert demo.ask(f"both.demo.svc.{D}", "A", use_edns=1).rcode() == dns.rcode.BADVERS
    option = dns.edns.GenericOption(10, b"12345678")
    assert demo.ask(f"both.demo.svc.{D}", "A", use_edns=0, options=[option]).answer


@pytest.mark.parametrize("recursion", [False, True])
def test_flags_of_the_query_come_back_and_recursion_is_offered_by_whoever_can(book, paper, recursion):
    one = book(recursion=recursion)
    one.add(paper.service("web", [V4]))
    for flags in ("", "RD", "CD", "RD CD"):
        for _ in range(2):
            got = dns.flags.to_text(one.ask(f"web.demo.svc.{D}", "A", flags=dns.flags.from_text(flags)).flags)
            assert set(got.split()) == {"QR", "AA", *flags.split(), *(["RA"] if recursion else [])}


REFUSALS = [
    ("another class", dns.message.make_query("version.bind.", "TXT", rdclass="CH").to_wire(), dns.rcode.REFUSED),
    ("a notification", bytes.fromhex("0001 2000 0001 0000 0000 0000 00 0006 0001"), dns.rcode.NOTIMP),
    ("no question", bytes.fromhex("0001 0100 0000 0000 0000 0000"), dns.rcode.FORMERR),
    ("two questions", bytes.fromhex("0001 0100 0002 0000 0000 0000 00 0001 0001 00 0001 0001"), dns.rcode.FORMERR),
    ("half a question", bytes.fromhex("0001 0100 0001 0000 0000 0000 03 61"), dns.rcode.FORMERR),
    ("a pointer to itself", bytes.fromhex("0001 0100 0001 0000 0000 0000 c00c 0001 0001"), dns.rcode.FORMERR),
    ("an OPT record of no end", bytes.fromhex("0001 0100 0001 0000 0000 0001 00 0001 0001 00 0029 04d0 00000000 0009"), dns.rcode.FORMERR),
]


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_what_is_no_query_of_ours_is_refused_by_its_code(demo, data, code):
    reply = demo.responder.answer(data)
    assert isinstance(reply, bytes) and reply[:2] == data[:2]
    assert dns.message.from_wire(reply).rcode() == code


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 11, dns.message.make_response(dns.message.make_query("a.", "A")).to_wire()], ids=["nothing", "no header", "an answer"]
)
def test_what_deserves_no_answer_gets_none(demo, data):
    assert demo.responder.answer(data) is None


def test_any_bytes_give_an_answer_silence_or_a_question_for_somebody_else(demo):
    good = [dns.message.make_query(name, type_, use_edns=edns).to_wire() for name, type_, _ in TABLE for edns in (None, 0)]

    @given(
        st.one_of(st.binary(max_size=80), st.tuples(st.sampled_from(good), st.randoms(use_true_random=False)).map(lambda pair: _harmed(*pair))), st.booleans()
    )
    def check(data: bytes, stream: bool) -> None:
        reply = demo.responder.answer(data, stream=stream)
        if isinstance(reply, bytes):
            assert reply[:2] == data[:2] and reply[2] & 0x80
            assert len(dns.message.from_wire(reply).question) <= 1
        elif isinstance(reply, Abroad):
            assert reply.target[-1] == 0

    check()


def _harmed(data: bytes, chance: random.Random) -> bytes:
    """A query with a few bytes changed, left out, doubled or added."""
    some = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(some)) if some else 0
        match chance.randrange(4):
            case 0 if some:
                some[at] = chance.randrange(256)
            case 1:
                del some[at : at + chance.randint(1, 4)]
            case 2:
                some[at:at] = some[at : at + chance.randint(1, 8)]
            case _:
                some += bytes(chance.randrange(256) for _ in range(chance.randint(1, 12)))
    return bytes(some)
