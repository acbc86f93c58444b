"""The matrix: which paths are tried, and what an answer must say."""

from __future__ import annotations

from typing import Any

import pytest

from twinstack.api import kinds
from twinstack.api.objects import view_of
from twinstack.net.cidr import parse_address
from twinstack.net.family import ByFamily, Family
from twinstack.prove import matrix, report
from twinstack.prove.matrix import Attempt, Cell, Place, Reply, Row, State, expected_families, judge, must_be_refused, plan
from twinstack.prove.sight import sight_of

F4, F6 = Family.IPV4, Family.IPV6
CLUSTERS = [(F4,), (F6,), (F4, F6), (F6, F4)]


def sight(paper: Any, families: tuple[Family, ...], **more: Any) -> matrix.Sight:
    one = paper(*families)
    named = {"refusals": {}, "wanted": []} | more
    return sight_of(one.seen(), one.layout, many="web", alone="alone", outside_port=7, pod_port=8080, **named)


@pytest.mark.parametrize("families", CLUSTERS, ids=str)
def test_every_path_is_tried_in_every_family_of_the_cluster(paper: Any, families: tuple[Family, ...]) -> None:
    paths = plan(sight(paper, families))
    ways = list(dict.fromkeys(path.way for path in paths))
    assert ways == [
        "pod → pod, same node",
        "pod → pod, across nodes",
        "pod → ClusterIP",
        "pod → ClusterIP, UDP",
        "node → ClusterIP",
        "node → ClusterIP, UDP",
        "pod → headless endpoints",
        "outside → NodePort",
        "outside → LoadBalancer",
        "pod → its own Service",
        "pod → outside",
    ]
    for path in paths:
        wanted = families[:1] if path.subject.startswith("single ") else families
        assert tuple(path.attempts) == wanted, path
        for family, attempts in path.attempts.items():
            assert attempts and all(Family.of(attempt.address) is family for attempt in attempts)


def test_the_twins_are_tried_alike(paper: Any) -> None:
    here, there = plan(sight(paper, (F4, F6))), plan(sight(paper, (F6, F4)))
    for one, other in zip(here, there, strict=True):
        if not one.subject.startswith("single "):
            assert [len(one.attempts[family]) for family in (F4, F6)] == [len(other.attempts[family]) for family in (F6, F4)]


@pytest.mark.parametrize("families", CLUSTERS, ids=str)
def test_services_are_looked_up_over_the_family_that_they_are_wanted_in(paper: Any, families: tuple[Family, ...]) -> None:
    one = paper(*families)
    layout = one.layout._replace(resolvers=one.addresses(1, 10))
    paths = plan(sight_of(one.seen(), layout, many="web", alone="alone", outside_port=7, pod_port=8080, refusals={}, wanted=[]))
    named = [path for path in paths if path.way == "pod → Service by name"]
    assert [path.subject for path in named] == ["headless.demo", "loadbalancer.demo", "nodeport.demo", "prefer-dual.demo", "single.demo"]
    for path in named:
        assert tuple(path.attempts) == (families[:1] if path.subject == "single.demo" else families)
        for family, attempts in path.attempts.items():
            assert {attempt.resolver for attempt in attempts} == {one.addresses(1, 10)[family]}
            assert {attempt.name for attempt in attempts} == {f"{path.subject}.svc.cluster.local."}
            assert len(attempts) == (9 if path.subject == "headless.demo" else 3), "from each node, to each address that the name leads to"


def test_pods_are_paired_by_their_nodes(paper: Any) -> None:
    same, across = plan(sight(paper, (F4, F6)))[:2]
    names = {(attempt.source.name, *attempt.answerers) for attempt in same.attempts[F6]}
    assert names == {("web-1", "web-4"), ("web-4", "web-1")}
    assert len(across.attempts[F4]) == 10
    for attempt in (*same.attempts[F4], *across.attempts[F4]):
        assert attempt.seen_as == {attempt.source.addresses[F4]}, "nobody rewrites the source between pods"


def test_a_pod_is_seen_outside_as_its_node_and_as_nothing_else(paper: Any) -> None:
    one = sight(paper, (F4, F6))
    (path,) = [path for path in plan(one) if path.way == "pod → outside"]
    nodes = {node.name: node for node in one.nodes}
    assert {attempt.source.node for attempt in path.attempts[F6]} == set(nodes)
    for family, attempts in path.attempts.items():
        for attempt in attempts:
            assert attempt.seen_as == {nodes[attempt.source.node].addresses[family]}


def test_node_ports_are_tried_on_every_node_from_outside(paper: Any) -> None:
    paths = [path for path in plan(sight(paper, (F6, F4))) if path.way == "outside → NodePort"]
    assert [path.subject for path in paths] == [f"nodeport on node{i}, port 30080" for i in (1, 2, 3)]
    assert all(attempt.source.name == "outside" and attempt.port == 30080 for path in paths for attempt in path.attempts[F4])


def test_a_load_balancers_addresses_are_tried_from_outside(paper: Any) -> None:
    (path,) = [path for path in plan(sight(paper, (F6, F4))) if path.way == "outside → LoadBalancer"]
    for family in (F6, F4):
        assert {(attempt.source.name, attempt.address, attempt.port) for attempt in path.attempts[family]} == {
            ("outside", paper(F6, F4).addresses(1, 99)[family], 80)
        }


def service(policy: str, *families: str) -> kinds.Service:
    return view_of(kinds.Service, {"metadata": {"name": "s"}, "spec": {"ipFamilyPolicy": policy, "ipFamilies": list(families)}})


@pytest.mark.parametrize(
    "asked, cluster, refused",
    [
        pytest.param(service("RequireDualStack", "IPv4", "IPv6"), (F4,), True, id="both required where one is"),
        pytest.param(service("RequireDualStack"), (F6,), True, id="both required and none named, where one is"),
        pytest.param(service("RequireDualStack", "IPv6", "IPv4"), (F4, F6), False, id="both required where both are"),
        pytest.param(service("SingleStack", "IPv6"), (F4,), True, id="the family that is not there"),
        pytest.param(service("SingleStack", "IPv6"), (F4, F6), False, id="the second family"),
        pytest.param(service("PreferDualStack"), (F6,), False, id="both preferred where one is"),
    ],
)
def test_what_a_cluster_must_refuse(asked: kinds.Service, cluster: tuple[Family, ...], refused: bool) -> None:
    assert must_be_refused(asked, cluster) is refused


def test_a_refusal_that_must_be_is_a_success_and_any_other_a_failure(paper: Any) -> None:
    asked = [service("RequireDualStack")]
    by_refusal = {
        (True, True): State.REFUSED,
        (False, True): State.FAILS,  # accepted, though it must be refused
        (True, False): State.FAILS,  # refused, though it must be accepted
    }
    for (told, must), state in by_refusal.items():
        families = (F4,) if must else (F4, F6)
        path = plan(sight(paper, families, wanted=asked, refusals={"s": "why"} if told else {}))[-1]
        assert path.verdict is not None and path.verdict.state is state


@pytest.mark.parametrize(
    "asked, cluster, families",
    [
        pytest.param(service("PreferDualStack"), (F6, F4), (F6, F4), id="both preferred: the cluster's order"),
        pytest.param(service("PreferDualStack"), (F6,), (F6,), id="both preferred where one is"),
        pytest.param(service("RequireDualStack", "IPv6", "IPv4"), (F4, F6), (F6, F4), id="the author's order wins"),
        pytest.param(service("RequireDualStack", "IPv6"), (F4, F6), (F6, F4), id="the author's first, then its twin"),
        pytest.param(service("SingleStack"), (F6, F4), (F6,), id="one: the primary"),
        pytest.param(service("SingleStack", "IPv4"), (F6, F4), (F4,), id="one, by name"),
    ],
)
def test_what_a_cluster_owes_to_a_service(asked: kinds.Service, cluster: tuple[Family, ...], families: tuple[Family, ...]) -> None:
    assert expected_families(asked, cluster) == families


def test_a_service_that_got_less_than_it_is_owed_fails(paper: Any) -> None:
    def named(name: str, policy: str) -> kinds.Service:
        return view_of(kinds.Service, {"metadata": {"name": name}, "spec": {"ipFamilyPolicy": policy}})

    wanted = [named("single", "PreferDualStack"), named("prefer-dual", "PreferDualStack"), named("gone", "SingleStack")]
    paths = plan(sight(paper, (F4, F6), wanted=wanted))
    told = [(path.way, path.verdict.detail) for path in paths if path.verdict is not None]
    assert told == [
        ("Service families", "single has the families IPv4, and is owed IPv4,IPv6"),
        ("Service missing", "gone was applied and is not there"),
    ]
    owed = {path.subject.split(" ")[0]: path.owed for path in paths if path.way == "pod → ClusterIP"}
    assert owed["single"] == owed["prefer-dual"] == {F4, F6}


def test_pods_are_owed_a_path_in_every_family_if_there_are_pairs(paper: Any) -> None:
    one = sight(paper, (F4, F6))
    same, across = plan(one)[:2]
    assert same.owed == across.owed == {F4, F6}
    alone = one._replace(pods=one.pods[:1])
    assert not plan(alone)[0].owed and plan(alone)[-1].owed


ATTEMPT = Attempt(Place("a", "/a"), parse_address("192.0.2.1"), 80, answerers=frozenset({"b"}), seen_as=frozenset({parse_address("2001:db8::1")}))


@pytest.mark.parametrize(
    "reply, wrong",
    [
        (Reply(0.1, "b", "2001:db8::1"), ""),
        (Reply(0.1, "b", "2001:DB8:0::1"), ""),
        (Reply(0.1, "c", "2001:db8::1"), "c answered, not b"),
        (Reply(0.1, "", "2001:db8::1"), "somebody unknown answered"),
        (Reply(0.1, "b", "2001:db8::2"), "saw 2001:db8::2, not 2001:db8::1"),
        (Reply(0.1, "b", "nonsense"), "which is no address"),
    ],
)
def test_an_answer_must_come_from_the_right_one_and_name_the_right_client(reply: Reply, wrong: str) -> None:
    assert (wrong in judge(ATTEMPT, reply)) if wrong else judge(ATTEMPT, reply) == ""


def test_the_report_shows_a_dash_for_a_family_that_is_not_there() -> None:
    rows = [Row("pod → pod", "x", ByFamily({F4: Cell(State.WORKS, 0.001, 3)})), Row("a", "b", ByFamily({F4: Cell(State.FAILS, None, 0, "a → b: no answer")}))]
    made = report.table(rows, "title")
    assert [[str(cell) for cell in column.cells] for column in made.columns[2:]] == [["✓   1.00 ms", "✗"], ["—", "—"]]
    assert not report.works(rows) and report.works(rows[:1])
    assert report.failures(rows) == ["a, b, IPv4: a → b: no answer"]
    assert report.document(rows, "c", (F4,)) == {
        "cluster": "c",
        "families": ["IPv4"],
        "works": False,
        "rows": [
            {"path": "pod → pod", "what": "x", "works": True, "cells": {"IPv4": {"state": "works", "milliseconds": 1.0, "connections": 3}}},
            {"path": "a", "what": "b", "works": False, "cells": {"IPv4": {"state": "fails", "detail": "a → b: no answer"}}},
        ],
    }
