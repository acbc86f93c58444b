"""``twinstack image``: the images that a cluster's nodes run containers from."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from twinstack.cli.cluster import color_option, colors, name_option, output_option, places_of, show
from twinstack.cli.waiting import Line

_directory = click.option(
    "--image-dir", default="", help="The directory of a kubelet outside of a cluster of `up`, as its flag --image-dir says.  [default: the cluster's]"
)


@click.group("image")
def image() -> None:
    """Images for containers: OCI and Docker archives, loaded from files and kept unpacked beside the cluster."""


def _images(name: str, directory: str) -> Any:
    from twinstack.agent.containers.images import Images
    from twinstack.lab import record
    from twinstack.lab.errors import LabError

    if directory:
        return Images(Path(directory))
    places = places_of(name)
    if record.read_record(places) is None:
        raise LabError(f"there is no cluster {name!r} on this machine; `twinstack up --name={name}` boots one")
    return Images(Path(places.images))


@image.command(short_help="Load archives or layout directories.")
@name_option
@_directory
@click.option("--tag", default="", help="The image's name, where its archive has none, or another one is wanted.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True), metavar="ARCHIVE...")
def load(name: str, image_dir: str, tag: str, paths: tuple[str, ...]) -> None:
    """Load archives (docker save, OCI archives) or OCI layout directories.

    \b
    Example:
      docker save busybox:1 -o busybox.tar && twinstack image load busybox.tar
    """
    images = _images(name, image_dir)
    for path in paths:
        with Line(f"unpacking {path} …"):
            loaded = images.load(Path(path), name=tag)
        for one in loaded:
            click.echo(f"{one.id.removeprefix('sha256:')[:12]}  {', '.join(one.names)}")


@image.command("list")
@name_option
@_directory
@color_option
@output_option
def list_(name: str, image_dir: str, color: bool | None, output: str) -> None:
    """List the images that are here.

    \b
    Example:
      twinstack image list -o json
    """
    found = _images(name, image_dir).all()
    if output != "text":
        return show([{"id": one.id, "names": list(one.names), "bytes": one.size, "loaded": one.created} for one in found], output)
    rows = [(one.id.removeprefix("sha256:")[:12], f"{one.size / 1e6:.1f} MB", ", ".join(one.names) or "<no name>") for one in found]
    for row in [("IMAGE", "SIZE", "NAMES"), *rows]:
        click.echo(f"{row[0]:<12}  {row[1]:>10}  {row[2]}", color=colors(color))


@image.command(short_help="Remove images by name.")
@name_option
@_directory
@click.argument("references", nargs=-1, required=True, metavar="IMAGE...")
def remove(name: str, image_dir: str, references: tuple[str, ...]) -> None:
    """Remove names of images, and each image with its last name; one that a container uses stays.

    \b
    Example:
      twinstack image remove docker.io/library/busybox:1.36
    """
    images = _images(name, image_dir)
    for reference in references:
        images.remove(reference)
        click.echo(f"removed {reference}")


@image.command(short_help="Fetch an image from a registry, and load it.")
@name_option
@_directory
@click.option("--tls-verify/--no-tls-verify", default=None, help="Whether the registry's certificate is checked.  [default: except on loopback addresses]")
@click.option("--authfile", type=click.Path(exists=True, dir_okay=False), help="Credentials by registry, in the form of ~/.docker/config.json.")
@click.argument("reference", metavar="IMAGE")
def pull(name: str, image_dir: str, tls_verify: bool | None, authfile: str | None, reference: str) -> None:
    """Fetch an image from a registry with skopeo, by tag or digest, and load it. What is here already is not fetched again.

    \b
    Examples:
      twinstack image pull docker.io/library/busybox:1.36
      twinstack image pull --no-tls-verify registry.lan:5000/web@sha256:…
    """
    from twinstack.agent.containers import pulling

    file = Path(authfile).absolute() if authfile else None
    with Line(f"fetching {reference} …"):
        one = asyncio.run(pulling.pull(_images(name, image_dir), reference, tls_verify=tls_verify, auth_file=file))
    click.echo(f"{one.id.removeprefix('sha256:')[:12]}  {', '.join(one.names)}")
