"""Who has to go for a pod of higher priority: the short way comes to what trying everything comes to."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from twinstack.api.disruptions import PodDisruptionBudget
from twinstack.api.kinds import Node, Pod
from twinstack.api.objects import view_of
from twinstack.rules.placement import checks_of, feasible_places
from twinstack.rules.preemption import Preemption, candidates, preemption_for, priority_of
from twinstack.rules.scene import Place, Scene, place_of

ZONE = "topology.kubernetes.io/zone"
BUDGET = {"metadata": {"name": "b", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "b"}}}, "status": {"disruptionsAllowed": 0}}


def node(number: int, *, cpu: int = 4) -> Node:
    amounts = {"cpu": str(cpu), "memory": "8Gi", "pods": "5"}
    metadata, conditions = {"name": f"n{number}", "labels": {ZONE: f"z{number % 2}"}}, [{"type": "Ready", "status": "True"}]
    return view_of(Node, {"metadata": metadata, "spec": {}, "status": {"allocatable": amounts, "conditions": conditions}})


def pod(name: str, *, app: str = "a", cpu: int = 1, priority: int = 0, node: str = "", port: int = 0, start: int = 0, **spec: Any) -> Pod:
    container: dict[str, Any] = {"name": "c", "resources": {"requests": {"cpu": str(cpu)}}, "ports": [{"containerPort": 80, "hostPort": port}]}
    document = {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": app}},
        "spec": {"containers": [container], "nodeName": node, "priority": priority} | spec,
        "status": {"phase": "Running", "startTime": f"2026-01-01T00:00:{start:02}Z"},
    }
    return view_of(Pod, document)


def apart_from(app: str, topology: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology}
    return {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def together_with(app: str, topology: str) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology}
    return {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def spread(app: str) -> dict[str, Any]:
    one = {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": app}}}
    return {"topologySpreadConstraints": [one]}


WAYS: Sequence[dict[str, Any]] = ({}, apart_from("b", "kubernetes.io/hostname"), apart_from("b", ZONE), together_with("a", ZONE), spread("b"))


def fits(one: Pod, place: Place, scene: Scene, pods: Sequence[Pod]) -> bool:
    imagined = place_of(place.node, pods)
    return all(check(imagined) is None for check in checks_of(one, scene.with_place(imagined)))


def tried(one: Pod, scene: Scene) -> dict[str, set[str]]:
    """By node, who has to go there, found by asking every check of the whole scene for every pod."""
    answer = {}
    for place in scene.places:
        lower = [other for other in place.pods if priority_of(other) < priority_of(one)]
        staying = [other for other in place.pods if priority_of(other) >= priority_of(one)]
        if not lower or not fits(one, place, scene, staying):
            continue
        order = sorted(lower, key=lambda other: (other.labels["app"] != "b", -priority_of(other), other.status.startTime or ""))
        for other in order:
            if fits(one, place, scene, [*staying, other]):
                staying.append(other)
        answer[place.name] = {other.metadata.name for other in place.pods} - {other.metadata.name for other in staying}
    return {name: gone for name, gone in answer.items() if gone}


def drawn(seed: int) -> tuple[Pod, Scene]:
    luck = random.Random(seed)
    places = []
    for number in range(4):
        here = [
            pod(
                f"p{number}-{count}",
                app=luck.choice("ab"),
                cpu=luck.choice((0, 1, 2)),
                priority=luck.choice((0, 1, 20)),
                node=f"n{number}",
                port=luck.choice((0, 0, 8080)),
                start=luck.randrange(60),
                **luck.choice(({}, {}, {}, apart_from("new", "kubernetes.io/hostname"))),
            )
            for count in range(luck.randrange(6))
        ]
        places.append(place_of(node(number), here))
    wanted = pod("new", app="new", cpu=luck.choice((1, 2, 4)), priority=10, port=luck.choice((0, 8080)), **luck.choice(WAYS))
    return wanted, Scene(places, {"default": {}})


@pytest.mark.slow
def test_the_short_way_finds_what_asking_everything_finds() -> None:
    budget, found = view_of(PodDisruptionBudget, BUDGET), 0
    for seed in range(400):
        wanted, scene = drawn(seed)
        places, reasons = feasible_places(wanted, scene)
        if places:
            continue
        known = tried(wanted, scene)
        known = {name: gone for name, gone in known.items() if reasons[name].passing}
        answer = preemption_for(wanted, scene, reasons, [budget])
        assert (answer is None) == (not known), seed
        if answer is not None:
            found += 1
            assert {victim.metadata.name for victim in answer.victims} == known[answer.place.name], seed
    assert found > 50


@pytest.mark.parametrize(("nodes", "compared"), [(3, 100), (1000, 100), (5000, 500)])
def test_a_tenth_of_the_nodes_is_compared_and_a_hundred_at_least(nodes: int, compared: int) -> None:
    assert candidates(nodes) == compared


def large(nodes: int) -> tuple[Preemption | None, float]:
    """A decision among so many full nodes, and the seconds of CPU that it took."""
    places = []
    for number in range(nodes):
        here = [pod(f"p{number}-{count}", node=f"n{number}") for count in range(4)]
        places.append(place_of(node(number), here))
    wanted, scene = pod("new", cpu=2, priority=10), Scene(places, {"default": {}})
    _, reasons = feasible_places(wanted, scene)
    began = time.process_time()
    answer = preemption_for(wanted, scene, reasons, [])
    return answer, time.process_time() - began


@pytest.mark.slow
def test_one_decision_among_two_thousand_nodes_takes_little() -> None:
    answer, seconds = large(2000)
    assert answer is not None and len(answer.victims) == 2
    assert seconds < 0.25  # asking every check of the whole scene took 1.5 s
