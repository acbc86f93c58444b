"""What endpoint a pod is, how endpoints are packed, and how rollouts are sized."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.kinds import Endpoint, EndpointConditions, EndpointPort, EndpointSlice, ObjectReference, Pod, Service
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES
from twinstack.net.pool import Intervals
from twinstack.rules import endpoints as rules
from twinstack.rules.rollouts import Size, grown, in_proportion, shrunk
from twinstack.rules.slices import Group, Plan, identity_of, plan_slices

F4, F6 = FAMILIES


def pod(**parts):
    metadata = {"name": "a", "namespace": "default", "uid": "u"} | parts.pop("metadata", {})
    status = {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "FD00::0001"}]} | parts.pop("status", {})
    spec = {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]}
    return view_of(Pod, {"metadata": metadata, "spec": spec | parts, "status": status})


def service(**spec):
    annotations = spec.pop("annotations", {})
    return view_of(Service, {"metadata": {"name": "web", "namespace": "default", "annotations": annotations}, "spec": {"selector": {}} | spec})


READY = {"conditions": [{"type": "Ready", "status": "True"}]}
GOING = {"deletionTimestamp": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    "parts, publish, conditions",
    [
        pytest.param({"status": READY}, False, (True, True, False), id="ready"),
        pytest.param({}, False, (False, False, False), id="not ready"),
        pytest.param({}, True, (True, False, False), id="not ready, but published"),
        pytest.param({"status": READY, "metadata": GOING}, False, (False, True, True), id="going, and serving to the end"),
        pytest.param({"metadata": GOING}, False, (False, False, True), id="going, not serving"),
        pytest.param({"metadata": GOING}, True, (True, False, True), id="going, but published"),
        pytest.param({"status": READY, "metadata": GOING}, True, (True, True, True), id="going, serving and published"),
    ],
)
def test_the_three_conditions_in_both_families(parts, publish, conditions):
    found = rules.endpoints_of(pod(**parts), service(publishNotReadyAddresses=publish), zone=None)
    assert list(found) == [F4, F6]
    assert found[F6].addresses == ["fd00::1"], "in canonical form"
    for endpoint in found.values():
        assert (endpoint.conditions.ready, endpoint.conditions.serving, endpoint.conditions.terminating) == conditions


@pytest.mark.parametrize(
    "parts, eligible",
    [
        pytest.param({}, True, id="running"),
        pytest.param({"metadata": GOING}, True, id="being deleted"),
        pytest.param({"status": {"podIPs": None}}, True, id="with the old field only"),
        pytest.param({"status": {"podIP": "", "podIPs": None}}, False, id="without an address"),
        pytest.param({"status": {"phase": "Failed"}}, False, id="failed"),
        pytest.param({"status": {"phase": "Succeeded"}}, False, id="succeeded"),
    ],
)
def test_who_can_be_an_endpoint(parts, eligible):
    assert rules.is_eligible(pod(**parts)) == eligible


def test_a_text_that_is_no_address_is_left_out():
    assert rules.addresses_of(pod(status={"podIPs": [{"ip": "nonsense"}, {"ip": "fd00::2"}]})) == {F6: ["fd00::2"]}


@pytest.mark.parametrize(
    "port, number",
    [
        pytest.param({"port": 80, "targetPort": 9090}, 9090, id="a number is taken at its word"),
        pytest.param({"port": 80}, 80, id="without a target it is the port itself"),
        pytest.param({"port": 80, "targetPort": "http"}, 8080, id="a name is looked up"),
        pytest.param({"port": 80, "targetPort": "dns"}, None, id="of another protocol it is not found"),
        pytest.param({"port": 53, "targetPort": "dns", "protocol": "UDP"}, 53, id="of its own protocol it is"),
        pytest.param({"port": 80, "targetPort": "side"}, 7070, id="in an init container that keeps running"),
        pytest.param({"port": 80, "targetPort": "once"}, None, id="not in one that ends"),
    ],
)
def test_target_ports(port, number):
    one = pod(
        initContainers=[
            {"name": "side", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 7070}]},
            {"name": "once", "ports": [{"name": "once", "containerPort": 6060}]},
        ]
    )
    assert [found.port for found in rules.ports_of(one, service(ports=[port]))] == ([number] if number else [])


@pytest.mark.parametrize(
    "spec, families",
    [
        pytest.param({"ipFamilies": ["IPv6", "IPv4"], "clusterIP": "fd00::1"}, (F6, F4), id="as they are told"),
        pytest.param({"clusterIP": "fd00::1"}, (F6,), id="of before there were families: the address's"),
        pytest.param({"clusterIP": "10.0.0.1"}, (F4,), id="of before there were families: the address's, the other one"),
        pytest.param({"clusterIP": "None"}, (F4, F6), id="of before, headless: both"),
    ],
)
def test_the_families_of_a_service(spec, families):
    assert rules.families_of(service(**spec)) == families


@pytest.mark.parametrize(
    "parts, hostname",
    [
        pytest.param({"hostname": "h", "subdomain": "web"}, "h", id="under its own Service"),
        pytest.param({"hostname": "h", "subdomain": "other"}, None, id="under another"),
        pytest.param({"hostname": "h"}, None, id="under none"),
        pytest.param({"subdomain": "web"}, None, id="without a name of its own"),
    ],
)
def test_the_name_that_dns_knows(parts, hostname):
    assert rules.hostname_of(pod(**parts), service()) == hostname


@pytest.mark.parametrize(
    "spec, zones, nodes",
    [
        pytest.param({}, None, None, id="nobody asked"),
        pytest.param({"trafficDistribution": "PreferClose"}, ["z"], None, id="close"),
        pytest.param({"trafficDistribution": "PreferSameZone"}, ["z"], None, id="same zone"),
        pytest.param({"trafficDistribution": "PreferSameNode"}, ["z"], ["n"], id="same node"),
        pytest.param({"trafficDistribution": "Whatever"}, None, None, id="a word that nobody knows"),
        pytest.param(
            {"trafficDistribution": "PreferClose", "annotations": {"service.kubernetes.io/topology-mode": "Auto"}}, None, None, id="the annotation wins"
        ),
        pytest.param(
            {"trafficDistribution": "PreferClose", "annotations": {"service.kubernetes.io/topology-mode": "Disabled"}}, ["z"], None, id="unless it is not Auto"
        ),
    ],
)
def test_hints(spec, zones, nodes):
    found = rules.endpoints_of(pod(status=READY, nodeName="n"), service(**spec), zone="z")[F4].hints
    assert (found and found.forZones and [one.name for one in found.forZones]) == zones
    assert (found and found.forNodes and [one.name for one in found.forNodes]) == nodes
    assert rules.endpoints_of(pod(nodeName="n"), service(**spec), zone="z")[F4].hints is None, "only ready ones have any"


# ---- Packing


def endpoint(number, is_ready=True):
    target = ObjectReference(kind="Pod", namespace="default", name=f"p{number}")
    return Endpoint(addresses=[f"10.0.0.{number}"], conditions=EndpointConditions(ready=is_ready), targetRef=target)


def group(endpoints, port=80):
    ports = (EndpointPort(name="", protocol="TCP", port=port),)
    return rules.key_of_ports(ports), Group(ports, {identity_of(one): one for one in endpoints})


def performed(existing: list[EndpointSlice], plan: Plan) -> list[EndpointSlice]:
    touched = {id(one) for one, _ in plan.update} | {id(one) for one in plan.delete}
    written = [content for _, content in plan.update] + plan.create
    return [one for one in existing if id(one) not in touched] + [EndpointSlice(endpoints=list(c.endpoints), ports=list(c.ports)) for c in written]


STATES = st.lists(st.dictionaries(st.integers(1, 30), st.tuples(st.booleans(), st.sampled_from([80, 90])), max_size=25), min_size=1, max_size=5)


@given(STATES, st.integers(1, 6))
def test_slices_hold_what_is_wanted_after_any_history_with_few_writes(states, most):
    slices: list[EndpointSlice] = []
    for state in states:
        wanted = [(endpoint(number, is_ready), port) for number, (is_ready, port) in state.items()]
        groups = dict(group([one for one, port in wanted if port == number], number) for number in {port for _, port in wanted})
        plan = plan_slices(slices, groups, most=most, outdated=lambda one: False)
        assert not (plan.create and plan.delete), "one is written over instead"
        slices = performed(slices, plan)
        held = [(one, piece.ports[0].port) for piece in slices for one in piece.endpoints or ()]
        assert sorted(held, key=str) == sorted(wanted, key=str)
        assert slices and all(len(piece.endpoints or ()) <= most for piece in slices)
        assert sum(1 for piece in slices if not piece.endpoints) == (0 if wanted else 1)
        again = plan_slices(slices, groups, most=most, outdated=lambda one: False)
        assert again == Plan([], [], [])


@given(st.sets(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 6), st.data())
def test_one_pod_is_one_write(numbers, most, data):
    everyone = [endpoint(number) for number in sorted(numbers)]
    slices = performed([], plan_slices([], dict([group(everyone)]), most=most, outdated=lambda one: False))
    chosen = data.draw(st.sampled_from(range(len(everyone))))
    histories = {
        "one goes": everyone[:chosen] + everyone[chosen + 1 :],
        "one comes": [*everyone, endpoint(99)],
        "one changes": [*everyone[:chosen], endpoint(sorted(numbers)[chosen], False), *everyone[chosen + 1 :]],
    }
    for wanted in histories.values():
        plan = plan_slices(slices, dict([group(wanted)]), most=most, outdated=lambda one: False)
        assert len(plan.create) + len(plan.update) + len(plan.delete) == 1


@pytest.mark.parametrize(
    "sizes, left, writes",
    [
        pytest.param([3, 3], 1, (1, 0), id="one more and all are full: a new slice"),
        pytest.param([1, 2], 1, (0, 1), id="one more goes where it fits best"),
    ],
)
def test_where_one_more_goes(sizes, left, writes):
    numbers = iter(range(1, 99))
    slices = [EndpointSlice(ports=list(group([])[1].ports), endpoints=[endpoint(next(numbers)) for _ in range(size)]) for size in sizes]
    everyone = [one for piece in slices for one in piece.endpoints or ()] + [endpoint(next(numbers)) for _ in range(left)]
    plan = plan_slices(slices, dict([group(everyone)]), most=3, outdated=lambda one: False)
    assert (len(plan.create), len(plan.update)) == writes
    if plan.update:
        assert len(plan.update[0][1].endpoints) == 3, "the fuller one"


def test_a_lowered_bound_moves_what_no_longer_fits():
    piece = EndpointSlice(ports=list(group([])[1].ports), endpoints=[endpoint(number) for number in range(1, 6)])
    plan = plan_slices([piece], dict([group(piece.endpoints or [])]), most=2, outdated=lambda one: False)
    assert sorted(len(one.endpoints or ()) for one in performed([piece], plan)) == [1, 2, 2]


# ---- Rollouts


@given(
    st.integers(0, 20),
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=3),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_a_step_of_a_rollout_respects_both_fences(replicas, surge, unavailable, old, new):
    sizes = [Size(size, min(size, available)) for size, available in old]
    size, available = new[0], min(new)
    after = grown(size, sum(one.replicas for one in sizes), replicas=replicas, surge=surge)
    if after > size:
        assert after <= replicas and after + sum(one.replicas for one in sizes) <= replicas + surge
    left = shrunk(sizes, Size(size, available), replicas=replicas, unavailable=unavailable)
    assert all(0 <= now <= one.replicas for now, one in zip(left, sizes, strict=True))
    still = available + sum(min(now, one.available) for now, one in zip(left, sizes, strict=True))
    before = available + sum(one.available for one in sizes)
    assert still >= min(before, replicas - unavailable)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 60))
def test_a_change_is_shared_in_full(sizes, total):
    sizes.sort(reverse=True)
    after = in_proportion(sizes, total)
    assert all(size >= 0 for size in after)
    assert sum(after) == (total if sum(sizes) else 0)


# ---- Ranges of a pool


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=20))
def test_a_range_that_is_added_is_as_its_numbers_one_by_one(steps):
    intervals, plain = Intervals(), set()
    for adds, start, length in steps:
        if adds:
            intervals.add_range(start, start + length)
            plain |= set(range(start, start + length))
        else:
            intervals.remove(start)
            plain.discard(start)
        assert list(intervals) == sorted(plain) and len(intervals) == len(plain)
