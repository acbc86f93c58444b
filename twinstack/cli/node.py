"""``twinstack node``: nodes that join a running cluster, and leave it."""

from __future__ import annotations

import click

from twinstack.cli.cluster import complete_nodes, name_option, places_of


@click.group("node")
def node() -> None:
    """Let nodes join a cluster of `up` while it runs, or leave it."""


@node.command()
@name_option
@click.option("--wait", "wait_seconds", type=float, default=30.0, show_default=True, help="Seconds after which a node that is not ready is a failure.")
def add(name: str, wait_seconds: float) -> None:
    """Add a node, and return when it is ready.

    \b
    Example:
      twinstack node add
    """
    from twinstack.lab import membership

    added, seconds = membership.add(places_of(name), wait_seconds)
    click.echo(f"{added} is ready after {seconds:.2f} s")


@node.command()
@name_option
@click.argument("node_name", metavar="NODE", shell_complete=complete_nodes)
def remove(name: str, node_name: str) -> None:
    """Remove a node, with its pods.

    \b
    Example:
      twinstack node remove node3
    """
    from twinstack.lab import membership

    seconds = membership.remove(places_of(name), node_name)
    click.echo(f"{node_name} has left after {seconds:.2f} s")
