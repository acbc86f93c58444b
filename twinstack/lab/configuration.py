"""The file of ``twinstack up --config``: what the flags say, in Kubernetes' form.

::

    apiVersion: twinstack.dev/v1alpha1
    kind: Cluster
    metadata:
      name: demo
    spec:
      families: [IPv6, IPv4]
      nodes: 3
      podCIDRs: ["fd00:10:244::/56", 10.244.0.0/16]
      serviceCIDRs: ["fd00:10:96::/112", 10.96.0.0/16]
      nodeCIDRMaskSizes: {IPv4: 24, IPv6: 64}
      port: 0
      network: vxlan
      vxlanUnderlay: IPv6
      noMasquerade: [IPv6]
      announce: bgp
      dnsForward: [198.51.100.2]
      dnsHideDeadFamilies: true
"""

from __future__ import annotations

from typing import Any

from twinstack.lab.topology import Request
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.nodeipam import Problem

API_VERSION, KIND = "twinstack.dev/v1alpha1", "Cluster"
FIELDS = (
    "families",
    "nodes",
    "podCIDRs",
    "serviceCIDRs",
    "nodeCIDRMaskSizes",
    "port",
    "network",
    "vxlanUnderlay",
    "noMasquerade",
    "announce",
    "dnsForward",
    "dnsHideDeadFamilies",
)


def parse_file(document: Any) -> Request | list[Problem]:
    """The request that a ``--config`` file makes: apiVersion twinstack.dev/v1alpha1, kind Cluster.

    ``metadata.name``; in ``spec``: ``families``, ``podCIDRs`` and ``serviceCIDRs`` (lists), ``nodes``, ``port``,
    ``network``, ``vxlanUnderlay``, ``noMasquerade`` and ``dnsForward`` (lists), ``announce``,
    ``dnsHideDeadFamilies``, and ``nodeCIDRMaskSizes`` (a map by family). Unknown fields are refused.
    """
    if not isinstance(document, dict):
        return [Problem("config", str(document)[:40], "is not a mapping of fields", f"apiVersion: {API_VERSION}, kind: {KIND}, spec: …")]
    problems = []
    for key, right in (("apiVersion", API_VERSION), ("kind", KIND)):
        if document.get(key) != right:
            problems.append(Problem(f"config {key}", str(document.get(key, "")), "is not understood", right))
    metadata, spec = document.get("metadata") or {}, document.get("spec") or {}
    if not isinstance(metadata, dict) or not isinstance(spec, dict):
        return [*problems, Problem("config metadata and spec", "", "are not both mappings of fields")]
    for where, fields, known in (
        ("", document, {"apiVersion", "kind", "metadata", "spec"}),
        ("metadata.", metadata, {"name", "labels", "annotations"}),
        ("spec.", spec, set(FIELDS)),
    ):
        problems += [Problem(f"config {where}{key}", str(fields[key]), "is not a field", ", ".join(sorted(known))) for key in fields if key not in known]
    numbers = {}
    for key, default in (("nodes", 3), ("port", 0)):
        numbers[key] = spec.get(key, default)
        if not isinstance(numbers[key], int) or isinstance(numbers[key], bool):
            problems.append(Problem(f"config spec.{key}", str(numbers[key]), "is not a whole number", str(default)))
    hide = spec.get("dnsHideDeadFamilies", False)
    if not isinstance(hide, bool):
        problems.append(Problem("config spec.dnsHideDeadFamilies", str(hide), "is neither true nor false", "false"))
    masks, wrong = _file_masks(spec.get("nodeCIDRMaskSizes") or {})
    problems += wrong
    if problems:
        return problems
    texts = {key: _joined(spec.get(key)) for key in ("families", "podCIDRs", "serviceCIDRs")}
    return Request(
        name=str(metadata.get("name", "twinstack")),
        families=texts["families"],
        nodes=numbers["nodes"],
        pod_cidr=texts["podCIDRs"],
        service_cidr=texts["serviceCIDRs"],
        masks=masks,
        port=numbers["port"],
        network=str(spec.get("network") or "direct"),
        vxlan_underlay=str(spec.get("vxlanUnderlay") or ""),
        no_masquerade=_joined(spec.get("noMasquerade")),
        announce=str(spec.get("announce") or "l2"),
        dns_forward=_joined(spec.get("dnsForward")),
        dns_hide_dead_families=hide,
    )


def _joined(value: Any) -> str:
    return ",".join(str(one) for one in value) if isinstance(value, list) else str(value or "")


def _file_masks(value: Any) -> tuple[dict[Family, int], list[Problem]]:
    known = {family.value: family for family in FAMILIES}
    if not isinstance(value, dict):
        return {}, [Problem("config spec.nodeCIDRMaskSizes", str(value), "is not a map by family", "{IPv4: 24, IPv6: 64}")]
    problems = [
        Problem(f"config spec.nodeCIDRMaskSizes.{key}", str(size), "is not a family with a whole number", "{IPv4: 24, IPv6: 64}")
        for key, size in value.items()
        if key not in known or not isinstance(size, int) or isinstance(size, bool)
    ]
    return ({}, problems) if problems else ({known[key]: size for key, size in value.items()}, [])
