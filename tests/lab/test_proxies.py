"""The API server of a real cluster passes requests on to pods, Services and kubelets, whatever the families and the network."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from typing import Any

import pytest

from tests.lab.conftest import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]

SERVER = """
import http.server, socket, threading
class Hello(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        size = int(self.headers.get("Content-Length", 0))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.command} {self.path} ".encode() + self.rfile.read(size))
    do_GET = do_POST
class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()
for kind, place in ((http.server.ThreadingHTTPServer, "0.0.0.0"), (Six, "::")):
    threading.Thread(target=kind((place, 8080), Hello).serve_forever).start()
"""
CONTAINER = {
    "name": "main",
    "image": "twinstack.dev/host:1",
    "command": ["python3", "-c", SERVER],
    "ports": [{"name": "web", "containerPort": 8080}],
    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"nodeName": "node2", "terminationGracePeriodSeconds": 0, "containers": [CONTAINER]},
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
}
NONE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "none"}, "spec": {"selector": {"app": "none"}, "ports": [{"port": 80}]}}
HERE = "/api/v1/namespaces/default"


def raw(lab: Lab, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["kubectl", "--context", f"twinstack-{name}", *words]
    return subprocess.run(command, env=lab.environment, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("network", ["direct", "vxlan"])
@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"])
def test_pods_services_and_kubelets_are_reached_through_the_api_server(lab: Lab, families: str, network: str) -> None:
    name = lab.name()
    lab.up(name, "--families", families, "--network", network, "--nodes", "2")
    listed: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": [POD, SERVICE, NONE]}
    command = ["kubectl", "--context", f"twinstack-{name}", "create", "-f", "-"]
    subprocess.run(command, env=lab.environment, input=json.dumps(listed), capture_output=True, text=True, check=True, timeout=30)
    deadline = time.monotonic() + 30
    while (got := raw(lab, name, "get", "--raw", f"{HERE}/services/web:http/proxy/a?b=c")).returncode and time.monotonic() < deadline:
        assert 'no endpoints available for service "web' in got.stderr or "service unavailable" in got.stderr.lower(), got.stderr
    assert got.stdout == "GET /a?b=c ", got.stderr + lab.logs(name)
    assert raw(lab, name, "get", "--raw", f"{HERE}/pods/web/proxy/x").stdout == "GET /x "
    assert raw(lab, name, "get", "--raw", f"{HERE}/pods/web:8080/proxy/").stdout == "GET / "
    summary = json.loads(raw(lab, name, "get", "--raw", "/api/v1/nodes/node2/proxy/stats/summary").stdout)
    assert summary["node"]["nodeName"] == "node2"
    assert "no endpoints available" in raw(lab, name, "get", "--raw", f"{HERE}/services/none/proxy/").stderr
    proxied = ["kubectl", "--context", f"twinstack-{name}", "proxy", "--port=0", "--disable-filter=true"]
    with subprocess.Popen(proxied, env=lab.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().rsplit(" ", 1)[1].strip()
        try:
            with urllib.request.urlopen(f"http://{address}{HERE}/services/web:80/proxy/in?x", data=b"body", timeout=10) as response:
                assert response.read() == b"POST /in?x body"
        finally:
            process.terminate()
    lab.down(name)
    assert lab.remains(name) == {}
