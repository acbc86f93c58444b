"""``twinstack kube-proxy``: serve Services on a node, with upstream's flags and configuration file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from twinstack.cli.program import logging_options, run_program
from twinstack.loops.durations import parse_duration
from twinstack.net.errors import Error

F = TypeVar("F", bound=Callable[..., Any])


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except Error as error:
        raise click.BadParameter(str(error), context, parameter) from error


def _flag(name: str, text: str) -> Callable[[F], F]:
    """A boolean as upstream takes it: ``--flag`` or ``--flag=false``."""
    return click.option(name, type=bool, is_flag=False, flag_value=True, default=None, help=text)


def _timeout(name: str, text: str) -> Callable[[F], F]:
    return click.option(name, f"{name.removeprefix('--').replace('-', '_')}_seconds", callback=_seconds, default=None, help=text)


# A flag that is not given is None and leaves the word to the configuration file, then to the default.
@click.command("kube-proxy")
@click.option("--config", "config_file", default="", help="A KubeProxyConfiguration file; flags that are given win over it.")
@click.option("--kubeconfig", default=None, help="How to reach the API server.")
@click.option("--hostname-override", default=None, help="The name of this node.  [default: the host's name]")
@click.option("--bind-address", default=None, help="Take this as the node's address of its family.  [default: 0.0.0.0, none]")
@_flag("--bind-address-hard-fail", "End when the health or metrics address is taken.")
@click.option("--healthz-bind-address", default=None, help="Serve /healthz and /livez here; empty for nowhere.  [default: 0.0.0.0:10256]")
@click.option("--metrics-bind-address", default=None, help="Serve /metrics, /proxyMode, /configz and /tables here.  [default: 127.0.0.1:10249]")
@click.option("--proxy-mode", default=None, help="nftables; or kernelspace, for Windows nodes.  [default: nftables]")
@click.option("--cluster-cidr", default=None, help="The pods' CIDR, or one of each family: traffic from elsewhere to cluster IPs is masqueraded.")
@click.option("--detect-local-mode", default=None, help="ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.  [default: ClusterCIDR]")
@click.option("--pod-bridge-interface", default=None, help="The pods' bridge, for BridgeInterface.")
@click.option("--pod-interface-name-prefix", default=None, help="How the pods' interfaces begin, for InterfaceNamePrefix.")
@click.option("--nodeport-addresses", default=None, help="CIDRs of the node's addresses that serve node ports, or 'primary'.  [default: primary]")
@_flag("--masquerade-all", "Masquerade all traffic to cluster IPs.")
@click.option("--iptables-masquerade-bit", "masquerade_bit", type=int, default=None, help="The bit of the packet mark that is ours.  [default: 14]")
@click.option("--min-sync-period", "min_sync_period_seconds", callback=_seconds, default=None, help="The least time between two changes.  [default: 1s]")
@click.option("--sync-period", "sync_period_seconds", callback=_seconds, default=None, help="The longest wait for a new try.  [default: 30s]")
@click.option("--conntrack-max-per-core", type=int, default=None, help="Track so many connections for each processor; 0 leaves it alone.  [default: 32768]")
@click.option("--conntrack-min", type=int, default=None, help="Track at least so many.  [default: 131072]")
@_timeout("--conntrack-tcp-timeout-established", "Idle TCP connections are tracked so long; 0 leaves it alone.  [default: 24h]")
@_timeout("--conntrack-tcp-timeout-close-wait", "The same in CLOSE_WAIT.  [default: 1h]")
@_timeout("--conntrack-udp-timeout", "Unanswered UDP flows are tracked so long.  [default: 0s, the kernel's]")
@_timeout("--conntrack-udp-timeout-stream", "Answered UDP flows are.  [default: 0s, the kernel's]")
@_flag("--conntrack-tcp-be-liberal", "Do not call TCP packets out of the window invalid, and forward what is invalid.")
@click.option("--oom-score-adj", type=int, default=None, help="How soon the kernel may end this process, -1000 to 1000.  [default: -999]")
@click.option("--network-name", default=None, help="Windows: the HNS network of the pods.")
@click.option("--source-vip", default=None, help="Windows: the source address of overlay traffic to Services, one of each family at most.")
@_flag("--enable-dsr", "Windows: answers go straight to the client.")
@click.option("--root-hnsendpoint-name", default=None, help="Windows: the node's own HNS endpoint.  [default: cbr0]")
@_flag("--forward-healthcheck-vip", "Windows: load balancers' health checks reach their addresses.")
@click.option("--init-only", is_flag=True, help="Set what needs a privileged process (connection tracking), and end.")
@click.option("--cleanup", is_flag=True, help="Remove our tables, and end.")
@click.option("--dry-run", is_flag=True, default=None, help="Print the tables (or the policies) that would be written, and end.")
@logging_options
def command(config_file: str, cleanup: bool, init_only: bool, nodeport_addresses: str | None, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Serve Services of both families on this node, by nftables with a constant number of rules."""
    from twinstack.proxy import limits, proxy, winkernel
    from twinstack.proxy.settings import KERNELSPACE, OF_THE_NODE, Settings, checked

    if cleanup:
        proxy.cleanup()
        return
    values, unknown = _from_file(config_file) if config_file else ({}, [])
    for path in unknown:
        click.echo(f"warning: {config_file}: {path} is not known to this proxy and is left out", err=True)
    values = {**OF_THE_NODE, **values}
    values.update({name: value for name, value in flags.items() if value is not None})
    if nodeport_addresses is not None:
        values["nodeport_addresses"] = tuple(filter(None, map(str.strip, nodeport_addresses.split(",")))) or ("primary",)
    settings = checked(Settings(**values))
    if init_only:
        limits.apply(settings)
        return
    run = winkernel.run if settings.proxy_mode == KERNELSPACE else proxy.run
    run_program(run(settings), verbosity=verbosity, logging_format=logging_format)


def _from_file(path: str) -> tuple[dict[str, Any], list[str]]:
    import yaml

    from twinstack.proxy.settings import SettingsError, from_configuration

    try:
        document = yaml.safe_load(Path(path).read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"--config: {path} cannot be read: {' '.join(str(error).split())}") from error
    return from_configuration(document)
