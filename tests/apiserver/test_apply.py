"""Server-side apply and managed fields through the server, with the real kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest

NAMESPACE = "/api/v1/namespaces/default"
CONFIGMAPS, SERVICES, PODS = f"{NAMESPACE}/configmaps", f"{NAMESPACE}/services", f"{NAMESPACE}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
POD_SPEC = {"containers": [{"name": "c", "image": "example.com/c:1"}]}
DEPLOYMENT = {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}, "spec": POD_SPEC}}


async def applied(api: Any, path: str, body: Any, *, manager: str = "m1", query: str = "") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await api.ask("PATCH", f"{path}?fieldManager={manager}{query}", data, headers={"Content-Type": "application/apply-patch+yaml"})


def configmap(name: str = "a", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def deployment(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {**DEPLOYMENT, **spec}}


def owners(document: Any) -> dict[tuple[str, str, str], Any]:
    return {(one["manager"], one["operation"], one.get("subresource", "")): one["fieldsV1"] for one in document["metadata"].get("managedFields", ())}


async def test_an_apply_creates_and_again_it_changes_nothing(api: Any) -> None:
    first = await applied(api, f"{CONFIGMAPS}/a", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n")
    again = await applied(api, f"{CONFIGMAPS}/a", configmap(k="v"))
    assert (first.code, again.code) == (201, 200)
    assert again.document == first.document
    assert owners(first.document) == {("m1", "Apply", ""): {"f:data": {"f:k": {}}}}


async def test_a_conflict_says_where_and_who(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap(k="v"))
    got = await applied(api, f"{CONFIGMAPS}/a", configmap(k="w"))
    assert (got.code, got.reason) == (409, "Conflict")
    assert [cause["field"] for cause in got.document["details"]["causes"]] == [".data.k"]
    assert "conflict with" in got.message
    forced = await applied(api, f"{CONFIGMAPS}/a", configmap(k="w"), query="&force=true")
    assert list(owners(forced.document)) == [("m1", "Apply", ""), next(one for one in owners(forced.document) if one[1] == "Update")]


async def test_writers_are_told_apart_by_manager_and_door(api: Any) -> None:
    pod = await api.made(PODS, {"metadata": {"name": "p"}, "spec": POD_SPEC})
    [(_, operation, door)] = owners(pod)
    assert (operation, door) == ("Update", "")
    status = {"metadata": {"name": "p"}, "status": {"phase": "Running", "podIP": "10.1.1.1"}}
    got = await api.ask("PUT", f"{PODS}/p/status?fieldManager=agent", status)
    assert owners(got.document)["agent", "Update", "status"] == {
        "f:status": {"f:phase": {}, "f:podIP": {}, "f:podIPs": {".": {}, 'k:{"ip":"10.1.1.1"}': {".": {}, "f:ip": {}}}}
    }


async def test_what_the_server_gives_is_nobodys(api: Any) -> None:
    service = await api.made(f"{SERVICES}?fieldManager=m", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}})
    assert owners(service)["m", "Update", ""]["f:spec"] == {
        "f:ports": {".": {}, 'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
        "f:selector": {},
        "f:type": {},
        "f:sessionAffinity": {},
        "f:internalTrafficPolicy": {},
    }


async def test_who_scales_owns_the_replicas(api: Any) -> None:
    await applied(api, f"{DEPLOYMENTS}/web", deployment(replicas=2))
    path = f"{DEPLOYMENTS}/web/scale"
    got = await api.patch(f"{path}?fieldManager=scaler", {"spec": {"replicas": 3}})
    assert (got.code, got.document["spec"], "managedFields" in got.document["metadata"]) == (200, {"replicas": 3}, False)
    live = (await api.get(f"{DEPLOYMENTS}/web")).document
    assert owners(live)["scaler", "Update", "scale"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in owners(live)["m1", "Apply", ""]["f:spec"]
    assert [cause["field"] for cause in (await applied(api, f"{DEPLOYMENTS}/web", deployment(replicas=2))).document["details"]["causes"]] == [".spec.replicas"]
    scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 5}}
    assert (await applied(api, path, scale, manager="m2", query="&force=true")).document["spec"] == {"replicas": 5}
    assert owners((await api.get(f"{DEPLOYMENTS}/web")).document)["m2", "Apply", "scale"] == {"f:spec": {"f:replicas": {}}}


async def test_a_dry_run_keeps_nothing(api: Any) -> None:
    got = await applied(api, f"{CONFIGMAPS}/a", configmap(k="v"), query="&dryRun=All")
    assert (got.code, got.document["data"]) == (201, {"k": "v"})
    assert (await api.get(f"{CONFIGMAPS}/a")).code == 404


@pytest.mark.parametrize(
    "query, body, code, field",
    [
        pytest.param("", configmap(k="v"), 422, "fieldManager", id="an apply says who applies"),
        pytest.param("?fieldManager=" + "x" * 129, configmap(k="v"), 422, "fieldManager", id="a manager's name is not endless"),
        pytest.param("?fieldManager=m&dryRun=Some", configmap(k="v"), 422, "dryRun", id="a dry run is of all"),
        pytest.param("?fieldManager=m&fieldValidation=No", configmap(k="v"), 422, "fieldValidation", id="validation has three modes"),
        pytest.param("?fieldManager=m", {**configmap(k="v"), "extra": 1}, 400, "", id="what the kind does not know is not applied"),
        pytest.param("?fieldManager=m", {**configmap(), "data": {"k": 1}}, 400, "", id="nor is a value of another type"),
        pytest.param("?fieldManager=m", {"metadata": {"name": "a"}}, 400, "", id="a configuration says what it is"),
        pytest.param("?fieldManager=m", {**configmap("b", k="v")}, 400, "", id="a configuration is of the object that the URL names"),
        pytest.param("?fieldManager=m", b"a: [", 400, "", id="a configuration is YAML"),
    ],
)
async def test_an_apply_that_will_not_do_is_refused(api: Any, query: str, body: Any, code: int, field: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    got = await api.ask("PATCH", f"{CONFIGMAPS}/a{query}", data, headers={"Content-Type": "application/apply-patch+yaml"})
    assert got.code == code
    assert [cause["field"] for cause in got.document.get("details", {}).get("causes", ())] == ([field] if field else [])


async def test_only_an_apply_can_be_forced(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap(k="v"))
    got = await api.patch(f"{CONFIGMAPS}/a?force=true", {"data": {"k": "w"}})
    assert (got.code, got.document["details"]["causes"][0]["field"]) == (422, "force")


TWICE = b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v","k":"w"}}'
TWICE_IN_YAML = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v, k: w}\n"


@pytest.mark.parametrize(
    "body, kind",
    [
        pytest.param(TWICE, "json", id="in JSON"),
        pytest.param(TWICE.replace(b'"k":"v"', b'"\\u006b" : "v"'), "json", id="in JSON that is written another way"),
        pytest.param(TWICE.replace(b'"apiVersion":"v1","kind":"ConfigMap",', b""), "json", id="in JSON that does not say what it is"),
        pytest.param(TWICE_IN_YAML, "yaml", id="in YAML"),
    ],
)
async def test_a_field_that_is_named_twice_is_told(api: Any, body: bytes, kind: str) -> None:
    headers = {"Content-Type": f"application/{kind}"}
    refused = await api.ask("POST", f"{CONFIGMAPS}?fieldValidation=Strict", body, headers=headers)
    assert (refused.code, 'duplicate field "data.k"' in refused.message) == (400, True)
    told = await api.ask("POST", CONFIGMAPS, body, headers=headers)
    assert (told.code, told.document["data"], told.headers.getall("Warning")) == (201, {"k": "w"}, ['299 - "duplicate field \\"data.k\\""'])
    await api.delete(f"{CONFIGMAPS}/a")
    ignored = await api.ask("POST", f"{CONFIGMAPS}?fieldValidation=Ignore", body, headers=headers)
    assert (ignored.code, "Warning" in ignored.headers) == (201, False)


async def test_a_patch_that_names_a_field_twice_is_wrong_itself(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap(k="v"))
    got = await api.ask(
        "PATCH", f"{CONFIGMAPS}/a?fieldValidation=Strict", b'{"data":{"k":"1","k":"2"}}', headers={"Content-Type": "application/merge-patch+json"}
    )
    assert (got.code, got.document["details"]["causes"][0]["field"]) == (422, "patch")


async def test_a_pod_is_evicted_in_good_order(api: Any) -> None:
    await api.made(PODS, {"metadata": {"name": "p"}, "spec": {**POD_SPEC, "nodeName": "n"}})
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    assert (await api.post(f"{PODS}/p/eviction?dryRun=All", eviction)).code == 201
    assert "deletionTimestamp" not in (await api.get(f"{PODS}/p")).document["metadata"]
    assert (await api.post(f"{PODS}/p/eviction", {**eviction, "deleteOptions": {"gracePeriodSeconds": 7}})).code == 201
    pod = (await api.get(f"{PODS}/p")).document
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 7
    assert [one["reason"] for one in pod["status"]["conditions"] if one["type"] == "DisruptionTarget"] == ["EvictionByEvictionAPI"]
    assert (await api.post(f"{PODS}/none/eviction", {**eviction, "metadata": {"name": "none"}})).code == 404


@pytest.mark.parametrize(
    "query, causes",
    [
        pytest.param("resourceVersionMatch=Exact", ["resourceVersionMatch"], id="a match needs a version"),
        pytest.param("resourceVersionMatch=Exact&resourceVersion=0", ["resourceVersionMatch"], id="no state is exactly any"),
        pytest.param("resourceVersionMatch=Some&resourceVersion=5", ["resourceVersionMatch"], id="two ways to match"),
        pytest.param("sendInitialEvents=true", ["sendInitialEvents"], id="a list has no events"),
        pytest.param("watch=true&resourceVersionMatch=Exact", ["resourceVersionMatch"] * 2, id="all that is wrong is told"),
    ],
)
async def test_options_of_a_list_go_together(api: Any, query: str, causes: list[str]) -> None:
    got = await api.get(f"{CONFIGMAPS}?{query}")
    assert (got.code, [cause["field"] for cause in got.document["details"]["causes"]]) == (422, causes)


async def test_an_owner_that_is_told_twice_is_kept_once(api: Any) -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1"}
    got = await api.post(CONFIGMAPS, {"metadata": {"name": "a", "ownerReferences": [owner, owner, {**owner, "uid": "2"}]}})
    assert (got.code, got.document["metadata"]["ownerReferences"]) == (201, [owner, {**owner, "uid": "2"}])
    assert "duplicate" in got.headers["Warning"]


async def test_what_the_server_writes_on_its_own_is_its_own(api: Any) -> None:
    await api.made(SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
    records = (await api.get("/apis/networking.k8s.io/v1/ipaddresses")).document["items"]
    assert [list(owners(one)) for one in records] == [[("kube-apiserver", "Update", "")]] * len(records)
    assert owners((await api.get(f"{SERVICES}/kubernetes")).document)["kube-apiserver", "Update", ""]["f:spec"]["f:ports"]


async def test_an_object_goes_with_its_last_finalizer_as_it_was(api: Any) -> None:
    await api.made(CONFIGMAPS, {"metadata": {"name": "a", "finalizers": ["example.com/f"]}})
    waiting = (await api.delete(f"{CONFIGMAPS}/a")).document
    refused = await api.put(f"{CONFIGMAPS}/a", {**waiting, "metadata": {**waiting["metadata"], "finalizers": ["example.com/f", "example.com/g"]}})
    assert (refused.code, refused.document["details"]["causes"][0]["field"]) == (422, "metadata.finalizers")
    gone = await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"finalizers": None}})
    assert (gone.code, gone.document["metadata"]["resourceVersion"]) == (200, waiting["metadata"]["resourceVersion"])
    assert (await api.get(f"{CONFIGMAPS}/a")).code == 404


@pytest.mark.parametrize(
    "selector, names",
    [
        pytest.param("n>9", ["c10"], id="more than"),
        pytest.param("n<10", ["c9"], id="less than"),
        pytest.param("n>8,n<10", ["c9"], id="between"),
        pytest.param("n>x", None, id="than what is no number"),
    ],
)
async def test_labels_compare_as_numbers(api: Any, selector: str, names: list[str] | None) -> None:
    for value in ("9", "10", "x"):
        await api.made(CONFIGMAPS, {"metadata": {"name": f"c{value}", "labels": {"n": value}}})
    got = await api.get(f"{CONFIGMAPS}?labelSelector={selector.replace('<', '%3C').replace('>', '%3E')}")
    if names is None:
        assert got.code == 400
    else:
        assert [item["metadata"]["name"] for item in got.document["items"]] == names
        assert all("kind" not in item for item in got.document["items"])
