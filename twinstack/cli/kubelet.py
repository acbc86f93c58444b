"""``twinstack kubelet``: run the pods of a node, with upstream's flags and configuration file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from twinstack.cli.program import logging_options, run_program
from twinstack.loops.durations import parse_duration
from twinstack.net.family import FAMILIES, Family

F = TypeVar("F", bound=Callable[..., Any])


# A flag that is not given is None and leaves the word to the configuration file, then to the default.
@click.command("kubelet")
@click.option("--config", "config_file", default="", help="A KubeletConfiguration file; flags that are given win over it.")
@click.option("--kubeconfig", default=None, help="How to reach the API server.  [default: KUBECONFIG, else ~/.kube/config, else the pod's account]")
@click.option("--routes-kubeconfig", default=None, help="How to look at all nodes, for routes to their pods.  [default: as --kubeconfig says]")
@click.option(
    "--node-ip",
    default=None,
    help="The node's address, or one of each family, the primary first; 0.0.0.0 or :: finds one of that family.  [default: by its name, or the default route]",
)
@click.option("--hostname-override", default=None, help="The name of this node.  [default: the host's name]")
@click.option("--root-dir", default=None, help="Where pods' files are kept.  [default: /var/lib/kubelet]")
@click.option("--netns-dir", default=None, help="Where pods' network namespaces are bound.  [default: /run/netns]")
@click.option("--image-dir", default=None, help="Where images are that were loaded.  [default: /var/lib/twinstack/images]")
@click.option("--cni-conf-dir", default=None, help="Where the network configuration is.  [default: /etc/cni/net.d]")
@click.option("--cni-bin-dir", default=None, help="Where network plugins are; several are separated by commas.  [default: /opt/cni/bin]")
@click.option("--write-cni-config", is_flag=True, default=None, help="Write a network configuration for twinstack-cni from the node's pod CIDRs.")
@click.option("--network", type=click.Choice(["direct", "vxlan"]), default=None, help="How pods of other nodes are reached.  [default: direct]")
@click.option(
    "--vxlan-underlay",
    type=click.Choice([str(family) for family in FAMILIES]),
    default=None,
    help="The family that carries the tunnel.  [default: the node's first]",
)
@click.option("--cluster-dns", default=None, help="Name servers of pods that ask for the cluster's; several are separated by commas.")
@click.option("--cluster-domain", default=None, help="The cluster's domain.  [default: cluster.local]")
@click.option("--resolv-conf", default=None, help="The node's resolver configuration; empty for none.  [default: /etc/resolv.conf]")
@click.option("--address", default=None, help="Listen here; 0.0.0.0 and :: mean both families, where the kernel has both.  [default: 0.0.0.0]")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Listen on this port.  [default: 10250]")
@click.option("--healthz-bind-address", "healthz_address", default=None, help="Serve /healthz here.  [default: 127.0.0.1]")
@click.option("--healthz-port", type=click.IntRange(0, 65535), default=None, help="Serve /healthz on this port; 0 for nowhere.  [default: 10248]")
@click.option("--client-ca-file", default=None, help="The authority of client certificates; without it nobody may read logs.")
@click.option("--cert-dir", default=None, help="Where the certificate that signs itself is kept.  [default: pki below the root directory]")
@click.option("--tls-cert-file", default=None, help="The certificate to serve with.  [default: one that signs itself]")
@click.option("--tls-private-key-file", "tls_key_file", default=None, help="Its key.")
@click.option("--node-labels", default=None, help="Labels of the node: key=value,…")
@click.option("--register-with-taints", default=None, help="Taints of the node when it is registered: key=value:effect,…")
@click.option("--register-node", type=bool, is_flag=False, flag_value=True, default=None, help="Register the node.  [default: true]")
@click.option("--max-pods", type=click.IntRange(0), default=None, help="How many pods this node runs at most, for the scheduler.  [default: 110]")
@click.option("--node-status-update-frequency", default=None, help="How often the node's status is looked at.  [default: 10s]")
@click.option("--sync-frequency", default=None, help="How often what the API fills volumes with is looked at.  [default: 1m]")
@click.option("--cgroup-root", default=None, help="The control group that pods' groups are made in.  [default: one named for the root directory]")
@click.option("--pod-max-pids", type=int, default=None, help="How many processes a pod may have; -1 for any number.  [default: -1]")
@click.option("--eviction-hard", default=None, help="What must be left: signal<amount,…  [default: upstream's]")
@click.option("--kube-reserved", default=None, help="What pods may not have: cpu=…,memory=…")
@click.option("--system-reserved", default=None, help="What pods may not have besides: cpu=…,memory=…")
@click.option("--cloud-provider", type=click.Choice(["", "external"]), default=None, help="external: a cloud controller manager tells the node's addresses.")
@click.option("--provider-id", default=None, help="What the cloud calls this node.")
@click.option("--pod-manifest-path", default=None, help="A file or directory of manifests of pods that need no API server.")
@click.option("--file-check-frequency", default=None, help="How often it is looked at.  [default: 20s]")
@click.option(
    "--anonymous-auth", "anonymous", type=bool, is_flag=False, flag_value=True, default=None, help="Hear those who do not say who they are.  [default: false]"
)
@click.option(
    "--authentication-token-webhook",
    "token_webhook",
    type=bool,
    is_flag=False,
    flag_value=True,
    default=None,
    help="Ask the API server whose a bearer token is.  [default: true with --config]",
)
@click.option(
    "--authorization-mode",
    "authorization",
    type=click.Choice(["AlwaysAllow", "Webhook"]),
    default=None,
    help="Webhook: ask the API server who may what.  [default: Webhook with --config; else its own client and administrators]",
)
@click.option("--tls-min-version", default=None, help="The oldest TLS to speak: VersionTLS12 or VersionTLS13.  [default: VersionTLS12]")
@click.option("--container-log-max-size", "log_size", default=None, help="How large a container's log file grows.  [default: 10Mi]")
@click.option("--container-log-max-files", "log_files", type=int, default=None, help="How many files of a container's log are kept.  [default: 5]")
@click.option("--allowed-unsafe-sysctls", "unsafe_sysctls", default=None, help="Kernel parameters that pods may set besides the safe ones: net.…,net.….*")
@click.option("--eviction-soft", default=None, help="What ought to be left: signal<amount,…")
@click.option("--eviction-soft-grace-period", "eviction_soft_graces", default=None, help="How long it may not be: signal=duration,…")
@click.option("--eviction-max-pod-grace-period", "eviction_grace_seconds", type=int, default=None, help="How long a pod may take to end then.  [default: 0]")
@click.option("--eviction-pressure-transition-period", "pressure_seconds", default=None, help="How long a pressure is told after its end.  [default: 5m]")
@click.option("--seccomp-default", type=bool, is_flag=False, flag_value=True, default=None, help="RuntimeDefault for containers that name no seccomp profile.")
@click.option("--fail-swap-on", "refuses_swap", type=bool, is_flag=False, flag_value=True, default=None, help="Do not start where there is swap.")
@click.option("--pod-cidr", default=None, help="Ignored, with a warning: pod CIDRs come from the Node object.")
@click.option("--bootstrap-kubeconfig", default=None, help="Ignored, with a warning: --kubeconfig names a certificate.")
@click.option("--container-runtime-endpoint", default=None, help="Ignored, with a warning: there is no runtime of its own.")
@click.option("--cgroup-driver", default=None, help="Ignored, with a warning: control groups are made directly.")
@click.option("--feature-gates", default=None, help="Ignored, with a warning: there are no gates.")
@click.option("--rotate-certificates", default=None, is_flag=False, flag_value="true", help="Ignored, with a warning: somebody else renews certificates.")
@click.option("--read-only-port", default=None, help="Ignored, with a warning: there is no such port.")
@click.option("--pod-infra-container-image", default=None, help="Ignored, with a warning: there is no such container.")
@logging_options
def command(config_file: str, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Register this host as a node and run its pods as host processes, each with an address of each family.

    \b
    Examples:
      twinstack kubelet --kubeconfig /etc/kubernetes/kubelet.conf --node-ip 192.0.2.10,2001:db8::10 --write-cni-config
      twinstack kubelet --kubeconfig /etc/kubernetes/kubelet.conf --config /var/lib/kubelet/config.yaml
    """
    from twinstack.agent import configuration
    from twinstack.agent.agent import run
    from twinstack.agent.settings import Settings, checked
    from twinstack.kernel import heap

    values: dict[str, Any] = {}
    if config_file:
        read = configuration.parse(config_file)
        # a file that does not say so leaves the word to the API server, as upstream has it; flags alone do not
        values = {"token_webhook": True, "authorization": "Webhook", **read.values}
        for warning in read.warnings:
            click.echo(f"warning: {config_file}: {warning}", err=True)
    for name, why in _LEFT_OUT.items():
        if flags.pop(name) is not None:
            click.echo(f"warning: --{name.replace('_', '-')} is ignored: {why}", err=True)
    values |= _from_flags({name: value for name, value in flags.items() if value is not None})
    heap.keep_one()
    run_program(run(checked(Settings(**values))), verbosity=verbosity, logging_format=logging_format)


# flags that kubeadm and others give, and that change nothing here
_LEFT_OUT = {
    "pod_cidr": "pod CIDRs come from the Node object",
    "bootstrap_kubeconfig": "this kubelet asks for no certificate; --kubeconfig names one",
    "container_runtime_endpoint": "containers are started by this kubelet itself, without a runtime of its own",
    "cgroup_driver": "control groups are made directly (cgroupfs)",
    "feature_gates": "there are no gates: what is there is on",
    "rotate_certificates": "the certificate of the kubeconfig is used as it is, and somebody else renews it",
    "read_only_port": "nothing is told to those who do not say who they are",
    "pod_infra_container_image": "there is no such container",
}


_PATHS = {
    "kubeconfig", "routes_kubeconfig", "root_dir", "netns_dir", "image_dir", "cni_conf_dir", "client_ca_file", "tls_cert_file", "tls_key_file", "cert_dir",
}  # fmt: skip


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags name."""
    from twinstack.agent import configuration
    from twinstack.agent.settings import parse_amounts, parse_eviction, parse_labels, parse_node_ips, parse_taints

    values: dict[str, Any] = {}
    for name, value in flags.items():
        match name:
            case "node_ip":
                values["node_ips"], ignored = parse_node_ips(value)
                for text in ignored:
                    click.echo(f"warning: --node-ip: {text!r} is no address and is ignored", err=True)
            case "hostname_override":
                values["node_name"] = value.strip().lower()
            case "cni_bin_dir":
                values["cni_bin_dirs"] = tuple(Path(part) for part in value.split(",") if part)
            case "vxlan_underlay":
                values["vxlan_underlay"] = Family(value)
            case "cluster_dns":
                values["cluster_dns"] = configuration.parse_addresses("--cluster-dns", value.split(","))
            case "resolv_conf":
                values["resolv_conf"] = Path(value) if value else None
            case "node_labels":
                values["labels"] = parse_labels(value)
            case "register_with_taints":
                values["taints"] = parse_taints(value)
            case "node_status_update_frequency":
                values["status_seconds"] = parse_duration(value)
            case "sync_frequency":
                values["sync_seconds"] = parse_duration(value)
            case "file_check_frequency":
                values["file_check_seconds"] = parse_duration(value)
            case "pressure_seconds":
                values[name] = parse_duration(value)
            case "log_size":
                values[name] = configuration.parse_size(value)
            case "eviction_soft_graces":
                values[name] = tuple((signal, parse_duration(text)) for signal, _, text in (part.partition("=") for part in value.split(",") if part))
            case "unsafe_sysctls":
                values[name] = tuple(part.strip() for part in value.split(",") if part.strip())
            case "eviction_soft":
                values[name] = parse_eviction(value)
            case "pod_manifest_path":
                values["static_pods"] = Path(value) if value else None
            case "pod_max_pids":
                values["pod_pids"] = value if value > 0 else None
            case "eviction_hard":
                values["eviction_hard"] = parse_eviction(value)
            case "kube_reserved" | "system_reserved":
                values[name] = parse_amounts(f"--{name.replace('_', '-')}", value)
            case _ if name in _PATHS:
                values[name] = Path(value)
            case _:
                values[name] = value
    return values
