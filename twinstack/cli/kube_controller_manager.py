"""``twinstack kube-controller-manager``: run the controllers, with upstream's flags."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.controller_flags import check_door, common_options, settle, signing_flags, unlooked_options
from twinstack.cli.kube_apiserver import Duration
from twinstack.cli.program import logging_options, run_program
from twinstack.net.family import FAMILIES


@click.command("kube-controller-manager")
@common_options("kube-controller-manager", 10257)
@click.option(
    "--controllers",
    default="*",
    show_default=True,
    help="A comma-separated list: '*' all but bootstrapsigner and tokencleaner, 'name' this one, '-name' not this one.",
)
@click.option("--allocate-node-cidrs", type=bool, default=False, is_flag=False, flag_value=True, show_default=True, help="Give nodes blocks.")
@click.option(
    "--use-service-account-credentials",
    type=bool,
    default=False,
    is_flag=False,
    flag_value=True,
    show_default=True,
    help="Write as a ServiceAccount of its own for each controller, whose role holds what that controller needs.",
)
@click.option("--cluster-cidr", default="", help="A CIDR for pods, or one of each family, the primary first.")
@click.option("--service-cluster-ip-range", default="", help="The Services' CIDRs, which nodes' blocks must not touch.")
@click.option("--node-cidr-mask-size", type=int, default=0, help="Prefix length of a node's block, when there is one cluster CIDR.")
@click.option("--node-cidr-mask-size-ipv4", type=int, default=0, help=f"The same, of this family.  [default: {FAMILIES[0].facts.node_mask_size}]")
@click.option("--node-cidr-mask-size-ipv6", type=int, default=0, help=f"The same, of this family.  [default: {FAMILIES[1].facts.node_mask_size}]")
@click.option("--max-endpoints-per-slice", type=int, default=100, show_default=True, help="The most endpoints of an EndpointSlice, 1 to 1000.")
@click.option(
    "--mirroring-max-endpoints-per-subset",
    type=int,
    default=1000,
    show_default=True,
    help="The most addresses of a hand-written Endpoints' subset that are mirrored into slices, 1 to 1000.",
)
@click.option(
    "--node-monitor-grace-period", "node_monitor_grace_period_seconds", type=Duration(), default="40s", show_default=True, help="How long nodes may be silent."
)
@click.option(
    "--node-startup-grace-period",
    "node_startup_grace_period_seconds",
    type=Duration(),
    default="1m",
    show_default=True,
    help="How long nodes may be silent before they first speak.",
)
@click.option(
    "--node-monitor-period",
    "node_monitor_period_seconds",
    type=Duration(),
    default="5s",
    show_default=True,
    help="How often is looked again at nodes that wait.",
)
@click.option("--node-eviction-rate", type=float, default=0.1, show_default=True, help="How many silent nodes of a zone are given up a second.")
@click.option("--secondary-node-eviction-rate", type=float, default=0.01, show_default=True, help="The same while much of a large zone is silent.")
@click.option("--unhealthy-zone-threshold", type=float, default=0.55, show_default=True, help="The share of a zone's nodes that is much of it.")
@click.option("--large-cluster-size-threshold", type=int, default=50, show_default=True, help="The number of nodes above which a zone is large.")
@click.option("--terminated-pod-gc-threshold", type=int, default=12500, show_default=True, help="How many pods that have ended are kept; 0: all.")
@click.option("--root-ca-file", default="", help="A certificate (PEM) that every namespace gets as ConfigMap kube-root-ca.crt.")
@click.option("--concurrent-service-endpoint-syncs", type=int, default=5, show_default=True, help="So many Services are decided on at once.")
@click.option("--concurrent-endpoint-syncs", type=int, default=5, show_default=True, help="So many Services' Endpoints are decided on at once.")
@click.option(
    "--mirroring-concurrent-service-endpoint-syncs",
    type=int,
    default=5,
    show_default=True,
    help="So many Services with hand-written Endpoints are decided on at once.",
)
@click.option("--concurrent-deployment-syncs", type=int, default=5, show_default=True, help="So many Deployments are decided on at once.")
@click.option("--concurrent-replicaset-syncs", type=int, default=5, show_default=True, help="So many ReplicaSets are decided on at once.")
@click.option("--concurrent-rc-syncs", type=int, default=5, show_default=True, help="So many ReplicationControllers are decided on at once.")
@click.option("--concurrent-daemonset-syncs", type=int, default=2, show_default=True, help="So many DaemonSets are decided on at once.")
@click.option("--concurrent-ttl-after-finished-syncs", type=int, default=5, show_default=True, help="So many ended Jobs are decided on at once.")
@click.option("--concurrent-statefulset-syncs", type=int, default=5, show_default=True, help="So many StatefulSets are decided on at once.")
@click.option("--concurrent-job-syncs", type=int, default=5, show_default=True, help="So many Jobs are decided on at once.")
@click.option("--concurrent-cron-job-syncs", type=int, default=5, show_default=True, help="So many CronJobs are decided on at once.")
@click.option("--concurrent-namespace-syncs", type=int, default=10, show_default=True, help="So many Namespaces are decided on at once.")
@click.option("--concurrent-gc-syncs", type=int, default=20, show_default=True, help="So many owned objects are decided on at once.")
@click.option("--concurrent-serviceaccount-syncs", type=int, default=5, show_default=True, help="So many Namespaces' ServiceAccounts are decided on at once.")
@unlooked_options(manager=True)
@logging_options
def command(controllers: str, node_cidr_mask_size_ipv4: int, node_cidr_mask_size_ipv6: int, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Run the controllers: node blocks, EndpointSlices, workloads, namespaces, garbage.

    \b
    Examples:
      twinstack kube-controller-manager --allocate-node-cidrs --cluster-cidr 10.244.0.0/16,fd00:10:244::/56
      twinstack kube-controller-manager --controllers '*,-cronjob-controller'
    """
    flags["self_signed"] = check_door(flags["bind_address"])
    # Heavy: the HTTP library.
    from twinstack.client.controllers import check as check_common
    from twinstack.client.kube_controller_manager import Settings, controllers_of, run

    settings = Settings(
        controllers=tuple(word.strip() for word in controllers.split(",") if word.strip()),
        without_effect=signing_flags(),
        node_cidr_mask_sizes=(node_cidr_mask_size_ipv4, node_cidr_mask_size_ipv6),
        **flags,
    )
    check_common(settings)
    controllers_of(settings)  # what will not do is told before anything starts
    run_program(run(settings, ready=settle), verbosity=verbosity, logging_format=logging_format)
