"""Views of deployments, replica sets, and of the kinds that hold data.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from typing import Any

from twinstack.api.metadata import Condition, LabelSelector, Object, ObjectMeta, ObjectReference, Time, View


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


class ReplicationControllerSpec(View, frozen=True):
    replicas: int | None = None
    selector: dict[str, str] | None = None
    template: PodTemplate = PodTemplate()
    minReadySeconds: int = 0


class ReplicationController(Object, frozen=True):
    """What ReplicaSets were called before, with a selector of values only."""

    spec: ReplicationControllerSpec = ReplicationControllerSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class RollingUpdateDaemonSet(View, frozen=True):
    maxUnavailable: int | str | None = None
    maxSurge: int | str | None = None


class DaemonSetUpdateStrategy(View, frozen=True):
    type: str = "RollingUpdate"
    rollingUpdate: RollingUpdateDaemonSet | None = None


class DaemonSetSpec(View, frozen=True):
    selector: LabelSelector | None = None
    template: PodTemplate = PodTemplate()
    updateStrategy: DaemonSetUpdateStrategy = DaemonSetUpdateStrategy()
    minReadySeconds: int = 0
    revisionHistoryLimit: int | None = None


class DaemonSetStatus(View, frozen=True):
    currentNumberScheduled: int = 0
    numberMisscheduled: int = 0
    desiredNumberScheduled: int = 0
    numberReady: int = 0
    observedGeneration: int = 0
    updatedNumberScheduled: int = 0
    numberAvailable: int = 0
    numberUnavailable: int = 0
    collisionCount: int | None = None
    conditions: list[Condition] | None = None


class DaemonSet(Object, frozen=True):
    spec: DaemonSetSpec = DaemonSetSpec()
    status: DaemonSetStatus = DaemonSetStatus()


class RollingUpdateStatefulSet(View, frozen=True):
    partition: int | None = None
    maxUnavailable: int | str | None = None


class StatefulSetUpdateStrategy(View, frozen=True):
    type: str = "RollingUpdate"
    rollingUpdate: RollingUpdateStatefulSet | None = None


class StatefulSetOrdinals(View, frozen=True):
    start: int = 0


class StatefulSetSpec(View, frozen=True):
    replicas: int | None = None
    selector: LabelSelector | None = None
    template: PodTemplate = PodTemplate()
    serviceName: str = ""
    podManagementPolicy: str = "OrderedReady"
    updateStrategy: StatefulSetUpdateStrategy = StatefulSetUpdateStrategy()
    revisionHistoryLimit: int | None = None
    minReadySeconds: int = 0
    ordinals: StatefulSetOrdinals | None = None


class StatefulSetStatus(View, frozen=True):
    observedGeneration: int = 0
    replicas: int = 0
    readyReplicas: int = 0
    availableReplicas: int = 0
    currentReplicas: int = 0
    updatedReplicas: int = 0
    currentRevision: str = ""
    updateRevision: str = ""
    collisionCount: int | None = None
    conditions: list[Condition] | None = None


class StatefulSet(Object, frozen=True):
    spec: StatefulSetSpec = StatefulSetSpec()
    status: StatefulSetStatus = StatefulSetStatus()


class ControllerRevision(Object, frozen=True):
    """A template as it was."""

    data: dict[str, Any] | None = None
    revision: int = 0


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


class EventSeries(View, frozen=True):
    count: int = 0
    lastObservedTime: Time | None = None


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
    series: EventSeries | None = None
    source: dict[str, Any] | None = None


class ReportedEvent(Object, frozen=True):
    """An Event as events.k8s.io shows it."""

    regarding: ObjectReference = ObjectReference()
    reason: str = ""
    note: str = ""
    type: str = ""
    action: str = ""
    reportingController: str = ""
    reportingInstance: str = ""
    eventTime: Time | None = None
    series: EventSeries | None = None
