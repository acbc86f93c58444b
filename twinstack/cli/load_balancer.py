"""``twinstack load-balancer``: addresses for Services of type LoadBalancer, answered on the nodes' own network."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.kube_apiserver import Duration
from twinstack.cli.program import logging_options, run_program


@click.command("load-balancer")
@click.option("--kubeconfig", default="", help="How to reach the API server.")
@click.option("--config", default="", help="A file of pools (YAML), read at the start; ConfigMap kube-system/twinstack-load-balancer goes before it.")
@click.option("--hostname-override", default="", help="The node's name.  [default: the host's]")
@click.option("--interface", default="", help="The link to answer on.  [default: the one with an address of the node]")
@click.option(
    "--lease-duration", "lease_seconds", type=Duration(), default="2s", show_default=True, help="A node that is silent for so long has its addresses taken."
)
@click.option("--renew-interval", "renew_seconds", type=Duration(), default="600ms", show_default=True, help="How often a node tells that it lives.")
@click.option("--dry-run", is_flag=True, help="Print which Service would have which addresses, and who would answer, and end.")
@logging_options
def command(verbosity: int, logging_format: str, **flags: Any) -> None:
    """Give Services of type LoadBalancer an address of each family, and answer for it by ARP and neighbour discovery.

    Runs on every node. Exactly one node answers for each address; when it dies, another does within three seconds.
    """
    # Heavy: the HTTP library.
    from twinstack.lb.lb import run
    from twinstack.lb.settings import Settings, checked

    run_program(run(checked(Settings(**flags))), verbosity=verbosity, logging_format=logging_format)
