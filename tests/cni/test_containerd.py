"""The plugin under Debian's containerd: pods by the Container Runtime Interface, from an image made here, in a node's namespace.

CRI is gRPC. What a test needs of it (one call at a time, answers of a few fields) is written out below: frames of HTTP/2
(RFC 9113), header fields that are never compressed (RFC 7541, section 6.2.2), and protobuf's two wire types.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from twinstack.api.cni import network_config
from twinstack.cni.daemon import Daemon
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.kernel, pytest.mark.cluster, pytest.mark.slow]
OWN = {Family.IPV4: "172.30.0.11", Family.IPV6: "fd30::11"}
PAUSE, WEB = "twinstack.local/pause:1", "twinstack.local/web:1"


def number(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(*fields: tuple[int, Any]) -> bytes:
    """Protobuf: fields as (number, integer | text | bytes of an inner message)."""
    out = b""
    for tag, value in fields:
        if isinstance(value, int):
            out += number(tag << 3) + number(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += number(tag << 3 | 2) + number(len(data)) + data
    return out


def fields(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    offset = 0

    def varint() -> int:
        nonlocal offset
        value = shift = 0
        while True:
            byte = data[offset]
            offset += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while offset < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.setdefault(tag >> 3, []).append(varint())
        else:
            length = varint()
            found.setdefault(tag >> 3, []).append(data[offset : offset + length])
            offset += length
    return found


class Runtime:
    """One call of CRI at a time, each over a connection of its own."""

    def __init__(self, path: str, log: Path) -> None:
        self._path, self._log = path, log

    def call(self, method: str, request: bytes) -> dict[int, list[Any]]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(self._path)
            names = {
                ":method": "POST", ":scheme": "http", ":path": f"/runtime.v1.RuntimeService/{method}", ":authority": "localhost",
                "content-type": "application/grpc", "te": "trailers",
            }  # fmt: skip
            block = b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in names.items())
            body = b"\0" + struct.pack("!I", len(request)) + request
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + frame(1, 4, 1, block) + frame(0, 1, 1, body))
            answer = b""
            while True:
                head = exactly(connection, 9)
                length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                payload = exactly(connection, length)
                if kind == 4 and not flags & 1:
                    connection.sendall(frame(4, 1, 0))
                elif kind == 6 and not flags & 1:
                    connection.sendall(frame(6, 1, 0, payload))
                elif kind == 0:
                    answer += payload
                if kind in (0, 1) and flags & 1:
                    break
        assert answer, f"{method} failed: {self._log.read_text().splitlines()[-1]}"  # the trailers are compressed by Huffman's code
        return fields(answer[5:])


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, "containerd has hung up"
        data += part
    return data


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def image(path: Path, name: str, entry: list[str]) -> Path:
    """A Docker archive of Debian's busybox-static."""

    def tarred(files: dict[str, bytes], links: dict[str, str]) -> bytes:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for file, content in files.items():
                member = tarfile.TarInfo(file)
                member.size, member.mode = len(content), 0o755
                tar.addfile(member, io.BytesIO(content))
            for file, target in links.items():
                member = tarfile.TarInfo(file)
                member.type, member.linkname = tarfile.SYMTYPE, target
                tar.addfile(member)
        return data.getvalue()

    layer = tarred({"bin/busybox": Path("/bin/busybox").read_bytes(), "www/index.html": b"hello\n"}, {f"bin/{a}": "busybox" for a in ("sh", "sleep", "httpd")})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": entry, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    path.write_bytes(tarred({"layer.tar": layer, "config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}, {}))
    return path


CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
oom_score = 0
disabled_plugins = [{disabled}]
[grpc]
  address = "{place}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{pause}"
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{place}/net.d"
    ip_pref = "cni"
"""


@pytest.fixture
def containerd(node: Any, tmp_path: Path, cidrs: tuple[str, ...]) -> Iterator[Runtime]:
    """containerd in the node's namespace, with our configuration and our plugin and nothing else, and two images."""
    was_there = os.path.isdir("/run/containerd")  # where containerd 1.6 keeps its shims' sockets, whatever it is told
    (tmp_path / "net.d").mkdir()
    os.symlink("/usr/lib/cni/loopback", Path(node.executable).with_name("loopback"))  # which containerd wants besides
    (tmp_path / "net.d" / "10-twinstack.conflist").write_text(json.dumps(network_config("tst", cidrs, data_dir=str(node.data_dir))))
    kinds = ("snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs", "tracing.processor.v1.otlp", "internal.v1.opt")
    disabled = ", ".join(f'"io.containerd.{kind}"' for kind in (*kinds, "internal.v1.tracing"))
    text = CONFIG.format(place=tmp_path, disabled=disabled, pause=PAUSE, bin=os.path.dirname(node.executable))
    (tmp_path / "config.toml").write_text(text)
    with Netlink(node.path) as kernel:
        kernel.change_link("lo", up=True)
        kernel.add_link("uplink", "bridge", up=True)
        for family, address in OWN.items():
            kernel.add_address("uplink", ip_address(address), family.bits)
        kernel.commit()
    with (tmp_path / "log").open("wb") as log, namespaces.entered(node.path):
        process = subprocess.Popen(["containerd", "-c", str(tmp_path / "config.toml")], stdout=log, stderr=log)
    try:
        for _ in range(200):
            if (tmp_path / "c.sock").exists():
                break
            time.sleep(0.02)
        for name, entry in ((PAUSE, ["/bin/sleep", "100000"]), (WEB, ["/bin/httpd", "-f", "-h", "/www", "-p", "8080"])):
            archive = image(tmp_path / "image.tar", name, entry)
            imported = subprocess.run(
                ["ctr", "-a", str(tmp_path / "c.sock"), "-n", "k8s.io", "images", "import", str(archive)], capture_output=True, text=True, check=False
            )
            assert imported.returncode == 0, imported.stderr
        yield Runtime(str(tmp_path / "c.sock"), tmp_path / "log")
    finally:
        for pid, line in list(_commands()):  # shims outlive their daemon
            if str(tmp_path / "c.sock").encode() in line and pid != process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        process.terminate()
        process.wait(10)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if str(tmp_path) in line:
                subprocess.run(["umount", "-l", line.split()[4]], check=False)
        for group in Path("/sys/fs/cgroup").glob(f"*/tst-{os.getpid()}"):
            for folder, _, _ in os.walk(group, topdown=False):
                for pid in (Path(folder) / "cgroup.procs").read_text().split():  # of a test that has failed
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                with suppress(OSError):
                    os.rmdir(folder)
        if not was_there:
            for folder, _, _ in os.walk("/run/containerd", topdown=False):  # what somebody else uses is not empty
                with suppress(OSError):
                    os.rmdir(folder)


def _commands() -> Iterator[tuple[int, bytes]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                yield int(entry), Path(f"/proc/{entry}/cmdline").read_bytes()


def fetch(netns: str, url: str) -> str:
    script = f"import urllib.request as u; print(u.urlopen('{url}', timeout=3).read().decode())"
    with namespaces.entered(netns):
        done = subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("cidrs", "by_daemon"),
    [
        pytest.param(("10.7.1.0/24", "fd07:1::/64"), False, id="IPv4,IPv6, alone"),
        pytest.param(("fd07:1::/64", "10.7.1.0/24"), True, id="IPv6,IPv4, by the daemon"),
        pytest.param(("10.7.1.0/24",), True, id="IPv4, by the daemon"),
        pytest.param(("fd07:1::/64",), True, id="IPv6, by the daemon"),
    ],
)
def test_pods_of_containerd_have_their_families_in_order_and_their_host_ports(
    node: Any, containerd: Runtime, tmp_path: Path, cidrs: tuple[str, ...], by_daemon: bool
) -> None:
    assert shutil.which("containerd"), "apt-get install containerd (tools/setup dev)"
    daemon = None
    if by_daemon:
        with namespaces.entered(node.path):
            daemon = Daemon()
    ready = [fields(one) for one in fields(containerd.call("Status", b"")[1][0])[1]]
    assert {one[1][0]: one.get(2) for one in ready} == {b"RuntimeReady": [1], b"NetworkReady": [1]}
    sandboxes = {}
    for count in (1, 2):
        metadata = message((1, f"web{count}"), (2, f"uid-{count}"), (3, "default"))
        ports = [(5, message((2, 8080), (3, 5000)))] if count == 1 else []
        config = message((1, metadata), (2, f"web{count}"), (3, str(tmp_path)), *ports, (8, message((1, f"/tst-{os.getpid()}"))))
        (sandbox,) = containerd.call("RunPodSandbox", message((1, config)))[1]
        container = message((1, message((1, "c"))), (2, message((1, WEB))), (11, "c.log"))
        (made,) = containerd.call("CreateContainer", message((1, sandbox), (2, container), (3, config)))[1]
        with suppress(AssertionError):  # an empty answer is a success
            containerd.call("StartContainer", message((1, made)))
        network = fields(fields(containerd.call("PodSandboxStatus", message((1, sandbox)))[1][0])[5][0])
        sandboxes[sandbox] = [network[1][0].decode(), *(fields(one)[1][0].decode() for one in network.get(2, ()))]
    first, second = ([cidr.partition("/")[0].removesuffix("0") + str(number) for cidr in cidrs] for number in (1, 2))
    assert list(sandboxes.values()) == [first, second]
    families = [Family.of(ip_address(address)) for address in second]
    urls = [f"http://{address}:8080/" if family is Family.IPV4 else f"http://[{address}]:8080/" for family, address in zip(families, second, strict=True)]
    fronts = {Family.IPV4: [f"http://{OWN[Family.IPV4]}:5000/", "http://127.0.0.1:5000/"], Family.IPV6: [f"http://[{OWN[Family.IPV6]}]:5000/"]}
    ports = [url for family in FAMILIES if family in families for url in fronts[family]]
    assert [fetch(node.path, url) for url in urls + ports] == ["hello"] * len(urls + ports)
    for sandbox in sandboxes:
        for method in ("StopPodSandbox", "RemovePodSandbox"):
            with suppress(AssertionError):
                containerd.call(method, message((1, sandbox)))
    assert node.kept() == set()
    assert {name for name in node.links() if name.startswith("ts")} == set()
    assert "refused" in fetch(node.path, ports[0])
    if daemon is not None:
        daemon.close()
