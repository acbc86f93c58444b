from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.lab.configuration import parse_file
from twinstack.lab.topology import Request, Topology, plan
from twinstack.net.cidr import contains, overlap, parse_cidr
from twinstack.net.family import FAMILIES, Family

F4, F6 = Family.IPV4, Family.IPV6


def planned(**asked: Any) -> Topology:
    result = plan(Request(**asked))
    assert isinstance(result, Topology), [str(problem) for problem in result]
    return result


@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"])
def test_every_set_of_families_has_defaults_of_its_own(families: str) -> None:
    one = planned(families=families)
    assert ",".join(map(str, one.families)) == families
    assert [str(network) for network in one.pod_cidrs.values()] == [family.facts.default_pod_cidr for family in one.families]
    assert [str(network) for network in one.service_cidrs.values()] == [family.facts.default_service_cidr for family in one.families]
    assert dict(one.masks.items()) == {family: family.facts.node_mask_size for family in one.families}
    assert [node.name for node in one.nodes] == ["node1", "node2", "node3"]
    assert one.context == "twinstack-twinstack"


@pytest.mark.parametrize("families", ["IPv4", "IPv6,IPv4"])
def test_the_underlay_has_both_families_whatever_the_cluster_has(families: str) -> None:
    one = planned(families=families)
    for family in FAMILIES:
        machines = [*one.nodes, one.control_plane]
        assert len({node.addresses[family] for node in machines}) == len(machines)
        assert all(contains(one.underlay[family], node.addresses[family]) for node in machines)
        assert contains(one.outside_networks[family], one.outside.addresses[family])
    assert one.node_addresses(one.nodes[0]) == tuple(one.nodes[0].addresses[family] for family in one.families)


def test_nothing_of_a_cluster_overlaps() -> None:
    one = planned()
    networks = [n for group in (one.pod_cidrs, one.service_cidrs, one.underlay, one.outside_networks) for n in group.values()]
    assert len(networks) == 8
    assert not any(overlap(a, b) for a, b in combinations(networks, 2))


def test_two_names_have_two_underlays() -> None:
    assert planned(name="a").underlay[F6] != planned(name="b").underlay[F6]


def test_our_own_networks_make_way_for_the_users() -> None:
    one = planned(pod_cidr="172.30.0.0/16,2001:db8:42::/48")
    assert str(one.pod_cidrs[F4]) == "172.30.0.0/16"
    assert not overlap(one.underlay[F4], one.pod_cidrs[F4])


def test_families_follow_the_pod_networks_when_only_those_are_told() -> None:
    assert planned(pod_cidr="fd01::/56,10.1.0.0/16").families == (F6, F4)
    assert planned(pod_cidr="fd01::/56").families == (F6,)
    assert planned(service_cidr="10.1.0.0/16").families == (F4,)


def test_a_family_that_a_flag_leaves_out_has_its_default() -> None:
    one = planned(families="IPv6,IPv4", pod_cidr="10.1.0.0/16")
    assert [str(network) for network in one.pod_cidrs.values()] == ["fd00:10:244::/56", "10.1.0.0/16"]


REFUSALS = [
    pytest.param({"families": "IPv5"}, "families", "IPv5", "IPv4,IPv6", id="an unknown family"),
    pytest.param({"families": "IPv4,IPv4"}, "families", "IPv4,IPv4", "IPv4", id="a family twice"),
    pytest.param({"families": "IPv4,IPv6,IPv4"}, "families", "IPv4,IPv6,IPv4", "IPv4,IPv6", id="three families"),
    pytest.param({"name": "My Cluster"}, "name", "My Cluster", "my-cluster", id="a name with a space"),
    pytest.param({"name": "-x-"}, "name", "-x-", "x", id="a name that begins with a dash"),
    pytest.param({"name": "1st"}, "name", "1st", "c1st", id="a name that begins with a digit"),
    pytest.param({"name": ""}, "name", "", "c", id="no name"),
    pytest.param({"name": "a" * 33}, "name", "a" * 33, "a" * 32, id="a long name"),
    pytest.param({"name": "../etc"}, "name", "../etc", "etc", id="a name that is a path"),
    pytest.param({"nodes": 0}, "nodes", "0", "1", id="no node"),
    pytest.param({"nodes": 101}, "nodes", "101", "100", id="too many nodes"),
    pytest.param({"port": 70000}, "port", "70000", "0", id="a port that is none"),
    pytest.param({"pod_cidr": "10.0.0.0/33"}, "pod-cidr", "10.0.0.0/33", "10.244.0.0/16,fd00:10:244::/56", id="a prefix that is too long"),
    pytest.param({"pod_cidr": "10.244.1.0/16"}, "pod-cidr", "10.244.1.0/16", "10.244.0.0/16", id="host bits"),
    pytest.param({"pod_cidr": "pods"}, "pod-cidr", "pods", "10.244.0.0/16,fd00:10:244::/56", id="no CIDR at all"),
    pytest.param({"pod_cidr": "010.0.0.0/8"}, "pod-cidr", "010.0.0.0/8", "10.0.0.0", id="leading zeros"),
    pytest.param({"pod_cidr": "10.1.0.0/16,10.2.0.0/16"}, "pod-cidr", "10.1.0.0/16,10.2.0.0/16", "10.1.0.0/16", id="two of one family"),
    pytest.param(
        {"pod_cidr": "10.1.0.0/16,fd01::/56,10.2.0.0/16"},
        "pod-cidr",
        "10.1.0.0/16,fd01::/56,10.2.0.0/16",
        "10.1.0.0/16,fd01::/56",
        id="three CIDRs",
    ),
    pytest.param({"families": "IPv4", "pod_cidr": "fd01::/56"}, "pod-cidr", "fd01::/56", "10.244.0.0/16", id="a family that the cluster has not"),
    pytest.param(
        {"families": "IPv6,IPv4", "pod_cidr": "10.1.0.0/16,fd01::/56"},
        "pod-cidr",
        "10.1.0.0/16,fd01::/56",
        "fd01::/56,10.1.0.0/16",
        id="the other order",
    ),
    pytest.param({"service_cidr": "10.244.0.0/17"}, "service-cidr", "10.244.0.0/17", "10.96.0.0/16", id="Services inside the pods"),
    pytest.param({"pod_cidr": "10.96.0.0/12"}, "service-cidr", "10.96.0.0/16", "10.244.0.0/16", id="pods around the default Services"),
    pytest.param({"service_cidr": "12.0.0.0/8"}, "service-cidr", "12.0.0.0/8", "12.0.0.0/12", id="a Service range that is too large"),
    pytest.param({"service_cidr": "fd00:10:96::/64"}, "service-cidr", "fd00:10:96::/64", "fd00:10:96::/108", id="an IPv6 Service range that is too large"),
    pytest.param({"service_cidr": "10.96.0.0/31"}, "service-cidr", "10.96.0.0/31", "10.96.0.0/29", id="a Service range without room"),
    pytest.param({"masks": {F4: 12}}, "node-cidr-mask-size-ipv4", "12", "24", id="a node mask shorter than the pod network"),
    pytest.param({"masks": {F4: 33}}, "node-cidr-mask-size-ipv4", "33", "24", id="a node mask longer than an address"),
    pytest.param({"masks": {F4: 31}}, "node-cidr-mask-size-ipv4", "31", "30", id="a node mask without room for pods"),
    pytest.param({"masks": {F6: 80}}, "node-cidr-mask-size-ipv6", "80", "72", id="a node mask more than 16 bits below the IPv6 network"),
    pytest.param({"pod_cidr": "10.1.0.0/16,fd01::/40"}, "node-cidr-mask-size-ipv6", "64", "56", id="the default mask is too far below"),
    pytest.param({"pod_cidr": "10.1.0.0/23", "nodes": 3}, "node-cidr-mask-size-ipv4", "24", "25", id="fewer blocks than nodes"),
    pytest.param({"families": "IPv4", "masks": {F6: 64}}, "node-cidr-mask-size-ipv6", "64", "leaving it out", id="a mask of a family that the cluster has not"),
    pytest.param({"pod_cidr": "169.254.0.0/16"}, "pod-cidr", "169.254.0.0/16", "10.244.0.0/16", id="link-local pods"),
    pytest.param({"pod_cidr": "fe80::/56"}, "pod-cidr", "fe80::/56", "fd00:10:244::/56", id="link-local IPv6 pods"),
    pytest.param({"pod_cidr": "127.0.0.0/16"}, "pod-cidr", "127.0.0.0/16", "10.244.0.0/16", id="pods on loopback"),
]


@pytest.mark.parametrize("asked, field, value, would_do", REFUSALS)
def test_a_refusal_names_the_field_the_value_and_a_value_that_would_do(asked: dict[str, Any], field: str, value: str, would_do: str) -> None:
    (problem,) = plan(Request(**asked))
    assert (problem.flag, problem.value, problem.suggestion) == (field, value, would_do)
    assert field in str(problem) and value in str(problem) and would_do in str(problem)


def test_all_problems_are_told_at_once() -> None:
    problems = plan(Request(name="?", nodes=0, pod_cidr="x", service_cidr="y"))
    assert [problem.flag for problem in problems] == ["name", "nodes", "pod-cidr", "service-cidr"]


@given(text=st.text(max_size=30), number=st.integers(-10, 200))
def test_any_text_is_a_cluster_or_a_problem(text: str, number: int) -> None:
    for asked in (
        Request(name=text),
        Request(families=text),
        Request(pod_cidr=text),
        Request(service_cidr=text),
        Request(nodes=number, masks={F4: number, F6: number}),
    ):
        result = plan(asked)
        assert isinstance(result, Topology) or result


def test_the_suggested_name_would_do() -> None:
    for name in ("My Cluster", "-", "é", "9", "a.b.c", "x" * 100, "--9--"):
        (problem,) = plan(Request(name=name))
        assert isinstance(plan(Request(name=problem.suggestion)), Topology)


def document(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "twinstack.dev/v1alpha1", "kind": "Cluster", "metadata": {"name": "demo"}, "spec": spec}


def test_a_file_says_what_the_flags_say() -> None:
    asked = parse_file(
        document(
            families=["IPv6", "IPv4"],
            nodes=5,
            podCIDRs=["fd01::/56", "10.1.0.0/16"],
            serviceCIDRs="fd02::/112,10.2.0.0/16",
            nodeCIDRMaskSizes={"IPv4": 25},
            port=7443,
        )
    )
    assert asked == Request("demo", "IPv6,IPv4", 5, "fd01::/56,10.1.0.0/16", "fd02::/112,10.2.0.0/16", {F4: 25}, 7443)
    assert isinstance(plan(asked), Topology)


@pytest.mark.parametrize(
    "file, words",
    [
        pytest.param([], "not a mapping", id="a list"),
        pytest.param(None, "not a mapping", id="an empty file"),
        pytest.param({**document(), "kind": "Pod"}, "kind", id="another kind"),
        pytest.param({**document(), "apiVersion": "v1"}, "twinstack.dev/v1alpha1", id="another version"),
        pytest.param(document(nodez=3), "spec.nodez", id="an unknown field"),
        pytest.param(document(nodes="three"), '"three"', id="a number that is none"),
        pytest.param(document(nodes=True), "spec.nodes", id="a truth for a number"),
        pytest.param(document(nodeCIDRMaskSizes={"v4": 24}), "nodeCIDRMaskSizes.v4", id="a mask of no family"),
        pytest.param(document(nodeCIDRMaskSizes=24), "map by family", id="a mask that is no map"),
        pytest.param({**document(), "spec": [1]}, "mappings", id="a spec that is a list"),
    ],
)
def test_a_file_that_will_not_do_is_refused_with_the_culprit(file: Any, words: str) -> None:
    problems = parse_file(file)
    assert isinstance(problems, list)
    assert words in " ".join(str(problem) for problem in problems)


def test_masks_reach_the_plan() -> None:
    one = planned(masks={F4: 26, F6: 70})
    assert dict(one.masks.items()) == {F4: 26, F6: 70}
    assert parse_cidr("10.244.0.0/16") == one.pod_cidrs[F4]
