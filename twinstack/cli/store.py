"""``twinstack store``: the API server's data, checked, backed up and restored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from twinstack.store.files import Report

_directory = click.argument("directory", metavar="DATA-DIR", type=click.Path(path_type=Path))


@click.group("store")
def store() -> None:
    """Check, back up and restore what the API server stores; DATA-DIR is its --data-dir."""


@store.command()
@_directory
def check(directory: Path) -> None:
    """Look at every page and every row, while the server runs or not. Status 1 when something is damaged."""
    from twinstack.store import files

    report = files.check(directory)
    for problem in report.problems:
        click.echo(f"{report.path}: {problem}")
    if report.problems:
        click.echo("error: the store is damaged; `twinstack store restore BACKUP NEW-DATA-DIR` makes a new one of a backup", err=True)
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

    report = files.restore(source, directory)
    click.echo(f"{directory}: {_told(report)}; start kube-apiserver with --data-dir={directory}")


def _told(report: Report) -> str:
    return f"revision {report.revision:,}, {report.objects:,} objects in {report.rows:,} rows"
