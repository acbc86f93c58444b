"""Views of nodes and their leases.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from typing import Any

from twinstack.api.metadata import Condition, Object, Time, View


class Taint(View, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""
    timeAdded: Time | None = None


class NodeSpec(View, frozen=True):
    podCIDR: str = ""
    podCIDRs: list[str] | None = None
    providerID: str = ""
    externalID: str = ""
    unschedulable: bool = False
    taints: list[Taint] | None = None


class NodeAddress(View, frozen=True):
    type: str = ""
    address: str = ""


class NodeStatus(View, frozen=True):
    addresses: list[NodeAddress] | None = None
    conditions: list[Condition] | None = None
    capacity: dict[str, Any] | None = None
    allocatable: dict[str, Any] | None = None
    nodeInfo: dict[str, Any] | None = None
    daemonEndpoints: dict[str, Any] | None = None


class Node(Object, frozen=True):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class LeaseSpec(View, frozen=True):
    holderIdentity: str | None = None
    leaseDurationSeconds: int | None = None
    acquireTime: Time | None = None
    renewTime: Time | None = None
    leaseTransitions: int | None = None


class Lease(Object, frozen=True):
    spec: LeaseSpec = LeaseSpec()
