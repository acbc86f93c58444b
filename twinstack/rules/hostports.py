"""Ports of the node itself that pods take, in which family.

Rule of this file: a pod's ports in; whether two of them can both be had, out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from twinstack.api.kinds import Pod
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family

_EVERYWHERE = {"", *(family.facts.unspecified for family in FAMILIES)}


class HostPort(NamedTuple):
    """A port of the node: taken in both families where no address is said, with an unspecified one in all of one."""

    protocol: str
    number: int
    address: str


def host_ports(pod: Pod) -> list[HostPort]:
    """The node's ports that the pod takes."""
    ports = []
    sidecars = (container for container in pod.spec.initContainers or () if container.restartPolicy == "Always")
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports or ():
            number = port.hostPort or (port.containerPort if pod.spec.hostNetwork else 0)
            if number:
                ports.append(HostPort(port.protocol, number, port.hostIP))
    return ports


def first_clash(wanted: Iterable[HostPort], taken: Collection[HostPort]) -> HostPort | None:
    """The first wanted port that cannot be had beside those."""
    return next((one for one in wanted for other in taken if _clash(one, other)), None)


def _clash(one: HostPort, other: HostPort) -> bool:
    if one[:2] != other[:2]:
        return False
    shared = any(family in _families_of(other.address) for family in _families_of(one.address))
    return shared and (one.address == other.address or one.address in _EVERYWHERE or other.address in _EVERYWHERE)


def _families_of(text: str) -> Collection[Family]:
    if not text:
        return FAMILIES
    try:
        return (Family.of(parse_address(text)),)
    except AddressError:
        return FAMILIES
