"""Everything that can be wrong with a Service, one thing at a time; and what it is warned about."""

from __future__ import annotations

import pytest

from twinstack.api.kinds import Service, ServiceSpec
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES
from twinstack.rules.service_validation import problems_with_service
from twinstack.rules.services import default_service, show, warnings_about, wipe

GOOD = {"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
BALANCER = {"type": "LoadBalancer"}
INVALID, REQUIRED, FORBIDDEN = "FieldValueInvalid", "FieldValueRequired", "FieldValueForbidden"
UNKNOWN, DUPLICATE = "FieldValueNotSupported", "FieldValueDuplicate"


def service(spec, annotations=None):
    document = {
        "metadata": {"name": "web", "annotations": annotations or {}},
        "spec": {key: value for key, value in {**GOOD, **spec}.items() if value is not None},
    }
    default_service(document)
    return document


def found(spec, annotations=None, before=None):
    old = view_of(Service, service(before)) if before is not None else None
    return sorted({(problem.path, problem.type.reason) for problem in problems_with_service(view_of(Service, service(spec, annotations)), old)})


@pytest.mark.parametrize(
    "spec, problems",
    [
        pytest.param({}, [], id="nothing"),
        pytest.param({"ports": None}, [("spec.ports", REQUIRED)], id="no ports"),
        pytest.param({"ports": None, "clusterIP": "None", "clusterIPs": ["None"]}, [], id="no ports on a headless one"),
        pytest.param({"ports": [{"port": 80}, {"port": 81}]}, [("spec.ports[0].name", REQUIRED), ("spec.ports[1].name", REQUIRED)], id="ports without names"),
        pytest.param({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}, [("spec.ports[1].name", DUPLICATE)], id="one name twice"),
        pytest.param({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, [("spec.ports[1]", DUPLICATE)], id="one port twice"),
        pytest.param({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"}]}, [], id="one number of two protocols"),
        pytest.param({"ports": [{"port": 80, "name": "A"}]}, [("spec.ports[0].name", INVALID)], id="a name in upper case"),
        pytest.param({"ports": [{"port": 0, "targetPort": 1}]}, [("spec.ports[0].port", INVALID)], id="port 0"),
        pytest.param({"ports": [{"port": 70000, "targetPort": 1}]}, [("spec.ports[0].port", INVALID)], id="port 70000"),
        pytest.param({"ports": [{"port": 80, "protocol": "ICMP"}]}, [("spec.ports[0].protocol", UNKNOWN)], id="an unknown protocol"),
        pytest.param({"ports": [{"port": 80, "targetPort": "0"}]}, [("spec.ports[0].targetPort", INVALID)], id="the text 0 as a target"),
        pytest.param({"ports": [{"port": 80, "targetPort": "a-very-long-port-name"}]}, [("spec.ports[0].targetPort", INVALID)], id="too long a name"),
        pytest.param({"ports": [{"port": 80, "appProtocol": "not valid"}]}, [("spec.ports[0].appProtocol", INVALID)], id="a bad application protocol"),
        pytest.param({"ports": [{"port": 80, "nodePort": 30000}]}, [("spec.ports[0].nodePort", FORBIDDEN)], id="a node port on a ClusterIP Service"),
        pytest.param({"selector": {"a b": "c"}}, [("spec.selector", INVALID)], id="a bad selector"),
        pytest.param({"type": "Foo", "internalTrafficPolicy": "Cluster"}, [("spec.type", UNKNOWN)], id="an unknown type"),
        pytest.param({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"]}, [("spec.clusterIPs[0]", INVALID)], id="NodePort and None"),
        pytest.param({"sessionAffinity": "Cookie"}, [("spec.sessionAffinity", UNKNOWN)], id="an unknown affinity"),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            [("spec.sessionAffinityConfig.clientIP.timeoutSeconds", INVALID)], id="an affinity of no time",
        ),
        pytest.param(
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            [("spec.sessionAffinityConfig.clientIP.timeoutSeconds", INVALID)], id="an affinity of more than a day",
        ),
        pytest.param({"externalIPs": ["127.0.0.1"]}, [("spec.externalIPs[0]", INVALID)], id="a loopback address outside"),
        pytest.param({"externalIPs": ["192.0.2.1", "x"]}, [("spec.externalIPs[1]", INVALID)], id="an external address that is none"),
        pytest.param({"loadBalancerSourceRanges": ["10.0.0.0/8"]}, [("spec.LoadBalancerSourceRanges", FORBIDDEN)], id="ranges of no balancer"),
        pytest.param({**BALANCER, "loadBalancerSourceRanges": [" 10.0.0.0/8 "]}, [], id="source ranges may be padded"),
        pytest.param({**BALANCER, "loadBalancerSourceRanges": ["10.0.0.1/8"]}, [("spec.LoadBalancerSourceRanges[0]", INVALID)], id="host bits"),
        pytest.param({**BALANCER, "loadBalancerClass": "a b"}, [("spec.loadBalancerClass", INVALID)], id="a bad class"),
        pytest.param({"loadBalancerClass": "a"}, [("spec.loadBalancerClass", FORBIDDEN)], id="a class without a load balancer"),
        pytest.param({"allocateLoadBalancerNodePorts": True}, [("spec.allocateLoadBalancerNodePorts", FORBIDDEN)], id="node ports for no load balancer"),
        pytest.param({**BALANCER, "ports": [{"port": 10250}]}, [("spec.ports[0]", INVALID)], id="the kubelet's port for everybody"),
        pytest.param({"externalTrafficPolicy": "Local"}, [("spec.externalTrafficPolicy", INVALID)], id="an external policy without an outside"),
        pytest.param({"type": "NodePort", "externalTrafficPolicy": "Bogus"}, [("spec.externalTrafficPolicy", UNKNOWN)], id="an unknown external policy"),
        pytest.param({"healthCheckNodePort": 30000}, [("spec.healthCheckNodePort", INVALID)], id="a health check that nobody makes"),
        pytest.param({"internalTrafficPolicy": "Bogus"}, [("spec.internalTrafficPolicy", UNKNOWN)], id="an unknown internal policy"),
        pytest.param({"trafficDistribution": "Bogus"}, [("spec.trafficDistribution", UNKNOWN)], id="an unknown distribution"),
        pytest.param(
            {"type": "ExternalName", "externalName": "example.com."},
            [("spec.clusterIPs", FORBIDDEN), ("spec.ipFamilies", FORBIDDEN), ("spec.ipFamilyPolicy", FORBIDDEN)], id="addresses on an ExternalName",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_service(spec, problems):
    assert found(spec) == problems


@pytest.mark.parametrize(
    "name, problems",
    [("", [("spec.externalName", REQUIRED)]), (".", [("spec.externalName", REQUIRED)]), ("a_b", [("spec.externalName", INVALID)]), ("a.b.", [])],
)
def test_the_name_that_a_service_stands_for(name, problems):
    bare = dict.fromkeys(("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"))
    assert found({**bare, "type": "ExternalName", "externalName": name}) == problems


def test_annotations_that_contradict_each_other():
    mode, hints = "service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"
    assert found({}, {mode: "Auto", hints: "Disabled"}) == [(f"metadata.annotations[{mode}]", INVALID)]
    assert found({}, {mode: "Auto", hints: "Auto"}) == []


def test_source_ranges_in_an_annotation():
    ranges = "service.beta.kubernetes.io/load-balancer-source-ranges"
    assert found({}, {ranges: "10.0.0.0/8"}) == [(f"metadata.annotations[{ranges}]", FORBIDDEN)]
    assert found(BALANCER, {ranges: "10.0.0.0/8, x"}) == [(f"metadata.annotations[{ranges}]", INVALID)]
    assert found(BALANCER, {ranges: "10.0.0.0/8, fd00::/8"}) == []


def test_the_class_of_a_load_balancer_never_changes():
    assert found({**BALANCER, "loadBalancerClass": "a"}, before=BALANCER) == [("spec.loadBalancerClass", INVALID)]
    assert found({**BALANCER, "loadBalancerClass": "a"}, before={}) == []


@pytest.mark.parametrize(
    "spec, word",
    [
        pytest.param({"clusterIP": "FD00::1", "clusterIPs": ["FD00::1"]}, "canonical", id="an odd spelling"),
        pytest.param({"externalIPs": ["192.0.2.1"]}, "deprecated", id="external addresses"),
        pytest.param({"externalName": "a"}, "ignored", id="a name on another type"),
        pytest.param({"trafficDistribution": "PreferClose"}, "PreferSameZone", id="an old word"),
        pytest.param({"clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP"}, "ignored", id="affinity of a headless Service"),
    ],
)
def test_what_a_service_is_warned_about(spec, word):
    (warning,) = warnings_about(view_of(ServiceSpec, {**GOOD, **spec}), {})
    assert word in warning
    assert warnings_about(view_of(ServiceSpec, GOOD), {}) == []


@pytest.mark.parametrize(
    "after, left",
    [
        pytest.param({"type": "ClusterIP"}, {"type"}, id="everything that was a load balancer's goes"),
        pytest.param({"type": "ClusterIP", "healthCheckNodePort": 1}, {"type", "healthCheckNodePort"}, id="what the author changed stays, to be refused"),
        pytest.param({"type": "ClusterIP", "loadBalancerClass": "b"}, {"type", "loadBalancerClass"}, id="another class stays, too"),
        pytest.param({"type": "NodePort"}, {"type", "externalTrafficPolicy"}, id="a NodePort Service keeps its external policy"),
    ],
)
def test_what_belonged_to_the_old_type_goes_with_it(after, left):
    before = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30000,
        "allocateLoadBalancerNodePorts": True,
        "loadBalancerClass": "a",
    }
    spec = {**before, **after}
    wipe(spec, before)
    assert set(spec) == left


def test_what_older_versions_stored_is_shown_complete():
    cluster = FAMILIES
    old = {"spec": {"type": "ClusterIP", "clusterIP": "fd00::1"}}
    show(old, cluster=cluster)
    assert old["spec"] == {"type": "ClusterIP", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}
    headless = {"spec": {"type": "ClusterIP", "clusterIP": "None"}}
    show(headless, cluster=cluster)
    assert (headless["spec"]["ipFamilyPolicy"], headless["spec"]["ipFamilies"]) == ("RequireDualStack", ["IPv4", "IPv6"])
