"""``twinstack store``: the API server's data, checked, backed up, restored and rescued."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twinstack.cli.waiting import Line

if TYPE_CHECKING:
    from twinstack.store.files import Report

_directory = click.argument("directory", metavar="DATA-DIR", type=click.Path(path_type=Path))


@click.group("store")
def store() -> None:
    """Check, back up, restore and rescue what the API server stores; DATA-DIR is its --data-dir."""


@store.command()
@_directory
def check(directory: Path) -> None:
    """Look at every page and every row, while the server runs or not. Status 1 when something is damaged.

    \b
    Example:
      twinstack store check /var/lib/twinstack
    """
    from twinstack.store import files

    with Line(f"looking at every row of {directory} …"):
        report = files.check(directory)
    for problem in report.problems:
        click.echo(f"{report.path}: {problem}")
    if report.problems:
        ways = "`twinstack store restore BACKUP NEW-DATA-DIR` makes a new one of a backup, `twinstack store rescue` one of what can be read"
        click.echo(f"error: the store is damaged; {ways}", err=True)
        sys.exit(1)
    click.echo(f"{report.path} is sound: {_told(report)}")


@store.command()
@_directory
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
def backup(directory: Path, target: Path) -> None:
    """Copy the store into one new file, while the server runs or not.

    The copy is what was durable at one moment, and is checked before it is put in place. Of the data directory it has the
    store alone: keep a copy of DATA-DIR/pki too, where the server's own keys are.

    \b
    Example:
      twinstack store backup /var/lib/twinstack /backups/monday.db
    """
    from twinstack.store import files

    with Line(f"copying {directory} …"):
        report = files.backup(directory, target)
    click.echo(f"{target}: {_told(report)}")


@store.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@_directory
def restore(source: Path, directory: Path) -> None:
    """Make a new data directory of a backup; one that has a store already is refused.

    \b
    Example:
      twinstack store restore /backups/monday.db /var/lib/twinstack-new
    """
    from twinstack.store import files

    with Line(f"making {directory} …"):
        report = files.restore(source, directory)
    click.echo(f"{directory}: {_told(report)}; start kube-apiserver with --data-dir={directory}")


@store.command()
@click.argument("source", metavar="DAMAGED-DATA-DIR", type=click.Path(path_type=Path))
@_directory
def rescue(source: Path, directory: Path) -> None:
    """Make a new data directory of what can still be read of a damaged one, when there is no backup. Stop its server first.

    Each row is known by its checksum, so what is rescued is what was written. What is known to be lost or older than it was is listed; status 1 then.

    \b
    Example:
      twinstack store rescue /var/lib/twinstack /var/lib/twinstack-new
    """
    from twinstack.store.rescue import rescue as rescue_from

    with Line(f"reading what can be read of {source} …"):
        found = rescue_from(source, directory)
    for words, keys in (("lost", found.lost), ("rescued as an older state", found.older)):
        for key in keys:
            click.echo(f"{words}: {key}")
    told = f"{found.objects:,} objects of {found.rows:,} rows; {found.refused:,} rows and {found.damaged_pages:,} pages were damaged"
    click.echo(f"{directory}: {told}; copy {source}/pki to it, and start kube-apiserver with --data-dir={directory}")
    if found.missing is None:
        click.echo("note: how many rows there were is lost, too; objects may be missing, older or back from their deletion without being named", err=True)
    elif found.missing:
        told = f"{found.missing:,} rows are missing, and so as many objects may be missing, older or back from their deletion without being named"
        click.echo(f"error: {told}", err=True)
    if found.lost or found.older:
        click.echo(f"error: {len(found.lost):,} objects are lost and {len(found.older):,} are older than they were", err=True)
    if found.lost or found.older or found.missing:
        sys.exit(1)


def _told(report: Report) -> str:
    return f"revision {report.revision:,}, {report.objects:,} objects in {report.rows:,} rows"
