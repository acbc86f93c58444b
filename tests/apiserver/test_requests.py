"""From a method, a path and a query to what is asked for; and from any bytes to a document or one of our own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.api import objects
from twinstack.api.errors import APIError
from twinstack.api.resources import RESOURCES, Resource
from twinstack.apiserver import bodies, requests
from twinstack.apiserver.app import Application
from twinstack.apiserver.calls import Answer, Call, User
from twinstack.apiserver.settings import Settings
from twinstack.store.memory import MemoryStore


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/api/v1/namespaces/a/services/b", ("get", "services", "a", "b", "")),
        ("GET", "/api/v1/namespaces/a/services/", ("list", "services", "a", "", "")),
        ("GET", "/api/v1/services", ("list", "services", "", "", "")),
        ("GET", "/api/v1/services?watch=1", ("watch", "services", "", "", "")),
        ("GET", "/api/v1/services?watch=false", ("list", "services", "", "", "")),
        ("POST", "/api/v1/namespaces/a/services", ("create", "services", "a", "", "")),
        ("PUT", "/api/v1/namespaces/a/services/b/status", ("update", "services", "a", "b", "status")),
        ("DELETE", "/api/v1/namespaces/a/services", ("deletecollection", "services", "a", "", "")),
        ("GET", "/api/v1/namespaces/a", ("get", "namespaces", "", "a", "")),
        ("PUT", "/api/v1/namespaces/a/finalize", ("update", "namespaces", "", "a", "finalize")),
        ("GET", "/api/v1/namespaces/a/status", ("get", "namespaces", "", "a", "status")),
        ("POST", "/api/v1/namespaces", ("create", "namespaces", "", "", "")),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b/scale", ("patch", "deployments", "a", "b", "scale")),
        ("POST", "/api/v1/namespaces/a/pods/b/binding", ("create", "pods", "a", "b", "binding")),
        ("DELETE", "/apis/networking.k8s.io/v1/ipaddresses/fd00%3A%3A1", ("delete", "ipaddresses", "", "fd00::1", "")),
    ],
)
def test_a_path_says_what_is_asked_for(method: str, path: str, found: tuple[str, ...]) -> None:
    target, _, query = path.partition("?")
    assert requests.is_resource_path(target)
    request = requests.parse(method, target, query)
    assert (request.verb, request.resource.plural, request.namespace, request.name, request.sub) == found


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/nothings", 404),
        ("GET", "/api/v2/services", 404),
        ("GET", "/apis/apps/v1/services", 404),
        ("GET", "/api/v1/services/a", 404),
        ("GET", "/api/v1/namespaces/a/nodes", 404),
        ("GET", "/api/v1/namespaces/a/services/b/colour", 404),
        ("GET", "/api/v1/namespaces/a/services/b/status/more", 404),
        ("GET", "/api/v1//services", 404),
        ("GET", "/api/v1/namespaces/a/services/b%2Fc", 404),
        ("GET", "/api/v1/namespaces/a/services/%ff", 400),
        ("GET", "/api/v1/namespaces/a/services/..", 400),
        ("POST", "/api/v1/services", 405),
        ("POST", "/api/v1/namespaces/a/services/b", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("DELETE", "/api/v1/namespaces/a/services/b/status", 405),
        ("PUT", "/api/v1/namespaces/a/services", 405),
        ("BREW", "/api/v1/namespaces/a/services", 405),
    ],
)
def test_a_path_that_asks_for_nothing_is_refused(method: str, path: str, code: int) -> None:
    with pytest.raises(APIError) as caught:
        requests.parse(method, path)
    assert caught.value.http_code == code


TEXTS = st.text(max_size=30) | st.sampled_from(["/api/v1/", "namespaces", "/apis/apps/v1/", "services", "%", "%zz", "watch=1&", "limit=", "&"])
PATHS = st.lists(TEXTS, max_size=6).map("".join)


@given(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "X", ""]), PATHS, PATHS)
def test_any_path_and_query_is_a_request_or_an_error_of_ours(method: str, path: str, query: str) -> None:
    try:
        requests.is_resource_path(path)
        request = requests.parse(method, path, query)
        request.query.number("limit")
        request.query.flag("watch")
    except APIError:
        return


TYPES = ["", "application/json", "application/yaml", "text/plain", "application/merge-patch+json", "application/json; charset=utf-8"]
PIECES = [b"{", b"}", b"[", b"- ", b": ", b"&a ", b"*a", b"1e999", b'"x"', b"null", b",", b"\n", b"!!", b"!!binary "]
BYTES = st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | st.lists(st.sampled_from(PIECES)).map(b"".join)


def call(body: bytes, content_type: str = "application/json", method: str = "POST", path: str = "/", query: str = "") -> Call:
    return Call(method, path, query, {"Content-Type": content_type, "Authorization": "Bearer token"}, (), body)


@given(BYTES, st.sampled_from(TYPES))
def test_any_body_is_a_document_or_an_error_of_ours(body: bytes, content_type: str) -> None:
    for read in (
        bodies.value_of,
        bodies.patch_of,
        lambda one: bodies.document_of(one, "v1", "Service"),
        lambda one: bodies.delete_options(one, requests.Query({})),
    ):
        try:
            objects.encode(read(call(body, content_type)))
        except APIError:
            continue


# ---- any document at any door

WORDS = st.text(max_size=8) | st.sampled_from(["None", "IPv6", "::", "10.96.0.1", "TCP"])
NAMES = st.text(max_size=6) | st.sampled_from(["name", "spec", "labels", "ports", "type"])
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=3),
    max_leaves=8,
)
CONTAINER = {"name": "main", "image": "twinstack.dev/host:1", "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}}}
PORT = {"port": 80, "targetPort": "http", "protocol": "TCP"}
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [CONTAINER]}}
WORKLOAD = {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}
SPECS: dict[str, dict[str, Any]] = {
    "namespaces": {"spec": {"finalizers": ["kubernetes"]}},
    "nodes": {"spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:244::/64"], "taints": [{"key": "a", "effect": "NoSchedule"}]}},
    "pods": {
        "spec": {"containers": [CONTAINER], "tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b"}},
        "status": {"podIPs": [{"ip": "10.0.0.1"}]},
    },
    "services": {
        "spec": {
            "type": "NodePort",
            "ipFamilyPolicy": "PreferDualStack",
            "selector": {"a": "b"},
            "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}],
        }
    },
    "endpoints": {"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "a"}]}]},
    "configmaps": {"data": {"a": "b"}, "binaryData": {"c": "AA=="}},
    "secrets": {"type": "Opaque", "data": {"a": "AA=="}, "stringData": {"b": "c"}},
    "serviceaccounts": {"secrets": [{"name": "a"}]},
    "events": {"involvedObject": {"kind": "Pod", "namespace": "default", "name": "a"}, "reason": "X", "message": "m", "type": "Normal", "count": 1},
    "events.events.k8s.io": {
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c",
        "reportingInstance": "i",
        "action": "A",
        "reason": "R",
        "type": "Normal",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "a"},
    },
    "deployments": {
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE, "strategy": {"rollingUpdate": {"maxSurge": "25%"}}}
    },
    "daemonsets": {"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE, "updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}}},
    "replicasets": {"spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}},
    "statefulsets": {"spec": {**WORKLOAD, "serviceName": "a", "updateStrategy": {"rollingUpdate": {"partition": 1}}, "ordinals": {"start": 1}}},
    "jobs": {"spec": {"completions": 2, "backoffLimit": 1, "template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}}},
    "cronjobs": {
        "spec": {
            "schedule": "@daily",
            "timeZone": "Etc/UTC",
            "jobTemplate": {"spec": {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}}},
        }
    },
    "priorityclasses": {"value": 1000, "description": "x"},
    "poddisruptionbudgets": {"spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}}},
    "controllerrevisions": {"data": {"spec": {}}, "revision": 1},
    "replicationcontrollers": {"spec": {"replicas": 1, "selector": {"app": "x"}, "template": TEMPLATE}},
    "leases": {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}},
    "endpointslices": {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"], "conditions": {"ready": True}}], "ports": [{"port": 80, "name": "a"}]},
    "roles": {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}]},
    "clusterroles": {
        "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics", "/a/*"]}],
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
    },
    "rolebindings": {"subjects": [{"kind": "User", "name": "u"}], "roleRef": {"kind": "Role", "name": "a"}},
    "clusterrolebindings": {
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "s"}],
        "roleRef": {"kind": "ClusterRole", "name": "a"},
    },
    "networkpolicies": {"spec": {"podSelector": {"matchLabels": {"a": "b"}}, "ingress": [{"ports": [{"port": 80}]}], "policyTypes": ["Ingress"]}},
    "servicecidrs": {"spec": {"cidrs": ["10.97.0.0/16"]}},
    "ipaddresses": {"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "a"}}},
}


class Server:
    """Everything but the HTTP door, on a loop of its own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        settings = Settings(data_dir="", service_cluster_ip_range="10.96.0.0/16,fd00:96::/112", store="memory")
        self.app = Application(settings, MemoryStore())
        self.app.authenticator._tokens["token"] = User("x")
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}})
        self.ask("POST", "/apis/networking.k8s.io/v1/servicecidrs", {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:96::/112"]}})

    def ask(self, method: str, path: str, document: Any = None, content_type: str = "application/json") -> Answer:
        body = b"" if document is None else objects.encode(document)
        target, _, query = path.partition("?")
        answer = self.runner.run(self.app.respond(call(body, content_type, method, target, query)))
        assert isinstance(answer, Answer)
        return answer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.runner.close()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def spec_of(resource: Resource) -> dict[str, Any]:
    return SPECS.get(resource.qualified) or SPECS[resource.plural]


def name_of(resource: Resource) -> str:
    return "10.97.0.9" if resource.plural == "ipaddresses" else "a"


def test_there_is_a_document_to_break_for_every_resource(server: Server) -> None:
    assert {resource.plural for resource in RESOURCES} == {name.partition(".")[0] for name in SPECS}
    for resource in RESOURCES:
        answer = server.ask("POST", resource.path("default") + "?dryRun=All", {"metadata": {"name": name_of(resource)}, **spec_of(resource)})
        assert answer.status == 201, (resource.plural, answer.body)


@pytest.mark.slow
@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.plural)
@settings(max_examples=80)
@given(data=st.data())
def test_any_document_is_accepted_or_refused_with_an_error_of_ours(server: Server, resource: Resource, data: st.DataObject) -> None:
    name = name_of(resource)
    good = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, "labels": {"a": "b"}, "finalizers": []},
        **spec_of(resource),
    }
    place = data.draw(st.sampled_from(list(places(good))))
    bad = replaced(good, place, data.draw(JSON))
    path = resource.path("default")
    for method, where, document, content_type in (
        ("POST", path, bad, "application/json"),
        ("POST", path, good, "application/json"),
        ("PUT", f"{path}/{name}", bad, "application/json"),
        ("PATCH", f"{path}/{name}", bad, "application/merge-patch+json"),
        ("PATCH", f"{path}/{name}", bad, "application/strategic-merge-patch+json"),
        ("PATCH", f"{path}/{name}?fieldManager=a&force=true", bad, "application/apply-patch+yaml"),
        ("PATCH", f"{path}/{name}?fieldManager=b", good, "application/apply-patch+yaml"),
        ("PATCH", f"{path}/{name}?fieldManager=a", good, "application/apply-patch+yaml"),
        *(("PATCH", f"{path}/{name}/{sub.name}", bad, "application/merge-patch+json") for sub in resource.subresources if "patch" in sub.verbs),
        ("DELETE", f"{path}/{name}", None, ""),
        ("DELETE", f"{path}/{name}", {"gracePeriodSeconds": 0}, "application/json"),
        ("PATCH", f"{path}/{name}", {"metadata": {"finalizers": None}}, "application/merge-patch+json"),
    ):
        answer = server.ask(method, where, document, content_type)
        assert answer.status != 500, (method, where, document, answer.body)
        objects.decode(answer.body)
