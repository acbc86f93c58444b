"""Views of Services and of what stands behind them: endpoints, slices, ranges, addresses.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from twinstack.api.metadata import Condition, Object, ObjectReference, View


class ServicePort(View, frozen=True):
    name: str = ""
    protocol: str = "TCP"
    appProtocol: str | None = None
    port: int = 0
    targetPort: int | str = 0
    nodePort: int = 0


class ClientIPConfig(View, frozen=True):
    timeoutSeconds: int | None = None


class SessionAffinityConfig(View, frozen=True):
    clientIP: ClientIPConfig | None = None


class ServiceSpec(View, frozen=True):
    type: str = "ClusterIP"
    selector: dict[str, str] | None = None
    ports: list[ServicePort] = []
    clusterIP: str = ""
    clusterIPs: list[str] = []
    ipFamilies: list[str] = []
    ipFamilyPolicy: str | None = None
    externalName: str = ""
    externalIPs: list[str] = []
    sessionAffinity: str = "None"
    sessionAffinityConfig: SessionAffinityConfig | None = None
    externalTrafficPolicy: str = ""
    internalTrafficPolicy: str | None = None
    healthCheckNodePort: int = 0
    publishNotReadyAddresses: bool = False
    allocateLoadBalancerNodePorts: bool | None = None
    loadBalancerClass: str | None = None
    loadBalancerIP: str = ""
    loadBalancerSourceRanges: list[str] = []
    trafficDistribution: str | None = None


class LoadBalancerIngress(View, frozen=True):
    ip: str = ""
    hostname: str = ""
    ipMode: str | None = None


class LoadBalancerStatus(View, frozen=True):
    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(View, frozen=True):
    loadBalancer: LoadBalancerStatus = LoadBalancerStatus()


class Service(Object, frozen=True):
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class EndpointConditions(View, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(View, frozen=True):
    name: str = ""


class EndpointHints(View, frozen=True):
    forZones: list[ForZone] | None = None
    forNodes: list[ForZone] | None = None


class Endpoint(View, frozen=True):
    addresses: list[str] = []
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    nodeName: str | None = None
    zone: str | None = None
    targetRef: ObjectReference | None = None
    hints: EndpointHints | None = None


class EndpointPort(View, frozen=True):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    appProtocol: str | None = None


class EndpointSlice(Object, frozen=True):
    addressType: str = ""
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class EndpointAddress(View, frozen=True):
    ip: str = ""
    hostname: str = ""
    nodeName: str | None = None
    targetRef: ObjectReference | None = None


class CoreEndpointPort(View, frozen=True):
    name: str = ""
    protocol: str = "TCP"
    port: int = 0
    appProtocol: str | None = None


class EndpointSubset(View, frozen=True):
    addresses: list[EndpointAddress] | None = None
    notReadyAddresses: list[EndpointAddress] | None = None
    ports: list[CoreEndpointPort] | None = None


class Endpoints(Object, frozen=True):
    subsets: list[EndpointSubset] | None = None


class ServiceCIDRSpec(View, frozen=True):
    cidrs: list[str] = []


class ConditionsStatus(View, frozen=True):
    conditions: list[Condition] | None = None


class ServiceCIDR(Object, frozen=True):
    spec: ServiceCIDRSpec = ServiceCIDRSpec()
    status: ConditionsStatus = ConditionsStatus()


class ParentReference(View, frozen=True):
    group: str = ""
    resource: str = ""
    namespace: str = ""
    name: str = ""


class IPAddressSpec(View, frozen=True):
    parentRef: ParentReference | None = None


class IPAddress(Object, frozen=True):
    spec: IPAddressSpec = IPAddressSpec()
