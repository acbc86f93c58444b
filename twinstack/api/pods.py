"""Views of pods.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from typing import Any

from twinstack.api.metadata import Condition, LabelSelector, Object, ObjectReference, Time, View


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
    terminationGracePeriodSeconds: int | None = None


class Container(View, frozen=True):
    name: str = ""
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    workingDir: str = ""
    imagePullPolicy: str = ""
    ports: list[ContainerPort] | None = None
    env: list[EnvVar] | None = None
    envFrom: list[dict[str, Any]] | None = None
    volumeMounts: list[dict[str, Any]] | None = None
    resources: dict[str, Any] | None = None
    resizePolicy: list[dict[str, Any]] | None = None
    livenessProbe: Probe | None = None
    readinessProbe: Probe | None = None
    startupProbe: Probe | None = None
    restartPolicy: str | None = None
    restartPolicyRules: list[dict[str, Any]] | None = None
    lifecycle: dict[str, Any] | None = None
    terminationMessagePath: str = ""
    terminationMessagePolicy: str = ""
    securityContext: dict[str, Any] | None = None
    stdin: bool = False
    stdinOnce: bool = False
    tty: bool = False
    targetContainerName: str = ""  # of an ephemeral container: in whose PID namespace it runs


class Toleration(View, frozen=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    tolerationSeconds: int | None = None


class PodAffinityTerm(View, frozen=True):
    labelSelector: LabelSelector | None = None
    namespaces: list[str] | None = None
    namespaceSelector: LabelSelector | None = None
    topologyKey: str = ""
    matchLabelKeys: list[str] | None = None
    mismatchLabelKeys: list[str] | None = None


class WeightedPodAffinityTerm(View, frozen=True):
    weight: int = 0
    podAffinityTerm: PodAffinityTerm = PodAffinityTerm()


class PodAntiAffinity(View, frozen=True):
    requiredDuringSchedulingIgnoredDuringExecution: list[PodAffinityTerm] | None = None
    preferredDuringSchedulingIgnoredDuringExecution: list[WeightedPodAffinityTerm] | None = None


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
    ephemeralContainers: list[Container] | None = None
    nodeName: str = ""
    nodeSelector: dict[str, str] | None = None
    hostNetwork: bool = False
    hostname: str = ""
    subdomain: str = ""
    setHostnameAsFQDN: bool | None = None
    hostAliases: list[HostAlias] | None = None
    imagePullSecrets: list[dict[str, str]] | None = None
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
    topologySpreadConstraints: list[dict[str, Any]] | None = None
    volumes: list[dict[str, Any]] | None = None
    enableServiceLinks: bool | None = None
    readinessGates: list[dict[str, Any]] | None = None
    securityContext: dict[str, Any] | None = None
    hostPID: bool = False
    hostIPC: bool = False
    shareProcessNamespace: bool | None = None
    priority: int | None = None
    priorityClassName: str = ""
    preemptionPolicy: str = ""
    overhead: dict[str, Any] | None = None
    resources: dict[str, Any] | None = None


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
    resources: dict[str, Any] | None = None


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
    ephemeralContainerStatuses: list[ContainerStatus] | None = None
    qosClass: str = ""
    nominatedNodeName: str = ""


class Pod(Object, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


def condition_of(conditions: list[Condition] | None, type_: str) -> Condition | None:
    """The condition of this type."""
    return next((condition for condition in conditions or () if condition.type == type_), None)


class Binding(Object, frozen=True):
    """A pod's node."""

    target: ObjectReference = ObjectReference()
