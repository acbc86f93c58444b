"""Readiness by family: what is told of a pod whose families differ, and on a whole node."""

from __future__ import annotations

import pytest

from twinstack.agent import families
from twinstack.agent.containers.base import Record
from twinstack.agent.pods import Seen
from twinstack.api.kinds import Container, Event, ObjectMeta, Pod, PodSpec, Probe
from twinstack.api.objects import view_of
from twinstack.api.resources import resource_of
from twinstack.net.family import Family

F4, F6 = Family.IPV4, Family.IPV6
BOTH = ("10.0.0.1", "fd00::1")
WEB = {"name": "web", "readinessProbe": {"tcpSocket": {"port": 80}}}
QUIET = {"name": "quiet"}


def pod(*containers, gates=()):
    made = [view_of(Container, one) for one in containers]
    return Pod(metadata=ObjectMeta(name="p", namespace="default", uid="u"), spec=PodSpec(containers=made, readinessGates=list(gates)))


def seen(answers=None, *, running=True, **more):
    record = Record(id="id1", pod="u", labels={}, running=running)
    return Seen(record=record, attempt=0, started=running, ready=running, answers=answers or {}, **more)


def told(one, ones, addresses=BOTH, over=None):
    return {type_.removeprefix("twinstack.dev/Ready"): condition.true for type_, condition in families.conditions(one, ones, addresses, over).items()}


@pytest.mark.parametrize(
    ("probe", "asked"),
    [
        ({"httpGet": {"port": 80}}, True),
        ({"tcpSocket": {"port": 80}}, True),
        ({"grpc": {"port": 80}}, True),
        ({"tcpSocket": {"port": 80, "host": "192.0.2.1"}}, False),
        ({"httpGet": {"port": 80, "host": "example.org"}}, False),
        ({"exec": {"command": ["true"]}}, False),
    ],
)
def test_what_goes_to_the_pods_own_addresses_is_asked_of_each_family(probe, asked):
    assert families.is_asked_by_family(view_of(Probe, probe)) is asked


def test_each_family_of_the_pods_addresses_has_its_condition():
    assert told(pod(WEB), {"web": seen({F4: True, F6: False})}) == {"IPv4": True, "IPv6": False}
    assert told(pod(WEB), {"web": seen({F4: True})}) == {"IPv4": True, "IPv6": False}
    assert told(pod(WEB), {"web": seen({F6: True})}, ("fd00::1",)) == {"IPv6": True}
    assert told(pod(WEB), {"web": seen({F4: True, F6: True}, running=False)}) == {"IPv4": False, "IPv6": False}


def test_a_container_that_is_not_asked_counts_as_it_is():
    ones = {"web": seen({F4: True, F6: True}), "quiet": seen()}
    assert told(pod(WEB, QUIET), ones) == {"IPv4": True, "IPv6": True}
    assert told(pod(WEB, QUIET), ones | {"quiet": seen(running=False)}) == {"IPv4": False, "IPv6": False}
    assert told(pod(QUIET), ones) == {}  # what was never tried proves nothing
    assert told(pod(QUIET, gates=[{"conditionType": "twinstack.dev/ReadyIPv6"}]), ones) == {"IPv6": True}


def test_a_pod_that_is_over_is_ready_nowhere():
    over = families.Told(False, "PodCompleted")
    assert families.conditions(pod(WEB), {}, BOTH, over) == {f"twinstack.dev/Ready{family}": over for family in (F4, F6)}


@pytest.mark.parametrize(
    ("answers", "dead"),
    [({F4: True}, None), ({F4: True, F6: True}, set()), ({F4: False, F6: False}, set()), ({F4: True, F6: False}, {F6}), ({F4: False, F6: True}, {F4})],
)
def test_families_disagree_once_both_have_been_heard(answers, dead):
    assert families.dead_families(pod(WEB, QUIET), {"web": seen(answers), "quiet": seen()}, BOTH) == dead
    assert families.dead_families(pod(WEB), {"web": seen(answers, running=False)}, BOTH) is None


SERVER = """
import os, socket, sys, time
def door(kind, address):
    one = socket.socket(kind, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == socket.AF_INET6: one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind((address, 8080)); one.listen(16)
    return one
doors = {"4": (socket.AF_INET, "0.0.0.0"), "6": (socket.AF_INET6, "::")}
opened = {}
while True:
    wanted = set(open("/state/families").read().strip())
    for name in wanted - opened.keys(): opened[name] = door(*doors[name])
    for name in opened.keys() - wanted: opened.pop(name).close()
    for one in opened.values():
        one.settimeout(0.01)
        try: one.accept()[0].close()
        except OSError: pass
    time.sleep(0.01)
"""


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_tells_what_each_family_answers_and_when_they_disagree(world, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "families").write_text("4")

    async def story(w) -> None:
        await w.give_pod_cidrs()
        container = {
            "command": ["/usr/bin/python3", "-IS", "-c", SERVER],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1},
            "volumeMounts": [{"name": "state", "mountPath": "/state"}],
        }
        await w.create("half", container=container, volumes=[{"name": "state", "hostPath": {"path": str(state)}}])

        async def found(**wanted: str) -> dict:
            def holds(status):
                have = {one["type"].removeprefix("twinstack.dev/"): one["status"] for one in status.get("conditions", ())}
                return wanted.items() <= have.items()

            return await w.until_pod("half", holds)

        async def said(reason: str) -> str:
            async def look():
                events = (await w.client.list(resource_of(Event), "default"))["items"]
                return next((one["message"] for one in reversed(events) if one["reason"] == reason), None)

            return str(await w.until(look))

        await found(Ready="True", ReadyIPv4="True", ReadyIPv6="False")
        assert (await said("FamiliesDisagree")).startswith("Ready over IPv4, but not over IPv6: IPv6 readiness probe of container c failed: ")
        # an agent that is started anew knows it, and does not say it again
        await w.stop_agent()
        await w.start_agent()
        (state / "families").write_text("46")
        await found(Ready="True", ReadyIPv4="True", ReadyIPv6="True")
        await said("FamiliesAgree")
        (state / "families").write_text("6")
        pod = await found(Ready="False", ReadyIPv4="False", ReadyIPv6="True")
        condition = next(one for one in pod["status"]["conditions"] if one["type"] == "twinstack.dev/ReadyIPv4")
        assert condition["message"] == "containers that are not ready over IPv4: [c]"
        events = [one for one in (await w.client.list(resource_of(Event), "default"))["items"] if one["reason"] == "FamiliesDisagree"]
        assert sum(one.get("count", 1) for one in events) <= 2

    world(story)
