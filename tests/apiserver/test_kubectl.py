"""A real kubectl against a real server: every distinct one that this machine has, at least the oldest and newest we promise.

Each kubectl works in a namespace of its own on one server, with a home directory of its own so that nothing is cached
from elsewhere. More can be named in ``TWINSTACK_KUBECTLS`` (paths, separated by colons).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TOKEN = "a-token-for-tests"


def kubectls() -> dict[str, str]:
    """Version → path of each kubectl found; of several of one version, the first."""
    named = os.environ.get("TWINSTACK_KUBECTLS", "").split(":")
    candidates = [*named, shutil.which("kubectl"), "/usr/bin/kubectl", "/usr/local/bin/kubectl", *map(str, Path("/opt").glob("**/bin/kubectl"))]
    found: dict[str, str] = {}
    for path in filter(None, candidates):
        if os.access(path, os.X_OK):
            told = json.loads(subprocess.run([path, "version", "--client", "-o", "json"], capture_output=True, check=True).stdout)
            found.setdefault(told["clientVersion"]["gitVersion"], path)
    return found


KUBECTLS = kubectls()


def test_there_is_a_kubectl_to_try() -> None:
    assert KUBECTLS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a dual-stack API server that runs alone."""
    place = tmp_path_factory.mktemp("apiserver")
    (place / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [
        sys.executable,
        "-c",
        "from twinstack.cli.main import main; main()",
        "kube-apiserver",
        f"--data-dir={place / 'data'}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--token-auth-file={place / 'tokens.csv'}",
        "--authorization-mode=AlwaysAllow",
        "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
        "--endpoint-reconciler-type=none",
    ]
    with (place / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            url = f"https://127.0.0.1:{port}"
            wait_until_ready(url, process, place / "log")
            yield url
        finally:
            process.terminate()
            assert process.wait(timeout=10) == 0, (place / "log").read_text()[-2000:]


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{url}/readyz", context=context, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the server is not ready: " + log.read_text()[-2000:])


class Kubectl:
    """One kubectl in its namespace. Calling it runs a command and gives what it printed."""

    def __init__(self, path: str, version: str, environment: dict[str, str], namespace: str) -> None:
        self.path, self.version, self.environment, self.namespace = path, version, environment, namespace
        self.minor = int(re.findall(r"\d+", version)[1])

    def run(self, *arguments: str, stdin: Any = None, **environment: str) -> subprocess.CompletedProcess[str]:
        text = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
        return subprocess.run([self.path, *arguments], input=text, capture_output=True, text=True, env=self.environment | environment, timeout=30, check=False)

    def __call__(self, *arguments: str, stdin: Any = None, **environment: str) -> str:
        done = self.run(*arguments, stdin=stdin, **environment)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *arguments: str, stdin: Any = None) -> str:
        """What it complains of."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr + done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self("get", *arguments, "-o", "json"))
        return result

    def write_status(self, path: str, document: dict[str, Any]) -> None:
        """What a controller or kubelet would report, through the status door."""
        self("replace", "--raw", f"{path}/status", "-f", "-", stdin=document)


@pytest.fixture(scope="module", params=sorted(KUBECTLS.items()), ids=lambda item: item[0])
def kubectl(request: pytest.FixtureRequest, server: str, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    version, path = request.param
    home = tmp_path_factory.mktemp("home")
    namespace = "try-" + re.sub(r"[^a-z0-9]+", "-", version.lower()).strip("-")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "it", "user": {"token": TOKEN}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": namespace}}],
        "current-context": "it",
    }
    (home / "config").write_text(json.dumps(config))
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(home / "config")}
    made = Kubectl(path, version, environment, namespace)
    made("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    return made


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "https", "port": 443, "targetPort": 8443}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name, "tier": "front"}},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "selector": {"app": name}, "ports": ports, **spec},
    }


def deployment(name: str, replicas: int = 2) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "twinstack.dev/host", "command": ["sleep", "60"]}]}},
        },
    }


# ---- what the server says of itself


def test_it_learns_what_is_served(kubectl: Kubectl) -> None:
    listed = kubectl("api-resources")
    for word in ("services", "svc", "deployments", "endpointslices", "servicecidrs", "ipaddresses", "Lease"):
        assert word in listed
    assert set(kubectl("api-versions").split()) >= {"v1", "apps/v1", "discovery.k8s.io/v1", "networking.k8s.io/v1", "coordination.k8s.io/v1"}
    assert "1.36.2" in kubectl("version")
    assert "is running at" in kubectl("cluster-info")


def test_it_explains_fields(kubectl: Kubectl) -> None:
    told = kubectl("explain", "service.spec.ipFamilies")
    assert "<[]string>" in told and "IPv6" in told
    assert "rollingUpdate" in kubectl("explain", "deployment.spec.strategy")
    assert "containerPort" in kubectl("explain", "pods", "--recursive")


# ---- apply


def test_it_applies_changes_and_removals(kubectl: Kubectl) -> None:
    wanted = service("applied")
    assert "created" in kubectl("apply", "-f", "-", stdin=wanted)
    first = kubectl.get("service", "applied")
    assert first["spec"]["ipFamilies"] == ["IPv4", "IPv6"] and len(first["spec"]["clusterIPs"]) == 2
    assert "unchanged" in kubectl("apply", "-f", "-", stdin=wanted)
    del wanted["metadata"]["labels"]["tier"]
    wanted["spec"]["ports"][1]["targetPort"] = 9443
    wanted["spec"]["ports"].append({"name": "more", "port": 8080, "protocol": "UDP"})
    assert "configured" in kubectl("apply", "-f", "-", stdin=wanted)
    second = kubectl.get("service", "applied")
    assert second["metadata"]["labels"] == {"app": "applied"}
    assert [(port["port"], port["targetPort"]) for port in second["spec"]["ports"]] == [(80, 8080), (443, 9443), (8080, 8080)]
    assert second["spec"]["clusterIPs"] == first["spec"]["clusterIPs"]
    wanted["spec"]["ports"] = [wanted["spec"]["ports"][2], wanted["spec"]["ports"][0]]
    kubectl("apply", "-f", "-", stdin=wanted)
    assert [port["port"] for port in kubectl.get("service", "applied")["spec"]["ports"]] == [8080, 80]


def owners_of(kubectl: Kubectl, *what: str) -> set[tuple[str, str]]:
    shown = ("--show-managed-fields",) if kubectl.minor >= 21 else ()
    document = json.loads(kubectl("get", *what, "-o", "json", *shown))
    return {(one["manager"], one["operation"]) for one in document["metadata"].get("managedFields", ())}


def test_it_applies_on_the_server_and_is_told_of_conflicts(kubectl: Kubectl) -> None:
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}, "data": {"k": "1", "l": "1"}}
    kubectl("apply", "--server-side", "-f", "-", stdin=wanted)
    kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin={**wanted, "data": {"m": "1"}})
    refused = kubectl.run("apply", "--server-side", "--field-manager=other", "-f", "-", stdin={**wanted, "data": {"k": "2"}})
    assert refused.returncode != 0
    assert ".data.k" in refused.stderr
    kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=other", "-f", "-", stdin={**wanted, "data": {"k": "2"}})
    assert json.loads(kubectl("get", "configmap", "ours", "-o", "json"))["data"] == {"k": "2", "l": "1"}
    assert owners_of(kubectl, "configmap", "ours") == {("kubectl", "Apply"), ("other", "Apply")}


def test_it_goes_over_from_its_own_apply_to_the_servers(kubectl: Kubectl) -> None:
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "over"}, "data": {"k": "1", "l": "1"}}
    kubectl("apply", "-f", "-", stdin=wanted)
    kubectl("apply", "--server-side", "-f", "-", stdin={**wanted, "data": {"k": "2"}})
    data = json.loads(kubectl("get", "configmap", "over", "-o", "json"))["data"]
    # A kubectl of before 1.26 leaves its old entry as it is, so that what it no longer says stays.
    assert data == ({"k": "2"} if kubectl.minor >= 26 else {"k": "2", "l": "1"})


def test_it_applies_a_list_and_sees_what_would_differ(kubectl: Kubectl) -> None:
    front, back = service("one"), deployment("one")
    wanted = {"apiVersion": "v1", "kind": "List", "items": [front, back]}
    assert kubectl("apply", "-f", "-", stdin=wanted).count("created") == 2
    assert kubectl.run("diff", "-f", "-", stdin=wanted).returncode == 0
    back["spec"]["replicas"] = 5
    done = kubectl.run("diff", "-f", "-", stdin=wanted)
    assert done.returncode == 1 and re.search(r"\+\s+replicas: 5", done.stdout), done.stderr
    assert kubectl.get("deployment", "one")["spec"]["replicas"] == 2


def test_a_union_changes_sides(kubectl: Kubectl) -> None:
    """The strategy of a Deployment carries retainKeys: the fields of the other side go."""
    wanted = deployment("union")
    wanted["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    kubectl("apply", "-f", "-", stdin=wanted)
    wanted["spec"]["strategy"] = {"type": "Recreate"}
    kubectl("apply", "-f", "-", stdin=wanted)
    assert kubectl.get("deployment", "union")["spec"]["strategy"] == {"type": "Recreate"}


def test_a_dry_run_on_the_server_changes_nothing(kubectl: Kubectl) -> None:
    assert "created (server dry run)" in kubectl("apply", "--dry-run=server", "-f", "-", stdin=service("dry"))
    assert "NotFound" in kubectl.fails("get", "service", "dry")
    kubectl("create", "-f", "-", stdin=service("dry"))
    kubectl("patch", "service", "dry", "--dry-run=server", "-p", '{"metadata":{"labels":{"a":"b"}}}')
    kubectl("delete", "service", "dry", "--dry-run=server")
    assert "a" not in kubectl.get("service", "dry")["metadata"]["labels"]


def test_a_field_that_does_not_exist_is_refused_by_name(kubectl: Kubectl) -> None:
    wrong = service("wrong", ipFamiliyPolicy="PreferDualStack")
    assert re.search(r'unknown field "?(spec\.)?ipFamiliyPolicy', kubectl.fails("create", "-f", "-", stdin=wrong))
    assert "ipFamiliyPolicy" in kubectl.fails("apply", "-f", "-", stdin=wrong)
    assert "created" in kubectl("create", "--validate=false", "-f", "-", stdin=wrong)


def test_what_breaks_the_rules_is_told_by_field(kubectl: Kubectl) -> None:
    told = kubectl.fails("create", "-f", "-", stdin=service("broken", ipFamilyPolicy="SingleStack", ipFamilies=["IPv4", "IPv6"]))
    assert 'The Service "broken" is invalid' in told and "spec.ipFamilyPolicy" in told


# ---- reading


def test_it_gets_in_every_form(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=service("forms", type="NodePort"))
    made = kubectl.get("service", "forms")
    primary, secondary = made["spec"]["clusterIPs"]
    header, row = kubectl("get", "service", "forms").splitlines()
    assert header.split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert row.split()[:4] == ["forms", "NodePort", primary, "<none>"]
    assert re.fullmatch(r"80:3\d{4}/TCP,443:3\d{4}/TCP", row.split()[4])
    assert "app=forms" in kubectl("get", "svc", "forms", "-o", "wide")
    assert secondary in kubectl("get", "svc", "forms", "-o", "yaml")
    assert kubectl("get", "svc", "forms", "-o", "name") == "service/forms\n"
    assert kubectl("get", "svc", "forms", "-o", "jsonpath={.spec.clusterIPs[1]}") == secondary
    assert kubectl("get", "svc", "-l", "app in (forms)", "-o", "name") == "service/forms\n"
    assert kubectl("get", "svc", "--field-selector", f"spec.clusterIP={primary}", "-o", "name") == "service/forms\n"
    assert "service/forms" in kubectl("get", "all")
    assert kubectl("get", "svc", "--show-labels", "-l", "app=forms").count("tier=front") == 1
    assert "kubernetes" in kubectl("get", "svc", "-A", "--sort-by=.metadata.name")
    assert kubectl("get", "ipaddress", primary, "--no-headers").split()[:2] == [primary, f"services/{kubectl.namespace}/forms"]
    assert "NotFound" in kubectl.fails("get", "svc", "nowhere")


def test_it_watches(kubectl: Kubectl) -> None:
    argv = [kubectl.path, "get", "configmaps", "-w", "--output-watch-events", "-l", "watched=yes"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kubectl.environment) as process:
        assert process.stdout is not None
        try:
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "watched", "labels": {"watched": "yes"}}, "data": {"a": "1"}}
            kubectl("create", "-f", "-", stdin=document)
            assert process.stdout.readline().split() == ["EVENT", "NAME", "DATA", "AGE"]
            assert process.stdout.readline().split()[:3] == ["ADDED", "watched", "1"]
            kubectl("patch", "configmap", "watched", "--type=merge", "-p", '{"data":{"b":"2"}}')
            assert process.stdout.readline().split()[:3] == ["MODIFIED", "watched", "2"]
            kubectl("delete", "configmap", "watched")
            assert process.stdout.readline().split()[:3] == ["DELETED", "watched", "2"]
        finally:
            process.terminate()


def test_it_describes(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=service("described"))
    addresses = kubectl.get("service", "described")["spec"]["clusterIPs"]
    told = kubectl("describe", "service", "described")
    assert addresses[0] in told and "http  80/TCP" in told
    assert ",".join(addresses) in told
    kubectl("apply", "-f", "-", stdin=deployment("described"))
    told = kubectl("describe", "deployment", "described")
    assert "2 desired" in told and "twinstack.dev/host" in told
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "described"}, "spec": deployment("x")["spec"]["template"]["spec"]}
    kubectl("apply", "-f", "-", stdin=pod)
    uid = kubectl.get("pod", "described")["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "described.1"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "described", "namespace": kubectl.namespace, "uid": uid},
        "reason": "Tried",
        "message": "a test tried this",
        "type": "Normal",
        "source": {"component": "test"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 1,
    }
    kubectl("create", "-f", "-", stdin=event)
    told = kubectl("describe", "pod", "described")
    assert "a test tried this" in told and "Pending" in told
    assert "a test tried this" in kubectl("get", "events")


def test_it_sees_both_addresses_of_a_node(kubectl: Kubectl) -> None:
    name = f"node-{kubectl.namespace}"
    kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    node = kubectl.get("node", name)
    addresses = [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "2001:db8::1"}]
    node["status"] = {
        "addresses": addresses,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Tried", "message": "yes"}],
        "nodeInfo": {"kubeletVersion": "v1.36.2"},
    }
    kubectl.write_status(f"/api/v1/nodes/{name}", node)
    told = kubectl("describe", "node", name)
    assert "192.0.2.1" in told and "2001:db8::1" in told
    assert kubectl("get", "node", name, "--no-headers").split()[1] == "Ready"
    assert "cordoned" in kubectl("cordon", name)
    assert kubectl("get", "node", name, "--no-headers").split()[1] == "Ready,SchedulingDisabled"
    kubectl("taint", "node", name, "a=b:NoSchedule")
    assert {"key": "a", "value": "b", "effect": "NoSchedule"} in kubectl.get("node", name)["spec"]["taints"]
    kubectl("delete", "node", name)


# ---- changing


def test_it_patches_in_three_ways_and_labels_and_annotates(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=service("patched"))
    kubectl("patch", "service", "patched", "-p", '{"spec":{"ports":[{"port":443,"targetPort":1}]}}')
    assert [port["targetPort"] for port in kubectl.get("service", "patched")["spec"]["ports"]] == [8080, 1]
    kubectl("patch", "service", "patched", "--type=merge", "-p", '{"metadata":{"labels":{"tier":null,"x":"y"}}}')
    kubectl(
        "patch", "service", "patched", "--type=json", "-p", '[{"op":"test","path":"/metadata/labels/x","value":"y"},{"op":"remove","path":"/spec/ports/1"}]'
    )
    kubectl("label", "service", "patched", "x=z", "w=v", "--overwrite")
    kubectl("label", "service", "patched", "app-")
    kubectl("annotate", "service", "patched", "note=something to remember")
    after = kubectl.get("service", "patched")
    assert after["metadata"]["labels"] == {"x": "z", "w": "v"}
    assert after["metadata"]["annotations"]["note"] == "something to remember"
    assert [port["port"] for port in after["spec"]["ports"]] == [80]
    assert "merge key: port" in kubectl.fails("patch", "service", "patched", "-p", '{"spec":{"ports":[{"name":"x"}]}}')
    kubectl.fails("patch", "service", "patched", "--type=json", "-p", '[{"op":"remove","path":"/spec/nothing"}]')


def test_it_edits_and_replaces(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("apply", "-f", "-", stdin=service("edited"))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/targetPort: 8080/targetPort: 8181/" "$1"\n')
    editor.chmod(0o755)
    assert "edited" in kubectl("edit", "service", "edited", KUBE_EDITOR=str(editor))
    after = kubectl.get("service", "edited")
    assert after["spec"]["ports"][0]["targetPort"] == 8181
    stale = json.loads(json.dumps(after))
    after["metadata"]["labels"]["replaced"] = "yes"
    kubectl("replace", "-f", "-", stdin=after)
    assert "the object has been modified" in kubectl.fails("replace", "-f", "-", stdin=stale)
    assert kubectl.get("service", "edited")["metadata"]["labels"]["replaced"] == "yes"


def test_it_scales_waits_and_follows_a_rollout(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=deployment("rolled"))
    assert "scaled" in kubectl("scale", "deployment", "rolled", "--replicas=3")
    made = kubectl.get("deployment", "rolled")
    assert made["spec"]["replicas"] == 3
    path = f"/apis/apps/v1/namespaces/{kubectl.namespace}/deployments/rolled"
    made["status"] = {
        "observedGeneration": made["metadata"]["generation"],
        "replicas": 3,
        "updatedReplicas": 3,
        "readyReplicas": 3,
        "availableReplicas": 3,
        "conditions": [{"type": "Available", "status": "True", "reason": "Tried", "message": "yes"}],
    }
    kubectl.write_status(path, made)
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/rolled", "--timeout=10s")
    assert "condition met" in kubectl("wait", "--for=condition=Available", "deployment/rolled", "--timeout=10s")
    assert kubectl("get", "deployment", "rolled", "--no-headers").split()[1:4] == ["3/3", "3", "3"]
    kubectl("set", "image", "deployment/rolled", "web=twinstack.dev/host:2")
    assert kubectl.get("deployment", "rolled")["metadata"]["generation"] == made["metadata"]["generation"] + 1
    kubectl("rollout", "restart", "deployment/rolled")
    assert "kubectl.kubernetes.io/restartedAt" in kubectl.get("deployment", "rolled")["spec"]["template"]["metadata"]["annotations"]


def test_it_runs_a_pod_and_exposes_it(kubectl: Kubectl) -> None:
    assert "created" in kubectl("run", "ran", "--image=twinstack.dev/host", "--port=8080", "--command", "--", "sleep", "60")
    assert kubectl("get", "pod", "ran", "--no-headers").split()[1:3] == ["0/1", "Pending"]
    assert "exposed" in kubectl("expose", "pod", "ran", "--port=80", "--target-port=8080")
    assert kubectl.get("service", "ran")["spec"]["selector"] == {"run": "ran"}
    assert "deleted" in kubectl("delete", "pod/ran", "service/ran", "--timeout=20s")


def test_it_deletes_and_waits_for_the_end(kubectl: Kubectl) -> None:
    for name in ("gone-1", "gone-2", "gone-3"):
        kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"gone": "yes"}}})
    assert "deleted" in kubectl("delete", "configmap", "gone-1", "--timeout=20s")
    assert kubectl("delete", "configmap", "-l", "gone=yes", "--timeout=20s").count("deleted") == 2
    assert "NotFound" in kubectl.fails("delete", "configmap", "gone-1")
    assert kubectl("delete", "configmap", "gone-1", "--ignore-not-found") == ""


def test_it_creates_without_a_file(kubectl: Kubectl) -> None:
    """Newer kubectls send protobuf from these commands."""
    kubectl("create", "configmap", "made", "--from-literal=a=b")
    assert kubectl.get("configmap", "made")["data"] == {"a": "b"}
    kubectl("create", "secret", "generic", "made", "--from-literal=a=b")
    assert kubectl.get("secret", "made")["data"] == {"a": "Yg=="}
    kubectl("create", "serviceaccount", "made")
    kubectl("create", "service", "clusterip", "made", "--tcp=80:8080")
    assert kubectl.get("service", "made")["spec"]["ports"] == [{"name": "80-8080", "port": 80, "protocol": "TCP", "targetPort": 8080}]
    kubectl("create", "service", "clusterip", "headless", "--clusterip=None")
    assert kubectl.get("service", "headless")["spec"]["clusterIPs"] == ["None"]
    kubectl("create", "service", "nodeport", "open", "--tcp=80:http")
    assert kubectl.get("service", "open")["spec"]["ports"][0]["targetPort"] == "http"
    kubectl("create", "service", "loadbalancer", "balanced", "--tcp=80")
    kubectl("create", "service", "externalname", "elsewhere", "--external-name=a.example")
    kubectl("create", "deployment", "made", "--image=twinstack.dev/host")
    assert kubectl.get("deployment", "made")["spec"]["replicas"] == 1
    kubectl("create", "namespace", kubectl.namespace + "-made")
    kubectl("delete", "namespace", kubectl.namespace + "-made", "--wait=false")
