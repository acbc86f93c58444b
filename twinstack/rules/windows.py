"""What a Windows node can serve of two families, and what it cannot.

Rule of this file: facts in, problems out. No node is looked for here, and nothing is done about a problem.

Theory. On Windows the kernel's part is played by the Host Networking Service, and its limits are these:

| what | served |
|---|---|
| pods, nodes or Services of IPv6 alone | no |
| both families, network mode l2bridge | yes |
| both families, network mode overlay (VXLAN) | no: an overlay carries one family, and IPv6 not at all between Windows pods |
| a time for session affinity | no: affinity yes, its timeout is the service's own |
| externalTrafficPolicy or internalTrafficPolicy Local | only with direct server return (``kube-proxy --enable-dsr``) |
| several target ports behind one Service port | no: the last endpoint's port is every endpoint's |
| trafficDistribution | no |

Which network mode a node has is known to its CNI plugin alone; the node tells us by the label ``twinstack.dev/windows-network-mode``.
Without it l2bridge is assumed, which can serve everything that Windows can.

Source: spec/node.md section 8 (kube-proxy's winkernel), Kubernetes' documentation "Windows dual-stack networking".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from twinstack.api.kinds import Node, ServiceSpec
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.families import NONE

L2BRIDGE, OVERLAY = "l2bridge", "overlay"
MODES = (L2BRIDGE, OVERLAY)
MODE_LABEL, OS_LABEL, WINDOWS = "twinstack.dev/windows-network-mode", "kubernetes.io/os", "windows"
DEFAULT_AFFINITY_SECONDS = 10800

# Which families a network mode carries, in every combination that a node can register: the table that this file is about.
SERVED: dict[tuple[str, tuple[Family, ...]], bool] = {
    (L2BRIDGE, FAMILIES[:1]): True,
    (L2BRIDGE, FAMILIES[1:]): False,
    (L2BRIDGE, FAMILIES): True,
    (OVERLAY, FAMILIES[:1]): True,
    (OVERLAY, FAMILIES[1:]): False,
    (OVERLAY, FAMILIES): False,
}


class WindowsNode(NamedTuple):
    """What of a Windows node decides what it can serve: its name, its families in :data:`FAMILIES`' order, its network mode."""

    name: str
    families: tuple[Family, ...]
    mode: str

    @property
    def serves(self) -> tuple[Family, ...]:
        """The families in which its pods can be reached."""
        first = FAMILIES[:1]
        if self.mode in MODES and SERVED.get((self.mode, self.families), False):
            return self.families
        return first if first[0] in self.families else ()


class WindowsProblem(NamedTuple):
    """Why not, in one word for a condition and in a sentence for people."""

    reason: str
    message: str


def is_windows(node: Node) -> bool:
    """Whether the node says, by its label or its own report, that it runs Windows."""
    return WINDOWS in (node.labels.get(OS_LABEL), (node.status.nodeInfo or {}).get("operatingSystem"))


def facts_of(node: Node) -> WindowsNode | None:
    """What decides what a Windows node can serve; None for any other node.

    Its families are those of its addresses, internal ones if it has any, and of its pod CIDRs.
    """
    if not is_windows(node):
        return None
    addresses = node.status.addresses or []
    internal = [one.address for one in addresses if one.type == "InternalIP"] or [one.address for one in addresses if one.type == "ExternalIP"]
    found = {family for text in internal for family in _family_of(text)}
    found |= {family for text in node.spec.podCIDRs or () for family in _family_of(text)}
    mode = node.labels.get(MODE_LABEL, L2BRIDGE)
    return WindowsNode(node.metadata.name, tuple(family for family in FAMILIES if family in found), mode)


def problems_with_windows_node(node: WindowsNode) -> Iterator[WindowsProblem]:
    """Why a Windows node cannot serve what it registered with. A node without addresses has not registered yet."""
    if node.mode not in MODES:
        yield WindowsProblem("UnknownNetworkMode", f"label {MODE_LABEL} is {node.mode!r}; {L2BRIDGE} or {OVERLAY} would do")
    elif node.families and not SERVED[node.mode, node.families]:
        if len(node.families) == 1:
            [only] = node.families
            yield WindowsProblem(f"{only}Only", f"Windows does not serve {only} alone: the node needs an {only.other} address too, or instead")
        else:
            yield WindowsProblem(
                "OverlayDualStack",
                f"network mode {OVERLAY} carries {FAMILIES[0]} only: pods here are not reached in {FAMILIES[1]}; {L2BRIDGE} serves both families",
            )


def problems_with_windows_service(spec: ServiceSpec, nodes: Sequence[WindowsNode]) -> Iterator[str]:
    """What of a Service the cluster's Windows nodes do not serve; the path first."""
    if not nodes or spec.type == "ExternalName" or not spec.ipFamilies:
        return
    for family in FAMILIES:
        unserving = [node.name for node in nodes if family not in node.serves]
        if family.value in spec.ipFamilies and unserving:
            alone = len(spec.ipFamilies) == 1
            yield f"spec.ipFamilies: {_names(unserving)} {'cannot reach this Service' if alone else f'will have it without {family}'} (Windows)"
    if spec.clusterIP == NONE:
        return
    every = _names([node.name for node in nodes])
    config = spec.sessionAffinityConfig
    if spec.sessionAffinity == "ClientIP" and config and config.clientIP and config.clientIP.timeoutSeconds not in (None, DEFAULT_AFFINITY_SECONDS):
        yield f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: affinity on {every} is kept without this time (Windows)"
    for field, value in (("externalTrafficPolicy", spec.externalTrafficPolicy), ("internalTrafficPolicy", spec.internalTrafficPolicy)):
        if value == "Local":
            yield f"spec.{field}: Local is heeded on {every} only with direct server return, kube-proxy --enable-dsr (Windows)"
    for i, port in enumerate(spec.ports):
        if isinstance(port.targetPort, str):
            yield f"spec.ports[{i}].targetPort: traffic on {every} goes to one port number, whatever pods mean by the name (Windows)"
    if spec.trafficDistribution:
        yield f"spec.trafficDistribution: traffic on {every} goes to any endpoint (Windows)"


def _family_of(text: str) -> Iterator[Family]:
    try:
        yield Family.of(parse_cidr(text, masked=True) if "/" in text else parse_address(text))
    except AddressError:
        return  # a node's addresses are nobody's business but its own


def _names(names: Sequence[str]) -> str:
    """``node w1``, ``nodes w1, w2, w3 and 4 more``"""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{'node' if len(names) == 1 else 'nodes'} {shown}"
