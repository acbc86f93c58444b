"""Frozen views of the kinds that our programs look at, in Kubernetes' own field names.

A view names only what some rule, controller or agent reads; unknown fields are skipped on the way in,
and defaults are left out on the way out. Views are never the source of a whole-object write.
"""

from __future__ import annotations

from typing import Any

import msgspec

Time = str  # RFC 3339, as on the wire


class View(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Root of the views."""


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


# ---- Service and endpoints


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


# ---- Pod


class ContainerPort(View, frozen=True):
    name: str = ""
    containerPort: int = 0
    protocol: str = "TCP"
    hostPort: int = 0
    hostIP: str = ""


class FieldSelector(View, frozen=True):
    apiVersion: str = ""
    fieldPath: str = ""


class KeySelector(View, frozen=True):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class EnvVarSource(View, frozen=True):
    fieldRef: FieldSelector | None = None
    configMapKeyRef: KeySelector | None = None
    secretKeyRef: KeySelector | None = None
    resourceFieldRef: dict[str, Any] | None = None


class EnvVar(View, frozen=True):
    name: str = ""
    value: str = ""
    valueFrom: EnvVarSource | None = None


class HTTPHeader(View, frozen=True):
    name: str = ""
    value: str = ""


class HTTPGetAction(View, frozen=True):
    path: str = "/"
    port: int | str = 0
    host: str = ""
    scheme: str = "HTTP"
    httpHeaders: list[HTTPHeader] | None = None


class TCPSocketAction(View, frozen=True):
    port: int | str = 0
    host: str = ""


class ExecAction(View, frozen=True):
    command: list[str] = []


class Probe(View, frozen=True):
    httpGet: HTTPGetAction | None = None
    tcpSocket: TCPSocketAction | None = None
    exec: ExecAction | None = None
    grpc: dict[str, Any] | None = None
    initialDelaySeconds: int = 0
    periodSeconds: int = 10
    timeoutSeconds: int = 1
    successThreshold: int = 1
    failureThreshold: int = 3


class Container(View, frozen=True):
    name: str = ""
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    workingDir: str = ""
    ports: list[ContainerPort] | None = None
    env: list[EnvVar] | None = None
    envFrom: list[dict[str, Any]] | None = None
    volumeMounts: list[dict[str, Any]] | None = None
    resources: dict[str, Any] | None = None
    livenessProbe: Probe | None = None
    readinessProbe: Probe | None = None
    startupProbe: Probe | None = None
    restartPolicy: str | None = None
    lifecycle: dict[str, Any] | None = None
    terminationMessagePath: str = ""


class Toleration(View, frozen=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    tolerationSeconds: int | None = None


class PodAffinityTerm(View, frozen=True):
    labelSelector: LabelSelector | None = None
    namespaces: list[str] | None = None
    topologyKey: str = ""


class PodAntiAffinity(View, frozen=True):
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] | None = None


class Affinity(View, frozen=True):
    podAntiAffinity: PodAntiAffinity | None = None
    podAffinity: dict[str, Any] | None = None
    nodeAffinity: dict[str, Any] | None = None


class HostAlias(View, frozen=True):
    ip: str = ""
    hostnames: list[str] | None = None


class PodSpec(View, frozen=True):
    containers: list[Container] = []
    initContainers: list[Container] | None = None
    nodeName: str = ""
    nodeSelector: dict[str, str] | None = None
    hostNetwork: bool = False
    hostname: str = ""
    subdomain: str = ""
    hostAliases: list[HostAlias] | None = None
    restartPolicy: str = "Always"
    terminationGracePeriodSeconds: int | None = None
    activeDeadlineSeconds: int | None = None
    dnsPolicy: str = "ClusterFirst"
    dnsConfig: dict[str, Any] | None = None
    serviceAccountName: str = ""
    schedulerName: str = "default-scheduler"
    schedulingGates: list[dict[str, Any]] | None = None
    tolerations: list[Toleration] | None = None
    affinity: Affinity | None = None
    volumes: list[dict[str, Any]] | None = None
    enableServiceLinks: bool | None = None
    priority: int | None = None


class PodIP(View, frozen=True):
    ip: str = ""


class ContainerStateRunning(View, frozen=True):
    startedAt: Time | None = None


class ContainerStateWaiting(View, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerStateTerminated(View, frozen=True):
    exitCode: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    startedAt: Time | None = None
    finishedAt: Time | None = None
    containerID: str = ""


class ContainerState(View, frozen=True):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(View, frozen=True):
    name: str = ""
    ready: bool = False
    started: bool | None = None
    restartCount: int = 0
    image: str = ""
    imageID: str = ""
    containerID: str = ""
    state: ContainerState = ContainerState()
    lastState: ContainerState = ContainerState()


class PodStatus(View, frozen=True):
    phase: str = ""
    reason: str = ""
    message: str = ""
    podIP: str = ""
    podIPs: list[PodIP] | None = None
    hostIP: str = ""
    hostIPs: list[PodIP] | None = None
    startTime: Time | None = None
    conditions: list[Condition] | None = None
    containerStatuses: list[ContainerStatus] | None = None
    initContainerStatuses: list[ContainerStatus] | None = None
    qosClass: str = ""


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


def condition_of(conditions: list[Condition] | None, type_: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in conditions or () if condition.type == type_), None)


# ---- Node


class Taint(View, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""
    timeAdded: Time | None = None


class NodeSpec(View, frozen=True):
    podCIDR: str = ""
    podCIDRs: list[str] | None = None
    providerID: str = ""
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


# ---- Workloads


class PodTemplate(View, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: dict[str, Any] = {}


class RollingUpdate(View, frozen=True):
    maxUnavailable: int | str | None = None
    maxSurge: int | str | None = None


class DeploymentStrategy(View, frozen=True):
    type: str = "RollingUpdate"
    rollingUpdate: RollingUpdate | None = None


class DeploymentSpec(View, frozen=True):
    replicas: int | None = None
    selector: LabelSelector | None = None
    template: PodTemplate = PodTemplate()
    strategy: DeploymentStrategy = DeploymentStrategy()
    minReadySeconds: int = 0
    revisionHistoryLimit: int | None = None
    paused: bool = False
    progressDeadlineSeconds: int | None = None


class DeploymentStatus(View, frozen=True):
    observedGeneration: int = 0
    replicas: int = 0
    updatedReplicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    unavailableReplicas: int = 0
    collisionCount: int | None = None
    conditions: list[Condition] | None = None


class Deployment(Object, frozen=True):
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSetSpec(View, frozen=True):
    replicas: int | None = None
    selector: LabelSelector | None = None
    template: PodTemplate = PodTemplate()
    minReadySeconds: int = 0


class ReplicaSetStatus(View, frozen=True):
    observedGeneration: int = 0
    replicas: int = 0
    fullyLabeledReplicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    conditions: list[Condition] | None = None


class ReplicaSet(Object, frozen=True):
    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


# ---- The rest


class NamespaceSpec(View, frozen=True):
    finalizers: list[str] | None = None


class NamespaceStatus(View, frozen=True):
    phase: str = ""
    conditions: list[Condition] | None = None


class Namespace(Object, frozen=True):
    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class ConfigMap(Object, frozen=True):
    data: dict[str, str] | None = None
    binaryData: dict[str, str] | None = None
    immutable: bool | None = None


class Secret(Object, frozen=True):
    type: str = "Opaque"
    data: dict[str, str] | None = None
    immutable: bool | None = None


class ServiceAccount(Object, frozen=True):
    secrets: list[ObjectReference] | None = None


class Event(Object, frozen=True):
    involvedObject: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    type: str = ""
    count: int = 0
    firstTimestamp: Time | None = None
    lastTimestamp: Time | None = None
    eventTime: Time | None = None
    reportingComponent: str = ""
    reportingInstance: str = ""
    action: str = ""
    source: dict[str, Any] | None = None
