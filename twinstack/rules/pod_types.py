"""The types of those parts of a pod's spec that no view shows but the rules look at.

A view names what programs act upon; defaults and validation look further, into volumes, mounts, amounts and hooks. This
file says of what type those must be, so that the rules can rely on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from twinstack.api.kinds import LabelSelector, PodSpec, Probe, View

Amounts = dict[str, str | int | float]
Reference = dict[str, str]


class Item(View, frozen=True):
    fieldRef: Reference | None = None


class Downward(View, frozen=True):
    items: list[Item] | None = None


class Projection(View, frozen=True):
    downwardAPI: Downward | None = None
    serviceAccountToken: dict[str, Any] | None = None


class Projected(View, frozen=True):
    sources: list[Projection] | None = None


class Named(View, frozen=True):
    name: str = ""


class SecretSource(View, frozen=True):
    secretName: str = ""


class HostPath(View, frozen=True):
    path: str = ""
    type: str | None = None


class Volume(View, frozen=True):
    """Those of a volume's sources that have defaults or must have a name."""

    name: str = ""
    configMap: Named | None = None
    secret: SecretSource | None = None
    hostPath: HostPath | None = None
    projected: Projected | None = None
    downwardAPI: Downward | None = None


class Mount(View, frozen=True):
    name: str = ""
    mountPath: str = ""


class Resources(View, frozen=True):
    limits: Amounts | None = None
    requests: Amounts | None = None


class Lifecycle(View, frozen=True):
    preStop: Probe | None = None
    postStart: Probe | None = None


class Container(View, frozen=True):
    """What of a container its view does not type: mounts, amounts, hooks."""

    imagePullPolicy: str = ""
    terminationMessagePath: str = ""
    terminationMessagePolicy: str = ""
    volumeMounts: list[Mount] | None = None
    resources: Resources | None = None
    lifecycle: Lifecycle | None = None


class Term(View, frozen=True):
    topologyKey: str = ""
    labelSelector: LabelSelector | None = None


class PodAffinity(View, frozen=True):
    requiredDuringSchedulingIgnoredDuringExecution: list[Term] | None = None


class Affinity(View, frozen=True):
    podAffinity: PodAffinity | None = None
    podAntiAffinity: PodAffinity | None = None


class DNSConfig(View, frozen=True):
    nameservers: list[str] | None = None


class Spec(View, frozen=True):
    """What of a pod's spec its view does not type."""

    volumes: list[Volume] | None = None
    containers: list[Container] = []
    initContainers: list[Container] | None = None
    ephemeralContainers: list[Container] | None = None
    dnsConfig: DNSConfig | None = None
    affinity: Affinity | None = None
    schedulingGates: list[Named] | None = None
    serviceAccount: str = ""


def check_pod_types(spec: Mapping[str, Any], *, template: bool = False) -> None:
    """msgspec.ValidationError when a part that the rules look at is of another type; a template is checked by its view, too."""
    if template:
        msgspec.convert(spec, PodSpec)
    msgspec.convert(spec, Spec)
