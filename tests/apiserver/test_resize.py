"""The ``resize`` subresource of pods: amounts of processor and memory change through it, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

PODS = "/api/v1/namespaces/default/pods"
RESIZE = f"{PODS}/p/resize"
HAD = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m"}}


@pytest.fixture
async def pod(api: Any) -> Any:
    containers = [{"name": "a", "image": "twinstack.dev/host:1", "resources": HAD}, {"name": "b", "image": "twinstack.dev/host:1"}]
    return await api.made(PODS, {"metadata": {"name": "p"}, "spec": {"containers": containers, "initContainers": [{**containers[1], "name": "i"}]}})


def of(name: str, field: str = "containers", **resources: Any) -> dict[str, Any]:
    return {"spec": {field: [{"name": name, "resources": resources}]}}


async def test_amounts_change_by_a_patch_and_count_as_another_generation(api: Any, pod: Any) -> None:
    got = await api.patch(RESIZE, of("a", requests={"cpu": "150m"}, limits={"cpu": "1"}), "strategic-merge-patch")
    assert got.code == 200, got.document
    (first, second) = got.document["spec"]["containers"]
    assert first["resources"] == {"requests": {"cpu": "150m", "memory": "64Mi"}, "limits": {"cpu": "1"}}
    assert (second, got.document["metadata"]["generation"]) == (pod["spec"]["containers"][1], 2)
    assert (await api.get(RESIZE)).document == (await api.get(f"{PODS}/p")).document


async def test_what_else_is_sent_with_amounts_is_dropped(api: Any, pod: Any) -> None:
    pod["spec"]["containers"][0] |= {"image": "other", "resources": {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "1"}}}
    pod["status"]["phase"] = "Running"
    got = await api.put(RESIZE, pod)
    assert (got.code, got.document["status"]["phase"]) == (200, "Pending")
    one = got.document["spec"]["containers"][0]
    assert (one["image"], one["resources"]["requests"]["cpu"]) == ("twinstack.dev/host:1", "1")


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        pytest.param(of("a", requests={"memory": None}), "spec.containers[0].resources.requests", id="a request taken away"),
        pytest.param(of("a", limits={"ephemeral-storage": "1Gi"}), "spec.containers[0].resources.limits", id="something that may not change"),
        pytest.param(of("a", requests={"cpu": "2"}), "spec.containers[0].resources.requests", id="a request beyond its limit"),
        pytest.param(of("i", "initContainers", requests={"cpu": "1"}), "spec.initContainers[0].resources", id="an init container that ends"),
        pytest.param(of("c", requests={"cpu": "1"}), "spec.containers", id="another container"),
    ],
)
async def test_a_resize_is_refused(api: Any, pod: Any, patch: Any, field: str) -> None:
    got = await api.patch(RESIZE, patch, "strategic-merge-patch")
    assert got.code == 422, got.document
    assert field in {cause["field"] for cause in got.document["details"]["causes"]}


async def test_the_quality_of_service_stays(api: Any) -> None:
    amounts = {"cpu": "1", "memory": "1Gi"}
    one = {"name": "a", "image": "twinstack.dev/host:1", "resources": {"requests": amounts, "limits": amounts}}
    await api.made(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [one]}})
    got = await api.patch(RESIZE, of("a", limits={"cpu": "2"}), "strategic-merge-patch")
    assert (got.code, "quality of service" in got.message) == (422, True)
    assert (await api.patch(RESIZE, of("a", limits={"cpu": "2"}, requests={"cpu": "2"}), "strategic-merge-patch")).code == 200


async def test_amounts_do_not_change_by_the_main_door(api: Any, pod: Any) -> None:
    assert (await api.patch(f"{PODS}/p", of("a", requests={"cpu": "150m"}), "strategic-merge-patch")).code == 422


@pytest.mark.parametrize(
    ("policy", "restart", "code"),
    [
        pytest.param([{"resourceName": "memory", "restartPolicy": "RestartContainer"}], "Always", 201, id="a container that is started anew"),
        pytest.param([{"resourceName": "memory", "restartPolicy": "RestartContainer"}], "Never", 422, id="one that never may be"),
        pytest.param([{"resourceName": "pods", "restartPolicy": "NotRequired"}], "Always", 422, id="what is no amount of a container"),
        pytest.param([{"resourceName": "cpu", "restartPolicy": "Maybe"}], "Always", 422, id="no policy"),
        pytest.param([{"resourceName": "cpu", "restartPolicy": "NotRequired"}] * 2, "Always", 422, id="the same twice"),
    ],
)
async def test_what_a_container_says_of_changes_is_judged(api: Any, policy: Any, restart: str, code: int) -> None:
    one = {"name": "a", "image": "twinstack.dev/host:1", "resizePolicy": policy}
    got = await api.post(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [one], "restartPolicy": restart}})
    assert got.code == code, got.document


async def test_amounts_can_be_applied(api: Any, pod: Any) -> None:
    config = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, **of("a", requests={"cpu": "120m"})}
    got = await api.ask("PATCH", f"{RESIZE}?fieldManager=me&force=true", config, headers={"Content-Type": "application/apply-patch+yaml"})
    assert got.code == 200, got.document
    assert got.document["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "120m"
    owners = {one["manager"]: one.get("subresource") for one in got.document["metadata"]["managedFields"]}
    assert owners["me"] == "resize"
