"""What pods add to a request: defaults, refusals, what may change, how long they stay."""

from __future__ import annotations

import pytest

CONTAINER = {"name": "c", "image": "example.com/c:1"}


async def test_a_new_pod_is_pending_and_tolerates_short_outages(new_server):
    server = await new_server()
    pod = await server.post("pods", {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER]}, "status": {"phase": "Running"}})
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert pod["metadata"]["generation"] == 1
    assert {toleration["key"] for toleration in pod["spec"]["tolerations"]} == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert (pod["spec"]["restartPolicy"], pod["spec"]["dnsPolicy"], pod["spec"]["terminationGracePeriodSeconds"]) == ("Always", "ClusterFirst", 30)


@pytest.mark.parametrize(
    "node, phase, remains",
    [
        pytest.param("", "Pending", None, id="no node has it: it goes at once"),
        pytest.param("n1", "Running", 30, id="a node runs it: it is given its time"),
        pytest.param("n1", "Succeeded", None, id="it has finished: it goes at once"),
    ],
)
async def test_how_long_a_deleted_pod_stays(new_server, node, phase, remains):
    server = await new_server()
    await server.post("pods", {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER], "nodeName": node}})
    await server.patch("pods", "a", {"status": {"phase": phase}}, sub="status")
    await server.delete("pods", "a")
    pod = server.get("pods", "a")
    assert (pod and pod["metadata"]["deletionGracePeriodSeconds"]) == remains


TOLERATION = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}


@pytest.mark.parametrize(
    "patch, causes",
    [
        pytest.param({"containers": [{**CONTAINER, "image": "example.com/c:2"}]}, [], id="another image"),
        pytest.param({"activeDeadlineSeconds": 5}, [], id="a deadline"),
        pytest.param({"nodeName": "n2"}, [("spec", "FieldValueForbidden")], id="another node"),
        pytest.param({"containers": [{**CONTAINER, "command": ["x"]}]}, [("spec", "FieldValueForbidden")], id="another command"),
        pytest.param({"tolerations": []}, [("spec.tolerations", "FieldValueForbidden")], id="fewer tolerations"),
        pytest.param({"tolerations": [{**TOLERATION, "tolerationSeconds": 7}]}, [], id="a toleration for another time"),
        pytest.param({"tolerations": [TOLERATION, {"key": "b", "operator": "Exists"}]}, [], id="one more toleration"),
        pytest.param({"containers": [CONTAINER, {**CONTAINER, "name": "d"}]}, [("spec.containers", "FieldValueForbidden")], id="one more container"),
        pytest.param({"schedulingGates": [{"name": "a/b"}]}, [("spec.schedulingGates[0].name", "FieldValueForbidden")], id="a gate"),
        pytest.param({"terminationGracePeriodSeconds": 5}, [("spec", "FieldValueForbidden")], id="another grace period"),
    ],
)
async def test_what_may_change_about_a_pod(new_server, patch, causes):
    server = await new_server()
    await server.post("pods", {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER], "tolerations": [TOLERATION]}})
    request = server.patch("pods", "a", {"spec": patch})
    if causes:
        assert await server.causes(request) == causes
    else:
        assert (await request)["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    "status, shown",
    [
        pytest.param({"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00:1::1"}]}, ("10.1.0.1", ["10.1.0.1", "fd00:1::1"]), id="the list alone"),
        pytest.param({"podIP": "10.1.0.1"}, ("10.1.0.1", ["10.1.0.1"]), id="the single one alone"),
        pytest.param(
            {"podIP": "10.1.0.9", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00:1::1"}]}, ("10.1.0.9", ["10.1.0.9"]), id="they disagree: the single one wins"
        ),
    ],
)
async def test_a_pods_address_and_its_list_of_addresses_are_one_thing(new_server, status, shown):
    server = await new_server()
    await server.post("pods", {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER], "nodeName": "n1"}})
    after = (await server.patch("pods", "a", {"status": status}, sub="status"))["status"]
    assert (after["podIP"], [one["ip"] for one in after["podIPs"]]) == shown


@pytest.mark.parametrize(
    "status, causes",
    [
        pytest.param({"podIP": "nope"}, [("status.podIPs[0]", "FieldValueInvalid")], id="no address"),
        pytest.param(
            {"podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "10.1.0.2"}]}, [("status.podIPs", "FieldValueInvalid")], id="two of one family"
        ),
        pytest.param(
            {"podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "zz"}]},
            [("status.podIPs", "FieldValueInvalid"), ("status.podIPs", "InternalError"), ("status.podIPs[1]", "FieldValueInvalid")],
            id="one of two is malformed",
        ),
        pytest.param(
            {"hostIP": "192.0.2.1", "hostIPs": [{"ip": "192.0.2.2"}]}, [("status.hostIPs[0].ip", "FieldValueInvalid")], id="host addresses that disagree"
        ),
    ],
)
async def test_addresses_that_a_node_may_not_report(new_server, status, causes):
    server = await new_server()
    await server.post("pods", {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER], "nodeName": "n1"}})
    assert await server.causes(server.patch("pods", "a", {"status": status}, sub="status")) == causes


@pytest.mark.parametrize(
    "spec, causes",
    [
        pytest.param({"containers": []}, [("spec.containers", "FieldValueRequired")], id="no container"),
        pytest.param({"containers": [CONTAINER, CONTAINER]}, [("spec.containers[1].name", "FieldValueDuplicate")], id="one name twice"),
        pytest.param({"containers": [{"name": "c"}]}, [("spec.containers[0].image", "FieldValueRequired")], id="no image"),
        pytest.param({"restartPolicy": "Sometimes"}, [("spec.restartPolicy", "FieldValueNotSupported")], id="an unknown restart policy"),
        pytest.param({"dnsPolicy": "None"}, [("spec.dnsConfig", "FieldValueRequired")], id="no resolver at all"),
        pytest.param(
            {"containers": [{**CONTAINER, "ports": [{"containerPort": 0}]}]}, [("spec.containers[0].ports[0].containerPort", "FieldValueRequired")], id="port 0"
        ),
        pytest.param(
            {"hostNetwork": True, "containers": [{**CONTAINER, "ports": [{"containerPort": 80, "hostPort": 81}]}]},
            [("spec.containers[0].ports[0].hostPort", "FieldValueInvalid")],
            id="two ports on the host's network",
        ),
        pytest.param(
            {"containers": [{**CONTAINER, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
            [("spec.containers[0].volumeMounts[0].name", "FieldValueNotFound")],
            id="a volume that is not there",
        ),
        pytest.param(
            {"containers": [{**CONTAINER, "livenessProbe": {}}]}, [("spec.containers[0].livenessProbe", "FieldValueRequired")], id="a probe of nothing"
        ),
    ],
)
async def test_pods_that_are_refused(new_server, spec, causes):
    server = await new_server()
    assert await server.causes(server.post("pods", {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER], **spec}})) == causes


async def test_a_new_pod_has_the_priority_of_its_class_or_of_the_default_one(new_server):
    server = await new_server()

    async def priority(name, **spec):
        made = await server.post("pods", {"metadata": {"name": name}, "spec": {"containers": [CONTAINER], **spec}})
        return made["spec"]["priority"], made["spec"].get("priorityClassName"), made["spec"]["preemptionPolicy"]

    assert await priority("none") == (0, None, "PreemptLowerPriority")
    assert await priority("system", priorityClassName="system-node-critical") == (2_000_001_000, "system-node-critical", "PreemptLowerPriority")
    await server.post("priorityclasses", {"metadata": {"name": "high"}, "value": 100, "preemptionPolicy": "Never"})
    assert await priority("high", priorityClassName="high") == (100, "high", "Never")
    await server.post("priorityclasses", {"metadata": {"name": "usual"}, "value": 5, "globalDefault": True})
    assert await priority("usual") == (5, "usual", "PreemptLowerPriority")
    for spec, words in (({"priorityClassName": "missing"}, "no PriorityClass with name missing"), ({"priority": 7}, "must not be provided")):
        refused = await server.refusal(server.post("pods", {"metadata": {"name": "x"}, "spec": {"containers": [CONTAINER], **spec}}))
        assert refused.http_code == 403 and words in refused.message
    assert await server.causes(server.post("priorityclasses", {"metadata": {"name": "system-x"}, "value": 1})) == [("metadata.name", "FieldValueForbidden")]
    assert await server.causes(server.patch("priorityclasses", "high", {"value": 1})) == [("value", "FieldValueForbidden")]
