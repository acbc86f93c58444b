"""Nodes that join a running cluster, and leave it.

Rule of this file: the order of things, as in ``lab.cluster``; a node that could not join leaves nothing behind.

Theory. A node has a number, from which its name and its addresses are computed; a node that joins takes the lowest that is
free. The others learn of it by the API alone: their kubelets take routes to the new node's pods, or let go of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import time
from contextlib import ExitStack, suppress

from twinstack.kernel import cgroups, namespaces, processes
from twinstack.kernel.errors import translated
from twinstack.kernel.mounts import unmount_below
from twinstack.lab import credentials, record, wiring
from twinstack.lab.cluster import order
from twinstack.lab.errors import LabError
from twinstack.lab.hosting import Order
from twinstack.lab.places import Places
from twinstack.lab.record import Record
from twinstack.lab.status import server_of

_ROUNDS = 20


def _record(places: Places) -> Record:
    found = record.read_record(places)
    if found is None:
        raise LabError(f"there is no cluster {places.name!r} on this machine; `twinstack up --name={places.name}` boots one")
    return found


def add(places: Places, wait_seconds: float = 30.0) -> tuple[str, float]:
    """Let one more node join; its name, and the seconds until it was ready."""
    began = time.monotonic()
    before = _record(places)
    there = {node.number for node in before.topology.nodes}
    number = next(number for number in itertools.count(1) if number not in there)
    after = before.with_numbers({*there, number})
    topology = after.topology
    node = next(node for node in topology.nodes if node.number == number)
    with ExitStack() as undo:
        undo.callback(_take_away, places, node.name)
        wiring.add(topology, places, node)
        credentials.add(topology, places, node)
        undo.callback(record.write, places.record, before)
        record.write(places.record, after)
        undo.callback(lambda: asyncio.run(_forget(places, before, node.name)))
        order(places, Order(add=node.name))
        undo.callback(_let_go, places, node.name)
        while time.monotonic() - began < wait_seconds:
            if asyncio.run(_is_ready(places, after, node.name)):
                undo.pop_all()
                return node.name, time.monotonic() - began
            time.sleep(0.05)
        raise LabError(f"node {node.name} is not ready after {wait_seconds:g} s: `twinstack logs --name {places.name} {node.name}/kubelet` may say why")


def remove(places: Places, name: str) -> float:
    """Let a node leave, with its pods; the seconds that it took."""
    began = time.monotonic()
    before = _record(places)
    there = {node.name: node.number for node in before.topology.nodes}
    if name not in there:
        raise LabError(f"there is no node {name} in cluster {places.name}; there are: {', '.join(there)}")
    if len(there) == 1:
        raise LabError(f"{name} is the only node; `twinstack down --name {places.name}` removes the cluster")
    _let_go(places, name)
    asyncio.run(_forget(places, before, name))
    _take_away(places, name)
    record.write(places.record, before.with_numbers(number for other, number in there.items() if other != name))
    return time.monotonic() - began


def _let_go(places: Places, name: str) -> None:
    """End a node's programs for good."""
    order(places, Order(remove=name))
    for _ in range(400):
        known = record.read_components(places)
        if not any(one.name.startswith(f"{name}/") for one in (known.components if known else [])):
            return
        time.sleep(0.02)
    raise LabError(f"the programs of {name} do not end")


def _take_away(places: Places, name: str) -> None:
    """Remove what a node has on this machine: processes, namespaces, wires, files."""
    pods = places.pod_netns_dir(name)
    paths = [places.netns(name), *(os.path.join(pods, entry) for entry in (os.listdir(pods) if os.path.isdir(pods) else []))]
    for _ in range(_ROUNDS):
        found = [pid for pid in namespaces.processes_in_any(paths) if pid != os.getpid()]
        if not found:
            break
        processes.end_all(found, 0)
    for path in paths:
        namespaces.remove(path)
    wiring.cut(places, name)
    cgroups.remove_named(places.control_group(name))
    with translated(f"remove the files of {name}"):
        for directory in (places.node_runtime(name), places.node_root(name)):
            unmount_below(directory)
            if os.path.isdir(directory):
                shutil.rmtree(directory)
        for path in (*credentials.files_of(places, name), places.kubeconfig(name)):
            with suppress(FileNotFoundError):
                os.unlink(path)


async def _is_ready(places: Places, known: Record, name: str) -> bool:
    # Heavy: the HTTP library, which other commands do without.
    from twinstack.api import errors
    from twinstack.api.kinds import Node
    from twinstack.api.objects import Key, view_of
    from twinstack.api.resources import resource_of
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client
    from twinstack.lab.programs import is_ready

    async with Client(kubeconfig.load(places.kubeconfig("admin"), server=server_of(known)), user_agent="twinstack") as client:
        with suppress(errors.NotFound):
            return is_ready(view_of(Node, await client.get(resource_of(Node), Key("", name))), len(known.topology.families))
    return False


async def _forget(places: Places, known: Record, name: str) -> None:
    """Delete the Node, so that nothing new comes to it, and the pods that were on it."""
    from twinstack.api import errors
    from twinstack.api.kinds import Node, Pod
    from twinstack.api.objects import Key
    from twinstack.api.resources import resource_of
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client

    pods = resource_of(Pod)
    async with Client(kubeconfig.load(places.kubeconfig("admin"), server=server_of(known)), user_agent="twinstack") as client:
        with suppress(errors.NotFound):
            await client.delete(resource_of(Node), Key("", name))
        for pod in (await client.list(pods, field_selector=f"spec.nodeName={name}"))["items"]:
            with suppress(errors.NotFound):
                await client.delete(pods, Key(pod["metadata"]["namespace"], pod["metadata"]["name"]), grace_period_seconds=0)
