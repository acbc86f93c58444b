"""The cluster's families change over the same data: the server stops, and starts again with other flags."""

from __future__ import annotations

from typing import Any

import pytest

SERVICES = "/api/v1/namespaces/default/services"
V4, V6 = "10.96.0.0/16", "fd00:96::/112"
HAS_SELECTOR = {"selector": {"app": "web"}, "ports": [{"port": 80}]}


async def started(serve: Any, ranges: str) -> Any:
    return await serve(service_cluster_ip_range=ranges)


async def made(api: Any, name: str, **spec: Any) -> dict[str, Any]:
    return (await api.made(SERVICES, {"metadata": {"name": name}, "spec": {**HAS_SELECTOR, **spec}}))["spec"]


async def spec_of(api: Any, name: str) -> dict[str, Any]:
    return (await api.get(f"{SERVICES}/{name}")).document["spec"]


async def records(api: Any) -> set[str]:
    return {one["metadata"]["name"] for one in (await api.get("/apis/networking.k8s.io/v1/ipaddresses")).document["items"]}


async def reasons(api: Any) -> dict[str, str]:
    """What was told about which Service."""
    events = (await api.get("/api/v1/events")).document["items"]
    return {one["involvedObject"]["name"]: one["reason"] for one in events if one["involvedObject"]["kind"] == "Service"}


@pytest.mark.slow
@pytest.mark.parametrize(("single", "dual"), [(V4, f"{V4},{V6}"), (V6, f"{V6},{V4}")], ids=["a second family beside IPv4", "a second family beside IPv6"])
async def test_a_cluster_gains_a_family_and_loses_it_again(serve: Any, single: str, dual: str) -> None:
    api = await started(serve, single)
    kept = await made(api, "kept")
    prefers = await made(api, "prefers", ipFamilyPolicy="PreferDualStack")
    headless = await made(api, "headless", clusterIP="None")
    assert (len(prefers["clusterIPs"]), headless["ipFamilyPolicy"]) == (1, "SingleStack")
    await api.stop()

    api = await started(serve, dual)
    assert await spec_of(api, "kept") == kept and await spec_of(api, "prefers") == prefers and await spec_of(api, "headless") == headless
    for name in ("kept", "prefers", "headless"):  # everything can be edited, and keeps what it has
        assert (await api.patch(f"{SERVICES}/{name}", {"metadata": {"labels": {"a": "b"}}})).code == 200
    assert (await spec_of(api, "prefers"))["clusterIPs"] == prefers["clusterIPs"]
    upgraded = (await api.patch(f"{SERVICES}/kept", {"spec": {"ipFamilyPolicy": "RequireDualStack"}})).document["spec"]
    assert upgraded["clusterIPs"][0] == kept["clusterIP"] and len(upgraded["clusterIPs"]) == 2
    downgraded = (await api.patch(f"{SERVICES}/kept", {"spec": {"ipFamilyPolicy": "SingleStack"}})).document["spec"]
    assert downgraded == kept
    new = await made(api, "new", ipFamilyPolicy="PreferDualStack")
    required = await made(api, "required", ipFamilyPolicy="RequireDualStack")
    assert len(new["clusterIPs"]) == len(required["clusterIPs"]) == 2
    cidr = (await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")).document
    assert cidr["spec"]["cidrs"] == dual.split(",")
    assert await reasons(api) == {}
    await api.stop()

    api = await started(serve, single)
    assert await reasons(api) == {"new": "ServiceFamilyNotConfigured", "required": "ServiceFamilyNotConfigured"}
    assert await spec_of(api, "new") == new and await spec_of(api, "required") == required
    assert (await api.patch(f"{SERVICES}/new", {"metadata": {"labels": {"a": "b"}}})).code == 200
    assert (await api.patch(f"{SERVICES}/required", {"metadata": {"labels": {"a": "b"}}})).code == 422
    single_again = (await api.patch(f"{SERVICES}/required", {"spec": {"ipFamilyPolicy": "SingleStack"}})).document["spec"]
    assert single_again["clusterIPs"] == required["clusterIPs"][:1]
    assert required["clusterIPs"][1] not in await records(api)
    assert (await made(api, "later", ipFamilyPolicy="PreferDualStack"))["clusterIPs"][0] not in {*new["clusterIPs"], *required["clusterIPs"], kept["clusterIP"]}


@pytest.mark.slow
async def test_the_primary_family_changes(serve: Any) -> None:
    api = await serve(service_cluster_ip_range=f"{V4},{V6}", endpoint_reconciler_type="lease", advertise_address="192.0.2.1")
    old = await made(api, "old")
    both = await made(api, "both", ipFamilyPolicy="RequireDualStack")
    await api.stop()
    api = await serve(service_cluster_ip_range=f"{V6},{V4}", endpoint_reconciler_type="lease", advertise_address="2001:db8::1")
    assert await spec_of(api, "old") == old and await spec_of(api, "both") == both
    assert (await made(api, "new"))["ipFamilies"] == ["IPv6"]
    assert (await api.patch(f"{SERVICES}/both", {"spec": {"ipFamilies": ["IPv6", "IPv4"]}})).code == 422
    assert (await api.patch(f"{SERVICES}/old", {"spec": {"ipFamilyPolicy": "PreferDualStack"}})).document["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert await reasons(api) == {"kubernetes": "KubernetesServiceOfAnotherFamily"}
    cidr = (await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")).document
    assert cidr["spec"]["cidrs"] == [V4, V6]
    # As it was told: deleted, the server's own Service comes again in the family that is primary now.
    assert (await api.delete(f"{SERVICES}/kubernetes")).code == 200


@pytest.mark.slow
async def test_the_cluster_moves_to_another_range(serve: Any) -> None:
    api = await started(serve, "10.96.0.0/24")
    await made(api, "web")
    assert (await api.post("/apis/networking.k8s.io/v1/servicecidrs", {"metadata": {"name": "new"}, "spec": {"cidrs": ["10.97.0.0/24"]}})).code == 201
    assert (await made(api, "there", clusterIP="10.97.0.9"))["clusterIP"] == "10.97.0.9"
    await api.stop()
    api = await started(serve, "10.97.0.0/24")
    cidr = (await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")).document
    assert cidr["spec"]["cidrs"] == ["10.96.0.0/24"]
    events = (await api.get("/api/v1/events")).document["items"]
    assert "KubernetesDefaultServiceCIDRInconsistent" in {one["reason"] for one in events}
    assert (await spec_of(api, "there"))["clusterIP"] == "10.97.0.9"
