"""Images in a cluster: loaded by the command line, run on every node, gone with the cluster."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
NAME = "twinstack.local/web:1"


def tarred(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return data.getvalue()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image of Debian's busybox-static that serves its own /www on port 8080."""
    files = {"bin/busybox": Path("/bin/busybox").read_bytes(), "www/index.html": b"from the image\n", "etc/passwd": b"root:x:0:0::/:/bin/sh\n"}
    layer = tarred(files, {"bin/httpd": "busybox", "bin/sh": "busybox"})
    config = {
        "config": {"Entrypoint": ["/bin/httpd", "-f", "-p", "8080"], "Cmd": ["-h", "/www"], "User": "1234"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]
    path = tmp_path / "web.tar"
    path.write_bytes(tarred({"layer.tar": layer, "config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}))
    return path


def test_an_image_is_loaded_once_and_serves_in_both_families_on_each_node(lab: Any, image: Path) -> None:
    name = lab.name("img")
    assert "there is no cluster" in lab.twinstack("image", "list", "--name", name).stderr
    assert lab.twinstack("up", "--name", name, "--nodes", "2").returncode == 0
    refused = lab.twinstack("image", "load", "--name", name, str(lab.kubeconfig))
    assert (refused.returncode, "not an image archive" in refused.stderr) == (1, True)
    loaded = lab.twinstack("image", "load", "--name", name, str(image))
    assert NAME in loaded.stdout, loaded.stderr
    (listed,) = json.loads(lab.twinstack("image", "list", "--name", name, "-o", "json").stdout)
    assert listed["names"] == [NAME]

    def kubectl(*words: str, stdin: str = "") -> str:
        done = subprocess.run(["kubectl", *words], input=stdin, capture_output=True, text=True, env=lab.environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for node in ("node1", "node2"):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"web-{node}"}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": NAME}]}}
        kubectl("create", "-f", "-", stdin=json.dumps(pod))
    kubectl("wait", "--for=condition=Ready", "pod/web-node1", "pod/web-node2", "--timeout=20s")
    addresses = json.loads(kubectl("get", "pod", "web-node2", "-o", "jsonpath={.status.podIPs}"))
    for one in addresses:
        url = f"http://[{one['ip']}]:8080/" if ":" in one["ip"] else f"http://{one['ip']}:8080/"
        fetch = ["/usr/bin/python3", "-c", f"import urllib.request as u; print(u.urlopen('{url}', timeout=3).read().decode())"]
        with namespaces.entered(f"/run/netns/twinstack-{name}-node1"):
            assert "from the image" in subprocess.run(fetch, capture_output=True, text=True, check=False).stdout
    busy = lab.twinstack("image", "remove", "--name", name, NAME)
    assert (busy.returncode, "used by 2 containers" in busy.stderr) == (1, True)
    kubectl("delete", "pod", "web-node1", "web-node2", "--now")
    for _ in range(100):
        if lab.twinstack("image", "remove", "--name", name, NAME).returncode == 0:
            break
        time.sleep(0.05)
    assert json.loads(lab.twinstack("image", "list", "--name", name, "-o", "json").stdout) == []
    if not any(os.access(os.path.join(folder, "skopeo"), os.X_OK) for folder in os.environ["PATH"].split(":")):
        assert "skopeo is not installed" in lab.twinstack("image", "pull", "--name", name, "busybox").stderr
    lab.twinstack("image", "load", "--name", name, str(image))
    kubectl("run", "stays", f"--image={NAME}")
    kubectl("wait", "--for=condition=Ready", "pod/stays", "--timeout=20s")
    lab.twinstack("down", "--name", name)
    assert lab.remains(name) == {}
    assert subprocess.run(["pgrep", "-f", "httpd -f -p 8080 -h /www"], capture_output=True, check=False).stdout == b""


@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv6,IPv4"])
def test_a_pod_from_an_image_has_the_clusters_families_in_their_order(lab: Any, image: Path, families: str) -> None:
    name = lab.name(f"img{len(families)}{families[3]}")
    lab.up(name, "--families", families, "--nodes", "1")
    assert lab.twinstack("image", "load", "--name", name, str(image)).returncode == 0
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": NAME}]}}
    for command in (("create", "-f", "-"), ("wait", "--for=condition=Ready", "pod/web", "--timeout=20s")):
        subprocess.run(["kubectl", *command], input=json.dumps(pod), capture_output=True, text=True, env=lab.environment, check=True)
    addresses = [one["ip"] for one in lab.kubectl(name, "get", "pod", "web")["status"]["podIPs"]]
    assert [str(Family.of(parse_address(address))) for address in addresses] == families.split(",")
    for address in addresses:
        url = f"http://[{address}]:8080/" if ":" in address else f"http://{address}:8080/"
        fetch = ["/usr/bin/python3", "-c", f"import urllib.request as u; print(u.urlopen('{url}', timeout=3).read().decode())"]
        with namespaces.entered(f"/run/netns/twinstack-{name}-node1"):
            assert "from the image" in subprocess.run(fetch, capture_output=True, text=True, check=False).stdout
    lab.down(name)
    assert lab.remains(name) == {}
