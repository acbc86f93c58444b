"""``twinstack load-balancer``: addresses for Services of type LoadBalancer, announced on the nodes' own network or by BGP."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.kube_apiserver import Duration
from twinstack.cli.program import logging_options, run_program
from twinstack.net.family import FAMILIES


def _port(context: click.Context, parameter: click.Parameter, value: int) -> int | None:
    return value if value >= 0 else None


@click.command("load-balancer")
@click.option("--kubeconfig", default="", help="How to reach the API server.  [default: KUBECONFIG, else ~/.kube/config, else the pod's account]")
@click.option(
    "--config",
    default="",
    help="A file of pools and BGP peers (YAML), read again when it changes; ConfigMap kube-system/twinstack-load-balancer goes before it.",
)
@click.option("--hostname-override", default="", help="The node's name.  [default: the host's]")
@click.option("--interface", default="", help="The link to answer on.  [default: the one with an address of the node]")
@click.option(
    "--lease-duration", "lease_seconds", type=Duration(), default="2s", show_default=True, help="A node that is silent for so long has its addresses taken."
)
@click.option("--renew-interval", "renew_seconds", type=Duration(), default="600ms", show_default=True, help="How often a node tells that it lives.")
@click.option(
    "--run-dir",
    default="/run/twinstack-load-balancer",
    show_default=True,
    help="Where our own BIRD has its configuration and control socket, while a pool is announced by BGP; for each instance another.",
)
@click.option("--bgp-password-file", default="", help="A file with the password of the sessions with BGP peers (TCP MD5), read at the start.")
@click.option("--bind-address", "health_address", default=FAMILIES[0].facts.loopback, show_default=True, help="Where health and metrics are served.")
@click.option(
    "--health-port", type=int, default=10261, show_default=True, callback=_port, help="Serve /healthz, /livez, /readyz and /metrics here; -1 for nowhere."
)
@click.option("--dry-run", is_flag=True, help="Print which Service would have which addresses, and who would answer, and end.")
@logging_options
def command(verbosity: int, logging_format: str, **flags: Any) -> None:
    """Give Services of type LoadBalancer an address of each family, and announce it by ARP and neighbour discovery, or by BGP.

    Runs on every node. On the link, exactly one node answers for each address; when it dies, another does within three seconds.
    An address of a pool with `announce: bgp` is told to the peers by every node that takes its traffic; that needs the package bird2.

    \b
    Examples:
      twinstack load-balancer --kubeconfig ~/.kube/config --config pools.yaml
      twinstack load-balancer --kubeconfig ~/.kube/config --dry-run
    """
    # Heavy: the HTTP library.
    from twinstack.lb.lb import run
    from twinstack.lb.settings import Settings, checked

    run_program(run(checked(Settings(**flags))), verbosity=verbosity, logging_format=logging_format)
