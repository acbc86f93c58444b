"""What the server sees to by itself, and how it heals."""

from __future__ import annotations

import pytest

from twinstack.api import kinds
from twinstack.api.resources import resource_of

EVENTS = resource_of(kinds.Event)


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
    told = [event["reason"] for event in again.cache.list(EVENTS)]
    assert ("KubernetesDefaultServiceCIDRInconsistent" in told) == (first != "v4" or then == "10.1.0.0/16")


# ---- the records of addresses


async def test_a_record_that_was_deleted_is_written_again(new_server):
    server = await new_server()
    ip = (await server.service())["spec"]["clusterIP"]
    await server.delete("ipaddresses", ip)
    await server.bootstrap().repair()
    assert server.names("ipaddresses") == [ip]
    assert [event["reason"] for event in server.cache.list(EVENTS)] == ["ClusterIPNotAllocated"]
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


async def test_an_address_whose_record_was_deleted_stays_its_services_until_that_gives_it_back(new_server):
    server = await new_server("192.168.0.0/29", bare=False)
    ip = (await server.service(clusterIP="192.168.0.4"))["spec"]["clusterIP"]
    await server.delete("ipaddresses", ip)
    assert await server.causes(server.service("thief", clusterIP=ip)) == [("spec.clusterIPs", "FieldValueInvalid")]
    for name in ("a", "b", "c", "d"):
        assert (await server.service(name))["spec"]["clusterIP"] != ip
    assert (await server.refusal(server.service("e"))).http_code == 500
    await server.bootstrap().keep()
    assert server.get("ipaddresses", ip)["spec"]["parentRef"]["name"] == "web"
    await server.delete("ipaddresses", ip)
    await server.delete("services", "web")
    assert (await server.service("e"))["spec"]["clusterIP"] == ip
    assert server.leaks() == []


async def test_of_two_services_with_one_address_the_one_without_the_record_is_told(new_server):
    server = await new_server()
    first = await server.service("first", clusterIP="10.96.0.9")
    await server.store_directly("services", {**first, "metadata": {"name": "second", "namespace": "default", "uid": "2"}})
    await server.bootstrap().repair()
    (event,) = server.cache.list(EVENTS)
    assert (event["reason"], event["involvedObject"]["name"]) == ("ClusterIPAlreadyAllocated", "second")
    assert (event["action"], event["type"]) == ("ClusterIPAllocation", "Warning")
    assert server.get("ipaddresses", "10.96.0.9")["spec"]["parentRef"]["name"] == "first"


async def test_an_address_outside_of_every_range_is_told_and_its_record_kept(new_server):
    server = await new_server()
    await server.post("servicecidrs", {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.1.0.0/24"]}})
    await server.service(clusterIP="10.1.0.9")
    await server.delete("servicecidrs", "more")
    await server.bootstrap().repair()
    assert [event["reason"] for event in server.cache.list(EVENTS)] == ["ClusterIPOutOfRange"]
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


@pytest.mark.parametrize(
    "held, reasons",
    [
        pytest.param([("a", 30001)], [], id="a port of the range, held once"),
        pytest.param([("a", 30001), ("b", 30001)], ["PortAlreadyAllocated"], id="one port of two Services"),
        pytest.param([("a", 20000)], ["PortOutOfRange"], id="a port that the range does not have any longer"),
    ],
)
async def test_node_ports_that_nobody_should_hold_are_told(new_server, held, reasons):
    server = await new_server()
    for name, port in held:
        spec = {"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80, "nodePort": port, "protocol": "TCP"}]}
        await server.store_directly("services", {"metadata": {"name": name, "namespace": "default", "uid": name}, "spec": spec, "status": {}})
    await server.bootstrap().repair()
    assert [(event["reason"], event["action"]) for event in server.cache.list(EVENTS)] == [(reason, "PortAllocation") for reason in reasons]


# ---- beginning and end


async def test_a_node_port_of_the_servers_own_service_is_the_one_that_the_flag_names(new_server):
    server = await new_server()
    assert await server.bootstrap(kubernetes_service_node_port=30443).first_pass()
    spec = server.get("services", "kubernetes")["spec"]
    assert (spec["type"], spec["ports"][0]["nodePort"]) == ("NodePort", 30443)
    assert server.leaks() == []


async def test_a_server_that_stops_takes_its_address_out_of_its_endpoints(new_server):
    server = await new_server(bare=False)
    bootstrap = server.bootstrap()
    await bootstrap.withdraw()
    assert not server.get("endpoints", "kubernetes").get("subsets")
    assert not server.get("endpointslices", "kubernetes").get("endpoints")
    await bootstrap.keep()
    assert server.get("endpoints", "kubernetes")["subsets"] and server.get("endpointslices", "kubernetes")["endpoints"]


@pytest.mark.parametrize(
    "first, spec, then, reason",
    [
        pytest.param("v4", {"ipFamilyPolicy": "PreferDualStack"}, "v4v6", None, id="a family that joins concerns nobody"),
        pytest.param("v4v6", {"ipFamilies": ["IPv4"]}, "v6v4", None, id="a change of the order leaves Services as they are"),
        pytest.param("v4v6", {"ipFamilyPolicy": "RequireDualStack"}, "v4", "ServiceFamilyNotConfigured", id="a dual-stack Service on what is single-stack now"),
        pytest.param("v4v6", {"ipFamilyPolicy": "PreferDualStack"}, "v4", "ServiceFamilyNotConfigured", id="one that only prefers both"),
        pytest.param("v4v6", {"ipFamilies": ["IPv6"]}, "v4", "ServiceFamilyNotConfigured", id="a Service whose only family is gone"),
        pytest.param(
            "v4v6", {"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack"}, "v4", "ServiceFamilyNotConfigured", id="a headless one with a selector"
        ),
        pytest.param("v4v6", {"clusterIP": "None", "selector": None}, "v4", None, id="a headless one without a selector"),
        pytest.param("v4v6", {"type": "ExternalName", "externalName": "example.com"}, "v4", None, id="a name"),
    ],
)
async def test_the_services_that_the_clusters_families_no_longer_fit_are_named_at_the_start(new_server, caplog, first, spec, then, reason):
    server = await new_server(first, bare=False)
    await server.service(**spec)
    again = await new_server(then, store=server.store)
    caplog.clear()
    assert await again.bootstrap(advertise_address="2001:db8::1" if then.startswith("v6") else "192.0.2.1").first_pass()
    told = {event["involvedObject"]["name"]: event["reason"] for event in again.cache.list(EVENTS) if event["involvedObject"]["kind"] == "Service"}
    assert told.pop("web", None) == reason
    assert told == ({"kubernetes": "KubernetesServiceOfAnotherFamily"} if then == "v6v4" else {})
    assert ("default/web" in caplog.text) == (reason is not None)


async def test_the_same_is_not_told_again_soon_and_of_many_only_the_first(new_server, caplog):
    server = await new_server()
    for i in range(150):
        spec = {"type": "ClusterIP", "clusterIP": f"192.0.2.{i}", "clusterIPs": [f"192.0.2.{i}"], "ipFamilies": ["IPv4"]}
        await server.store_directly("services", {"metadata": {"name": f"s{i}", "namespace": "default", "uid": str(i)}, "spec": spec, "status": {}})
    bootstrap = server.bootstrap()
    await bootstrap.repair()
    told = [event["reason"] for event in server.cache.list(EVENTS)]
    assert told == ["ClusterIPOutOfRange"] * 100
    assert "50 more objects have problems like these" in caplog.text
    await bootstrap.repair()
    assert len(server.cache.list(EVENTS)) == 150, "the second pass tells of the others, and of nobody twice"
    await bootstrap.repair()
    assert len(server.cache.list(EVENTS)) == 150
    server.wait(3601)
    await bootstrap.repair()
    assert len(server.cache.list(EVENTS)) == 250
