"""Frozen views of the kinds that our programs look at, in Kubernetes' own field names.

A view names only what some rule, controller or agent reads; unknown fields are skipped on the way in,
and defaults are left out on the way out. Views are never the source of a whole-object write.

This module is the catalogue; the views stand by subject in the modules that it names.
"""

from __future__ import annotations

from twinstack.api.access import (
    ClusterRole as ClusterRole,
)
from twinstack.api.access import (
    ClusterRoleBinding as ClusterRoleBinding,
)
from twinstack.api.access import (
    LocalSubjectAccessReview as LocalSubjectAccessReview,
)
from twinstack.api.access import (
    PolicyRule as PolicyRule,
)
from twinstack.api.access import (
    Role as Role,
)
from twinstack.api.access import (
    RoleBinding as RoleBinding,
)
from twinstack.api.access import (
    SelfSubjectAccessReview as SelfSubjectAccessReview,
)
from twinstack.api.access import (
    SelfSubjectReview as SelfSubjectReview,
)
from twinstack.api.access import (
    SelfSubjectRulesReview as SelfSubjectRulesReview,
)
from twinstack.api.access import (
    SubjectAccessReview as SubjectAccessReview,
)
from twinstack.api.access import (
    TokenRequest as TokenRequest,
)
from twinstack.api.access import (
    TokenReview as TokenReview,
)
from twinstack.api.batch import (
    CronJob as CronJob,
)
from twinstack.api.batch import (
    Job as Job,
)
from twinstack.api.batch import (
    JobSpec as JobSpec,
)
from twinstack.api.batch import (
    JobStatus as JobStatus,
)
from twinstack.api.disruptions import (
    PodDisruptionBudget as PodDisruptionBudget,
)
from twinstack.api.metadata import (
    Condition as Condition,
)
from twinstack.api.metadata import (
    LabelSelector as LabelSelector,
)
from twinstack.api.metadata import (
    LabelSelectorRequirement as LabelSelectorRequirement,
)
from twinstack.api.metadata import (
    ListMeta as ListMeta,
)
from twinstack.api.metadata import (
    Object as Object,
)
from twinstack.api.metadata import (
    ObjectMeta as ObjectMeta,
)
from twinstack.api.metadata import (
    ObjectReference as ObjectReference,
)
from twinstack.api.metadata import (
    OwnerReference as OwnerReference,
)
from twinstack.api.metadata import (
    Time as Time,
)
from twinstack.api.metadata import (
    View as View,
)
from twinstack.api.nodes import (
    Lease as Lease,
)
from twinstack.api.nodes import (
    LeaseSpec as LeaseSpec,
)
from twinstack.api.nodes import (
    Node as Node,
)
from twinstack.api.nodes import (
    NodeAddress as NodeAddress,
)
from twinstack.api.nodes import (
    NodeSpec as NodeSpec,
)
from twinstack.api.nodes import (
    NodeStatus as NodeStatus,
)
from twinstack.api.nodes import (
    Taint as Taint,
)
from twinstack.api.pods import (
    Affinity as Affinity,
)
from twinstack.api.pods import (
    Binding as Binding,
)
from twinstack.api.pods import (
    Container as Container,
)
from twinstack.api.pods import (
    ContainerPort as ContainerPort,
)
from twinstack.api.pods import (
    ContainerState as ContainerState,
)
from twinstack.api.pods import (
    ContainerStateRunning as ContainerStateRunning,
)
from twinstack.api.pods import (
    ContainerStateTerminated as ContainerStateTerminated,
)
from twinstack.api.pods import (
    ContainerStateWaiting as ContainerStateWaiting,
)
from twinstack.api.pods import (
    ContainerStatus as ContainerStatus,
)
from twinstack.api.pods import (
    EnvVar as EnvVar,
)
from twinstack.api.pods import (
    EnvVarSource as EnvVarSource,
)
from twinstack.api.pods import (
    ExecAction as ExecAction,
)
from twinstack.api.pods import (
    FieldSelector as FieldSelector,
)
from twinstack.api.pods import (
    HostAlias as HostAlias,
)
from twinstack.api.pods import (
    HTTPGetAction as HTTPGetAction,
)
from twinstack.api.pods import (
    HTTPHeader as HTTPHeader,
)
from twinstack.api.pods import (
    KeySelector as KeySelector,
)
from twinstack.api.pods import (
    Pod as Pod,
)
from twinstack.api.pods import (
    PodAffinityTerm as PodAffinityTerm,
)
from twinstack.api.pods import (
    PodAntiAffinity as PodAntiAffinity,
)
from twinstack.api.pods import (
    PodIP as PodIP,
)
from twinstack.api.pods import (
    PodSpec as PodSpec,
)
from twinstack.api.pods import (
    PodStatus as PodStatus,
)
from twinstack.api.pods import (
    Probe as Probe,
)
from twinstack.api.pods import (
    TCPSocketAction as TCPSocketAction,
)
from twinstack.api.pods import (
    Toleration as Toleration,
)
from twinstack.api.pods import (
    condition_of as condition_of,
)
from twinstack.api.policies import (
    IPBlock as IPBlock,
)
from twinstack.api.policies import (
    NetworkPolicy as NetworkPolicy,
)
from twinstack.api.policies import (
    NetworkPolicyPeer as NetworkPolicyPeer,
)
from twinstack.api.policies import (
    NetworkPolicyPort as NetworkPolicyPort,
)
from twinstack.api.policies import (
    PriorityClass as PriorityClass,
)
from twinstack.api.services import (
    ClientIPConfig as ClientIPConfig,
)
from twinstack.api.services import (
    ConditionsStatus as ConditionsStatus,
)
from twinstack.api.services import (
    CoreEndpointPort as CoreEndpointPort,
)
from twinstack.api.services import (
    Endpoint as Endpoint,
)
from twinstack.api.services import (
    EndpointAddress as EndpointAddress,
)
from twinstack.api.services import (
    EndpointConditions as EndpointConditions,
)
from twinstack.api.services import (
    EndpointHints as EndpointHints,
)
from twinstack.api.services import (
    EndpointPort as EndpointPort,
)
from twinstack.api.services import (
    Endpoints as Endpoints,
)
from twinstack.api.services import (
    EndpointSlice as EndpointSlice,
)
from twinstack.api.services import (
    EndpointSubset as EndpointSubset,
)
from twinstack.api.services import (
    ForZone as ForZone,
)
from twinstack.api.services import (
    IPAddress as IPAddress,
)
from twinstack.api.services import (
    IPAddressSpec as IPAddressSpec,
)
from twinstack.api.services import (
    LoadBalancerIngress as LoadBalancerIngress,
)
from twinstack.api.services import (
    LoadBalancerStatus as LoadBalancerStatus,
)
from twinstack.api.services import (
    ParentReference as ParentReference,
)
from twinstack.api.services import (
    Service as Service,
)
from twinstack.api.services import (
    ServiceCIDR as ServiceCIDR,
)
from twinstack.api.services import (
    ServiceCIDRSpec as ServiceCIDRSpec,
)
from twinstack.api.services import (
    ServicePort as ServicePort,
)
from twinstack.api.services import (
    ServiceSpec as ServiceSpec,
)
from twinstack.api.services import (
    ServiceStatus as ServiceStatus,
)
from twinstack.api.services import (
    SessionAffinityConfig as SessionAffinityConfig,
)
from twinstack.api.workloads import (
    ConfigMap as ConfigMap,
)
from twinstack.api.workloads import (
    ControllerRevision as ControllerRevision,
)
from twinstack.api.workloads import (
    DaemonSet as DaemonSet,
)
from twinstack.api.workloads import (
    DaemonSetSpec as DaemonSetSpec,
)
from twinstack.api.workloads import (
    DaemonSetStatus as DaemonSetStatus,
)
from twinstack.api.workloads import (
    Deployment as Deployment,
)
from twinstack.api.workloads import (
    DeploymentSpec as DeploymentSpec,
)
from twinstack.api.workloads import (
    DeploymentStatus as DeploymentStatus,
)
from twinstack.api.workloads import (
    DeploymentStrategy as DeploymentStrategy,
)
from twinstack.api.workloads import (
    Event as Event,
)
from twinstack.api.workloads import (
    Namespace as Namespace,
)
from twinstack.api.workloads import (
    NamespaceSpec as NamespaceSpec,
)
from twinstack.api.workloads import (
    NamespaceStatus as NamespaceStatus,
)
from twinstack.api.workloads import (
    PodTemplate as PodTemplate,
)
from twinstack.api.workloads import (
    ReplicaSet as ReplicaSet,
)
from twinstack.api.workloads import (
    ReplicaSetSpec as ReplicaSetSpec,
)
from twinstack.api.workloads import (
    ReplicaSetStatus as ReplicaSetStatus,
)
from twinstack.api.workloads import (
    ReplicationController as ReplicationController,
)
from twinstack.api.workloads import (
    ReplicationControllerSpec as ReplicationControllerSpec,
)
from twinstack.api.workloads import (
    ReportedEvent as ReportedEvent,
)
from twinstack.api.workloads import (
    RollingUpdate as RollingUpdate,
)
from twinstack.api.workloads import (
    Secret as Secret,
)
from twinstack.api.workloads import (
    ServiceAccount as ServiceAccount,
)
from twinstack.api.workloads import (
    StatefulSet as StatefulSet,
)
from twinstack.api.workloads import (
    StatefulSetSpec as StatefulSetSpec,
)
from twinstack.api.workloads import (
    StatefulSetStatus as StatefulSetStatus,
)
