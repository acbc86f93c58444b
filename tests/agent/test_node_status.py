"""What a node tells of itself: what it is short of, what is reserved, and what a cloud controller manager tells for it."""

from __future__ import annotations

import asyncio

import pytest

from twinstack.agent import pressure
from twinstack.agent.node import Machine, allocatable, node_document, node_status, provided_node_ip
from twinstack.agent.pressure import Reading, ThresholdError, parse_thresholds, pressures
from twinstack.agent.settings import Settings, SettingsError
from twinstack.api.kinds import Node
from twinstack.api.objects import Key, view_of
from twinstack.api.resources import resource_of
from twinstack.net.cidr import parse_address

NODES = resource_of(Node)
MACHINE = Machine("host", 4, 8 << 20, 100 << 30, "6.1", "Debian", "m", "u", "b", "amd64")
PAIR = tuple(map(parse_address, ("2001:db8::1", "192.0.2.1")))
ANNOTATION = "alpha.kubernetes.io/provided-node-ip"
GIB = 1 << 30


@pytest.mark.parametrize(
    ("readings", "found"),
    [
        ({"memory.available": Reading(GIB, 8 * GIB), "nodefs.available": Reading(50 * GIB, 100 * GIB)}, set()),
        ({"memory.available": Reading(99 << 20, 8 * GIB)}, {"MemoryPressure"}),
        ({"nodefs.available": Reading(9 * GIB, 100 * GIB)}, {"DiskPressure"}),
        ({"nodefs.inodesFree": Reading(4, 100), "pid.available": Reading(1, 100)}, {"DiskPressure"}),
    ],
)
def test_a_node_is_short_of_what_is_below_its_threshold(readings, found):
    assert pressures(pressure.DEFAULTS, readings) == found


def test_thresholds_are_amounts_or_shares(tmp_path):
    assert pressures(parse_thresholds({"pid.available": "10%"}), {"pid.available": Reading(9, 100)}) == {"PIDPressure"}
    for wrong in ({"memory": "1Gi"}, {"memory.available": "many"}, {"memory.available": "%"}):
        with pytest.raises(ThresholdError):
            parse_thresholds(wrong)
    assert {"memory.available", "pid.available", "nodefs.available"} <= pressure.read(tmp_path).keys()


def test_pods_may_not_have_what_is_reserved():
    settings = Settings(kube_reserved=(("cpu", "500m"), ("memory", "1Gi")), system_reserved=(("memory", "1Gi"),))
    assert allocatable(settings, MACHINE) == {"cpu": "3500m", "memory": f"{(6 << 20) - (100 << 10)}Ki", "ephemeral-storage": str(100 << 30), "pods": "110"}
    with pytest.raises(SettingsError, match="more cpu is reserved"):
        allocatable(Settings(kube_reserved=(("cpu", "5"),)), MACHINE)


def status(settings, before=None, **more):
    return node_status(settings, "n", MACHINE, settings.node_ips, port=10250, problem=None, before=before, now="2026-01-01T00:00:00Z", **more)


def test_conditions_tell_what_is_short():
    found = {one["type"]: (one["status"], one["reason"]) for one in status(Settings(), pressures={"DiskPressure"})["conditions"]}
    assert found["DiskPressure"] == ("True", "KubeletHasDiskPressure") and found["MemoryPressure"] == ("False", "KubeletHasSufficientMemory")


def test_an_external_cloud_learns_the_addresses_and_then_tells_them():
    settings = Settings(node_ips=PAIR, cloud_provider="external", provider_id="cloud://1")
    document = node_document(settings, "n", MACHINE)
    assert document["metadata"]["annotations"] == {ANNOTATION: "2001:db8::1,192.0.2.1"}
    assert document["spec"] == {
        "taints": [{"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"}],
        "providerID": "cloud://1",
    }
    ours = [("InternalIP", "2001:db8::1"), ("InternalIP", "192.0.2.1"), ("Hostname", "n")]
    assert [(one["type"], one["address"]) for one in status(settings)["addresses"]] == ours
    theirs = [{"type": "InternalIP", "address": "192.0.2.9"}]
    assert status(settings, view_of(Node, {"status": {"addresses": theirs}}))["addresses"] == theirs
    assert [one["type"] for one in status(Settings(cloud_provider="external"))["addresses"]] == ["Hostname"]
    for other in (Settings(node_ips=PAIR), Settings(cloud_provider="external", node_ips=(parse_address("::"),))):
        assert provided_node_ip(other) is None


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_leaves_its_addresses_to_an_external_cloud(world):
    async def story(w) -> None:
        await w.stop_agent()
        await w.start_agent(cloud_provider="external", status_seconds=0.1)

        async def told():
            node = await w.client.get(NODES, Key("", "node1"))
            return node if ANNOTATION in node["metadata"].get("annotations", {}) else None

        node = await w.until(told)
        assert node["metadata"]["annotations"][ANNOTATION] == "192.0.2.10,2001:db8::10"
        theirs = [{"type": "ExternalIP", "address": "203.0.113.1"}, {"type": "Hostname", "address": "cloud"}]
        await w.client.patch(NODES, Key("", "node1"), {"status": {"addresses": theirs}}, subresource="status")
        await asyncio.sleep(0.4)
        assert (await w.client.get(NODES, Key("", "node1")))["status"]["addresses"] == theirs
        await w.stop_agent()
        await w.start_agent()  # without the flag the node tells its own again, and takes the annotation back

        async def taken_back():
            node = await w.client.get(NODES, Key("", "node1"))
            return ANNOTATION not in node["metadata"].get("annotations", {}) and node["status"]["addresses"][0]["address"] == "192.0.2.10"

        await w.until(taken_back)

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.parametrize("asked", ["192.0.2.10", "2001:db8::10"])
def test_a_node_of_one_family_in_a_cluster_of_two_gains_the_other(world, asked):
    async def story(w) -> None:
        await w.stop_agent()
        await w.start_agent(node_ips=(parse_address(asked),))
        await w.give_pod_cidrs()
        await w.create("own")
        await w.create("hosts", hostNetwork=True)

        def told(status: dict) -> dict:
            return {name: [one["ip"] for one in status.get(name, ())] for name in ("podIPs", "hostIPs")}

        own = told((await w.until_pod("own", lambda status: status.get("phase") == "Running"))["status"])
        # a pod's addresses come from the network; the node's family is told first
        assert own["hostIPs"] == [asked] and [":" in one for one in own["podIPs"]] == [":" in asked, ":" not in asked]
        hosts = told((await w.until_pod("hosts", lambda status: status.get("phase") == "Running"))["status"])
        assert hosts == {"podIPs": [asked], "hostIPs": [asked]}
        await w.stop_agent()
        other = "2001:db8::10" if asked == "192.0.2.10" else "192.0.2.10"
        await w.start_agent(node_ips=(parse_address(asked), parse_address(other)))
        pod = await w.until_pod("hosts", lambda status: len(status["podIPs"]) == 2)
        assert told(pod["status"]) == {"podIPs": [asked, other], "hostIPs": [asked, other]}
        pod = await w.until_pod("own", lambda status: len(status["hostIPs"]) == 2)
        assert told(pod["status"]) == {**own, "hostIPs": [asked, other]}

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_whose_first_family_changes_says_so_of_its_pods(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        await w.create("moved")
        pod = await w.until_pod("moved", lambda status: status.get("phase") == "Running")
        assert pod["status"]["hostIP"] == "192.0.2.10"
        await w.stop_agent()
        await w.start_agent(node_ips=tuple(map(parse_address, ("2001:db8::10", "192.0.2.10"))))
        pod = await w.until_pod("moved", lambda status: status["hostIP"] == "2001:db8::10")
        assert [one["ip"] for one in pod["status"]["hostIPs"]] == ["2001:db8::10", "192.0.2.10"]

        async def told():
            return "HostIPsIPFamilyMismatch" in await w.events("moved")

        await w.until(told)

    world(story)
