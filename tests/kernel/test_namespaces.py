from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable

import pytest

from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError

pytestmark = pytest.mark.kernel
Make = Callable[[str], str]


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_a_new_namespace_has_a_loopback_and_nothing_else(netns: Make) -> None:
    path = netns("a")
    before = namespaces.identity()
    with namespaces.entered(path):
        assert interfaces() == {"lo"}
        assert namespaces.identity() == namespaces.identity(path) != before
    assert namespaces.identity() == before


def test_a_namespace_is_left_when_the_body_raises(netns: Make) -> None:
    path, before = netns("a"), namespaces.identity()
    with pytest.raises(ValueError, match="body"), namespaces.entered(path):
        raise ValueError("body")
    assert namespaces.identity() == before


def test_ip_netns_sees_what_we_make(netns: Make) -> None:
    name = os.path.basename(netns("a"))
    assert name in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_making_one_twice_is_refused_and_leaves_the_first(netns: Make) -> None:
    path = netns("a")
    before = namespaces.identity(path)
    with pytest.raises(KernelError) as caught:
        namespaces.create(path)
    assert caught.value.exists
    assert namespaces.identity(path) == before


def test_removing_leaves_neither_file_nor_mount_and_succeeds_twice(netns: Make) -> None:
    path = netns("a")
    namespaces.remove(path)
    namespaces.remove(path)
    assert not os.path.exists(path)
    with open("/proc/self/mountinfo") as file:
        assert path not in file.read()


def test_a_stale_file_is_no_namespace_and_can_be_removed(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "stale")
    open(path, "w").close()
    assert not namespaces.exists(path)
    namespaces.remove(path)
    assert not os.path.exists(path)


def test_sysctls_are_set_before_anybody_sees_the_namespace(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "deep", "one")
    namespaces.create(path, [("net/ipv4/ip_forward", "1")])
    try:
        with namespaces.entered(path):
            assert namespaces.read_sysctl("net/ipv4/ip_forward") == "1"
    finally:
        namespaces.remove(path)


def test_a_sysctl_that_is_unknown_leaves_nothing_behind(tmp_path: os.PathLike[str]) -> None:
    path, before = os.path.join(tmp_path, "one"), namespaces.identity()
    with pytest.raises(KernelError) as caught:
        namespaces.create(path, [("net/ipv4/no_such_thing", "1")])
    assert caught.value.missing
    assert not os.path.exists(path)
    assert namespaces.identity() == before


def test_a_socket_stays_in_its_namespace(netns: Make) -> None:
    path = netns("a")
    with namespaces.socket_in(path, socket.AF_INET, socket.SOCK_STREAM) as inside, socket.socket() as outside:
        with pytest.raises(OSError):
            inside.connect(("127.0.0.1", 9))  # lo is down there: unreachable, not refused
        with pytest.raises(ConnectionRefusedError):
            outside.connect(("127.0.0.1", 9))


def test_processes_are_found_by_their_namespace(netns: Make) -> None:
    path, other = netns("a"), netns("b")
    with namespaces.entered(path):
        process = subprocess.Popen(["sleep", "60"])
    try:
        assert namespaces.processes_in(path) == [process.pid]
        assert namespaces.processes_in_any([path, other, "/no/such/file"]) == [process.pid]
        assert namespaces.processes_in(other) == []
    finally:
        process.kill()
        process.wait()


def test_a_missing_namespace_is_an_error_that_says_so() -> None:
    with pytest.raises(KernelError) as caught:
        namespaces.opened("/run/netns/tst-none")
    assert caught.value.missing
    assert "tst-none" in str(caught.value)
