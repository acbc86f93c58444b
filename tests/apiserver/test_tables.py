"""Tables, as a client that prints them sees them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import errors
from twinstack.api.objects import encode
from twinstack.api.resources import BY_KIND, RESOURCES, Resource
from twinstack.api.schema import Schema, examine
from twinstack.apiserver.cells import text_of_duration, text_of_selector
from twinstack.apiserver.openapi import OpenAPI
from twinstack.apiserver.tables import COLUMNS, FOR_PEOPLE, Form, partial_metadata, partial_metadata_list, table, wants

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)


def row(kind: str, document: dict[str, Any], api_version: str = "v1") -> dict[str, Any]:
    """The cells of one object by the names of their columns."""
    made = table(BY_KIND[api_version, kind], [document], now=NOW)
    return dict(zip([column["name"] for column in made["columnDefinitions"]], made["rows"][0]["cells"], strict=False))


def ago(**passed: int) -> str:
    return (NOW - timedelta(**passed)).isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize(
    "passed, text",
    [
        pytest.param(timedelta(seconds=-2), "<invalid>", id="two seconds in the future"),
        pytest.param(timedelta(seconds=-1.9), "0s", id="a clock that is a little ahead"),
        pytest.param(timedelta(0), "0s", id="now"),
        pytest.param(timedelta(seconds=119), "119s", id="just under two minutes"),
        pytest.param(timedelta(minutes=2), "2m", id="two minutes"),
        pytest.param(timedelta(minutes=9, seconds=59), "9m59s", id="just under ten minutes"),
        pytest.param(timedelta(minutes=10, seconds=5), "10m", id="ten minutes"),
        pytest.param(timedelta(hours=2, minutes=59), "179m", id="just under three hours"),
        pytest.param(timedelta(hours=3, minutes=5), "3h5m", id="three hours"),
        pytest.param(timedelta(hours=8, minutes=5), "8h", id="eight hours"),
        pytest.param(timedelta(hours=47), "47h", id="just under two days"),
        pytest.param(timedelta(days=2, hours=3), "2d3h", id="two days"),
        pytest.param(timedelta(days=8, hours=3), "8d", id="eight days"),
        pytest.param(timedelta(days=729), "729d", id="just under two years"),
        pytest.param(timedelta(days=735), "2y5d", id="two years"),
        pytest.param(timedelta(days=365 * 8), "8y", id="eight years"),
    ],
)
def test_a_duration_is_told_in_two_units_at_most(passed: timedelta, text: str) -> None:
    assert text_of_duration(passed) == text


def test_every_kind_has_a_table_and_an_empty_object_fits_it() -> None:
    for resource in RESOURCES:
        for document in ({}, {"metadata": None, "spec": None, "status": None}, {"metadata": {"name": "x"}}):
            made = table(resource, [document], now=NOW)
            assert len(made["rows"][0]["cells"]) >= len(made["columnDefinitions"])
    assert {resource.kind for resource in RESOURCES} | {"Scale"} == set(COLUMNS)


SERVICE = {
    "metadata": {"name": "web", "creationTimestamp": ago(minutes=5)},
    "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]},
}


def service(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web"}, "spec": {"type": "ClusterIP", **spec}}


def test_a_service_shows_its_primary_address() -> None:
    assert row("Service", SERVICE) == {
        "Name": "web",
        "Type": "ClusterIP",
        "Cluster-IP": "10.0.0.1",
        "External-IP": "<none>",
        "Port(s)": "<none>",
        "Age": "5m",
        "Selector": "<none>",
    }


@pytest.mark.parametrize(
    "document, column, cell",
    [
        pytest.param(service(clusterIPs=["None"]), "Cluster-IP", "None", id="headless"),
        pytest.param(
            service(ports=[{"port": 80, "protocol": "TCP"}, {"port": 53, "nodePort": 30053, "protocol": "UDP"}]), "Port(s)", "80/TCP,53:30053/UDP", id="ports"
        ),
        pytest.param(service(selector={"b": "2", "a": "1"}), "Selector", "a=1,b=2", id="a selector, sorted"),
        pytest.param(service(externalIPs=["10.9.9.9", "fd09::9"]), "External-IP", "10.9.9.9,fd09::9", id="external addresses"),
        pytest.param(service(type="LoadBalancer"), "External-IP", "<pending>", id="a load balancer in the making"),
        pytest.param(
            service(type="LoadBalancer", externalIPs=["1.1.1.1"])
            | {"status": {"loadBalancer": {"ingress": [{"ip": "fd00::9"}, {"ip": "192.0.2.9"}, {"hostname": "lb"}, {"ip": "fd00::9"}]}}},
            "External-IP",
            "192.0.2.9,fd00::9,lb,1.1.1.1",
            id="a load balancer's addresses, sorted as texts",
        ),
        pytest.param(service(type="ExternalName", externalName="example.org"), "External-IP", "example.org", id="a name outside"),
        pytest.param(service(type="Odd"), "External-IP", "<unknown>", id="an unknown type"),
        pytest.param(SERVICE | {"metadata": {}}, "Age", "<unknown>", id="no age"),
    ],
)
def test_a_services_cells(document: dict[str, Any], column: str, cell: str) -> None:
    assert row("Service", document)[column] == cell


def test_a_nodes_cells() -> None:
    node = {
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/": "", "kubernetes.io/role": "edge"}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown"}],
            "addresses": [{"type": "InternalIP", "address": "fd00::1"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "kernelVersion": "6.1", "architecture": "amd64"},
        },
    }
    cells = row("Node", node)
    assert cells["Status"] == "NotReady,SchedulingDisabled"
    assert cells["Roles"] == "edge,worker"
    assert cells["Version"] == "v1.36.2"
    assert (cells["Internal-IP"], cells["External-IP"]) == ("fd00::1", "<none>")
    assert (cells["OS-Image"], cells["Kernel-Version"], cells["Container-Runtime"]) == ("<unknown>", "6.1 (amd64)", "<unknown>")
    assert row("Node", {})["Status"] == "Unknown"


RUNNING = {"running": {"startedAt": ago(hours=1)}}


def container(state: dict[str, Any], *, ready: bool = False, restarts: int = 0, name: str = "a", **more: Any) -> dict[str, Any]:
    return {"name": name, "state": state, "ready": ready, "restartCount": restarts, **more}


def pod(phase: str = "Running", *containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": one["name"]} for one in containers]},
        "status": {"phase": phase, "containerStatuses": list(containers), **status},
    }


READY = [{"type": "Ready", "status": "True"}]
DONE = {"terminated": {"reason": "Completed", "exitCode": 0}}


@pytest.mark.parametrize(
    "document, status, ready",
    [
        pytest.param(pod("Pending"), "Pending", "0/0", id="nothing known but the phase"),
        pytest.param(pod("Running", container(RUNNING, ready=True)), "Running", "1/1", id="running"),
        pytest.param(pod("Pending", container({"waiting": {"reason": "ContainerCreating"}})), "ContainerCreating", "0/1", id="waiting"),
        pytest.param(
            pod("Running", container({"waiting": {"reason": "CrashLoopBackOff"}}), container(RUNNING, ready=True)),
            "CrashLoopBackOff",
            "1/2",
            id="the first container that has something to say wins",
        ),
        pytest.param(pod("Failed", container({"terminated": {"exitCode": 3}})), "ExitCode:3", "0/1", id="an exit code"),
        pytest.param(pod("Failed", container({"terminated": {"signal": 9, "exitCode": 137}})), "Signal:9", "0/1", id="a signal"),
        pytest.param(pod("Failed", container({"terminated": {"reason": "Error", "exitCode": 1}})), "Error", "0/1", id="a reason"),
        pytest.param(pod("Succeeded", container(DONE)), "Completed", "0/1", id="completed"),
        pytest.param(pod("Running", container(DONE), container(RUNNING, ready=True), conditions=READY), "Running", "1/2", id="one is done, the others run"),
        pytest.param(pod("Running", container(DONE), container(RUNNING, ready=True)), "NotReady", "1/2", id="one is done, the pod is not ready"),
        pytest.param(pod("Failed", reason="Evicted"), "Evicted", "0/0", id="the pod's own reason"),
        pytest.param(
            pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]), "SchedulingGated", "0/0", id="gated"
        ),
        pytest.param(
            pod("Running", container(RUNNING, ready=True)) | {"metadata": {"deletionTimestamp": ago(seconds=1)}}, "Terminating", "1/1", id="terminating"
        ),
        pytest.param(pod("Running", reason="NodeLost") | {"metadata": {"deletionTimestamp": ago(seconds=1)}}, "Unknown", "0/0", id="its node is lost"),
        pytest.param(pod("Succeeded", container(DONE)) | {"metadata": {"deletionTimestamp": ago(seconds=1)}}, "Completed", "0/1", id="over, and being deleted"),
    ],
)
def test_a_pods_state_in_one_word(document: dict[str, Any], status: str, ready: str) -> None:
    cells = row("Pod", document)
    assert (cells["Status"], cells["Ready"]) == (status, ready)


@pytest.mark.parametrize(
    "statuses, status",
    [
        pytest.param([container(DONE), container(RUNNING, name="b")], "Init:1/2", id="the second is running"),
        pytest.param([container({"waiting": {"reason": "ErrImagePull"}})], "Init:ErrImagePull", id="the first is waiting"),
        pytest.param([container({"waiting": {"reason": "PodInitializing"}})], "Init:0/2", id="the first has not begun"),
        pytest.param([container({"terminated": {"exitCode": 2}})], "Init:ExitCode:2", id="the first failed"),
        pytest.param([container({"terminated": {"signal": 9, "exitCode": 137}})], "Init:Signal:9", id="the first was killed"),
    ],
)
def test_a_pod_that_initializes_says_how_far_it_is(statuses: list[dict[str, Any]], status: str) -> None:
    document = pod("Pending", container({"waiting": {"reason": "PodInitializing"}}), initContainerStatuses=statuses)
    document["spec"]["initContainers"] = [{"name": "a"}, {"name": "b"}]
    assert row("Pod", document)["Status"] == status


def test_a_sidecar_counts_among_the_containers() -> None:
    document = pod("Running", container(RUNNING, ready=True), initContainerStatuses=[container(RUNNING, name="s", ready=True, started=True, restarts=2)])
    document["spec"]["initContainers"] = [{"name": "s", "restartPolicy": "Always"}]
    cells = row("Pod", document)
    assert (cells["Ready"], cells["Status"], cells["Restarts"]) == ("2/2", "Running", "2")


def test_restarts_say_when_the_last_one_was() -> None:
    document = pod("Running", container(RUNNING, ready=True, restarts=3, lastState={"terminated": {"exitCode": 1, "finishedAt": ago(minutes=5, seconds=7)}}))
    assert row("Pod", document)["Restarts"] == "3 (5m7s ago)"


def test_a_pods_wide_cells_and_its_end() -> None:
    document = pod(
        "Succeeded", podIPs=[{"ip": "fd00::5"}, {"ip": "10.0.0.5"}], podIP="fd00::5", nominatedNodeName="m", conditions=[{"type": "g", "status": "True"}]
    )
    document["spec"] |= {"nodeName": "n", "readinessGates": [{"conditionType": "g"}, {"conditionType": "h"}]}
    cells = row("Pod", document)
    assert (cells["IP"], cells["Node"], cells["Nominated Node"], cells["Readiness Gates"]) == ("fd00::5", "n", "m", "1/2")
    made = table(BY_KIND["v1", "Pod"], [document], now=NOW)
    assert made["rows"][0]["conditions"] == [{"type": "Completed", "status": "True", "reason": "Succeeded", "message": "Every container has ended well."}]


@pytest.mark.parametrize(
    "kind, document, cells",
    [
        pytest.param(
            "Service",
            {"spec": {"type": "ClusterIP", "clusterIPs": ["fd00::1", "10.0.0.1"], "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}},
            {"Cluster-IP": "fd00::1", "Cluster-IPs": "fd00::1,10.0.0.1", "IP-Families": "IPv6,IPv4 (PreferDualStack)"},
            id="a dual-stack Service",
        ),
        pytest.param("Service", {"spec": {"type": "ExternalName"}}, {"Cluster-IPs": "<none>", "IP-Families": "<none>"}, id="a Service without addresses"),
        pytest.param(
            "Node",
            {
                "spec": {"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]},
                "status": {"addresses": [{"type": "InternalIP", "address": one} for one in ("192.0.2.1", "2001:db8::1")]},
            },
            {"Internal-IP": "192.0.2.1", "Internal-IPs": "192.0.2.1,2001:db8::1", "Pod-CIDRs": "10.1.0.0/24,fd00:1::/64"},
            id="a node of two families",
        ),
        pytest.param("Pod", {"status": {"podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00:1::1"}]}}, {"IPs": "10.1.0.1,fd00:1::1"}, id="a pod of two families"),
    ],
)
def test_people_see_every_address_where_kubernetes_shows_the_first(kind: str, document: dict[str, Any], cells: dict[str, str]) -> None:
    made = table(BY_KIND["v1", kind], [document], now=NOW, form=Form("table", people=True))
    shown = dict(zip([column["name"] for column in made["columnDefinitions"]], made["rows"][0]["cells"], strict=True))
    assert {name: shown[name] for name in cells} == cells
    ours = {column.name for column in FOR_PEOPLE[kind]}
    assert {column["name"] for column in made["columnDefinitions"] if column["priority"] == 1} >= ours
    assert not ours & {column["name"] for column in table(BY_KIND["v1", kind], [document], now=NOW)["columnDefinitions"]}


def test_columns_of_our_own_are_for_kubectl_only() -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    assert wants(accept, "kubectl/v1.32.0 (linux/amd64) kubernetes/0000000") == Form("table", people=True)
    assert wants(accept, "dashboard/1.0") == wants(accept) == Form("table")
    assert wants("application/json", "kubectl/v1.32.0") == Form("json")


@pytest.mark.parametrize(
    "subsets, cell",
    [
        pytest.param(None, "<none>", id="no subsets"),
        pytest.param([{"notReadyAddresses": [{"ip": "10.0.0.1"}]}], "", id="none is ready"),
        pytest.param([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}], "10.0.0.1:80,[fd00::1]:80", id="both families"),
        pytest.param([{"addresses": [{"ip": "10.0.0.1"}]}], "10.0.0.1", id="without ports"),
        pytest.param(
            [{"addresses": [{"ip": f"10.0.0.{i}"} for i in range(5)], "ports": [{"port": 1}]}],
            "10.0.0.0:1,10.0.0.1:1,10.0.0.2:1 + 2 more...",
            id="more than three",
        ),
    ],
)
def test_endpoints_show_what_is_ready(subsets: Any, cell: str) -> None:
    assert row("Endpoints", {"subsets": subsets})["Endpoints"] == cell


def test_a_slice_shows_its_ports_and_all_its_endpoints() -> None:
    document = {
        "addressType": "IPv6",
        "ports": [{"port": 80}, {"name": "x"}, {}, {"name": ""}],
        "endpoints": [{"addresses": ["fd00::1"], "conditions": {"ready": False}}, {"addresses": ["fd00::2"]}],
    }
    cells = row("EndpointSlice", document, "discovery.k8s.io/v1")
    assert (cells["AddressType"], cells["Ports"], cells["Endpoints"]) == ("IPv6", "80,x,* + 1 more...", "fd00::1,fd00::2")
    empty = row("EndpointSlice", {"addressType": "IPv4"}, "discovery.k8s.io/v1")
    assert (empty["Ports"], empty["Endpoints"]) == ("<unset>", "<unset>")


def test_an_address_has_two_columns_and_three_cells() -> None:
    resource = BY_KIND["networking.k8s.io/v1", "IPAddress"]
    parent = {"group": "", "resource": "Services", "namespace": "default", "name": "web"}
    made = table(resource, [{"metadata": {"name": "10.0.0.1", "creationTimestamp": ago(days=3)}, "spec": {"parentRef": parent}}, {}], now=NOW)
    assert [column["name"] for column in made["columnDefinitions"]] == ["Name", "ParentRef"]
    assert made["rows"][0]["cells"] == ["10.0.0.1", "services/default/web", "3d"]
    assert made["rows"][1]["cells"][1] == "<none>"


def test_an_events_cells() -> None:
    event = {
        "metadata": {"name": "web.1"},
        "type": "Warning",
        "reason": "Failed",
        "message": " text \n",
        "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}"},
        "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": ago(minutes=9),
        "lastTimestamp": ago(minutes=1),
        "count": 4,
    }
    cells = row("Event", event)
    assert list(cells.values()) == ["60s", "Warning", "Failed", "pod/web", "spec.containers{a}", "kubelet, n", "text", "9m", 4, "web.1"]
    series = {"eventTime": ago(minutes=9), "series": {"count": 7, "lastObservedTime": ago(seconds=3)}, "reportingComponent": "x", "reportingInstance": "y"}
    cells = row("Event", series)
    assert (cells["Last Seen"], cells["First Seen"], cells["Count"], cells["Source"]) == ("3s", "9m", 7, "x, y")


def test_a_deployments_and_a_replicasets_cells() -> None:
    spec = {
        "replicas": 3,
        "selector": {
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "a"]}, {"key": "u", "operator": "Exists"}],
        },
        "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}},
    }
    document = {"metadata": {"name": "web"}, "spec": spec, "status": {"replicas": 4, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}}
    assert list(row("Deployment", document, "apps/v1").values()) == ["web", "2/3", 1, 2, "<unknown>", "a,b", "x:1,y:2", "app=web,t in (a,b),u"]
    assert list(row("ReplicaSet", document, "apps/v1").values())[1:4] == [3, 4, 2]
    assert row("ReplicaSet", {"spec": {"selector": {"matchExpressions": [{"key": "t", "operator": "Is"}]}}}, "apps/v1")["Selector"] == "<error>"
    assert row("Deployment", {}, "apps/v1")["Selector"] == ""


def test_a_selector_as_a_text_can_be_asked_with() -> None:
    assert (
        text_of_selector({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}, {"key": "b", "operator": "NotIn", "values": ["1"]}]})
        == "!a,b notin (1)"
    )


def test_what_holds_data_says_how_much() -> None:
    assert row("ConfigMap", {"data": {"a": "1"}, "binaryData": {"b": ""}})["Data"] == 2
    assert row("Secret", {"data": {"a": "1"}, "type": "Opaque"})["Type"] == "Opaque"
    assert row("Lease", {"spec": {"holderIdentity": "me"}}, "coordination.k8s.io/v1")["Holder"] == "me"
    assert row("ServiceCIDR", {"spec": {"cidrs": ["10.0.0.0/8", "fd00::/64"]}}, "networking.k8s.io/v1")["CIDRs"] == "10.0.0.0/8,fd00::/64"


def test_a_row_carries_what_the_client_asked_for() -> None:
    services = BY_KIND["v1", "Service"]
    of = {include: table(services, [SERVICE], now=NOW, include_object=include)["rows"][0].get("object") for include in ("Metadata", "Object", "None")}
    assert of["Metadata"] == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": SERVICE["metadata"]} == partial_metadata(SERVICE)
    assert of["Object"] is SERVICE
    assert of["None"] is None
    with pytest.raises(errors.BadRequest):
        table(services, [], now=NOW, include_object="Everything")


def test_a_table_has_the_lists_metadata_and_headers_once() -> None:
    made = table(BY_KIND["v1", "Service"], [], now=NOW, metadata={"resourceVersion": "7"}, headers=False)
    assert made == {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "7"}, "columnDefinitions": [], "rows": []}
    assert partial_metadata_list([SERVICE], {"resourceVersion": "7"})["items"] == [partial_metadata(SERVICE)]


TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@pytest.mark.parametrize(
    "accept, form",
    [
        pytest.param(f"{TABLE},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", "table", id="kubectl get"),
        pytest.param("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json", "table", id="a table of the version before"),
        pytest.param("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "partial-list", id="metadata of a list"),
        pytest.param("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json", "partial", id="metadata of an object"),
        pytest.param(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            "partial",
            id="metadata, better as protobuf",
        ),
        pytest.param("application/json", "json", id="JSON"),
        pytest.param("", "json", id="nothing said"),
        pytest.param("*/*", "json", id="anything"),
        pytest.param("application/vnd.kubernetes.protobuf,application/json", "json", id="typed Go clients"),
        pytest.param("application/vnd.kubernetes.protobuf", "json", id="protobuf alone, which reads JSON too"),
        pytest.param("text/html, */*;q=0.8", "json", id="a browser"),
    ],
)
def test_what_a_client_wants(accept: str, form: str) -> None:
    assert wants(accept).shape == form
    assert wants(accept).version.endswith("v1beta1" if accept.partition(",")[0].count("v1beta1") else "v1")


@pytest.mark.parametrize("accept", ["text/html", "application/json;as=Table;v=v9;g=meta.k8s.io", "image/png, application/xml"])
def test_what_cannot_be_given_is_refused(accept: str) -> None:
    with pytest.raises(errors.NotAcceptable):
        wants(accept)


OPENAPI = OpenAPI()
WORDS = [
    "",
    "a",
    "0",
    "True",
    "Ready",
    "Always",
    "In",
    "ClusterIP",
    "LoadBalancer",
    "fd00::1",
    "2026-11-25T11:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=4)


def documents_of(schema: Schema, depth: int = 0) -> st.SearchStrategy[Any]:
    """Documents that fit the schema and make no other sense."""
    if schema.type == "object":
        if not schema.fields:
            return st.dictionaries(TEXTS, TEXTS if schema.values is None else documents_of(schema.values, depth + 1), max_size=2)
        if depth > 6:
            return st.just({})
        choices = sorted(schema.fields)

        def filled(names: list[str]) -> st.SearchStrategy[Any]:
            return st.fixed_dictionaries({name: st.none() | st.deferred(lambda name=name: documents_of(schema.fields[name], depth + 1)) for name in names})

        return st.lists(st.sampled_from(choices), max_size=12 if depth < 2 else 4, unique=True).flatmap(filled)
    if schema.type == "array":
        return st.lists(documents_of(schema.values or Schema(), depth + 1), max_size=4)
    numbers = st.integers(-1, 5)
    if schema.type in ("time", "micro-time"):
        return st.sampled_from(["2026-11-25T11:00:00.000001Z", "0001-01-01T14:00:00.000000+14:00", "9999-12-31T09:59:59.000000-14:00"])
    of: dict[str, st.SearchStrategy[Any]] = {"string": TEXTS, "integer": numbers, "boolean": st.booleans(), "number": numbers, "int-or-string": numbers | TEXTS}
    return of.get(schema.type, TEXTS)


@pytest.mark.slow
@given(st.data())
@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_whatever_fits_the_schema_has_a_row(resource: Resource, data: st.DataObject) -> None:
    schema = OPENAPI.schema_of(resource)
    document = data.draw(documents_of(schema))
    assert examine(document, schema) == ([], [])
    assert encode(table(resource, [document], now=NOW))
