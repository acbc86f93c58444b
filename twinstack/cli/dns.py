"""``twinstack dns``: cluster DNS of both families."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.program import logging_options, run_program


def _port(context: click.Context, parameter: click.Parameter, value: int) -> int | None:
    return value if value >= 0 else None


@click.command("dns")
@click.option("--kubeconfig", default="", help="How to reach the API server.  [default: KUBECONFIG, else ~/.kube/config, else the pod's account]")
@click.option("--cluster-domain", default="cluster.local", show_default=True, help="The domain of the cluster's names.")
@click.option("--bind-address", "bind_addresses", multiple=True, help="An address to listen on; give it once for each.  [default: 0.0.0.0 and ::]")
@click.option("--port", type=int, default=53, show_default=True, help="The port, by UDP and TCP.")
@click.option(
    "--forward", multiple=True, help="A resolver for all other names, as ADDRESS or ADDRESS:PORT; 'none' for nobody.  [default: those of --resolv-conf]"
)
@click.option("--resolv-conf", default="/etc/resolv.conf", show_default=True, help="Where the resolvers for all other names stand, without --forward.")
@click.option("--forward-timeout", "forward_seconds", type=float, default=2.0, show_default=True, help="Seconds that one resolver is waited for.")
@click.option(
    "--without-upstream",
    type=click.Choice(["refused", "servfail", "nxdomain"]),
    default="refused",
    show_default=True,
    help="What other names are answered when there is no resolver for them.",
)
@click.option(
    "--cache", "cache_seconds", type=int, default=30, show_default=True, help="The longest that a resolver's answer is kept, in seconds; 0 for not at all."
)
@click.option("--ttl", "ttl_seconds", type=int, default=5, show_default=True, help="How long our answers may be kept, in seconds, negative ones too.")
@click.option(
    "--pods",
    type=click.Choice(["disabled", "insecure", "verified"]),
    default="insecure",
    show_default=True,
    help="Names such as 10-0-0-7.NAMESPACE.pod: none, any address that one spells, or those of pods that run.",
)
@click.option("--reverse-cidrs", default="", help="The cluster's CIDRs: of an address in them that nobody has, we say so, instead of asking a resolver.")
@click.option("--hide-dead-families", is_flag=True, help="Leave out a Service's address of a family in which nobody is ready while somebody is in the other.")
@click.option("--answer-families", default="", help="IPv4 or IPv6: names, also those of others, have no addresses of the other family here.  [default: both]")
@click.option("--udp-size", "udp_bytes", type=int, default=1232, show_default=True, help="The most bytes that are sent by UDP, whatever is offered.")
@click.option("--service", default="kube-system/kube-dns", show_default=True, help="The Service that this server is behind: ns.dns in the zone.")
@click.option("--health-port", type=int, default=8080, show_default=True, callback=_port, help="Serve /health here; -1 for nowhere.")
@click.option("--ready-port", type=int, default=8181, show_default=True, callback=_port, help="Serve /ready here; -1 for nowhere.")
@click.option("--metrics-port", type=int, default=9153, show_default=True, callback=_port, help="Serve /metrics here; -1 for nowhere.")
@logging_options
def command(bind_addresses: tuple[str, ...], verbosity: int, logging_format: str, **flags: Any) -> None:
    """Answer for the cluster's names in both families: Services, endpoints, pods, ports and pointers.

    \b
    Examples:
      twinstack dns --kubeconfig ~/.kube/config --bind-address 127.0.0.1 --port 5353 --forward none
      twinstack dns --reverse-cidrs 10.96.0.0/16,fd00:10:96::/112 --hide-dead-families
    """
    from twinstack.dns import dns
    from twinstack.dns.settings import Settings, checked

    if bind_addresses:
        flags["bind_addresses"] = bind_addresses
    run_program(dns.run(checked(Settings(**flags)), ready=dns.leave_memory_alone), verbosity=verbosity, logging_format=logging_format)
