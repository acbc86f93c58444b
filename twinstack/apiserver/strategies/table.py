"""The table of strategies: which kind goes which way."""

from __future__ import annotations

from twinstack.api import kinds
from twinstack.api.resources import Resource, resource_of
from twinstack.apiserver.allocators import Context
from twinstack.apiserver.strategies import access, configuration, cronjobs, endpoints, nodes, pods, policies, priorities, ranges, services, workloads
from twinstack.apiserver.strategies.base import Strategy

_PLAIN: dict[type[kinds.Object], type[Strategy]] = {
    kinds.Namespace: configuration.Namespaces,
    kinds.Node: nodes.Nodes,
    kinds.Pod: pods.Pods,
    kinds.Endpoints: endpoints.Endpoints,
    kinds.ConfigMap: configuration.ConfigMaps,
    kinds.Secret: configuration.Secrets,
    kinds.ServiceAccount: configuration.ServiceAccounts,
    kinds.Event: configuration.Events,
    kinds.ReportedEvent: configuration.NewEvents,
    kinds.Deployment: workloads.Deployments,
    kinds.ReplicaSet: workloads.ReplicaSets,
    kinds.ReplicationController: workloads.ReplicationControllers,
    kinds.DaemonSet: workloads.DaemonSets,
    kinds.Job: workloads.Jobs,
    kinds.CronJob: cronjobs.CronJobs,
    kinds.PriorityClass: priorities.PriorityClasses,
    kinds.StatefulSet: workloads.StatefulSets,
    kinds.ControllerRevision: workloads.ControllerRevisions,
    kinds.Lease: configuration.Leases,
    kinds.Role: access.Roles,
    kinds.ClusterRole: access.Roles,
    kinds.RoleBinding: access.Bindings,
    kinds.ClusterRoleBinding: access.Bindings,
    kinds.EndpointSlice: endpoints.EndpointSlices,
    kinds.NetworkPolicy: policies.NetworkPolicies,
    kinds.PodDisruptionBudget: policies.PodDisruptionBudgets,
    kinds.ServiceCIDR: ranges.ServiceCIDRs,
    kinds.IPAddress: ranges.IPAddresses,
}


def strategies(context: Context) -> dict[Resource, Strategy]:
    """A strategy for every resource that is served."""
    table: dict[Resource, Strategy] = {resource: strategy(resource) for view, strategy in _PLAIN.items() for resource in (resource_of(view),)}
    table[resource_of(kinds.Service)] = services.Services(resource_of(kinds.Service), context)
    return table
