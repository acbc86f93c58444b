"""Discovery, plain and aggregated, and the version."""

from __future__ import annotations

import json
from typing import Any

import pytest

from twinstack.api.resources import SERVED
from twinstack.apiserver.discovery import Discovery

DISCOVERY = Discovery(server_address="192.0.2.1:6443")
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"


def document(path: str, accept: str = "application/json") -> dict[str, Any]:
    reply = DISCOVERY.answer(path, accept)
    assert reply is not None and reply.status == 200
    result: dict[str, Any] = json.loads(reply.body)
    return result


def test_the_core_group_tells_its_versions_and_where_the_server_is() -> None:
    assert document("/api")["versions"] == ["v1"]
    assert document("/api")["serverAddressByClientCIDRs"][0]["serverAddress"] == "192.0.2.1:6443"


def test_every_group_is_listed_and_has_a_document_of_its_own() -> None:
    groups = document("/apis")["groups"]
    assert {group["name"] for group in groups} == {resource.group for resource in SERVED if resource.group}
    for group in groups:
        assert document(f"/apis/{group['name']}") == {"kind": "APIGroup", "apiVersion": "v1", **group}
        assert group["preferredVersion"] in group["versions"]


def test_every_resource_and_subresource_is_listed_with_its_verbs() -> None:
    for resource in SERVED:
        listed = document(resource.path().rpartition("/")[0])
        assert listed["groupVersion"] == resource.api_version
        rows = {row["name"]: row for row in listed["resources"]}
        assert rows[resource.plural]["verbs"] == list(resource.verbs)
        assert rows[resource.plural].get("shortNames", []) == list(resource.short_names)
        for sub in resource.subresources:
            assert rows[f"{resource.plural}/{sub.name}"]["verbs"] == list(sub.verbs)


def test_a_scale_says_of_which_group_it_is() -> None:
    rows = {row["name"]: row for row in document("/apis/apps/v1")["resources"]}
    assert (rows["deployments/scale"]["group"], rows["deployments/scale"]["version"], rows["deployments/scale"]["kind"]) == ("autoscaling", "v1", "Scale")


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_the_aggregated_documents_hold_the_same_resources(version: str) -> None:
    accept = AGGREGATED.format(version) + ",application/json"
    found = set()
    for path in ("/api", "/apis"):
        reply = DISCOVERY.answer(path, accept)
        assert reply is not None and reply.content_type == AGGREGATED.format(version)
        listed = document(path, accept)
        assert (listed["kind"], listed["apiVersion"]) == ("APIGroupDiscoveryList", f"apidiscovery.k8s.io/{version}")
        for group in listed["items"]:
            for one in group["versions"]:
                found |= {(group["metadata"]["name"], one["version"], row["resource"], len(row.get("subresources", []))) for row in one["resources"]}
    assert found == {(r.group, r.version, r.plural, len(r.subresources)) for r in SERVED}


@pytest.mark.parametrize(
    "accept, kind",
    [
        pytest.param("application/json, " + AGGREGATED.format("v2"), "APIGroupList", id="the plain one asked first"),
        pytest.param(AGGREGATED.format("v3") + "," + AGGREGATED.format("v2"), "APIGroupDiscoveryList", id="the first version that we have"),
        pytest.param(AGGREGATED.format("v3") + ",application/json", "APIGroupList", id="a version that we do not have"),
        pytest.param("", "APIGroupList", id="nothing said"),
    ],
)
def test_the_client_says_which_form_it_wants(accept: str, kind: str) -> None:
    assert document("/apis", accept)["kind"] == kind


def test_the_version_is_one_that_clients_can_compare() -> None:
    version = document("/version")
    assert (version["major"], version["minor"]) == ("1", "36")
    assert version["gitVersion"].startswith("v1.36.2")


def test_the_root_lists_paths_that_answer() -> None:
    paths = document("/")["paths"]
    assert {"/api", "/api/v1", "/apis", "/apis/apps/v1", "/version", "/openapi/v2", "/openapi/v3", "/readyz"} <= set(paths)
    for path in paths:
        if path.startswith(("/api", "/version")):
            assert DISCOVERY.answer(path) is not None, path


@pytest.mark.parametrize("path", ["/api/v2", "/apis/nothing", "/apis/apps/v9", "/apis/apps/v1/deployments", "/else"])
def test_what_is_not_served_has_no_document(path: str) -> None:
    assert DISCOVERY.answer(path) is None


def test_a_slash_at_the_end_changes_nothing() -> None:
    assert document("/apis/") == document("/apis")
