"""``twinstack kube-scheduler``: spread pods over the nodes, with upstream's flags."""

from __future__ import annotations

from typing import Any

import click

from twinstack.cli.controller_flags import check_door, common_options, settle, unlooked_options
from twinstack.cli.program import logging_options, run_program


@click.command("kube-scheduler")
@common_options("kube-scheduler", 10259)
@click.option("--config", default="", help="A KubeSchedulerConfiguration; the flags that it has an answer to are not looked at then.")
@click.option("--scheduler-name", default="default-scheduler", show_default=True, help="Schedule the pods that name this scheduler.")
@unlooked_options()
@logging_options
def command(config: str, scheduler_name: str, verbosity: int, logging_format: str, **flags: Any) -> None:
    """Give each waiting pod the best of the nodes that can run it, and make room for those of higher priority.

    \b
    Examples:
      twinstack kube-scheduler --kubeconfig ~/.kube/config
      twinstack kube-scheduler --kubeconfig ~/.kube/config --scheduler-name second --leader-elect-resource-name second
    """
    flags["self_signed"] = check_door(flags["bind_address"])
    # Heavy: the HTTP library.
    from twinstack.client.controllers import check
    from twinstack.client.kube_scheduler import Settings, run
    from twinstack.client.scheduler_configuration import read_configuration

    told = read_configuration(config) if config else {"scheduler_names": (scheduler_name,)}
    settings = Settings(**flags | told)
    check(settings)
    run_program(run(settings, ready=settle), verbosity=verbosity, logging_format=logging_format)
