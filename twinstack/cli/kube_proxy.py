"""``twinstack kube-proxy``: serve Services on a node, with upstream's flags and configuration file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from twinstack.cli.program import logging_options, run_program
from twinstack.loops.durations import parse_duration
from twinstack.net.errors import Error

F = TypeVar("F", bound=Callable[..., Any])
LOOK_SECONDS = 5.0  # between two looks whether the configuration file is another


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


def _period(name: str, text: str, *also: str) -> Callable[[F], F]:
    """A duration; *also* names it as upstream's other modes do."""
    return click.option(name, *also, f"{name.removeprefix('--').replace('-', '_')}_seconds", callback=_seconds, default=None, help=text)


_WITHOUT_EFFECT = {
    "--iptables-localhost-nodeports": "Taken and without effect, as in upstream's nftables mode: node ports do not answer on the loopback.",
    **{
        f"--ipvs-{name}": "Taken and without effect: of another mode."
        for name in ("exclude-cidrs", "min-sync-period", "scheduler", "strict-arp", "sync-period", "tcp-timeout", "tcpfin-timeout", "udp-timeout")
    },
    "--log-flush-frequency": "Taken and without effect: logs are not kept back.",
    "--vmodule": "Taken and without effect: verbosity is one for all modules.",
}
_FLAGS_WITHOUT_EFFECT = ("--iptables-localhost-nodeports", "--ipvs-strict-arp")


def _without_effect(function: F) -> F:
    """Upstream's flags that mean nothing here, so that its command lines are taken unchanged."""
    for name, text in reversed(_WITHOUT_EFFECT.items()):
        if name in _FLAGS_WITHOUT_EFFECT:
            function = click.option(name, type=bool, is_flag=False, flag_value=True, default=None, expose_value=False, help=text)(function)
        else:
            function = click.option(name, default=None, expose_value=False, help=text)(function)
    return function


# A flag that is not given is None and leaves the word to the configuration file, then to the default.
@click.command("kube-proxy")
@click.option("--config", "config_file", default="", help="A KubeProxyConfiguration file; flags that are given win over it.")
@click.option("--write-config-to", default="", help="Write the settings as a KubeProxyConfiguration file, and end.")
@click.option("--kubeconfig", default=None, help="How to reach the API server.  [default: KUBECONFIG, else ~/.kube/config, else the pod's account]")
@click.option("--master", default=None, help="The address of the API server, in place of the kubeconfig's.")
@click.option("--kube-api-qps", type=float, default=None, help="Write so many events a second to the API server.  [default: 5]")
@click.option("--kube-api-burst", type=int, default=None, help="So many may be written at once.  [default: 10]")
@click.option("--kube-api-content-type", default=None, help="application/json, or upstream's protobuf; JSON is spoken whichever is named.")
@_period("--config-sync-period", "Taken and without effect: nothing that is watched gets lost, so nothing is told again.  [default: 15m]")
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
@click.option("--nodeport-addresses", multiple=True, help="CIDRs of the node's addresses that serve node ports, or 'primary'.  [default: primary]")
@_flag("--masquerade-all", "Masquerade all traffic to cluster IPs.")
@click.option("--iptables-masquerade-bit", "masquerade_bit", type=int, default=None, help="The bit of the packet mark that is ours.  [default: 14]")
@_period("--min-sync-period", "The least time between two changes.  [default: 1s]", "--iptables-min-sync-period")
@_period("--sync-period", "The longest wait for a new try.  [default: 30s]", "--iptables-sync-period")
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
@_flag("--windows-service", "Refused: run this program under a service wrapper.")
@_flag("--profiling", "Taken, and warned about: there is no /debug/pprof in a program that is not in Go.")
@click.option("--show-hidden-metrics-for-version", default=None, help="The release before this one; no metric is hidden.")
@click.option("--feature-gates", default="", help="Taken, and warned about: gate=true,…; no gate changes anything here.")
@_without_effect
@click.option("--init-only", is_flag=True, help="Set what needs a privileged process (connection tracking), and end.")
@click.option("--cleanup", is_flag=True, help="Remove our tables, and end.")
@click.option("--dry-run", is_flag=True, default=None, help="Print the tables (or the policies) that would be written, and end.")
@logging_options
def command(config_file: str, write_config_to: str, cleanup: bool, init_only: bool, feature_gates: str, **flags: Any) -> None:
    """Serve Services of both families on this node, by nftables with a constant number of rules.

    \b
    Examples:
      twinstack kube-proxy --kubeconfig ~/.kube/config --cluster-cidr 10.244.0.0/16,fd00:10:244::/56
      twinstack kube-proxy --config /var/lib/kube-proxy/config.conf --dry-run
      twinstack kube-proxy --cleanup
    """
    from twinstack.proxy import limits, proxy, winkernel
    from twinstack.proxy.configuration import to_configuration
    from twinstack.proxy.settings import KERNELSPACE, OF_THE_NODE, Settings, checked

    if cleanup:
        proxy.cleanup()
        return
    values, warnings = _from_file(config_file) if config_file else ({}, [])
    given = {name: value for name, value in flags.items() if value is not None and (value or name not in ("verbosity", "nodeport_addresses"))}
    if given.get("logging_format") == "text":
        del given["logging_format"]  # the default, which the file's goes before
    if "nodeport_addresses" in given:
        given["nodeport_addresses"] = tuple(filter(None, (one.strip() for text in given["nodeport_addresses"] for one in text.split(",")))) or ("primary",)
    settings = Settings(**{**OF_THE_NODE, **values, **given})
    if settings.profiling:
        warnings.append("--profiling: there is no /debug/pprof here")
    warnings += [f"--feature-gates: {name} changes nothing here" for name in _gates(feature_gates)]
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    checked(settings)
    if write_config_to:
        _write(write_config_to, to_configuration(settings))
        return
    if init_only:
        limits.apply(settings)
        return
    run = winkernel.run if settings.proxy_mode == KERNELSPACE else proxy.run
    work = run(settings)
    run_program(_while_unchanged(config_file, work) if config_file else work, verbosity=settings.verbosity, logging_format=settings.logging_format)


async def _while_unchanged(path: str, work: Coroutine[Any, Any, None], *, look_seconds: float = LOOK_SECONDS) -> None:
    """Do the work as long as the file says the same; then end with an error, so that whoever started us does it again."""
    from twinstack.proxy.settings import SettingsError

    def read() -> bytes | None:
        try:
            return Path(path).read_bytes()
        except OSError:  # it is being replaced
            return None

    async def look(before: bytes | None) -> None:
        while True:
            await asyncio.sleep(look_seconds)
            if (now := read()) is not None and now != before:
                raise SettingsError(f"--config: {path} has changed; start again to follow it")

    watching = asyncio.ensure_future(look(read()))
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await watching
        await working
    finally:
        for task in (watching, working):
            task.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)


def _from_file(path: str) -> tuple[dict[str, Any], list[str]]:
    """Settings by name, and what there is to warn about."""
    import yaml

    from twinstack.proxy.configuration import from_configuration
    from twinstack.proxy.settings import SettingsError

    try:
        document = yaml.safe_load(Path(path).read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"--config: {path} cannot be read: {' '.join(str(error).split())}") from error
    values, unknown = from_configuration(document)
    warnings = [f"{path}: {field} is not known to this proxy and is left out" for field in unknown]
    warnings += [f"{path}: featureGates.{name} changes nothing here" for name in document.get("featureGates") or ()]
    return values, warnings


def _gates(text: str) -> list[str]:
    """The gates that a flag names; SettingsError when it is not of the form ``name=true,…``."""
    from twinstack.proxy.settings import SettingsError

    names = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.strip().partition("=")
        if not name or not equals or value.lower() not in ("true", "false"):
            raise SettingsError(f"--feature-gates: {part!r} is not of the form Gate=true or Gate=false")
        names.append(name)
    return names


def _write(path: str, document: Mapping[str, Any]) -> None:
    import yaml

    from twinstack.proxy.settings import SettingsError

    try:
        Path(path).write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--write-config-to: {path} cannot be written: {error.strerror}") from error
