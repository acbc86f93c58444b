"""What is to be done for a pod, as a table of situations."""

from __future__ import annotations

import pytest

from twinstack.agent.containers.base import Record
from twinstack.agent.pods import (
    Backoff,
    Failure,
    Finish,
    Kill,
    MakeSandbox,
    RemoveSandbox,
    Seen,
    Start,
    decide,
    next_backoff,
    restart_at,
    restarts,
)
from twinstack.api.kinds import Container, ObjectMeta, Pod, PodSpec, PodStatus
from twinstack.api.objects import view_of

A, B = Container(name="a"), Container(name="b")
LOOK = Container(name="look")
INIT, SIDECAR = Container(name="init"), Container(name="side", restartPolicy="Always")
NOW = 1000.0


def pod(policy="Always", *, init=(), containers=(A, B), ephemeral=(), deleted=False, grace=None, phase=""):
    metadata = ObjectMeta(
        name="p", namespace="default", uid="u", deletionTimestamp="2026-01-01T00:00:00Z" if deleted else None, deletionGracePeriodSeconds=grace
    )
    return Pod(
        metadata=metadata,
        spec=PodSpec(containers=list(containers), initContainers=list(init), ephemeralContainers=list(ephemeral), restartPolicy=policy),
        status=PodStatus(phase=phase),
    )


def record(*, running=True, code=0, finished=NOW - 1):
    return Record(id="x", pod="u", labels={}, running=running, started_at=NOW - 10, finished_at=0 if running else finished, exit_code=code)


def up(**more):
    return Seen(record=record(), attempt=0, started=True, ready=True, **more)


def over(code=0, **more):
    return Seen(record=record(running=False, code=code), attempt=0, **more)


def rule(operator, *codes):
    return {"action": "Restart", "exitCodes": {"operator": operator, "values": list(codes)}}


@pytest.mark.parametrize(
    ("one", "seen", "sandbox", "steps"),
    [
        pytest.param(pod(), {}, False, [MakeSandbox()], id="first the sandbox"),
        pytest.param(pod(), {}, True, [Start(A, 0), Start(B, 0)], id="then all containers together"),
        pytest.param(pod(), {"a": up(), "b": up()}, True, [], id="what runs is left alone"),
        pytest.param(pod(init=[INIT]), {}, True, [Start(INIT, 0)], id="an init container comes first, alone"),
        pytest.param(pod(init=[INIT]), {"init": up()}, True, [], id="and is waited for"),
        pytest.param(pod(init=[INIT]), {"init": over()}, True, [Start(A, 0), Start(B, 0)], id="until it has succeeded"),
        pytest.param(pod(init=[INIT]), {"init": over(1)}, True, [Start(INIT, 1)], id="a failed init container is started again"),
        pytest.param(pod("Never", init=[INIT]), {"init": over(1)}, True, [RemoveSandbox()], id="unless nothing is: then the pod is over"),
        pytest.param(pod(init=[INIT]), {"init": over(), "a": up(), "b": over(1)}, True, [Start(B, 1)], id="init containers are not run twice"),
        pytest.param(pod(init=[SIDECAR]), {"side": up()}, True, [Start(A, 0), Start(B, 0)], id="a sidecar counts once it has started"),
        pytest.param(pod(init=[SIDECAR]), {"side": Seen(record=record(), attempt=0)}, True, [], id="but not before its startup probe has passed"),
        pytest.param(pod(init=[SIDECAR]), {"side": over(), "a": up(), "b": up()}, True, [Start(SIDECAR, 1)], id="a sidecar that ended is started again"),
        pytest.param(pod("OnFailure"), {"a": over(), "b": over(1)}, True, [Start(B, 1)], id="OnFailure restarts failures only"),
        pytest.param(pod("OnFailure"), {"a": over(), "b": over()}, True, [RemoveSandbox()], id="when all have succeeded the pod is over"),
        pytest.param(pod("Never"), {"a": over(1), "b": up()}, True, [], id="Never: the others run on"),
        pytest.param(pod("Never"), {"a": over(1), "b": over()}, False, [], id="a pod that is over and has nothing is left alone"),
        pytest.param(
            pod("Never", init=[SIDECAR]), {"side": up(), "a": over(), "b": over()}, True, [Kill(SIDECAR, 30, "the pod is over")], id="sidecars end last"
        ),
        pytest.param(pod(deleted=True, grace=5), {"a": up(), "b": over()}, True, [Kill(A, 5, "the pod is being deleted")], id="deletion ends what runs"),
        pytest.param(pod(deleted=True, grace=5), {"a": up(ending=5), "b": over()}, True, [], id="once"),
        pytest.param(
            pod(deleted=True, grace=0), {"a": up(ending=5), "b": over()}, True, [Kill(A, 0, "the pod is being deleted")], id="again when asked for sooner"
        ),
        pytest.param(pod(deleted=True), {"a": over(), "b": over()}, True, [RemoveSandbox()], id="then the sandbox goes"),
        pytest.param(pod(deleted=True), {}, False, [Finish()], id="then the object"),
        pytest.param(pod(), {"a": up(), "b": up()}, False, [Kill(A, 30, "its sandbox is gone"), Kill(B, 30, "its sandbox is gone")], id="no sandbox: all anew"),
        pytest.param(pod(phase="Failed"), {}, False, [], id="a pod that has failed is not begun again"),
        pytest.param(pod(ephemeral=[LOOK]), {"a": up(), "b": up()}, True, [Start(LOOK, 0)], id="who looks into the pod is started beside the others"),
        pytest.param(pod(init=[INIT], ephemeral=[LOOK]), {"init": up()}, True, [Start(LOOK, 0)], id="before the pod is initialized, too"),
        pytest.param(pod(ephemeral=[LOOK]), {"a": up(), "b": up(), "look": over(1)}, True, [], id="and once only"),
        pytest.param(pod("Never", ephemeral=[LOOK]), {"a": over(), "b": over(), "look": up()}, True, [Kill(LOOK, 30, "the pod is over")], id="and no longer"),
        pytest.param(pod(), {"a": Seen(waiting="X", retry_at=NOW - 1), "b": up()}, True, [Start(A, 0)], id="what could not be made is tried again in time"),
    ],
)
def test_the_next_steps_of_a_pod(one, seen, sandbox, steps):
    assert list(decide(one, sandbox=sandbox, seen=seen, failure=None, now=NOW).steps) == steps


def test_a_failure_ends_everything():
    plan = decide(pod(), sandbox=True, seen={"a": up(), "b": up()}, failure=Failure("DeadlineExceeded", "too long"), now=NOW)
    assert plan.steps == (Kill(A, 30, "too long"), Kill(B, 30, "too long"))


def test_an_object_that_is_gone_is_a_deletion():
    assert decide(pod(), sandbox=False, seen={}, failure=None, gone=True, now=NOW).steps == (Finish(),)


def test_sidecars_end_one_after_the_other_the_last_first_in_what_is_left_of_the_grace():
    one, two = Container(name="one", restartPolicy="Always"), Container(name="two", restartPolicy="Always")
    ending = pod(init=[one, two], deleted=True, grace=30)

    def steps(seen, *, spent):
        return decide(ending, sandbox=True, seen=seen, failure=None, ending_since=NOW - spent, now=NOW).steps

    both = {"one": up(), "two": up(), "a": over(), "b": over()}
    assert steps(both | {"a": up()}, spent=0) == (Kill(A, 30, "the pod is being deleted"),)
    assert steps(both, spent=10) == (Kill(two, 20, "the pod is being deleted"),)
    assert steps(both | {"two": up(ending=20)}, spent=15) == ()
    assert steps(both | {"two": over()}, spent=15) == (Kill(one, 15, "the pod is being deleted"),)
    assert steps(both | {"two": over()}, spent=100) == (Kill(one, 2, "the pod is being deleted"),)


def test_a_deletion_that_does_not_wait_leaves_a_second():
    assert decide(pod(grace=30), sandbox=True, seen={"a": up(), "b": over()}, failure=None, gone=True, now=NOW).steps == (
        Kill(A, 1, "the pod is being deleted"),
    )
    assert decide(pod(deleted=True, grace=30), sandbox=True, seen={"a": up(ending=30), "b": over()}, failure=None, gone=True, now=NOW).steps == (
        Kill(A, 1, "the pod is being deleted"),
    )


@pytest.mark.parametrize(
    ("own", "policy", "code", "again"),
    [
        pytest.param({}, "Never", 42, False, id="the pod's policy"),
        pytest.param({"restartPolicy": "OnFailure"}, "Never", 42, True, id="the container's own wins"),
        pytest.param({"restartPolicy": "Never"}, "Always", 42, False, id="in either direction"),
        pytest.param({"restartPolicy": "Never", "restartPolicyRules": [rule("In", 42)]}, "Never", 42, True, id="a rule wins over both"),
        pytest.param({"restartPolicy": "Never", "restartPolicyRules": [rule("In", 42)]}, "Never", 1, False, id="where it matches"),
        pytest.param({"restartPolicy": "Never", "restartPolicyRules": [rule("NotIn", 42)]}, "Never", 1, True, id="every exit code but these"),
    ],
)
def test_which_end_is_undone(own, policy, code, again):
    assert restarts(view_of(Container, {"name": "a", **own}), record(running=False, code=code), policy) is again


def test_a_container_that_ends_again_and_again_waits_longer_and_longer():
    waits, backoff, ended = [], None, NOW
    for _ in range(8):
        moment = restart_at(backoff, ended)
        waits.append(moment - ended)
        backoff = next_backoff(backoff, ended, moment)
        ended = moment + 1
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_ten_quiet_minutes_forget_the_back_off():
    backoff = Backoff(300, NOW)
    assert restart_at(backoff, NOW + 601) == NOW + 601
    assert next_backoff(backoff, NOW + 601, NOW + 601) == Backoff(10, NOW + 601)


def test_during_the_back_off_the_plan_says_when_to_look_again():
    one = Seen(record=record(running=False, code=1, finished=NOW - 3), attempt=3, backoff=Backoff(40, NOW - 5))
    plan = decide(pod(), sandbox=True, seen={"a": one, "b": up()}, failure=None, now=NOW)
    assert plan == ((), NOW + 37)


def test_deciding_on_the_same_facts_gives_the_same_steps():
    seen = {"a": over(1), "b": up()}
    assert decide(pod(), sandbox=True, seen=seen, failure=None, now=NOW) == decide(pod(), sandbox=True, seen=seen, failure=None, now=NOW)
