"""Names inside real clusters of all four families: dig and the C library in a pod, and what a restart leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]

D = "cluster.local"
WELL_KNOWN = {Family.IPV4: "10.96.0.10", Family.IPV6: "fd00:10:96::a"}
SECONDS = 30
# what the pod does: names as an application finds them, and all that dig says of the rest
SCRIPT = r"""
import json, socket, subprocess
def dig(*words):
    return subprocess.run(["dig", "+time=2", "+tries=2", *words], capture_output=True, text=True).stdout
def found(name, family=0):
    try:
        return sorted({one[4][0] for one in socket.getaddrinfo(name, 80, family)})
    except socket.gaierror as error:
        return error.errno
told = {"resolv.conf": open("/etc/resolv.conf").read()}
for name in ("both", "both.default", "both.default.svc", "both.default.svc.cluster.local", "kubernetes", "db", "pod-0.db", "alias"):
    told[name] = found(name)
told["nope"] = found("nope")
for type_ in ("A", "AAAA"):
    told["tcp " + type_] = dig("+short", "+tcp", "both.default.svc.cluster.local", type_).split()
told["srv"] = dig("+short", "_http._tcp.db.default.svc.cluster.local", "SRV").split()
told["version"] = dig("+short", "dns-version.cluster.local", "TXT").strip()
told["nodata"] = dig("only-first.default.svc.cluster.local", OTHER)
told["nxdomain"] = dig("nope.default.svc.cluster.local", "AAAA")
told["elsewhere"] = dig("example.com")
for server in SERVERS:
    told["by " + server] = dig("+short", "@" + server, "-x", server).strip()
print(json.dumps(told), flush=True)
"""


class Cluster:
    """A cluster of this test's own."""

    def __init__(self, home: Path, families: tuple[Family, ...]) -> None:
        self.name, self.families = f"tst{os.getpid()}-dns", families
        self.environment = {**os.environ, "XDG_STATE_HOME": str(home), "KUBECONFIG": str(home / "kubeconfig"), "HOME": str(home)}

    def twinstack(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "twinstack.cli.main", command, f"--name={self.name}", *words]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=90, check=False)

    def kubectl(self, *words: str, given: Any = None) -> str:
        done = subprocess.run(
            ["kubectl", *words],
            env=self.environment,
            input=None if given is None else json.dumps(given),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, kind: str, name: str, namespace: str = "default") -> Any:
        return json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))

    def until(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (found := what()):
            assert time.monotonic() < deadline, what
            time.sleep(0.1)
        return found


@pytest.fixture(params=[FAMILIES[:1], FAMILIES[1:], FAMILIES, FAMILIES[::-1]], ids=lambda families: ",".join(map(str, families)))
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(tmp_path, request.param)
    try:
        done = one.twinstack("up", f"--families={','.join(map(str, one.families))}", "--nodes=1")
        assert done.returncode == 0, done.stderr
        yield one
    finally:
        one.twinstack("down")


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}], **spec},
    }


def pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "twinstack.dev/host", "command": list(command)}
    metadata = {"name": name, "namespace": "default", "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"terminationGracePeriodSeconds": 1, "containers": [container], **spec}}


def test_pods_find_services_by_name_in_every_family_of_the_cluster(cluster: Cluster) -> None:
    families = cluster.families
    dual = {"ipFamilyPolicy": "PreferDualStack", "selector": {"app": "pod-0"}}
    objects = [
        service("both", **dual),
        service("only-first", ipFamilyPolicy="SingleStack", ipFamilies=[families[0].value]),
        service("db", clusterIP="None", **dual),
        service("alias", type="ExternalName", externalName=f"both.default.svc.{D}"),
        pod("pod-0", "/bin/sleep", "1000", hostname="pod-0", subdomain="db"),
    ]
    cluster.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": objects})
    addresses = cluster.until(lambda: _ready_addresses(cluster.get("pod", "pod-0")))
    both = cluster.get("service", "both")["spec"]["clusterIPs"]
    assert len(addresses) == len(both) == len(families)

    servers = [WELL_KNOWN[family] for family in families]
    script = SCRIPT.replace("OTHER", repr(families[0].other.facts.dns_type)).replace("SERVERS", repr(servers))
    cluster.kubectl("apply", "-f", "-", given=pod("asks", "/usr/bin/python3", "-c", script, restartPolicy="Never"))
    cluster.until(lambda: cluster.get("pod", "asks")["status"].get("phase") == "Succeeded")
    told = json.loads(cluster.kubectl("logs", "asks").splitlines()[-1])

    lines = told["resolv.conf"].splitlines()
    assert lines[0].split()[:4] == ["search", f"default.svc.{D}", f"svc.{D}", D] and "options ndots:5" in lines
    assert [line for line in lines if line.startswith("nameserver")] == [f"nameserver {server}" for server in servers]
    for name in ("both", "both.default", "both.default.svc", f"both.default.svc.{D}", "alias"):
        assert told[name] == sorted(both), name
    assert told["kubernetes"] == cluster.get("service", "kubernetes")["spec"]["clusterIPs"]
    assert told["db"] == told["pod-0.db"] == sorted(addresses)
    assert isinstance(told["nope"], int) and told["nope"] < 0
    for family in FAMILIES:
        assert told[f"tcp {family.facts.dns_type}"] == [text for text in both if (":" in text) is (family is Family.IPV6)]
    assert told["srv"] == ["0", "100", "80", f"pod-0.db.default.svc.{D}."]
    assert told["version"] == '"1.1.0"'
    assert "status: NOERROR" in told["nodata"] and "ANSWER: 0" in told["nodata"] and "SOA" in told["nodata"]
    assert "status: NXDOMAIN" in told["nxdomain"] and "status: REFUSED" in told["elsewhere"]
    for server in servers:
        assert told[f"by {server}"] == f"kube-dns.kube-system.svc.{D}.", "each family is a way to the server"

    known = cluster.get("service", "kube-dns", "kube-system")["spec"]
    assert known["clusterIPs"] == servers and known["ipFamilies"] == [family.value for family in families]
    control_plane = next(one["pid"] for one in json.loads(cluster.twinstack("status", "-o", "json").stdout)["components"] if one["name"] == "kube-apiserver")
    os.kill(control_plane, signal.SIGSTOP)
    try:
        for server in servers:
            found = cluster.twinstack("shell", "node1", "--", "dig", "+short", "+time=2", f"@{server}", "-x", both[0])
            assert found.stdout.strip() == f"both.default.svc.{D}.", "names are found while the API server is away"
    finally:
        os.kill(control_plane, signal.SIGCONT)

    uid = cluster.get("service", "kube-dns", "kube-system")["metadata"]["uid"]
    assert cluster.twinstack("restart", "dns").returncode == 0
    assert cluster.get("service", "kube-dns", "kube-system")["metadata"]["uid"] == uid, "a restart leaves it"
    cluster.kubectl("delete", "service", "kube-dns", "-n", "kube-system")
    assert cluster.twinstack("restart", "dns").returncode == 0
    assert cluster.get("service", "kube-dns", "kube-system")["spec"]["clusterIPs"] == servers, "a restart puts it back"


def _ready_addresses(one: Any) -> list[str]:
    conditions = {condition["type"]: condition["status"] for condition in one["status"].get("conditions", [])}
    return [ip["ip"] for ip in one["status"].get("podIPs", [])] if conditions.get("Ready") == "True" else []
