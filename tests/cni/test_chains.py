"""Together with other plugins: their addresses on our link, our addresses on their link, and host ports behind theirs."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from twinstack.api import cni
from twinstack.cni.daemon import Daemon
from twinstack.cni.hostports import TABLE
from twinstack.cni.plugin import ends_of
from twinstack.kernel import namespaces, processes
from twinstack.kernel.netlink import Netlink
from twinstack.kernel.nftables import Nftables
from twinstack.net.family import FAMILIES, Address, Family

DEBIAN = "/usr/lib/cni"
pytestmark = [pytest.mark.kernel, pytest.mark.slow]
CIDRS = ("10.7.1.0/24", "fd07:1::/64")
OWN = {Family.IPV4: "172.30.0.11", Family.IPV6: "fd30::11"}


def execute(node: Any, executable: str, command: str, netns: str, config: dict[str, Any], *, container: str = "c1") -> tuple[int, Any]:
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": f"{os.path.dirname(node.executable)}:{DEBIAN}",
        "PATH": os.environ["PATH"],
    }
    with namespaces.entered(node.path):
        done = subprocess.run([executable], input=json.dumps(config).encode(), env=environment, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None


def give_node_addresses(node: Any) -> None:
    with Netlink(node.path) as kernel:
        kernel.change_link("lo", up=True)
        kernel.add_link("uplink", "bridge", up=True)
        for family, address in OWN.items():
            kernel.add_address("uplink", ip_address(address), family.bits)
        kernel.commit()


def serve(netns: str) -> socket.socket:
    """A server on port 8080 of both families that greets with the client's address."""
    with namespaces.entered(netns):
        listener = socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True)

    def work() -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(peer[0].removeprefix("::ffff:").encode())

    threading.Thread(target=work, daemon=True).start()
    return listener


def reach(netns: str, family: Family, address: str, port: int) -> str:
    with namespaces.socket_in(netns, family.facts.socket_family, socket.SOCK_STREAM) as client:
        client.settimeout(0.8)
        try:
            client.connect((address, port))
            return client.recv(100).decode()
        except OSError as error:
            return type(error).__name__


def addresses(document: dict[str, Any]) -> list[Address]:
    return list(cni.addresses_of(document))


PORTS = {"portMappings": [{"HostPort": 5000, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""}]}  # as containerd writes it


def test_a_host_port_leads_to_the_pod_in_both_families_and_goes_with_it(node: Any) -> None:
    give_node_addresses(node)
    pod, other = node.make("pod1"), node.make("pod2")
    told = node.plugin("ADD", pod, runtimeConfig=PORTS)
    assert told.status == 0
    peer = addresses(node.plugin("ADD", other, container="c2").document)
    with serve(pod) as listener:
        for family, client in zip(FAMILIES, peer, strict=True):
            assert reach(node.path, family, OWN[family], 5000) == OWN[family]
            assert reach(other, family, OWN[family], 5000) == str(client)
            assert reach(pod, family, OWN[family], 5000) != "TimeoutError"  # through the node back to itself
        assert reach(node.path, Family.IPV4, "127.0.0.1", 5000) == OWN[Family.IPV4]
        assert node.plugin("CHECK", pod, runtimeConfig=PORTS, prevResult=told.document) == (0, None)
        with Nftables(node.path) as kernel:
            kernel.run(f"flush map ip {TABLE} ports\n")
        assert "host ports" in node.plugin("CHECK", pod, runtimeConfig=PORTS, prevResult=told.document).document["msg"]
        assert node.plugin("DEL", pod) == (0, None)
        for family in FAMILIES:
            assert reach(node.path, family, OWN[family], 5000) == "ConnectionRefusedError"
        listener.shutdown(socket.SHUT_RDWR)
    assert not os.listdir(node.data_dir / ".hostports" / "tst")


@pytest.mark.parametrize("named", FAMILIES, ids=str)
def test_a_host_port_on_one_address_is_open_in_that_family_only(node: Any, named: Family) -> None:
    give_node_addresses(node)
    pod, second = node.make("pod1"), node.make("pod2")
    mapping = {"hostPort": 5000, "containerPort": 8080, "protocol": "tcp", "hostIP": OWN[named]}
    assert node.plugin("ADD", pod, runtimeConfig={"portMappings": [mapping]}).status == 0
    with serve(pod) as listener:
        assert reach(node.path, named, OWN[named], 5000) == OWN[named]
        assert reach(node.path, named.other, OWN[named.other], 5000) == "ConnectionRefusedError"
        assert reach(node.path, named, named.facts.loopback, 5000) == "ConnectionRefusedError"
        # the same port of every address is another key, and another pod may have it
        whole = {"hostPort": 5000, "containerPort": 8080, "hostIP": named.other.facts.unspecified}
        assert node.plugin("ADD", second, container="c2", runtimeConfig={"portMappings": [whole]}).status == 0
        listener.shutdown(socket.SHUT_RDWR)


def test_a_host_port_that_is_taken_is_refused_and_nothing_is_kept(node: Any) -> None:
    assert node.plugin("ADD", node.make("pod1"), runtimeConfig=PORTS).status == 0
    before = node.kept(), node.links()
    answer = node.plugin("ADD", node.make("pod2"), container="c2", runtimeConfig=PORTS)
    assert (answer.status, answer.document["code"]) == (1, cni.PORT_TAKEN)
    assert (node.kept(), node.links()) == before
    assert node.plugin("DEL", container="c2") == (0, None)
    assert node.plugin("DEL", container="c1") == (0, None)
    assert node.plugin("ADD", node.make("pod3"), container="c3", runtimeConfig=PORTS).status == 0


def test_a_flow_of_udp_to_a_host_port_follows_the_pod(node: Any) -> None:
    give_node_addresses(node)
    mapping = {"portMappings": [{"hostPort": 5000, "containerPort": 8080, "protocol": "udp"}]}
    first, second = node.make("pod1"), node.make("pod2")

    def answer_of(client: socket.socket) -> str:
        try:
            client.send(b"?")
            return client.recv(10).decode()
        except OSError:
            return ""

    servers = []
    for netns, word in ((first, b"one"), (second, b"two")):
        server = namespaces.socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", 8080))

        def work(server: socket.socket = server, word: bytes = word) -> None:
            while True:
                try:
                    _, peer = server.recvfrom(10)
                except OSError:
                    return
                server.sendto(word, peer)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        servers.append((server, thread))
    with namespaces.socket_in(node.path, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.connect((OWN[Family.IPV4], 5000))
        assert node.plugin("ADD", first, runtimeConfig=mapping).status == 0
        assert answer_of(client) == "one"
        assert node.plugin("DEL", first).status == 0
        assert node.plugin("ADD", second, container="c2", runtimeConfig=mapping).status == 0
        assert "two" in {answer_of(client) for _ in range(3)}
    for server, thread in servers:
        server.close()
        thread.join(0.01)


def test_garbage_has_host_ports_too(node: Any) -> None:
    for number in range(2):
        ports = {"portMappings": [{"hostPort": 5000 + number, "containerPort": 80}]}
        assert node.plugin("ADD", node.make(f"pod{number}"), container=f"c{number}", runtimeConfig=ports).status == 0
    assert node.plugin("GC", **{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}) == (0, None)
    with Nftables(node.path) as kernel:
        listing = kernel.run("list ruleset\n")
    assert "tcp . 5001" in listing and "tcp . 5000" not in listing


def test_a_mapping_that_is_none_is_refused(node: Any) -> None:
    for mapping in ({"hostPort": 70000, "containerPort": 1}, {"hostPort": 1}, {"hostPort": 1, "containerPort": 1, "protocol": "icmp"}, 5):
        answer = node.plugin("ADD", node.make(f"pod{len(str(mapping))}"), runtimeConfig={"portMappings": [mapping]})
        assert answer.document["code"] == cni.BAD_CONFIG
    assert node.kept() == set()


def host_local(node: Any) -> dict[str, Any]:
    return {"type": "host-local", "dataDir": str(node.data_dir), "ranges": [[{"subnet": cidr}] for cidr in CIDRS], "routes": []}


def test_host_local_gives_the_addresses_of_our_link(node: Any) -> None:
    pod = node.make("pod")
    config = {**node.config(version="1.0.0"), "ipam": host_local(node)}
    status, told = execute(node, node.executable, "ADD", pod, config)
    assert status == 0, told
    assert list(map(str, addresses(told))) == ["10.7.1.2", "fd07:1::2"]  # its .1 is a gateway
    assert node.kept() == {"10.7.1.2", "fd07:1::2"}
    with serve(pod) as listener:
        for family, address in zip(FAMILIES, addresses(told), strict=True):
            assert reach(pod, family, str(address), 8080) == str(address)
        listener.shutdown(socket.SHUT_RDWR)
    assert execute(node, node.executable, "CHECK", pod, {**config, "prevResult": told}) == (0, None)
    assert execute(node, node.executable, "DEL", "", {**config, "prevResult": told}) == (0, None)
    assert node.kept() == set()
    status, told = execute(node, node.executable, "ADD", pod, {**config, "ipam": {"type": "nowhere"}})
    assert (status, told["code"], "nowhere" in told["msg"]) == (1, cni.BAD_CONFIG, True)


def test_what_host_local_refuses_is_told_with_its_code_and_nothing_is_kept(node: Any) -> None:
    config = {**node.config(version="1.0.0"), "ipam": {"type": "host-local", "dataDir": str(node.data_dir)}}
    status, told = execute(node, node.executable, "ADD", node.make("pod"), config)
    assert status == 1
    assert told["msg"].startswith("host-local: ")
    assert node.links() == {"lo"}


@pytest.mark.parametrize("kind", [cni.IPAM, cni.PLUGIN])
def test_our_addresses_lie_on_the_link_of_bridge(node: Any, kind: str) -> None:
    pod = node.make("pod")
    ipam = {"type": kind, "dataDir": str(node.data_dir), "ranges": [[{"subnet": cidr}] for cidr in CIDRS]}
    ipam["routes"] = [{"dst": family.facts.everything} for family in FAMILIES]
    config = {"cniVersion": "1.0.0", "name": "tst", "type": "bridge", "bridge": "br0", "isGateway": True, "ipam": ipam}
    status, told = execute(node, f"{DEBIAN}/bridge", "ADD", pod, config)
    assert status == 0, told
    assert [one["address"] for one in told["ips"]] == ["10.7.1.2/24", "fd07:1::2/64"]
    assert [one["gateway"] for one in told["ips"]] == ["10.7.1.1", "fd07:1::1"]
    assert node.kept() == {"10.7.1.2", "fd07:1::2"}
    with serve(pod) as listener:
        for family, address in zip(FAMILIES, addresses(told), strict=True):
            assert reach(node.path, family, str(address), 8080)
        listener.shutdown(socket.SHUT_RDWR)
    assert execute(node, f"{DEBIAN}/bridge", "CHECK", pod, {**config, "prevResult": told}) == (0, None)
    assert execute(node, f"{DEBIAN}/bridge", "DEL", pod, config) == (0, None)
    assert node.kept() == set()


def test_chained_behind_bridge_it_maps_ports_and_passes_the_result_on(node: Any) -> None:
    give_node_addresses(node)
    pod = node.make("pod")
    ipam = {**host_local(node), "routes": [{"dst": family.facts.everything} for family in FAMILIES]}
    main = {"cniVersion": "1.0.0", "name": "tst", "type": "bridge", "bridge": "br0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
    status, made = execute(node, f"{DEBIAN}/bridge", "ADD", pod, main)
    assert status == 0, made
    own = {"cniVersion": "1.0.0", "name": "tst", "type": cni.PLUGIN, "runtimeConfig": PORTS, "dataDir": str(node.data_dir)}
    assert execute(node, node.executable, "ADD", pod, {**own, "prevResult": made}) == (0, made)
    assert execute(node, node.executable, "CHECK", pod, {**own, "prevResult": made}) == (0, None)
    with serve(pod) as listener:
        for family in FAMILIES:
            assert reach(node.path, family, OWN[family], 5000)[:1] in "1f"
        assert reach(node.path, Family.IPV4, "127.0.0.1", 5000)[:1] == "1"
        assert execute(node, node.executable, "DEL", pod, {**own, "prevResult": made}) == (0, None)
        assert node.kept() == {"10.7.1.2", "fd07:1::2"}  # the addresses are bridge's to give back
        assert reach(node.path, Family.IPV4, OWN[Family.IPV4], 5000) == "ConnectionRefusedError"
        listener.shutdown(socket.SHUT_RDWR)
    status, told = execute(node, node.executable, "ADD", pod, own)
    assert (status, told["code"]) == (1, cni.BAD_CONFIG)


@pytest.mark.parametrize("by_daemon", [False, True], ids=["alone", "by the daemon"])
def test_many_adds_at_once_give_each_pod_its_own_addresses(node: Any, by_daemon: bool) -> None:
    pods = [node.make(f"pod{number}") for number in range(12)]
    daemon = None
    if by_daemon:
        with namespaces.entered(node.path):
            daemon = Daemon()
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda pair: node.plugin("ADD", pair[1], container=f"c{pair[0]}"), enumerate(pods)))
    assert {answer.status for answer in answers} == {0}
    assert len({str(address) for answer in answers for address in addresses(answer.document)}) == 24
    with ThreadPoolExecutor(12) as threads:
        assert set(threads.map(lambda number: node.plugin("DEL", container=f"c{number}"), range(12))) == {(0, None)}
    assert node.kept() == set()
    assert node.links() == {"lo"}
    if daemon is not None:
        daemon.close()


def test_an_add_that_is_killed_at_any_moment_leaks_nothing_after_del_or_gc(node: Any, tmp_path: Path) -> None:
    config = json.dumps(node.config(runtimeConfig=PORTS)).encode()
    took = 0.06
    for number in range(14):
        pod = node.make(f"pod{number}")
        environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": f"c{number}", "CNI_NETNS": pod, "CNI_IFNAME": "eth0"}
        with namespaces.entered(node.path):
            process = subprocess.Popen([node.executable], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin
        process.stdin.write(config)
        process.stdin.close()
        time.sleep(took * number / 14)
        process.kill()
        process.wait()
        if number % 2:
            assert node.plugin("DEL", container=f"c{number}") == (0, None)
        else:
            assert node.plugin("GC", **{"cni.dev/valid-attachments": []}) == (0, None)
        assert (node.kept(), node.links()) == (set(), {"lo"}), f"killed after {took * number / 14:.3f} s"
        with Nftables(node.path) as kernel:
            assert "elements" not in kernel.run("list ruleset\n").replace("elements = { tcp, udp }", "")
    assert processes.marked("CNI_CONTAINERID", "c1") == []


def test_garbage_is_found_by_the_mark_on_its_link_when_another_plugin_gives_addresses(node: Any) -> None:
    config = {**node.config(version="1.0.0"), "ipam": host_local(node)}
    for number in range(2):
        assert execute(node, node.executable, "ADD", node.make(f"pod{number}"), config, container=f"c{number}")[0] == 0
    valid = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
    status, told = execute(node, node.executable, "GC", "", {**config, "cniVersion": "1.1.0", **valid})
    # Debian's host-local does not speak 1.1.0, and says so after our part is done
    assert (status, told["msg"].startswith("host-local: ")) == (1, True)
    assert len(node.links()) == 2


def test_a_daemon_that_is_killed_at_random_moments_under_many_adds_leaks_nothing_after_gc(node: Any, tmp_path: Path) -> None:
    """The daemon and clients of both kinds end by kill -9 while eight pods come and go; the runtime then says what it has."""
    chance = random.Random(6)
    serve_script = "import sys; from twinstack.cni.daemon import Daemon; d = Daemon(); print('.', flush=True); sys.stdin.read()"
    config = json.dumps(node.config(runtimeConfig={"bandwidth": {"ingressRate": 8_000_000}})).encode()
    pods = [node.make(f"pod{number}") for number in range(8)]
    kept = 0
    for _ in range(6):
        with namespaces.entered(node.path):
            daemon = subprocess.Popen([sys.executable, "-c", serve_script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert daemon.stdout and daemon.stdin and daemon.stdout.readline() == b".\n"
        clients = []
        for number, pod in enumerate(pods):
            environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": f"c{number}", "CNI_NETNS": pod, "CNI_IFNAME": "eth0"}
            with namespaces.entered(node.path):
                client = subprocess.Popen([node.executable], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert client.stdin
            client.stdin.write(config)
            client.stdin.close()
            clients.append(client)
        time.sleep(chance.uniform(0.0, 0.03))
        chance.choice(clients).kill()
        daemon.kill()
        daemon.wait()
        daemon.stdin.close()
        daemon.stdout.close()
        attached = []
        for number, client in enumerate(clients):
            with client:
                assert client.stdout
                answer = client.stdout.read()
            if client.returncode == 0:
                attached.append(f"c{number}")
                continue
            assert client.returncode == -9 or json.loads(answer)["code"] in (cni.TRY_AGAIN, cni.DUPLICATE, cni.KERNEL_REFUSED), answer
        kept += len(attached)
        valid = [{"containerID": container, "ifname": "eth0"} for container in attached]
        assert node.plugin("GC", **{"cni.dev/valid-attachments": valid}) == (0, None)
        assert len(node.kept()) == 2 * len(attached)
        assert node.links() == {"lo", *(ends_of(cni.Attachment(container, "eth0")).host_link for container in attached)}
        for container in attached:
            assert node.plugin("DEL", container=container) == (0, None)
        assert (node.kept(), node.links()) == (set(), {"lo"})
    assert kept, "none came through, so nothing was tried"
