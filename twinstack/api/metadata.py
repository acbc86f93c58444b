"""Views of what every object has: metadata, selectors, references, conditions.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

import msgspec

Time = str  # RFC 3339, as on the wire


class View(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Root of the views. They never change, so they are in no cycle and the garbage collector need not know them."""


class OwnerReference(View, frozen=True):
    apiVersion: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool | None = None
    blockOwnerDeletion: bool | None = None


class ObjectMeta(View, frozen=True):
    name: str = ""
    generateName: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    generation: int = 0
    creationTimestamp: Time | None = None
    deletionTimestamp: Time | None = None
    deletionGracePeriodSeconds: int | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    ownerReferences: list[OwnerReference] = []
    finalizers: list[str] = []

    @property
    def controller(self) -> OwnerReference | None:
        """The owner that controls this object."""
        return next((owner for owner in self.ownerReferences if owner.controller), None)


class Object(View, frozen=True):
    """What every object has."""

    apiVersion: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}


class ListMeta(View, frozen=True):
    resourceVersion: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    remainingItemCount: int | None = None


class LabelSelectorRequirement(View, frozen=True):
    key: str = ""
    operator: str = ""
    values: list[str] | None = None


class LabelSelector(View, frozen=True):
    matchLabels: dict[str, str] | None = None
    matchExpressions: list[LabelSelectorRequirement] | None = None


class ObjectReference(View, frozen=True):
    apiVersion: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resourceVersion: str = ""
    fieldPath: str = ""


class Condition(View, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    lastTransitionTime: Time | None = None
    lastHeartbeatTime: Time | None = None
    lastUpdateTime: Time | None = None
    lastProbeTime: Time | None = None
    observedGeneration: int = 0
