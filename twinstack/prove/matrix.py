"""The matrix of paths: who must reach whom, over which family, and what the answer must say.

Rule of this file: what the cluster has goes in, paths come out, and answers become cells. No socket is opened here.

Theory. A path is proved for a family by connections that were really made, each from a place of its own (a network
namespace), and by what the other side says of them: who it is, and whom it saw. So a connection that is answered by
the wrong pod fails, and so does one whose source address was rewritten where it must not be (pod to pod) or was
not where it must be (pod to outside). A cell of a family that the path need not have shows nothing, but one whose path is
owed and missing fails: what was never tried proves nothing. A Service that this cluster must refuse (RequireDualStack
with one family, a family that it has not) succeeds by being refused.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from twinstack.api import kinds
from twinstack.net.cidr import host_port, parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Address, ByFamily, Family

MOST_ATTEMPTS = 24  # of one path and family: enough for every pair of a small cluster


class Place(NamedTuple):
    """Where a socket can be opened: a pod, a node or outside; *addresses* are its own, *node* the node it is on."""

    name: str
    netns: str  # the file of its network namespace
    addresses: ByFamily[Address] = ByFamily()
    node: str = ""


class Attempt(NamedTuple):
    """One connection to be made, and what its answer must say; an empty set lets anything pass."""

    source: Place
    address: Address
    port: int
    protocol: str = "TCP"
    answerers: frozenset[str] = frozenset()  # names of pods
    seen_as: frozenset[Address] = frozenset()  # the addresses that the other side may see the source as
    name: str = ""  # absolute; must be found to lead to the address
    resolver: Address | None = None  # which is asked for it

    def __str__(self) -> str:
        to = host_port(self.address, self.port)
        return f"{self.source.name} → {f'{self.name} as {to}' if self.name else to}/{self.protocol}"


class Reply(NamedTuple):
    """What came back, and how long connecting, asking and hearing took."""

    seconds: float
    pod: str = ""
    client: str = ""


class State(enum.Enum):
    """What a cell shows."""

    WORKS = "works"
    FAILS = "fails"
    REFUSED = "refused"  # the API server refused the Service, as it must
    ABSENT = "absent"  # there is no such path in this family here


class Cell(NamedTuple):
    """One path in one family."""

    state: State
    seconds: float | None = None  # the median of all connections
    connections: int = 0
    detail: str = ""


class Path(NamedTuple):
    """One row: a way through the cluster, what it leads to, and the connections that prove it."""

    way: str
    subject: str = ""
    attempts: ByFamily[tuple[Attempt, ...]] = ByFamily()
    verdict: Cell | None = None  # known without a connection
    absent: str = ""  # why a family without attempts has none
    owed: frozenset[Family] = frozenset()  # the families in which there must be such a path: that there is none is a failure


class Row(NamedTuple):
    """A path and what was found."""

    way: str
    subject: str
    cells: ByFamily[Cell]

    @property
    def works(self) -> bool:
        return all(cell.state is not State.FAILS for cell in self.cells.values())


class Sight(NamedTuple):
    """All that a plan needs to know of a cluster."""

    families: tuple[Family, ...]  # of the cluster, primary first
    pods: Sequence[Place]  # of the Deployment behind the Services
    alone: Sequence[Place]  # pods of the Service that calls itself
    nodes: Sequence[Place]
    outside: Place
    outside_port: int
    pod_port: int
    services: Mapping[str, kinds.Service]
    own_service: str  # the name of the Service that only *alone* answers
    slices: Sequence[kinds.EndpointSlice]
    refusals: Mapping[str, str]  # Service → what the API server said when it refused it
    wanted: Sequence[kinds.Service]  # as the manifests have them
    resolvers: ByFamily[Address] = ByFamily()  # where pods look names up
    domain: str = "cluster.local"
    unmasqueraded: tuple[Family, ...] = ()  # families whose pods reach outside under their own addresses


def plan(sight: Sight) -> list[Path]:
    """Every path to be tried, in the order of the table."""
    inside = [*_between_pods(sight), *_to_cluster_ips(sight), *_headless(sight), *_by_name(sight)]
    paths = [*inside, *_to_node_ports(sight), *_to_balancers(sight), *_hairpin(sight), *_to_outside(sight)]
    ways: dict[str, list[Path]] = {}
    for path in [*paths, *_verdicts(sight)]:
        ways.setdefault(path.way, []).append(path)
    return [path for together in ways.values() for path in together]


def judge(attempt: Attempt, reply: Reply) -> str:
    """What is wrong with an answer; empty when it is as it must be."""
    if attempt.answerers and reply.pod not in attempt.answerers:
        return f"{attempt}: {reply.pod or 'somebody unknown'} answered, not {' or '.join(sorted(attempt.answerers))}"
    if attempt.seen_as:
        try:
            seen = parse_address(reply.client)
        except AddressError:
            return f"{attempt}: the other side saw {reply.client!r}, which is no address"
        if seen not in attempt.seen_as:
            return f"{attempt}: the other side saw {seen}, not {' or '.join(sorted(map(str, attempt.seen_as)))}"
    return ""


def cell_of(replies: Sequence[Reply], wrong: str) -> Cell:
    """The cell of a path's answers in one family."""
    median = statistics.median(reply.seconds for reply in replies) if replies else None
    return Cell(State.FAILS if wrong else State.WORKS, median, len(replies), wrong)


def expected_families(service: kinds.Service, families: Sequence[Family]) -> tuple[Family, ...]:
    """The families, in order, that a cluster of these families owes to a Service of a manifest."""
    asked = tuple(Family(name) for name in service.spec.ipFamilies) or tuple(families[:1])
    if service.spec.ipFamilyPolicy in ("PreferDualStack", "RequireDualStack"):
        return (*asked, *(family for family in families if family not in asked))
    return asked[:1]


def must_be_refused(service: kinds.Service, families: Sequence[Family]) -> bool:
    """Whether a cluster of these families must refuse a Service: it asks for a family, or for two, where there is none."""
    known = {family.value for family in families}
    return any(name not in known for name in service.spec.ipFamilies) or (service.spec.ipFamilyPolicy == "RequireDualStack" and len(families) < 2)


# ---- rows


def _between_pods(sight: Sight) -> Iterable[Path]:
    pairs = [(one, other) for one in sight.pods for other in sight.pods if one is not other]
    for way, near, reason in (("pod → pod, same node", True, "no two pods share a node"), ("pod → pod, across nodes", False, "all pods are on one node")):
        chosen = [(one, other) for one, other in pairs if (one.node == other.node) is near]
        yield Path(way, "", _by_family(sight, partial(_pod_attempts, chosen, sight.pod_port)), absent=reason, owed=_all(sight, chosen))


def _pod_attempts(pairs: Sequence[tuple[Place, Place]], port: int, family: Family) -> Iterable[Attempt]:
    for one, other in pairs:
        if family in other.addresses and family in one.addresses:
            yield Attempt(one, other.addresses[family], port, answerers=frozenset((other.name,)), seen_as=frozenset((one.addresses[family],)))


def _to_cluster_ips(sight: Sight) -> Iterable[Path]:
    for kind, sources in (("pod", _one_a_node(sight.pods)), ("node", sight.nodes)):
        for name, service in sight.services.items():
            for port in service.spec.ports if name != sight.own_service and addresses_of(service) else ():
                protocol = "" if port.protocol == "TCP" else f", {port.protocol}"
                yield Path(
                    f"{kind} → ClusterIP{protocol}",
                    _described(name, service),
                    _by_family(sight, partial(_cluster_ip_attempts, sight, service, port, sources)),
                    absent="the Service has no address of this family",
                    owed=_owed(sight, name),
                )


def _cluster_ip_attempts(sight: Sight, service: kinds.Service, port: kinds.ServicePort, sources: Sequence[Place], family: Family) -> Iterable[Attempt]:
    address = addresses_of(service).get(family)
    if address is not None:
        answerers = frozenset(pod.name for pod in sight.pods)
        yield from (Attempt(source, address, port.port, port.protocol, answerers) for source in sources)


def _headless(sight: Sight) -> Iterable[Path]:
    for name, service in sight.services.items():
        if service.spec.clusterIP == "None":
            yield Path(
                "pod → headless endpoints",
                _described(name, service),
                _by_family(sight, partial(_endpoint_attempts, sight, name)),
                absent="the Service has no endpoints of this family",
                owed=_owed(sight, name),
            )


def _endpoint_attempts(sight: Sight, service: str, family: Family) -> Iterable[Attempt]:
    sources = _one_a_node(sight.pods)
    for one in sight.slices:
        if one.labels.get("kubernetes.io/service-name") == service and one.addressType == family.value:
            port = next((port.port for port in one.ports or () if port.port), sight.pod_port)
            for endpoint in one.endpoints or ():
                name = endpoint.targetRef.name if endpoint.targetRef else ""
                for source in sources:
                    if source.name != name:
                        yield Attempt(source, parse_address(endpoint.addresses[0]), port, answerers=frozenset((name,)) if name else frozenset())


def _by_name(sight: Sight) -> Iterable[Path]:
    """A Service by its name: looked up over each family, for the addresses of that family, which must lead to its pods."""
    for name, service in sight.services.items():
        if sight.resolvers and name != sight.own_service and (addresses_of(service) or service.spec.clusterIP == "None"):
            yield Path(
                "pod → Service by name",
                f"{name}.{service.metadata.namespace}",
                _by_family(sight, partial(_name_attempts, sight, service)),
                absent="the Service has no address of this family",
                owed=_owed(sight, name),
            )


def _name_attempts(sight: Sight, service: kinds.Service, family: Family) -> Iterable[Attempt]:
    name = f"{service.metadata.name}.{service.metadata.namespace}.svc.{sight.domain}."
    resolver = sight.resolvers.get(family)
    direct = (
        _endpoint_attempts(sight, service.metadata.name, family)
        if service.spec.clusterIP == "None"
        else _cluster_ip_attempts(sight, service, service.spec.ports[0], _one_a_node(sight.pods), family)
    )
    if resolver is not None:
        yield from (attempt._replace(name=name, resolver=resolver) for attempt in direct)


def _to_node_ports(sight: Sight) -> Iterable[Path]:
    for name, service in sight.services.items():
        for port in service.spec.ports:
            if port.nodePort:
                for node in sight.nodes:
                    yield Path(
                        "outside → NodePort",
                        f"{name} on {node.name}, port {port.nodePort}",
                        _by_family(sight, partial(_node_port_attempts, sight, service, port, node)),
                        absent="the Service is not of this family",
                        owed=_owed(sight, name),
                    )


def _node_port_attempts(sight: Sight, service: kinds.Service, port: kinds.ServicePort, node: Place, family: Family) -> Iterable[Attempt]:
    if family in addresses_of(service) and family in node.addresses:
        answerers = frozenset(pod.name for pod in sight.pods)
        # Twice, as the answering pod is drawn by lot and may be on this node or on another.
        yield from [Attempt(sight.outside, node.addresses[family], port.nodePort, port.protocol, answerers)] * 2


def _to_balancers(sight: Sight) -> Iterable[Path]:
    for name, service in sight.services.items():
        if service.spec.type == "LoadBalancer":
            yield Path(
                "outside → LoadBalancer",
                _described(name, service),
                _by_family(sight, partial(_balancer_attempts, sight, service)),
                absent="the Service is not of this family",
                owed=_owed(sight, name),
            )


def _balancer_attempts(sight: Sight, service: kinds.Service, family: Family) -> Iterable[Attempt]:
    answerers = frozenset(pod.name for pod in sight.pods)
    for address in balancers_of(service):
        if Family.of(address) is family:
            for port in service.spec.ports:
                # Twice, as the answering pod is drawn by lot and may be on the node that has the address or on another.
                yield from [Attempt(sight.outside, address, port.port, port.protocol, answerers)] * 2


def _hairpin(sight: Sight) -> Iterable[Path]:
    service = sight.services.get(sight.own_service)
    if service is not None:
        attempts = _by_family(sight, partial(_hairpin_attempts, sight, service))
        yield Path(
            "pod → its own Service",
            _described(sight.own_service, service),
            attempts,
            absent="the Service has no address of this family",
            owed=_owed(sight, sight.own_service),
        )


def _hairpin_attempts(sight: Sight, service: kinds.Service, family: Family) -> Iterable[Attempt]:
    address = addresses_of(service).get(family)
    if address is not None:
        for pod in sight.alone:
            yield Attempt(pod, address, service.spec.ports[0].port, answerers=frozenset((pod.name,)))


def _to_outside(sight: Sight) -> Iterable[Path]:
    nodes = {node.name: node for node in sight.nodes}

    def attempts(family: Family) -> Iterable[Attempt]:
        for pod in _one_a_node(sight.pods):
            if family in sight.outside.addresses and pod.node in nodes and family in pod.addresses:
                own = (pod if family in sight.unmasqueraded else nodes[pod.node]).addresses.get(family)
                yield Attempt(pod, sight.outside.addresses[family], sight.outside_port, seen_as=frozenset((own,)) if own else frozenset())

    kept = f", {' and '.join(map(str, sight.unmasqueraded))} under its own address" if sight.unmasqueraded else ""
    yield Path(
        "pod → outside",
        f"masqueraded as its node{kept}",
        _by_family(sight, attempts),
        absent="no pod has an address of this family",
        owed=frozenset(sight.families),
    )


def _verdicts(sight: Sight) -> Iterable[Path]:
    """What the API server's answers alone tell."""

    def row(way: str, service: kinds.Service, detail: str, state: State = State.FAILS) -> Path:
        return Path(way, _described(service.metadata.name, service), verdict=Cell(state, detail=detail))

    for service in sight.wanted:
        name, must = service.metadata.name, must_be_refused(service, sight.families)
        told, found = sight.refusals.get(name), sight.services.get(name)
        if told is not None:
            yield row("Service refused", service, told, State.REFUSED) if must else row("Service refused", service, f"{name} should be accepted here: {told}")
        elif must:
            yield row("Service accepted", service, f"{name} must be refused by a cluster of these families")
        elif found is None:
            yield row("Service missing", service, f"{name} was applied and is not there")
        elif tuple(found.spec.ipFamilies) != (owed := tuple(map(str, expected_families(service, sight.families)))):
            yield row("Service families", found, f"{name} has the families {','.join(found.spec.ipFamilies)}, and is owed {','.join(owed)}")


# ---- parts


def _owed(sight: Sight, name: str) -> frozenset[Family]:
    """The families that this cluster owes to a Service."""
    return frozenset(family for one in sight.wanted if one.metadata.name == name for family in expected_families(one, sight.families))


def _all(sight: Sight, some: Sequence[object]) -> frozenset[Family]:
    """Every family of the cluster, if there is anything to try."""
    return frozenset(sight.families) if some else frozenset()


def addresses_of(service: kinds.Service) -> ByFamily[Address]:
    """The cluster IPs of a Service by their family; none of a headless one."""
    if service.spec.clusterIP in ("", "None"):
        return ByFamily()
    return ByFamily.of(parse_address(text) for text in service.spec.clusterIPs)


def balancers_of(service: kinds.Service) -> list[Address]:
    """The load balancer's addresses of a Service."""
    return [parse_address(one.ip) for one in service.status.loadBalancer.ingress or () if one.ip]


def _by_family(sight: Sight, attempts: Callable[[Family], Iterable[Attempt]]) -> ByFamily[tuple[Attempt, ...]]:
    made = ((family, tuple(attempts(family))[:MOST_ATTEMPTS]) for family in sight.families)
    return ByFamily((family, found) for family, found in made if found)


def _one_a_node(pods: Sequence[Place]) -> list[Place]:
    """The first pod of each node: a path is a matter of nodes, not of pods."""
    return list({pod.node: pod for pod in reversed(pods)}.values())[::-1]


def _described(name: str, service: kinds.Service) -> str:
    families = ",".join(service.spec.ipFamilies)
    policy = service.spec.ipFamilyPolicy or "SingleStack"
    return f"{name} ({policy}{': ' + families if families else ''})"
