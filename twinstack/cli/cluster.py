"""``twinstack up``, ``down``, ``list``, ``status``, ``logs``, ``shell``, ``restart``: a cluster to try, on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES

F = TypeVar("F", bound=Callable[..., Any])
# flags of `up` that a --config file may say, too
_ASKED = (
    "name",
    "families",
    "nodes",
    "pod_cidr",
    "service_cidr",
    "port",
    "network",
    "vxlan_underlay",
    "no_masquerade",
    "announce",
    "dns_forward",
    "dns_hide_dead_families",
)


class Refused(Error):
    """What was asked for will not do; each problem is a line."""


def name_option(function: F) -> F:
    """The flag that says which cluster."""
    text = "The cluster's name; the variable TWINSTACK_NAME says it, too."
    return click.option("--name", default="twinstack", envvar="TWINSTACK_NAME", show_default=True, help=text, shell_complete=_complete_names)(function)


def color_option(function: F) -> F:
    """The flag that says whether to colour."""
    return click.option("--color/--no-color", default=None, help="Colours, or none; left out, a terminal has them unless NO_COLOR is set.")(function)


def output_option(function: F) -> F:
    """The flag that says for whom to print."""
    choice = click.Choice(["text", "json", "yaml"])
    return click.option("-o", "--output", type=choice, default="text", show_default=True, help="A table for people, or a document for programs.")(function)


def _complete_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from twinstack.lab import removal

    return [name for name in removal.names() if name.startswith(incomplete)]


def _record(context: click.Context) -> Any:
    """The record of the cluster that a command line speaks of; None where there is none."""
    from twinstack.lab import record, removal

    name = context.params.get("name") or "twinstack"
    return record.read_record(removal.find(name)) if _is_name(name) else None


def complete_nodes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The nodes of the cluster that is named before."""
    found = _record(context)
    return [node.name for node in found.topology.nodes if node.name.startswith(incomplete)] if found else []


def _complete_places(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from twinstack.lab import entering

    found = _record(context)
    return [one for one in entering.roles(found.topology) if one.startswith(incomplete)] if found else []


def _complete_components(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from twinstack.lab import programs

    found = _record(context)
    if found is None:
        return []
    processes = programs.processes(found.topology, places_of(found.topology.name), None)
    names = [word for process in processes for word in (process.name, *process.components)]
    return sorted({one for one in names if one.startswith(incomplete)})


def colors(wish: bool | None) -> bool:
    """Whether to colour: as wished, else on a terminal and without NO_COLOR (no-color.org)."""
    return wish if wish is not None else sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def places_of(name: str) -> Any:
    """The places of a cluster whose name is one; Refused otherwise, before a path is made of it."""
    from twinstack.lab import removal
    from twinstack.lab.topology import problems_with_name

    if problems := list(problems_with_name(name)):
        raise Refused(str(problems[0]))
    return removal.find(name)


def show(document: Any, output: str) -> None:
    """A document for programs."""
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    else:
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)


@click.command()
@click.option("--families", default="", help="IPv4, IPv6, or both, the primary first.  [default: those of the CIDRs, else IPv4,IPv6]")
@click.option("--nodes", type=int, default=3, show_default=True, help="How many nodes, 1 to 100.")
@name_option
@click.option(
    "--pod-cidr", default="", help=f"The pods' network, or one of each family.  [default: {', '.join(family.facts.default_pod_cidr for family in FAMILIES)}]"
)
@click.option(
    "--service-cidr", default="", help=f"The Services' network, likewise.  [default: {', '.join(family.facts.default_service_cidr for family in FAMILIES)}]"
)
@click.option("--node-cidr-mask-size-ipv4", type=int, default=0, help=f"Prefix length of a node's pod network.  [default: {FAMILIES[0].facts.node_mask_size}]")
@click.option("--node-cidr-mask-size-ipv6", type=int, default=0, help=f"The same of this family.  [default: {FAMILIES[1].facts.node_mask_size}]")
@click.option("--network", default="direct", show_default=True, help="How nodes reach each other's pods: direct (routes) or vxlan (a tunnel).")
@click.option("--vxlan-underlay", default="", help="The family that carries the tunnel, IPv4 or IPv6.  [default: the primary one]")
@click.option(
    "--no-masquerade",
    default="",
    help="Families whose pods reach outside under their own addresses, as with public ones; the way back is known.  [default: none]",
)
@click.option(
    "--announce", default="l2", show_default=True, help="How load balancers' addresses are made known: l2 (ARP, NDP) or bgp (to a router; needs bird2)."
)
@click.option(
    "--dns-forward", default="", help="Resolvers for names that are not the cluster's, reachable from its nodes, as ADDRESS or ADDRESS:PORT.  [default: none]"
)
@click.option(
    "--dns-hide-dead-families", is_flag=True, help="Leave out of DNS a Service's address of a family in which nobody is ready, while somebody is in the other."
)
@click.option("--port", type=int, default=0, help="The API server's port on this machine's loopback.  [default: any that is free]")
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="A YAML file that says all of the above; flags win over it.")
@click.option("--kubeconfig", default="", help="The file that the context goes into.  [default: KUBECONFIG, else ~/.kube/config]")
@click.option("--set-context/--no-set-context", default=True, show_default=True, help="Make the cluster's context the current one.")
@click.option("--wait", "wait_seconds", type=float, default=60.0, show_default=True, help="Seconds after which nodes that are not ready are a failure.")
@click.option("-v", "--v", "verbosity", type=int, default=0, show_default=True, help="Verbosity of the components' logs.")
@click.option("--dry-run", is_flag=True, help="Check everything that was asked for, print what would be made, and make nothing.")
@color_option
@output_option
@click.pass_context
def up(context: click.Context, /, config_file: str | None, kubeconfig: str, set_context: bool, wait_seconds: float, verbosity: int, **flags: Any) -> None:
    """Boot a cluster of many nodes on this machine, each a network namespace; no Docker, no images.

    \b
    Examples:
      twinstack up
      twinstack up --families IPv6,IPv4 --nodes 5 --name six-first
      twinstack up --pod-cidr 10.1.0.0/16,fd01::/56 --service-cidr 10.2.0.0/16,fd02::/112
    """
    from twinstack.cli import cluster_output
    from twinstack.cli.waiting import Line
    from twinstack.lab import cluster
    from twinstack.lab.status import summary
    from twinstack.lab.topology import Topology, plan

    color, output = colors(flags.pop("color")), flags.pop("output")
    asked = _asked(context, config_file, flags)
    topology = plan(asked)
    if not isinstance(topology, Topology):
        raise Refused("\nerror: ".join(str(problem) for problem in topology))
    if flags["dry_run"]:
        if output == "text":
            return cluster_output.plan(topology)
        return show(summary(topology, server="", kubeconfig_file=""), output)
    options = cluster.Options(kubeconfig=kubeconfig, set_context=set_context, wait_seconds=wait_seconds, verbosity=verbosity)
    quiet = output != "text"
    line = Line()
    printed = cluster_output.step(color)

    def tell(step: str, seconds: float) -> None:
        if not quiet:
            line.hide()
            printed(step, seconds)

    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what is half-made is undone
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    try:
        with line:
            made = cluster.up(topology, options, tell, line.show)
    except KeyboardInterrupt:
        click.echo(f"interrupted: nothing of cluster {topology.name} is left", err=True)
        sys.exit(130)
    document = summary(made.topology, server=made.server, kubeconfig_file=made.kubeconfig)
    if quiet:
        show({**document, "seconds": round(made.seconds, 3), "steps": {step: round(seconds, 4) for step, seconds in made.steps.items()}}, output)
    else:
        cluster_output.cluster(made, current=set_context, color=color)


def _asked(context: click.Context, config_file: str | None, flags: dict[str, Any]) -> Any:
    """The request: the flags, over what the file says."""
    from twinstack.lab.topology import Request

    masks = {family: size for family, size in zip(FAMILIES, (flags["node_cidr_mask_size_ipv4"], flags["node_cidr_mask_size_ipv6"]), strict=True) if size}
    if config_file is None:
        return Request(**{key: flags[key] for key in _ASKED}, masks=masks)
    import yaml

    from twinstack.lab.configuration import parse_file

    try:
        with open(config_file, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except OSError as error:
        raise Refused(f'--config: "{config_file}": cannot be read: {error.strerror}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(f'--config: "{config_file}": is not YAML: {" ".join(str(error).split())}') from error
    asked = parse_file(document)
    if not isinstance(asked, Request):
        raise Refused("\nerror: ".join(str(problem) for problem in asked))
    said = {key: flags[key] for key in _ASKED if context.get_parameter_source(key) is not click.core.ParameterSource.DEFAULT}
    return asked._replace(**said, masks={**asked.masks, **masks})


@click.command()
@name_option
@click.option("--all", "every", is_flag=True, help="All clusters of this machine.")
def down(name: str, every: bool) -> None:
    """Remove a cluster and everything it made: processes, namespaces, files, kubeconfig context. Succeeds when it is gone already.

    \b
    Examples:
      twinstack down
      twinstack down --name six-first
      twinstack down --all
    """
    from twinstack.lab import removal

    chosen = [one for one in removal.names() if _is_name(one)] if every else [name]
    for one in chosen:
        try:
            there = removal.remove(places_of(one))
        except KeyboardInterrupt:
            click.echo(f"interrupted: `twinstack down --name {one}` goes on with it", err=True)
            sys.exit(130)
        click.echo(f"cluster {one} is removed" if there else f"there is no cluster {one}")
    if every and not chosen:
        click.echo("there is no cluster")


def _is_name(text: str) -> bool:
    from twinstack.lab.topology import problems_with_name

    return not list(problems_with_name(text))


@click.command("list")
@color_option
@output_option
def list_(color: bool | None, output: str) -> None:
    """List the clusters of this machine."""
    from twinstack.cli import cluster_output
    from twinstack.lab import status as lab_status

    found = lab_status.clusters()
    if output == "text":
        cluster_output.clusters(found, color=colors(color))
    else:
        show(found, output)


@click.command()
@name_option
@color_option
@output_option
def status(name: str, color: bool | None, output: str) -> None:
    """Show a cluster's nodes and components. The exit status is 1 when not all is as it should be.

    \b
    Examples:
      twinstack status
      twinstack status -o json | jq '.components[] | select(.state != "running")'
    """
    from twinstack.cli import cluster_output
    from twinstack.lab import status as lab_status

    document = lab_status.status(places_of(name))
    if output == "text":
        cluster_output.status(document, color=colors(color))
    else:
        show(document, output)
    if not document["healthy"]:
        sys.exit(1)


@click.command()
@name_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added.")
@click.option("--tail", type=click.IntRange(min=0), default=None, help="Only so many lines of each log at first.  [default: all]")
@click.argument("component", required=False, shell_complete=_complete_components)
def logs(name: str, follow: bool, tail: int | None, component: str | None) -> None:
    """Print a component's log: kube-apiserver, node1/kubelet, kubelet (of every node), supervisor …; without one, their names.

    \b
    Examples:
      twinstack logs
      twinstack logs node1/kubelet --tail 20 --follow
    """
    from twinstack.lab import logreading
    from twinstack.lab.status import record_of

    places = places_of(name)
    record_of(places)
    found = logreading.logs_of(places, component or "")
    if component is None:
        for one in found:
            click.echo(one)
        return
    if not found:
        raise Refused(f"there is no log of {component}; `twinstack logs` lists them")
    try:
        for line in logreading.lines(found, tail=tail, follow=follow):
            click.echo(line)
    except KeyboardInterrupt:
        sys.exit(130)


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("where", metavar="NODE", shell_complete=_complete_places)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(name: str, where: str, command: tuple[str, ...]) -> None:
    """Open a shell on NODE, or run a command there: a node, `outside`, `control-plane`, `fabric`, or a pod (NAME or NAMESPACE/NAME).

    \b
    Examples:
      twinstack shell node1
      twinstack shell outside -- curl -s http://172.30.0.11:30080
      twinstack shell default/web-0 -- ip address
    """
    import asyncio

    from twinstack.lab import entering
    from twinstack.lab.status import find_pod, record_of, server_of

    places = places_of(name)
    record = record_of(places)
    topology = record.topology
    environment = entering.environment_of(topology, places, where)
    program = command[1:] if command[:1] == ("--",) else command
    program = program or (os.environ.get("SHELL") or "/bin/sh",)
    if where in entering.roles(topology):
        entering.enter_role(places, where, program, environment)
    try:
        pod = asyncio.run(find_pod(places, server_of(record), where))
    except (Error, TimeoutError) as error:
        raise Refused(f"{where} is none of {', '.join(entering.roles(topology))}, and pods cannot be asked for: {str(error) or 'no answer'}") from error
    if pod is None:
        raise Refused(f"{where} is no pod, and none of {', '.join(entering.roles(topology))}")
    sys.exit(entering.enter_pod(places, *pod, where, program, environment))


@click.command()
@name_option
@click.argument("component", shell_complete=_complete_components)
def restart(name: str, component: str) -> None:
    """End a component and start it anew: a program (kube-apiserver, node1/kubelet) or a whole process (control-plane, node1).

    \b
    Examples:
      twinstack restart kube-apiserver
      twinstack restart node1/kube-proxy
    """
    from twinstack.lab import cluster
    from twinstack.lab.status import record_of

    places = places_of(name)
    record_of(places)
    seconds = cluster.restart(places, component)
    click.echo(f"{component} serves again after {seconds:.2f} s")
