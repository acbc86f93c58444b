"""The kube-controller-manager: which controllers run, and what each is told."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from twinstack.api import kinds
from twinstack.api.world import Controller
from twinstack.client.controllers import Common, SettingsError, read_file, run_controllers
from twinstack.client.lean import Lean
from twinstack.net.cidr import parse_cidrs
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family, Network
from twinstack.rules.zones import Rates

COMPONENT = "kube-controller-manager"
PORT = 10257

log = logging.getLogger(__name__)


class Settings(Common, frozen=True, kw_only=True):
    """One field per flag."""

    secure_port: int = PORT
    controllers: tuple[str, ...] = ("*",)
    use_service_account_credentials: bool = False
    allocate_node_cidrs: bool = False
    cluster_cidr: str = ""
    service_cluster_ip_range: str = ""
    node_cidr_mask_size: int = 0
    node_cidr_mask_sizes: tuple[int, int] = (0, 0)  # by family, in the order of net.family.FAMILIES; 0: not set
    max_endpoints_per_slice: int = 100
    mirroring_max_endpoints_per_subset: int = 1000
    node_monitor_grace_period_seconds: float = 40.0
    node_startup_grace_period_seconds: float = 60.0
    node_monitor_period_seconds: float = 5.0
    node_eviction_rate: float = 0.1
    secondary_node_eviction_rate: float = 0.01
    unhealthy_zone_threshold: float = 0.55
    large_cluster_size_threshold: int = 50
    terminated_pod_gc_threshold: int = 12500
    root_ca_file: str = ""
    concurrent_service_endpoint_syncs: int = 5
    concurrent_endpoint_syncs: int = 5
    mirroring_concurrent_service_endpoint_syncs: int = 5
    concurrent_deployment_syncs: int = 5
    concurrent_replicaset_syncs: int = 5
    concurrent_rc_syncs: int = 5
    concurrent_statefulset_syncs: int = 5
    concurrent_daemonset_syncs: int = 2
    concurrent_ttl_after_finished_syncs: int = 5
    concurrent_job_syncs: int = 5
    concurrent_cron_job_syncs: int = 5
    concurrent_namespace_syncs: int = 10
    concurrent_gc_syncs: int = 20
    concurrent_serviceaccount_syncs: int = 5
    without_effect: tuple[str, ...] = ()  # the flags given for the signing of certificates


class Row(NamedTuple):
    """One controller: where it is, what it is told, how many keys it works on at once, and what it was once called."""

    module: str
    cls: str
    arguments: Callable[[Settings], tuple[tuple[Any, ...], Mapping[str, Any]] | None] = lambda settings: ((), {})  # None: it does not run
    workers: str = ""  # the setting
    alias: str = ""
    account: str = ""  # the ServiceAccount, when it has another name than the controller
    named: bool = False  # it runs when its name is called, and is not among all


def _node_ipam(settings: Settings) -> tuple[tuple[Any, ...], Mapping[str, Any]] | None:
    if not settings.allocate_node_cidrs:
        return None
    named = {
        "service_cidrs": _cidrs("service-cluster-ip-range", settings.service_cluster_ip_range),
        "mask_size": settings.node_cidr_mask_size,
        "mask_sizes": {family: size for family, size in zip(FAMILIES, settings.node_cidr_mask_sizes, strict=True) if size},
    }
    return (_cidrs("cluster-cidr", settings.cluster_cidr),), named


def _service_accounts(settings: Settings) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    root_ca = read_file("root-ca-file", settings.root_ca_file).decode("ascii", "replace") if settings.root_ca_file else ""
    return (), {"root_ca": root_ca}


# By the name that --controllers knows. Modules are loaded when the program starts, not with this table.
CONTROLLERS: Mapping[str, Row] = {
    "node-ipam-controller": Row("nodeipam", "NodeIPAM", _node_ipam, alias="nodeipam", account="node-controller"),
    "node-lifecycle-controller": Row(
        "nodelifecycle",
        "NodeLifecycle",
        lambda settings: (
            (),
            {
                "grace_seconds": settings.node_monitor_grace_period_seconds,
                "startup_seconds": settings.node_startup_grace_period_seconds,
                "period_seconds": settings.node_monitor_period_seconds,
                "rates": Rates(
                    settings.node_eviction_rate,
                    settings.secondary_node_eviction_rate,
                    settings.unhealthy_zone_threshold,
                    settings.large_cluster_size_threshold,
                ),
            },
        ),
        alias="nodelifecycle",
        account="node-controller",
    ),
    "endpointslice-controller": Row(
        "endpointslices",
        "EndpointSlices",
        lambda settings: ((), {"max_endpoints": settings.max_endpoints_per_slice}),
        "concurrent_service_endpoint_syncs",
        "endpointslice",
    ),
    "endpointslice-mirroring-controller": Row(
        "endpointslicemirroring",
        "EndpointSliceMirroring",
        lambda settings: ((), {"max_endpoints": settings.mirroring_max_endpoints_per_subset}),
        "mirroring_concurrent_service_endpoint_syncs",
        "endpointslicemirroring",
        "endpointslicemirroring-controller",
    ),
    "endpoints-controller": Row("endpoints", "EndpointsObjects", workers="concurrent_endpoint_syncs", alias="endpoint", account="endpoint-controller"),
    "deployment-controller": Row("deployments", "Deployments", workers="concurrent_deployment_syncs", alias="deployment"),
    "replicaset-controller": Row("replicasets", "ReplicaSets", workers="concurrent_replicaset_syncs", alias="replicaset"),
    "replicationcontroller-controller": Row(
        "replicasets", "ReplicationControllers", workers="concurrent_rc_syncs", alias="replicationcontroller", account="replication-controller"
    ),
    "daemonset-controller": Row("daemonsets", "DaemonSets", workers="concurrent_daemonset_syncs", alias="daemonset", account="daemon-set-controller"),
    "statefulset-controller": Row("statefulsets", "StatefulSets", workers="concurrent_statefulset_syncs", alias="statefulset"),
    "job-controller": Row("jobs", "Jobs", workers="concurrent_job_syncs", alias="job"),
    "cronjob-controller": Row("cronjobs", "CronJobs", workers="concurrent_cron_job_syncs", alias="cronjob"),
    "ttl-after-finished-controller": Row("jobs", "FinishedJobs", workers="concurrent_ttl_after_finished_syncs", alias="ttl-after-finished"),
    "disruption-controller": Row("disruptions", "Disruptions", alias="disruption"),
    "namespace-controller": Row("namespaces", "Namespaces", workers="concurrent_namespace_syncs", alias="namespace"),
    "garbage-collector-controller": Row("garbage", "Garbage", workers="concurrent_gc_syncs", alias="garbagecollector", account="generic-garbage-collector"),
    "pod-garbage-collector-controller": Row(
        "podgc", "PodGarbage", lambda settings: ((), {"most_ended": settings.terminated_pod_gc_threshold}), alias="podgc", account="pod-garbage-collector"
    ),
    "serviceaccount-controller": Row(
        "serviceaccounts", "ServiceAccounts", _service_accounts, "concurrent_serviceaccount_syncs", "serviceaccount", "service-account-controller"
    ),
    "service-cidr-controller": Row("servicecidrs", "ServiceCIDRs", account="service-cidrs-controller"),
    "clusterrole-aggregation-controller": Row("clusterroles", "ClusterRoles", alias="clusterrole-aggregation"),
    "windows-node-controller": Row("windowsnodes", "WindowsNodes"),
    "token-cleaner-controller": Row("bootstraptokens", "TokenCleaner", alias="tokencleaner", account="token-cleaner", named=True),
    "bootstrap-signer-controller": Row("bootstraptokens", "BootstrapSigner", alias="bootstrapsigner", account="bootstrap-signer", named=True),
}


# Upstream's that there is nothing here to do for: they may be left out by name, not asked for. Some have two names.
NOT_SERVED = frozenset(
    f"{name}{suffix}"
    for suffix in ("", "-controller")
    for name in (
        *("certificatesigningrequest-approving", "certificatesigningrequest-cleaner", "certificatesigningrequest-signing"),
        *(
            "cloud-node-lifecycle",
            "device-taint-eviction",
            "ephemeral-volume",
            "horizontal-pod-autoscaler",
            "kube-apiserver-serving-clustertrustbundle-publisher",
        ),
        *("legacy-serviceaccount-token-cleaner", "node-route", "persistentvolume-attach-detach", "persistentvolume-binder", "persistentvolume-expander"),
        *("persistentvolume-protection", "persistentvolumeclaim-protection", "podcertificaterequest-cleaner", "resourceclaim", "resourcequota"),
        *(
            "root-ca-certificate-publisher",
            "selinux-warning",
            "service-lb",
            "serviceaccount-token",
            "storage-version-migrator",
            "storageversion-garbage-collector",
        ),
        *("taint-eviction", "ttl", "validatingadmissionpolicy-status", "volumeattributesclass-protection"),
        *("attachdetach", "csrapproving", "csrcleaner", "csrsigning", "horizontalpodautoscaling", "pv-protection", "pvc-protection"),
        *("root-ca-cert-publisher", "route", "service"),
    )
)


def chosen(names: tuple[str, ...]) -> list[str]:
    """The controllers that ``--controllers`` means: ``*`` all, ``name`` this one, ``-name`` not this one; the first word about one counts.

    ``*`` leaves out those that have to be named.

    Errors: SettingsError for a name that nobody has.
    """
    aliases = {row.alias: name for name, row in CONTROLLERS.items() if row.alias}
    plain = [(word.startswith("-"), aliases.get(word.removeprefix("-"), word.removeprefix("-"))) for word in names]
    for without, name in plain:
        if name in NOT_SERVED and not without:
            raise SettingsError(f"--controllers: {name} is upstream's and not served here; leave it out")
        if name != "*" and name not in CONTROLLERS and name not in NOT_SERVED:
            raise SettingsError(f"--controllers: {name!r} is not a controller here; these are: {', '.join(CONTROLLERS)}")
    every = (False, "*") in plain
    verdicts: dict[str, bool] = {}
    for without, name in plain:
        verdicts.setdefault(name, not without)
    return [name for name, row in CONTROLLERS.items() if verdicts.get(name, every and not row.named)]


def controllers_of(settings: Settings) -> list[Controller]:
    """The controllers of these settings, made; SettingsError or the controller's own error when a flag will not do."""
    check(settings)
    made: list[Controller] = []
    for name in chosen(settings.controllers):
        row = CONTROLLERS[name]
        arguments = row.arguments(settings)
        if arguments is None:
            log.info("A controller is not asked for by its flags", extra={"controller": name})
            continue
        cls = getattr(importlib.import_module(f"twinstack.controllers.{row.module}"), row.cls)
        made.append(cls(*arguments[0], **arguments[1]))
    return made


def check(settings: Settings) -> None:
    """SettingsError for what is refused before anything is touched."""
    for flag, most, would_do in (
        ("max-endpoints-per-slice", settings.max_endpoints_per_slice, 100),
        ("mirroring-max-endpoints-per-subset", settings.mirroring_max_endpoints_per_subset, 1000),
    ):
        if not 1 <= most <= 1000:
            raise SettingsError(f"--{flag}={most} is not within 1 to 1000; {would_do} would do")
    for row in CONTROLLERS.values():
        if row.workers and getattr(settings, row.workers) < 1:
            raise SettingsError(f"--{row.workers.replace('_', '-')}={getattr(settings, row.workers)} lets nobody work; 5 would do")
    if settings.allocate_node_cidrs and not settings.cluster_cidr:
        examples = ",".join(family.facts.default_pod_cidr for family in FAMILIES)
        raise SettingsError(f"--allocate-node-cidrs needs --cluster-cidr; {examples} would do")
    for flag, seconds, usual in (
        ("node-monitor-grace-period", settings.node_monitor_grace_period_seconds, "40s"),
        ("node-startup-grace-period", settings.node_startup_grace_period_seconds, "1m"),
        ("node-monitor-period", settings.node_monitor_period_seconds, "5s"),
    ):
        if seconds <= 0:
            raise SettingsError(f"--{flag}={seconds:g}s is not positive; {usual} would do")
    for flag, rate in (("node-eviction-rate", settings.node_eviction_rate), ("secondary-node-eviction-rate", settings.secondary_node_eviction_rate)):
        if rate < 0:
            raise SettingsError(f"--{flag}={rate:g} is negative; 0 gives no node up")
    if not 0 < settings.unhealthy_zone_threshold <= 1:
        raise SettingsError(f"--unhealthy-zone-threshold={settings.unhealthy_zone_threshold:g} is no share above 0 and up to 1; 0.55 would do")
    services = _cidrs("service-cluster-ip-range", settings.service_cluster_ip_range)
    if len(services) > 2 or len({Family.of(one) for one in services}) < len(services):
        raise SettingsError(f"--service-cluster-ip-range={settings.service_cluster_ip_range} is not one CIDR, or one of each family")


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Run the controllers until cancelled; *ready* is called once they are at work."""
    controllers = controllers_of(settings)
    if settings.without_effect:
        reason = "certificates.k8s.io is not served, so nobody can ask for a certificate"
        log.warning("No certificate is approved, signed or cleaned away", extra={"flags": settings.without_effect, "because": reason})
    workers = {name: getattr(settings, row.workers) for name, row in CONTROLLERS.items() if row.workers}
    lean = Lean()
    kept: dict[type[kinds.Object], Callable[[Any], Any]] = {kinds.Pod: lean.pod, kinds.EndpointSlice: lean.slice, kinds.Endpoints: lean.endpoints}
    accounts = {name: row.account or name for name, row in CONTROLLERS.items()} if settings.use_service_account_credentials else None
    await run_controllers(COMPONENT, controllers, settings, workers=workers, lean=kept, accounts=accounts, ready=ready)


def _cidrs(flag: str, text: str) -> tuple[Network, ...]:
    try:
        return parse_cidrs(text)
    except AddressError as error:
        hint = f"; {error.suggestion} would do" if error.suggestion else ""
        raise SettingsError(f"--{flag}={text}: {error}{hint}") from error
