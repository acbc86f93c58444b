"""The published schema: complete for what is served, and in the forms that clients read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from twinstack.api.errors import BadRequest
from twinstack.api.patches import strategic_merge_patch
from twinstack.api.resources import BY_KIND, SERVED
from twinstack.api.schema import Schema, examine
from twinstack.apiserver import gnostic
from twinstack.apiserver.openapi import OpenAPI, SchemaMissing


@pytest.fixture(scope="module")
def openapi() -> OpenAPI:
    return OpenAPI()


def schema(openapi: OpenAPI, kind: str, api_version: str = "v1") -> Schema:
    return openapi.schema_of(BY_KIND[api_version, kind])


def document(openapi: OpenAPI, path: str, accept: str = "application/json") -> dict[str, Any]:
    reply = openapi.answer(path, accept)
    assert reply is not None and reply.status == 200
    result: dict[str, Any] = json.loads(reply.body)
    return result


def test_every_kind_and_what_passes_through_its_side_doors_has_a_schema(openapi: OpenAPI) -> None:
    for resource in SERVED:
        assert {"apiVersion", "kind", "metadata"} <= set(openapi.schema_of(resource).fields)
        for sub in resource.subresources:
            if not sub.stream:
                assert openapi.schema_of(resource, sub.name).fields
    assert openapi.schema_of(BY_KIND["apps/v1", "Deployment"], "scale").name.endswith("autoscaling.v1.Scale")


@pytest.mark.parametrize(("path", "inside"), [("/openapi/v2", ""), ("/openapi/v3/api/v1", "content")])
def test_a_stream_is_told_by_its_parameters(openapi: OpenAPI, path: str, inside: str) -> None:
    told = document(openapi, path)["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]
    for method in ("get", "post"):
        operation = told[method]
        assert operation["operationId"] == f"connectCoreV1{method.capitalize()}NamespacedPodExec"
        assert operation["x-kubernetes-action"] == "connect"
        assert operation["x-kubernetes-group-version-kind"]["kind"] == "PodExecOptions"
        assert {one["name"] for one in operation["parameters"]} == {"command", "container", "stderr", "stdin", "stdout", "tty"}
        assert (inside in operation["responses"]["200"]) is bool(inside)
        assert "requestBody" not in operation


def test_a_kind_that_is_not_known_is_told(openapi: OpenAPI) -> None:
    with pytest.raises(SchemaMissing, match="no kind Unicorn"):
        openapi.schema_of_kind("", "v1", "Unicorn")


def test_the_marks_that_patches_need_are_there(openapi: OpenAPI) -> None:
    """The lists whose merge keys the specification tells of (spec/api.md 12, 17; spec/node.md 3.3, 3.5)."""
    assert schema(openapi, "Service").at("spec").at("ports").merge_key == "port"
    assert schema(openapi, "Service").at("spec").at("ports").list_keys == ("port", "protocol")
    assert schema(openapi, "Service").at("spec").at("clusterIPs").list_type == "atomic"
    assert schema(openapi, "Node").at("status").at("addresses").merge_key == "type"
    assert schema(openapi, "Pod").at("status").at("podIPs").merge_key == "ip"
    assert schema(openapi, "Pod").at("metadata").at("finalizers").strategies == ("merge",)
    assert schema(openapi, "Deployment", "apps/v1").at("spec").at("strategy").strategies == ("retainKeys",)


def test_unknown_fields_of_a_real_kind_are_found(openapi: OpenAPI) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "labels": {"a": "b"}, "managedFields": [{"fieldsV1": {"f:spec": {}}}], "creationTimestamp": None},
        "spec": {"ports": [{"port": 80, "targetPort": "http", "colour": "red"}], "ipFamilyPolicy": "PreferDualStack", "ipFamiliy": 1, "clusterIP": 7},
    }
    assert examine(service, schema(openapi, "Service")) == (["spec.ports[0].colour", "spec.ipFamiliy"], [("spec.clusterIP", "string")])


def test_quantities_and_ports_may_be_texts_or_numbers(openapi: OpenAPI) -> None:
    container = {
        "name": "a",
        "resources": {"requests": {"cpu": 1, "memory": "1Gi"}},
        "livenessProbe": {"httpGet": {"port": 80}},
        "readinessProbe": {"tcpSocket": {"port": "http"}},
    }
    assert examine({"spec": {"containers": [container]}}, schema(openapi, "Pod")) == ([], [])


def test_a_patch_of_a_real_service_finds_its_port(openapi: OpenAPI) -> None:
    before = {"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}}
    after = strategic_merge_patch(before, {"spec": {"ports": [{"port": 80, "name": "web"}]}}, schema(openapi, "Service"))
    assert after == {"spec": {"ports": [{"port": 80, "nodePort": 30080, "name": "web"}, {"port": 443}]}}
    with pytest.raises(BadRequest, match="merge key: port"):
        strategic_merge_patch(before, {"spec": {"ports": [{"name": "web"}]}}, schema(openapi, "Service"))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_v2_is_whole_and_made_for_clients(openapi: OpenAPI) -> None:
    whole = document(openapi, "/openapi/v2")
    assert whole["swagger"] == "2.0"
    assert {one.removeprefix("#/definitions/") for one in references(whole)} <= set(whole["definitions"])
    text = json.dumps(whole["definitions"])
    assert '"null"' not in text, "null is for validators"
    service = whole["definitions"]["io.k8s.api.core.v1.Service"]
    assert service["x-kubernetes-group-version-kind"] == [{"group": "", "kind": "Service", "version": "v1"}]
    assert "enum" not in service["properties"]["kind"]
    assert whole["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["format"] == "int-or-string"
    assert whole["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"] == "string", "for want of a better word"
    third = document(openapi, "/openapi/v3/api/v1")["components"]["schemas"]
    assert third["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["oneOf"] == [{"type": "integer"}, {"type": "string"}]


def test_v3_has_a_whole_document_for_each_group_version(openapi: OpenAPI) -> None:
    index = document(openapi, "/openapi/v3")["paths"]
    assert set(index) == {f"apis/{r.api_version}" if r.group else "api/v1" for r in SERVED}
    for where, entry in index.items():
        path, _, query = entry["serverRelativeURL"].partition("?")
        assert path == f"/openapi/v3/{where}" and re.fullmatch(r"hash=[0-9A-F]{32}", query)
        whole = document(openapi, path)
        assert {one.removeprefix("#/components/schemas/") for one in references(whole)} <= set(whole["components"]["schemas"])
        served = {r.path("{namespace}", "{name}") for r in SERVED if "get" in r.verbs and r.path().startswith(f"/{where}/")}
        assert served <= set(whole["paths"])


@pytest.mark.parametrize("path", ["/openapi/v2", "/openapi/v3/api/v1"])
def test_writes_say_that_fields_are_checked_here_and_that_dry_runs_are_known(openapi: OpenAPI, path: str) -> None:
    item = document(openapi, path)["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]
    for method in ("put", "patch"):
        names = {parameter["name"] for parameter in item[method]["parameters"]}
        assert {"fieldValidation", "dryRun"} <= names
        assert item[method]["x-kubernetes-group-version-kind"] == {"group": "", "kind": "Service", "version": "v1"}


def test_a_watching_client_sees_one_document_until_something_changes(openapi: OpenAPI) -> None:
    first, second = openapi.answer("/openapi/v2"), OpenAPI().answer("/openapi/v2")
    assert first and second and first.etag == second.etag
    assert document(openapi, "/openapi/v3") == document(OpenAPI(), "/openapi/v3")


@pytest.mark.parametrize("path", ["/openapi", "/openapi/v1", "/openapi/v3/apis/nothing/v1", "/openapi/v3/x"])
def test_there_is_no_other_document(openapi: OpenAPI, path: str) -> None:
    assert openapi.answer(path) is None


def test_a_form_that_is_not_served_is_refused(openapi: OpenAPI) -> None:
    for path in ("/openapi/v2", "/openapi/v3/api/v1"):
        reply = openapi.answer(path, "application/yaml")
        assert reply is not None and reply.status == 406


# ---- protobuf


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers, and bytes or integers."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            assert tag & 7 == 2
            size = varint()
            yield tag >> 3, message[position : position + size]
            position += size
    assert position == len(message)


def one(message: bytes, *path: int) -> Any:
    for number in path:
        message = next(value for key, value in fields(message) if key == number)
    return message


def named(message: bytes, number: int) -> dict[str, bytes]:
    return {one(value, 1).decode(): one(value, 2) for key, value in fields(message) if key == number}


def test_the_protobuf_form_says_the_same(openapi: OpenAPI) -> None:
    """Read back by the numbers of google/gnostic's OpenAPIv2.proto."""
    reply = openapi.answer("/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
    assert reply is not None and reply.content_type == gnostic.MEDIA_TYPE
    assert "@" not in reply.content_type, "Go's clients cannot read it"
    whole = document(openapi, "/openapi/v2")
    assert one(reply.body, 1) == b"2.0"
    definitions = named(one(reply.body, 9), 1)
    assert set(definitions) == set(whole["definitions"])
    spec = definitions["io.k8s.api.core.v1.ServiceSpec"]
    properties = named(one(spec, 25), 1)
    assert set(properties) == set(whole["definitions"]["io.k8s.api.core.v1.ServiceSpec"]["properties"])
    ports = properties["ports"]
    assert one(ports, 22, 1) == b"array"
    assert one(ports, 23, 1, 1) == b"#/definitions/io.k8s.api.core.v1.ServicePort"
    marks = {name: json.loads(one(value, 2)) for name, value in named(ports, 31).items()}
    assert marks["x-kubernetes-patch-merge-key"] == "port"
    labels = named(one(definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"], 25), 1)["labels"]
    assert one(labels, 21, 1, 22, 1) == b"string"
    paths = named(one(reply.body, 8), 2)
    assert set(paths) == set(whole["paths"])
    patch = one(paths["/api/v1/namespaces/{namespace}/services/{name}"], 8)
    queries = {one(value, 1, 2, 3, 4).decode() for key, value in fields(patch) if key == 8 and next(fields(one(value, 1)))[0] == 2}
    assert {"dryRun", "fieldValidation"} <= queries
    assert json.loads(one(named(patch, 13)["x-kubernetes-group-version-kind"], 2)) == {"group": "", "kind": "Service", "version": "v1"}
