"""What of a pod's spec Kubernetes refuses, at which field and why; and what it lets pass with a warning."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from twinstack.rules.pod_validation import problems_with_pod_spec, warnings_about_pod
from twinstack.rules.pods import default_pod

CONTAINER = {"name": "c", "image": "example.com/c:1"}
VOLUMES = {"volumes": [{"name": "v"}]}
C = "spec.containers[0]"
NODES = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
NEAR = "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]"


def pod(spec: dict[str, Any]) -> dict[str, Any]:
    document = copy.deepcopy({"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER], **spec}})
    default_pod(document)
    return document


def of_container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{**CONTAINER, **fields}]}


def from_(source: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return of_container(env=[{"name": "a", "valueFrom": source, **fields}])


def limited(limits: dict[str, str], requests: dict[str, str] | None = None) -> dict[str, Any]:
    return of_container(resources={"limits": limits, **({"requests": requests} if requests else {})})


def volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", **source}]}


def affine(term: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", **term}]}] if term else []}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def near(term: dict[str, Any]) -> dict[str, Any]:
    return {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}


REFUSED = [
    ("a variable has one source", from_({"fieldRef": {"fieldPath": "metadata.name"}, "configMapKeyRef": {"name": "x", "key": "k"}}),
     [(f"{C}.env[0].valueFrom", "Invalid")]),
    ("a source is of some kind", from_({}), [(f"{C}.env[0].valueFrom", "Invalid")]),
    ("a value has no source", from_({"fieldRef": {"fieldPath": "metadata.name"}}, value="x"), [(f"{C}.env[0].valueFrom", "Invalid")]),
    ("a field is one of a pod's", from_({"fieldRef": {"fieldPath": "spec.colour"}}), [(f"{C}.env[0].valueFrom.fieldRef.fieldPath", "Invalid")]),
    ("all labels are no variable", from_({"fieldRef": {"fieldPath": "metadata.labels"}}), [(f"{C}.env[0].valueFrom.fieldRef.fieldPath", "NotSupported")]),
    ("one label has a name", from_({"fieldRef": {"fieldPath": "metadata.labels['a b']"}}), [(f"{C}.env[0].valueFrom.fieldRef", "Invalid")]),
    ("a key of a ConfigMap is named", from_({"configMapKeyRef": {"name": "x"}}), [(f"{C}.env[0].valueFrom.configMapKeyRef.key", "Required")]),
    ("variables come from somewhere", of_container(envFrom=[{}]), [(f"{C}.envFrom", "Invalid")]),
    ("a whole Secret is named", of_container(envFrom=[{"secretRef": {}}]), [(f"{C}.envFrom[0].secretRef.name", "Required")]),
    ("a mount goes down only", {**VOLUMES, **of_container(volumeMounts=[{"name": "v", "mountPath": "/x", "subPath": "../a"}])},
     [(f"{C}.volumeMounts.subPath", "Invalid")]),
    ("an amount is not negative", limited({"cpu": "-1"}), [(f"{C}.resources.limits[cpu]", "Invalid"), (f"{C}.resources.requests[cpu]", "Invalid")]),
    ("no more is asked for than allowed", limited({"cpu": "1"}, {"cpu": "1500m"}), [(f"{C}.resources.requests", "Invalid")]),
    ("a resource exists or has a domain", limited({"ram": "1"}), [(f"{C}.resources.limits[ram]", "Invalid"), (f"{C}.resources.requests[ram]", "Invalid")]),
    ("what cannot be promised twice has a limit", of_container(resources={"requests": {"a.b/c": "1"}}), [(f"{C}.resources.limits", "Required")]),
    ("devices are whole", limited({"a.b/c": "500m"}), [(f"{C}.resources.limits[a.b/c]", "Invalid"), (f"{C}.resources.requests[a.b/c]", "Invalid")]),
    ("huge pages need memory besides", limited({"hugepages-2Mi": "4Mi"}), [(f"{C}.resources", "Forbidden")]),
    ("readiness ends nothing", of_container(readinessProbe={"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 1}),
     [(f"{C}.readinessProbe.terminationGracePeriodSeconds", "Invalid")]),
    ("a grace period is some time", of_container(livenessProbe={"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": 0}),
     [(f"{C}.livenessProbe.terminationGracePeriodSeconds", "Invalid")]),
    ("gRPC has a port", of_container(livenessProbe={"grpc": {"port": 0}}), [(f"{C}.livenessProbe.grpc.port", "Invalid")]),
    ("nobody sleeps backwards", of_container(lifecycle={"preStop": {"sleep": {"seconds": -1}}}), [(f"{C}.lifecycle.preStop.sleep", "Invalid")]),
    ("last words are read somewhere", of_container(terminationMessagePolicy="Voice"), [(f"{C}.terminationMessagePolicy", "NotSupported")]),
    ("who is privileged escalates", of_container(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
     [(f"{C}.securityContext", "Invalid")]),
    ("users are counted from zero", of_container(securityContext={"runAsUser": -1}), [(f"{C}.securityContext.runAsUser", "Invalid")]),
    ("groups, too", {"securityContext": {"fsGroup": -1, "supplementalGroups": [1, -1]}},
     [("spec.securityContext.fsGroup", "Invalid"), ("spec.securityContext.supplementalGroups[1]", "Invalid")]),
    ("a seccomp profile is of a known type", {"securityContext": {"seccompProfile": {"type": "Own"}}},
     [("spec.securityContext.seccompProfile.type", "NotSupported")]),
    ("a local one says where", {"securityContext": {"seccompProfile": {"type": "Localhost"}}},
     [("spec.securityContext.seccompProfile.localhostProfile", "Required")]),
    ("one process namespace is enough", {"shareProcessNamespace": True, "hostPID": True}, [("spec.securityContext.shareProcessNamespace", "Invalid")]),
    ("without a policy a nameserver is needed", {"dnsPolicy": "None", "dnsConfig": {}}, [("spec.dnsConfig.nameservers", "Required")]),
    ("three nameservers are enough", {"dnsConfig": {"nameservers": ["192.0.2.1"] * 4}}, [("spec.dnsConfig.nameservers", "Invalid")]),
    ("so are 32 searches", {"dnsConfig": {"searches": ["a"] * 33}}, [("spec.dnsConfig.searches", "Invalid")]),
    ("a search is a domain", {"dnsConfig": {"searches": [".", "a_b.c.", "a b"]}}, [("spec.dnsConfig.searches[2]", "Invalid")]),
    ("an option has a name", {"dnsConfig": {"options": [{}]}}, [("spec.dnsConfig.options[0]", "Required")]),
    ("gates have names, each once", {"schedulingGates": [{"name": "a"}, {"name": "a"}, {"name": "a b"}]},
     [("spec.schedulingGates[1]", "Duplicate"), ("spec.schedulingGates[2]", "Invalid")]),
    ("a readiness gate names a condition", {"readinessGates": [{"conditionType": "a b"}]}, [("spec.readinessGates[0].conditionType", "Invalid")]),
    ("spreading says how far and over what", {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Never"}]},
     [(f"spec.topologySpreadConstraints[0].{name}", why)
      for name, why in (("maxSkew", "Invalid"), ("topologyKey", "Required"), ("whenUnsatisfiable", "NotSupported"))]),
    ("a node selector has a term", affine({}), [(NODES, "Required")]),
    ("a term has a known operator", affine({"operator": "Is"}), [(f"{NODES}[0].matchExpressions[0].operator", "Invalid")]),
    ("In needs values", affine({"operator": "In"}), [(f"{NODES}[0].matchExpressions[0].values", "Required")]),
    ("Exists has none", affine({"operator": "Exists", "values": ["a"]}), [(f"{NODES}[0].matchExpressions[0].values", "Forbidden")]),
    ("a weight is up to 100, and nearness is measured by something", near({"weight": 101, "podAffinityTerm": {}}),
     [(f"{NEAR}.podAffinityTerm.topologyKey", "Required"), (f"{NEAR}.weight", "Invalid")]),
    ("a host's path does not go up", volume(hostPath={"path": "/a/../b"}), [("spec.volumes[0].hostPath.path", "Invalid")]),
    ("a host's path is of a known type", volume(hostPath={"path": "/a", "type": "Pipe"}), [("spec.volumes[0].hostPath.type", "NotSupported")]),
    ("modes have nine bits", volume(configMap={"name": "x", "defaultMode": 0o1000}), [("spec.volumes[0].configMap.defaultMode", "Invalid")]),
    ("an item has a key, and a place below", volume(secret={"secretName": "x", "items": [{"path": "..x"}]}),
     [("spec.volumes[0].secret.items[0].key", "Required"), ("spec.volumes[0].secret.items[0].path", "Invalid")]),
    ("memory is not negative", volume(emptyDir={"sizeLimit": "-1"}), [("spec.volumes[0].emptyDir.sizeLimit", "Forbidden")]),
    ("a claim is named", volume(persistentVolumeClaim={}), [("spec.volumes[0].persistentVolumeClaim.claimName", "Required")]),
    ("an export is somewhere", volume(nfs={"path": "a"}), [("spec.volumes[0].nfs.path", "Invalid"), ("spec.volumes[0].nfs.server", "Required")]),
    ("a projection has one source", volume(projected={"sources": [{"configMap": {"name": "x"}, "secret": {"name": "y"}}, {}]}),
     [("spec.volumes[0].projected.sources[0].configMap", "Forbidden"), ("spec.volumes[0].projected.sources[1]", "Required")]),
    ("a token lives ten minutes", volume(projected={"sources": [{"serviceAccountToken": {"path": "", "expirationSeconds": 5}}]}),
     [(f"spec.volumes[0].projected.sources[0].serviceAccountToken.{name}", why) for name, why in (("expirationSeconds", "Invalid"), ("path", "Required"))]),
    ("a file of the pod's tells something", volume(downwardAPI={"items": [{"path": "x"}]}), [("spec.volumes[0].downwardAPI", "Required")]),
    ("its address is no file", volume(downwardAPI={"items": [{"path": "x", "fieldRef": {"fieldPath": "status.podIP"}}]}),
     [("spec.volumes[0].downwardAPI.fieldRef.fieldPath", "NotSupported")]),
]  # fmt: skip


@pytest.mark.parametrize("spec, causes", [pytest.param(spec, causes, id=name) for name, spec, causes in REFUSED])
def test_what_is_refused(spec: dict[str, Any], causes: list[tuple[str, str]]) -> None:
    found = {(one.path, one.type.reason.removeprefix("FieldValue")) for one in problems_with_pod_spec(pod(spec)["spec"])}
    assert sorted(found) == causes


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(of_container(), id="little is needed"),
        pytest.param(from_({"fieldRef": {"fieldPath": "status.podIPs"}}), id="all addresses as a variable"),
        pytest.param(from_({"fieldRef": {"fieldPath": "metadata.annotations['a.b/C']"}}), id="one annotation as a variable"),
        pytest.param(limited({"cpu": "1", "a.b/c": "2"}), id="a device"),
        pytest.param(volume(projected={}), id="a projection of nothing"),
        pytest.param(volume(downwardAPI={"items": [{"path": "x", "fieldRef": {"fieldPath": "metadata.labels"}}]}), id="all labels as a file"),
        pytest.param(of_container(ports=[{"containerPort": 1, "hostIP": "any"}]), id="any text as the host's address"),
    ],
)
def test_what_passes(spec: dict[str, Any]) -> None:
    assert problems_with_pod_spec(pod(spec)["spec"]) == []


@pytest.mark.parametrize(
    "spec, count",
    [
        pytest.param(of_container(), 0, id="nothing strange"),
        pytest.param(of_container(env=[{"name": "a"}, {"name": "a"}, {"name": "a", "value": "$(a)b"}]), 1, id="a variable that hides another"),
        pytest.param(of_container(ports=[{"containerPort": 1}, {"containerPort": 1}, {"containerPort": 1, "protocol": "UDP"}]), 1, id="a port twice"),
        pytest.param(limited({"memory": "1500m"}), 2, id="half a byte"),
        pytest.param({"terminationGracePeriodSeconds": -1, "imagePullSecrets": [{}]}, 2, id="time that runs backwards, and a Secret without a name"),
    ],
)
def test_what_passes_with_a_warning(spec: dict[str, Any], count: int) -> None:
    document = pod(spec)
    assert problems_with_pod_spec(document["spec"]) == []
    assert len(warnings_about_pod(document)) == count
