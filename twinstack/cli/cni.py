"""``twinstack cni``: the network plugin's executable, for runtimes other than ours."""

from __future__ import annotations

import json

import click

from twinstack.net.family import FAMILIES


@click.group("cni")
def cni() -> None:
    """The network plugin (CNI 0.4.0, 1.0.0, 1.1.0), for any runtime: install it, write its configuration, serve it."""


@cni.command()
@click.option("--bin-dir", default="/opt/cni/bin", show_default=True, type=click.Path(file_okay=False), help="The runtime's directory of plugins.")
def install(bin_dir: str) -> None:
    """Write the executables twinstack-cni and twinstack-ipam, replacing older ones.

    \b
    Example:
      twinstack cni install --bin-dir /opt/cni/bin
    """
    from twinstack.cni.executable import write_executable

    click.echo(write_executable(bin_dir))


@cni.command()
@click.option("--network-name", default="twinstack", show_default=True, help="The network's name.")
@click.option("--mtu", type=int, default=0, help="The MTU of pods' links.  [default: the kernel's]")
@click.argument("pod_cidrs", nargs=-1, required=True, metavar="CIDR...")
def config(network_name: str, mtu: int, pod_cidrs: tuple[str, ...]) -> None:
    """Print a configuration list that gives each pod one address of each CIDR.

    \b
    Example:
      twinstack cni config 10.244.1.0/24 fd00:10:244:1::/64 > /etc/cni/net.d/10-twinstack.conflist
    """
    from twinstack.api.cni import encode, network_config, parse_config

    document = network_config(network_name, pod_cidrs, mtu=mtu)
    parse_config(encode({**document["plugins"][0], "name": document["name"], "cniVersion": document["cniVersion"]}))  # refused here rather than by the plugin
    click.echo(json.dumps(document, indent=2))


@cni.command()
def serve() -> None:
    """Work off in this process what the executable is asked for: three times as fast. Runs until SIGTERM."""
    import signal

    from twinstack.cni.daemon import Daemon
    from twinstack.loops import logs

    logs.configure()
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before there are threads, which inherit it
    daemon = Daemon()
    click.echo(f"serving the network plugin for {' and '.join(map(str, FAMILIES))}", err=True)
    try:
        signal.sigwait(ends)
    finally:
        daemon.close()
