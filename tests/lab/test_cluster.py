"""Whole clusters, as a user has them."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import namespaces, processes

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
VERSIONS = {"IPv4": 4, "IPv6": 6}


def versions(texts: list[str]) -> list[int]:
    return [ipaddress.ip_interface(text).version for text in texts]


@pytest.mark.parametrize("families", ["IPv4", "IPv6", "IPv4,IPv6", "IPv6,IPv4"])
def test_a_cluster_of_any_families_boots_serves_and_leaves_nothing(lab: Any, host_state: Callable[[], dict[str, str]], families: str) -> None:
    before = host_state()
    name = lab.name("f" + "".join(str(VERSIONS[family]) for family in families.split(",")))
    wanted = [VERSIONS[family] for family in families.split(",")]
    told = lab.up(name, "--families", families)
    assert told["families"] == families.split(",")
    assert told["seconds"] < 20
    nodes = lab.kubectl(name, "get", "nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == ["node1", "node2", "node3"]
    for node in nodes:
        assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
        assert versions([a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP"]) == wanted
        assert versions(node["spec"]["podCIDRs"]) == wanted
    service = lab.kubectl(name, "get", "service", "kubernetes")
    assert ipaddress.ip_address(service["spec"]["clusterIP"]).version == wanted[0]
    status = lab.status(name)
    assert status["healthy"], status
    assert {one["state"] for one in status["components"]} == {"running"}
    assert stat.S_IMODE(lab.kubeconfig.stat().st_mode) == 0o600
    assert f"current-context: twinstack-{name}" in lab.kubeconfig.read_text()
    assert host_state() == before
    assert "is removed" in lab.down(name)
    assert lab.remains(name) == {}
    assert "there is no cluster" in lab.down(name)
    assert host_state() == before


def test_two_clusters_run_side_by_side_and_one_goes_alone(lab: Any) -> None:
    one, two = lab.name("one"), lab.name("two")
    lab.up(one, "--nodes", "1")
    lab.up(two, "--nodes", "2", "--no-set-context", "--families", "IPv6,IPv4")
    assert len(lab.kubectl(one, "get", "nodes")["items"]) == 1
    assert len(lab.kubectl(two, "get", "nodes")["items"]) == 2
    assert f"current-context: twinstack-{one}" in lab.kubeconfig.read_text()
    listed = lab.twinstack("list").stdout
    assert one in listed and two in listed
    lab.down(one)
    assert lab.remains(one) == {}
    assert lab.status(two)["healthy"]
    lab.down(two)
    assert lab.remains(two) == {}


def test_others_entries_in_the_kubeconfig_stay_as_they_are(lab: Any) -> None:
    lab.kubeconfig.parent.mkdir()
    theirs = "apiVersion: v1\nkind: Config\nclusters:\n- name: theirs\n  cluster: {server: 'https://example.org'}\ncontexts:\n- name: theirs\n  context: {cluster: theirs, user: ''}\nusers: []\ncurrent-context: theirs\n"  # fmt: skip # noqa: E501
    lab.kubeconfig.write_text(theirs)
    name = lab.name()
    lab.up(name, "--nodes", "1", "--no-set-context")
    assert "current-context: theirs" in lab.kubeconfig.read_text()
    lab.down(name)
    assert "https://example.org" in lab.kubeconfig.read_text()
    assert "current-context: theirs" in lab.kubeconfig.read_text()
    assert name not in lab.kubeconfig.read_text()


def test_what_is_killed_is_begun_again_and_nothing_acknowledged_is_lost(lab: Any) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "2")
    kept = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}, "data": {"a": "1"}}
    subprocess.run(["kubectl", "apply", "-f", "-"], input=json.dumps(kept).encode(), env=lab.environment, check=True, capture_output=True)
    for component in ("kube-apiserver", "node1/kubelet"):
        before = lab.pid_of(name, component)
        os.kill(before, signal.SIGKILL)
        wait_until(lambda component=component, before=before: lab.pid_of(name, component) not in (0, before))
        wait_until(lambda: lab.status(name)["healthy"])
    assert lab.kubectl(name, "get", "configmap", "kept")["data"] == {"a": "1"}


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_pods_outlive_their_nodes_programs_and_go_with_the_cluster(lab: Any) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "1")
    mark = f"{os.getpid()}.25"
    container = {"name": "main", "image": "twinstack.dev/host:1", "command": ["/bin/sleep", mark]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sleeper"}, "spec": {"containers": [container]}}
    subprocess.run(["kubectl", "apply", "-f", "-"], input=json.dumps(pod).encode(), env=lab.environment, check=True, capture_output=True)
    wait_until(lambda: lab.kubectl(name, "get", "pod", "sleeper")["status"]["phase"] == "Running")
    assert len(lab.kubectl(name, "get", "pod", "sleeper")["status"]["podIPs"]) == 2
    assert "eth0" in lab.twinstack("shell", "--name", name, "sleeper", "--", "cat", "/proc/net/dev").stdout
    assert lab.twinstack("shell", "--name", name, "default/sleeper", "hostname").stdout == "sleeper\n"
    (before,) = sleepers(mark)
    os.kill(lab.pid_of(name, "node1/kubelet"), signal.SIGKILL)
    wait_until(lambda: lab.status(name)["healthy"])
    assert sleepers(mark) == [before]
    lab.down(name)
    assert sleepers(mark) == []
    assert lab.remains(name) == {}


def sleepers(mark: str) -> list[int]:
    """The processes that sleep for so long."""
    wanted = b"\0".join([b"/bin/sleep", mark.encode(), b""])
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                if file.read() == wanted:
                    found.append(int(entry))
        except OSError:
            continue
    return found


def test_a_running_cluster_takes_orders(lab: Any) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "1")
    assert "is a cluster" in lab.twinstack("up", "--name", name).stderr
    assert lab.status(name)["healthy"]

    for component in ("kube-scheduler", "node1/kube-proxy", "node1", "control-plane"):
        assert "serves again" in lab.twinstack("restart", "--name", name, component).stdout
    assert "no component nobody" in lab.twinstack("restart", "--name", name, "nobody").stderr
    wait_until(lambda: lab.status(name)["healthy"])

    assert "kube-apiserver" in lab.twinstack("logs", "--name", name).stdout.split()
    assert "Serving" in lab.twinstack("logs", "--name", name, "kube-apiserver").stdout
    assert len(lab.twinstack("logs", "--name", name, "kube-apiserver", "--tail", "1").stdout.splitlines()) == 1
    assert "no log of nobody" in lab.twinstack("logs", "--name", name, "nobody").stderr

    inode = namespaces.identity(f"/run/netns/twinstack-{name}-node1")
    assert lab.twinstack("shell", "--name", name, "node1", "--", "readlink", "/proc/self/ns/net").stdout.strip() == f"net:[{inode}]"
    assert lab.twinstack("shell", "--name", name, "node1", "ls", "/sys/class/net").stdout.split() == ["eth0", "lo"]
    assert lab.twinstack("shell", "--name", name, "outside", "sh", "-c", "exit 7").returncode == 7
    assert "node1" in lab.twinstack("shell", "--name", name, "node1", "--", "kubectl", "get", "nodes").stdout
    assert lab.twinstack("shell", "--name", name, "node1", "no-such-program").returncode == 127
    assert "no pod" in lab.twinstack("shell", "--name", name, "nowhere").stderr


def test_down_cleans_up_after_everything_was_killed(lab: Any) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "1")
    processes.end_all(processes.marked("TWINSTACK_CLUSTER", name), 0)
    assert "stopped" in lab.twinstack("list").stdout
    status = lab.twinstack("status", "--name", name)
    assert (status.returncode, "does not answer" in status.stdout) == (1, True)
    assert "left of one" in lab.twinstack("up", "--name", name).stderr
    lab.down(name)
    assert lab.remains(name) == {}


def test_a_cluster_is_found_from_another_home(lab: Any, tmp_path: Path) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "1")
    elsewhere = {**lab.environment, "HOME": str(tmp_path / "other"), "XDG_STATE_HOME": "", "KUBECONFIG": str(tmp_path / "other" / "config")}
    done = subprocess.run(twinstack("status", "--name", name), env=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    done = subprocess.run(twinstack("down", "--name", name), env=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert lab.remains(name) == {}


def test_down_cleans_up_after_a_reboot(lab: Any) -> None:
    name = lab.name()
    lab.up(name, "--nodes", "1")
    processes.end_all(processes.marked("TWINSTACK_CLUSTER", name), 0)
    for entry in os.listdir("/run/netns"):  # a reboot takes the mounts, not the files where /run is on a disk
        if f"-{name}-" in entry:
            namespaces.remove(f"/run/netns/{entry}")
            open(f"/run/netns/{entry}", "w").close()
    lab.down(name)
    assert lab.remains(name) == {}


def test_refusals_are_one_line_and_touch_nothing(lab: Any, host_state: Callable[[], dict[str, str]]) -> None:
    name, before = lab.name(), host_state()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refusals = [
            (["--pod-cidr", "10.0.0.0/33"], "--pod-cidr"),
            (["--pod-cidr", "10.1.0.0/16,10.2.0.0/16"], "10.1.0.0/16,10.2.0.0/16"),
            (["--service-cidr", "10.244.0.0/16"], "overlaps"),
            (["--node-cidr-mask-size-ipv6", "80"], "72 would do"),
            (["--nodes", "0"], "--nodes"),
            (["--families", "IPX"], "IPv4,IPv6 would do"),
            (["--port", port], "in use"),
            (["--kubeconfig", str(lab.home)], "not a file"),
            (["--config", "/no/such/file"], "/no/such/file"),
            (["--wait", "0.001"], "after 0.001 s"),
        ]
        for words, said in refusals:
            done = lab.twinstack("up", "--name", name, *words)
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
            assert said in done.stderr
            assert lab.remains(name) == {}
    assert host_state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_up_that_is_interrupted_leaves_nothing(lab: Any, number: signal.Signals) -> None:
    name = lab.name()
    with subprocess.Popen(twinstack("up", "--name", name), env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "wire 3 nodes" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=20)
    assert process.returncode not in (0, -number)
    assert lab.remains(name) == {}


def test_without_root_it_says_so(lab: Any) -> None:
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *twinstack("up", "--name", lab.name())],
        env=lab.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: root lacks CAP_NET_ADMIN")


def twinstack(*words: str) -> list[str]:
    return [sys.executable, "-m", "twinstack.cli.main", *words]


def test_names_that_are_paths_are_refused_by_every_command(lab: Any) -> None:
    for words in (["up"], ["down"], ["status"], ["logs"], ["shell", "node1"], ["restart", "node1"]):
        done = lab.twinstack(words[0], "--name", "../../etc", *words[1:])
        assert done.returncode == 1
        assert re.fullmatch(r'error: --name: "\.\./\.\./etc".* would do\n', done.stderr)
