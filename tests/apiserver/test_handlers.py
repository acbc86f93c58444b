"""What each verb does, tried on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def configmap(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": [{"port": 80}], **spec}}


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "twinstack.dev/host:1", "command": ["sleep", "1"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": {"containers": [container]}}


def deployment(name: str, replicas: int = 1) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod("x")["spec"]}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


# ---- create and get


async def test_what_was_created_is_got_and_has_system_metadata(api: Any) -> None:
    made = await api.made(CONFIGMAPS, configmap("a", key="value"))
    got = await api.get(f"{CONFIGMAPS}/a")
    assert got.document == made
    metadata = made["metadata"]
    assert len(metadata["uid"]) == 36 and metadata["uid"][14] == "4"
    assert metadata["creationTimestamp"].endswith("Z") and int(metadata["resourceVersion"]) > 0
    assert (metadata["namespace"], made["data"]) == ("default", {"key": "value"})


async def test_a_name_is_taken_once(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    got = await api.post(CONFIGMAPS, configmap("a"))
    assert (got.code, got.reason, got.message) == (409, "AlreadyExists", 'configmaps "a" already exists')


async def test_a_generated_name_begins_as_asked_and_differs_each_time(api: Any) -> None:
    body = {"metadata": {"generateName": "web-"}}
    names = {(await api.made(CONFIGMAPS, body))["metadata"]["name"] for _ in range(10)}
    assert len(names) == 10 and all(name.startswith("web-") and len(name) == 9 for name in names)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "a"}}, 400, "does not match the expected kind", id="another kind"),
        pytest.param({"apiVersion": "v2", "metadata": {"name": "a"}}, 400, "does not match the expected API version", id="another version"),
        pytest.param({"metadata": {"name": "a", "namespace": "other"}}, 400, "namespace of the provided object", id="another namespace"),
        pytest.param({"metadata": {"name": "a", "resourceVersion": "3"}}, 400, "resourceVersion should not be set", id="a resourceVersion"),
        pytest.param({"metadata": {}}, 422, "name or generateName is required", id="no name"),
        pytest.param({"metadata": {"name": "UPPER"}}, 422, "metadata.name", id="a bad name"),
        pytest.param({"metadata": {"name": "a"}, "data": {"k": 5}}, 400, "", id="a number for a text"),
        pytest.param({"metadata": {"name": "a", "labels": ["x"]}}, 400, "", id="a list for labels"),
        pytest.param({"metadata": 5}, 400, "", id="no metadata"),
        pytest.param([], 400, "JSON object", id="a list"),
        pytest.param(b"{", 400, "not JSON", id="half a document"),
        pytest.param(b"[" * 100_000, 400, "nested", id="too deep"),
        pytest.param(b"x" * (3 * 1024 * 1024 + 1), 413, "too large", id="too large"),
    ],
)
async def test_a_body_that_will_not_do_is_refused(api: Any, body: Any, code: int, words: str) -> None:
    got = await api.post(CONFIGMAPS, body)
    assert (got.code, got.document["kind"], got.document["status"]) == (code, "Status", "Failure")
    assert words in got.message


async def test_yaml_is_read_as_json_is(api: Any) -> None:
    body = b"metadata:\n  name: a\n  creationTimestamp: null\ndata:\n  when: 2026-01-02\n  yes: 'true'\n"
    got = await api.ask("POST", CONFIGMAPS, body, headers={"Content-Type": "application/yaml"})
    # YAML 1.1 reads a bare yes as true, which JSON has no key for but the text.
    assert got.document["data"] == {"when": "2026-01-02", "true": "true"}


async def test_yaml_aliases_are_refused(api: Any) -> None:
    got = await api.ask("POST", CONFIGMAPS, b"metadata: {name: &a x}\ndata: {k: *a}\n", headers={"Content-Type": "application/yaml"})
    assert (got.code, "aliases" in got.message) == (400, True)


PROTOBUF = {"Content-Type": "application/vnd.kubernetes.protobuf"}
# what kubectl sends for: create configmap c --from-literal=a=b; and client-go for DeleteOptions{GracePeriodSeconds: 0, DryRun: [All]}
CONFIGMAP_IN_PROTOBUF = bytes.fromhex("6b3873000a0f0a0276311209436f6e6669674d6170121b0a110a016312001a0022002a0032003800420012060a01611201621a002200")
OPTIONS_IN_PROTOBUF = bytes.fromhex("6b3873000a130a027631120d44656c6574654f7074696f6e73120708002a03416c6c")


async def test_a_protobuf_body_is_the_same_object_as_its_json(api: Any) -> None:
    by_json = await api.ask("POST", CONFIGMAPS + "?dryRun=All", {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}})
    got = await api.ask("POST", CONFIGMAPS, CONFIGMAP_IN_PROTOBUF, headers=PROTOBUF)
    assert (got.code, got.document["data"], by_json.code) == (201, {"a": "b"}, 201)
    for document in (by_json.document, got.document):
        for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            document["metadata"].pop(name, None)
    assert got.document == by_json.document


async def test_the_options_of_a_deletion_may_be_protobuf(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    got = await api.ask("DELETE", CONFIGMAPS + "/a", OPTIONS_IN_PROTOBUF, headers=PROTOBUF)
    assert got.code == 200 and (await api.get(CONFIGMAPS + "/a")).code == 200, "it was dry"


async def test_broken_protobuf_and_another_kind_are_bad_requests(api: Any) -> None:
    for body in (b"", b"{}", CONFIGMAP_IN_PROTOBUF[:30], CONFIGMAP_IN_PROTOBUF.replace(b"ConfigMap", b"ConfigMop"), OPTIONS_IN_PROTOBUF):
        got = await api.ask("POST", CONFIGMAPS, body, headers=PROTOBUF)
        assert (got.code, got.reason) == (400, "BadRequest"), body


async def test_unknown_fields_are_warned_of_or_refused(api: Any) -> None:
    body = {**configmap("a"), "dta": {"k": "v"}}
    got = await api.post(CONFIGMAPS + "?fieldValidation=Strict", body)
    assert got.code == 400 and 'unknown field "dta"' in got.message
    got = await api.post(CONFIGMAPS, body)
    assert got.code == 201 and got.headers["Warning"] == '299 - "unknown field \\"dta\\""'


async def test_what_does_not_exist_is_not_found(api: Any) -> None:
    got = await api.get(f"{CONFIGMAPS}/none")
    assert (got.code, got.message) == (404, 'configmaps "none" not found')
    assert got.document["details"] == {"name": "none", "kind": "configmaps"}
    got = await api.get("/api/v1/namespaces/default/nothings/x")
    assert (got.code, got.message) == (404, "the server could not find the requested resource")
    assert (await api.delete("/api/v1/namespaces")).code == 405


async def test_a_dry_run_keeps_nothing(api: Any) -> None:
    got = await api.post(SERVICES + "?dryRun=All", service("web", ipFamilyPolicy="RequireDualStack"))
    assert got.code == 201 and len(got.document["spec"]["clusterIPs"]) == 2
    assert (await api.get(f"{SERVICES}/web")).code == 404
    before = (await api.get("/apis/networking.k8s.io/v1/ipaddresses")).document["items"]
    await api.made(CONFIGMAPS, configmap("a"))
    assert (await api.patch(f"{CONFIGMAPS}/a?dryRun=All", {"data": {"k": "v"}})).document["data"] == {"k": "v"}
    assert (await api.delete(f"{CONFIGMAPS}/a?dryRun=All")).code == 200
    assert "data" not in (await api.get(f"{CONFIGMAPS}/a")).document or (await api.get(f"{CONFIGMAPS}/a")).document["data"] == {}
    assert (await api.get("/apis/networking.k8s.io/v1/ipaddresses")).document["items"] == before
    refused = await api.post(CONFIGMAPS + "?dryRun=Some", configmap("b"))
    assert (refused.code, refused.document["details"]["kind"]) == (422, "CreateOptions")


# ---- what is written beside the object


async def test_a_service_and_its_addresses_are_written_together_and_go_together(api: Any) -> None:
    made = await api.made(SERVICES, service("web", ipFamilyPolicy="RequireDualStack"))
    addresses = made["spec"]["clusterIPs"]
    records = [(await api.get(f"/apis/networking.k8s.io/v1/ipaddresses/{address}")).document for address in addresses]
    assert [record["spec"]["parentRef"]["name"] for record in records] == ["web", "web"]
    revision = int(made["metadata"]["resourceVersion"])
    assert [int(record["metadata"]["resourceVersion"]) for record in records] == [revision + 1, revision + 2]
    assert (await api.delete(f"{SERVICES}/web")).code == 200
    assert [(await api.get(f"/apis/networking.k8s.io/v1/ipaddresses/{address}")).code for address in addresses] == [404, 404]


async def test_a_failed_create_gives_its_addresses_back(api: Any) -> None:
    wanted = "10.96.7.7"
    got = await api.post(SERVICES, service("web", clusterIP=wanted, ports=[{"port": 80}, {"port": 81}]))
    assert got.code == 422, "two ports without names"
    assert (await api.made(SERVICES, service("web", clusterIP=wanted)))["spec"]["clusterIP"] == wanted


async def test_many_services_at_once_never_share_an_address(api: Any) -> None:
    made = await asyncio.gather(*(api.made(SERVICES, service(f"web-{n}", ipFamilyPolicy="RequireDualStack")) for n in range(60)))
    addresses = [address for one in made for address in one["spec"]["clusterIPs"]]
    assert len(set(addresses)) == 120


# ---- update and patch


async def test_an_update_with_a_stale_version_is_a_conflict(api: Any) -> None:
    first = await api.made(CONFIGMAPS, configmap("a", k="1"))
    second = await api.put(f"{CONFIGMAPS}/a", {**first, "data": {"k": "2"}})
    assert second.code == 200 and int(second.document["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    got = await api.put(f"{CONFIGMAPS}/a", {**first, "data": {"k": "3"}})
    assert (got.code, got.reason) == (409, "Conflict")
    assert "the object has been modified" in got.message


async def test_an_update_without_a_version_is_unconditional_and_keeps_system_metadata(api: Any) -> None:
    first = await api.made(CONFIGMAPS, configmap("a", k="1"))
    got = await api.put(f"{CONFIGMAPS}/a", configmap("a", k="2"))
    assert got.code == 200
    for field in ("uid", "creationTimestamp"):
        assert got.document["metadata"][field] == first["metadata"][field]


async def test_an_update_that_changes_nothing_writes_nothing(api: Any) -> None:
    first = await api.made(SERVICES, service("web"))
    got = await api.put(f"{SERVICES}/web", first)
    assert got.document == first
    got = await api.patch(f"{SERVICES}/web", {"spec": {"type": "ClusterIP"}})
    assert got.document == first


async def test_an_update_must_be_of_the_object_that_the_path_names(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    assert (await api.put(f"{CONFIGMAPS}/a", configmap("b"))).code == 400
    wrong = configmap("a")
    wrong["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555"
    got = await api.put(f"{CONFIGMAPS}/a", wrong)
    assert (got.code, got.reason) == (409, "Conflict")


async def test_an_update_creates_where_the_kind_allows_it_and_under_the_paths_name_only(api: Any) -> None:
    got = await api.put(f"{SERVICES}/web", service("other"))
    assert got.code == 400
    got = await api.put(f"{SERVICES}/web", service("web"))
    assert (got.code, got.document["metadata"]["name"]) == (201, "web")
    got = await api.put("/api/v1/nodes/node1", {"metadata": {"name": "node1"}})
    assert got.code == 404


async def test_what_is_under_way_when_the_server_stops_is_finished_and_kept(serve: Any) -> None:
    api = await serve()
    posts = [asyncio.ensure_future(api.post(CONFIGMAPS, configmap(f"c{number}"))) for number in range(20)]
    await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    await api.stop()
    results = await asyncio.gather(*posts, return_exceptions=True)
    acknowledged = {f"c{number}" for number, result in enumerate(results) if getattr(result, "code", 0) == 201}
    api = await serve()
    assert acknowledged and acknowledged <= {one["metadata"]["name"] for one in (await api.get(CONFIGMAPS)).document["items"]}


async def test_each_kind_of_patch_is_applied(api: Any) -> None:
    await api.made(SERVICES, service("web"))
    path = f"{SERVICES}/web"
    merged = await api.patch(path, {"metadata": {"labels": {"a": "1"}}})
    assert merged.document["metadata"]["labels"] == {"a": "1"}
    added = await api.patch(path, [{"op": "add", "path": "/metadata/labels/b", "value": "2"}], "json-patch")
    assert added.document["metadata"]["labels"] == {"a": "1", "b": "2"}
    strategic = await api.patch(path, {"spec": {"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "more"}]}}, "strategic-merge-patch")
    assert sorted(port["name"] for port in strategic.document["spec"]["ports"]) == ["http", "more"]
    removed = await api.patch(path, {"metadata": {"labels": None}})
    assert "labels" not in removed.document["metadata"]


async def test_a_patch_that_names_a_version_is_conditional(api: Any) -> None:
    first = await api.made(CONFIGMAPS, configmap("a"))
    version = first["metadata"]["resourceVersion"]
    assert (await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"resourceVersion": version}, "data": {"k": "1"}})).code == 200
    got = await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"resourceVersion": version}, "data": {"k": "2"}})
    assert (got.code, got.reason) == (409, "Conflict")


async def test_patches_at_once_are_all_applied(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    results = await asyncio.gather(*(api.patch(f"{CONFIGMAPS}/a", {"data": {f"k{n}": "v"}}) for n in range(5)))
    assert {result.code for result in results} == {200}
    assert len((await api.get(f"{CONFIGMAPS}/a")).document["data"]) == 5


async def test_generation_counts_the_changes_of_the_spec(api: Any) -> None:
    assert (await api.made(DEPLOYMENTS, deployment("web")))["metadata"]["generation"] == 1
    assert (await api.patch(f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"a": "b"}}})).document["metadata"]["generation"] == 1
    assert (await api.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 3}})).document["metadata"]["generation"] == 2
    assert (await api.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 3}})).document["metadata"]["generation"] == 2


# ---- doors


async def test_status_is_changed_by_its_own_door_only(api: Any) -> None:
    made = await api.made(DEPLOYMENTS, {**deployment("web"), "status": {"replicas": 9}})
    assert made.get("status", {}).get("replicas", 0) == 0
    got = await api.patch(f"{DEPLOYMENTS}/web/status", {"status": {"replicas": 2}, "spec": {"replicas": 7}})
    assert (got.document["status"]["replicas"], got.document["spec"]["replicas"]) == (2, 1)
    got = await api.patch(f"{DEPLOYMENTS}/web", {"status": {"replicas": 5}, "spec": {"replicas": 7}})
    assert (got.document["status"]["replicas"], got.document["spec"]["replicas"]) == (2, 7)


async def test_scale_shows_and_changes_the_replicas(api: Any) -> None:
    await api.made(DEPLOYMENTS, deployment("web", 2))
    scale = (await api.get(f"{DEPLOYMENTS}/web/scale")).document
    assert (scale["kind"], scale["spec"], scale["status"]) == ("Scale", {"replicas": 2}, {"replicas": 0, "selector": "app=web"})
    got = await api.put(f"{DEPLOYMENTS}/web/scale", {**scale, "spec": {"replicas": 4}})
    assert (got.code, got.document["spec"]) == (200, {"replicas": 4})
    assert (await api.put(f"{DEPLOYMENTS}/web/scale", {**scale, "spec": {"replicas": 5}})).code == 409
    assert (await api.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": 6}})).document["spec"] == {"replicas": 6}
    assert (await api.get(f"{DEPLOYMENTS}/web")).document["spec"]["replicas"] == 6
    assert (await api.patch(f"{DEPLOYMENTS}/web/scale", {"spec": {"replicas": -1}})).code == 422


async def test_a_binding_gives_a_pod_its_node_once(api: Any) -> None:
    made = await api.made(PODS, pod("web"))
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web", "uid": made["metadata"]["uid"]}, "target": {"kind": "Node", "name": "node1"}}
    got = await api.post(f"{PODS}/web/binding", binding)
    assert (got.code, got.document["status"]) == (201, "Success")
    bound = (await api.get(f"{PODS}/web")).document
    assert bound["spec"]["nodeName"] == "node1"
    assert [(one["type"], one["status"]) for one in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    got = await api.post(f"{PODS}/web/binding", {**binding, "target": {"name": "node2"}})
    assert (got.code, got.reason) == (409, "Conflict")
    assert 'already assigned to node "node1"' in got.message
    assert (await api.post(f"{PODS}/none/binding", {**binding, "metadata": {}})).code == 404
    assert (await api.post(f"{PODS}/web/binding", {"metadata": {}, "target": {}})).code == 422


# ---- deletion


async def test_a_pod_goes_after_its_grace_period_when_its_agent_says_so(api: Any) -> None:
    await api.made(PODS, pod("web"))
    await api.post(f"{PODS}/web/binding", {"metadata": {}, "target": {"name": "node1"}})
    got = await api.delete(f"{PODS}/web")
    metadata = got.document["metadata"]
    assert (got.code, metadata["deletionGracePeriodSeconds"]) == (200, 30) and metadata["deletionTimestamp"]
    again = await api.delete(f"{PODS}/web", {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 5})
    assert again.document["metadata"]["deletionGracePeriodSeconds"] == 5
    assert (await api.delete(f"{PODS}/web?gracePeriodSeconds=50")).document["metadata"]["deletionGracePeriodSeconds"] == 5
    assert (await api.delete(f"{PODS}/web", {"gracePeriodSeconds": 0})).code == 200
    assert (await api.get(f"{PODS}/web")).code == 404


async def test_a_deletion_with_preconditions_spares_another_object_of_that_name(api: Any) -> None:
    made = await api.made(CONFIGMAPS, configmap("a"))
    for field, value in (("uid", "11111111-2222-3333-4444-555555555555"), ("resourceVersion", "1")):
        got = await api.delete(f"{CONFIGMAPS}/a", {"preconditions": {field: value}})
        assert (got.code, got.reason) == (409, "Conflict")
    got = await api.delete(f"{CONFIGMAPS}/a", {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (got.code, got.document["status"], got.document["details"]["name"]) == (200, "Success", "a")


@pytest.mark.parametrize(
    ("policy", "finalizers"),
    [("Orphan", ["example.com/mine", "orphan"]), ("Foreground", ["example.com/mine", "foregroundDeletion"]), ("Background", ["example.com/mine"])],
)
async def test_finalizers_hold_an_object_and_the_policy_adds_its_own(api: Any, policy: str, finalizers: list[str]) -> None:
    body = configmap("a")
    body["metadata"]["finalizers"] = ["example.com/mine"]
    await api.made(CONFIGMAPS, body)
    got = await api.delete(f"{CONFIGMAPS}/a", {"propagationPolicy": policy})
    assert (got.code, got.document["metadata"]["finalizers"]) == (200, finalizers)
    more = await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"finalizers": [*finalizers, "example.com/late"]}})
    assert more.code == 422
    gone = await api.patch(f"{CONFIGMAPS}/a", {"metadata": {"finalizers": None}})
    assert gone.code == 200
    assert (await api.get(f"{CONFIGMAPS}/a")).code == 404


async def test_a_collection_is_deleted_by_selector(api: Any) -> None:
    for number in range(6):
        body = configmap(f"c{number}")
        body["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        await api.made(CONFIGMAPS, body)
    got = await api.delete(CONFIGMAPS + "?labelSelector=parity=even")
    assert (got.code, len(got.document["items"])) == (200, 3)
    names = [one["metadata"]["name"] for one in (await api.get(CONFIGMAPS)).document["items"]]
    assert names == ["c1", "c3", "c5"]


# ---- namespaces


async def test_nothing_is_created_in_a_namespace_that_does_not_exist(api: Any) -> None:
    got = await api.post("/api/v1/namespaces/none/configmaps", configmap("a"))
    assert (got.code, got.message) == (404, 'namespaces "none" not found')


async def test_a_namespace_goes_when_its_finalizers_are_done(api: Any) -> None:
    made = await api.made("/api/v1/namespaces", {"metadata": {"name": "gone"}})
    assert (made["spec"]["finalizers"], made["status"]["phase"]) == (["kubernetes"], "Active")
    got = await api.delete("/api/v1/namespaces/gone")
    assert got.document["status"]["phase"] == "Terminating" and got.document["metadata"]["deletionTimestamp"]
    got = await api.post("/api/v1/namespaces/gone/configmaps", configmap("a"))
    assert (got.code, got.reason) == (403, "Forbidden")
    assert got.document["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    namespace = (await api.get("/api/v1/namespaces/gone")).document
    namespace["spec"]["finalizers"] = []
    assert (await api.put("/api/v1/namespaces/gone/finalize", namespace)).code == 200
    assert (await api.get("/api/v1/namespaces/gone")).code == 404


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
async def test_the_namespaces_that_everything_needs_stay(api: Any, name: str) -> None:
    got = await api.delete(f"/api/v1/namespaces/{name}")
    assert (got.code, got.reason) == (403, "Forbidden")
