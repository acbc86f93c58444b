"""What kube-proxy is told: upstream's flags as values. The same from a file reads ``configuration``.

Rule of this file: it checks and translates. A setting that we do not have is refused by name, never ignored
silently; a bad value is one line with the field, the value and what would do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from twinstack.dataplane.text import interval_text
from twinstack.net.cidr import collapsed, host_port, parse_address, parse_cidr, parse_cidrs
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import Family, Network
from twinstack.proxy.ruleset import Options

LOCAL_MODES = ("ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix")
PRIMARY = "primary"
NFTABLES, KERNELSPACE = "nftables", "kernelspace"
_TIMEOUTS = ("tcp_timeout_established", "tcp_timeout_close_wait", "udp_timeout", "udp_timeout_stream")
HEALTHZ_PORT, METRICS_PORT = 10256, 10249
CONTENT_TYPES = ("application/json", "application/vnd.kubernetes.protobuf")
HIDDEN_METRICS_OF = "1.35"  # upstream lets the release before show what this one hides


class SettingsError(Error, ValueError):
    """A flag or a field of the configuration file has a value that cannot be."""


# What a proxy that is a program of its own sets of its node unless it is told otherwise. One that lives with others in
# a process, or in a network namespace, leaves that alone; so these are not the defaults of :class:`Settings`.
OF_THE_NODE: Mapping[str, Any] = {
    "conntrack_max_per_core": 32768,
    "conntrack_min": 131072,
    "conntrack_tcp_timeout_established_seconds": 86400.0,
    "conntrack_tcp_timeout_close_wait_seconds": 3600.0,
    "oom_score_adj": -999,
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per flag; see :func:`problems_with` for what is checked."""

    kubeconfig: str = ""
    hostname_override: str = ""
    bind_address: str = "0.0.0.0"
    bind_address_hard_fail: bool = False
    healthz_bind_address: str | None = None  # None: the default; empty: none
    metrics_bind_address: str | None = None
    proxy_mode: str = "nftables"
    cluster_cidr: str = ""
    detect_local_mode: str = "ClusterCIDR"
    pod_bridge_interface: str = ""
    pod_interface_name_prefix: str = ""
    nodeport_addresses: tuple[str, ...] = (PRIMARY,)
    masquerade_all: bool = False
    masquerade_bit: int = 14
    min_sync_period_seconds: float = 1.0
    sync_period_seconds: float = 30.0
    conntrack_max_per_core: int = 0  # zeros leave the kernel's values alone
    conntrack_min: int = 0
    conntrack_tcp_timeout_established_seconds: float = 0
    conntrack_tcp_timeout_close_wait_seconds: float = 0
    conntrack_udp_timeout_seconds: float = 0
    conntrack_udp_timeout_stream_seconds: float = 0
    conntrack_tcp_be_liberal: bool = False
    oom_score_adj: int | None = None  # None leaves it alone
    network_name: str = ""
    source_vip: str = ""
    enable_dsr: bool = False
    root_hnsendpoint_name: str = "cbr0"
    forward_healthcheck_vip: bool = False
    windows_service: bool = False
    master: str = ""  # the API server's address, in place of the kubeconfig's
    kube_api_qps: float = 5.0
    kube_api_burst: int = 10
    kube_api_content_type: str = CONTENT_TYPES[1]  # what upstream asks for; JSON is spoken all the same
    config_sync_period_seconds: float = 900.0  # upstream's informers tell everything again so often; ours miss nothing
    profiling: bool = False
    show_hidden_metrics_for_version: str = ""
    logging_format: str = "text"
    verbosity: int = 0
    dry_run: bool = False


def checked(settings: Settings) -> Settings:
    """The settings; SettingsError with all that is wrong with them."""
    if problems := list(problems_with(settings)):
        raise SettingsError("; ".join(problems))
    return settings


def problems_with(settings: Settings) -> list[str]:
    """Everything wrong with the settings, a sentence each."""
    problems = []
    if settings.proxy_mode not in ("", NFTABLES, KERNELSPACE):
        problems.append(f"--proxy-mode {settings.proxy_mode!r} is not supported: {NFTABLES} is, and {KERNELSPACE} for Windows nodes")
    if settings.detect_local_mode not in LOCAL_MODES:
        problems.append(f"--detect-local-mode {settings.detect_local_mode!r} is none of {', '.join(LOCAL_MODES)}")
    if settings.detect_local_mode == "BridgeInterface" and not settings.pod_bridge_interface:
        problems.append("--detect-local-mode=BridgeInterface needs --pod-bridge-interface")
    if settings.detect_local_mode == "InterfaceNamePrefix" and not settings.pod_interface_name_prefix:
        problems.append("--detect-local-mode=InterfaceNamePrefix needs --pod-interface-name-prefix")
    for flag, name in (("--pod-bridge-interface", settings.pod_bridge_interface), ("--pod-interface-name-prefix", settings.pod_interface_name_prefix)):
        if len(name) > 15 or any(letter.isspace() or letter in '/"*' for letter in name):
            problems.append(f"{flag} {name!r} is not an interface name of at most 15 letters")
    if not 0 <= settings.masquerade_bit <= 31:
        problems.append(f"--iptables-masquerade-bit {settings.masquerade_bit} is not within 0 and 31")
    if settings.sync_period_seconds <= 0:
        problems.append("--sync-period must be greater than zero")
    if not 0 <= settings.min_sync_period_seconds <= settings.sync_period_seconds:
        problems.append("--min-sync-period must be between zero and --sync-period")
    problems += [
        f"--conntrack-{field.removesuffix('_seconds').replace('_', '-')} must not be negative"
        for field in ("max_per_core", "min", *(f"{name}_seconds" for name in _TIMEOUTS))
        if getattr(settings, f"conntrack_{field}") < 0
    ]
    if settings.config_sync_period_seconds <= 0:
        problems.append("--config-sync-period must be greater than zero")
    if settings.kube_api_burst < 0:
        problems.append(f"--kube-api-burst {settings.kube_api_burst} is below zero")
    if settings.kube_api_content_type not in CONTENT_TYPES:
        problems.append(f"--kube-api-content-type {settings.kube_api_content_type!r} is none of {', '.join(CONTENT_TYPES)}")
    if settings.show_hidden_metrics_for_version not in ("", HIDDEN_METRICS_OF):
        problems.append(f"--show-hidden-metrics-for-version {settings.show_hidden_metrics_for_version!r} can only be {HIDDEN_METRICS_OF}")
    if settings.logging_format not in ("text", "json"):
        problems.append(f"logging.format {settings.logging_format!r} is neither text nor json")
    if settings.windows_service:
        problems.append("--windows-service is not supported: run this program under a service wrapper")
    if settings.oom_score_adj is not None and not -1000 <= settings.oom_score_adj <= 1000:
        problems.append(f"--oom-score-adj {settings.oom_score_adj} is not within -1000 and 1000")
    for text in filter(None, settings.source_vip.split(",")):
        try:
            parse_address(text)
        except AddressError as error:
            problems.append(f"--source-vip: {error}")
    try:
        parse_address(settings.bind_address)
    except AddressError as error:
        problems.append(f"--bind-address: {error}")
    try:
        cidrs = parse_cidrs(settings.cluster_cidr, masked=True)
        if len(cidrs) > 2 or len({Family.of(cidr) for cidr in cidrs}) != len(cidrs):
            problems.append(f"--cluster-cidr {settings.cluster_cidr!r} must be one CIDR, or one of each family")
    except AddressError as error:
        problems.append(f"--cluster-cidr: {error}")
    if PRIMARY in settings.nodeport_addresses and len(settings.nodeport_addresses) > 1:
        problems.append("--nodeport-addresses: 'primary' stands alone, or CIDRs do")
    for text in settings.nodeport_addresses:
        if text != PRIMARY:
            try:
                parse_cidr(text, masked=True)
            except AddressError as error:
                problems.append(f"--nodeport-addresses: {error}")
    for flag, value, port in (
        ("--healthz-bind-address", settings.healthz_bind_address, HEALTHZ_PORT),
        ("--metrics-bind-address", settings.metrics_bind_address, METRICS_PORT),
    ):
        if value:
            try:
                parse_bind_address(value, port)
            except ValueError as error:
                problems.append(f"{flag}: {error}")
    return problems


def doubts_about(settings: Settings, *, primary: Family, families: Collection[Family]) -> list[str]:
    """What is allowed and mostly a mistake, on a node of this primary family whose kernel has these; a sentence each."""
    doubts = []
    cidrs = {Family.of(cidr) for cidr in parse_cidrs(settings.cluster_cidr, masked=True)}
    named = {Family.of(parse_cidr(text, masked=True)) for text in settings.nodeport_addresses if text != PRIMARY}
    if cidrs == {primary.other}:
        doubts.append(f"--cluster-cidr is {primary.other} only, and this node is {primary} first: traffic from outside to its cluster IPs is not masqueraded")
    if named == {primary.other}:
        doubts.append(f"--nodeport-addresses is {primary.other} only, and this node is {primary} first: its node ports answer on all addresses")
    elif named == {primary} and len(cidrs) == 2 and primary.other in families:
        doubts.append(f"--nodeport-addresses is {primary} only, and the cluster is of both families: {primary.other} node ports answer on all addresses")
    return doubts


def options_for(settings: Settings, family: Family, node_cidrs: tuple[Network, ...] = ()) -> Options:
    """The family's options. *node_cidrs* are the node's pod CIDRs, for NodeCIDR mode."""
    networks = [parse_cidr(text, masked=True) for text in settings.nodeport_addresses if text != PRIMARY]
    own = [network for network in networks if Family.of(network) is family]
    # Upstream's way: a list that names only the other family leaves this one open on all addresses.
    everything = [parse_cidr(family.facts.everything)]
    primary = PRIMARY in settings.nodeport_addresses
    return Options(
        pods=_pods(settings, family, node_cidrs),
        masquerade_all=settings.masquerade_all,
        mark=1 << settings.masquerade_bit,
        drop_invalid=not settings.conntrack_tcp_be_liberal,
        node_ports=None if primary else tuple(interval_text(network) for network in collapsed(own or everything)),
    )


def _pods(settings: Settings, family: Family, node_cidrs: tuple[Network, ...]) -> tuple[str, str] | None:
    """What recognises a local pod's traffic, by --detect-local-mode; None where nothing does."""
    if settings.detect_local_mode == "BridgeInterface":
        return ("iifname", f'"{settings.pod_bridge_interface}"')
    if settings.detect_local_mode == "InterfaceNamePrefix":
        return ("iifname", f'"{settings.pod_interface_name_prefix}*"')
    cidrs = parse_cidrs(settings.cluster_cidr, masked=True) if settings.detect_local_mode == "ClusterCIDR" else node_cidrs
    return next((("saddr", interval_text(cidr)) for cidr in cidrs if Family.of(cidr) is family), None)


def bind_family(settings: Settings) -> Family:
    """The family whose addresses the servers listen on by default."""
    return Family.of(parse_address(settings.bind_address))


def listen_addresses(settings: Settings) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
    """Where to serve health and metrics: (host, port) each, None for not at all."""
    facts = bind_family(settings).facts
    healthz = settings.healthz_bind_address if settings.healthz_bind_address is not None else facts.unspecified
    metrics = settings.metrics_bind_address if settings.metrics_bind_address is not None else facts.loopback
    return (
        parse_bind_address(healthz, HEALTHZ_PORT) if healthz else None,
        parse_bind_address(metrics, METRICS_PORT) if metrics else None,
    )


def parse_bind_address(text: str, default_port: int) -> tuple[str, int]:
    """``host:port``, ``[host]:port`` or a bare address, to which the default port is added; ValueError otherwise."""
    try:
        return str(parse_address(text)), default_port
    except AddressError:
        host, colon, port = text.rpartition(":")
    try:
        number = int(port)
        address = parse_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise SettingsError(
            f"{text!r} is not an address with a port such as {host_port('127.0.0.1', default_port)} or {host_port('::1', default_port)}"
        ) from None
    if not colon or not 0 <= number <= 65535 or host_port(address, number) != text:
        raise SettingsError(f"{text!r} is not an address with a port such as {host_port(address, default_port)}")
    return str(address), number
