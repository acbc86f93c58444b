"""What becomes of a Service on its way: defaulted, completed from the old one, stripped of what no longer applies, shown.

Rule of this file: documents in, the same documents changed. Which families a Service gets is ``families.py``; which node
ports is ``nodeports.py``; what is wrong with it is ``service_validation.py``.

The order on an update matters, and is this (spec/api.md 0.4):

    default            the new document, as if nothing had stood before
    show               the old document, completed as a reader sees it
    carry_over         what the author left out and the server once chose
    reconcile          the singular cluster IP and the plural ones
    (families, addresses and ports are resolved)
    wipe               what belonged to the old type, unless the author changed it in this very request
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import ServiceSpec
from twinstack.api.objects import Document
from twinstack.net.cidr import is_canonical, parse_address, parse_cidr, text_of
from twinstack.net.errors import AddressError
from twinstack.net.family import Family
from twinstack.rules.families import CLUSTER_TYPES, NONE, REQUIRE, SINGLE, family_of
from twinstack.rules.problems import required
from twinstack.rules.shape import default, drop_zeros, part

AFFINITY_SECONDS = 10800
# Plain fields, which are left out when they hold nothing. Pointers (ipFamilyPolicy, loadBalancerClass, …) are not among them.
_PLAIN = (
    "ports", "selector", "clusterIP", "clusterIPs", "type", "externalIPs", "sessionAffinity", "loadBalancerIP", "loadBalancerSourceRanges",
    "externalName", "externalTrafficPolicy", "healthCheckNodePort", "publishNotReadyAddresses", "ipFamilies",
)  # fmt: skip
HINTS_ANNOTATION = "service.kubernetes.io/topology-aware-hints"


def default_service(document: Document) -> None:
    """The version's static defaults (spec/api.md 1.1)."""
    spec = part(document, "spec")
    drop_zeros(spec, _PLAIN)
    default(spec, "sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.get("sessionAffinityConfig") or {}
        if (config.get("clientIP") or {}).get("timeoutSeconds") is None:
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}
    default(spec, "type", "ClusterIP")
    for port in spec.get("ports") or ():
        drop_zeros(port, ("name", "nodePort"))
        default(port, "protocol", "TCP")
        if port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port.setdefault("port", 0)
    if spec["type"] in ("LoadBalancer", "NodePort") or (spec["type"] == "ClusterIP" and spec.get("externalIPs")):
        default(spec, "externalTrafficPolicy", "Cluster")
    if spec["type"] in CLUSTER_TYPES and spec.get("internalTrafficPolicy") is None:
        spec["internalTrafficPolicy"] = "Cluster"
    if spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is None:
        spec["allocateLoadBalancerNodePorts"] = True
    balancer = part(part(document, "status"), "loadBalancer")
    drop_zeros(balancer, ("ingress",))
    for ingress in balancer.get("ingress") or ():
        drop_zeros(ingress, ("ip", "hostname", "ports"))
        if ingress.get("ip") and ingress.get("ipMode") is None and spec["type"] == "LoadBalancer":
            ingress["ipMode"] = "VIP"


def show(document: Document, *, cluster: Sequence[Family]) -> None:
    """Complete what older versions stored without (spec/api.md 1.6)."""
    spec = part(document, "spec")
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    if spec.get("type") == "ExternalName":
        spec.pop("internalTrafficPolicy", None)
    elif not spec.get("ipFamilies"):
        if spec.get("clusterIP") == NONE:
            own_affair = not spec.get("selector")
            spec["ipFamilyPolicy"] = REQUIRE if own_affair else SINGLE
            spec["ipFamilies"] = [cluster[0].value, cluster[0].other.value] if own_affair else [cluster[0].value]
        elif spec.get("clusterIPs"):
            spec["ipFamilies"] = [family_of(text).value for text in spec["clusterIPs"]]
            spec["ipFamilyPolicy"] = SINGLE if len(spec["ipFamilies"]) < 2 else REQUIRE


def is_shown(document: Document) -> bool:
    """Whether :func:`show` has nothing to add."""
    spec = document.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return "internalTrafficPolicy" not in spec and (not spec.get("clusterIP") or bool(spec.get("clusterIPs")))
    return bool(spec.get("ipFamilies")) and bool(spec.get("clusterIPs"))


def carry_over(after: dict[str, Any], before: dict[str, Any]) -> None:
    """Keep what the server once chose where the author says nothing (spec/api.md 1.4); both are specs."""
    if "ExternalName" not in (after.get("type"), before.get("type")):
        for field in ("clusterIP", "clusterIPs"):
            if not after.get(field) and before.get(field):
                after[field] = list(before[field]) if field == "clusterIPs" else before[field]
    if wants_node_ports(after) and wants_node_ports(before):
        _carry_over_node_ports(after, before)
    if needs_health_check(after) and needs_health_check(before) and not after.get("healthCheckNodePort") and before.get("healthCheckNodePort"):
        after["healthCheckNodePort"] = before["healthCheckNodePort"]


def _carry_over_node_ports(after: dict[str, Any], before: dict[str, Any]) -> None:
    old = {port.get("name", ""): port["nodePort"] for port in before.get("ports") or () if port.get("nodePort")}
    held = set(old.values())
    named = {port["nodePort"] for port in after.get("ports") or () if port.get("nodePort")}
    for port in after.get("ports") or ():
        number = old.get(port.get("name", ""))
        if not port.get("nodePort") and number and not (number in held and number in named):
            port["nodePort"] = number
            named.add(number)


def reconcile(after: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Bring the singular cluster IP and the plural ones into agreement (spec/api.md 1.2 and 1.3); both are specs."""
    single, plural = after.get("clusterIP", ""), after.get("clusterIPs") or []
    if before is None:
        if single and not plural:
            after["clusterIPs"] = [single]
        return
    old_single, old_plural = before.get("clusterIP", ""), before.get("clusterIPs") or []
    if not single and old_single:
        if plural == old_plural:
            after.pop("clusterIPs", None)
    elif single and single != old_single:
        if plural == old_plural:
            after["clusterIPs"] = [single]
    elif single and not plural and old_plural:
        after["clusterIPs"] = list(old_plural)


def wipe(after: dict[str, Any], before: dict[str, Any]) -> None:
    """Take away what belonged to the old type and was not changed in this very request (spec/api.md 1.5); both are specs."""
    new_type, old_type = after.get("type"), before.get("type")
    if new_type == "ExternalName" != old_type:
        if _same(after, before, "clusterIP") and _same(after, before, "clusterIPs"):
            _remove(after, "clusterIP", "clusterIPs")
        for field in ("ipFamilies", "ipFamilyPolicy"):
            if _same(after, before, field):
                _remove(after, field)
    had_ports, has_ports = (kind in ("NodePort", "LoadBalancer") for kind in (old_type, new_type))
    if had_ports and not has_ports and node_ports(after) <= node_ports(before):
        for port in after.get("ports") or ():
            port.pop("nodePort", None)
    if needs_health_check(before) and not needs_health_check(after) and _same(after, before, "healthCheckNodePort"):
        _remove(after, "healthCheckNodePort")
    if old_type == "LoadBalancer" != new_type:
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if _same(after, before, field):
                _remove(after, field)
    if is_externally_accessible(before) and not is_externally_accessible(after) and _same(after, before, "externalTrafficPolicy"):
        _remove(after, "externalTrafficPolicy")


def _same(after: dict[str, Any], before: dict[str, Any], field: str) -> bool:
    return (after.get(field) or None) == (before.get(field) or None) if field != "allocateLoadBalancerNodePorts" else after.get(field) == before.get(field)


def _remove(spec: dict[str, Any], *fields: str) -> None:
    for field in fields:
        spec.pop(field, None)


def wants_node_ports(spec: dict[str, Any]) -> bool:
    """Whether every port is to have a node port."""
    return spec.get("type") == "NodePort" or (spec.get("type") == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False)


def needs_health_check(spec: dict[str, Any]) -> bool:
    """Whether a port of its own answers load balancers that ask which nodes have endpoints."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def is_externally_accessible(spec: dict[str, Any]) -> bool:
    """Whether clients beyond the cluster may reach it."""
    return spec.get("type") in ("LoadBalancer", "NodePort") or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def node_ports(spec: dict[str, Any]) -> set[int]:
    """The node ports that the ports name."""
    return {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")}


def problems_with_modes_sent(document: Document) -> list[FieldProblem]:
    """An address without a mode gets one only from a type LoadBalancer that was sent along (spec/api.md section 6)."""
    spec, status = document.get("spec"), document.get("status")
    if (isinstance(spec, dict) and spec.get("type") == "LoadBalancer") or not isinstance(status, dict):
        return []
    ingresses = (status.get("loadBalancer") or {}).get("ingress") or ()
    return [
        required(f"status.loadBalancer.ingress[{i}].ipMode", "an address needs a mode")
        for i, one in enumerate(ingresses)
        if one.get("ip") and one.get("ipMode") is None
    ]


def held_ports(document: Document) -> set[int]:
    """Every node port that a stored Service holds, its health check's among them."""
    spec = document.get("spec") or {}
    if spec.get("type") not in ("NodePort", "LoadBalancer"):
        return set()
    health = spec.get("healthCheckNodePort") if needs_health_check(spec) else None
    return node_ports(spec) | ({health} if health else set())


def warnings_about(spec: ServiceSpec, annotations: dict[str, str]) -> list[str]:
    """What works otherwise than its author may think (spec/api.md appendix B)."""
    result = []
    if HINTS_ANNOTATION in annotations:
        result.append(f"metadata.annotations[{HINTS_ANNOTATION}]: deprecated; use spec.trafficDistribution")
    headless = spec.clusterIPs == [NONE] and spec.type == "ClusterIP"
    if headless:
        if spec.loadBalancerIP:
            result.append("spec.loadBalancerIP: ignored on a headless Service")
        if spec.externalIPs:
            result.append("spec.externalIPs: ignored on a headless Service")
        if spec.sessionAffinity != "None":
            result.append("spec.sessionAffinity: ignored on a headless Service")
    for i, text in enumerate(spec.clusterIPs):
        result += [] if text == NONE else spelling_warnings(f"spec.clusterIPs[{i}]", text)
    for i, text in enumerate(spec.externalIPs):
        result += spelling_warnings(f"spec.externalIPs[{i}]", text)
    if spec.loadBalancerIP:
        result += spelling_warnings("spec.loadBalancerIP", spec.loadBalancerIP)
    for i, text in enumerate(spec.loadBalancerSourceRanges):
        result += cidr_spelling_warnings(f"spec.loadBalancerSourceRanges[{i}]", text.strip())
    if spec.externalIPs and spec.type == "ExternalName":
        result.append("spec.externalIPs: ignored on a Service of type ExternalName")
    elif spec.externalIPs and not headless:
        result.append("spec.externalIPs: deprecated, because it lets a namespace's users take addresses that are not theirs")
    if spec.externalName and spec.type != "ExternalName":
        result.append("spec.externalName: ignored unless spec.type is ExternalName")
    if spec.trafficDistribution == "PreferClose":
        result.append("spec.trafficDistribution: PreferClose is deprecated; PreferSameZone means the same")
    return result


def status_warnings(document: Document) -> list[str]:
    """Odd spellings of what a load balancer reported."""
    ingresses = ((document.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [warning for i, one in enumerate(ingresses) if one.get("ip") for warning in spelling_warnings(f"status.loadBalancer.ingress[{i}]", one["ip"])]


def spelling_warnings(path: str, text: str) -> list[str]:
    """A warning when the address is spelled otherwise than RFC 5952 says, or only old software reads it."""
    if is_canonical(text):
        return []
    try:
        canonical = text_of(parse_address(text))
    except AddressError as error:
        return [f"{path}: {error}"]
    return [] if canonical == text else [f"{path}: {text!r} is not in canonical form, which is {canonical!r}"]


def cidr_spelling_warnings(path: str, text: str) -> list[str]:
    """Likewise for a CIDR."""
    try:
        canonical = text_of(parse_cidr(text, masked=True))
    except AddressError as error:
        return [f"{path}: {error}"]
    return [] if canonical == text else [f"{path}: {text!r} is not in canonical form, which is {canonical!r}"]
