"""What a machine must have before a cluster is made on it; each want is one line that says what would help."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys

from twinstack.kernel import namespaces, nftables
from twinstack.kernel.errors import KernelError
from twinstack.lab.errors import LabError
from twinstack.lab.places import NETNS_DIR
from twinstack.net.cidr import host_port
from twinstack.net.family import FAMILIES

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
    _check_rights()
    _check_kernel()
    _check_rules()


def _check_rights() -> None:
    if os.geteuid() != 0:
        raise LabError("a cluster is made of network namespaces, which only root may make: run it with sudo")
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
    if missing := [name for name, bit in _NEEDED.items() if not effective >> bit & 1]:
        raise LabError(f"root lacks {', '.join(missing)} here: in a container, --privileged gives it")


def _check_kernel() -> None:
    if sys.platform != "linux":
        raise LabError(f"network namespaces need Linux, and this is {sys.platform}")
    release = os.uname().release
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < OLDEST_KERNEL:
        raise LabError(f"kernel {release} is too old: the Service proxy needs Linux {'.'.join(map(str, OLDEST_KERNEL))} or later")


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
