"""Kubernetes' official Python client against a real server: what its users do, with its own typed and dynamic objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client, dynamic, watch

WATCH: Any = watch.Watch  # neither has types
DYNAMIC: Any = dynamic.DynamicClient
NAMESPACE = "default"
POD = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
DEPLOYMENT = {"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": POD}}


@pytest.fixture
def call(api: Any) -> Any:
    """Run a function of the client's in a thread, for the server runs in ours."""
    configuration = client.Configuration()
    configuration.host = api.url
    configuration.ssl_ca_cert = str(api.data_dir / "pki" / "apiserver.crt")
    configuration.api_key = {"authorization": "Bearer a-token-for-tests"}
    opened = client.ApiClient(configuration)

    async def run(function: Callable[[client.ApiClient], Any]) -> Any:
        return await asyncio.to_thread(function, opened)

    return run


async def test_typed_objects_are_made_changed_and_deleted(call: Any) -> None:
    def use(opened: client.ApiClient) -> None:
        core: Any = client.CoreV1Api(opened)
        spec = client.V1ServiceSpec(selector={"a": "b"}, ip_family_policy="PreferDualStack", ports=[client.V1ServicePort(port=80)])
        made = core.create_namespaced_service(NAMESPACE, client.V1Service(metadata=client.V1ObjectMeta(name="a"), spec=spec))
        assert made.spec.ip_families == ["IPv4", "IPv6"]
        read = core.read_namespaced_service("a", NAMESPACE)
        read.spec.selector = {"a": "c"}
        assert core.replace_namespaced_service("a", NAMESPACE, read).spec.selector == {"a": "c"}
        with pytest.raises(client.ApiException) as refused:
            core.replace_namespaced_service("a", NAMESPACE, made)  # which is older than what stands now
        assert refused.value.status == 409
        assert [one.metadata.name for one in core.list_namespaced_service(NAMESPACE, label_selector="!component").items] == ["a"]
        assert core.delete_namespaced_service("a", NAMESPACE).metadata.name == "a"
        with pytest.raises(client.ApiException) as missing:
            core.read_namespaced_service("a", NAMESPACE)
        assert (missing.value.status, missing.value.reason) == (404, "Not Found")

    await call(use)


@pytest.mark.parametrize(
    "kind, patch, data",
    [
        pytest.param("application/json-patch+json", [{"op": "add", "path": "/data/n", "value": "1"}], {"k": "v", "n": "1"}, id="a JSON patch"),
        pytest.param("application/merge-patch+json", {"data": {"k": None, "n": "1"}}, {"n": "1"}, id="a merge patch"),
        pytest.param("application/strategic-merge-patch+json", {"data": {"$patch": "replace", "n": "1"}}, {"n": "1"}, id="a strategic merge patch"),
    ],
)
async def test_patches(call: Any, kind: str, patch: Any, data: dict[str, str]) -> None:
    def use(opened: client.ApiClient) -> None:
        core: Any = client.CoreV1Api(opened)
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"), data={"k": "v"}))
        assert core.patch_namespaced_config_map("a", NAMESPACE, patch, _content_type=kind).data == data

    await call(use)


async def test_a_workload_is_scaled_through_its_door(call: Any) -> None:
    def use(opened: client.ApiClient) -> None:
        apps: Any = client.AppsV1Api(opened)
        apps.create_namespaced_deployment(NAMESPACE, DEPLOYMENT)
        apps.patch_namespaced_deployment_scale("a", NAMESPACE, {"spec": {"replicas": 3}})
        scale = apps.read_namespaced_deployment_scale("a", NAMESPACE)
        assert (scale.spec.replicas, scale.status.selector) == (3, "a=b")
        scale.spec.replicas = 2
        assert apps.replace_namespaced_deployment_scale("a", NAMESPACE, scale).spec.replicas == 2

    await call(use)


@pytest.mark.slow
async def test_a_watch_tells_what_happens_until_its_time_is_over(call: Any) -> None:
    def use(opened: client.ApiClient) -> None:
        core: Any = client.CoreV1Api(opened)
        seen: list[tuple[str, str]] = []
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a")))
        for event in WATCH().stream(core.list_namespaced_config_map, NAMESPACE, timeout_seconds=1):
            seen.append((event["type"], event["object"].metadata.name))
            if seen == [("ADDED", "a")]:
                core.delete_namespaced_config_map("a", NAMESPACE)
        assert seen == [("ADDED", "a"), ("DELETED", "a")]

    await call(use)


async def test_the_dynamic_client_finds_kinds_and_applies(call: Any) -> None:
    def use(opened: client.ApiClient) -> None:
        dynamically: Any = DYNAMIC(opened)
        slices = dynamically.resources.get(api_version="discovery.k8s.io/v1", kind="EndpointSlice")
        body: dict[str, Any] = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "a"}, "addressType": "IPv6"}
        slices.server_side_apply(body=body, namespace=NAMESPACE, field_manager="one")
        body["ports"] = [{"port": 80}]
        applied = slices.server_side_apply(body=body, namespace=NAMESPACE, field_manager="two")
        assert (applied.ports[0].port, {one.manager for one in applied.metadata.managedFields}) == (80, {"one", "two"})
        with pytest.raises(dynamic.exceptions.ConflictError):
            slices.server_side_apply(body={**body, "ports": [{"port": 81}]}, namespace=NAMESPACE, field_manager="one")
        assert [one.metadata.name for one in slices.get(namespace=NAMESPACE).items] == ["a"]
        assert slices.delete(name="a", namespace=NAMESPACE).status == "Success"

    await call(use)


async def test_who_asks_is_told_what_he_may(call: Any) -> None:
    def use(opened: client.ApiClient) -> None:
        attributes = client.V1ResourceAttributes(verb="get", resource="pods", namespace=NAMESPACE)
        asked = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
        authorization: Any = client.AuthorizationV1Api(opened)
        assert authorization.create_self_subject_access_review(asked).status.allowed
        assert client.VersionApi(opened).get_code().minor == "36"

    await call(use)
