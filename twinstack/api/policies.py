"""Views of NetworkPolicies: who may talk to whom, by labels and by address blocks.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

import msgspec

from twinstack.api.metadata import LabelSelector, Object, View


class IPBlock(View, frozen=True):
    cidr: str = ""
    except_: list[str] = msgspec.field(name="except", default_factory=list)


class NetworkPolicyPort(View, frozen=True):
    protocol: str | None = None
    port: int | str | None = None
    endPort: int | None = None


class NetworkPolicyPeer(View, frozen=True):
    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None
    ipBlock: IPBlock | None = None


class IngressRule(View, frozen=True):
    ports: list[NetworkPolicyPort] = []
    peers: list[NetworkPolicyPeer] = msgspec.field(name="from", default_factory=list)


class EgressRule(View, frozen=True):
    ports: list[NetworkPolicyPort] = []
    peers: list[NetworkPolicyPeer] = msgspec.field(name="to", default_factory=list)


class NetworkPolicySpec(View, frozen=True):
    podSelector: LabelSelector = LabelSelector()
    policyTypes: list[str] | None = None
    ingress: list[IngressRule] = []
    egress: list[EgressRule] = []


class NetworkPolicy(Object, frozen=True):
    spec: NetworkPolicySpec = NetworkPolicySpec()
