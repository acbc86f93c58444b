"""Scripts of requests, and what Kubernetes 1.36 answers to each: code, reason or fields, causes, warnings.

A line of a script is ``METHOD path body code facts``. Paths are below the namespace of the kind, as ``configmaps/a``; facts are paths into the
answer with the value that must stand there (None: nothing), ``reason`` and ``causes`` (pairs of field and reason) for a Status.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from twinstack.api.resources import RESOURCES

BY_PLURAL = {one.plural: one for one in reversed(RESOURCES)}
POD = {"containers": [{"name": "c", "image": "i"}]}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": POD}
DEPLOYMENT = {"selector": {"matchLabels": {"a": "b"}}, "template": TEMPLATE}
JOB = {"template": {"spec": {**POD, "restartPolicy": "Never"}}}


class Line(NamedTuple):
    """One request and what is known of its answer."""

    method: str
    path: str
    body: Any
    code: int
    facts: dict[str, Any] = {}


def named(name: str, **fields: Any) -> dict[str, Any]:
    """An object of this name; ``meta`` is more metadata."""
    return {"metadata": {"name": name, **fields.pop("meta", {})}, **fields}


def at(document: Any, path: str) -> Any:
    """What stands at a dotted path; None when nothing does."""
    for step in path.split("."):
        if isinstance(document, list):
            document = document[int(step)] if int(step) < len(document) else None
        else:
            document = (document or {}).get(step)
    return document


_PATCHES = {"JSON": "json-patch+json", "MERGE": "merge-patch+json", "STRATEGIC": "strategic-merge-patch+json", "APPLY": "apply-patch+yaml"}


async def play(api: Any, script: Sequence[Line]) -> None:
    """Every line, in order, each compared."""
    for number, line in enumerate(script, 1):
        plural, _, rest = line.path.partition("/")
        plural, mark, query = plural.partition("?")
        url = BY_PLURAL[plural].path("default") + (f"/{rest}" if rest else "") + mark + query
        headers = {"Content-Type": f"application/{_PATCHES[line.method]}"} if line.method in _PATCHES else {}
        got = await api.ask("PATCH" if line.method in _PATCHES else line.method, url, line.body, headers=headers)
        told = f"line {number}: {line.method} {line.path}: {got.code} {got.document}"
        assert got.code == line.code, told
        for path, wanted in line.facts.items():
            if path == "causes":
                found: Any = sorted({(one.get("field", ""), one["reason"]) for one in (at(got.document, "details.causes") or ())})
            elif path == "warnings":
                found = len(got.headers.getall("Warning", []))
            else:
                found = at(got.document, path)
            assert found == wanted, f"{path} is {found!r} in {told}"


def scripts(table: dict[str, Sequence[Line]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("script", [pytest.param(script, id=name) for name, script in table.items()])


FINALIZERS = "metadata.finalizers"
GRACE = "metadata.deletionGracePeriodSeconds"

DELETIONS: dict[str, Sequence[Line]] = {
    "a body's options are all the options": [
        Line("POST", "configmaps", named("a"), 201),
        Line("DELETE", "configmaps/a?propagationPolicy=Foreground&dryRun=All", None, 200, {"metadata.finalizers": ["foregroundDeletion"]}),
        Line("DELETE", "configmaps/a", {"dryRun": ["All"]}, 200, {"kind": "Status"}),
        Line("DELETE", "configmaps/a", {"dryRun": ["Some"]}, 422, {"causes": [("dryRun", "FieldValueNotSupported")]}),
        Line("DELETE", "configmaps/a?dryRun=All", {}, 200, {"kind": "Status"}),
        Line("GET", "configmaps/a", None, 404),
    ],
    "in the foreground an object waits for what it owns": [
        Line("POST", "configmaps", named("a"), 201),
        Line("DELETE", "configmaps/a", {"propagationPolicy": "Foreground"}, 200, {FINALIZERS: ["foregroundDeletion"], GRACE: 0}),
        Line("DELETE", "configmaps/a", {"propagationPolicy": "Orphan"}, 200, {FINALIZERS: ["orphan"]}),
        Line("DELETE", "configmaps/a", {"propagationPolicy": "Background"}, 200, {"kind": "Status"}),
    ],
    "whoever wants the owned gone, too, is told that it is not done yet": [
        Line("POST", "configmaps", named("a", meta={"finalizers": ["a/b"]}), 201),
        Line("DELETE", "configmaps/a", {"orphanDependents": False}, 202, {FINALIZERS: ["a/b"]}),
        Line("MERGE", "configmaps/a", {"metadata": {"finalizers": None}}, 200),
        Line("GET", "configmaps/a", None, 404),
    ],
    "an event owns nothing": [
        Line("POST", "events", named("a", involvedObject={"namespace": "default"}), 201),
        Line("DELETE", "events/a", {"propagationPolicy": "Foreground"}, 200, {"kind": "Status"}),
    ],
    "a Job and a ReplicationController leave their pods behind unless told": [
        Line("POST", "jobs", named("a", spec=JOB), 201),
        Line("DELETE", "jobs/a", None, 200, {FINALIZERS: ["orphan"], "warnings": 1}),
        Line("DELETE", "jobs/a", {"propagationPolicy": "Background"}, 200, {"kind": "Status", "warnings": 0}),
        Line("POST", "replicationcontrollers", named("a", spec={"selector": {"a": "b"}, "template": TEMPLATE}), 201),
        Line("DELETE", "replicationcontrollers/a", None, 200, {FINALIZERS: ["orphan"], "warnings": 0}),
    ],
    "a pending grace period is only ever ended sooner": [
        Line("POST", "pods", named("a", spec={**POD, "nodeName": "n"}), 201),
        Line("DELETE", "pods/a", {"propagationPolicy": "Foreground"}, 200, {GRACE: 30, FINALIZERS: ["foregroundDeletion"]}),
        Line("DELETE", "pods/a", {"propagationPolicy": "Orphan"}, 200, {GRACE: 30, FINALIZERS: ["foregroundDeletion"]}),
        Line("DELETE", "pods/a", {"propagationPolicy": "Orphan", "gracePeriodSeconds": 5}, 200, {GRACE: 5, FINALIZERS: ["orphan"]}),
    ],
    "a negative grace period is a second": [
        Line("POST", "pods", named("a", spec={**POD, "nodeName": "n", "terminationGracePeriodSeconds": -7}), 201),
        Line("DELETE", "pods/a", None, 200, {GRACE: 1}),
    ],
    "nothing comes into a namespace that goes": [
        Line("POST", "namespaces", named("tst-x"), 201),
        Line("DELETE", "namespaces/tst-x", {"preconditions": {"uid": "other"}}, 409, {"details.kind": "namespaces"}),
        Line("DELETE", "namespaces/tst-x", None, 200, {"status.phase": "Terminating"}),
        Line("POST", "namespaces/tst-x/pods/p/eviction", named("p", kind="Eviction", apiVersion="policy/v1"), 403,
             {"causes": [("metadata.namespace", "NamespaceTerminating")], "details.name": "p"}),
        Line("POST", "namespaces/tst-x/configmaps", {"metadata": {"generateName": "g-"}}, 403, {"details.name": "g-"}),
        Line("PUT", "namespaces/tst-x/finalize", named("tst-x", spec={"finalizers": ["bad"]}), 422, {"causes": [("spec.finalizers[0]", "FieldValueInvalid")]}),
        Line("PUT", "namespaces/tst-x/finalize", named("tst-x", spec={"finalizers": []}), 200, {"spec": {}}),
        Line("GET", "namespaces/tst-x", None, 404),
    ],
    "a namespace's phase is Active until it is deleted": [
        Line("POST", "namespaces", named("tst-x"), 201),
        Line("MERGE", "namespaces/tst-x/status", {"status": {"phase": "Other"}}, 422, {"causes": [("status.Phase", "FieldValueInvalid")]}),
    ],
}  # fmt: skip


@scripts(DELETIONS)
async def test_deletions(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


IDENTITY: dict[str, Sequence[Line]] = {
    "resourceVersion 0 is none": [
        Line("POST", "configmaps", named("a", meta={"resourceVersion": "0"}), 201),
        Line("PUT", "configmaps/a", named("a", meta={"resourceVersion": "0"}, data={"k": "v"}), 200, {"data.k": "v"}),
        Line("POST", "leases", named("a"), 201),
        Line("PUT", "leases/a", named("a", meta={"resourceVersion": "0"}), 422, {"causes": [("metadata.resourceVersion", "FieldValueInvalid")]}),
    ],
    "a PUT that creates may name a version, but no uid": [
        Line("PUT", "services/a", named("a", meta={"resourceVersion": "5"}, spec={"ports": [{"port": 80}]}), 201),
        Line("PUT", "services/b", named("b", meta={"uid": "u"}, spec={"ports": [{"port": 80}]}), 409, {"details.kind": "services"}),
        Line("PUT", "configmaps/b", named("b", meta={"uid": "u"}), 404),
    ],
    "a generation that nobody counts is the writer's": [
        Line("POST", "configmaps", named("a", meta={"generation": 7}), 201, {"metadata.generation": 7}),
        Line("MERGE", "configmaps/a", {"metadata": {"generation": 8}, "data": {"k": "v"}}, 200, {"metadata.generation": 7}),
        Line("POST", "deployments", named("a", meta={"generation": 7}, spec=DEPLOYMENT), 201, {"metadata.generation": 1}),
    ],
}


@scripts(IDENTITY)
async def test_identity(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


NAMES = "items.0.metadata.name"
CONTINUE = "metadata.continue"

LISTS: dict[str, Sequence[Line]] = {
    "a deletion of many obeys a limit, and answers what was": [
        *[Line("POST", "configmaps", named(name, meta={"labels": {"a": "b"}}), 201) for name in ("a", "b", "c")],
        Line(
            "DELETE",
            "configmaps?labelSelector=a=b&limit=2",
            None,
            200,
            {"items.0.metadata.name": "a", "items.1.metadata.name": "b", "items.2": None, "items.0.kind": None},
        ),
        Line("GET", "configmaps?labelSelector=a=b", None, 200, {"items.0.metadata.name": "c", "items.1": None}),
        Line("DELETE", "configmaps?labelSelector=a=b&resourceVersionMatch=Exact", None, 422),
        Line("DELETE", "configmaps?labelSelector=a=b&dryRun=All", None, 200, {"items.0.metadata.name": "c"}),
        Line("DELETE", "configmaps?labelSelector=a=b", None, 200, {"items.0.metadata.name": "c"}),
        Line("DELETE", "configmaps?labelSelector=a=b", None, 200, {"kind": "ConfigMapList", "items": []}),
    ],
    "any state will do, and is told whole whatever the limit": [
        Line("POST", "configmaps", named("a"), 201),
        Line("POST", "configmaps", named("b"), 201),
        Line("GET", "configmaps?resourceVersion=0&limit=1", None, 200, {"items.1.metadata.name": "b", CONTINUE: None}),
        Line("GET", "configmaps?resourceVersion=0&limit=1&resourceVersionMatch=NotOlderThan", None, 200, {"items.1.metadata.name": "b", CONTINUE: None}),
    ],
    "whether what follows a full page matches is seen on the next page": [
        Line("POST", "configmaps", named("a", meta={"labels": {"l": "1"}}), 201),
        Line("GET", "configmaps?labelSelector=l&limit=1", None, 200, {NAMES: "a", CONTINUE: None}),
        Line("POST", "configmaps", named("b"), 201),
        Line("GET", "configmaps?fieldSelector=metadata.name=a&limit=1", None, 200, {NAMES: "a", CONTINUE: None}),
        Line("GET", "configmaps?labelSelector=l&limit=2", None, 200, {NAMES: "a", CONTINUE: None}),
    ],
    "a collection is not deleted by options that do not go together": [
        Line("DELETE", "configmaps?resourceVersionMatch=Exact", None, 422, {"details.kind": "ListOptions"}),
    ],
}


@scripts(LISTS)
async def test_lists(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


async def test_a_full_page_of_some_goes_on_as_long_as_there_is_anything_after_it(api: Any) -> None:
    for name, labels in (("a", {"l": "1"}), ("b", {})):
        await api.made(BY_PLURAL["configmaps"].path("default"), named(name, meta={"labels": labels}))
    first = await api.get("/api/v1/namespaces/default/configmaps?labelSelector=l&limit=1")
    assert first.document["metadata"]["continue"]
    assert "remainingItemCount" not in first.document["metadata"]
    rest = await api.get(f"/api/v1/namespaces/default/configmaps?labelSelector=l&limit=1&continue={first.document['metadata']['continue']}")
    assert (rest.document["items"], rest.document["metadata"].get("continue")) == ([], None)


NULLS: dict[str, Sequence[Line]] = {
    "a null in a map of texts is an empty text": [
        Line("POST", "configmaps", named("a", meta={"labels": {"l": None}}, data={"k": None}), 201, {"data": {"k": ""}, "metadata.labels": {"l": ""}}),
        Line("JSON", "configmaps/a", [{"op": "add", "path": "/data/m", "value": None}], 200, {"data": {"k": "", "m": ""}}),
        Line("MERGE", "configmaps/a", {"data": {"m": None}}, 200, {"data": {"k": ""}}),
    ],
    "a null in a list of objects is an empty object": [
        Line("POST", "pods", named("a", spec={"containers": [None]}), 422,
             {"causes": [("spec.containers[0].image", "FieldValueRequired"), ("spec.containers[0].name", "FieldValueRequired")]}),
    ],
    "a null field is left out": [
        Line("POST", "configmaps", {"metadata": {"name": "a", "labels": None}, "data": None, "immutable": None}, 201, {"data": None}),
        Line("JSON", "configmaps/a", [{"op": "add", "path": "/data", "value": None}], 200, {"data": None}),
    ],
}  # fmt: skip


@scripts(NULLS)
async def test_nulls(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


SCALE = {"kind": "Scale", "apiVersion": "autoscaling/v1"}
SCALES: dict[str, Sequence[Line]] = {
    "a Scale says whose it is, and its fields have types": [
        Line("POST", "deployments", named("a", spec=DEPLOYMENT), 201),
        Line("PUT", "deployments/a/scale", {**SCALE, "spec": {"replicas": 2}}, 400),
        Line("PUT", "deployments/a/scale", {**SCALE, **named("b", spec={"replicas": 2})}, 400),
        Line("PUT", "deployments/a/scale", {**SCALE, **named("a", meta={"namespace": "other"}, spec={"replicas": 2})}, 400),
        Line("PUT", "deployments/a/scale", {**SCALE, **named("a", spec={"replicas": "2"})}, 400),
        Line("PUT", "deployments/a/scale", {**SCALE, **named("a", spec={"replicas": 2}), "colour": "red"}, 200, {"spec.replicas": 2, "warnings": 1}),
        Line("MERGE", "deployments/a/scale", {"spec": {"replicas": "3"}}, 422, {"causes": [("patch", "FieldValueInvalid")]}),
        Line("MERGE", "deployments/a/scale", {"spec": {"replicas": -3}}, 422, {"details.kind": "Scale", "causes": [("spec.replicas", "FieldValueInvalid")]}),
    ],
}


@scripts(SCALES)
async def test_scales(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


async def test_a_scale_has_a_row(api: Any) -> None:
    await api.made(BY_PLURAL["deployments"].path("default"), named("a", spec={**DEPLOYMENT, "replicas": 2}))
    got = await api.get(BY_PLURAL["deployments"].path("default", "a", "scale"), Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert [one["name"] for one in got.document["columnDefinitions"]] == ["Name", "Desired", "Available", "Age"]
    assert got.document["rows"][0]["cells"][:3] == ["a", 2, 0]


SELECTORS: dict[str, Sequence[Line]] = {
    "spaces in a field selector belong to what they touch": [Line("GET", "configmaps?fieldSelector=%20metadata.name=a", None, 400)],
    "a value is written with backslashes": [
        Line("GET", "configmaps?fieldSelector=metadata.name=a%3Db", None, 400),
        Line("GET", "configmaps?fieldSelector=metadata.name=a%5Cb", None, 400),
        Line("GET", "configmaps?fieldSelector=metadata.name=a%5C%3Db,,metadata.namespace=default", None, 200),
    ],
    "cluster-wide kinds that do not choose their fields have an empty namespace": [
        Line("GET", "ipaddresses?fieldSelector=metadata.namespace=x", None, 200, {"items": []}),
        Line("GET", "servicecidrs?fieldSelector=metadata.namespace=", None, 200, {NAMES: "kubernetes"}),
        Line("GET", "nodes?fieldSelector=metadata.namespace=x", None, 400),
    ],
    "the addresses of a pod may be named, and are empty": [Line("GET", "pods?fieldSelector=status.podIPs=10.1.0.1", None, 200, {"items": []})],
}


@scripts(SELECTORS)
async def test_selectors(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


SECRETS: dict[str, Sequence[Line]] = {
    "credentials of a registry are a JSON object": [
        Line("POST", "secrets", named("a", type="kubernetes.io/dockerconfigjson", stringData={".dockerconfigjson": "no"}), 422,
             {"causes": [("data[.dockerconfigjson]", "FieldValueInvalid")]}),
        Line("POST", "secrets", named("a", type="kubernetes.io/dockercfg", stringData={".dockercfg": "{}"}), 201),
    ],
    "a private key is not empty": [
        Line("POST", "secrets", named("a", type="kubernetes.io/ssh-auth", data={"ssh-privatekey": ""}), 422,
             {"causes": [("data[ssh-privatekey]", "FieldValueRequired")]}),
    ],
}  # fmt: skip


@scripts(SECRETS)
async def test_secrets(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


async def test_kubectls_memory_is_written_as_kubectl_writes_it(api: Any) -> None:
    memory = "kubectl.kubernetes.io/last-applied-configuration"
    path = BY_PLURAL["configmaps"].path("default")
    await api.made(path, named("a", meta={"annotations": {memory: "{}"}}, data={"k": "v"}))
    config = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"z": "<&>", "b": "c"}}
    got = await api.ask("PATCH", f"{path}/a?fieldManager=kubectl", config, headers={"Content-Type": "application/apply-patch+yaml"})
    wanted = r'{"apiVersion":"v1","data":{"b":"c","z":"\u003c\u0026\u003e"},"kind":"ConfigMap","metadata":{"name":"a"}}' + "\n"
    assert got.document["metadata"]["annotations"] == {memory: wanted}


GATED = {**POD, "schedulingGates": [{"name": "a/b"}, {"name": "a/c"}], "nodeSelector": {"a": "b"}}
PODS: dict[str, Sequence[Line]] = {
    "what made a pod changes nothing of it": [
        Line("POST", "pods", named("a", spec=POD), 201),
        Line("PUT", "pods/a", named("a", spec=POD), 200, {"metadata.generation": 1, "spec.priority": 0, "spec.tolerations.1.tolerationSeconds": 300}),
    ],
    "a pod that is held back says so, and may be told more precisely where to go": [
        Line("POST", "pods", named("a", spec=GATED), 201, {"status.conditions.0.reason": "SchedulingGated", "status.conditions.0.status": "False"}),
        Line("MERGE", "pods/a", {"spec": {"nodeSelector": {"a": "c"}}}, 422, {"causes": [("spec.nodeSelector", "FieldValueInvalid")]}),
        Line("MERGE", "pods/a", {"spec": {"nodeSelector": {"b": "c"}}}, 200),
        Line("POST", "pods/a/binding", {"kind": "Binding", "apiVersion": "v1", **named("a", target={"name": "n"})}, 409, {"details.kind": "pods/binding"}),
        Line("MERGE", "pods/a", {"spec": {"schedulingGates": [{"name": "a/c"}, {"name": "a/d"}]}}, 422,
             {"causes": [("spec.schedulingGates[1].name", "FieldValueForbidden")]}),
        Line("MERGE", "pods/a", {"spec": {"schedulingGates": None}}, 200, {"status.conditions.0.reason": "SchedulingGated"}),
        Line("POST", "pods/a/binding", {"kind": "Binding", "apiVersion": "v1", **named("a", target={"name": "n"})}, 201),
    ],
    "its quality of service may not change": [
        Line("POST", "pods", named("a", spec=POD), 201, {"status.qosClass": "BestEffort"}),
        Line("STRATEGIC", "pods/a", {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}, 422,
             {"causes": [("metadata", "FieldValueInvalid"), ("spec", "FieldValueForbidden")]}),
    ],
}  # fmt: skip


@scripts(PODS)
async def test_pods(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


EVICTION = {"kind": "Eviction", "apiVersion": "policy/v1"}
EVICTIONS: dict[str, Sequence[Line]] = {
    "an eviction says whom it is about": [
        Line("POST", "pods", named("a", spec=POD), 201),
        Line("POST", "pods/a/eviction", {**EVICTION, "metadata": {}}, 400),
        Line("POST", "pods/a/eviction", {**EVICTION, **named("b")}, 400),
        Line("POST", "pods/a/eviction", {**EVICTION, **named("a"), "apiVersion": "policy/v1beta1"}, 201, {"status": "Success"}),
    ],
}


@scripts(EVICTIONS)
async def test_evictions(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


NODES: dict[str, Sequence[Line]] = {
    "nobody has less than nothing": [
        Line("POST", "nodes", named("a", status={"capacity": {"cpu": "-1"}}), 422,
             {"causes": [("status.allocatable.cpu", "FieldValueInvalid"), ("status.capacity.cpu", "FieldValueInvalid")]}),
    ],
}  # fmt: skip


@scripts(NODES)
async def test_nodes(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


STRATEGIC: dict[str, Sequence[Line]] = {
    "what a patch sets it must retain": [
        Line("POST", "deployments", named("a", spec=DEPLOYMENT), 201),
        Line("STRATEGIC", "deployments/a", {"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}}, 422, {"reason": "Invalid"}),
        Line("STRATEGIC", "deployments/a", {"spec": {"strategy": {"$retainKeys": "type", "type": "Recreate"}}}, 400, {"reason": "BadRequest"}),
    ],
}


@scripts(STRATEGIC)
async def test_strategic_merge_patches(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


ENDED = {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": {"terminated": {"exitCode": 1}}}
RUNS = {**ENDED, "state": {"running": {}}}
STATUSES: dict[str, Sequence[Line]] = {
    "of a workload": [
        Line("POST", "deployments", named("a", spec=DEPLOYMENT), 201),
        Line("MERGE", "deployments/a/status", {"status": {"replicas": -1}}, 422, {"causes": [("status.replicas", "FieldValueInvalid")]}),
    ],
    "the quality of a pod's service": [
        Line("POST", "pods", named("a", spec=POD), 201, {"status.qosClass": "BestEffort"}),
        Line("MERGE", "pods/a/status", {"status": {"qosClass": "Burstable"}}, 422, {"causes": [("status.qosClass", "FieldValueInvalid")]}),
        Line("MERGE", "pods/a/status", {"status": {"qosClass": None}}, 200, {"status.qosClass": "BestEffort"}),
    ],
    "the conditions and the nominated node of a pod": [
        Line("POST", "pods", named("a", spec=POD), 201),
        Line("MERGE", "pods/a/status", {"status": {"conditions": [{"type": "A B", "status": "True"}], "nominatedNodeName": "A"}}, 422,
             {"causes": [("metadata.conditions[0].Type", "FieldValueInvalid"), ("status.nominatedNodeName", "FieldValueInvalid")]}),
    ],
    "what has ended does not run again": [
        Line("POST", "pods", named("a", spec={**POD, "restartPolicy": "Never"}), 201),
        Line("MERGE", "pods/a/status", {"status": {"containerStatuses": [ENDED]}}, 200),
        Line("MERGE", "pods/a/status", {"status": {"containerStatuses": [RUNS]}}, 422,
             {"causes": [("status.containerStatuses[0].state", "FieldValueForbidden")]}),
        Line("POST", "pods", named("b", spec={**POD, "restartPolicy": "OnFailure"}), 201),
        Line("MERGE", "pods/b/status", {"status": {"containerStatuses": [ENDED]}}, 200),
        Line("MERGE", "pods/b/status", {"status": {"containerStatuses": [RUNS]}}, 200),
    ],
    "of a Job, whoever runs it": [
        Line("POST", "jobs", named("a", spec=JOB), 201),
        Line("MERGE", "jobs/a/status", {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}, 422,
             {"causes": [("status.completionTime", "FieldValueRequired"), ("status.conditions", "FieldValueInvalid"),
                         ("status.startTime", "FieldValueRequired")]}),
        Line("MERGE", "jobs/a/status", {"status": {"active": 1, "ready": 2, "startTime": "2026-01-02T03:04:05Z"}}, 422,
             {"causes": [("status.ready", "FieldValueInvalid")]}),
        Line("MERGE", "jobs/a/status", {"status": {"active": 1, "failed": 1, "startTime": "2026-01-02T03:04:05Z"}}, 200),
        Line("MERGE", "jobs/a/status", {"status": {"failed": 0}}, 422, {"causes": [("status.failed", "FieldValueInvalid")]}),
        Line("MERGE", "jobs/a/status", {"status": {"startTime": None}}, 422, {"causes": [("status.startTime", "FieldValueRequired")]}),
        Line("MERGE", "jobs/a/status", {"status": {"active": 0, "completionTime": "2026-01-02T03:04:06Z", "conditions": [
            {"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]}}, 200),
        Line("MERGE", "jobs/a/status", {"status": {"completionTime": None, "conditions": None}}, 422,
             {"causes": [("status.conditions", "FieldValueInvalid")]}),
        Line("POST", "jobs", named("b", spec={**JOB, "managedBy": "me"}), 422, {"causes": [("spec.managedBy", "FieldValueInvalid")]}),
        Line("POST", "jobs", named("b", spec={**JOB, "managedBy": "example.com/me"}), 201),
    ],
    "times": [
        Line("POST", "pods", named("a", spec=POD), 201),
        Line("MERGE", "pods/a/status", {"status": {"startTime": "2026-01-02T03:04:05+01:00"}}, 200, {"status.startTime": "2026-01-02T02:04:05Z"}),
        Line("MERGE", "pods/a/status", {"status": {"startTime": "soon"}}, 422, {"reason": "Invalid", "details.causes.0.field": "patch"}),
        Line("PUT", "pods/a/status", named("a", spec=POD, status={"startTime": "soon"}), 400, {"reason": "BadRequest"}),
        Line("POST", "leases", named("a", spec={"renewTime": "2026-01-02T03:04:05.100000+00:00"}), 201, {"spec.renewTime": "2026-01-02T03:04:05.100000Z"}),
        Line("POST", "leases", named("b", spec={"renewTime": 5}), 400, {"reason": "BadRequest"}),
    ],
}  # fmt: skip


@scripts(STATUSES)
async def test_statuses(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


CRON = {"schedule": "@daily", "jobTemplate": {"spec": JOB}}
CLASSES: dict[str, Sequence[Line]] = {
    "of priority: one is the default": [
        Line("POST", "priorityclasses", {**named("tst-a"), "value": 5, "globalDefault": True}, 201, {"metadata.generation": 1}),
        Line("POST", "priorityclasses", {**named("tst-b"), "value": 5, "globalDefault": True}, 403, {"reason": "Forbidden"}),
        Line("POST", "priorityclasses", {**named("tst-b"), "value": 5}, 201),
        Line("MERGE", "priorityclasses/tst-b", {"globalDefault": True}, 403, {"reason": "Forbidden"}),
        Line("MERGE", "priorityclasses/tst-a", {"description": "x"}, 200, {"metadata.generation": 1}),
        Line("MERGE", "priorityclasses/tst-a", {"value": 6, "preemptionPolicy": "Never"}, 422,
             {"causes": [("preemptionPolicy", "FieldValueInvalid"), ("value", "FieldValueForbidden")]}),
    ],
    "of priority: two are the cluster's own": [
        Line("GET", "priorityclasses/system-cluster-critical", None, 200, {"value": 2_000_000_000, "metadata.generation": 1}),
        Line("DELETE", "priorityclasses/system-node-critical", None, 403, {"reason": "Forbidden", "details.kind": "priorityclasses"}),
        Line("GET", "priorityclasses/system-node-critical", None, 200, {"value": 2_000_001_000}),
    ],
    "a pod's policy is its class's": [
        Line("POST", "pods", named("a", spec={**POD, "priorityClassName": "system-node-critical", "preemptionPolicy": "Never"}), 403),
        Line("POST", "pods", named("a", spec={**POD, "preemptionPolicy": "PreemptLowerPriority"}), 201, {"spec.priority": 0}),
    ],
    "where the pods of a Job go may change while it was never started": [
        Line("POST", "jobs", named("a", spec={**JOB, "suspend": True}), 201),
        Line("MERGE", "jobs/a", {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}, "metadata": {"annotations": {"a": "b"}}}}}, 200,
             {"spec.template.spec.nodeSelector": {"a": "b"}}),
        Line("STRATEGIC", "jobs/a", {"spec": {"template": {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}}}, 200),
        Line("STRATEGIC", "jobs/a", {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "j"}]}}}}, 422,
             {"causes": [("spec.template", "FieldValueInvalid")]}),
        Line("MERGE", "jobs/a", {"spec": {"suspend": False}}, 200),
        Line("MERGE", "jobs/a", {"spec": {"template": {"spec": {"nodeSelector": {"a": "c"}}}}}, 422, {"causes": [("spec.template", "FieldValueInvalid")]}),
    ],
    "the Jobs of a CronJob select their own pods": [
        Line("POST", "cronjobs", named("a", spec={**CRON, "jobTemplate": {"spec": {**JOB, "manualSelector": True, "selector": {}}}}), 422,
             {"causes": [("spec.jobTemplate.spec.manualSelector", "FieldValueNotSupported"), ("spec.jobTemplate.spec.selector", "FieldValueInvalid")]}),
    ],
    "the template of a CronJob's Jobs keeps what was written, but for the pods'": [
        Line("POST", "cronjobs", named("a", spec=CRON), 201,
             {"spec.jobTemplate.spec.backoffLimit": None, "spec.jobTemplate.spec.completionMode": None,
              "spec.jobTemplate.spec.template.spec.dnsPolicy": "ClusterFirst", "spec.successfulJobsHistoryLimit": 3}),
    ],
}  # fmt: skip


@scripts(CLASSES)
async def test_classes_and_templates(api: Any, script: Sequence[Line]) -> None:
    await play(api, script)


REVIEWS = "/apis/authorization.k8s.io/v1"
A_PATH = {"path": "/x", "verb": "get"}
PODS_OF = {"verb": "get", "resource": "pods"}


@pytest.mark.parametrize(
    "path, body, code, causes",
    [
        pytest.param("subjectaccessreviews", {"spec": {"user": "u", "resourceAttributes": PODS_OF, "nonResourceAttributes": A_PATH}}, 422,
                     [("spec.nonResourceAttributes", "FieldValueInvalid")], id="an object or a path, not both"),
        pytest.param("subjectaccessreviews", {"metadata": {"name": "a"}, "spec": {"user": "u", "resourceAttributes": PODS_OF}}, 422,
                     [("metadata", "FieldValueInvalid")], id="a question has no name"),
        pytest.param("namespaces/default/localsubjectaccessreviews", {"spec": {"user": "u", "nonResourceAttributes": A_PATH}}, 422,
                     [("spec.nonResourceAttributes", "FieldValueInvalid")], id="a path is in no namespace"),
        pytest.param("namespaces/default/localsubjectaccessreviews", {"spec": {"user": "u", "resourceAttributes": {**PODS_OF, "namespace": "x"}}}, 400,
                     [], id="another namespace than that of the request"),
        pytest.param("namespaces/default/localsubjectaccessreviews",
                     {"metadata": {"namespace": "default"}, "spec": {"user": "u", "resourceAttributes": {**PODS_OF, "namespace": "default"}}}, 201,
                     [], id="the namespace may be said twice"),
    ],
)  # fmt: skip
async def test_reviews(api: Any, path: str, body: Any, code: int, causes: list[tuple[str, str]]) -> None:
    got = await api.post(f"{REVIEWS}/{path}", body)
    assert got.code == code, got.document
    assert [(one["field"], one["reason"]) for one in at(got.document, "details.causes") or ()] == causes
