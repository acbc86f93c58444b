"""What a machine must have before a cluster is made on it; each want is one line that says what would help."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys

from twinstack.kernel import bird, namespaces, nftables
from twinstack.kernel.errors import KernelError
from twinstack.lab.errors import LabError
from twinstack.lab.places import NETNS_DIR
from twinstack.lab.topology import Topology
from twinstack.net.cidr import host_port
from twinstack.net.family import FAMILIES
from twinstack.rules.balancer_pools import BGP

OLDEST_KERNEL = (5, 13)  # kube-proxy's own demand for nftables
_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_SYS_CHROOT": 18}
# one of each thing that the Service proxy is built of; checked by the kernel, not made
_RULES = """
table {family} twinstack-probe {{
  map endpoints {{ typeof {family} daddr . meta l4proto . th dport . numgen random mod 65536 : {family} daddr . th dport; }}
  map services {{ typeof {family} daddr . meta l4proto . th dport : verdict; }}
  chain pick {{ meta l4proto {{ tcp, udp }} dnat {family} to {family} daddr . meta l4proto . th dport . numgen random mod 3 map @endpoints; }}
  chain nat {{ type nat hook prerouting priority dstnat; {family} daddr . meta l4proto . th dport vmap @services; }}
  chain post {{ type nat hook postrouting priority srcnat; meta mark 0x4000 masquerade; }}
}}
"""


def check() -> None:
    """LabError when a cluster cannot be made here at all."""
    if sys.platform != "linux":
        raise LabError(f"network namespaces need Linux, and this is {sys.platform}")
    check_rights(os.geteuid(), _effective())
    check_kernel(os.uname().release)
    check_families()
    _check_rules()


def check_rights(user: int, capabilities: int) -> None:
    """LabError when this user with these effective capabilities, a bit each, may not make namespaces."""
    if user != 0:
        raise LabError("a cluster is made of network namespaces, which only root may make: run it with sudo")
    if missing := [name for name, bit in _NEEDED.items() if not capabilities >> bit & 1]:
        raise LabError(f"root lacks {', '.join(missing)} here: in a container, --privileged gives it")


def _effective() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)


def check_kernel(release: str) -> None:
    """LabError when a kernel of this release is too old; one whose release tells no number is believed."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST_KERNEL:
        raise LabError(f"kernel {release} is too old: the Service proxy needs Linux {'.'.join(map(str, OLDEST_KERNEL))} or later")


def check_families(sysctls: str = "/proc/sys") -> None:
    """LabError when the kernel lacks a family: nodes have addresses of both, whatever the cluster has."""
    for family in FAMILIES:
        path = f"{sysctls}/{family.facts.forwarding}"
        if not os.path.exists(path):
            raise LabError(f"this kernel has no {family} ({path} is missing): a boot parameter such as ipv6.disable=1 switches it off")
        if not os.access(path, os.W_OK):
            raise LabError(f"{path} cannot be written: in a container, --privileged makes it writable")


def _check_rules() -> None:
    """Let the kernel and libnftables judge the very rules that the proxy will need, in a namespace of their own."""
    path = f"{NETNS_DIR}/twinstack-probe-{os.getpid()}"
    try:
        namespaces.create(path)
        try:
            with nftables.Nftables(path) as rules:
                for family in FAMILIES:
                    rules.run(_RULES.format(family=family.facts.nft_family), check=True)
        finally:
            namespaces.remove(path)
    except KernelError as error:
        if error.denied:
            raise LabError(f"the kernel lets root make no network namespace here: {error}") from error
        raise LabError(f"nftables is missing or too old here, nft 1.0.6 and Linux 5.13 or later would do: {error}") from error


def check_announcing(topology: Topology) -> None:
    """LabError when addresses are to be told by BGP, and nobody here speaks it."""
    if topology.announce == BGP and bird.find() is None:
        raise LabError(f"--announce {BGP} needs bird, which is not installed here: the package {bird.PACKAGE} of Debian and Ubuntu has it")


def listen(port: int) -> socket.socket:
    """A listening socket on the host's loopback, for the user's kubectl; LabError when the port is taken."""
    facts = FAMILIES[0].facts
    listener = socket.socket(facts.socket_family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with contextlib.ExitStack() as failed:
        failed.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((facts.loopback, port))
            listener.listen(1024)
        except OSError as error:
            raise LabError(f"--port {port}: {host_port(facts.loopback, port)} cannot be listened on: {error.strerror}; 0 takes any that is free") from error
        failed.pop_all()
    return listener
