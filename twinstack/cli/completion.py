"""``twinstack completion``: a script that lets a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from twinstack.net.errors import Error

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a completion script for SHELL.

    \b
      bash:  source <(twinstack completion bash)
      zsh:   source <(twinstack completion zsh)
      fish:  twinstack completion fish | source
    """
    from twinstack.cli.main import group

    cls = get_completion_class(shell)
    if cls is None:
        raise Error(f"there is no completion for {shell}; there is for {', '.join(SHELLS)}")
    click.echo(cls(group, {}, "twinstack", "_TWINSTACK_COMPLETE").source())
