"""Everything that can be wrong with a Service, but for its metadata (spec/api.md, appendix A and section 6).

Rule of this file: a Service in, field problems out, all at once. It runs after families, addresses and node ports were decided;
what it says about those is what must hold whoever decided them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import LoadBalancerStatus, Service, ServicePort, ServiceSpec
from twinstack.net.cidr import parse_address, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.rules.addresses import address_problem, special_problem
from twinstack.rules.families import CLUSTER_TYPES, NONE, problems_with_fields, problems_with_primary
from twinstack.rules.metadata import problems_with_labels
from twinstack.rules.names import label_problem, port_name_problem, port_number_problem, qualified_problem, subdomain_problem
from twinstack.rules.problems import duplicate, forbidden, required, unsupported, wrong
from twinstack.rules.services import HINTS_ANNOTATION

TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
PROTOCOLS = ("TCP", "UDP", "SCTP")
POLICIES = ("Cluster", "Local")
DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
MODE_ANNOTATION = "service.kubernetes.io/topology-mode"
RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
LONGEST_AFFINITY_SECONDS = 86400
KUBELET_PORT = 10250


def problems_with_service(after: Service, before: Service | None = None) -> list[FieldProblem]:
    """What is wrong with a Service; with *before*, also what may not change, and what stood before is judged leniently."""
    spec, old, annotations = after.spec, before.spec if before else None, after.annotations
    problems = list(problems_with_primary(spec, old)) if old else []
    if old and spec.type == old.type == "LoadBalancer" and spec.loadBalancerClass != old.loadBalancerClass:
        problems.append(wrong("spec.loadBalancerClass", spec.loadBalancerClass, "may not change on a Service of type LoadBalancer"))
    return [
        *problems,
        *(_problems_with_annotations(annotations, spec) if annotations else ()),
        *_problems_with_type(spec, old),
        *_problems_with_ports(spec),
        *problems_with_labels(spec.selector, "spec.selector"),
        *_problems_with_affinity(spec),
        *(_problems_with_external_ips(spec, old) if spec.externalIPs else ()),
        *(_problems_with_source_ranges(after, before) if annotations or spec.loadBalancerSourceRanges else ()),
        *_problems_with_balancer(spec),
        *_problems_with_traffic(spec),
    ]


def _problems_with_type(spec: ServiceSpec, old: ServiceSpec | None) -> Iterator[FieldProblem]:
    if not spec.type:
        yield required("spec.type")
    elif spec.type not in TYPES:
        yield unsupported("spec.type", spec.type, TYPES)
    if spec.type != "ExternalName":
        yield from problems_with_fields(spec, old, policy=spec.ipFamilyPolicy)
        if spec.type in ("NodePort", "LoadBalancer") and spec.clusterIPs == [NONE]:
            yield wrong("spec.clusterIPs[0]", NONE, f"a Service of type {spec.type} needs an address")
        return
    for field, value in (("clusterIPs", spec.clusterIPs), ("ipFamilies", spec.ipFamilies)):
        if value:
            yield forbidden(f"spec.{field}", "must be left out when spec.type is ExternalName")
    if spec.ipFamilyPolicy is not None:
        yield forbidden("spec.ipFamilyPolicy", "must be left out when spec.type is ExternalName")
    name = spec.externalName.removesuffix(".")
    if not name:
        yield required("spec.externalName", "a Service of type ExternalName needs the name that it stands for")
    elif problem := subdomain_problem(name):
        yield wrong("spec.externalName", name, problem)


def _problems_with_ports(spec: ServiceSpec) -> Iterator[FieldProblem]:
    if not spec.ports and spec.clusterIPs != [NONE] and spec.type != "ExternalName":
        yield required("spec.ports", "a Service without any is headless or of type ExternalName")
    names: set[str] = set()
    fronts: set[tuple[str, int]] = set()
    nodes: set[tuple[str, int]] = set()
    for i, port in enumerate(spec.ports):
        path = f"spec.ports[{i}]"
        yield from _problems_with_port(port, path, names, many=len(spec.ports) > 1)
        if spec.type == "LoadBalancer" and port.port == KUBELET_PORT:
            yield wrong(path, port.port, "is the kubelet's port and must not be reachable from outside")
        if spec.type == "ClusterIP" and port.nodePort:
            yield forbidden(f"{path}.nodePort", "must be left out when spec.type is ClusterIP")
        if port.nodePort:
            if (port.protocol, port.nodePort) in nodes:
                yield duplicate(f"{path}.nodePort", port.nodePort)
            nodes.add((port.protocol, port.nodePort))
        if (port.protocol, port.port) in fronts:
            yield duplicate(path, f"{port.port}/{port.protocol}")
        fronts.add((port.protocol, port.port))


def _problems_with_port(port: ServicePort, path: str, names: set[str], *, many: bool) -> Iterator[FieldProblem]:
    if not port.name and many:
        yield required(f"{path}.name", "each of several ports needs a name")
    elif port.name:
        if problem := label_problem(port.name):
            yield wrong(f"{path}.name", port.name, problem)
        if port.name in names:
            yield duplicate(f"{path}.name", port.name)
        names.add(port.name)
    if problem := port_number_problem(port.port):
        yield wrong(f"{path}.port", port.port, problem)
    if not port.protocol:
        yield required(f"{path}.protocol")
    elif port.protocol not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", port.protocol, PROTOCOLS)
    target = port.targetPort
    if problem := port_name_problem(target) if isinstance(target, str) else port_number_problem(target):
        yield wrong(f"{path}.targetPort", target, problem)
    if port.appProtocol is not None and (problem := qualified_problem(port.appProtocol)):
        yield wrong(f"{path}.appProtocol", port.appProtocol, problem)


def _problems_with_affinity(spec: ServiceSpec) -> Iterator[FieldProblem]:
    path, config = "spec.sessionAffinityConfig", spec.sessionAffinityConfig
    if not spec.sessionAffinity:
        yield required("spec.sessionAffinity")
    elif spec.sessionAffinity not in ("ClientIP", "None"):
        yield unsupported("spec.sessionAffinity", spec.sessionAffinity, ("ClientIP", "None"))
    elif spec.sessionAffinity == "None":
        if config is not None:
            yield forbidden(path, "must be left out when spec.sessionAffinity is None")
    elif config is None:
        yield required(path)
    elif config.clientIP is None:
        yield required(f"{path}.clientIP")
    elif config.clientIP.timeoutSeconds is None:
        yield required(f"{path}.clientIP.timeoutSeconds")
    elif not 0 < config.clientIP.timeoutSeconds <= LONGEST_AFFINITY_SECONDS:
        yield wrong(f"{path}.clientIP.timeoutSeconds", config.clientIP.timeoutSeconds, f"must be between 1 and {LONGEST_AFFINITY_SECONDS}")


def _problems_with_external_ips(spec: ServiceSpec, old: ServiceSpec | None) -> Iterator[FieldProblem]:
    for i, text in enumerate(spec.externalIPs):
        if problem := special_problem(text) if old and text in old.externalIPs else address_problem(text) or special_problem(text):
            yield wrong(f"spec.externalIPs[{i}]", text, problem)


def _problems_with_source_ranges(after: Service, before: Service | None) -> Iterator[FieldProblem]:
    spec, path = after.spec, "spec.LoadBalancerSourceRanges"
    if spec.loadBalancerSourceRanges:
        if spec.type != "LoadBalancer":
            yield forbidden(path, "must be left out unless spec.type is LoadBalancer")
        for i, text in enumerate(spec.loadBalancerSourceRanges):
            if before and text in before.spec.loadBalancerSourceRanges:
                continue
            if problem := _cidr_problem(text.strip()):
                yield wrong(f"{path}[{i}]", text, problem)
        return
    text = after.annotations.get(RANGES_ANNOTATION, "")
    if RANGES_ANNOTATION not in after.annotations or (before and before.annotations.get(RANGES_ANNOTATION) == text and spec.type == before.spec.type):
        return
    path = f"metadata.annotations[{RANGES_ANNOTATION}]"
    if spec.type != "LoadBalancer":
        yield forbidden(path, "must be left out unless spec.type is LoadBalancer")
    for cidr in text.split(",") if text.strip() else ():
        if problem := _cidr_problem(cidr.strip()):
            yield wrong(path, text, problem)


def _cidr_problem(text: str) -> str | None:
    try:
        parse_cidr(text)
    except AddressError as error:
        return f"must be a CIDR, such as {error.suggestion or '10.9.8.0/24 or 2001:db8::/64'}"
    return None


def _problems_with_balancer(spec: ServiceSpec) -> Iterator[FieldProblem]:
    if spec.type == "LoadBalancer":
        if spec.allocateLoadBalancerNodePorts is None:
            yield required("allocateLoadBalancerNodePorts")
        if spec.loadBalancerClass is not None and (problem := qualified_problem(spec.loadBalancerClass)):
            yield wrong("spec.loadBalancerClass", spec.loadBalancerClass, problem)
        return
    if spec.allocateLoadBalancerNodePorts is not None:
        yield forbidden("spec.allocateLoadBalancerNodePorts", "must be left out unless spec.type is LoadBalancer")
    if spec.loadBalancerClass is not None:
        yield forbidden("spec.loadBalancerClass", "must be left out unless spec.type is LoadBalancer")


def _problems_with_traffic(spec: ServiceSpec) -> Iterator[FieldProblem]:
    external, path = spec.externalTrafficPolicy, "spec.externalTrafficPolicy"
    if not (spec.type in ("LoadBalancer", "NodePort") or (spec.type == "ClusterIP" and spec.externalIPs)):
        if external:
            yield wrong(path, external, "must be left out unless the Service is reachable from outside the cluster")
    elif not external:
        yield required(path)
    elif external not in POLICIES:
        yield unsupported(path, external, POLICIES)
    path = "spec.healthCheckNodePort"
    if not (spec.type == "LoadBalancer" and external == "Local"):
        if spec.healthCheckNodePort:
            yield wrong(path, spec.healthCheckNodePort, "must be left out unless spec.type is LoadBalancer and spec.externalTrafficPolicy is Local")
    elif not spec.healthCheckNodePort:
        yield required(path)
    elif problem := port_number_problem(spec.healthCheckNodePort):
        yield wrong(path, spec.healthCheckNodePort, problem)
    path = "spec.internalTrafficPolicy"
    if spec.internalTrafficPolicy is None:
        if spec.type in CLUSTER_TYPES:
            yield required(path)
    elif spec.internalTrafficPolicy not in POLICIES:
        yield unsupported(path, spec.internalTrafficPolicy, POLICIES)
    if spec.trafficDistribution is not None and spec.trafficDistribution not in DISTRIBUTIONS:
        yield unsupported("spec.trafficDistribution", spec.trafficDistribution, DISTRIBUTIONS)


def _problems_with_annotations(annotations: Mapping[str, str], spec: ServiceSpec) -> Iterator[FieldProblem]:
    mode, hints = annotations.get(MODE_ANNOTATION), annotations.get(HINTS_ANNOTATION)
    if mode is not None and hints is not None and mode != hints:
        yield wrong(f"metadata.annotations[{MODE_ANNOTATION}]", mode, f"must equal the annotation {HINTS_ANNOTATION}, which is {hints!r}")


def problems_with_balancer_status(status: LoadBalancerStatus, before: LoadBalancerStatus | None, *, type_: str) -> Iterator[FieldProblem]:
    """What is wrong with what a load balancer reports (spec/api.md section 6)."""
    path, ingresses = "status.loadBalancer.ingress", status.ingress or []
    if ingresses and type_ != "LoadBalancer":
        yield forbidden(path, "must be empty unless spec.type is LoadBalancer")
        return
    stood = {one.ip for one in (before.ingress or [] if before else [])}
    for i, one in enumerate(ingresses):
        if one.ip and one.ip not in stood and (problem := address_problem(one.ip)):
            yield wrong(f"{path}[{i}].ip", one.ip, problem)
        if one.ip and one.ipMode is None:
            yield required(f"{path}[{i}].ipMode", "an address needs a mode")
        elif not one.ip and one.ipMode is not None:
            yield forbidden(f"{path}[{i}].ipMode", "must be left out where ip is")
        elif one.ipMode is not None and one.ipMode not in ("VIP", "Proxy"):
            yield unsupported(f"{path}[{i}].ipMode", one.ipMode, ("VIP", "Proxy"))
        if one.hostname and (problem := _host_name_problem(one.hostname)):
            yield wrong(f"{path}[{i}].hostname", one.hostname, problem)


def _host_name_problem(name: str) -> str | None:
    try:
        parse_address(name)
    except AddressError:
        return subdomain_problem(name)
    return "must be a DNS name; an address belongs into ip"
