"""What each kind adds to a request: defaults, refusals, what may change, what can be selected."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.errors import APIError, BadRequest
from twinstack.apiserver.strategies.base import Strategy


async def test_every_kind_that_is_served_has_a_strategy_and_a_sample_here(new_server, samples):
    server = await new_server()
    assert {collection.resource.plural for collection in server.cache.collections.values()} == set(samples)
    assert all(type(collection.strategy) is not Strategy for collection in server.cache.collections.values())


async def test_what_was_made_is_accepted_again_and_changes_nothing(new_server, plural, samples):
    server = await new_server()
    made = await server.post(plural, samples[plural])
    before = server.store.revision
    assert await server.put(plural, made) == made
    assert server.store.revision == before


@given(seed=st.integers(0, 2**32 - 1))
def test_any_value_anywhere_is_accepted_or_refused_in_our_own_words(new_server, plural, seed, samples):
    async def play():
        server = await new_server()
        chance = random.Random(seed)
        whole = samples[plural]
        try:
            await server.post(plural, _mangled({**whole}, chance))
            await server.patch(plural, whole["metadata"]["name"], _mangled(whole, chance))
        except APIError as error:
            assert error.http_code < 500 or "range is full" in error.message, error

    asyncio.run(play())


ODDITIES = [None, "", "x", "a b", 0, -1, 1.5, 10**12, True, [], {}, [None], ["x"], [{}], [[]], {"x": "y"}, {"x": None}, "None", "::", "10.0.0.1", "%", "1e3"]


def _mangled(document, chance):
    """The document with one value, at any depth, replaced by an oddity; kind and name stay."""
    places = []

    def walk(value):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ("metadata", "kind", "apiVersion"):
                places.append((value, key))
            if isinstance(child, (dict, list)):
                walk(child)

    def copy(value):
        return (
            {key: copy(child) for key, child in value.items()}
            if isinstance(value, dict)
            else [copy(child) for child in value]
            if isinstance(value, list)
            else value
        )

    result = copy(document)
    walk(result)
    places = [(holder, key) for holder, key in places if key != "name" or holder is not result["metadata"]] or [(result, "extra")]
    holder, key = chance.choice(places)
    holder[key] = copy(chance.choice(ODDITIES))
    return result


# ---- nodes


async def test_a_new_node_is_tainted_and_its_capacity_is_allocatable(new_server, samples):
    node = await (await new_server()).post("nodes", samples["nodes"])
    assert node["spec"]["taints"] == [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
    assert node["status"]["allocatable"] == node["status"]["capacity"] == {"cpu": "2"}
    assert node["spec"]["podCIDR"] == "10.1.0.0/24"


@pytest.mark.parametrize(
    "cidrs, causes",
    [
        pytest.param(["10.1.0.5/24"], [("spec.podCIDRs[0]", "FieldValueInvalid")], id="host bits"),
        pytest.param(["10.1.0.0/24", "10.2.0.0/24"], [("spec.podCIDRs", "FieldValueInvalid")], id="two of one family"),
        pytest.param([""], [("spec.podCIDRs[0]", "FieldValueInvalid")], id="empty"),
    ],
)
async def test_pod_cidrs_that_are_refused(new_server, cidrs, causes):
    server = await new_server()
    assert await server.causes(server.post("nodes", {"metadata": {"name": "a"}, "spec": {"podCIDRs": cidrs}})) == causes


async def test_pod_cidrs_are_set_once(new_server):
    server = await new_server()
    await server.post("nodes", {"metadata": {"name": "a"}})
    await server.patch("nodes", "a", {"spec": {"podCIDRs": ["10.1.0.0/24"]}})
    causes = await server.causes(server.patch("nodes", "a", {"spec": {"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}}))
    assert causes == [("spec.podCIDRs", "FieldValueForbidden")]


async def test_each_door_of_a_node_opens_its_half(new_server):
    server = await new_server()
    await server.post("nodes", {"metadata": {"name": "a"}})
    reported = {"spec": {"unschedulable": True}, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}
    after = await server.patch("nodes", "a", reported, sub="status")
    assert "unschedulable" not in after["spec"] and len(after["status"]["addresses"]) == 1
    after = await server.patch("nodes", "a", {"spec": {"unschedulable": True}, "status": {"addresses": None}})
    assert after["spec"]["unschedulable"] and len(after["status"]["addresses"]) == 1


# ---- endpoints and slices


@pytest.mark.parametrize(
    "type_, address, causes",
    [
        pytest.param("IPv4", "10.1.0.1", [], id="an IPv4 slice"),
        pytest.param("IPv6", "fd00:1::1", [], id="an IPv6 slice"),
        pytest.param("IPv6", "10.1.0.1", [("endpoints[0].addresses", "FieldValueInvalid")], id="the other family"),
        pytest.param("IPv6", "FD00:1::1", [("endpoints[0].addresses[0]", "FieldValueInvalid")], id="not in canonical form"),
        pytest.param("IPv4", "127.0.0.1", [("endpoints[0].addresses[0]", "FieldValueInvalid")], id="loopback"),
        pytest.param("IPv6", "ff02::1", [("endpoints[0].addresses[0]", "FieldValueInvalid")], id="link-local multicast"),
        pytest.param("FQDN", "fd00:1::1", [("endpoints[0].addresses[0]", "FieldValueInvalid")], id="an address as a name"),
        pytest.param("ipv4", "10.1.0.1", [("addressType", "FieldValueNotSupported")], id="an unknown type"),
        pytest.param("", "10.1.0.1", [("addressType", "FieldValueRequired")], id="no type"),
    ],
)
async def test_the_addresses_of_a_slice(new_server, type_, address, causes):
    server = await new_server()
    request = server.post("endpointslices", {"metadata": {"name": "a"}, "addressType": type_, "endpoints": [{"addresses": [address]}]})
    if causes:
        assert await server.causes(request) == causes
    else:
        assert (await request)["endpoints"] == [{"addresses": [address], "conditions": {}}]


async def test_a_slices_generation_counts_its_labels_too(new_server, samples):
    server = await new_server()
    await server.post("endpointslices", samples["endpointslices"])
    assert (await server.patch("endpointslices", "a", {"metadata": {"labels": {"a": "b"}}}))["metadata"]["generation"] == 2
    assert (await server.patch("endpointslices", "a", {"metadata": {"annotations": {"a": "b"}}}))["metadata"]["generation"] == 2
    assert (await server.patch("endpointslices", "a", {"endpoints": []}))["metadata"]["generation"] == 3


# ---- ranges


@pytest.mark.parametrize(
    "cidrs, causes",
    [
        pytest.param([], [("spec.cidrs", "FieldValueRequired")], id="none"),
        pytest.param(["10.1.0.5/24"], [("spec.cidrs[0]", "FieldValueInvalid")], id="host bits"),
        pytest.param(["FD00::/64"], [("spec.cidrs[0]", "FieldValueInvalid")], id="upper case"),
        pytest.param(["10.1.0.0/24", "10.2.0.0/24"], [("spec.cidrs", "FieldValueInvalid")], id="two of one family"),
        pytest.param(["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"], [("spec.cidrs", "FieldValueInvalid")], id="three"),
    ],
)
async def test_ranges_that_are_refused(new_server, cidrs, causes):
    server = await new_server()
    assert await server.causes(server.post("servicecidrs", {"metadata": {"name": "a"}, "spec": {"cidrs": cidrs}})) == causes


async def test_a_range_may_gain_its_second_family_and_change_in_no_other_way(new_server, samples):
    server = await new_server()
    await server.post("servicecidrs", samples["servicecidrs"])
    assert await server.causes(server.patch("servicecidrs", "a", {"spec": {"cidrs": ["10.2.0.0/24"]}})) == [("spec.cidrs[0]", "FieldValueInvalid")]
    await server.patch("servicecidrs", "a", {"spec": {"cidrs": ["10.1.0.0/24", "fd00:1::/112"]}})
    assert await server.causes(server.patch("servicecidrs", "a", {"spec": {"cidrs": ["10.1.0.0/24"]}})) == [("spec.cidrs", "FieldValueInvalid")]


@pytest.mark.parametrize("name", ["FD00::1", "fd00:0::1", "010.0.0.1", "::ffff:1.2.3.4", "x"])
async def test_an_ip_address_is_named_by_its_canonical_text(new_server, name, samples):
    server = await new_server()
    assert await server.causes(server.post("ipaddresses", {**samples["ipaddresses"], "metadata": {"name": name}})) == [("metadata.name", "FieldValueInvalid")]


async def test_an_ip_address_never_changes_its_parent(new_server, samples):
    server = await new_server()
    await server.post("ipaddresses", samples["ipaddresses"])
    causes = await server.causes(server.patch("ipaddresses", "10.96.0.9", {"spec": {"parentRef": {"name": "b"}}}))
    assert causes == [("spec.parentRef", "FieldValueInvalid")]


# ---- the small kinds


async def test_a_namespace_carries_its_name_and_its_finalizer(new_server):
    namespace = await (await new_server()).post("namespaces", {"metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "b"}}})
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "a"}
    assert (namespace["spec"], namespace["status"]) == ({"finalizers": ["kubernetes"]}, {"phase": "Active"})


async def test_a_secret_takes_plain_texts_and_keeps_its_type(new_server):
    server = await new_server()
    made = await server.post("secrets", {"metadata": {"name": "a"}, "stringData": {"k": "v"}})
    assert (made["data"], made["type"]) == ({"k": "dg=="}, "Opaque") and "stringData" not in made
    assert await server.causes(server.patch("secrets", "a", {"type": "example.com/t"})) == [("type", "FieldValueInvalid")]
    assert isinstance(await server.refusal(server.post("secrets", {"metadata": {"name": "b"}, "data": {"k": "%%"}})), BadRequest)


async def test_what_is_immutable_stays(new_server):
    server = await new_server()
    await server.post("configmaps", {"metadata": {"name": "a"}, "data": {"k": "v"}, "immutable": True})
    assert await server.causes(server.patch("configmaps", "a", {"data": {"k": "w"}})) == [("data", "FieldValueForbidden")]


async def test_a_lease_is_updated_only_by_who_knows_its_version(new_server, samples):
    server = await new_server()
    made = await server.post("leases", samples["leases"])
    del made["metadata"]["resourceVersion"]
    assert await server.causes(server.put("leases", made)) == [("metadata.resourceVersion", "FieldValueInvalid")]


@pytest.mark.parametrize(
    "plural, field, value",
    [
        ("pods", "status.phase", "Pending"),
        ("pods", "spec.nodeName", ""),
        ("services", "spec.type", "LoadBalancer"),
        ("nodes", "spec.unschedulable", "false"),
        ("secrets", "type", "Opaque"),
        ("namespaces", "status.phase", "Active"),
        ("events", "involvedObject.name", "p"),
        ("replicasets", "status.replicas", "0"),
        ("replicationcontrollers", "status.replicas", "0"),
    ],
)
async def test_what_objects_can_be_selected_by(new_server, plural, field, value, samples):
    server = await new_server()
    await server.post(plural, samples[plural])
    collection = next(one for one in server.cache.collections.values() if one.resource.plural == plural)
    assert field in collection.selectable()
    assert next(stored for key, stored in collection.items.items() if key.name == "a").fields.get(field, "no such field") == value
