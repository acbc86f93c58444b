"""``twinstack kubelet``: run the pods of a node, with upstream's flags and configuration file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from twinstack.cli.program import logging_options, run_program
from twinstack.loops.durations import parse_duration
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import FAMILIES, Family

F = TypeVar("F", bound=Callable[..., Any])


# A flag that is not given is None and leaves the word to the configuration file, then to the default.
@click.command("kubelet")
@click.option("--config", "config_file", default="", help="A KubeletConfiguration file; flags that are given win over it.")
@click.option("--kubeconfig", default=None, help="How to reach the API server.")
@click.option("--routes-kubeconfig", default=None, help="How to look at all nodes, for routes to their pods.  [default: as --kubeconfig says]")
@click.option("--node-ip", default=None, help="The node's address, or one of each family, the primary first; 0.0.0.0 or :: finds one of that family.")
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
@click.option("--address", default=None, help="Listen here; :: means both families.  [default: 0.0.0.0]")
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
@click.option("--pod-cidr", default=None, help="Ignored, with a warning: pod CIDRs come from the Node object.")
@logging_options
def command(config_file: str, verbosity: int, logging_format: str, pod_cidr: str | None, **flags: Any) -> None:
    """Register this host as a node and run its pods as host processes, each with an address of each family."""
    from twinstack.agent.agent import run
    from twinstack.agent.settings import Settings

    values, unknown = _from_file(config_file) if config_file else ({}, [])
    for name in unknown:
        click.echo(f"warning: {config_file}: {name} is not known to this kubelet and is left out", err=True)
    if pod_cidr is not None:
        click.echo("warning: --pod-cidr is ignored: pod CIDRs come from the Node object", err=True)
    values |= _from_flags({name: value for name, value in flags.items() if value is not None})
    run_program(run(Settings(**values)), verbosity=verbosity, logging_format=logging_format)


_PATHS = {
    "kubeconfig", "routes_kubeconfig", "root_dir", "netns_dir", "image_dir", "cni_conf_dir", "client_ca_file", "tls_cert_file", "tls_key_file", "cert_dir",
}  # fmt: skip


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags name."""
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
                values["cluster_dns"] = _addresses("--cluster-dns", value.split(","))
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


def _addresses(where: str, texts: list[str]) -> tuple[Any, ...]:
    from twinstack.agent.settings import SettingsError

    try:
        return tuple(parse_address(text.strip()) for text in texts if text.strip())
    except AddressError as error:
        raise SettingsError(f"{where}: {error}") from error


def _thresholds(given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    from twinstack.agent.pressure import parse_thresholds

    return parse_thresholds({str(signal): str(value) for signal, value in given.items()})


def _amounts(where: str, given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    from twinstack.agent.settings import check_amounts

    return check_amounts(where, {str(name): str(value) for name, value in given.items()})


# field of KubeletConfiguration → setting and what makes it of the field's value
_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "address": ("address", str),
    "port": ("port", int),
    "healthzBindAddress": ("healthz_address", str),
    "healthzPort": ("healthz_port", int),
    "clusterDNS": ("cluster_dns", lambda value: _addresses("clusterDNS", list(value))),
    "clusterDomain": ("cluster_domain", str),
    "resolvConf": ("resolv_conf", lambda value: Path(value) if value else None),
    "maxPods": ("max_pods", int),
    "nodeStatusUpdateFrequency": ("status_seconds", parse_duration),
    "nodeLeaseDurationSeconds": ("lease_seconds", int),
    "tlsCertFile": ("tls_cert_file", Path),
    "tlsPrivateKeyFile": ("tls_key_file", Path),
    "registerNode": ("register_node", bool),
    "syncFrequency": ("sync_seconds", parse_duration),
    "fileCheckFrequency": ("file_check_seconds", parse_duration),
    "staticPodPath": ("static_pods", lambda value: Path(value) if value else None),
    "cgroupRoot": ("cgroup_root", str),
    "podPidsLimit": ("pod_pids", lambda value: int(value) if int(value) > 0 else None),
    "providerID": ("provider_id", str),
    "evictionHard": ("eviction_hard", lambda value: _thresholds(value or {})),
    "kubeReserved": ("kube_reserved", lambda value: _amounts("kubeReserved", value or {})),
    "systemReserved": ("system_reserved", lambda value: _amounts("systemReserved", value or {})),
}
_IGNORED = {"apiVersion", "kind"}


def _from_file(path: str) -> tuple[dict[str, Any], list[str]]:
    """The settings that a KubeletConfiguration names, and the fields that it has and we have not."""
    import yaml

    from twinstack.agent.settings import SettingsError, Taint

    try:
        document = yaml.safe_load(Path(path).read_bytes()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"--config: {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or document.get("kind", "KubeletConfiguration") != "KubeletConfiguration":
        raise SettingsError(f"--config: {path} is not a KubeletConfiguration")
    values: dict[str, Any] = {}
    unknown = []
    try:
        for field, value in document.items():
            if field in _FIELDS:
                name, make = _FIELDS[field]
                values[name] = make(value)
            elif field == "registerWithTaints":
                values["taints"] = tuple(Taint(one["key"], one.get("value", ""), one["effect"]) for one in value)
            elif field == "authentication":
                file = ((value or {}).get("x509") or {}).get("clientCAFile")
                values |= {"client_ca_file": Path(file)} if file else {}
            elif field not in _IGNORED:
                unknown.append(field)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, Error):
            raise
        raise SettingsError(f"--config: {path}: {field} has a value that cannot be: {value!r}") from error
    return values, unknown
