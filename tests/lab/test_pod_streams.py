"""A real kubectl talks with pods of a real cluster: commands, terminals, files, forwarded ports, logs, attaching."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]

SERVER = """
import http.server, socket, sys, threading
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.server.address_family.name} {self.path}".encode())
    def log_message(self, *words):
        print("asked", self.path, flush=True)
class Six(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
for kind, place in ((http.server.ThreadingHTTPServer, ("127.0.0.1", 8080)), (Six, ("::1", 8081))):
    threading.Thread(target=kind(place, Hello).serve_forever).start()
print("serving", flush=True)
"""


def pod(name: str, command: list[str], **container: Any) -> dict[str, Any]:
    spec = {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": "twinstack.dev/host:1", "command": command, **container}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Kubectl:
    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *words: str, stdin: bytes = b"", status: int = 0) -> str:
        done = subprocess.run(["kubectl", *words], input=stdin, env=self.environment, capture_output=True, check=False, timeout=30)
        assert done.returncode == status, (words, done.returncode, done.stdout[-1000:], done.stderr)
        return (done.stdout + done.stderr).decode()

    @contextmanager
    def beside(self, *words: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(["kubectl", *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more) as process:
            try:
                yield process
            finally:
                process.terminate()
                process.communicate()


def until(process: subprocess.Popen[bytes], pattern: str, seconds: float = 15.0) -> re.Match[str]:
    """Read what a process says until it says this."""
    assert process.stdout is not None
    return _until(process.stdout.fileno(), pattern, seconds)


def _until(fd: int, pattern: str, seconds: float = 15.0) -> re.Match[str]:
    told, deadline = b"", time.monotonic() + seconds
    while not (found := re.search(pattern, told.decode(errors="replace"), re.DOTALL)):
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{pattern!r} did not come: {told!r}"
        data = os.read(fd, 65536)
        assert data, f"{pattern!r} did not come before the end: {told!r}"
        told += data
    return found


@pytest.fixture(params=["IPv4,IPv6", "IPv6"])
def kubectl(lab: Any, request: pytest.FixtureRequest) -> Kubectl:
    """kubectl on a cluster of one node, which the API server reaches over its primary family.

    A pod serves on its loopback: IPv4 on port 8080, IPv6 on port 8081.
    """
    lab.up(lab.name("s"), "--nodes", "1", "--families", request.param)
    made = Kubectl(lab.environment)
    pods = [pod("web", ["python3", "-c", SERVER]), pod("asks", ["sh", "-c", "while read a; do echo got $a; done; echo over"], stdin=True, stdinOnce=True)]
    made("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}).encode())
    made("wait", "--for=condition=Ready", "pod/web", "pod/asks", "--timeout=30s")
    return made


def test_kubectl_talks_with_pods(kubectl: Kubectl, tmp_path: Path, kubectl_minor: int) -> None:
    if kubectl_minor < 29:  # it knows SPDY only, and is told so
        told = kubectl("exec", "web", "--", "true", status=1)
        assert "SPDY" in told and "WebSocket" in told
        assert "serving" in kubectl("logs", "web")
        return
    steps: list[Callable[[Kubectl, Path], None]] = [commands, terminals, files, ports, logs, attached, refusals]
    for step in steps:
        step(kubectl, tmp_path)


def commands(kubectl: Kubectl, place: Path) -> None:
    told = kubectl("exec", "web", "--", "sh", "-c", "hostname; echo aside >&2; exit 7", status=7)
    assert told.splitlines() == ["web", "aside", "command terminated with exit code 7"]
    assert kubectl("exec", "web", "--", "true") == ""
    data = os.urandom(1_000_000).hex()
    assert kubectl("exec", "-i", "web", "--", "cat", stdin=data.encode()) == data
    assert "execute 'nonsense': No such file" in kubectl("exec", "web", "--", "nonsense", status=1)
    assert "eth0" in kubectl("exec", "web", "-c", "main", "--", "cat", "/proc/net/dev")


def terminals(kubectl: Kubectl, place: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 103, 0, 0))
    command = ["kubectl", "exec", "-it", "web", "--", "sh"]
    with subprocess.Popen(command, env=kubectl.environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        os.write(ours, b"tty; stty size\r")
        _until(ours, r"/dev/pts/\d+\r\n41 103\r\n")
        os.write(ours, b"exit 5\r")
        _until(ours, "exit code 5")
        assert process.wait(10) == 5
    os.close(ours)


def files(kubectl: Kubectl, place: Path) -> None:
    (place / "there" / "deep").mkdir(parents=True)
    (place / "there" / "deep" / "file").write_bytes(os.urandom(500_000))
    kubectl("cp", str(place / "there"), "web:/tmp/there")
    kubectl("cp", "web:/tmp/there/deep/file", str(place / "back"))
    assert (place / "back").read_bytes() == (place / "there" / "deep" / "file").read_bytes()


def ports(kubectl: Kubectl, place: Path) -> None:
    with kubectl.beside("port-forward", "--address=127.0.0.1", "pod/web", ":8080", ":8081", ":9") as process:
        found = until(process, r"127.0.0.1:(\d+) -> 8080.*127.0.0.1:(\d+) -> 8081.*127.0.0.1:(\d+) -> 9\n")
        for port, family in ((found[1], "AF_INET"), (found[2], "AF_INET6")):
            for number in range(5):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{number}", timeout=10) as answer:
                    assert answer.read().decode() == f"{family} /{number}"
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{found[3]}/", timeout=10)
        until(process, "port 9 cannot be reached in the pod: 127.0.0.1: Connection refused, ::1: Connection refused")


def logs(kubectl: Kubectl, place: Path) -> None:
    with kubectl.beside("logs", "-f", "web", "--tail=1") as process:
        until(process, "asked")
        ask = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/followed')"
        kubectl("exec", "web", "--", "python3", "-c", ask)
        until(process, "asked /followed\n")


def attached(kubectl: Kubectl, place: Path) -> None:
    with kubectl.beside("attach", "-i", "asks", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"this\n")
        process.stdin.flush()
        until(process, "got this\n")
        process.stdin.close()  # its input ends with the first who is attached
        until(process, "over\n")
        assert process.wait(10) == 0
        process.stdin = None
    kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/asks", "--timeout=20s")


def refusals(kubectl: Kubectl, place: Path) -> None:
    assert 'pods "gone" not found' in kubectl("exec", "gone", "--", "true", status=1)
    assert "container other is not valid" in kubectl("exec", "web", "-c", "other", "--", "true", status=1)
    old = Kubectl({**kubectl.environment, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"})
    assert "SPDY is not spoken here" in old("exec", "web", "--", "true", status=1)
    assert "SPDY is not spoken here" in old("port-forward", "web", ":8080", status=1)
