"""Views of NetworkPolicies: who may talk to whom, by labels and by address blocks.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

import msgspec

from twinstack.api.metadata import LabelSelector, Object, View


class IPBlock(View, frozen=True):
    """A CIDR, and CIDRs within it that are not meant."""

    cidr: str = ""
    except_: list[str] = msgspec.field(name="except", default_factory=list)


class PriorityClass(Object, frozen=True):
    """How important pods of this class are."""

    value: int = 0
    globalDefault: bool = False
    preemptionPolicy: str = ""
    description: str = ""


class NetworkPolicyPort(View, frozen=True):
    """A port, a range of them, or a port by its name; every port when it says nothing."""

    protocol: str | None = None
    port: int | str | None = None
    endPort: int | None = None


class NetworkPolicyPeer(View, frozen=True):
    """Pods, all pods of namespaces, or an address block of either family."""

    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None
    ipBlock: IPBlock | None = None


class IngressRule(View, frozen=True):
    """Who may come to which ports."""

    ports: list[NetworkPolicyPort] = []
    peers: list[NetworkPolicyPeer] = msgspec.field(name="from", default_factory=list)


class EgressRule(View, frozen=True):
    """Whom the pods may go to, at which ports."""

    ports: list[NetworkPolicyPort] = []
    peers: list[NetworkPolicyPeer] = msgspec.field(name="to", default_factory=list)


class NetworkPolicySpec(View, frozen=True):
    """Whose pods it is about, and what they may."""

    podSelector: LabelSelector = LabelSelector()
    policyTypes: list[str] | None = None
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = []


class NetworkPolicy(Object, frozen=True):
    """Who may talk to the pods that it selects."""

    spec: NetworkPolicySpec = NetworkPolicySpec()
