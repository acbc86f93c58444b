"""What the server sees to by itself, and how it heals."""

from __future__ import annotations

import pytest

from twinstack.apiserver import bootstrap as module


@pytest.mark.parametrize(
    "ranges, advertised, address, family",
    [
        ("v4", "192.0.2.1", "10.96.0.1", "IPv4"),
        ("v6", "2001:db8::1", "fd00:10:96::1", "IPv6"),
        ("v4v6", "192.0.2.1", "10.96.0.1", "IPv4"),
        ("v6v4", "2001:db8::1", "fd00:10:96::1", "IPv6"),
    ],
    ids=["v4", "v6", "v4v6", "v6v4"],
)
async def test_the_servers_own_service_is_of_the_primary_family_only(new_server, ranges, advertised, address, family):
    server = await new_server(ranges)
    assert await server.bootstrap(advertise_address=advertised).first_pass()
    service = server.get("services", "kubernetes")
    assert service["metadata"]["labels"] == {"component": "apiserver", "provider": "kubernetes"}
    assert service["spec"]["clusterIPs"] == [address]
    assert (service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]) == ("SingleStack", [family])
    assert service["spec"]["ports"] == [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443}]
    endpoints = server.get("endpoints", "kubernetes")
    assert endpoints["metadata"]["labels"] == {"endpointslice.kubernetes.io/skip-mirror": "true"}
    assert endpoints["subsets"] == [{"addresses": [{"ip": advertised}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}]
    slice_ = server.get("endpointslices", "kubernetes")
    assert slice_["metadata"]["labels"] == {"kubernetes.io/service-name": "kubernetes"}
    assert (slice_["addressType"], slice_["endpoints"]) == (family, [{"addresses": [advertised], "conditions": {"ready": True}}])
    assert server.leaks() == []


async def test_the_system_namespaces_and_the_default_range_are_there(new_server):
    server = await new_server("v6v4", bare=False)
    assert set(server.names("namespaces")) == {"default", "kube-system", "kube-public", "kube-node-lease"}
    cidr = server.get("servicecidrs", "kubernetes")
    assert cidr["spec"]["cidrs"] == ["fd00:10:96::/112", "10.96.0.0/16"]
    (condition,) = cidr["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "True", "")


async def test_a_second_pass_writes_nothing(new_server):
    server = await new_server(bare=False)
    before = server.store.revision
    assert await server.bootstrap().first_pass()
    assert server.store.revision == before


async def test_what_is_deleted_comes_back(new_server):
    server = await new_server(bare=False)
    for plural in ("services", "endpoints", "endpointslices"):
        if server.get(plural, "kubernetes"):  # the Service takes its endpoints along
            await server.delete(plural, "kubernetes")
    await server.bootstrap().keep()
    assert server.get("services", "kubernetes")["spec"]["clusterIP"] == "10.96.0.1"
    assert server.get("endpoints", "kubernetes") and server.get("endpointslices", "kubernetes")


async def test_an_upgraded_own_service_is_left_alone(new_server):
    server = await new_server(bare=False)
    await server.patch("services", "kubernetes", {"spec": {"ipFamilyPolicy": "RequireDualStack"}})
    await server.bootstrap().keep()
    assert len(server.get("services", "kubernetes")["spec"]["clusterIPs"]) == 2


async def test_another_advertised_address_takes_the_place_of_the_first(new_server):
    server = await new_server(bare=False)
    await server.bootstrap(advertise_address="2001:db8::9").keep()
    assert server.get("endpoints", "kubernetes")["subsets"][0]["addresses"] == [{"ip": "2001:db8::9"}]
    assert server.get("endpointslices", "kubernetes")["addressType"] == "IPv6"


async def test_a_loopback_address_is_not_published(new_server):
    server = await new_server()
    assert await server.bootstrap(advertise_address="127.0.0.1").first_pass()
    assert server.names("endpoints") == server.names("endpointslices") == []
    assert server.names("services") == ["kubernetes"]


@pytest.mark.parametrize(
    "first, then, cidrs",
    [
        pytest.param("v4", "v4v6", ["10.96.0.0/16", "fd00:10:96::/112"], id="a second family joins"),
        pytest.param("v4v6", "v4", ["10.96.0.0/16", "fd00:10:96::/112"], id="a lost family stays in the object"),
        pytest.param("v4v6", "v6v4", ["10.96.0.0/16", "fd00:10:96::/112"], id="another order is left as it is"),
        pytest.param("v4", "10.1.0.0/16", ["10.96.0.0/16"], id="another range is left as it is"),
    ],
)
async def test_the_default_range_when_the_flags_change(new_server, first, then, cidrs):
    server = await new_server(first, bare=False)
    again = await new_server(then, store=server.store)
    await again.bootstrap().first_pass()
    assert again.get("servicecidrs", "kubernetes")["spec"]["cidrs"] == cidrs
    told = [event["reason"] for event in again.cache.list(module._EVENTS)]
    assert ("KubernetesDefaultServiceCIDRInconsistent" in told) == (first != "v4" or then == "10.1.0.0/16")


# ---- the records of addresses


async def test_a_record_that_was_deleted_is_written_again(new_server):
    server = await new_server()
    ip = (await server.service())["spec"]["clusterIP"]
    await server.delete("ipaddresses", ip)
    await server.bootstrap().repair()
    assert server.names("ipaddresses") == [ip]
    assert [event["reason"] for event in server.cache.list(module._EVENTS)] == ["ClusterIPNotAllocated"]
    assert server.leaks() == []


async def test_a_record_without_its_service_goes_after_a_minute(new_server):
    server = await new_server()
    labels = {"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}
    parent = {"resource": "services", "namespace": "default", "name": "gone"}
    await server.post("ipaddresses", {"metadata": {"name": "10.96.0.9", "labels": labels}, "spec": {"parentRef": parent}})
    await server.bootstrap().repair()
    assert server.names("ipaddresses") == ["10.96.0.9"]
    server.wait(61)
    await server.bootstrap().repair()
    assert server.names("ipaddresses") == []


async def test_an_address_that_a_user_keeps_blocks_it_and_is_left_alone(new_server):
    server = await new_server()
    parent = {"group": "example.com", "resource": "things", "name": "mine"}
    await server.post("ipaddresses", {"metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": parent}})
    assert await server.causes(server.service(clusterIP="10.96.0.9")) == [("spec.clusterIPs", "FieldValueInvalid")]
    server.wait(3600)
    await server.bootstrap().repair()
    assert server.names("ipaddresses") == ["10.96.0.9"]
    await server.delete("ipaddresses", "10.96.0.9")
    assert (await server.service(clusterIP="10.96.0.9"))["spec"]["clusterIP"] == "10.96.0.9"


async def test_a_service_that_spells_its_address_oddly_keeps_its_record(new_server):
    server = await new_server()
    await server.service(clusterIP="FD00:10:96::AB")
    before = server.store.revision
    server.wait(3600)
    await server.bootstrap().repair()
    assert server.store.revision == before


async def test_of_two_services_with_one_address_the_one_without_the_record_is_told(new_server):
    server = await new_server()
    await server.service("first", clusterIP="10.96.0.9")
    await server.delete("ipaddresses", "10.96.0.9")
    await server.service("second", clusterIP="10.96.0.9")
    await server.bootstrap().repair()
    (event,) = server.cache.list(module._EVENTS)
    assert (event["reason"], event["involvedObject"]["name"]) == ("ClusterIPAlreadyAllocated", "first")
    assert server.get("ipaddresses", "10.96.0.9")["spec"]["parentRef"]["name"] == "second"


async def test_an_address_outside_of_every_range_is_told_and_its_record_kept(new_server):
    server = await new_server()
    await server.post("servicecidrs", {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.1.0.0/24"]}})
    await server.service(clusterIP="10.1.0.9")
    await server.delete("servicecidrs", "more")
    await server.bootstrap().repair()
    assert [event["reason"] for event in server.cache.list(module._EVENTS)] == ["ClusterIPOutOfRange"]
    assert server.names("ipaddresses") == ["10.1.0.9"]


@pytest.mark.parametrize(
    "parent, labels",
    [
        pytest.param({"group": "example.com", "resource": "things", "name": "x"}, {}, id="somebody else's"),
        pytest.param({"resource": "services", "namespace": "default", "name": "gone"}, {}, id="a Service's that is gone"),
        pytest.param({"resource": "services", "namespace": "default", "name": "web"}, {}, id="its own without labels"),
    ],
)
async def test_a_record_of_a_services_address_becomes_its_own(new_server, parent, labels):
    server = await new_server()
    await server.service(clusterIP="10.96.0.9")
    await server.delete("ipaddresses", "10.96.0.9")
    await server.post("ipaddresses", {"metadata": {"name": "10.96.0.9", "labels": labels}, "spec": {"parentRef": parent}})
    await server.bootstrap().repair()
    record = server.get("ipaddresses", "10.96.0.9")
    assert record["spec"]["parentRef"] == {"resource": "services", "namespace": "default", "name": "web"}
    assert record["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"] == "ipallocator.k8s.io"
    assert server.leaks() == []
