"""How odd requests are answered: as Kubernetes answers them, code by code."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

NAMESPACE = "/api/v1/namespaces/default"
CONFIGMAPS = f"{NAMESPACE}/configmaps"


def configmap(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"k": "v"}, **fields}


def causes(got: Any) -> list[tuple[str, str]]:
    return [(one["field"], one["reason"]) for one in got.document["details"].get("causes", ())]


async def test_yaml_is_answered_where_it_is_the_first_choice(api: Any) -> None:
    made = await api.ask("POST", CONFIGMAPS, b"metadata: {name: a}\ndata: {k: 'yes'}\n", headers={"Content-Type": "application/yaml"})
    assert made.code == 201
    got = await api.get(f"{CONFIGMAPS}/a", Accept="application/yaml")
    assert got.headers["Content-Type"] == "application/yaml"
    assert yaml.safe_load(got.document)["data"] == {"k": "yes"}
    missing = await api.get(f"{CONFIGMAPS}/b", Accept="application/yaml")
    assert (missing.code, yaml.safe_load(missing.document)["reason"]) == (404, "NotFound")
    assert (await api.get(f"{CONFIGMAPS}?watch=true", Accept="application/yaml")).code == 406


@pytest.mark.parametrize(
    "query, agent, is_long",
    [
        pytest.param("", "kubectl/v1.36.2", False, id="a program gets what is short"),
        pytest.param("?pretty=true", "kubectl/v1.36.2", True, id="who asks for lines gets them"),
        pytest.param("", "curl/8.0", True, id="who reads from curl gets lines unasked"),
        pytest.param("?pretty=0", "curl/8.0", False, id="unless they are declined"),
    ],
)
async def test_json_is_set_in_lines_for_people(api: Any, query: str, agent: str, is_long: bool) -> None:
    await api.made(CONFIGMAPS, {"metadata": {"name": "a"}, "data": {"k": "{'a':  1}"}})
    plain = await api.get(f"{CONFIGMAPS}/a")
    got = await api.get(f"{CONFIGMAPS}/a{query}", **{"User-Agent": agent})
    assert got.document == plain.document
    assert (int(got.headers["Content-Length"]) > int(plain.headers["Content-Length"])) == is_long
    listed = await api.get(f"{CONFIGMAPS}{query}", **{"User-Agent": agent})
    assert listed.document["items"][0]["data"] == {"k": "{'a':  1}"}


async def test_everybody_who_comes_through_a_deprecated_door_is_told(api: Any) -> None:
    endpoints = f"{NAMESPACE}/endpoints"
    good = {"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 80}]}]}
    bad = {"metadata": {"name": "f"}, "subsets": [{}]}
    answers = [await api.post(endpoints, good), await api.get(f"{endpoints}/e"), await api.get(endpoints), await api.post(endpoints, bad)]
    assert [one.code for one in answers] == [201, 200, 200, 422]
    assert all("EndpointSlice" in one.headers["Warning"] for one in answers)


@pytest.mark.parametrize(
    "method, path, body, code, reason",
    [
        pytest.param("PUT", "/a", {"metadata": {}}, 400, "BadRequest", id="a PUT that does not say its name"),
        pytest.param("DELETE", "/a", {"kind": "ConfigMap", "apiVersion": "v1"}, 400, "BadRequest", id="a deletion whose options are another kind"),
        pytest.param("DELETE", "/a", {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}, 200, "", id="one whose options are options"),
        pytest.param("DELETE", "/a?dryRun=Some", None, 422, "Invalid", id="a dry run of another kind"),
        pytest.param("POST", "", b"null", 422, "Invalid", id="an object of which nothing is said"),
        pytest.param("POST", "", b"[]", 400, "BadRequest", id="a list"),
        pytest.param("POST", "", {**configmap("b"), "kind": "", "apiVersion": ""}, 201, "", id="a kind that is left empty"),
    ],
)
async def test_odd_requests(api: Any, method: str, path: str, body: Any, code: int, reason: str) -> None:
    await api.made(CONFIGMAPS, configmap())
    got = await api.ask(method, CONFIGMAPS + path, body)
    assert (got.code, got.reason) == (code, reason), got.document


async def test_a_strict_patch_with_an_unknown_field_is_wrong_itself(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap())
    got = await api.patch(f"{CONFIGMAPS}/a?fieldValidation=Strict", {"extra": 1})
    assert (got.code, causes(got)) == (422, [("patch", "FieldValueInvalid")])
    warned = await api.patch(f"{CONFIGMAPS}/a", {"extra": 1})
    assert warned.code == 200 and 'unknown field \\"extra\\"' in warned.headers["Warning"]


async def test_the_items_of_a_deleted_collection_do_not_say_what_they_are(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap("a"))
    await api.made(CONFIGMAPS, configmap("b"))
    gone = (await api.delete(f"{CONFIGMAPS}?labelSelector=!x")).document
    assert gone["kind"] == "ConfigMapList"
    assert [sorted(one) for one in gone["items"]] == [["data", "metadata"]] * len(gone["items"])
    assert (await api.get(CONFIGMAPS)).document["items"] == []


async def test_a_table_without_objects_says_null_and_kubectl_gets_columns_of_its_own(api: Any) -> None:
    table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    plain = (await api.get(f"{NAMESPACE}/services?includeObject=None", Accept=table)).document
    people = (await api.get(f"{NAMESPACE}/services", Accept=table, **{"User-Agent": "kubectl/v1.36.0 (linux/amd64)"})).document
    assert plain["rows"][0]["object"] is None
    more = [column["name"] for column in people["columnDefinitions"][len(plain["columnDefinitions"]) :]]
    assert more == ["Cluster-IPs", "IP-Families"]
    async with api.watch(f"{NAMESPACE}/services", Accept=table, **{"User-Agent": "kubectl/v1.36.0 (linux/amd64)"}) as watch:
        event = await watch.next()
    assert len(event["object"]["rows"][0]["cells"]) == len(people["columnDefinitions"])


async def test_a_precondition_that_fails_names_the_kind(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap())
    got = await api.delete(f"{CONFIGMAPS}/a", {"preconditions": {"uid": "other"}})
    assert (got.code, got.document["details"]) == (409, {"name": "a", "kind": "ConfigMap"})


async def test_a_lease_update_says_which_version_it_changes(api: Any) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = {"metadata": {"name": "a"}, "spec": {"holderIdentity": "h"}}
    await api.made(leases, lease)
    got = await api.put(f"{leases}/a", lease)
    assert (got.code, got.document["details"]["kind"], causes(got)) == (422, "leases", [("metadata.resourceVersion", "FieldValueInvalid")])


@pytest.mark.parametrize(
    "method, path, code, kind",
    [
        pytest.param("GET", "/nothing", 404, "text/plain", id="a path that is nobody's"),
        pytest.param("GET", "/apis/example.com/v1", 404, "text/plain", id="a group that is not served"),
        pytest.param("GET", "/apis/example.com/v1/namespaces/default/things/a", 404, "text/plain", id="an object of it"),
        pytest.param("GET", "/readyz/nothing", 404, "text/plain", id="a check that there is not"),
        pytest.param("GET", "/apis/apps/v9/deployments", 404, "application/json", id="a version that is not served"),
        pytest.param("GET", "/apis/apps/v1/things", 404, "application/json", id="a resource that is not served"),
        pytest.param("POST", "/version", 405, "application/json", id="the version cannot be changed"),
        pytest.param("DELETE", "/api/v1", 405, "application/json", id="nor can what is served"),
        pytest.param("HEAD", "/apis", 405, "application/json", id="the head of a discovery document"),
        pytest.param("HEAD", CONFIGMAPS, 405, "application/json", id="the head of a list"),
        pytest.param("OPTIONS", f"{CONFIGMAPS}/a", 405, "application/json", id="what else one may ask"),
        pytest.param("HEAD", "/healthz", 200, "text/plain", id="the head of a health check"),
    ],
)
async def test_what_leads_to_nothing(api: Any, method: str, path: str, code: int, kind: str) -> None:
    got = await api.ask(method, path)
    assert (got.code, got.headers["Content-Type"].partition(";")[0]) == (code, kind)


async def test_a_watch_may_be_asked_for_by_its_path_as_long_ago(api: Any) -> None:
    await api.made(CONFIGMAPS, configmap())
    await api.made(CONFIGMAPS, configmap("b"))
    async with api.watch("/api/v1/watch/namespaces/default/configmaps/b") as watch:
        assert await watch.take(1) == [("ADDED", "b")]
    async with api.watch("/api/v1/watch/configmaps?fieldSelector=metadata.name=a") as watch:
        assert await watch.take(1) == [("ADDED", "a")]
    assert (await api.get("/api/v1/watch/namespaces/default/configmaps/b/status")).code == 404


async def test_documents_are_asked_for_again_by_what_names_their_contents(api: Any) -> None:
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    tag = (await api.get("/apis", Accept=aggregated)).headers["ETag"]
    assert (await api.ask("GET", "/apis", headers={"Accept": aggregated, "If-None-Match": tag})).code == 304
    right = (await api.get("/openapi/v3")).document["paths"]["api/v1"]["serverRelativeURL"]
    followed = await api.get("/openapi/v3/api/v1?hash=old")
    assert followed.headers["ETag"] == (await api.get(right)).headers["ETag"]


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_both_versions_of_tables_and_metadata_are_served(api: Any, version: str) -> None:
    await api.made(CONFIGMAPS, configmap())

    def accept(kind: str) -> str:
        return f"application/json;as={kind};v={version};g=meta.k8s.io"

    table = (await api.get(CONFIGMAPS, Accept=accept("Table"))).document
    assert {table["apiVersion"], table["rows"][0]["object"]["apiVersion"]} == {f"meta.k8s.io/{version}"}
    listed = (await api.get(CONFIGMAPS, Accept=accept("PartialObjectMetadataList"))).document
    one = (await api.get(f"{CONFIGMAPS}/a", Accept=accept("PartialObjectMetadata"))).document
    assert {listed["apiVersion"], listed["items"][0]["apiVersion"], one["apiVersion"]} == {f"meta.k8s.io/{version}"}
    assert (await api.get(CONFIGMAPS, Accept=accept("PartialObjectMetadata"))).code == 406
    assert (await api.get(f"{CONFIGMAPS}/a", Accept=accept("PartialObjectMetadataList"))).code == 406
    async with api.watch(CONFIGMAPS, Accept=accept("PartialObjectMetadata")) as watch:
        assert (await watch.next())["object"]["apiVersion"] == f"meta.k8s.io/{version}"
