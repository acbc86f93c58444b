"""What ``up``, ``list`` and ``status`` print for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from twinstack.lab.cluster import Cluster
from twinstack.lab.topology import Topology
from twinstack.net.family import ByFamily, Family

Document = Mapping[str, Any]


def step(color: bool) -> Callable[[str, float], None]:
    """A printer of steps that are done."""

    def tell(text: str, seconds: float) -> None:
        mark = click.style("✓", fg="green")
        took = click.style(f"{seconds:6.3f} s", dim=True)
        click.echo(f"{mark} {took}  {text}", color=color)

    return tell


def cluster(made: Cluster, *, current: bool, color: bool) -> None:
    """A cluster that is up: its addresses per family, and what to try next."""
    topology = made.topology
    families = " and ".join(map(str, topology.families))
    first = f", {topology.families[0]} first" if len(topology.families) > 1 else ""
    head = f"Cluster {topology.name} is up in {made.seconds:.2f} s: {len(topology.nodes)} nodes, {families}{first}."
    rows: list[tuple[str, ByFamily[Any]]] = [
        *((node.name, node.addresses) for node in topology.nodes[:5]),
        ("outside", topology.outside.addresses),
        ("pods", topology.pod_cidrs),
        ("Services", topology.service_cidrs),
    ]
    click.echo()
    click.echo(click.style(head, bold=True), color=color)
    click.echo()
    click.echo(_grid(["", *map(str, topology.families)], [[name, *_texts(values, topology.families)] for name, values in rows]))
    if len(topology.nodes) > 5:
        click.echo(f"  … and {len(topology.nodes) - 5} more nodes")
    click.echo(f"\n  API server  {made.server}\n  kubeconfig  {made.kubeconfig}, context {topology.context}{' (current)' if current else ''}\n")
    which = "" if topology.name == "twinstack" else f" --name {topology.name}"
    program = _program()
    kubectl = "kubectl" if current else f"kubectl --context {topology.context}"
    click.echo(click.style("Next:", bold=True), color=color)
    commands = (
        (f"{kubectl} get nodes -o wide", "the nodes, as Kubernetes sees them"),
        (f"{program} demo{which}", "every path, measured in every family"),
        (f"{program} shell{which} {topology.nodes[0].name}", "a shell on a node"),
        (f"{program} status{which}", "what runs"),
        (f"{program} down{which}", "remove it all"),
    )
    width = max(len(command) for command, _ in commands)
    for command, text in commands:
        click.echo(f"  {click.style(f'{command:<{width}}', fg='cyan')}   {text}", color=color)


def _program() -> str:
    """How this program can be called again: by its name where that is on the PATH, else as it was called now."""
    import os
    import shutil
    import sys

    called = sys.argv[0]
    found = shutil.which("twinstack")
    is_on_path = found is not None and os.path.exists(called) and os.path.samefile(found, called)
    return called if os.path.basename(called) == "twinstack" and not is_on_path else "twinstack"


def plan(topology: Topology) -> None:
    """A cluster that could be made."""
    networks: list[tuple[str, ByFamily[Any]]] = [("pods", topology.pod_cidrs), ("Services", topology.service_cidrs), ("nodes", topology.underlay)]
    rows = [*networks, ("outside", topology.outside_networks), *((node.name, node.addresses) for node in topology.nodes)]
    click.echo(f"Cluster {topology.name} could be made of these; nothing was.\n")
    click.echo(_grid(["", *map(str, topology.families)], [[name, *_texts(values, topology.families)] for name, values in rows]))


def _texts(values: ByFamily[Any], families: Sequence[Family]) -> list[str]:
    return [str(values[family]) if family in values else "" for family in families]


def clusters(found: Sequence[Document], *, color: bool) -> None:
    """The clusters of this machine."""
    if not found:
        click.echo("no cluster; `twinstack up` makes one")
        return
    import time

    now = time.time()
    rows = [
        [
            str(one["name"]),
            _state(str(one["state"])),
            ",".join(one.get("families", ())),
            str(one.get("nodes", "")),
            age(now - one["created"]) if "created" in one else "",
            str(one.get("server", "")),
        ]
        for one in found
    ]
    click.echo(_grid(["NAME", "STATE", "FAMILIES", "NODES", "AGE", "SERVER"], rows, indent=""), color=color)


def status(document: Document, *, color: bool) -> None:
    """A cluster's nodes and components."""
    families = ",".join(document["families"])
    click.echo(f"cluster {document['name']}  families {families}  age {age(document['ageSeconds'])}  supervisor {document['supervisor']}", color=color)
    click.echo(f"server  {document['server']}  context {document['context']}\n")
    if "problem" in document:
        click.echo(click.style(document["problem"], fg="red") + "\n", color=color)
    else:
        nodes = [
            [n["name"], _state("Ready" if n["ready"] else "NotReady"), age(n["ageSeconds"]), ",".join(n["addresses"]), ",".join(n["podCIDRs"])]
            for n in document["nodes"]
        ]
        click.echo(_grid(["NODE", "STATE", "AGE", "ADDRESSES", "PODS"], nodes, indent="") + "\n", color=color)
    rows = [[c["name"], _state(c["state"]), str(c["pid"]), age(c["ageSeconds"]), str(c["restarts"]), c.get("message", "")] for c in document["components"]]
    click.echo(_grid(["COMPONENT", "STATE", "PID", "AGE", "RESTARTS", "MESSAGE"], rows, indent=""), color=color)


def age(seconds: float) -> str:
    """An age as kubectl shows it: the two largest units, seconds first."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"


def _state(text: str) -> str:
    good, soon = text in ("running", "Ready"), text in ("starting", "waiting")
    return click.style(text, fg="green" if good else "yellow" if soon else "red")


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "  ") -> str:
    """Columns as wide as their widest cell; colours count for nothing."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(click.unstyle(row[i])) for row in table) for i in range(len(head))]
    lines = ["   ".join(cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)
