"""A pod's status, told from what stands."""

from __future__ import annotations

import msgspec
import pytest

from twinstack.agent.containers.base import USER, Record, label_of_user
from twinstack.agent.pods import NOTHING, Backoff, Failure, Seen
from twinstack.agent.status import host_network_addresses, newly_backing_off, sorted_addresses, status_of, told_before
from twinstack.api.kinds import Condition, Container, ContainerStatus, ObjectMeta, Pod, PodIP, PodSpec, PodStatus
from twinstack.api.objects import view_of
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family

NOW = 1_800_000_000.0
F4, F6 = Family.IPV4, Family.IPV6


def seen(*, running=True, code=0, **more):
    record = Record(id="id1", pod="u", labels={}, running=running, started_at=NOW - 9, finished_at=0 if running else NOW - 1, exit_code=code)
    return Seen(**({"record": record, "attempt": 0, "started": running, "ready": running} | more))


def pod(policy="Always", *, status=None, containers=("a",), **spec):
    return Pod(
        metadata=ObjectMeta(name="p", namespace="default", uid="u"),
        spec=PodSpec(containers=[Container(name=name) for name in containers], restartPolicy=policy, **spec),
        status=status or PodStatus(),
    )


def told(one, ones, **more):
    values = {"sandbox": True, "pod_ips": ("10.0.0.1", "fd00::1"), "host_ips": ("192.0.2.1", "2001:db8::1"), "failure": None, "now": NOW}
    return status_of(one, seen=ones, **(values | more))


@pytest.mark.parametrize(
    ("policy", "ones", "phase"),
    [
        pytest.param("Always", {}, "Pending", id="nothing started: Pending"),
        pytest.param("Always", {"a": seen()}, "Pending", id="one of two started: Pending"),
        pytest.param("Always", {"a": seen(), "b": seen()}, "Running", id="all started: Running"),
        pytest.param("Always", {"a": seen(running=False, code=1), "b": seen(running=False)}, "Running", id="all ended, to be restarted: Running"),
        pytest.param("OnFailure", {"a": seen(running=False, code=1), "b": seen(running=False)}, "Running", id="one to be restarted: Running"),
        pytest.param("OnFailure", {"a": seen(running=False), "b": seen(running=False)}, "Succeeded", id="all succeeded: Succeeded"),
        pytest.param("Never", {"a": seen(running=False, code=1), "b": seen(running=False)}, "Failed", id="one failed for good: Failed"),
        pytest.param("Never", {"a": seen(running=False, code=1), "b": seen()}, "Running", id="one runs on: Running"),
    ],
)
def test_phases(policy, ones, phase):
    assert told(pod(policy, containers=("a", "b")), ones)["phase"] == phase


def test_addresses_of_both_families_are_told_primary_first():
    status = told(pod(), {"a": seen()})
    assert (status["podIP"], status["podIPs"]) == ("10.0.0.1", [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])
    assert (status["hostIP"], status["hostIPs"]) == ("192.0.2.1", [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}])


def test_a_pods_addresses_follow_the_nodes_order_and_are_one_a_family():
    given = [parse_address(text) for text in ("fd00::1", "10.0.0.1", "10.0.0.2")]
    assert list(map(str, sorted_addresses(given, F4))) == ["10.0.0.1", "fd00::1"]
    assert list(map(str, sorted_addresses(given, F6))) == ["fd00::1", "10.0.0.1"]
    assert list(map(str, sorted_addresses(given[:1], F4))) == ["fd00::1"]


@pytest.mark.parametrize(
    ("present", "host", "after"),
    [
        pytest.param((), ("192.0.2.1", "2001:db8::1"), ("192.0.2.1", "2001:db8::1"), id="a new pod takes the node's"),
        pytest.param(("192.0.2.9",), ("192.0.2.1", "2001:db8::1"), ("192.0.2.9", "2001:db8::1"), id="a family that the node gains is added"),
        pytest.param(("192.0.2.9",), ("2001:db8::1", "192.0.2.1"), ("192.0.2.9",), id="but only as the second"),
        pytest.param(("192.0.2.9",), ("192.0.2.1",), ("192.0.2.9",), id="what is told is frozen"),
    ],
)
def test_addresses_of_a_pod_in_the_nodes_network(present, host, after):
    assert host_network_addresses(present, host) == after


def conditions(status):
    return {one["type"]: (one["status"], one.get("reason")) for one in status["conditions"]}


def test_conditions_of_a_pod_that_serves():
    assert conditions(told(pod(), {"a": seen()})) == {
        "PodReadyToStartContainers": ("True", None),
        "Initialized": ("True", None),
        "ContainersReady": ("True", None),
        "Ready": ("True", None),
        "PodScheduled": ("True", None),
    }


def test_what_a_container_may_use_and_which_spec_it_is_of_are_told():
    document = {
        "metadata": {"name": "p", "uid": "u", "generation": 3},
        "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}}, {"name": "b"}]},
    }
    status = told(view_of(Pod, document), {"a": seen(), "b": seen()})
    assert status["observedGeneration"] == 3
    one, other = status["containerStatuses"]
    assert (one["resources"], one["allocatedResources"]) == ({"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}, {"cpu": "100m"})
    assert (other["resources"], "allocatedResources" in other) == ({}, False)
    assert "observedGeneration" not in told(pod(), {"a": seen()})


def test_who_a_container_is_and_how_it_sees_its_volumes_are_told():
    mounts = [
        {"name": "v", "mountPath": "/w"},
        {"name": "v", "mountPath": "/r", "readOnly": True},
        {"name": "v", "mountPath": "/a", "readOnly": True, "recursiveReadOnly": "IfPossible"},
    ]
    document = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "a", "volumeMounts": mounts}]}}
    one = seen()
    labelled = msgspec.structs.replace(one.record, labels={USER: label_of_user(1000, None, (7, 8))})
    (found,) = told(view_of(Pod, document), {"a": msgspec.structs.replace(one, record=labelled)})["containerStatuses"]
    assert found["user"] == {"linux": {"uid": 1000, "gid": 0, "supplementalGroups": [0, 7, 8]}}
    assert found["volumeMounts"] == [
        {"name": "v", "mountPath": "/w"},
        {"name": "v", "mountPath": "/r", "readOnly": True, "recursiveReadOnly": "Disabled"},
        {"name": "v", "mountPath": "/a", "readOnly": True, "recursiveReadOnly": "Enabled"},
    ]


def test_what_waits_for_init_containers_says_so_and_so_do_they():
    one = pod(initContainers=[Container(name="i"), Container(name="j")])
    status = told(one, {})
    waiting = [each["state"]["waiting"]["reason"] for each in (*status["initContainerStatuses"], *status["containerStatuses"])]
    assert waiting == ["PodInitializing"] * 3
    assert told(pod(), {})["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"


def test_a_container_that_is_not_ready_is_named():
    status = told(pod(containers=("a", "b")), {"a": seen(), "b": seen(ready=False)})
    assert conditions(status)["Ready"] == ("False", "ContainersNotReady")
    assert next(one for one in status["conditions"] if one["type"] == "Ready")["message"] == "containers with unready status: [b]"
    assert not status["containerStatuses"][1]["ready"]


def test_a_container_is_not_ready_before_it_has_started():
    status = told(pod(), {"a": seen(started=False)})
    assert (status["containerStatuses"][0]["ready"], status["containerStatuses"][0]["started"]) == (False, False)


def test_a_readiness_gate_holds_ready_back_but_not_containers_ready():
    gated = pod(readinessGates=[{"conditionType": "example.com/x"}])
    assert (conditions(told(gated, {"a": seen()}))["ContainersReady"], conditions(told(gated, {"a": seen()}))["Ready"]) == (
        ("True", None),
        ("False", "ReadinessGatesNotReady"),
    )
    open_ = pod(readinessGates=[{"conditionType": "example.com/x"}], status=PodStatus(conditions=[Condition(type="example.com/x", status="True")]))
    assert conditions(told(open_, {"a": seen()}))["Ready"] == ("True", None)


def test_a_condition_keeps_the_moment_of_its_transition():
    before = told(pod(), {"a": seen()})
    after = told(pod(), {"a": seen()}, before=before, now=NOW + 100)
    assert after == before
    fallen = told(pod(), {"a": seen(ready=False)}, before=before, now=NOW + 100)
    changed = {
        one["type"] for one, other in zip(fallen["conditions"], before["conditions"], strict=True) if one["lastTransitionTime"] != other["lastTransitionTime"]
    }
    assert changed == {"Ready", "ContainersReady"}


def test_crash_loop_back_off_is_a_waiting_state_with_the_last_end_kept():
    status = told(pod(), {"a": seen(running=False, code=3, backoff=Backoff(20, NOW - 5), attempt=2)})
    one = status["containerStatuses"][0]
    assert one["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert (one["lastState"]["terminated"]["exitCode"], one["restartCount"]) == (3, 2)
    assert list(newly_backing_off(None, status)) == [("a", "Back-off restarting failed container a")]
    assert list(newly_backing_off(status, status)) == []


def test_a_failed_pod_says_why():
    status = told(pod(), {"a": seen(running=False, code=137)}, failure=Failure("DeadlineExceeded", "too long"))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "too long")
    assert conditions(status)["Ready"] == ("False", "PodFailed")


def test_a_pod_that_its_node_has_refused_tells_of_no_container():
    """So that kubectl shows why it was refused, and not that it waits."""
    status = told(pod(initContainers=[Container(name="i")]), {"a": NOTHING}, sandbox=False, pod_ips=(), failure=Failure("NodePorts", "taken"))
    assert (status["phase"], status["reason"], status["containerStatuses"]) == ("Failed", "NodePorts", [])
    assert "initContainerStatuses" not in status


def test_what_an_earlier_agent_told_is_taken_over_when_nothing_stands():
    running = view_of(
        ContainerStatus, {"name": "a", "containerID": "twinstack://z", "restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
    )
    lost = told_before(pod(), running)
    assert (lost.attempt, lost.record.exit_code, lost.record.lost, lost.running) == (2, 137, True, False)
    ended = view_of(ContainerStatus, {"name": "a", "containerID": "twinstack://z", "state": {"terminated": {"exitCode": 5, "reason": "Error"}}})
    assert told_before(pod(), ended).record.exit_code == 5
    assert told_before(pod(), None).attempt == -1


def test_addresses_stay_told_after_the_sandbox_is_gone():
    status = PodStatus(podIP="10.0.0.1", podIPs=[PodIP(ip="10.0.0.1")], phase="Succeeded")
    assert told(pod("Never", status=status), {"a": seen(running=False)}, sandbox=False, pod_ips=())["podIPs"] == [{"ip": "10.0.0.1"}]
