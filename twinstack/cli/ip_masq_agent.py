"""``twinstack ip-masq-agent``: let pods reach outside under the node's address, with upstream's flags and file."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.program import logging_options, run_program


@click.command("ip-masq-agent")
@click.option("--config-file", default="/etc/config/ip-masq-agent", show_default=True, help="YAML or JSON; read anew each resyncInterval. Need not exist.")
@click.option("--masq-chain", default="IP-MASQ-AGENT", show_default=True, help="The name of the chain.")
@click.option("--nomasq-all-reserved-ranges", type=bool, is_flag=False, flag_value=True, default=False, help="Exempt all reserved IPv4 ranges by default.")
@click.option("--enable-ipv6", type=bool, is_flag=False, flag_value=True, default=False, help="Masquerade IPv6, too.")
@click.option("--random-fully", type=bool, is_flag=False, flag_value=True, default=True, show_default=True, help="Choose source ports at random.")
@click.option("--to-ports", default="", help="Source ports to use, such as 1024-29999,32768-65535.")
@click.option("--dry-run", is_flag=True, help="Print the tables that would be written, and end.")
@click.option("--cleanup", is_flag=True, help="Remove our tables, and end.")
@logging_options
def command(cleanup: bool, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Masquerade what leaves the cluster, in one family or both, by nftables.

    \b
    Examples:
      twinstack ip-masq-agent --enable-ipv6 --config-file masq.yaml
      twinstack ip-masq-agent --enable-ipv6 --dry-run
    """
    from twinstack.masq import masq
    from twinstack.masq.settings import Settings, checked

    settings = checked(Settings(**flags))
    if cleanup:
        masq.cleanup()
        return
    run_program(masq.run(settings), verbosity=verbosity, logging_format=logging_format)
