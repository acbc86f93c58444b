"""A cluster in which everybody is who they are: components do their work, and nothing else."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]

CALL = """
D=/var/run/secrets/kubernetes.io/serviceaccount
curl -sS --cacert $D/ca.crt -H "Authorization: Bearer $(cat $D/token)" -H "Content-Type: application/json" -d "{}" \
  https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews
"""
IDLE = ("bash", "-c", "trap 'exit 0' TERM; sleep infinity & wait")  # ends when it is told to
ACCOUNT = "system:serviceaccount:kube-system:"
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "caller"},
    "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "twinstack.dev/host:1", "command": ["bash", "-c"], "args": [CALL]}]},
}


def test_components_have_what_their_work_takes_and_a_pod_is_its_service_account(lab: Any, tmp_path: Path) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "2")
    files = lab.home / "state" / "twinstack" / name

    def kubectl(*words: str, who: str = "") -> subprocess.CompletedProcess[str]:
        identity = ["--as", who, *(["--as-group", "system:nodes"] if who.startswith("system:node:") else [])] if who else []
        command = ["kubectl", "--context", f"twinstack-{name}", *identity, *words]
        return subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=False, timeout=30)

    for who, may, may_not in (
        ("system:kube-proxy", ("watch", "endpointslices", "-A"), ("list", "secrets", "-A")),
        ("system:kube-proxy", ("watch", "services", "-A"), ("patch", "nodes/node1")),
        ("system:kube-scheduler", ("create", "pods", "--subresource=binding"), ("create", "pods")),
        ("system:kube-controller-manager", ("watch", "secrets", "-A"), ("create", "endpointslices")),
        ("system:kube-controller-manager", ("create", "serviceaccounts/node-controller", "--subresource=token", "-n=kube-system"), ("delete", "pods")),
        (f"{ACCOUNT}endpointslice-controller", ("create", "endpointslices"), ("delete", "pods")),
        (f"{ACCOUNT}replicaset-controller", ("create", "pods"), ("get", "secrets")),
        (f"{ACCOUNT}generic-garbage-collector", ("delete", "secrets"), ("create", "pods")),
        ("twinstack:load-balancer", ("patch", "services", "--subresource=status"), ("patch", "services")),
        ("system:kube-dns", ("watch", "services", "-A"), ("list", "nodes")),
        ("twinstack:node-router", ("list", "nodes"), ("list", "pods", "-A")),
        ("system:node:node1", ("patch", "nodes/node1", "--subresource=status"), ("patch", "nodes/node2", "--subresource=status")),
    ):
        assert kubectl("auth", "can-i", *may, who=who).stdout.strip().endswith("yes"), (who, may)
        assert kubectl("auth", "can-i", *may_not, who=who).stdout.strip().startswith("no"), (who, may_not)

    (tmp_path / "pod.json").write_text(json.dumps(POD))
    deadline = time.monotonic() + 40
    # Work for many controllers, each of which writes as itself.
    assert kubectl("create", "deployment", "web", "--image=twinstack.dev/host:1", "--replicas=2", "--", *IDLE).returncode == 0
    assert kubectl("expose", "deployment", "web", "--port=80").returncode == 0
    assert kubectl("rollout", "status", "deployment/web", "--timeout=25s").returncode == 0
    slices = json.loads(kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "json").stdout)["items"]
    assert sum(len(one["endpoints"] or ()) for one in slices) >= 2
    assert kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=25s").returncode == 0
    accounts = kubectl("get", "serviceaccounts", "-n", "kube-system", "-o", "name").stdout.split()
    assert {f"serviceaccount/{one}" for one in ("endpointslice-controller", "replicaset-controller", "node-controller")} <= set(accounts)
    while (made := kubectl("create", "-f", str(tmp_path / "pod.json"))).returncode:
        assert "service account default/default" in made.stderr and time.monotonic() < deadline, made.stderr
        time.sleep(0.05)
    while (phase := kubectl("get", "pod/caller", "-o", "jsonpath={.status.phase}").stdout) != "Succeeded":
        assert phase != "Failed" and time.monotonic() < deadline, phase
        time.sleep(0.05)
    told = json.loads(kubectl("logs", "caller").stdout)["status"]["userInfo"]
    assert told["username"] == "system:serviceaccount:default:default"
    assert told["extra"]["authentication.kubernetes.io/pod-name"] == ["caller"]
    refused = [line for path in files.rglob("*.log") for line in path.read_text().splitlines() if "cannot" in line and "in API group" in line]
    assert refused == [], "a component asked for what its role does not give"
