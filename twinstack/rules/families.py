"""Which IP families a Service gets, and which of its cluster IPs stand.

Rule of this file: it knows the law and nothing else. No allocator, no store, no clock: addresses are found later, for
the families decided here, and what is wrong with any other field is not its business.

Theory. Three things speak: what the author asks for (policy, families, addresses), what stood before (on an update), and
what the cluster has (one or two families; the first is the primary). The law has three sentences:

1. What is asked for must exist here:  every family named, or meant by an address, is a family of the cluster.
2. The policy bounds the count:        SingleStack at most one; RequireDualStack exactly two.
3. Otherwise the cluster completes:    the first family is the one asked for, else the primary; the second is its twin,
                                       when the policy is not SingleStack and the cluster has it.

The rest are the four places where life is not that simple:

*Nobody named a policy.* Then what stood before keeps speaking. A new Service is SingleStack, even when two families or two
addresses are asked for (which is then refused: two never mean dual-stack by themselves); only a headless Service without a
selector is RequireDualStack, because nobody but its author knows where its endpoints are.

*A headless Service without a selector* is its author's own affair: any families, on any cluster, the twin added without asking.

*PreferDualStack that nobody touched stays as it is* ("frozen"). Clusters gain and lose families; a Service must not
gain or lose an address because somebody edits a label. Touching anything of the four fields, or the type, thaws it.

*Fewer needs a word.* Going from two to one is said by SingleStack, and by that alone: lists that merely got shorter are
refused, lists that still stand whole are cut to their first element. The first element never changes, unless through
ExternalName, which has no addresses at all.

Problems accumulate within a step and end the resolution after it, so that nobody is told of consequences of a mistake that
was told already. The steps, in order (each line is one function below):

    frozen?            everything stays
    policy             named, else before's, else by the kind of Service
    four fields        each well-formed by itself, and in agreement with each other
    cut or refuse      SingleStack cuts unchanged lists; any other policy refuses shortened ones
    inferred           a family for each address beyond the families given
    complete           the three sentences of the law

Source: KEP-563, and spec/api.md sections 2 and 3, whose codes (P1 … P5, I, F, M, C, G) stand at the problems below.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import ServiceSpec
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.problems import duplicate, required, unsupported, wrong

SINGLE, PREFER, REQUIRE = "SingleStack", "PreferDualStack", "RequireDualStack"
POLICIES = (SINGLE, PREFER, REQUIRE)
NONE = "None"
CLUSTER_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")

_IPS, _FAMILIES, _POLICY = "spec.clusterIPs", "spec.ipFamilies", "spec.ipFamilyPolicy"
_BY_NAME = {family.value: family for family in FAMILIES}


class Resolution(NamedTuple):
    """What the law decided. ``cluster_ips`` may be shorter than the families: the missing ones are to be found.

    ``settled`` says that no address is to be taken or given back, whatever the lists look like.
    """

    policy: str | None
    families: tuple[str, ...]
    cluster_ips: tuple[str, ...]
    settled: bool = False


def resolve(after: ServiceSpec, before: ServiceSpec | None = None, *, cluster: Sequence[Family]) -> Resolution | list[FieldProblem]:
    """The Service's policy and families, primary first, or everything that forbids them.

    *after* has its singular and plural cluster IPs reconciled and its allocated values carried over; *before* is the old Service
    as it is read, None on a create.
    """
    if after.type == "ExternalName":
        return Resolution(after.ipFamilyPolicy, tuple(after.ipFamilies), tuple(after.clusterIPs), settled=True)
    if before is not None and _is_frozen(after, before):
        return Resolution(after.ipFamilyPolicy, tuple(after.ipFamilies), tuple(after.clusterIPs), settled=True)
    policy = after.ipFamilyPolicy
    if policy is None:
        policy = (before.ipFamilyPolicy if before else None) or (REQUIRE if is_own_affair(after) else SINGLE)
    if problems := list(problems_with_fields(after, before, policy=policy)):
        return problems
    addresses, families = tuple(after.clusterIPs), tuple(after.ipFamilies)
    problems = []
    if before is not None:
        if policy == SINGLE:
            addresses = addresses[:1] if addresses == tuple(before.clusterIPs) else addresses
            families = families[:1] if families == tuple(before.ipFamilies) else families
        else:
            problems += _problems_with_shortening(addresses, families, policy, before)
    if policy == SINGLE:
        problems += _problems_with_two(addresses, families, policy)
    inferred, unknown = _inferred(addresses, families, cluster)
    if problems := problems + unknown:
        return problems
    if is_own_affair(after):
        first = inferred[:1] or (cluster[0].value,)
        families = inferred if len(inferred) > 1 else _with_twin(first) if policy != SINGLE else first
        return Resolution(policy, families, addresses)
    if problems := list(_problems_with_cluster(inferred, policy, cluster)):
        return problems
    families = inferred or (cluster[0].value,)
    if policy != SINGLE and len(families) == 1 and len(cluster) > 1:
        families = _with_twin(families)
    return Resolution(policy, families, addresses)


def is_settled(spec: Mapping[str, Any], *, cluster: Sequence[Family]) -> bool:
    """Whether :func:`resolve`, asked again about a stored Service whose spec has not changed, would answer what stands.

    It would not where the cluster has lost a family that the Service has, or gained one that it requires.
    """
    families, policy = spec.get("ipFamilies") or (), spec.get("ipFamilyPolicy")
    if not all(_BY_NAME.get(name) in cluster for name in families):
        return False
    return policy == PREFER or (policy == SINGLE and len(families) == 1) or (policy == REQUIRE and len(families) == len(cluster) == 2)


def is_headless(spec: ServiceSpec) -> bool:
    """Whether it is said that the Service has no cluster IP."""
    return spec.clusterIP == NONE


def is_own_affair(spec: ServiceSpec) -> bool:
    """Whether the Service's endpoints are its author's own affair: headless, and no selector."""
    return is_headless(spec) and not spec.selector


def problems_with_fields(spec: ServiceSpec, before: ServiceSpec | None, *, policy: str | None) -> Iterator[FieldProblem]:
    """What is wrong with the four fields by themselves, whatever the cluster has (spec/api.md 2.2).

    Addresses that stood before are not judged anew for their spelling.
    """
    single, plural, families = spec.clusterIP, spec.clusterIPs, spec.ipFamilies
    if single and not plural:
        yield required(_IPS, "must hold spec.clusterIP as its first element")
    elif plural and not single:
        yield wrong(_IPS, plural, "must be empty when spec.clusterIP is")
    elif plural and plural[0] != single:
        yield wrong(_IPS, plural, f"the first element must equal spec.clusterIP, which is {single!r}")
    for i, name in enumerate(families):
        if name not in _BY_NAME:
            yield unsupported(f"{_FAMILIES}[{i}]", name, _BY_NAME)
        elif name in families[:i]:
            yield duplicate(f"{_FAMILIES}[{i}]", name)
    if policy is not None and policy not in POLICIES:
        yield unsupported(_POLICY, policy, POLICIES)
    if not plural:
        return
    malformed = False
    for i, text in enumerate(plural):
        if i == 0 and text == NONE:
            if len(plural) > 1:
                malformed = True
                yield wrong(_IPS, plural, "'None' must be the only element")
        elif problem := _spelling_problem(text, before):
            malformed = True
            yield wrong(f"{_IPS}[{i}]", text, problem)
    if len(plural) > 2:
        yield wrong(_IPS, plural, "must hold at most two addresses")
    if malformed or plural == [NONE]:
        return
    found = [family_of(text) for text in plural]
    if len(found) > 1 and len(set(found)) < 2:
        yield wrong(_IPS, plural, "two addresses must be one of each family")
    for i, (family, named) in enumerate(zip(found, families, strict=False)):
        if _BY_NAME.get(named, family) is not family:  # M
            yield wrong(f"{_IPS}[{i}]", plural[i], f"must be an {named} address, as spec.ipFamilies[{i}] says")


def problems_with_primary(after: ServiceSpec, before: ServiceSpec) -> Iterator[FieldProblem]:
    """What may never change about a Service that stays one with a cluster IP, or stays headless (spec/api.md 3.4)."""
    if "ExternalName" in (after.type, before.type):
        return
    if not (_is_none(after) and _is_none(before)):
        yield from _immutable(_IPS, after.clusterIPs, before.clusterIPs, after, each=True)
    if not (_is_none(after) or _is_none(before)):
        yield from _immutable(_FAMILIES, after.ipFamilies, before.ipFamilies, after, each=False)


def family_of(text: str) -> Family:
    """The family of an address text that was judged before, lenient with spellings that only old objects have."""
    try:
        return Family.of(parse_address(text))
    except AddressError as error:
        if error.suggestion is None:
            raise
        return Family.of(parse_address(error.suggestion))


def _is_none(spec: ServiceSpec) -> bool:
    return spec.clusterIPs == [NONE]


def _is_frozen(after: ServiceSpec, before: ServiceSpec) -> bool:
    """Whether this is a PreferDualStack Service of which nothing that the law looks at was touched."""
    return (
        after.ipFamilyPolicy == PREFER
        and before.ipFamilyPolicy in (None, PREFER)
        and after.type == before.type
        and after.type in CLUSTER_TYPES
        and after.clusterIPs == before.clusterIPs
        and after.ipFamilies == before.ipFamilies
    )


def _spelling_problem(text: str, before: ServiceSpec | None) -> str | None:
    if before is not None and text in before.clusterIPs and text not in ("", NONE):
        return None
    try:
        parse_address(text)
    except AddressError as error:
        return f"must be an IP address{f', such as {error.suggestion}' if error.suggestion else ''}"
    return None


def _with_twin(families: tuple[str, ...]) -> tuple[str, ...]:
    return (families[0], _BY_NAME[families[0]].other.value)


def _problems_with_shortening(addresses: tuple[str, ...], families: tuple[str, ...], policy: str, before: ServiceSpec) -> Iterator[FieldProblem]:
    if 0 < len(addresses) < len(before.clusterIPs):  # P4
        yield wrong(_POLICY, policy, f"must be {SINGLE!r} for the second cluster IP to be given back")
    if 0 < len(families) < len(before.ipFamilies):  # P5
        yield wrong(_POLICY, policy, f"must be {SINGLE!r} for the second family to be given up")


def _problems_with_two(addresses: tuple[str, ...], families: tuple[str, ...], policy: str) -> Iterator[FieldProblem]:
    if len(addresses) == 2:  # P1
        yield wrong(_POLICY, policy, f"must be {PREFER!r} or {REQUIRE!r} for two cluster IPs")
    if len(families) == 2:  # P2
        yield wrong(_POLICY, policy, f"must be {PREFER!r} or {REQUIRE!r} for two families")


def _inferred(addresses: tuple[str, ...], families: tuple[str, ...], cluster: Sequence[Family]) -> tuple[tuple[str, ...], list[FieldProblem]]:
    """The families given, then those of the addresses beyond them; and the addresses whose family the cluster has not."""
    result, problems = list(families), []
    for i, text in enumerate(addresses):
        if text == NONE:
            break
        if i < len(result):
            continue
        family = family_of(text)
        if family in cluster:
            result.append(family.value)
        else:  # I
            problems.append(wrong(f"{_IPS}[{i}]", list(addresses), f"this cluster has no {family} Services"))
    return tuple(result), problems


def _problems_with_cluster(families: tuple[str, ...], policy: str, cluster: Sequence[Family]) -> Iterator[FieldProblem]:
    if policy == REQUIRE and len(cluster) < 2:  # P3
        yield wrong(_POLICY, policy, f"this cluster has {cluster[0]} Services only; {PREFER!r} would do")
    for i, family in enumerate(families):
        if _BY_NAME[family] not in cluster:  # F
            yield wrong(f"{_FAMILIES}[{i}]", family, f"this cluster has no {family} Services")


def _immutable(path: str, after: list[str], before: list[str], spec: ServiceSpec, *, each: bool) -> Iterator[FieldProblem]:
    """The first element never changes, and a second one only comes and goes as the policy says.

    With *each*, a changed element is told at its own place and by the whole list (C); else always at the first (G).
    """
    if not before:
        return
    if len(after) == len(before):
        for i, (new, old) in enumerate(zip(after, before, strict=True)):
            if new != old:
                yield wrong(f"{path}[{i if each else 0}]", after, "may not change once set")
    elif len(after) > len(before):
        if after[0] != before[0]:
            yield wrong(f"{path}[0]", after, "the primary may not change")
    elif not after or not spec.clusterIPs:
        yield wrong(f"{path}[0]", after, "the primary may not be removed")
    else:
        if after[0] != before[0]:
            yield wrong(f"{path}[0]", after, "the primary may not change")
        if len(after) == 1 and spec.ipFamilyPolicy != SINGLE:
            yield wrong(_POLICY, spec.ipFamilyPolicy, f"must be {SINGLE!r} for the second one to be given up")
