"""What the proxy keeps of what it reads decides as the whole does, and equal things are kept once."""

from __future__ import annotations

import pytest

from twinstack.api import kinds
from twinstack.api.objects import Key, view_of
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.catalog import service_key
from twinstack.proxy.lean import Lean
from twinstack.proxy.services import Place, ignored, local_ready, rows_of, service_ports

SERVICE = view_of(kinds.Service, {
    "apiVersion": "v1", "kind": "Service",
    "metadata": {"namespace": "ns", "name": "s", "uid": "u", "resourceVersion": "7", "labels": {"app": "x"},
                 "annotations": {"note": "long", "preserve-destination": "true"}},
    "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilies": ["IPv4", "IPv6"],
             "type": "LoadBalancer", "selector": {"app": "x"},
             "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": 30080}, {"name": "q", "port": 53, "protocol": "UDP"}],
             "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "externalIPs": ["203.0.113.1", "x"], "sessionAffinity": "ClientIP",
             "loadBalancerSourceRanges": ["10.0.0.0/8"], "healthCheckNodePort": 31000},
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.2", "ipMode": "VIP"}]}},
})  # fmt: skip


def endpoint_slice(family: Family, name: str = "s") -> kinds.EndpointSlice:
    base = {Family.IPV4: "10.1.0.{}", Family.IPV6: "fd00:1::{}"}[family]
    hints = {"forZones": [{"name": "z"}], "forNodes": [{"name": "here"}]}
    return view_of(kinds.EndpointSlice, {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family.value,
        "metadata": {"namespace": "ns", "name": f"{name}-{family}", "resourceVersion": "8", "labels": {"kubernetes.io/service-name": name, "more": "x"},
                     "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z", "note": "long"},
                     "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": "u"}]},
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}, {"name": "q", "port": 5353, "protocol": "UDP"}],
        "endpoints": [{"addresses": [base.format(number)], "nodeName": "here" if number == 1 else "there", "hints": hints, "zone": "z",
                       "conditions": {"ready": number != 3, "serving": True, "terminating": number == 3}, "targetRef": {"kind": "Pod", "name": "x"}}
                      for number in (1, 2, 3)],
    })  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("place", [Place("here", "z"), Place("there"), Place("elsewhere", "z")], ids=["with an endpoint", "another's", "without"])
def test_it_decides_alike(family, place):
    lean = Lean()
    service, slices = lean.service(SERVICE), [lean.slice(endpoint_slice(each)) for each in FAMILIES]
    whole = [endpoint_slice(each) for each in FAMILIES]
    assert service_ports(service, slices, family, place) == service_ports(SERVICE, whole, family, place)
    assert local_ready(service, slices, family, place) == local_ready(SERVICE, whole, family, place)
    assert ignored(service) == ignored(SERVICE)


def test_it_keeps_what_is_asked_for_and_no_more():
    lean = Lean()
    service, one = lean.service(SERVICE), lean.slice(endpoint_slice(Family.IPV4))
    assert (service.metadata.name, service.metadata.uid, service.metadata.resourceVersion) == ("s", "u", "7")
    assert service.metadata.annotations == {"preserve-destination": "true"} and service.metadata.labels is None and service.spec.selector is None
    assert one.metadata.labels is None and one.service == "s" and one.metadata.resourceVersion == "8"
    assert service_key(one) == service_key(endpoint_slice(Family.IPV4)) == Key("ns", "s")
    assert list(one.metadata.annotations) == ["endpoints.kubernetes.io/last-change-trigger-time"]
    assert not one.metadata.ownerReferences and one.endpoints is None
    assert [tuple(row) for row in rows_of(one)] == [tuple(row) for row in rows_of(endpoint_slice(Family.IPV4))]


def test_equal_things_are_kept_once():
    lean = Lean()
    one, other = lean.slice(endpoint_slice(Family.IPV4, "a")), lean.slice(endpoint_slice(Family.IPV4, "b"))
    assert one.ports is other.ports and one.metadata.namespace is other.metadata.namespace
    service = lean.service(SERVICE)
    assert service.spec.ports is lean.service(SERVICE).spec.ports
