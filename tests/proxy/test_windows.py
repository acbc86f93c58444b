"""The policies of a Windows node, for the same Services in both families."""

from __future__ import annotations

import itertools

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.windows import OVERLAY, Network, Plan, WindowsNode, difference, mac_of, plan, support

SERVICE = {Family.IPV4: "10.96.0.1", Family.IPV6: "fd00:96::1"}
PODS = {Family.IPV4: "10.244.0.{}", Family.IPV6: "fd00:244::{}"}
EXTERNAL = {Family.IPV4: "203.0.113.{}", Family.IPV6: "2001:db8:113::{}"}
NODES = {Family.IPV4: "172.30.0.11", Family.IPV6: "fd30::11"}
VIP_EXTERNAL_IP, LOCAL_ROUTED_VIP, USE_MUX, PRESERVE_DIP, DSR = 16, 2, 4, 8, 1
HERE, THERE = "here", "there"


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return request.param


def service(ingress: bool = False, annotations: dict[str, str] | None = None, **spec) -> kinds.Service:
    status = {"loadBalancer": {"ingress": [{"ip": EXTERNAL[family].format(1)} for family in FAMILIES]}} if ingress else {}
    given = {
        "clusterIP": SERVICE[FAMILIES[0]], "clusterIPs": [SERVICE[family] for family in FAMILIES], "ipFamilies": [family.value for family in FAMILIES],
        "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": spec.pop("node_port", 0)}], **spec,
    }  # fmt: skip
    return view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": "s", "annotations": annotations or {}}, "spec": given, "status": status})


def slices(*endpoints: tuple[int, str, dict], ports: tuple[int, ...] = (8080,)) -> list[kinds.EndpointSlice]:
    """*endpoints*: (number, node, conditions); the n-th port is that of the n-th slice."""
    return [
        view_of(kinds.EndpointSlice, {
            "metadata": {"namespace": "ns", "name": f"s-{family}-{port}", "labels": {"kubernetes.io/service-name": "s"}}, "addressType": family.value,
            "ports": [{"name": "p", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [PODS[family].format(number + 10 * i)], "nodeName": node, "conditions": conditions}
                          for number, node, conditions in endpoints],
        })
        for family in FAMILIES
        for i, port in enumerate(ports)
    ]  # fmt: skip


READY: dict = {}
DRAINING = {"ready": False, "serving": True, "terminating": True}
ENDED = {"ready": False, "serving": False, "terminating": True}
BOTH = ((1, HERE, READY), (2, THERE, READY))


def node(**given) -> WindowsNode:
    return WindowsNode(**{"name": HERE, "addresses": NODES, "network": Network("cbr0", "net"), **given})


def told(made: Plan, family: Family) -> set[tuple[tuple[str, ...], int, frozenset[int], int, int]]:
    """(front addresses, port, endpoints by number, port flags, flags without the family's) of each policy of the family."""
    numbers = {document["ID"]: document["IpConfigurations"][0]["IpAddress"] for document in made.endpoints}
    own = family.facts.hns_balancer_flags
    return {
        (
            tuple(document["FrontendVIPs"]), document["PortMappings"][0]["ExternalPort"],
            frozenset(int(numbers[id_].replace(":", ".").rpartition(".")[2]) if id_ in numbers else 1 for id_ in document["HostComputeEndpoints"]),
            document["PortMappings"][0]["Flags"], document["Flags"] & ~2,
        )
        for document in made.balancers
        if document["Flags"] & 2 == own
    }  # fmt: skip


CLUSTER, NODE_PORT, OUTER, BALANCER = "cluster", "node", "external", "balancer"
ROWS = [
    pytest.param({}, {}, BOTH, {CLUSTER: ({1, 2}, 0, 0)}, id="a cluster IP reaches all endpoints"),
    pytest.param({}, {"dsr": True}, BOTH, {CLUSTER: ({1, 2}, 0, DSR)}, id="with direct server return it says so"),
    pytest.param({"internalTrafficPolicy": "Local"}, {}, BOTH, {CLUSTER: ({1}, 0, 0)}, id="internally local reaches this node's"),
    pytest.param({}, {}, (), {}, id="without endpoints there is no policy"),
    pytest.param({}, {}, ((1, HERE, DRAINING),), {}, id="ending endpoints do not serve a cluster IP alone"),
    pytest.param({"node_port": 30000, "type": "NodePort"}, {}, BOTH,
                 {CLUSTER: ({1, 2}, 0, 0), NODE_PORT: ({1, 2}, VIP_EXTERNAL_IP | LOCAL_ROUTED_VIP, 0)}, id="a node port reaches all"),
    pytest.param({"node_port": 30000, "type": "NodePort", "externalTrafficPolicy": "Local"}, {}, BOTH,
                 {CLUSTER: ({1, 2}, 0, 0), NODE_PORT: ({1, 2}, VIP_EXTERNAL_IP | LOCAL_ROUTED_VIP, 0)}, id="externally local needs direct server return"),
    pytest.param({"node_port": 30000, "type": "NodePort", "externalTrafficPolicy": "Local"}, {"dsr": True}, BOTH,
                 {CLUSTER: ({1, 2}, 0, DSR), NODE_PORT: ({1}, VIP_EXTERNAL_IP | LOCAL_ROUTED_VIP, DSR)}, id="with it, a node port is local"),
    pytest.param({"externalIPs": [EXTERNAL[family].format(2) for family in FAMILIES]}, {}, BOTH,
                 {CLUSTER: ({1, 2}, 0, 0), OUTER: ({1, 2}, VIP_EXTERNAL_IP, 0)}, id="an external address"),
    pytest.param({"type": "LoadBalancer", "ingress": True}, {}, BOTH,
                 {CLUSTER: ({1, 2}, 0, 0), BALANCER: ({1, 2}, VIP_EXTERNAL_IP, 0)}, id="a load balancer's address"),
    pytest.param({"type": "LoadBalancer", "ingress": True, "externalTrafficPolicy": "Local"}, {"dsr": True}, BOTH,
                 {CLUSTER: ({1, 2}, 0, DSR), BALANCER: ({1}, VIP_EXTERNAL_IP, DSR)}, id="a load balancer's address, local"),
    pytest.param({"type": "LoadBalancer", "ingress": True, "annotations": {"preserve-destination": "TRUE"}}, {}, BOTH,
                 {CLUSTER: ({1, 2}, 0, 0), BALANCER: ({1}, VIP_EXTERNAL_IP | USE_MUX | PRESERVE_DIP, DSR)}, id="a preserved destination is local and direct"),
    pytest.param({"type": "LoadBalancer", "ingress": True}, {}, ((1, HERE, DRAINING), (2, THERE, ENDED)),
                 {CLUSTER: ({1}, 0, 0), BALANCER: ({1}, VIP_EXTERNAL_IP, 0)}, id="behind a load balancer, ending ones serve when all end"),
    pytest.param({"type": "LoadBalancer", "ingress": True}, {}, ((1, HERE, ENDED), (2, THERE, ENDED)),
                 {CLUSTER: ({1, 2}, 0, 0), BALANCER: ({1, 2}, VIP_EXTERNAL_IP, 0)}, id="and all do when none serves"),
    pytest.param({"clusterIP": "None", "clusterIPs": ["None"]}, {}, BOTH, {}, id="a headless Service has none"),
]  # fmt: skip


@pytest.mark.parametrize("spec, given, endpoints, policies", ROWS)
def test_policies(spec, given, endpoints, policies, family):
    made = plan([(service(**spec), slices(*endpoints))], node(**given))
    fronts = {
        CLUSTER: ((SERVICE[family],), 80),
        NODE_PORT: ((), 30000),
        OUTER: ((EXTERNAL[family].format(2),), 80),
        BALANCER: ((EXTERNAL[family].format(1),), 80),
    }
    assert told(made, family) == {(*fronts[name], frozenset(numbers), flags, direct) for name, (numbers, flags, direct) in policies.items()}
    assert made.problems == ()


def test_a_policy_whole(family):
    made = plan([(service(sessionAffinity="ClientIP"), slices(*BOTH))], node(source_vips=SERVICE))
    (document,) = [one for one in made.balancers if one["FrontendVIPs"] == [SERVICE[family]]]
    assert document == {
        "ID": document["ID"], "HostComputeNetwork": "net", "HostComputeEndpoints": document["HostComputeEndpoints"], "SourceVIP": SERVICE[family],
        "FrontendVIPs": [SERVICE[family]], "Flags": family.facts.hns_balancer_flags, "SchemaVersion": {"Major": 2, "Minor": 0},
        "PortMappings": [{"Protocol": 6, "InternalPort": 8080, "ExternalPort": 80, "DistributionType": 2, "Flags": 0}],
    }  # fmt: skip
    remote = [one for one in made.endpoints if one["IpConfigurations"] == [{"IpAddress": PODS[family].format(2)}]]
    assert [(one["Flags"], one["MacAddress"], one["HostComputeNetwork"]) for one in remote] == [(1, mac_of(PODS[family].format(2)), "net")]
    assert remote[0]["ID"] in document["HostComputeEndpoints"]


@pytest.mark.parametrize("given, families, why", [
    pytest.param({}, FAMILIES, "", id="an l2bridge has both"),
    pytest.param({"addresses": dict(reversed(NODES.items()))}, FAMILIES[::-1], "", id="the node's first family leads"),
    pytest.param({"network": Network("vx", "n", OVERLAY)}, FAMILIES[:1], "overlay", id="an overlay has one"),
    pytest.param({"dual_stack": False}, FAMILIES[:1], "IPv6DualStack", id="an old build has one"),
    pytest.param({"dual_stack": False, "addresses": dict(reversed(NODES.items()))}, FAMILIES[1:], "IPv6DualStack", id="the node's first"),
])  # fmt: skip
def test_support(given, families, why):
    found = support(node(**given))
    assert found.families == families
    assert why in found.reason and bool(found.reason) == bool(why)
    made = plan([(service(), slices(*BOTH))], node(**given))
    assert {one["Flags"] for one in made.balancers} == {family.facts.hns_balancer_flags for family in families}
    assert made.problems == ((found.reason,) if why else ())


def test_an_overlays_remote_endpoints_have_providers():
    subnets = (("10.244.0.0/24", "172.30.0.12"),)
    one = node(network=Network("vx", "n", OVERLAY, subnets), source_vips={Family.IPV4: "10.244.9.2"}, mac="00-15-5d-00-00-01")
    made = plan([(service(), slices((2, THERE, READY)))], one)
    told_ = {document["IpConfigurations"][0]["IpAddress"]: document for document in made.endpoints}
    assert told_["10.244.0.2"]["Policies"] == [{"Type": "ProviderAddress", "Settings": {"ProviderAddress": "172.30.0.12"}}]
    assert told_["10.96.0.1"]["MacAddress"] == "00-15-5d-00-00-01"
    assert told_["10.96.0.1"]["Policies"][0]["Settings"]["ProviderAddress"] == NODES[Family.IPV4]
    assert [document["SourceVIP"] for document in made.balancers] == ["10.244.9.2"]
    outside = plan([(service(), slices((2, THERE, READY)))], one._replace(network=Network("vx", "n", OVERLAY)))
    assert [document["SourceVIP"] for document in outside.balancers] == [NODES[Family.IPV4]], "an unknown subnet is outside the cluster"


def test_an_endpoint_that_hns_does_not_have_is_left_out_and_told(family):
    made = plan([(service(), slices(*BOTH))], node(local={}))
    assert all(numbers == {2} for _, _, numbers, _, _ in told(made, family))
    assert any(PODS[family].format(1) in problem for problem in made.problems)
    assert plan([(service(), slices(*BOTH))], node(local={PODS[each].format(1): f"ep-{each}" for each in FAMILIES})).problems == ()


def test_mixed_target_ports_are_told(family):
    made = plan([(service(), slices(*BOTH, ports=(8080, 9090)))], node())
    assert any("[8080, 9090]" in problem for problem in made.problems)
    assert {document["PortMappings"][0]["InternalPort"] for document in made.balancers} == {8080}, "of the last by address"


def test_health_ports_are_forwarded_in_each_family():
    one = service(ingress=True, type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=31000)
    made = plan([(one, slices(*BOTH))], node(forward_healthcheck_vip=True, root_endpoint="root"))
    found = [document for document in made.balancers if document["HostComputeEndpoints"] == ["root"]]
    assert [(document["FrontendVIPs"], document["PortMappings"][0]["ExternalPort"], document["Flags"]) for document in found] == [
        ([EXTERNAL[family].format(1)], 31000, family.facts.hns_balancer_flags) for family in FAMILIES
    ]


@pytest.mark.parametrize("address, mac", [("10.244.1.2", "02-11-0a-f4-01-02"), ("fd00::0102:0304", "02-11-04-03-02-01")])
def test_a_remote_endpoints_mac(address, mac):
    assert mac_of(str(parse_address(address))) == mac


def test_a_difference_leads_from_plan_to_plan_and_none_to_none():
    plans = [
        plan([(service(**spec), slices(*endpoints))], node())
        for spec, endpoints in (({}, BOTH), ({"node_port": 30000, "type": "NodePort"}, BOTH[:1]), ({}, ()), ({"sessionAffinity": "ClientIP"}, BOTH[1:]))
    ]
    for before, after in itertools.product(plans, repeat=2):
        change = difference(before, after)
        held = {document["ID"]: document for document in (*before.endpoints, *before.balancers)}
        for id_ in (*change.delete_balancers, *change.delete_endpoints):
            del held[id_]
        held.update({document["ID"]: document for document in (*change.make_endpoints, *change.make_balancers)})
        assert held == {document["ID"]: document for document in (*after.endpoints, *after.balancers)}
        assert before is not after or not any(change)


def test_no_order_of_services_or_slices_matters():
    pairs = [(view_of(kinds.Service, {"metadata": {"namespace": "ns", "name": name}, "spec": {
        "clusterIP": f"10.96.0.{i}", "clusterIPs": [f"10.96.0.{i}"], "ipFamilies": ["IPv4"], "ports": [{"name": "p", "port": 80}]}}), slices(*BOTH))
        for i, name in enumerate("abc")]  # fmt: skip
    plans = {plan([(one, turned[::-1] if i % 2 else turned) for one, turned in order], node()).balancers.__repr__()
             for i, order in enumerate(itertools.permutations(pairs))}  # fmt: skip
    assert len(plans) == 1
