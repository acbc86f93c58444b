"""``twinstack kube-scheduler``: spread pods over the nodes, with upstream's flags."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.controller_flags import common_options
from twinstack.cli.program import logging_options, run_program


@click.command("kube-scheduler")
@common_options("kube-scheduler", 10259)
@click.option("--scheduler-name", default="default-scheduler", show_default=True, help="Schedule the pods that name this scheduler.")
@logging_options
def command(verbosity: int, logging_format: str, **flags: Any) -> None:
    """Give each waiting pod a node: ready, with room, matching its selector, taints and required anti-affinity."""
    # Heavy: the HTTP library.
    from twinstack.client.controllers import check
    from twinstack.client.kube_scheduler import Settings, run

    settings = Settings(**flags)
    check(settings)
    run_program(run(settings), verbosity=verbosity, logging_format=logging_format)
