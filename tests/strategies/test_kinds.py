"""What each kind adds to a request: defaults, refusals, what may change, what can be selected."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.errors import APIError, BadRequest
from twinstack.apiserver.strategies.base import Strategy

CONTAINER = {"name": "c", "image": "example.com/c:1"}
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [CONTAINER]}}
WORKLOAD = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}
SAMPLES = {
    "namespaces": {"metadata": {"name": "a"}},
    "nodes": {"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}, "status": {"capacity": {"cpu": "2000m"}}},
    "pods": {
        "metadata": {"name": "a"},
        "spec": {
            "containers": [{**CONTAINER, "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}}, "env": [{"name": "A", "value": "1"}],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}], "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v", "configMap": {"name": "x"}}],
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}},
        },
    },
    "services": {
        "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 80}], "type": "LoadBalancer", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"]},
    },
    "endpoints": {"metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 80}]}]},
    "configmaps": {"metadata": {"name": "a"}, "data": {"k": "v"}, "binaryData": {"b": "AAE="}},
    "secrets": {"metadata": {"name": "a"}, "stringData": {"k": "v"}, "data": {"l": "dg=="}},
    "serviceaccounts": {"metadata": {"name": "a"}},
    "events": {"metadata": {"name": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "source": {"component": "c"}},
    "deployments": {"metadata": {"name": "a"}, "spec": {**WORKLOAD, "strategy": {"rollingUpdate": {"maxSurge": 1}}}},
    "replicasets": {"metadata": {"name": "a"}, "spec": WORKLOAD},
    "statefulsets": {"metadata": {"name": "a"}, "spec": {**WORKLOAD, "serviceName": "a"}},
    "jobs": {"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}, "completions": 2}},
    "cronjobs": {
        "metadata": {"name": "a"},
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}}}},
    },
    "priorityclasses": {"metadata": {"name": "a"}, "value": 1000},
    "poddisruptionbudgets": {"metadata": {"name": "a"}, "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "x"}}}},
    "controllerrevisions": {"metadata": {"name": "a"}, "data": {"spec": {}}, "revision": 3},
    "replicationcontrollers": {"metadata": {"name": "a"}, "spec": {"template": TEMPLATE}},
    "daemonsets": {"metadata": {"name": "a"}, "spec": {"selector": WORKLOAD["selector"], "template": WORKLOAD["template"], "minReadySeconds": 1}},
    "leases": {"metadata": {"name": "a"}, "spec": {"holderIdentity": "h", "leaseDurationSeconds": 15}},
    "endpointslices": {
        "metadata": {"name": "a"}, "addressType": "IPv6", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["fd00:1::1"], "hints": {"forZones": [{"name": "z"}]}}],
    },
    "roles": {"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": []}]},
    "clusterroles": {"metadata": {"name": "system:a"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]},
    "rolebindings": {"metadata": {"name": "a"}, "subjects": [{"kind": "User", "name": "u"}], "roleRef": {"kind": "Role", "name": "a"}},
    "clusterrolebindings": {
        "metadata": {"name": "system:a"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "s"}],
        "roleRef": {"kind": "ClusterRole", "name": "system:a"},
    },
    "networkpolicies": {
        "metadata": {"name": "a"},
        "spec": {
            "podSelector": {"matchLabels": {"a": "b"}},
            "ingress": [{"from": [{"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/64"]}}, {"namespaceSelector": {}}],
                         "ports": [{"port": 80, "endPort": 90}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}],
        },
    },
    "servicecidrs": {"metadata": {"name": "a"}, "spec": {"cidrs": ["10.1.0.0/24"]}},
    "ipaddresses": {"metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "a"}}},
}  # fmt: skip


async def test_every_kind_that_is_served_has_a_strategy_and_a_sample_here(new_server):
    server = await new_server()
    assert {collection.resource.plural for collection in server.cache.collections.values()} == set(SAMPLES)
    assert all(type(collection.strategy) is not Strategy for collection in server.cache.collections.values())


@pytest.mark.parametrize("plural", SAMPLES)
async def test_what_was_made_is_accepted_again_and_changes_nothing(new_server, plural):
    server = await new_server()
    made = await server.post(plural, SAMPLES[plural])
    before = server.store.revision
    assert await server.put(plural, made) == made
    assert server.store.revision == before


@pytest.mark.parametrize("plural", SAMPLES)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_value_anywhere_is_accepted_or_refused_in_our_own_words(new_server, plural, seed):
    async def play():
        server = await new_server()
        chance = random.Random(seed)
        whole = SAMPLES[plural]
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


# ---- pods


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


# ---- nodes


async def test_a_new_node_is_tainted_and_its_capacity_is_allocatable(new_server):
    node = await (await new_server()).post("nodes", SAMPLES["nodes"])
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


async def test_a_slices_generation_counts_its_labels_too(new_server):
    server = await new_server()
    await server.post("endpointslices", SAMPLES["endpointslices"])
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


async def test_a_range_may_gain_its_second_family_and_change_in_no_other_way(new_server):
    server = await new_server()
    await server.post("servicecidrs", SAMPLES["servicecidrs"])
    assert await server.causes(server.patch("servicecidrs", "a", {"spec": {"cidrs": ["10.2.0.0/24"]}})) == [("spec.cidrs[0]", "FieldValueInvalid")]
    await server.patch("servicecidrs", "a", {"spec": {"cidrs": ["10.1.0.0/24", "fd00:1::/112"]}})
    assert await server.causes(server.patch("servicecidrs", "a", {"spec": {"cidrs": ["10.1.0.0/24"]}})) == [("spec.cidrs", "FieldValueInvalid")]


@pytest.mark.parametrize("name", ["FD00::1", "fd00:0::1", "010.0.0.1", "::ffff:1.2.3.4", "x"])
async def test_an_ip_address_is_named_by_its_canonical_text(new_server, name):
    server = await new_server()
    assert await server.causes(server.post("ipaddresses", {**SAMPLES["ipaddresses"], "metadata": {"name": name}})) == [("metadata.name", "FieldValueInvalid")]


async def test_an_ip_address_never_changes_its_parent(new_server):
    server = await new_server()
    await server.post("ipaddresses", SAMPLES["ipaddresses"])
    causes = await server.causes(server.patch("ipaddresses", "10.96.0.9", {"spec": {"parentRef": {"name": "b"}}}))
    assert causes == [("spec.parentRef", "FieldValueInvalid")]


# ---- workloads and the small kinds


@pytest.mark.parametrize(
    "spec, causes",
    [
        pytest.param({"selector": {}}, [("spec.selector", "FieldValueInvalid")], id="a selector of everything"),
        pytest.param(
            {"selector": {"matchLabels": {"app": "y"}}}, [("spec.template.metadata.labels", "FieldValueInvalid")], id="a selector that misses its own pods"
        ),
        pytest.param({"replicas": -1}, [("spec.replicas", "FieldValueInvalid")], id="fewer than none"),
        pytest.param(
            {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}},
            [("spec.strategy.rollingUpdate.maxUnavailable", "FieldValueInvalid")],
            id="an update that could not move",
        ),
        pytest.param(
            {"minReadySeconds": 10, "progressDeadlineSeconds": 5}, [("spec.progressDeadlineSeconds", "FieldValueInvalid")], id="a deadline before readiness"
        ),
        pytest.param(
            {"template": {**TEMPLATE, "spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}},
            [("spec.template.spec.restartPolicy", "FieldValueNotSupported")],
            id="pods that end",
        ),
    ],
)
async def test_deployments_that_are_refused(new_server, spec, causes):
    server = await new_server()
    assert await server.causes(server.post("deployments", {"metadata": {"name": "a"}, "spec": {**WORKLOAD, **spec}})) == causes


async def test_a_deployments_generation_counts_its_spec_and_not_its_status(new_server):
    server = await new_server()
    made = await server.post("deployments", {"metadata": {"name": "a"}, "spec": WORKLOAD, "status": {"replicas": 5}})
    assert made["status"] == {} and made["metadata"]["generation"] == 1
    assert (await server.patch("deployments", "a", {"spec": {"replicas": 2}}))["metadata"]["generation"] == 2
    reported = await server.patch("deployments", "a", {"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 9}, "status": {"replicas": 2}}, sub="status")
    assert reported["metadata"]["generation"] == 2 and "labels" not in reported["metadata"]
    assert reported["spec"]["replicas"] == 2 and reported["status"] == {"replicas": 2}


async def test_the_selector_of_a_deployment_never_changes(new_server):
    server = await new_server()
    await server.post("deployments", SAMPLES["deployments"])
    patch = {"spec": {"selector": {"matchLabels": {"b": "c"}}, "template": {"metadata": {"labels": {"b": "c"}}}}}
    assert ("spec.selector", "FieldValueInvalid") in await server.causes(server.patch("deployments", "a", patch))


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


async def test_a_lease_is_updated_only_by_who_knows_its_version(new_server):
    server = await new_server()
    made = await server.post("leases", SAMPLES["leases"])
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
async def test_what_objects_can_be_selected_by(new_server, plural, field, value):
    server = await new_server()
    await server.post(plural, SAMPLES[plural])
    collection = next(one for one in server.cache.collections.values() if one.resource.plural == plural)
    assert field in collection.selectable()
    assert next(stored for key, stored in collection.items.items() if key.name == "a").fields.get(field, "no such field") == value


@pytest.mark.parametrize(
    "changes, causes",
    [
        pytest.param({"updateStrategy": {"type": "Sometimes"}}, [("spec.updateStrategy", "FieldValueNotSupported")], id="a strategy that is none"),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}},
            [("spec.updateStrategy.rollingUpdate.maxUnavailable", "FieldValueRequired")],
            id="nothing may be away and nothing may be more",
        ),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": "10%"}}},
            [("spec.updateStrategy.rollingUpdate.maxSurge", "FieldValueInvalid")],
            id="both at once",
        ),
        pytest.param(
            {"updateStrategy": {"rollingUpdate": {"maxUnavailable": "120%"}}},
            [("spec.updateStrategy.rollingUpdate.maxUnavailable", "FieldValueInvalid")],
            id="more than all",
        ),
        pytest.param({"selector": {"matchLabels": {"x": "y"}}}, [("spec.template.metadata.labels", "FieldValueInvalid")], id="a selector of others"),
        pytest.param({"revisionHistoryLimit": -1}, [("spec.revisionHistoryLimit", "FieldValueInvalid")], id="a negative history"),
    ],
)
async def test_what_a_daemon_set_may_not_say(new_server, changes, causes):
    server = await new_server()
    sample = SAMPLES["daemonsets"]
    assert await server.causes(server.post("daemonsets", {**sample, "spec": {**sample["spec"], **changes}})) == causes


async def test_a_daemon_set_counts_its_templates(new_server):
    server = await new_server()
    made = await server.post("daemonsets", SAMPLES["daemonsets"])
    assert made["status"] == {"currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0}
    assert made["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}
    counts = []
    for patch in ({"spec": {"minReadySeconds": 2}}, {"spec": {"template": {"spec": {"priorityClassName": "x"}}}}, {"metadata": {"annotations": None}}):
        changed = await server.patch("daemonsets", "a", patch)
        counts.append((changed["metadata"]["generation"], changed["metadata"]["annotations"]["deprecated.daemonset.template.generation"]))
    assert counts == [(2, "1"), (3, "2"), (3, "2")]
    assert await server.causes(server.patch("daemonsets", "a", {"status": {"numberReady": -1}}, sub="status")) == [("status.numberReady", "FieldValueInvalid")]


async def test_a_replication_controller_takes_its_selector_and_labels_from_its_template(new_server):
    server = await new_server()
    made = await server.post("replicationcontrollers", SAMPLES["replicationcontrollers"])
    assert (made["spec"]["selector"], made["metadata"]["labels"], made["spec"]["replicas"], made["status"]) == ({"app": "x"}, {"app": "x"}, 1, {"replicas": 0})
    assert await server.causes(server.patch("replicationcontrollers", "a", {"spec": {"selector": {"b": "c"}}})) == [
        ("spec.template.metadata.labels", "FieldValueInvalid")
    ]
    moved = await server.patch("replicationcontrollers", "a", {"spec": {"selector": {"b": "c", "app": None}, "template": {"metadata": {"labels": {"b": "c"}}}}})
    assert (moved["spec"]["selector"], moved["metadata"]["generation"]) == ({"b": "c"}, 2), "its selector may change"
    problem = [("spec.selector", "FieldValueRequired"), ("spec.replicas", "FieldValueInvalid")]
    bare = {"metadata": {"name": "b"}, "spec": {"replicas": -1, "template": {"spec": {"containers": [CONTAINER]}}}}
    assert sorted(await server.causes(server.post("replicationcontrollers", bare))) == sorted(problem)


async def test_what_a_stateful_set_may_not_say_and_may_not_change(new_server):
    server = await new_server()
    made = await server.post("statefulsets", SAMPLES["statefulsets"])
    assert made["status"] == {"replicas": 0, "availableReplicas": 0}
    assert made["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert (made["spec"]["podManagementPolicy"], made["spec"]["replicas"], made["spec"]["revisionHistoryLimit"]) == ("OrderedReady", 1, 10)
    for change, causes in (
        ({"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}, [("spec.volumeClaimTemplates", "FieldValueForbidden")]),
        ({"podManagementPolicy": "Any"}, [("spec.podManagementPolicy", "FieldValueInvalid")]),
        ({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {}}}, [("spec.updateStrategy.rollingUpdate", "FieldValueInvalid")]),
        ({"updateStrategy": {"rollingUpdate": {"partition": -1}}}, [("spec.updateStrategy.rollingUpdate.partition", "FieldValueInvalid")]),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}, [("spec.updateStrategy.rollingUpdate.maxUnavailable", "FieldValueInvalid")]),
        ({"ordinals": {"start": -1}}, [("spec.ordinals.start", "FieldValueInvalid")]),
        ({"serviceName": "a.b"}, [("spec.serviceName", "FieldValueInvalid")]),
    ):
        sample = {"metadata": {"name": "b"}, "spec": {**SAMPLES["statefulsets"]["spec"], **change}}
        assert await server.causes(server.post("statefulsets", sample)) == causes
    assert await server.causes(server.patch("statefulsets", "a", {"spec": {"serviceName": "b"}})) == [("spec", "FieldValueForbidden")]
    assert (await server.patch("statefulsets", "a", {"spec": {"replicas": 4}}))["metadata"]["generation"] == 2
    told = await server.causes(server.patch("statefulsets", "a", {"status": {"replicas": 1, "currentReplicas": 2}}, sub="status"))
    assert told == [("status.currentReplicas", "FieldValueInvalid")]


async def test_a_kept_template_stays_as_it_is(new_server):
    server = await new_server()
    await server.post("controllerrevisions", SAMPLES["controllerrevisions"])
    assert (await server.patch("controllerrevisions", "a", {"revision": 4}))["revision"] == 4
    assert await server.causes(server.patch("controllerrevisions", "a", {"data": {"spec": {"x": 1}}})) == [("data", "FieldValueInvalid")]


async def test_a_job_selects_its_own_pods_and_its_policies_go_together(new_server):
    server = await new_server()
    made = await server.post("jobs", SAMPLES["jobs"])
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert made["spec"]["template"]["metadata"]["labels"] == {
        "controller-uid": uid, "batch.kubernetes.io/controller-uid": uid, "job-name": "a", "batch.kubernetes.io/job-name": "a",
    }  # fmt: skip
    assert [made["spec"][field] for field in ("parallelism", "completions", "backoffLimit", "suspend", "completionMode")] == [1, 2, 6, False, "NonIndexed"]
    spec = SAMPLES["jobs"]["spec"]
    for change, causes in (
        ({"completionMode": "Some"}, [("spec.completionMode", "FieldValueNotSupported")]),
        ({"completionMode": "Indexed", "completions": None, "parallelism": 2}, [("spec.completions", "FieldValueRequired")]),
        ({"backoffLimitPerIndex": 1}, [("spec.backoffLimitPerIndex", "FieldValueInvalid")]),
        (
            {"podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [0]}}]}},
            [("spec.podFailurePolicy.rules[0].action", "FieldValueInvalid"), ("spec.podFailurePolicy.rules[0].onExitCodes.values", "FieldValueInvalid")],
        ),
        (
            {"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "1-3"}]}},
            [("spec.successPolicy.rules[0].succeededIndexes", "FieldValueInvalid")],
        ),
        ({"backoffLimit": -1}, [("spec.backoffLimit", "FieldValueInvalid")]),
        ({"template": {"spec": {"containers": [CONTAINER]}}}, [("spec.template.spec.restartPolicy", "FieldValueRequired")]),
        ({"manualSelector": True}, [("spec.selector", "FieldValueRequired")]),
    ):
        assert await server.causes(server.post("jobs", {"metadata": {"name": "b"}, "spec": {**spec, **change}})) == causes
    assert await server.causes(server.patch("jobs", "a", {"spec": {"completions": 3}})) == [("spec.completions", "FieldValueInvalid")]
    assert (await server.patch("jobs", "a", {"spec": {"parallelism": 3, "suspend": True}}))["metadata"]["generation"] == 2


async def test_what_a_disruption_budget_may_not_say(new_server):
    server = await new_server()
    made = await server.post("poddisruptionbudgets", SAMPLES["poddisruptionbudgets"])
    assert made["status"] == dict.fromkeys(("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"), 0)
    for spec, causes in (
        ({"minAvailable": 1, "maxUnavailable": 1}, [("spec", "FieldValueInvalid")]),
        ({"minAvailable": -1}, [("spec.minAvailable", "FieldValueInvalid")]),
        ({"maxUnavailable": "101%"}, [("spec.maxUnavailable", "FieldValueInvalid")]),
        ({"unhealthyPodEvictionPolicy": "Never"}, [("spec.unhealthyPodEvictionPolicy", "FieldValueNotSupported")]),
    ):
        assert await server.causes(server.post("poddisruptionbudgets", {"metadata": {"name": "b"}, "spec": spec})) == causes


async def test_what_a_cron_job_may_not_say(new_server):
    server = await new_server()
    made = await server.post("cronjobs", SAMPLES["cronjobs"])
    spec = made["spec"]
    limits = [spec[field] for field in ("concurrencyPolicy", "suspend", "successfulJobsHistoryLimit", "failedJobsHistoryLimit")]
    # A Job has its own defaults when it is made.
    assert limits == ["Allow", False, 3, 1] and "backoffLimit" not in spec["jobTemplate"]["spec"]
    for change, causes in (
        ({"schedule": "TZ=UTC 0 0 * * *"}, [("spec.schedule", "FieldValueInvalid")]),
        ({"schedule": "61 * * * *"}, [("spec.schedule", "FieldValueInvalid")]),
        ({"timeZone": "Local"}, [("spec.timeZone", "FieldValueInvalid")]),
        ({"concurrencyPolicy": "Maybe"}, [("spec.concurrencyPolicy", "FieldValueNotSupported")]),
        ({"jobTemplate": {"spec": {**spec["jobTemplate"]["spec"], "parallelism": -1}}}, [("spec.jobTemplate.spec.parallelism", "FieldValueInvalid")]),
    ):
        assert await server.causes(server.post("cronjobs", {"metadata": {"name": "b"}, "spec": {**spec, **change}})) == causes
    long_name = {"metadata": {"name": "x" * 53}, "spec": spec}
    assert await server.causes(server.post("cronjobs", long_name)) == [("metadata.name", "FieldValueInvalid")]


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
