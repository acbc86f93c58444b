"""What the node agent is told: one field for each flag, and the strict reading of ``--node-ip``.

Facts: spec of kubelet 1.36, ``--node-ip``: one address of either family, ``0.0.0.0`` or ``::`` (find one yourself,
this family first), or one of each family, the first of which is the node's primary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from twinstack.agent import pressure
from twinstack.net.cidr import parse_address_sloppily
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import Address, Family
from twinstack.rules.quantities import QuantityError, parse_quantity

EXTERNAL = "external"  # of --cloud-provider
AUTHORIZATION_MODES = ("AlwaysAllow", "Webhook")


class SettingsError(Error):
    """A flag or a field of the configuration file has a value that cannot be."""


class Taint(msgspec.Struct, frozen=True):
    """A taint that the node registers with."""

    key: str
    value: str
    effect: str


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of :func:`twinstack.agent.agent.run`."""

    kubeconfig: Path | None = None
    routes_kubeconfig: Path | None = None  # who looks at all nodes, for the routes to their pods; None: the kubelet itself
    node_name: str = ""  # --hostname-override; empty: the host's name
    node_ips: tuple[Address, ...] = ()
    root_dir: Path = Path("/var/lib/kubelet")
    netns_dir: Path = Path("/run/netns")
    image_dir: Path = Path("/var/lib/twinstack/images")
    cni_conf_dir: Path = Path("/etc/cni/net.d")
    cni_bin_dirs: tuple[Path, ...] = (Path("/opt/cni/bin"),)
    cni_data_dir: Path | None = None  # ipam.dataDir of the configuration that --write-cni-config writes
    write_cni_config: bool = False
    network_name: str = "twinstack"
    network: str = "direct"  # between nodes: direct (routes by the nodes' addresses) or vxlan
    vxlan_underlay: Family | None = None  # None: the family of the node's first address
    cluster_dns: tuple[Address, ...] = ()
    cluster_domain: str = "cluster.local"
    resolv_conf: Path | None = Path("/etc/resolv.conf")  # None: --resolv-conf=
    address: str = "0.0.0.0"
    port: int = 10250
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 10248  # 0: none
    client_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    cert_dir: Path | None = None  # where a certificate of our own is kept; None: pki below the root directory
    tls_min_version: str = "VersionTLS12"
    anonymous: bool = False  # whether those are heard who do not say who they are
    token_webhook: bool = False  # whether the API server is asked whose a bearer token is
    token_seconds: float = 120.0  # how long its answer holds
    authorization: str = ""  # AlwaysAllow, Webhook; empty: the API server's kubelet client and administrators
    allowed_seconds: float = 300.0  # how long the API server's answer holds that somebody may
    denied_seconds: float = 30.0
    debugging_handlers: bool = True  # logs, commands, forwarded ports
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()
    register_node: bool = True
    max_pods: int = 110
    status_seconds: float = 10.0  # how often the node's status is looked at
    report_seconds: float = 300.0  # how often it is written although nothing has changed
    most_images: int = 50  # how many images it tells
    lease_seconds: int = 40
    sync_seconds: float = 60.0  # how often what the API fills a volume with is looked at
    cgroup_root: str = ""  # the name of the control group that pods' groups are made in; empty: one by the root directory
    log_size: int = 10 << 20  # bytes of a container's log file before the next is begun
    log_files: int = 5  # how many of them are kept
    unsafe_sysctls: tuple[str, ...] = ()  # kernel parameters that pods may set besides the safe ones; net.x.* means all below
    pod_pids: int | None = None  # how many processes a pod may have
    eviction_hard: tuple[tuple[str, str], ...] = pressure.DEFAULTS  # what must be left of memory, disk and process numbers
    eviction_look_seconds: float = 10.0  # how often what is left is looked at
    eviction_soft: tuple[tuple[str, str], ...] = ()  # what ought to be left, and how many seconds it may not be
    eviction_soft_graces: tuple[tuple[str, float], ...] = ()
    eviction_grace_seconds: int = 0  # how long a pod may take at most that is evicted for that
    pressure_seconds: float = 300.0  # a pressure is told for so long after it was last seen, lest it come and go
    longest_backoff_seconds: float = 300.0  # before a container is started again
    seccomp_default: bool = False  # whether a container that names no profile has RuntimeDefault
    refuses_swap: bool = False  # whether the kubelet does not start on a machine that swaps
    kube_reserved: tuple[tuple[str, str], ...] = ()  # amounts that pods may not have, by resource
    system_reserved: tuple[tuple[str, str], ...] = ()
    cloud_provider: str = ""  # or external: a cloud controller manager tells the node's addresses
    provider_id: str = ""
    static_pods: Path | None = None  # a file or directory of manifests of pods that need no API server
    file_check_seconds: float = 20.0  # how often it is looked at

    @property
    def control_group(self) -> str:
        """The name of the control group of this node's pods."""
        return self.cgroup_root.strip("/") or f"twinstack-kubelet-{hashlib.sha256(bytes(self.root_dir)).hexdigest()[:8]}"


def checked(settings: Settings) -> Settings:
    """The same settings; SettingsError when two of them do not go together, or the machine swaps and may not."""
    graces = dict(settings.eviction_soft_graces)
    if lacking := [signal for signal, _ in settings.eviction_soft if signal not in graces]:
        raise SettingsError(f"--eviction-soft has {lacking[0]}, and --eviction-soft-grace-period does not say how long it may be")
    if settings.log_files < 2 or settings.log_size <= 0:
        raise SettingsError("--container-log-max-files must be greater than 1, and --container-log-max-size greater than 0")
    if settings.refuses_swap and len(Path("/proc/swaps").read_text().splitlines()) > 1:
        raise SettingsError("this machine swaps, and --fail-swap-on does not allow it: turn swap off, or say --fail-swap-on=false")
    return settings


def parse_node_ips(text: str) -> tuple[tuple[Address, ...], list[str]]:
    """The addresses that ``--node-ip`` names, and the entries that mean none and are ignored.

    SettingsError when there are more than two, two of one family, or a pair with an unspecified address.
    """
    addresses, ignored = [], []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            addresses.append(parse_address_sloppily(part))
        except AddressError:
            ignored.append(part)
    if len(addresses) > 2:
        raise SettingsError(f"--node-ip {text!r} names {len(addresses)} addresses; a node has at most one of each family")
    if len(addresses) == 2:
        if Family.of(addresses[0]) is Family.of(addresses[1]):
            raise SettingsError(f"--node-ip {text!r} names two addresses of {Family.of(addresses[0])}; a pair has one of each family")
        if any(address.is_unspecified for address in addresses):
            raise SettingsError(f"--node-ip {text!r}: a pair needs two real addresses, an unspecified one stands alone")
    return tuple(addresses), ignored


def preferred_family(node_ips: Iterable[Address]) -> Family:
    """The family that an address is looked for in first, and that a pod's addresses begin with."""
    first = next(iter(node_ips), None)
    return Family.IPV4 if first is None else Family.of(first)


def parse_labels(text: str) -> tuple[tuple[str, str], ...]:
    """``a=b,c=d`` of --node-labels."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise SettingsError(f"--node-labels has {part!r}, which is not key=value")
        pairs.append((key, value))
    return tuple(pairs)


def parse_amounts(flag: str, text: str) -> tuple[tuple[str, str], ...]:
    """``cpu=100m,memory=1Gi`` of --kube-reserved and --system-reserved."""
    return check_amounts(flag, {name: value for name, _, value in (part.partition("=") for part in text.split(",") if part)})


def check_amounts(where: str, given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Amounts by resource; SettingsError names one that means nothing."""
    for name, value in given.items():
        try:
            parse_quantity(value)
        except QuantityError as error:
            raise SettingsError(f"{where} has {name}: {error}") from error
    return tuple((name, str(value)) for name, value in given.items())


def parse_eviction(text: str) -> tuple[tuple[str, str], ...]:
    """``memory.available<100Mi,…`` of --eviction-hard."""
    pairs = [part.partition("<") for part in text.split(",") if part]
    if wrong := [signal for signal, less, _ in pairs if not less]:
        raise SettingsError(f"--eviction-hard has {wrong[0]!r}, which is not signal<amount")
    return pressure.parse_thresholds({signal: value for signal, _, value in pairs})


def parse_taints(text: str) -> tuple[Taint, ...]:
    """``key=value:effect,…`` of --register-with-taints."""
    taints = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        named, _, effect = part.rpartition(":")
        key, _, value = named.partition("=")
        if not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            raise SettingsError(f"--register-with-taints has {part!r}, which is not key=value:NoSchedule, :PreferNoSchedule or :NoExecute")
        taints.append(Taint(key, value, effect))
    return tuple(taints)
