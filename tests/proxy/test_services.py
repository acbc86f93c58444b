"""Which endpoints a Service port has, for whom: readiness, endings, policies, hints, duplicates."""

from __future__ import annotations

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.services import Place, affinity_seconds, flow_fronts, gone_answers, ignored, is_ours, local_ready, service_ports, source_ranges

HERE = Place("here", "z1")
ADDRESSES = {Family.IPV4: ("10.96.0.1", "10.1.0.{}"), Family.IPV6: ("fd00:96::1", "fd00:1::{}")}


def service(family: Family = Family.IPV4, *, labels: dict[str, str] | None = None, ingress: list | None = None, **spec) -> kinds.Service:
    address = ADDRESSES[family][0]
    given = {"clusterIP": address, "clusterIPs": [address], "ipFamilies": [family.value], "ports": [{"name": "p", "protocol": "TCP", "port": 80}], **spec}
    status = {"loadBalancer": {"ingress": ingress}} if ingress else {}
    return view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": "svc", "labels": labels or {}}, "spec": given, "status": status})


def endpoint(number: int, node: str = "here", *, hints: dict | None = None, family: Family = Family.IPV4, **conditions: bool) -> dict:
    result = {"addresses": [ADDRESSES[family][1].format(number)], "nodeName": node, "conditions": conditions}
    return {**result, "hints": hints} if hints else result


def endpoint_slice(*endpoints: dict, family: Family = Family.IPV4, name: str = "s", ports: list[dict] | None = None) -> kinds.EndpointSlice:
    given = [{"name": "p", "protocol": "TCP", "port": 8080}] if ports is None else ports
    return view_of(
        kinds.EndpointSlice, {"metadata": {"namespace": "ns", "name": name}, "addressType": family.value, "ports": given, "endpoints": list(endpoints)}
    )


def one_port(service_: kinds.Service, *slices: kinds.EndpointSlice, place: Place = HERE, family: Family = Family.IPV4):
    (port,) = service_ports(service_, slices, family, place)
    return port


def numbers(backends) -> list[int]:
    return [int(address.rpartition(":" if ":" in address else ".")[2]) for address, _ in backends]


READY, STARTING = {"ready": True}, {"ready": False}
DRAINING, ENDED = {"ready": False, "serving": True, "terminating": True}, {"ready": False, "serving": False, "terminating": True}

CHOICES = [
    pytest.param([READY, READY, STARTING], [1, 2], True, id="those that are ready serve"),
    pytest.param([{}, STARTING], [1], True, id="no word means ready"),
    pytest.param([READY, DRAINING], [1], True, id="an ending one does not serve beside a ready one"),
    pytest.param([DRAINING, STARTING, ENDED], [1], True, id="an ending one that serves is better than none"),
    pytest.param([{"ready": False, "terminating": True}], [1], True, id="no word means serving"),
    pytest.param([STARTING, ENDED], [], False, id="those that do not serve are none"),
    pytest.param([{"ready": True, "serving": True, "terminating": True}], [1], True, id="publishNotReadyAddresses: ready while ending"),
    pytest.param([], [], False, id="nobody is nobody"),
]


@pytest.mark.parametrize("conditions, chosen, exists", CHOICES)
def test_choice(conditions, chosen, exists):
    port = one_port(service(), endpoint_slice(*(endpoint(i, **each) for i, each in enumerate(conditions, 1))))
    assert numbers(port.cluster) == chosen
    assert port.exists is exists


NODE_HINT, OTHER_NODE = {"forNodes": [{"name": "here"}]}, {"forNodes": [{"name": "there"}]}
ZONE_HINT, OTHER_ZONE = {"forZones": [{"name": "z1"}]}, {"forZones": [{"name": "z2"}]}
HINTS = [
    pytest.param([ZONE_HINT, OTHER_ZONE], [1], id="hints keep traffic in the zone"),
    pytest.param([ZONE_HINT, None], [1, 2], id="one endpoint without a hint sets them aside"),
    pytest.param([OTHER_ZONE, OTHER_ZONE], [1, 2], id="hints that do not name this zone are set aside"),
    pytest.param([{**NODE_HINT, **ZONE_HINT}, {**OTHER_NODE, **ZONE_HINT}], [1], id="the node is nearer than the zone"),
    pytest.param([{**OTHER_NODE, **ZONE_HINT}, {**OTHER_NODE, **OTHER_ZONE}], [1], id="no endpoint on the node: the zone"),
]


@pytest.mark.parametrize("hints, chosen", HINTS)
def test_topology(hints, chosen):
    port = one_port(service(), endpoint_slice(*(endpoint(i, hints=hint) for i, hint in enumerate(hints, 1))))
    assert numbers(port.cluster) == chosen


def test_hints_of_endpoints_that_are_not_ready_do_not_count():
    port = one_port(service(), endpoint_slice(endpoint(1, hints=ZONE_HINT), endpoint(2, **STARTING), endpoint(3, hints=OTHER_ZONE)))
    assert numbers(port.cluster) == [1]
    assert numbers(one_port(service(), endpoint_slice(endpoint(1, hints=ZONE_HINT)), place=Place("here", "")).cluster) == [1]


def test_the_local_list_has_a_fall_back_of_its_own():
    slice_ = endpoint_slice(endpoint(1, "there"), endpoint(2, **DRAINING), endpoint(3, **STARTING))
    port = one_port(service(type="NodePort", ports=[{"name": "p", "port": 80, "nodePort": 30000}], externalTrafficPolicy="Local"), slice_)
    assert (numbers(port.cluster), numbers(port.local)) == ([1], [2])
    assert port.here == {"10.1.0.2"}


@pytest.mark.parametrize(
    "spec, internal, external",
    [
        pytest.param({"internalTrafficPolicy": "Local"}, True, False, id="internal"),
        pytest.param({"externalTrafficPolicy": "Local"}, False, False, id="external, but nothing leads in from outside"),
        pytest.param({"externalTrafficPolicy": "Local", "externalIPs": ["1.2.3.4"]}, False, True, id="external, by an external address"),
        pytest.param({"externalTrafficPolicy": "Local", "externalIPs": ["2001:db8::1"]}, False, False, id="external, but only the twin has an address"),
    ],
)
def test_a_policy_counts_only_where_traffic_can_come_from(spec, internal, external):
    port = one_port(service(**spec), endpoint_slice(endpoint(1)))
    assert (port.internal_local, port.external_local) == (internal, external)
    assert bool(port.local) == (internal or external)
    assert bool(port.cluster) != internal


def test_of_two_slices_with_one_address_the_ending_one_gives_way():
    for slices in (
        [endpoint_slice(endpoint(1, **DRAINING), name="a"), endpoint_slice(endpoint(1), name="b")],
        [endpoint_slice(endpoint(1), name="a"), endpoint_slice(endpoint(1, **DRAINING), name="b")],
    ):
        for order in (slices, slices[::-1]):
            port = one_port(service(), *order)
            assert numbers(port.cluster) == [1] and port.exists


def test_named_ports_may_resolve_differently_in_each_slice():
    two = [endpoint_slice(endpoint(1), name="a"), endpoint_slice(endpoint(2), name="b", ports=[{"name": "p", "protocol": "TCP", "port": 9090}])]
    assert one_port(service(), *two).cluster == (("10.1.0.1", 8080), ("10.1.0.2", 9090))


def test_ports_of_another_name_or_protocol_are_another_ports():
    ports = [
        {"name": "q", "protocol": "TCP", "port": 1},
        {"name": "p", "protocol": "UDP", "port": 2},
        {"name": "p", "protocol": "TCP"},
        {"protocol": "TCP", "port": 3},
    ]
    assert one_port(service(), endpoint_slice(endpoint(1), ports=ports)).cluster == ()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_sees_its_own_slices_and_addresses_only(family):
    slices = [endpoint_slice(endpoint(1, family=each), family=each, name=each.value) for each in FAMILIES]
    ingress = [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "lb.example"}]
    one = service(family, type="LoadBalancer", externalIPs=["203.0.113.1", "2001:DB8:0::2"], ingress=ingress)
    port = one_port(one, *slices, family=family)
    assert port.cluster == ((ADDRESSES[family][1].format(1), 8080),)
    expected = {Family.IPV4: (("203.0.113.1",), ("192.0.2.1",)), Family.IPV6: (("2001:db8::2",), ("2001:db8::1",))}
    assert (port.externals, port.balancers) == expected[family]
    assert service_ports(one, slices, family.other, HERE) == []


@pytest.mark.parametrize(
    "spec, labels",
    [
        ({"type": "ExternalName"}, {}),
        ({"clusterIP": "None"}, {}),
        ({"clusterIP": ""}, {}),
        ({}, {"service.kubernetes.io/service-proxy-name": "other"}),
    ],
    ids=["an external name", "headless", "without an address yet", "of another proxy"],
)
def test_not_ours_is(spec, labels):
    one = service(labels=labels, **spec)
    assert not is_ours(one)
    assert service_ports(one, [], Family.IPV4, HERE) == []


def test_an_old_service_without_families_has_that_of_its_address():
    one = service(ipFamilies=[], clusterIPs=[])
    assert one_port(one).address == "10.96.0.1"
    assert service_ports(one, [], Family.IPV6, HERE) == []


SOURCES = [
    pytest.param([], None, id="none: everybody"),
    pytest.param(["10.0.0.0/8", " 192.0.2.0/24 "], ("10.0.0.0/8", "192.0.2.0/24"), id="blanks are trimmed"),
    pytest.param(["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"], ("10.0.0.0/7",), id="overlaps and neighbours are one"),
    pytest.param(["2001:db8::/32"], None, id="only the twin's: everybody"),
    pytest.param(["10.0.0.0/8", "0.0.0.0/0"], None, id="the default route: everybody"),
    pytest.param(["10.0.0.1/32", "nonsense"], ("10.0.0.1",), id="a single address"),
]


@pytest.mark.parametrize("texts, ranges", SOURCES)
def test_source_ranges(texts, ranges):
    assert source_ranges(texts, Family.IPV4) == ranges


def test_affinity_has_a_default():
    assert affinity_seconds(service()) == 0
    assert affinity_seconds(service(sessionAffinity="ClientIP")) == 10800
    assert affinity_seconds(service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 7}})) == 7


def test_a_health_check_counts_ready_local_addresses_once():
    one = service(ports=[{"name": "p", "port": 80}, {"name": "q", "port": 81}])
    ports = [{"name": "p", "protocol": "TCP", "port": 1}, {"name": "q", "protocol": "TCP", "port": 2}]
    slice_ = endpoint_slice(endpoint(1), endpoint(2), endpoint(3, "there"), endpoint(4, **DRAINING), ports=ports)
    assert local_ready(one, [slice_], Family.IPV4, HERE) == 2


def test_udp_flows_of_an_endpoint_that_is_gone_are_told_and_of_one_that_ends_gracefully_not():
    ports = [{"name": "p", "protocol": "UDP", "port": 53, "nodePort": 30053}]
    backends = [{"name": "p", "protocol": "UDP", "port": 5353}]
    one = service(ports=ports, type="NodePort")

    def fronts(*endpoints):
        return flow_fronts(service_ports(one, [endpoint_slice(*endpoints, ports=backends)], Family.IPV4, HERE))

    both, draining, first, none = fronts(endpoint(1), endpoint(2)), fronts(endpoint(1), endpoint(2, **DRAINING)), fronts(endpoint(1)), fronts()
    assert list(gone_answers(both, draining)) == []
    assert set(gone_answers(both, first)) == {("10.96.0.1", 53, "10.1.0.2", 5353, "udp"), ("", 30053, "10.1.0.2", 5353, "udp")}
    assert set(gone_answers(none, first)) == {("10.96.0.1", 53, "10.96.0.1", 53, "udp"), ("", 30053, "", 30053, "udp")}
    assert list(gone_answers(first, none)) == []


@pytest.mark.parametrize("spec, status, paths", [
    ({}, {}, []),
    ({"externalIPs": ["203.0.113.1", "2001:db8::1"]}, {}, ["spec.externalIPs[1] '2001:db8::1'"]),
    ({"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.0.0.0/8", "fd00::/8", "x"]},
     {"loadBalancer": {"ingress": [{"ip": "2001:db8::2"}, {"hostname": "h"}, {"ip": "203.0.113.2"}]}},
     ["status.loadBalancer.ingress[0].ip '2001:db8::2'", "spec.loadBalancerSourceRanges[1] 'fd00::/8'", "spec.loadBalancerSourceRanges[2] 'x'"]),
    ({"type": "ExternalName", "externalIPs": ["2001:db8::1"]}, {}, []),
])  # fmt: skip
def test_what_of_another_family_is_ignored_is_told(spec, status, paths):
    one = view_of(kinds.Service, {
        "metadata": {"namespace": "ns", "name": "s"}, "status": status,
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"], "ports": [{"port": 80}], **spec},
    })  # fmt: skip
    assert ignored(one) == paths
