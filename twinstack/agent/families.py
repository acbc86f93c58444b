"""Readiness by family: what each family of a pod's addresses is found to be, and when the families disagree.

Rule of this file: pure. A readiness probe by TCP, HTTP or gRPC that names no host is made on every address of the
pod. What it finds at the first one is upstream's readiness; what it finds at each is kept in ``Seen.answers``, by
family, once a finding counts. The pod's condition of a family is True when each of its containers is ready there;
containers whose readiness is not asked over the network count as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from twinstack.agent.pods import NOTHING, Seen, is_sidecar
from twinstack.api.kinds import Container, Pod, Probe
from twinstack.net.cidr import parse_address
from twinstack.net.family import Family
from twinstack.rules.readiness import condition_type


class Told(NamedTuple):
    """A condition: whether it is true, why not, and what to say of it."""

    true: bool
    reason: str = ""
    message: str = ""


def families_of(addresses: Sequence[str]) -> dict[Family, str]:
    """The first address of each family, in the order of the pod's addresses."""
    found: dict[Family, str] = {}
    for text in addresses:
        found.setdefault(Family.of(parse_address(text)), text)
    return found


def is_asked_by_family(probe: Probe | None) -> bool:
    """Whether a probe goes to the pod's addresses, and so to each family's."""
    if probe is None:
        return False
    if probe.httpGet is not None:
        return not probe.httpGet.host
    if probe.tcpSocket is not None:
        return not probe.tcpSocket.host
    return probe.grpc is not None


def _serving_ones(pod: Pod) -> Iterator[Container]:
    """The containers on whose readiness the pod's depends."""
    yield from pod.spec.containers
    yield from (container for container in pod.spec.initContainers or () if is_sidecar(container))


def serves(container: Container, one: Seen, family: Family) -> bool:
    """Whether a container is ready in a family."""
    if not is_asked_by_family(container.readinessProbe):
        return one.serving
    return one.running and one.started and one.answers.get(family, False)


def conditions(pod: Pod, seen: Mapping[str, Seen], addresses: Sequence[str], over: Told | None) -> dict[str, Told]:
    """The condition of each family that the pod has an address of, by type; *over* is why the pod serves no more.

    None where nothing is asked over the network, unless one of the pod's readiness gates waits for it.
    """
    gates = {str(gate.get("conditionType", "")) for gate in pod.spec.readinessGates or ()}
    asked = any(is_asked_by_family(container.readinessProbe) for container in _serving_ones(pod))
    told = {}
    for family in families_of(addresses):
        if asked or condition_type(family) in gates:
            dead = [one.name for one in _serving_ones(pod) if not serves(one, seen.get(one.name, NOTHING), family)]
            text = f"containers that are not ready over {family}: [{' '.join(dead)}]"
            told[condition_type(family)] = over or (Told(False, "ContainersNotReady", text) if dead else Told(True))
    return told


def dead_families(pod: Pod, seen: Mapping[str, Seen], addresses: Sequence[str]) -> frozenset[Family] | None:
    """The families that do not answer while another does: empty when they agree, None while that cannot be told."""
    families = families_of(addresses)
    dead: set[Family] = set()
    for container in _serving_ones(pod):
        one = seen.get(container.name, NOTHING)
        if is_asked_by_family(container.readinessProbe):
            if not (one.running and one.started and one.ending is None and families.keys() <= one.answers.keys()):
                return None
            dead |= {family for family in families if not one.answers[family]}
    return frozenset(dead) if len(dead) < len(families) else frozenset()


def names_of(families: Sequence[Family] | frozenset[Family]) -> str:
    """The families' names, to be read."""
    return " and ".join(sorted(family.value for family in families))
