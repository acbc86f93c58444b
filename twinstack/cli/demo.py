"""``twinstack demo``: apply the examples, try every path of the cluster in both families, and print what was found."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twinstack.cli.cluster import color_option, colors, name_option, places_of
from twinstack.net.errors import Error

if TYPE_CHECKING:
    from twinstack.api.kinds import Service
    from twinstack.client.client import Client
    from twinstack.client.kubeconfig import Connection
    from twinstack.prove.matrix import Row
    from twinstack.prove.sight import Layout

NAMESPACE, MANY, ALONE, POD_PORT = "demo", "web", "alone", 8080
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GONE_SECONDS = 60.0

Progress = Callable[[str], None]


class DemoError(Error):
    """The demo cannot begin; the message says what is missing."""


@click.command()
@name_option
@color_option
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", show_default=True, help="A table for people, or a document for programs."
)
@click.option("--keep", is_flag=True, help="Leave the demo's objects in the cluster.")
@click.option(
    "--examples", type=click.Path(path_type=Path, file_okay=False), default=EXAMPLES, help="Another folder of the same manifests.  [default: examples]"
)
@click.option("--kubeconfig", default="", help="The kubeconfig with the cluster's context; the one that `up` wrote to when left out.")
@click.option("--timeout", "timeout_seconds", type=float, default=60.0, show_default=True, help="How many seconds the pods may take to be ready.")
@click.option("--settle", "settle_seconds", type=float, default=10.0, show_default=True, help="For how many seconds a connection that fails is tried again.")
def demo(name: str, color: bool | None, output: str, keep: bool, examples: Path, kubeconfig: str, timeout_seconds: float, settle_seconds: float) -> None:
    """Measure every path of a cluster in both families, with the manifests of examples/ in the namespace `demo`.

    Exit status 1 when any cell that should work does not.

    \b
    Examples:
      twinstack demo
      twinstack demo --keep
      twinstack demo -o json > paths.json
    """
    # Heavy: the HTTP library, rich.
    import yaml
    from rich.console import Console

    from twinstack.prove import report

    connection, layout = _cluster(name, kubeconfig)
    errors = Console(stderr=True, no_color=not colors(color))
    with errors.status("looking at the cluster") as status:
        rows = asyncio.run(
            _run(connection, layout, examples, keep=keep, timeout_seconds=timeout_seconds, settle_seconds=settle_seconds, progress=status.update)
        )
    found = report.document(rows, name, layout.families)
    if output == "json":
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    elif output == "yaml":
        click.echo(yaml.safe_dump(found, sort_keys=False, allow_unicode=True), nl=False)
    else:
        families = ",".join(map(str, layout.families))
        # Piped into a file, the table is as wide as it needs to be.
        console = Console(no_color=not colors(color), force_terminal=color, width=None if sys.stdout.isatty() else 120)
        console.print(report.table(rows, f"Cluster {name} ({families}), {len(layout.nodes)} nodes"))
    for line in report.failures(rows):
        errors.print(f"✗ {line}", style="red", soft_wrap=True, markup=False, highlight=False)
    if not report.works(rows):
        sys.exit(1)


def _cluster(name: str, kubeconfig: str) -> tuple[Connection, Layout]:
    """How to talk to a cluster of this machine, and where its places are."""
    from twinstack.client import kubeconfig as files
    from twinstack.kernel import namespaces
    from twinstack.lab import clusterdns
    from twinstack.lab.record import read_record
    from twinstack.net.family import ByFamily
    from twinstack.prove.matrix import Place
    from twinstack.prove.sight import Layout

    places = places_of(name)
    record = read_record(places)
    if record is None or not namespaces.exists(places.netns("fabric")):
        raise DemoError(f"there is no cluster {name!r} on this machine; `twinstack up --name={name}` boots one")
    if os.geteuid() != 0:
        raise DemoError("the demo opens connections inside the cluster's network namespaces, which only root may do: run it with sudo")
    topology = record.topology

    def place(machine: Any, families: Sequence[Any]) -> Place:
        return Place(machine.name, places.netns(machine.name), ByFamily((one, machine.addresses[one]) for one in families), machine.name)

    layout = Layout(
        families=topology.families,
        nodes=tuple(place(node, topology.families) for node in topology.nodes),
        outside=place(topology.outside, topology.families),
        pod_netns=lambda node, uid: f"{places.pod_netns_dir(node)}/{uid}",
        resolvers=ByFamily.of(clusterdns.addresses(topology)),
        unmasqueraded=topology.unmasqueraded,
    )
    return files.load(kubeconfig or record.kubeconfig or None, context=topology.context), layout


async def _run(
    connection: Connection, layout: Layout, examples: Path, *, keep: bool, timeout_seconds: float, settle_seconds: float, progress: Progress
) -> list[Row]:
    from twinstack.client.client import Client
    from twinstack.client.manifests import read_folder
    from twinstack.prove import matrix, measurement, sight

    documents = read_folder(examples)
    async with Client(connection, user_agent="twinstack-demo") as client:
        try:
            replicas, refusals, wanted = await _apply(client, documents, layout, progress)
            seen = await sight.wait_until_ready(
                client, NAMESPACE, replicas, timeout_seconds=timeout_seconds, progress=lambda text: progress(f"waiting: {text}")
            )
            async with measurement.echo_server(layout.outside) as outside_port:
                view = sight.sight_of(seen, layout, many=MANY, alone=ALONE, outside_port=outside_port, pod_port=POD_PORT, refusals=refusals, wanted=wanted)
                paths = matrix.plan(view)
                return await measurement.walk(
                    paths, layout.families, settle_seconds=settle_seconds, progress=lambda path: progress(f"trying {path.way} {path.subject}")
                )
        finally:
            if not keep:
                await _clean_up(client, progress)


async def _apply(client: Client, documents: list[dict[str, Any]], layout: Layout, progress: Progress) -> tuple[dict[str, int], dict[str, str], list[Service]]:
    """Apply the manifests: the pods of each Deployment, the refusals of Services, and the Services as they were asked for."""
    from twinstack.api import errors, kinds
    from twinstack.api.objects import Key, view_of
    from twinstack.api.resources import resource_of
    from twinstack.prove.sight import wait_until_gone

    namespaces = resource_of(kinds.Namespace)
    try:
        if (await client.get(namespaces, Key("", NAMESPACE)))["metadata"].get("deletionTimestamp"):
            progress("waiting for the last demo to be gone")
            if not await wait_until_gone(client, NAMESPACE, timeout_seconds=GONE_SECONDS):
                raise DemoError(f"namespace {NAMESPACE} is being deleted, and still is after {GONE_SECONDS:g} s")
    except errors.NotFound:
        pass
    replicas: dict[str, int] = {}
    refusals: dict[str, str] = {}
    wanted: list[Service] = []
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        progress(f"applying {kind} {name}")
        if kind == "Deployment":
            if name == MANY:  # one more than nodes: two of them share one
                document["spec"]["replicas"] = max(document["spec"]["replicas"], len(layout.nodes) + 1)
            replicas[name] = document["spec"]["replicas"]
        if kind == "Service":
            wanted.append(view_of(kinds.Service, document))
        try:
            await client.apply(document, namespace=NAMESPACE)
        except errors.Invalid as error:
            if kind != "Service":
                raise
            refusals[name] = error.message
    return replicas, refusals, wanted


async def _clean_up(client: Client, progress: Progress) -> None:
    from twinstack.api import errors, kinds
    from twinstack.api.objects import Key
    from twinstack.api.resources import resource_of

    progress("removing the demo's objects")
    try:
        await client.delete(resource_of(kinds.Namespace), Key("", NAMESPACE))
    except (errors.NotFound, errors.Conflict):
        pass
    except errors.APIError as error:
        click.echo(f"the demo's objects could not be removed: {error}", err=True)
