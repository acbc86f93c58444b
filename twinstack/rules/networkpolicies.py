"""What a NetworkPolicy must look like.

Rule of this file: what is written, not what it does to packets. A policy may name blocks of both families, in any
mixture and whatever families the cluster has; within one block, what is excepted lies inside it, and so is of its family.

Source: the Kubernetes API reference of networking.k8s.io/v1, and spec/api.md 8.4 for how CIDRs may be spelled.
"""

from __future__ import annotations

from collections.abc import Iterator

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from twinstack.api.objects import Document, document_of
from twinstack.net.cidr import contains, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.rules.names import port_name_problem, port_number_problem
from twinstack.rules.problems import forbidden, required, unsupported, wrong
from twinstack.rules.service_validation import PROTOCOLS
from twinstack.rules.services import cidr_spelling_warnings
from twinstack.rules.shape import default, drop_zeros, part
from twinstack.rules.workload_validation import problems_with_selector

INGRESS, EGRESS = "Ingress", "Egress"
_SIDES = (("ingress", "from"), ("egress", "to"))


def default_policy(document: Document) -> None:
    """Without policyTypes a policy is about ingress, and about egress too when it has rules for it; ports are TCP."""
    spec = part(document, "spec")
    part(spec, "podSelector")
    drop_zeros(spec, ("policyTypes", "ingress", "egress"))
    for side, peers in _SIDES:
        for rule in spec.get(side) or ():
            drop_zeros(rule, ("ports", peers))
            for port in rule.get("ports") or ():
                default(port, "protocol", "TCP")
            for peer in rule.get(peers) or ():
                if block := peer.get("ipBlock"):
                    drop_zeros(block, ("except",))
    if "policyTypes" not in spec:
        spec["policyTypes"] = [INGRESS, EGRESS] if spec.get("egress") else [INGRESS]


def problems_with_policy(after: NetworkPolicy, before: NetworkPolicy | None = None) -> list[FieldProblem]:
    """What is wrong with a policy. CIDRs that stood before are not judged anew for their spelling."""
    spec = after.spec
    known = frozenset(cidr for _, block in _blocks(before) for cidr in (block.cidr, *block.except_)) if before else frozenset()
    problems = list(problems_with_selector(document_of(spec.podSelector), "spec.podSelector"))
    for path, port in _ports(after):
        problems += _problems_with_port(port, path)
    for path, peer in _peers(after):
        problems += _problems_with_peer(peer, path, known)
    types = spec.policyTypes or []
    if len(types) > 2:
        return [*problems, wrong("spec.policyTypes", types, f"there are two, {INGRESS} and {EGRESS}")]
    return problems + [unsupported(f"spec.policyTypes[{i}]", one, (INGRESS, EGRESS)) for i, one in enumerate(types) if one not in (INGRESS, EGRESS)]


def warnings_about_policy(policy: NetworkPolicy) -> list[str]:
    """Blocks that are spelled otherwise than RFC 5952 says."""
    result = []
    for path, block in _blocks(policy):
        result += cidr_spelling_warnings(f"{path}.cidr", block.cidr)
        for i, text in enumerate(block.except_):
            result += cidr_spelling_warnings(f"{path}.except[{i}]", text)
    return result


def _blocks(policy: NetworkPolicy) -> Iterator[tuple[str, IPBlock]]:
    for path, peer in _peers(policy):
        if peer.ipBlock is not None:
            yield f"{path}.ipBlock", peer.ipBlock


def _peers(policy: NetworkPolicy) -> Iterator[tuple[str, NetworkPolicyPeer]]:
    for side, field, rules in (
        ("ingress", "from", [rule.peers for rule in policy.spec.ingress]),
        ("egress", "to", [rule.peers for rule in policy.spec.egress]),
    ):
        yield from ((f"spec.{side}[{i}].{field}[{j}]", peer) for i, peers in enumerate(rules) for j, peer in enumerate(peers))


def _ports(policy: NetworkPolicy) -> Iterator[tuple[str, NetworkPolicyPort]]:
    for side, rules in (("ingress", [rule.ports for rule in policy.spec.ingress]), ("egress", [rule.ports for rule in policy.spec.egress])):
        yield from ((f"spec.{side}[{i}].ports[{j}]", port) for i, ports in enumerate(rules) for j, port in enumerate(ports))


def _problems_with_port(port: NetworkPolicyPort, path: str) -> Iterator[FieldProblem]:
    if port.protocol is not None and port.protocol not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", port.protocol, PROTOCOLS)
    if isinstance(port.port, int):
        if problem := port_number_problem(port.port):
            yield wrong(f"{path}.port", port.port, problem)
        if port.endPort is not None and port.endPort < port.port:
            yield wrong(f"{path}.endPort", port.endPort, "must not be less than port")
        if port.endPort is not None and (problem := port_number_problem(port.endPort)):
            yield wrong(f"{path}.endPort", port.endPort, problem)
        return
    if port.endPort is not None:
        yield wrong(f"{path}.endPort", port.endPort, "goes only with a port that is a number")
    if port.port is not None and (problem := port_name_problem(port.port)):
        yield wrong(f"{path}.port", port.port, problem)


def _problems_with_peer(peer: NetworkPolicyPeer, path: str, known: frozenset[str]) -> Iterator[FieldProblem]:
    for field, selector in (("podSelector", peer.podSelector), ("namespaceSelector", peer.namespaceSelector)):
        if selector is not None:
            yield from problems_with_selector(document_of(selector), f"{path}.{field}")
    if peer.ipBlock is not None:
        yield from _problems_with_block(peer.ipBlock, f"{path}.ipBlock", known)
        if peer.podSelector is not None or peer.namespaceSelector is not None:
            yield forbidden(path, "an ipBlock and selectors are two peers")
    elif peer.podSelector is None and peer.namespaceSelector is None:
        yield required(path, "a peer is a podSelector, a namespaceSelector, both of them, or an ipBlock")


def _problems_with_block(block: IPBlock, path: str, known: frozenset[str]) -> Iterator[FieldProblem]:
    if not block.cidr:
        yield required(f"{path}.cidr")
        return
    try:
        whole = parse_cidr(block.cidr, masked=block.cidr in known)
    except AddressError as error:
        yield wrong(f"{path}.cidr", block.cidr, str(error))
        return
    for i, text in enumerate(block.except_):
        try:
            hole = parse_cidr(text, masked=text in known)
        except AddressError as error:
            yield wrong(f"{path}.except[{i}]", text, str(error))
            continue
        if hole == whole or not contains(whole, hole):
            yield wrong(f"{path}.except[{i}]", text, f"must lie within {block.cidr} and be smaller")
