"""What is written down about a cluster: what was asked for, and what its supervisor knows of its components."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from typing import Any

import msgspec

from twinstack.kernel.errors import translated
from twinstack.lab.errors import LabError
from twinstack.lab.places import Places
from twinstack.lab.topology import Request, Topology, plan
from twinstack.net.family import Family


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What ``up`` was asked for, as flags; the topology is computed from it again."""

    name: str
    families: str
    nodes: int  # the highest number of one
    pod_cidr: str
    service_cidr: str
    masks: dict[str, int]
    port: int
    created: float  # seconds since 1970
    version: str
    kubeconfig: str = ""  # the user's file that our context was merged into
    verbosity: int = 0
    network: str = "direct"
    vxlan_underlay: str = ""
    no_masquerade: str = ""
    announce: str = "l2"
    dns_forward: str = ""
    dns_hide_dead_families: bool = False
    gone: tuple[int, ...] = ()  # the numbers of nodes that have left

    @staticmethod
    def of(topology: Topology, *, created: float, version: str, kubeconfig: str, verbosity: int = 0) -> Record:
        return Record(
            name=topology.name,
            families=",".join(map(str, topology.families)),
            nodes=topology.nodes[-1].number,
            pod_cidr=",".join(map(str, topology.pod_cidrs.values())),
            service_cidr=",".join(map(str, topology.service_cidrs.values())),
            masks={family.value: size for family, size in topology.masks.items()},
            port=topology.port,
            created=created,
            version=version,
            kubeconfig=kubeconfig,
            verbosity=verbosity,
            network=topology.network,
            vxlan_underlay=str(topology.vxlan_underlay or ""),
            no_masquerade=",".join(map(str, topology.unmasqueraded)),
            announce=topology.announce,
            dns_forward=",".join(topology.dns_forward),
            dns_hide_dead_families=topology.dns_hide_dead_families,
        )

    def with_numbers(self, numbers: Iterable[int]) -> Record:
        """The record of the same cluster with the nodes of these numbers."""
        there = set(numbers)
        return msgspec.structs.replace(self, nodes=max(there), gone=tuple(number for number in range(1, max(there)) if number not in there))

    @property
    def topology(self) -> Topology:
        masks = {Family(name): size for name, size in self.masks.items()}
        result = plan(
            Request(
                name=self.name,
                families=self.families,
                nodes=self.nodes,
                gone=self.gone,
                pod_cidr=self.pod_cidr,
                service_cidr=self.service_cidr,
                masks=masks,
                port=self.port,
                network=self.network,
                vxlan_underlay=self.vxlan_underlay,
                no_masquerade=self.no_masquerade,
                announce=self.announce,
                dns_forward=self.dns_forward,
                dns_hide_dead_families=self.dns_hide_dead_families,
            )
        )
        if isinstance(result, Topology):
            return result
        raise LabError(f"the record of cluster {self.name} is of no use: {result[0]}")


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One program of a cluster. ``since`` is when it began to serve, or was started when it does not yet; seconds since 1970."""

    name: str  # kube-apiserver, node1/kubelet
    pid: int
    state: str  # starting, running, failed
    since: float
    restarts: int = 0
    message: str = ""  # why it failed last


class Components(msgspec.Struct, frozen=True, kw_only=True):
    """All programs of a cluster, and the process that looks after them."""

    supervisor: int
    components: list[Component] = []


def write(path: str, value: msgspec.Struct, *, mode: int = 0o644) -> None:
    """Put a record in its place, whole or not at all."""
    directory = os.path.dirname(path)
    with translated(f"write {path}"):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=directory, prefix=".draft-")
        try:
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(value))
            os.chmod(draft, mode)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise


def _read(path: str, kind: type[Any]) -> Any:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):  # none, or of an older version
        return None


def read_record(places: Places) -> Record | None:
    """What was asked for; None where there is no cluster, or one of another version."""
    result: Record | None = _read(places.record, Record)
    return result


def read_components(places: Places) -> Components | None:
    """What the supervisor wrote last; None where none has."""
    result: Components | None = _read(places.components, Components)
    return result
