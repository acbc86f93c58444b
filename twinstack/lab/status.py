"""What is known of a cluster, as documents: from its record, its supervisor's file, and the API server where it answers."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

from twinstack.kernel import processes
from twinstack.lab import record, removal
from twinstack.lab.errors import LabError
from twinstack.lab.places import MARK, Places
from twinstack.lab.record import Record
from twinstack.lab.topology import Topology
from twinstack.net.cidr import host_port
from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES

Document = dict[str, Any]


def server_of(one: Record) -> str:
    """The address that the user's kubectl goes to."""
    return f"https://{host_port(FAMILIES[0].facts.loopback, one.port)}"


def is_running(places: Places) -> bool:
    """Whether the cluster's supervisor lives."""
    known = record.read_components(places)
    return known is not None and processes.alive(known.supervisor) and processes.variable(known.supervisor, MARK) == places.name


def clusters() -> list[Document]:
    """The clusters of this machine, and what is left of some."""
    found = []
    for name in removal.names():
        places = removal.find(name)
        one = record.read_record(places)
        state = "running" if is_running(places) else "stopped" if one else "remains"
        document: Document = {"name": name, "state": state}
        if one is not None:
            document |= {"families": one.families.split(","), "nodes": one.nodes - len(one.gone), "created": one.created, "server": server_of(one)}
        found.append(document)
    return found


def record_of(places: Places) -> Record:
    """The record of a cluster; LabError when there is none."""
    one = record.read_record(places)
    if one is not None:
        return one
    if removal.exists(places):
        raise LabError(f"something is left of a cluster {places.name}, but it is none: `twinstack down --name {places.name}` removes it")
    others = ", ".join(removal.names())
    raise LabError(f"there is no cluster {places.name}" + (f"; there are: {others}" if others else "; `twinstack up` makes one"))


def summary(topology: Topology, *, server: str, kubeconfig_file: str) -> Document:
    """A cluster's families and addresses."""
    return {
        "name": topology.name,
        "families": [str(family) for family in topology.families],
        "context": topology.context,
        "kubeconfig": kubeconfig_file,
        "server": server,
        "podCIDRs": [str(network) for network in topology.pod_cidrs.values()],
        "serviceCIDRs": [str(network) for network in topology.service_cidrs.values()],
        "nodes": [{"name": node.name, "addresses": [str(address) for address in topology.node_addresses(node)]} for node in topology.nodes],
        "controlPlane": [str(address) for address in topology.node_addresses(topology.control_plane)],
        "outside": [str(address) for address in topology.node_addresses(topology.outside)],
        "network": topology.network,
        "announce": topology.announce,
    }


def status(places: Places) -> Document:
    """All that is known; ``problem`` says what of it could not be asked for, ``healthy`` whether all is as it should be."""
    one = record_of(places)
    document = summary(one.topology, server=server_of(one), kubeconfig_file=one.kubeconfig)
    running = is_running(places)
    components = record.read_components(places)
    document |= {"created": one.created, "ageSeconds": round(time.time() - one.created, 1), "supervisor": "running" if running else "gone"}
    document["components"] = [
        {
            "name": component.name,
            "state": component.state if processes.alive(component.pid) or component.state != "running" else "gone",
            "pid": component.pid,
            "ageSeconds": round(time.time() - component.since, 1),
            "restarts": component.restarts,
            **({"message": component.message} if component.message else {}),
        }
        for component in (components.components if components else [])
    ]
    try:
        document["nodes"] = [_node(node) for node in asyncio.run(_list_nodes(places, server_of(one)))]
    except (Error, TimeoutError) as error:
        document["problem"] = f"the API server does not answer: {str(error) or 'no answer within 3 s'}"
    document["healthy"] = (
        running
        and "problem" not in document
        and all(component["state"] == "running" for component in document["components"])
        and sum(node.get("ready", False) for node in document["nodes"]) == one.nodes - len(one.gone)
    )
    return document


async def _list_nodes(places: Places, server: str) -> list[Document]:
    # Heavy: the HTTP library, which `list` does without.
    from twinstack.api.kinds import Node
    from twinstack.api.resources import resource_of
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client

    connection = kubeconfig.load(places.kubeconfig("admin"), server=server)
    async with asyncio.timeout(3), Client(connection, user_agent="twinstack") as client:
        listed = await client.list(resource_of(Node))
    items: list[Document] = listed.get("items") or []
    return items


async def find_pod(places: Places, server: str, name: str) -> tuple[str, str] | None:
    """The node and uid of a pod, given as NAME or NAMESPACE/NAME; None when there is none."""
    from twinstack.api import errors
    from twinstack.api.kinds import Pod
    from twinstack.api.objects import Key
    from twinstack.api.resources import resource_of
    from twinstack.client import kubeconfig
    from twinstack.client.client import Client

    connection = kubeconfig.load(places.kubeconfig("admin"), server=server)
    key = Key.parse(name if "/" in name else f"default/{name}")
    async with asyncio.timeout(3), Client(connection, user_agent="twinstack") as client:
        try:
            pod = await client.get(resource_of(Pod), key)
        except errors.NotFound:
            return None
    return str(pod.get("spec", {}).get("nodeName", "")), str(pod["metadata"]["uid"])


def _node(node: Document) -> Document:
    state = node.get("status") or {}
    conditions = {condition.get("type"): condition.get("status") for condition in state.get("conditions") or []}
    return {
        "name": node["metadata"]["name"],
        "ready": conditions.get("Ready") == "True",
        "addresses": [one["address"] for one in state.get("addresses") or [] if one.get("type") == "InternalIP"],
        "podCIDRs": (node.get("spec") or {}).get("podCIDRs") or [],
        "created": node["metadata"].get("creationTimestamp", ""),
        "ageSeconds": max(0.0, round(time.time() - datetime.fromisoformat(node["metadata"]["creationTimestamp"]).timestamp(), 1)),
    }
