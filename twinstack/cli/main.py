"""The command ``twinstack``: one row a command, each loaded only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from twinstack import __version__
from twinstack.net.errors import Error

# section → command → (module, function, one line of help)
COMMANDS: dict[str, dict[str, tuple[str, str, str]]] = {
    "A cluster to try": {
        "up": ("twinstack.cli.cluster", "up", "Boot a cluster of many nodes on this machine."),
        "down": ("twinstack.cli.cluster", "down", "Remove a cluster and everything it made."),
        "list": ("twinstack.cli.cluster", "list_", "List the clusters of this machine."),
        "status": ("twinstack.cli.cluster", "status", "Show a cluster's nodes and components."),
        "logs": ("twinstack.cli.cluster", "logs", "Print a component's log."),
        "shell": ("twinstack.cli.cluster", "shell", "Open a shell on a node, or run a command there."),
        "restart": ("twinstack.cli.cluster", "restart", "End a component and start it anew."),
        "demo": ("twinstack.cli.demo", "demo", "Measure every path of a cluster in both families."),
    },
    "Drop-in programs": {
        "kube-apiserver": ("twinstack.cli.kube_apiserver", "command", "Serve the Kubernetes API."),
        "kube-controller-manager": ("twinstack.cli.kube_controller_manager", "command", "Run the controllers."),
        "kube-scheduler": ("twinstack.cli.kube_scheduler", "command", "Spread pods over the nodes."),
        "kubelet": ("twinstack.cli.kubelet", "command", "Run the pods of a node."),
        "kube-proxy": ("twinstack.cli.kube_proxy", "command", "Serve Services on a node, by nftables."),
        "ip-masq-agent": ("twinstack.cli.ip_masq_agent", "command", "Let pods reach outside, in both families."),
        "dns": ("twinstack.cli.dns", "command", "Answer for the cluster's names, in both families."),
        "load-balancer": ("twinstack.cli.load_balancer", "command", "Give Services addresses of pools, and answer for them."),
    },
    "Besides": {
        "node": ("twinstack.cli.node", "node", "Let nodes join a cluster, or leave it."),
        "image": ("twinstack.cli.image", "image", "Load, list and remove images for containers."),
        "store": ("twinstack.cli.store", "store", "Check, back up and restore the API server's data."),
        "cni": ("twinstack.cli.cni", "cni", "Install the network plugin for any runtime."),
        "completion": ("twinstack.cli.completion", "completion", "Print a shell's completion script."),
        "version": ("twinstack.cli.version", "version", "Print the version."),
    },
}
HIDDEN: dict[str, tuple[str, str]] = {
    "supervise": ("twinstack.cli.supervise", "command"),
}


class Commands(click.Group):
    """Loads a command's module when it is called, so that ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                module, function, _ = section[cmd_name]
                return _load(module, function)
        if cmd_name in HIDDEN:
            return _load(*HIDDEN[cmd_name])
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a word that is no command is told the nearest that is."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            import difflib

            near = difflib.get_close_matches(name, [*self.list_commands(ctx), "--help"], n=1, cutoff=0.7)
            raise click.UsageError(f"No such command '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, _, text) in section.items()])


def _load(module: str, function: str) -> click.Command:
    command: click.Command = getattr(importlib.import_module(module), function)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="twinstack")
def group() -> None:
    """Kubernetes' IPv4/IPv6 dual-stack networking: run it, rehearse it, prove it.

    `twinstack up` boots a real cluster of any family on this machine in seconds, without Docker or
    images; `twinstack demo` proves that both families answer. The drop-in programs take upstream's
    flags and speak the Kubernetes API, so each can replace its upstream twin.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the one exit for failure.

    The status is 0, 1 with one line on stderr for our own errors (or a check that found something), 2 for a command line that
    cannot be read, and 128 + N for signal N: 130 after Ctrl-C.
    """
    try:
        status = group.main(args=list(arguments) if arguments is not None else None, prog_name="twinstack", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Error as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
