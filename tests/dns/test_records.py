"""Objects in, records out: the Kubernetes DNS specification 1.1.0 as tables, and the twins alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.dns.records import Options, Record, dashed, pod_records, reverse_name, reverse_zones, service_records, undashed, zone_records
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.family import FAMILIES, Family

V4, V6 = FAMILIES
OPTIONS = Options()
PTR = {V4: "7.0.96.10.in-addr.arpa.", V6: "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa."}
WEB, DB = "web.demo.svc.cluster.local.", "db.demo.svc.cluster.local."


def rows(service: kinds.Service, *slices: kinds.EndpointSlice, **options: Any) -> list[tuple[str, str, str]]:
    return sorted((one.name, one.type, one.data) for one in service_records(service, slices, Options(**options)))


@pytest.mark.parametrize("families", [(V4,), (V6,), (V4, V6), (V6, V4)], ids=str)
def test_a_service_has_its_addresses_their_pointers_and_a_record_for_each_named_port(paper, families):
    wanted = [(f"_http._tcp.{WEB}", "SRV", f"0 100 80 {WEB}")]
    for family in families:
        wanted += [(WEB, "A" if family is V4 else "AAAA", str(paper.address(family, 7))), (PTR[family], "PTR", WEB)]
    assert rows(paper.service("web", families)) == sorted(wanted)


def test_a_port_without_a_name_has_no_record_and_others_have_their_protocol(paper):
    ports = [{"port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "Sig", "port": 9, "protocol": "SCTP"}]
    assert [name for name, type_, _ in rows(paper.service("web", [V4], ports=ports)) if type_ == "SRV"] == [f"_dns._udp.{WEB}", f"_sig._sctp.{WEB}"]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("db.example.com", [(WEB, "CNAME", "db.example.com.")]),
        ("DB.Example.com.", [(WEB, "CNAME", "db.example.com.")]),
        ("192.0.2.7", []),
        ("2001:db8::7", []),
        ("", []),
    ],
)
def test_an_external_name_is_an_alias_and_what_looks_like_an_address_is_none(paper, target, wanted):
    assert rows(paper.service("web", (), type="ExternalName", externalName=target, clusterIP="", clusterIPs=[])) == wanted


def test_a_service_that_has_no_address_yet_has_no_records(paper):
    assert rows(paper.service("web", (), clusterIP="", clusterIPs=[])) == []


def test_a_headless_service_has_the_addresses_of_what_is_ready(paper):
    endpoints = [paper.endpoint(V4, 1), paper.endpoint(V4, 2, ready=False), paper.endpoint(V4, 3, ready=None)]
    assert rows(paper.headless("db", [V4]), paper.slice("db", V4, *endpoints)) == sorted(
        [
            (DB, "A", "10.96.0.1"),
            (DB, "A", "10.96.0.3"),
            (f"10-96-0-1.{DB}", "A", "10.96.0.1"),
            (f"10-96-0-3.{DB}", "A", "10.96.0.3"),
            (f"_http._tcp.{DB}", "SRV", f"0 50 8080 10-96-0-1.{DB}"),
            (f"_http._tcp.{DB}", "SRV", f"0 50 8080 10-96-0-3.{DB}"),
        ]
    )


def test_what_is_not_ready_has_records_where_its_service_publishes_it(paper):
    not_ready = paper.slice("db", V4, paper.endpoint(V4, 2, ready=False))
    assert rows(paper.headless("db", [V4]), not_ready) == []
    assert (DB, "A", "10.96.0.2") in rows(paper.headless("db", [V4], publishNotReadyAddresses=True), not_ready)


def test_a_hostname_is_one_name_of_both_families_with_one_port_record_and_pointers(paper):
    slices = [paper.slice("db", family, paper.endpoint(family, 7, hostname="db-0")) for family in FAMILIES]
    own = f"db-0.{DB}"
    assert rows(paper.headless("db", FAMILIES), *slices) == sorted(
        [
            *((name, type_, text) for type_, text in (("A", "10.96.0.7"), ("AAAA", "fd00:10:96::7")) for name in (DB, own)),
            *((pointer, "PTR", own) for pointer in PTR.values()),
            (f"_http._tcp.{DB}", "SRV", f"0 100 8080 {own}"),
        ]
    )


def test_without_a_hostname_each_family_has_a_name_of_its_own_and_no_pointer(paper):
    found = rows(paper.headless("db", FAMILIES), *(paper.slice("db", family, paper.endpoint(family, 7)) for family in FAMILIES))
    assert [data for _, type_, data in found if type_ == "SRV"] == [f"0 50 8080 10-96-0-7.{DB}", f"0 50 8080 fd00-10-96--7.{DB}"]
    assert not [one for one in found if one[1] == "PTR"]


def test_a_headless_service_of_one_family_shows_nothing_of_the_other(paper):
    slices = [paper.slice("db", family, paper.endpoint(family, 7)) for family in FAMILIES]
    for family in FAMILIES:
        found = rows(paper.headless("db", [family]), *slices)
        assert {type_ for _, type_, _ in found} == {family.facts.dns_type, "SRV"}


def test_several_slices_are_one_and_what_stands_in_two_counts_once(paper):
    one = paper.slice("db", V4, paper.endpoint(V4, 1), paper.endpoint(V4, 2), name="1")
    two = paper.slice("db", V4, paper.endpoint(V4, 2), name="2")
    assert rows(paper.headless("db", [V4]), one, two) == rows(paper.headless("db", [V4]), two, one)
    assert [data for name, type_, data in rows(paper.headless("db", [V4]), one, two) if name == DB and type_ == "A"] == ["10.96.0.1", "10.96.0.2"]


def test_slices_of_nonsense_have_no_records(paper):
    wrong = view_of(kinds.EndpointSlice, {"metadata": {"name": "x"}, "addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]})
    mixed = paper.slice("db", V4, paper.endpoint(V6, 1), {"addresses": []}, {"addresses": ["010.0.0.1"]})
    assert rows(paper.headless("db", FAMILIES), wrong, mixed) == []


@pytest.mark.parametrize("dead", FAMILIES)
def test_a_family_in_which_nobody_is_ready_is_left_out_where_that_is_asked_for(paper, dead):
    slices = [paper.slice("web", family, paper.endpoint(family, 1, ready=family is not dead)) for family in FAMILIES]
    service = paper.service("web", FAMILIES)
    shown = {type_ for name, type_, _ in rows(service, *slices, hide_dead_families=True) if name == WEB}
    assert shown == {dead.other.facts.dns_type}
    assert {type_ for name, type_, _ in rows(service, *slices) if name == WEB} == {"A", "AAAA"}
    assert len([one for one in rows(service, *slices, hide_dead_families=True) if one[1] == "PTR"]) == 2, "an address keeps its pointer"


def test_a_service_that_is_dead_in_every_family_or_of_one_alone_is_not_hidden(paper):
    for families in (FAMILIES, (V6,)):
        service = paper.service("web", families)
        assert rows(service, hide_dead_families=True) == rows(service)


def annotated(service, text):
    return replace(service, metadata=replace(service.metadata, annotations={"twinstack.dev/dns-families": text}))


@pytest.mark.parametrize(
    ("text", "hide", "shown"),
    [
        pytest.param("IPv4", False, {"A"}, id="one family"),
        pytest.param("ipv6", False, {"AAAA"}, id="the other, however it is spelled"),
        pytest.param("IPv6, IPv4", True, {"A", "AAAA"}, id="both, whoever is dead"),
        pytest.param("all", True, {"A", "AAAA"}, id="all goes before the flag"),
        pytest.param("ready", False, {"AAAA"}, id="those in which somebody is ready"),
        pytest.param("IPv4", True, {"A"}, id="a family that is named, though it is dead"),
        pytest.param("IPv5", False, {"A", "AAAA"}, id="what makes no sense says nothing"),
        pytest.param("", True, {"AAAA"}, id="nothing said: the flag decides"),
    ],
)
def test_a_service_says_in_which_families_its_names_are_answered(paper, text, hide, shown):
    slices = [paper.slice("web", family, paper.endpoint(family, 1, ready=family is V6)) for family in FAMILIES]
    found = rows(annotated(paper.service("web", FAMILIES), text), *slices, hide_dead_families=hide)
    assert {type_ for name, type_, _ in found if name == WEB} == shown
    assert len([one for one in found if one[1] == "PTR"]) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_one_family_is_answered_where_that_is_asked_for_and_a_service_may_say_otherwise(paper, family):
    slices = [paper.slice("db", one, paper.endpoint(one, 1)) for one in FAMILIES]
    for service in (paper.service("web", FAMILIES), paper.headless("db", FAMILIES)):
        for text, shown in (("", [family]), ("nonsense", [family]), ("all", FAMILIES), (family.other.value, [family.other])):
            found = rows(annotated(service, text), *slices, answered=(family,))
            assert {type_ for _, type_, _ in found} & {"A", "AAAA"} == {one.facts.dns_type for one in shown}, text


def test_a_headless_service_says_so_too_and_its_port_records_lead_only_there(paper):
    slices = [paper.slice("db", family, paper.endpoint(family, 1)) for family in FAMILIES]
    found = rows(annotated(paper.headless("db", FAMILIES), "IPv6"), *slices)
    assert {type_ for _, type_, _ in found if type_ in ("A", "AAAA")} == {"AAAA"}
    assert len([one for one in found if one[1] == "SRV"]) == 1


def test_the_server_itself_is_found_by_the_service_before_it(paper):
    names = {name for name, _, _ in rows(paper.service("web", [V4]), own_service=("demo", "web"))}
    assert "ns.dns.cluster.local." in names
    assert Record("dns-version.cluster.local.", "TXT", '"1.1.0"', 28800) in zone_records(OPTIONS)


@pytest.mark.parametrize(("phase", "count"), [("Running", 2), ("Pending", 2), ("Succeeded", 0), ("Failed", 0)])
def test_a_pod_has_a_name_for_each_of_its_addresses_until_it_has_ended(paper, phase, count):
    ips = [{"ip": str(paper.address(family, 7))} for family in FAMILIES]
    pod = view_of(kinds.Pod, {"metadata": {"namespace": "demo", "name": "p"}, "status": {"phase": phase, "podIPs": ips}})
    wanted = [Record("10-96-0-7.demo.pod.cluster.local.", "A", "10.96.0.7"), Record("fd00-10-96--7.demo.pod.cluster.local.", "AAAA", "fd00:10:96::7")]
    assert list(pod_records(pod, OPTIONS)) == wanted[:count]


@pytest.mark.parametrize(
    ("cidr", "zones"),
    [
        ("10.96.0.0/16", ["96.10.in-addr.arpa."]),
        ("10.96.0.0/15", ["96.10.in-addr.arpa.", "97.10.in-addr.arpa."]),
        ("10.0.0.0/8", ["10.in-addr.arpa."]),
        ("10.96.7.0/24", ["7.96.10.in-addr.arpa."]),
        ("fd00:10:96::/112", ["0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa."]),
        ("fd00::/7", ["c.f.ip6.arpa.", "d.f.ip6.arpa."]),
    ],
)
def test_zones_of_pointers_cover_a_network_and_end_at_labels(cidr, zones):
    assert list(reverse_zones([parse_cidr(cidr, masked=True)])) == zones


@given(st.sampled_from(FAMILIES), st.data())
def test_an_address_is_read_back_from_its_label_and_its_pointer_lies_in_its_zone(family, data):
    address = family.address(data.draw(st.integers(0, 2**family.bits - 1)))
    try:
        parse_address(str(address))
    except ValueError:  # an address of the other family in disguise is none here
        return
    assert undashed(dashed(str(address))) == address
    assert reverse_name(address).endswith(f".{family.facts.dns_reverse}")
    zone = reverse_zones([family.network(int(address) >> 13 << 13, family.bits - 13)])
    assert any(reverse_name(address).endswith(f".{one}") for one in zone)


ENDPOINTS = st.lists(st.tuples(st.integers(1, 20), st.booleans(), st.sampled_from(["", "a", "b-0"])), max_size=5)


@given(ENDPOINTS, st.booleans(), st.booleans())
def test_the_twins_are_alike(endpoints, headless, hide):
    """Exchange the families of everything that goes in, and those of what comes out are exchanged, and nothing else."""
    from_first, from_second = (_told(family, endpoints, headless, hide) for family in FAMILIES)
    assert from_first == from_second


def _told(first: Family, endpoints: list[tuple[int, bool, str]], headless: bool, hide: bool) -> list[tuple[str, ...]]:
    """The records of a Service whose endpoints are all of one family and one of the other, in words that name no family."""
    words = {family: ("first" if family is first else "second") for family in FAMILIES}

    def address(family: Family, number: int) -> str:
        return str(family.address((0x0A600000 if family is V4 else 0xFD00 << 112) + number))

    def slice_of(family: Family, some: list[tuple[int, bool, str]]) -> kinds.EndpointSlice:
        listed = [{"addresses": [address(family, n)], "conditions": {"ready": ready}, **({"hostname": host} if host else {})} for n, ready, host in some]
        document = {"metadata": {"name": f"s-{words[family]}"}, "addressType": family.value, "ports": [{"name": "p", "port": 1}], "endpoints": listed}
        return view_of(kinds.EndpointSlice, document)

    families = (first, first.other)
    texts = ["None"] if headless else [address(family, 99) for family in families]
    spec = {"clusterIP": texts[0], "clusterIPs": texts, "ipFamilies": [family.value for family in families], "ports": [{"name": "p", "port": 1}]}
    service = view_of(kinds.Service, {"metadata": {"namespace": "n", "name": "s"}, "spec": spec})
    slices = [slice_of(first, endpoints), slice_of(first.other, endpoints[:1])]
    plain = {}
    for family in families:
        for n in (*(n for n, _, _ in endpoints), 99):
            one = parse_address(address(family, n))
            word = f"{words[family]}-{n}"
            plain |= {str(one): word, dashed(str(one)): word, reverse_name(one).rstrip("."): word}
    types = {family.facts.dns_type: words[family] for family in families}

    def said(text: str) -> str:
        for known in sorted(plain, key=len, reverse=True):
            text = text.replace(known, plain[known])
        return text

    found = service_records(service, slices, Options(hide_dead_families=hide))
    return sorted((said(one.name), types.get(one.type, one.type), said(one.data)) for one in found)
