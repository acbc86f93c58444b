"""What a protobuf body costs to read, and what passes between kubectl and a pod: commands, bytes out and in, a forwarded port.

A cluster of one node is brought up by the command line, and a real kubectl talks with a pod of it, TLS and all: client, API server and
kubelet share the machine. The baseline of a command is ``kubectl get --raw /version``, which asks the API server one thing. The baseline of a
protobuf body is the same object as JSON.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import timeit
import urllib.request
from collections.abc import Callable
from statistics import median

from bench.results import Result
from twinstack.api import objects, protobuf

MICROSECONDS = 40.0
# what `kubectl create service nodeport np --tcp=80:http --node-port=30080` sends
_BODY = bytes.fromhex(
    "6b3873000a0d0a027631120753657276696365126e0a210a026e7012001a0464656d6f22002a003200380042005a090a0361707012026e7012450a200a0738302d687474"
    "7012035443501850220a080110001a04687474702880eb0112090a0361707012026e701a0022084e6f6465506f72743a00420052005a00600068001a020a001a002200"
)
_SERVER = """
import http.server, sys
class Many(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(int(self.path[1:])):
            self.wfile.write(bytes(1 << 20))
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Many).serve_forever()
"""


def run(scale: float) -> list[Result]:
    return [*_protobuf(scale), *_streams(scale)]


def _protobuf(scale: float) -> list[Result]:
    document = protobuf.decode(_BODY)
    text = objects.encode(document)
    times = max(1000, int(20_000 * scale))

    def microseconds(work: Callable[[], object]) -> float:
        return min(timeit.repeat(work, number=times, repeat=3)) / times * 1e6

    told = {"bytes": float(len(_BODY)), "bytes as JSON": float(len(text))}
    as_json = microseconds(lambda: objects.decode(text))
    spent = microseconds(lambda: protobuf.decode(_BODY))
    name = "a Service's protobuf body to its document"
    return [Result(bench="streams", name=name, value=spent, unit="µs", baseline="JSON", baseline_value=as_json, target=MICROSECONDS, detail=told)]


def _streams(scale: float) -> list[Result]:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "XDG_STATE_HOME": home, "KUBECONFIG": f"{home}/kubeconfig", "HOME": home}

        def twinstack(*words: str) -> None:
            subprocess.run([sys.executable, "-m", "twinstack.cli.main", *words], env=environment, check=True, stdout=subprocess.PIPE)

        def kubectl(*words: str, **more: object) -> float:
            begin = time.perf_counter()
            subprocess.run(["kubectl", *words], env=environment, check=True, stdout=subprocess.DEVNULL, **more)  # type: ignore[call-overload]
            return time.perf_counter() - begin

        name = f"bench{os.getpid()}"
        try:
            twinstack("up", "--name", name, "--nodes", "1")
            kubectl("run", "p", "--image=twinstack.dev/host", "--command", "--", os.path.realpath(sys.executable), "-c", _SERVER)
            kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=30s")
            return _talk(kubectl, environment, max(10, int(200 * scale)), max(5, int(20 * scale)))
        finally:
            twinstack("down", "--name", name)


def _talk(kubectl: Callable[..., float], environment: dict[str, str], megabytes: int, times: int) -> list[Result]:
    size = megabytes << 20
    one = median(kubectl("exec", "p", "--", "true") for _ in range(times)) * 1000
    base = median(kubectl("get", "--raw", "/version") for _ in range(times)) * 1000
    out = megabytes / kubectl("exec", "p", "--", "head", "-c", str(size), "/dev/zero")
    with subprocess.Popen(["head", "-c", str(size), "/dev/zero"], stdout=subprocess.PIPE) as source:
        into = megabytes / kubectl("exec", "-i", "p", "--", "sh", "-c", "cat >/dev/null", stdin=source.stdout)
    with subprocess.Popen(["kubectl", "port-forward", "p", ":8080"], env=environment, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            port = forwarding.stdout.readline().split(" -> ")[0].rpartition(":")[2]
            begin = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{megabytes}", timeout=120) as answer:
                assert sum(len(data) for data in iter(lambda: answer.read(1 << 20), b"")) == size
            forwarded = megabytes / (time.perf_counter() - begin)
        finally:
            forwarding.terminate()
    told = {"MiB": float(megabytes)}
    return [
        Result(bench="streams", name="kubectl exec true, p50", value=one, unit="ms", baseline="kubectl get --raw", baseline_value=base),
        Result(bench="streams", name="kubectl exec, out of a pod", value=out, unit="MiB/s", better="higher", detail=told),
        Result(bench="streams", name="kubectl exec -i, into a pod", value=into, unit="MiB/s", better="higher", detail=told),
        Result(bench="streams", name="kubectl port-forward, out of a pod", value=forwarded, unit="MiB/s", better="higher", detail=told),
    ]
