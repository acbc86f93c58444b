"""Kernel parameters that a pod asks for (``securityContext.sysctls``): which may be set, and in which words.

Rule of this file: pure. Those of upstream's safe list may be set by anybody, others where the node allows them by name or by
a prefix with ``*``. Only parameters of the network namespace can be had here, and so none by a pod in the node's network.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinstack.api.kinds import Pod
from twinstack.net.errors import Error

SAFE = frozenset(
    f"net.ipv4.{name}"
    for name in (
        "ip_local_port_range", "ip_local_reserved_ports", "ip_unprivileged_port_start", "ping_group_range", "tcp_fin_timeout", "tcp_keepalive_intvl",
        "tcp_keepalive_probes", "tcp_keepalive_time", "tcp_rmem", "tcp_syncookies", "tcp_wmem",
    )
)  # fmt: skip
_NETWORK = "net."


class SysctlForbidden(Error):
    """A pod asks for a parameter that it may not set; it fails for good."""


def normalized(name: str) -> str:
    """A parameter's name with dots between its parts; where slashes part it, a dot belongs to a part and becomes a slash."""
    slash, dot = name.find("/"), name.find(".")
    return name.translate(str.maketrans("./", "/.")) if slash >= 0 and (dot < 0 or slash < dot) else name


def sysctls_of(pod: Pod, allowed: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
    """What a pod's network namespace is set to: paths below /proc/sys and values. SysctlForbidden names one that may not be."""
    prefixes = tuple(allowed)
    found = []
    for one in (pod.spec.securityContext or {}).get("sysctls") or ():
        name = normalized(str(one.get("name", "")))
        if name not in SAFE and not any(name.startswith(prefix[:-1]) if prefix.endswith("*") else name == prefix for prefix in prefixes):
            raise SysctlForbidden(f'forbidden sysctl: "{name}" not allowlisted')
        if not name.startswith(_NETWORK):
            raise SysctlForbidden(f'forbidden sysctl: "{name}" is none of a network namespace, and this node can set only those')
        if pod.spec.hostNetwork:
            raise SysctlForbidden(f'forbidden sysctl: "{name}" not allowed with host net enabled')
        found.append((name.translate(str.maketrans("./", "/.")), str(one.get("value", ""))))
    return tuple(found)
