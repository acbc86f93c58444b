"""A pod speaks to the API server as its ServiceAccount, with what is mounted where clients look for it."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
PROGRAM = """
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount/"
host = os.environ["KUBERNETES_SERVICE_HOST"]
url = "https://%s:443/apis/authentication.k8s.io/v1/selfsubjectreviews" % ("[" + host + "]" if ":" in host else host)
body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
headers = {"Authorization": "Bearer " + open(folder + "token").read(), "Content-Type": "application/json"}
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
answer = json.load(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=folder + "ca.crt")))
print(open(folder + "namespace").read(), answer["status"]["userInfo"]["username"])
"""


@pytest.mark.parametrize("families", ["IPv4,IPv6", "IPv6,IPv4"])
def test_a_pod_is_known_by_its_token(lab: Any, families: str) -> None:
    name = lab.name("token" + families[3])
    lab.up(name, "--nodes", "1", "--families", families)

    def kubectl(*words: str, **more: Any) -> str:
        command = ["kubectl", "--context", f"twinstack-{name}", *words]
        done = subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=False, timeout=30, **more)
        return done.stdout

    kubectl("create", "serviceaccount", "robot")
    command = ["--command", "--", "/usr/bin/python3", "-IS", "-c", PROGRAM]
    overrides = '{"spec": {"serviceAccountName": "robot"}}'
    kubectl("run", "asking", "--image=twinstack.dev/host", "--restart=Never", f"--overrides={overrides}", *command)
    end = time.monotonic() + 20
    while kubectl("get", "pod", "asking", "-o", "jsonpath={.status.phase}") not in ("Succeeded", "Failed") and time.monotonic() < end:
        time.sleep(0.05)
    assert kubectl("logs", "asking").strip() == "default system:serviceaccount:default:robot"
    lab.down(name)
