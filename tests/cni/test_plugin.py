"""The plugin, executed as a runtime does it, in real namespaces."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from twinstack.api import cni
from twinstack.cni.daemon import Daemon
from twinstack.cni.executable import native_client
from twinstack.cni.plugin import ends_of
from twinstack.cni.thin import ADDRESS
from twinstack.dataplane.host import POD_ROUTE_PROTOCOL
from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import FAMILIES, Family

pytestmark = pytest.mark.kernel


@pytest.fixture(params=[False, True], ids=["in Python", "native"])
def native(request: pytest.FixtureRequest) -> bool:
    """Every test runs with both executables."""
    if request.param:
        assert native_client(), "cc is missing: apt-get install gcc libc6-dev (tools/setup dev)"
    return bool(request.param)


@pytest.fixture(params=["alone", "by the daemon"])
def daemon(request: pytest.FixtureRequest, node: Any) -> Iterator[Daemon | None]:
    """And twice again: the executable works by itself, and hands over to the node's daemon."""
    if request.param == "alone":
        yield None
        return
    with namespaces.entered(node.path):
        running = Daemon()
    yield running
    running.close()


def reach(netns: str, family: Family, address: str) -> str:
    """What a client in a namespace is told by the address: its greeting, or the name of the failure."""
    with namespaces.socket_in(netns, family.facts.socket_family, socket.SOCK_STREAM) as client:
        client.settimeout(0.8)
        try:
            client.connect((address, 8080))
            return client.recv(100).decode()
        except OSError as error:
            return type(error).__name__


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


def addresses(document: dict[str, Any]) -> dict[Family, str]:
    return {Family.of(address): str(address) for address in cni.addresses_of(document)}


def test_a_pod_is_reached_and_reaches_at_once_in_both_families(node: Any, daemon: Daemon | None) -> None:
    first, second = node.make("pod1"), node.make("pod2")
    one, two = node.plugin("ADD", first), node.plugin("ADD", second, container="c2")
    assert one.status == two.status == 0
    assert list(addresses(one.document).values()) == ["10.7.1.1", "fd07:1::1"]
    assert list(addresses(two.document).values()) == ["10.7.1.2", "fd07:1::2"]
    with serve(first) as listener:
        for family in FAMILIES:
            assert reach(second, family, addresses(one.document)[family]) == addresses(two.document)[family]
            assert reach(node.path, family, addresses(one.document)[family])
            assert reach(first, family, addresses(one.document)[family]) == addresses(one.document)[family]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_node_speaks_to_its_pods_from_its_own_address(node: Any, daemon: Daemon | None) -> None:
    own = {Family.IPV4: "172.30.0.11", Family.IPV6: "fd30::11"}
    with Netlink(node.path) as kernel:
        kernel.change_link("lo", up=True)
        kernel.add_link("uplink", "bridge", up=True)
        for family, address in own.items():
            kernel.add_address("uplink", ip_address(address), family.bits)
        kernel.commit()
    pod = node.make("pod")
    told = addresses(node.plugin("ADD", pod).document)
    with serve(pod) as listener:
        assert {family: reach(node.path, family, told[family]) for family in FAMILIES} == own
        listener.shutdown(socket.SHUT_RDWR)


def test_the_result_tells_what_is_there(node: Any, daemon: Daemon | None) -> None:
    pod = node.make("pod")
    document = node.plugin("ADD", pod, mtu=1400).document
    with Netlink(pod) as inside, Netlink(node.path) as outside:
        ends = [outside.link(document["interfaces"][0]["name"]), inside.link("eth0")]
        assert [(end.name, end.mac, end.mtu) for end in ends if end] == [(told["name"], told["mac"], told["mtu"]) for told in document["interfaces"]]
        assert all(end is not None and end.running for end in ends)
        assert ends[0] and ends[1] and ends[0].number != ends[1].number
        for _ in range(100):  # its own link-local address skips the wait, too, but a worker of the kernel says so
            if not inside.tentative():
                break
            time.sleep(0.001)
        assert inside.tentative() == []
        with namespaces.entered(pod):
            assert [namespaces.read_sysctl(key) for key, _ in Family.IPV6.facts.pod_sysctls] == [value for _, value in Family.IPV6.facts.pod_sysctls]


def test_what_add_told_is_checked_and_what_broke_is_named(node: Any, daemon: Daemon | None) -> None:
    pod = node.make("pod")
    told = node.plugin("ADD", pod).document
    assert node.plugin("CHECK", pod, prevResult=told) == (0, None)
    assert node.plugin("CHECK", pod).document["code"] == cni.BAD_CONFIG
    with Netlink(pod) as inside:
        for address in cni.addresses_of(told):
            inside.remove_address("eth0", address, Family.of(address).bits)
        inside.commit()
    answer = node.plugin("CHECK", pod, prevResult=told).document
    assert (answer["code"], "10.7.1.1" in answer["msg"]) == (cni.NOT_AS_TOLD, True)
    with Netlink(pod) as inside:
        inside.change_link("eth0", up=False)
        inside.commit()
    assert "eth0 is down" in node.plugin("CHECK", pod, prevResult=told).document["msg"]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_default_route_that_is_gone_is_named_with_its_family(node: Any, daemon: Daemon | None, family: Family) -> None:
    pod = node.make("pod")
    told = node.plugin("ADD", pod).document
    with Netlink(pod) as inside:
        (default,) = (one for one in inside.routes(protocol=None) if one.family is family and one.destination.prefixlen == 0)
        inside.remove_route(default, protocol=POD_ROUTE_PROTOCOL, missing_ok=False)
        inside.commit()
    answer = node.plugin("CHECK", pod, prevResult=told).document
    assert (answer["code"], answer["msg"]) == (cni.NOT_AS_TOLD, f"the container has no default route for {family}")


def test_del_leaves_nothing_and_succeeds_twice_and_without_the_namespace(node: Any, daemon: Daemon | None) -> None:
    pod = node.make("pod")
    told = node.plugin("ADD", pod).document
    assert node.kept() == {"10.7.1.1", "fd07:1::1"}
    namespaces.remove(pod)
    for _ in range(2):
        assert node.plugin("DEL", pod, prevResult=told) == (0, None)
    assert node.plugin("DEL") == (0, None)
    assert node.kept() == set()
    assert node.links() == {"lo"}


def test_an_add_that_fails_keeps_nothing(node: Any, daemon: Daemon | None) -> None:
    pod = node.make("pod")
    with Netlink(pod) as inside:
        inside.add_link("eth0", "bridge")
        inside.commit()
    answer = node.plugin("ADD", pod)
    assert (answer.status, answer.document["code"]) == (1, cni.DUPLICATE)
    assert node.kept() == set()
    assert node.links() == {"lo"}
    assert node.plugin("ADD", "/run/netns/tst-none").document["code"] == cni.UNKNOWN_CONTAINER
    assert node.kept() == set()


def test_the_second_add_of_the_same_is_refused_and_the_first_stands(node: Any, daemon: Daemon | None) -> None:
    pod = node.make("pod")
    told = node.plugin("ADD", pod).document
    assert node.plugin("ADD", pod).document["code"] == cni.DUPLICATE
    assert node.plugin("CHECK", pod, prevResult=told).status == 0


def test_a_container_may_have_two_interfaces(node: Any, daemon: Daemon | None) -> None:
    pod = node.make("pod")
    assert node.plugin("ADD", pod).status == 0
    told = node.plugin("ADD", pod, interface="eth1").document
    assert list(addresses(told).values()) == ["10.7.1.2", "fd07:1::2"]
    with Netlink(pod) as inside:
        assert {route.link for route in inside.routes(protocol=None) if route.destination.prefixlen == 0} == {"eth0"}
    assert node.plugin("DEL", pod, interface="eth0").status == 0
    assert node.kept() == {"10.7.1.2", "fd07:1::2"}


def test_garbage_is_what_the_runtime_does_not_list(node: Any, daemon: Daemon | None) -> None:
    pods = [node.make(f"pod{number}") for number in range(3)]
    for number, pod in enumerate(pods):
        assert node.plugin("ADD", pod, container=f"c{number}").status == 0
    answer = node.plugin("GC", **{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]})
    assert answer == (0, None)
    assert node.kept() == {"10.7.1.2", "fd07:1::2"}
    assert node.links() == {"lo", ends_of(cni.Attachment("c1", "eth0")).host_link}


def test_status_says_whether_an_add_would_do(node: Any, daemon: Daemon | None) -> None:
    assert node.plugin("STATUS") == (0, None)
    assert node.plugin("STATUS", ipam={}).document["code"] == cni.NOT_AVAILABLE
    assert node.plugin("STATUS", version="1.0.0").document["code"] == cni.INCOMPATIBLE_VERSION
    (node.data_dir).mkdir(exist_ok=True)
    for name in ("lock",):
        (node.data_dir / "tst" / name).unlink()
    (node.data_dir / "tst").rmdir()
    (node.data_dir / "tst").write_text("a file in the way")
    assert node.plugin("STATUS").document["code"] == cni.NOT_AVAILABLE


@pytest.mark.parametrize("cidrs", [("10.7.1.0/24",), ("fd07:1::/64",), ("fd07:1::/64", "10.7.1.0/24")])
def test_a_pod_has_the_families_of_its_node_in_their_order(node: Any, daemon: Daemon | None, cidrs: tuple[str, ...]) -> None:
    pod = node.make("pod")
    document = node.plugin("ADD", pod, cidrs=cidrs).document
    assert [":" in ip["address"] for ip in document["ips"]] == [":" in cidr for cidr in cidrs]
    with Netlink(pod) as inside:
        assert len([route for route in inside.routes(protocol=None) if route.destination.prefixlen == 0]) == len(cidrs)


def test_a_dual_stack_pod_needs_both_families_or_gets_none(node: Any, daemon: Daemon | None) -> None:
    cidrs = ("10.7.1.0/30", "fd07:1::/64")
    for number in range(2):
        assert node.plugin("ADD", node.make(f"pod{number}"), container=f"c{number}", cidrs=cidrs).status == 0
    before = node.kept(), node.links()
    assert node.plugin("ADD", node.make("pod2"), container="c2", cidrs=cidrs).document["code"] == cni.NO_ADDRESS
    assert (node.kept(), node.links()) == before


def test_a_forwarding_that_is_off_is_switched_on_for_the_families_in_use(node: Any, daemon: Daemon | None) -> None:
    with namespaces.entered(node.path):
        for family in FAMILIES:
            namespaces.write_sysctl(family.facts.forwarding, "0")
    node.plugin("ADD", node.make("pod"), cidrs=("fd07:1::/64",))
    with namespaces.entered(node.path):
        assert [namespaces.read_sysctl(family.facts.forwarding) for family in FAMILIES] == ["0", "1"]


def test_stdin_that_is_no_configuration_is_answered_with_code_6(node: Any, daemon: Daemon | None) -> None:
    answer = node.plugin("ADD", "/run/netns/x", stdin=b"nonsense")
    assert (answer.status, answer.document["code"]) == (1, cni.UNDECODABLE)


def test_the_executable_starts_the_real_interpreter_bare(node: Any) -> None:
    with open(f"{node.executable}.py") as file:
        first = file.readline().strip()
    interpreter, options = first.removeprefix("#!").split(" ")
    assert options == "-IS"
    assert os.path.realpath(interpreter) == interpreter
    assert os.stat(node.executable).st_mode & 0o777 == 0o755


def test_a_second_daemon_on_a_node_is_refused_and_one_on_another_node_is_not(node: Any) -> None:
    other = node.make("node2")
    with namespaces.entered(node.path):
        first = Daemon()
        with pytest.raises(Exception, match="Address already in use"):
            Daemon()
    with namespaces.entered(other):
        second = Daemon()
    first.close()
    second.close()


def test_the_daemon_survives_requests_that_are_none(node: Any) -> None:
    with namespaces.entered(node.path):
        daemon = Daemon()
        for sent in (b"", b"\0\0", b"\xff" * 8, b"\0\0\0\1\0\0\0\1=x", b"\0\0\0\0\0\0\0\0"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(b"\0twinstack-cni")
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                answer = client.recv(1000)
                assert answer == b"" or json.loads(answer[1:])["code"] == cni.BAD_ENVIRONMENT
    assert node.plugin("VERSION").status == 0
    daemon.close()


def test_a_daemon_that_ends_at_work_is_told_as_try_again(node: Any) -> None:
    """Whatever part of the request it has read by then; the configuration is larger than a socket's buffer."""
    pod, large = node.make("pod"), json.dumps({**node.config(), "args": {"filler": "x" * 1_000_000}}).encode()
    for read in (0, 1, 8, 5000):
        with namespaces.entered(node.path), socket.socket(socket.AF_UNIX) as listener:
            listener.bind(ADDRESS)
            listener.listen()

            def work(listener: socket.socket = listener, read: int = read) -> None:
                connection, _ = listener.accept()
                with connection:
                    left = read
                    while left > 0:
                        left -= len(connection.recv(left))

            thread = threading.Thread(target=work)
            thread.start()
            answer = node.plugin("ADD", pod, stdin=large)
            thread.join()
        assert (answer.status, answer.document["code"], "ended before it answered" in answer.document["msg"]) == (1, cni.TRY_AGAIN, True)


def test_a_listener_that_is_neither_root_nor_ourselves_is_told_nothing(node: Any) -> None:
    """Anybody may take an abstract name: the executable does the work itself."""
    script = f"import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind({ADDRESS!r}); s.listen(); print('.', flush=True); sys.stdin.read()"
    with namespaces.entered(node.path):
        other = subprocess.Popen(["/usr/bin/python3", "-c", script], user=65534, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout and other.stdout.readline() == ".\n"
        assert node.plugin("ADD", node.make("pod")).status == 0
        assert node.kept() == {"10.7.1.1", "fd07:1::1"}


def test_without_the_script_beside_it_and_without_a_daemon_the_native_client_says_so(node: Any, native: bool) -> None:
    os.unlink(f"{node.executable}.py")
    answer = node.plugin("VERSION")
    if native:
        assert (answer.status, answer.document["code"]) == (1, cni.IO_FAILURE)
    else:
        assert answer.status == 0
