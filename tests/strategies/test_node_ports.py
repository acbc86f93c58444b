"""Node ports and the status door of a Service, through the server."""

from __future__ import annotations

import pytest

A4, B4, A6, B6 = "10.96.0.10", "10.96.0.11", "fd00:10:96::10", "fd00:10:96::11"


async def test_ports_of_one_number_share_a_node_port_on_a_create_and_not_on_an_update(new_server):
    server = await new_server()
    ports = [{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]
    made = await server.service(type="NodePort", ports=ports)
    numbers = {port["nodePort"] for port in made["spec"]["ports"]}
    assert len(numbers) == 1
    await server.service("later")
    after = await server.patch("services", "later", {"spec": {"type": "NodePort", "ports": ports}})
    assert len({port["nodePort"] for port in after["spec"]["ports"]}) == 2
    assert server.leaks() == []


async def test_a_node_port_is_kept_by_its_ports_name(new_server):
    server = await new_server()
    ports = [{"name": "a", "port": 80}, {"name": "b", "port": 81}]
    made = await server.service(type="NodePort", ports=ports)
    numbers = {port["name"]: port["nodePort"] for port in made["spec"]["ports"]}
    swapped = await server.patch("services", "web", {"spec": {"ports": ports[::-1]}})
    assert {port["name"]: port["nodePort"] for port in swapped["spec"]["ports"]} == numbers
    renamed = await server.patch("services", "web", {"spec": {"ports": [{"name": "c", "port": 80}, ports[1]]}})
    assert renamed["spec"]["ports"][0]["nodePort"] not in numbers.values()
    assert renamed["spec"]["ports"][1]["nodePort"] == numbers["b"]
    assert server.leaks() == []


@pytest.mark.parametrize(
    "spec, code, causes",
    [
        pytest.param({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}, 422, [("spec.ports[0].nodePort", "FieldValueInvalid")], id="taken"),
        pytest.param({"type": "NodePort", "ports": [{"port": 80, "nodePort": 1}]}, 422, [("spec.ports[0].nodePort", "FieldValueInvalid")], id="out of range"),
        pytest.param(
            {"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30005}, {"name": "b", "port": 81, "nodePort": 30005}]},
            422, [("spec.ports[1].nodePort", "FieldValueInvalid")], id="twice",
        ),
        pytest.param({"ports": [{"port": 80, "nodePort": 30005}]}, 422, [("spec.ports[0].nodePort", "FieldValueForbidden")], id="on a ClusterIP Service"),
        pytest.param({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001}, 500, [], id="a health check port that is taken"),
        pytest.param(
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30007, "ports": [{"port": 80, "nodePort": 30007}]},
            500, [], id="a health check's port that is its own node port",
        ),
    ],
)  # fmt: skip
async def test_node_ports_that_cannot_be_had(new_server, spec, code, causes):
    server = await new_server()
    await server.service("first", type="NodePort", ports=[{"port": 80, "nodePort": 30001}])
    error = await server.refusal(server.service(**spec))
    assert error.http_code == code
    assert sorted((cause["field"], cause["reason"]) for cause in error.causes) == causes
    assert server.leaks() == []


async def test_one_number_of_one_protocol_twice_is_told_without_a_reason_on_an_update(new_server):
    server = await new_server()
    await server.service()
    twice = [{"name": "a", "port": 80, "nodePort": 30005}, {"name": "b", "port": 81, "nodePort": 30005}]
    error = await server.refusal(server.patch("services", "web", {"spec": {"type": "NodePort", "ports": twice}}))
    assert (error.http_code, error.status().get("reason")) == (500, None)
    assert server.leaks() == []


async def test_when_no_node_port_is_left(new_server):
    server = await new_server(node_ports=(30000, 30001))
    await server.service("a", type="NodePort")
    await server.service("b", type="NodePort")
    error = await server.refusal(server.service("c", type="NodePort"))
    assert error.http_code == 500 and "range is full" in error.message
    assert server.leaks() == []


async def test_a_load_balancer_without_node_ports_keeps_those_that_are_spelled_out(new_server):
    server = await new_server()
    made = await server.service(type="LoadBalancer", allocateLoadBalancerNodePorts=False)
    assert "nodePort" not in made["spec"]["ports"][0]
    after = await server.patch("services", "web", {"spec": {"allocateLoadBalancerNodePorts": True}})
    number = after["spec"]["ports"][0]["nodePort"]
    kept = await server.patch("services", "web", {"spec": {"allocateLoadBalancerNodePorts": False}})
    assert kept["spec"]["ports"][0]["nodePort"] == number
    freed = await server.patch("services", "web", {"spec": {"ports": [{"port": 80}]}})
    assert "nodePort" not in freed["spec"]["ports"][0]
    assert server.leaks() == []


# ---- the status door


async def test_the_status_door_opens_status_and_metadata_only(new_server):
    server = await new_server()
    await server.service(type="LoadBalancer")
    patch = {"metadata": {"labels": {"a": "b"}}, "spec": {"selector": {"app": "z"}}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    after = await server.patch("services", "web", patch, sub="status")
    assert after["metadata"]["labels"] == {"a": "b"}
    assert after["spec"]["selector"] == {"app": "web"}
    assert after["status"]["loadBalancer"]["ingress"] == [{"ip": "192.0.2.1", "ipMode": "VIP"}]
    kept = await server.patch("services", "web", {"status": None, "spec": {"selector": {"app": "y"}}})
    assert kept["status"] == after["status"]
    wiped = await server.patch("services", "web", {"spec": {"type": "NodePort"}})
    assert wiped["status"] == {"loadBalancer": {}}


@pytest.mark.parametrize(
    "ingress, causes",
    [
        pytest.param({"ip": "nope"}, [("status.loadBalancer.ingress[0].ip", "FieldValueInvalid")], id="no address"),
        pytest.param({"ip": "192.0.2.01"}, [("status.loadBalancer.ingress[0].ip", "FieldValueInvalid")], id="leading zeros"),
        pytest.param({"hostname": "192.0.2.1"}, [("status.loadBalancer.ingress[0].hostname", "FieldValueInvalid")], id="an address as a name"),
        pytest.param({"hostname": "a_b"}, [("status.loadBalancer.ingress[0].hostname", "FieldValueInvalid")], id="no name"),
        pytest.param({"hostname": "a.b", "ipMode": "VIP"}, [("status.loadBalancer.ingress[0].ipMode", "FieldValueForbidden")], id="a mode without an address"),
        pytest.param({"ip": "192.0.2.1", "ipMode": "Odd"}, [("status.loadBalancer.ingress[0].ipMode", "FieldValueNotSupported")], id="an unknown mode"),
    ],
)
async def test_what_a_load_balancer_may_not_report(new_server, ingress, causes):
    server = await new_server()
    await server.service(type="LoadBalancer")
    assert await server.causes(server.patch("services", "web", {"status": {"loadBalancer": {"ingress": [ingress]}}}, sub="status")) == causes


# ---- whatever happens
