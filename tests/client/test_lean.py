"""What the controller manager keeps of the objects of which there are very many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from twinstack.api.kinds import Endpoints, EndpointSlice, Pod
from twinstack.api.objects import view_of
from twinstack.api.resources import resource_of
from twinstack.api.world import Action
from twinstack.client.lean import Lean
from twinstack.loops.clock import SteppingClock
from twinstack.loops.events import Recorder
from twinstack.rules.affinity import bound_to, node_of

CONTAINER = {"name": "c", "image": "x", "env": [{"name": "A", "value": "b"}], "ports": [{"name": "http", "containerPort": 80}]}


def pod(name: str) -> Pod:
    annotations = {"controller.kubernetes.io/pod-deletion-cost": "5", "example.com/note": "long"}
    metadata = {"name": name, "namespace": "default", "labels": {"app": "a"}, "annotations": annotations}
    conditions = [{"type": type_, "status": "True"} for type_ in ("Initialized", "Ready", "twinstack.dev/ReadyIPv6")]
    return view_of(Pod, {"metadata": metadata, "spec": {"containers": [CONTAINER]}, "status": {"conditions": conditions, "hostIP": "192.0.2.1"}})


def test_a_pod_keeps_what_controllers_look_at_and_shares_it_with_others() -> None:
    lean = Lean()
    one, other = lean.pod(pod("a")), lean.pod(pod("b"))
    assert one.metadata.name == "a" and one.annotations == {"controller.kubernetes.io/pod-deletion-cost": "5"}
    assert one.spec.containers[0].ports and not one.spec.containers[0].env and not one.status.hostIP
    assert [condition.type for condition in one.status.conditions or ()] == ["Ready", "twinstack.dev/ReadyIPv6"]
    assert one.spec.containers is other.spec.containers and one.metadata.labels is other.metadata.labels


@pytest.mark.parametrize("how", ["pod", "placed"])
@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="one without a status"),
        pytest.param({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, id="one of both families"),
        pytest.param({"startTime": "2026-01-02T03:04:05Z", "nominatedNodeName": "n2"}, id="one for whom room is made"),
        pytest.param({"conditions": [{"type": "Ready", "status": "True"}]}, id="a condition without a time"),
        pytest.param(
            {
                "conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-02T03:04:05Z"},
                    {"type": "DisruptionTarget", "status": "True"},
                ]
            },
            id="conditions of which one has a time",
        ),
    ],
)
def test_what_a_pod_shares_comes_back_as_its_own(how: str, status: dict[str, Any]) -> None:
    whole = view_of(Pod, {"metadata": {"name": "a", "namespace": "d"}, "spec": {"containers": [CONTAINER], "nodeName": "n1"}, "status": status})
    lean = Lean()
    make = getattr(lean, how)
    make(replace(whole, spec=replace(whole.spec, nodeName="n2")))  # who shares with it
    one = make(whole)
    assert one.spec.nodeName == "n1" and one.status.phase == whole.status.phase
    kept = [condition for condition in whole.status.conditions or () if how == "pod" or condition.type == "DisruptionTarget"]
    assert (one.status.conditions or []) == kept
    if how == "pod":
        assert (one.status.podIP, one.status.podIPs) == (whole.status.podIP, whole.status.podIPs)
    else:
        assert (one.status.startTime, one.status.nominatedNodeName) == (whole.status.startTime, whole.status.nominatedNodeName)
    assert one == make(whole) and one != make(replace(whole, status=replace(whole.status, phase="Failed"))) and resource_of(type(one)) is resource_of(Pod)


def test_what_is_packed_reads_as_what_it_was_made_of_and_is_of_the_same_resource() -> None:
    endpoint = {"addresses": ["fd00::1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "a"}}
    slice_ = view_of(EndpointSlice, {"metadata": {"name": "s"}, "addressType": "IPv6", "endpoints": [endpoint], "ports": [{"port": 80}]})
    whole = view_of(Endpoints, {"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]})
    packed_slice, packed = Lean().slice(slice_), Lean().endpoints(whole)
    assert (packed_slice.endpoints, packed_slice.ports, packed.subsets) == (slice_.endpoints, slice_.ports, whole.subsets)
    assert packed_slice == Lean().slice(slice_) and resource_of(type(packed)) is resource_of(Endpoints)


async def test_an_event_about_what_is_packed_names_its_kind() -> None:
    made: list[Any] = []

    async def perform(action: Action) -> None:
        made.append(action)

    recorder = Recorder(perform, component="test", clock=SteppingClock())
    recorder.tell(Lean().endpoints(view_of(Endpoints, {"metadata": {"name": "e", "namespace": "default"}})), "Normal", "Told", "it was told")
    async with asyncio.timeout(5):
        task = asyncio.create_task(recorder.run())
        await recorder.flushed()
        task.cancel()
    (action,) = made
    assert action.document["involvedObject"] == {"apiVersion": "v1", "kind": "Endpoints", "namespace": "default", "name": "e"}


def test_a_pod_keeps_the_node_that_it_waits_for_by_name() -> None:
    document = {"metadata": {"name": "a", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}], "affinity": bound_to(None, "node7")}}
    assert node_of(Lean().pod(view_of(Pod, document))) == "node7"
