"""The law of Service families, cell by cell: what every policy, family list and address list gives on every kind of cluster.

The tables' words: S, P, R a policy, ``-`` none said; 4, 6 a family; a4, a6 an address of it. A cell is the outcome: a policy and
its families (P46), or what forbids them, joined by ``+``:
p1 two addresses, p2 two families with SingleStack; p3 RequireDualStack on a cluster of one family; p4 addresses, p5 families shortened without
SingleStack; I an address of a family that the cluster has not; F such a family; M an address that contradicts its family; C an address, G a family that
may not change. Digits after I, F, M, C, G are the place in the list.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import Service, ServiceSpec
from twinstack.api.objects import view_of
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.families import Resolution, problems_with_primary, resolve
from twinstack.rules.service_validation import problems_with_service
from twinstack.rules.services import carry_over, reconcile

F4, F6 = FAMILIES
CLUSTERS = {"v4": (F4,), "v6": (F6,), "v4+v6": (F4, F6), "v6+v4": (F6, F4)}
POLICIES = {"-": None, "S": "SingleStack", "P": "PreferDualStack", "R": "RequireDualStack"}
FAMILY_LISTS = {"-": [], "4": ["IPv4"], "6": ["IPv6"], "46": ["IPv4", "IPv6"], "64": ["IPv6", "IPv4"]}
ADDRESSES = {"a4": "10.96.0.10", "b4": "10.96.0.11", "a6": "fd00:10:96::10", "b6": "fd00:10:96::11"}
HEADFUL = ("ClusterIP", "NodePort", "LoadBalancer")
DEFAULTS = {"sessionAffinity": "None"}

CREATES_V4 = """
-     -S  S4     S4     F0     p2     p2
-     P   P4     P4     F0     F1     F0
-     R   p3     p3     p3+F0  p3+F1  p3+F0
a4    -S  S4     S4     M0     p2     M0
a4    P   P4     P4     M0     F1     M0
a4    R   p3     p3     M0     p3+F1  M0
a6    -S  I0     M0     F0     M0     p2
a6    P   I0     M0     F0     M0     F0
a6    R   I0     M0     p3+F0  M0     p3+F0
a4,a6 -S  p1+I1  p1+I1  M0     p1+p2  M0+M1
a4,a6 P   I1     I1     M0     F1     M0+M1
a4,a6 R   I1     I1     M0     p3+F1  M0+M1
a6,a4 -S  p1+I0  M0     p1     M0+M1  p1+p2
a6,a4 P   I0     M0     F0     M0+M1  F0
a6,a4 R   I0     M0     p3+F0  M0+M1  p3+F0
"""
CREATES_DUAL = """
-     -S  S4/S6    S4     S6     p2     p2
-     P   P46/P64  P46    P64    P46    P64
-     R   R46/R64  R46    R64    R46    R64
a4    -S  S4       S4     M0     p2     M0
a4    P   P46      P46    M0     P46    M0
a4    R   R46      R46    M0     R46    M0
a6    -S  S6       M0     S6     M0     p2
a6    P   P64      M0     P64    M0     P64
a6    R   R64      M0     R64    M0     R64
a4,a6 -S  p1       p1     M0     p1+p2  M0+M1
a4,a6 P   P46      P46    M0     P46    M0+M1
a4,a6 R   R46      R46    M0     R46    M0+M1
a6,a4 -S  p1       M0     p1     M0+M1  p1+p2
a6,a4 P   P64      M0     P64    M0+M1  P64
a6,a4 R   R64      M0     R64    M0+M1  R64
"""
# Headless and without a selector: the cluster's abilities do not matter, only which family comes first.
OWN_AFFAIR = """
None  -   R46/R64  R46    R64    R46    R64
None  S   S4/S6    S4     S6     p2     p2
None  P   P46/P64  P46    P64    P46    P64
None  R   R46/R64  R46    R64    R46    R64
"""
# From SingleStack with a4 (b4 another of its family) on a cluster of both; ``omitted`` in a PUT is what carry_over fills in.
FROM_SINGLE = """
-     -S  S4     S4     M0     p2     M0
a4    -S  S4     S4     M0     p2     M0
a4,a6 -S  p1     p1     M0     p1+p2  M0+M1
b4    -S  C0     C0     M0     p2     M0
a6    -S  C0+G0  M0     C0+G0  M0     p2
-     P   P46    P46    M0     P46    M0
a4    P   P46    P46    M0     P46    M0
a4,a6 P   P46    P46    M0     P46    M0+M1
b4    P   C0     C0     M0     C0     M0
a6    P   C0+G0  M0     C0+G0  M0     C0+G0
a6,a4 P   C0+G0  M0     C0+G0  M0+M1  C0+G0
-     R   R46    R46    M0     R46    M0
a4    R   R46    R46    M0     R46    M0
a4,a6 R   R46    R46    M0     R46    M0+M1
b4    R   C0     C0     M0     C0     M0
a6    R   C0+G0  M0     C0+G0  M0     C0+G0
a6,a4 R   C0+G0  M0     C0+G0  M0+M1  C0+G0
"""
# From RequireDualStack with a4 and a6.
FROM_DUAL = """
-     S   S4     S4     M0     S4     M0+M1
a4    S   S4     S4     M0     S4     M0
a4,a6 S   S4     S4     M0     S4     M0+M1
a4,b6 S   p1     p1     M0     p1     M0+M1
a6    S   C0+G0  M0     C0+G0  M0     p2
a6,a4 S   p1     M0     p1     M0+M1  p1+p2
-     -R  R46    p5     M0     R46    M0+M1
a4,a6 -R  R46    p5     M0     R46    M0+M1
a4    -R  p4     p4+p5  M0     p4     M0
a4,b6 -R  C1     p5     M0     C1     M0+M1
a6    -R  p4     M0     p4+p5  M0     p4
a6,a4 -R  C0+C1+G0  M0  p5     M0+M1  C0+C1+G0
-     P   P46    p5     M0     P46    M0+M1
a4,a6 P   P46    p5     M0     P46    M0+M1
a4    P   p4     p4+p5  M0     p4     M0
a4,b6 P   C1     p5     M0     C1     M0+M1
a6    P   p4     M0     p4+p5  M0     p4
a6,a4 P   C0+C1+G0  M0  p5     M0+M1  C0+C1+G0
"""
# Headless with a selector: from S4, and from R46.
HEADLESS_FROM_SINGLE = """
-     -S  S4/S6    S4     S6     p2     p2
-     P   P46/P64  P46    P64    P46    P64
-     R   R46/R64  R46    R64    R46    R64
"""
HEADLESS_FROM_DUAL = """
-     -R  R46/R64  p5     p5     R46    R64
-     P   P46/P64  p5     p5     P46    P64
-     S   S4/S6    S4     S6     S4     p2
"""


def cells(table: str):
    """Every cell: addresses, policy, families, outcome with the primary IPv4, outcome with the primary IPv6."""
    for line in table.strip().splitlines():
        addresses, policies, *outcomes = line.split()
        for policy, (families, outcome) in product(policies, zip(FAMILY_LISTS, outcomes, strict=True)):
            first, _, second = outcome.partition("/")
            yield addresses, policy, families, first, second or first


def twin(word: str) -> str:
    """The same word with the families exchanged; places in lists stay."""
    return "+".join(part if part[0] in "pIFMCG" else part.translate({ord("4"): "6", ord("6"): "4"}) for part in word.split("+"))


def twin_addresses(word: str) -> str:
    return word.translate({ord("4"): "6", ord("6"): "4"})


def spec_of(addresses: str, policy: str, families: str, *, type_: str = "ClusterIP", selector: bool = True) -> dict[str, Any]:
    spec: dict[str, Any] = {"type": type_}
    if selector:
        spec["selector"] = {"app": "web"}
    if policy != "-":
        spec["ipFamilyPolicy"] = POLICIES[policy]
    if families != "-":
        spec["ipFamilies"] = list(FAMILY_LISTS[families])
    if addresses != "-":
        texts = [ADDRESSES.get(one, one) for one in addresses.split(",")]
        spec |= {"clusterIP": texts[0], "clusterIPs": texts}
    return spec


def code_of(problem: FieldProblem) -> str:
    """The short word of a problem."""
    place = problem.path[-2] if problem.path.endswith("]") else ""
    if problem.path == "spec.ipFamilyPolicy":
        marks = {"two cluster IPs": "p1", "two families": "p2", "this cluster has": "p3", "given back": "p4", "second family": "p5"}
        return next(code for mark, code in marks.items() if mark in problem.detail)
    if problem.path.startswith("spec.clusterIPs["):
        letter = "M" if isinstance(problem.value, str) else "C" if "change" in problem.detail else "I"
    elif not problem.path.startswith("spec.ipFamilies["):
        return f"I {problem.path}"  # of the fields by themselves; the tables have none
    else:
        letter = "F" if isinstance(problem.value, str) else "G"
    return letter + place


def outcome_of(found: Resolution | list[FieldProblem]) -> str:
    if isinstance(found, list):
        return "+".join(sorted({code_of(problem) for problem in found}, key=_rank))
    letter = {policy: letter for letter, policy in POLICIES.items()}[found.policy]
    return letter + "".join(family[-1] for family in found.families)


def _rank(code: str) -> tuple[int, str]:
    return "pIFMCG".index(code[0]), code


def create(spec: dict[str, Any], cluster: tuple[Family, ...]) -> str:
    reconcile(spec, None)
    return outcome_of(resolve(view_of(ServiceSpec, spec), cluster=cluster))


def update(spec: dict[str, Any], before: dict[str, Any], cluster: tuple[Family, ...]) -> str:
    """What a PUT of this spec gives; addresses that are found later are of no matter to the law."""
    carry_over(spec, before)
    reconcile(spec, before)
    old = view_of(ServiceSpec, before)
    found = resolve(view_of(ServiceSpec, spec), old, cluster=cluster)
    if isinstance(found, list):
        return outcome_of(found)
    spec |= {"ipFamilyPolicy": found.policy, "ipFamilies": list(found.families)}
    texts = list(found.cluster_ips)
    if texts and texts != ["None"]:
        texts += ["10.96.9.9" if family == "IPv4" else "fd00:10:96::99" for family in found.families[len(texts) :]]
    spec |= {"clusterIPs": texts, "clusterIP": texts[0] if texts else ""}
    problems = list(problems_with_primary(view_of(ServiceSpec, spec), old))
    return outcome_of(problems) if problems else outcome_of(found)


def test_every_cell_of_a_create_on_a_cluster_of_one_family():
    count = 0
    for type_, (addresses, policy, families, wanted, _) in product(HEADFUL, list(cells(CREATES_V4))):
        assert create(spec_of(addresses, policy, families, type_=type_), (F4,)) == wanted, (type_, addresses, policy, families)
        mirrored = spec_of(twin_addresses(addresses), policy, twin_addresses(families), type_=type_)
        assert create(mirrored, (F6,)) == twin(wanted), ("mirrored", type_, addresses, policy, families)
        count += 2
    assert count == len(HEADFUL) * 5 * len(POLICIES) * len(FAMILY_LISTS) * 2


def test_every_cell_of_a_create_on_a_cluster_of_both_families():
    count = 0
    for type_, (addresses, policy, families, four_first, six_first) in product(HEADFUL, list(cells(CREATES_DUAL))):
        assert create(spec_of(addresses, policy, families, type_=type_), (F4, F6)) == four_first, (type_, addresses, policy, families)
        assert create(spec_of(addresses, policy, families, type_=type_), (F6, F4)) == six_first, (type_, addresses, policy, families)
        count += 2
    assert count == len(HEADFUL) * 5 * len(POLICIES) * len(FAMILY_LISTS) * 2


def test_a_headless_service_with_a_selector_is_as_one_whose_addresses_nobody_named():
    count = 0
    for (name, cluster), policy, families in product(CLUSTERS.items(), POLICIES, FAMILY_LISTS):
        assert create(spec_of("None", policy, families), cluster) == create(spec_of("-", policy, families), cluster), (name, policy, families)
        count += 1
    assert count == 80


def test_every_cell_of_a_headless_service_without_a_selector():
    count = 0
    for _, policy, families, four_first, six_first in cells(OWN_AFFAIR):
        for cluster in CLUSTERS.values():
            wanted = four_first if cluster[0] is F4 else six_first
            assert create(spec_of("None", policy, families, selector=False), cluster) == wanted, (policy, families, cluster)
            count += 1
    assert count == 80


@pytest.mark.parametrize(
    "table, before, size",
    [
        pytest.param(FROM_SINGLE, spec_of("a4", "S", "4"), 110, id="a Service of one family"),
        pytest.param(FROM_DUAL, spec_of("a4,a6", "R", "46"), 120, id="a Service of both families"),
        pytest.param(HEADLESS_FROM_SINGLE, spec_of("None", "S", "4"), 20, id="a headless Service of one family"),
        pytest.param(HEADLESS_FROM_DUAL, spec_of("None", "R", "46"), 20, id="a headless Service of both families"),
    ],
)
def test_every_cell_of_an_update_of(table, before, size):
    found = list(cells(table))
    assert len(found) == size
    for addresses, policy, families, four_first, six_first in found:
        assert update(spec_of(addresses, policy, families), dict(before), (F4, F6)) == four_first, (addresses, policy, families)
        assert update(spec_of(addresses, policy, families), dict(before), (F6, F4)) == six_first, (addresses, policy, families)


FROZEN = spec_of("a4", "P", "4")
FADED = spec_of("a4,a6", "P", "46")


@pytest.mark.parametrize(
    "before, after, cluster, wanted",
    [
        pytest.param(FROZEN, spec_of("a4", "P", "4"), "v4+v6", "P4", id="a cluster that gained a family does not upgrade a Service that nobody touched"),
        pytest.param(FROZEN, spec_of("-", "P", "4"), "v4+v6", "P4", id="leaving the addresses out touches nothing"),
        pytest.param(FROZEN, spec_of("-", "P", "-"), "v4+v6", "P46", id="leaving the families out asks for both"),
        pytest.param(FROZEN, spec_of("-", "-", "4"), "v4+v6", "P46", id="leaving the policy out asks anew"),
        pytest.param(FROZEN, spec_of("a4", "P", "4", type_="NodePort"), "v4+v6", "P46", id="another type asks anew"),
        pytest.param(FROZEN, spec_of("a4", "P", "46"), "v4+v6", "P46", id="naming both families upgrades"),
        pytest.param(FROZEN, spec_of("a4", "R", "4"), "v4+v6", "R46", id="requiring both upgrades"),
        pytest.param(FROZEN, spec_of("a4", "S", "4"), "v4+v6", "S4", id="asking for one stays with one"),
        pytest.param(FADED, spec_of("a4,a6", "P", "46"), "v4", "P46", id="a cluster that lost a family does not downgrade a Service that nobody touched"),
        pytest.param(FADED, spec_of("a4,a6", "P", "-"), "v4", "I1", id="an address of the lost family is refused when the families are left out"),
        pytest.param(FADED, spec_of("a4,a6", "P", "46", type_="NodePort"), "v4", "F1", id="another type asks for the lost family anew"),
        pytest.param(FADED, spec_of("a4,a6", "S", "46"), "v4", "S4", id="SingleStack gives the lost family up"),
        pytest.param(
            spec_of("a4,a6", "R", "46"), spec_of("a4,a6", "R", "46"), "v4", "p3+F1", id="a Service that requires both cannot be updated on a cluster of one"
        ),
        pytest.param(spec_of("a4,a6", "R", "46"), spec_of("a4,a6", "S", "46"), "v4", "S4", id="until it is content with one"),
    ],
)
def test_when_a_cluster_gains_or_loses_a_family(before, after, cluster, wanted):
    assert update(dict(after), dict(before), CLUSTERS[cluster]) == wanted


@pytest.mark.parametrize(
    "before, after, wanted",
    [
        pytest.param(spec_of("None", "S", "4"), spec_of("a4", "S", "4"), "C0", id="a headless Service gets no address"),
        pytest.param(spec_of("a4", "S", "4"), spec_of("None", "S", "4"), "C0", id="a Service does not lose its address"),
        pytest.param(spec_of("None", "S", "4"), spec_of("-", "S", "4"), "S4", id="saying nothing stays headless"),
        pytest.param({"type": "ExternalName"}, spec_of("-", "R", "64"), "R64", id="from ExternalName everything is open"),
        pytest.param(spec_of("a4,a6", "R", "46"), {"type": "ExternalName", "externalName": "example.com"}, "-", id="to ExternalName nothing is asked"),
    ],
)
def test_the_doors_between_kinds_of_services(before, after, wanted):
    assert update(dict(after), dict(before), CLUSTERS["v4+v6"]) == wanted


ADDRESS_WORDS = ("-", "a4", "a6", "a4,a6", "a6,a4", "a4,b4", "a6,b6", "None", "a4,a6,b4", "zzz", "a4,None")


def test_every_cell_of_a_name_without_addresses():
    """ExternalName has no families, whatever the cluster has: each of the three that is named is told, and nothing else."""
    count = 0
    for cluster, addresses, policy, families in product(CLUSTERS.values(), ("-", "a4", "a6", "a4,a6", "a6,a4", "None"), POLICIES, FAMILY_LISTS):
        spec = spec_of(addresses, policy, families, type_="ExternalName") | {"externalName": "example.com", "ports": []}
        assert create(dict(spec), cluster) == policy + families.removeprefix("-"), "the law itself asks nothing of it"
        reconcile(spec, None)
        told = {problem.path for problem in problems_with_service(view_of(Service, {"metadata": {"name": "a"}, "spec": DEFAULTS | spec}))}
        wanted = {path for path, asked in (("spec.clusterIPs", addresses), ("spec.ipFamilies", families), ("spec.ipFamilyPolicy", policy)) if asked != "-"}
        assert told == wanted, (addresses, policy, families)
        count += 1
    assert count == 4 * 6 * 4 * 5


def test_the_tables_of_a_create_cover_every_type_policy_family_list_and_cluster():
    """Types (headless with and without a selector are two) x policies x family lists x clusters, all of them in the tables above."""
    headful = len(HEADFUL) * len([cell for cell in [*cells(CREATES_V4), *cells(CREATES_DUAL)] if cell[0] == "-"]) * 2
    headless_with_a_selector, headless_without, names = 80, len(list(cells(OWN_AFFAIR))) * len(CLUSTERS), 4 * 4 * 5
    assert headful + headless_with_a_selector + headless_without + names == (len(HEADFUL) + 3) * len(POLICIES) * len(FAMILY_LISTS) * len(CLUSTERS)


def test_the_law_does_not_favour_a_twin():
    """Exchanging the families in the request and in the cluster exchanges them in the outcome."""
    count = 0
    for addresses, policy, families, cluster, type_, selector in product(ADDRESS_WORDS, POLICIES, FAMILY_LISTS, CLUSTERS, HEADFUL, (True, False)):
        here = resolve(view_of(ServiceSpec, spec_of(addresses, policy, families, type_=type_, selector=selector)), cluster=CLUSTERS[cluster])
        mirrored = spec_of(twin_addresses(addresses), policy, twin_addresses(families), type_=type_, selector=selector)
        there = resolve(view_of(ServiceSpec, mirrored), cluster=tuple(family.other for family in CLUSTERS[cluster]))
        if isinstance(here, list):
            assert isinstance(there, list)
            assert [problem.path for problem in here] == [problem.path for problem in there]
        else:
            assert isinstance(there, Resolution)
            assert [Family(name).other.value for name in here.families] == list(there.families)
            assert (here.policy, here.settled, len(here.cluster_ips)) == (there.policy, there.settled, len(there.cluster_ips))
        count += 1
    assert count == 11 * 4 * 5 * 4 * 3 * 2


@st.composite
def requests(draw):
    """A request's words, its cluster, and a Service that such a cluster made before."""
    words = st.tuples(st.sampled_from(ADDRESS_WORDS), st.sampled_from(list(POLICIES)), st.sampled_from(list(FAMILY_LISTS)))
    cluster = CLUSTERS[draw(st.sampled_from(list(CLUSTERS)))]
    made = []
    for addresses, policy, families, headless in product(("-", "a4", "a6"), POLICIES, FAMILY_LISTS, (False, True)):
        spec = spec_of("None" if headless else addresses, policy, families)
        found = resolve(view_of(ServiceSpec, spec), cluster=cluster)
        if isinstance(found, Resolution):
            texts = list(found.cluster_ips)
            texts += [] if headless else [ADDRESSES["a" + family[-1]] for family in found.families[len(texts) :]]
            made.append(spec | {"ipFamilyPolicy": found.policy, "ipFamilies": list(found.families), "clusterIPs": texts, "clusterIP": texts[0]})
    return draw(words), cluster, draw(st.sampled_from(made))


@given(requests())
def test_whatever_is_asked_the_primary_of_a_service_with_addresses_never_changes(request):
    words, cluster, before = request
    spec = spec_of(*words)
    outcome = update(spec, dict(before), cluster)
    if outcome[0] in "SPR":
        if before["clusterIP"] != "None":
            assert spec["clusterIPs"][0] == before["clusterIPs"][0]
            assert spec["ipFamilies"][0] == before["ipFamilies"][0]
        else:
            assert spec["clusterIPs"] == ["None"]


@given(requests())
def test_an_update_that_changes_nothing_changes_nothing(request):
    _, cluster, before = request
    spec = {key: list(value) if isinstance(value, list) else value for key, value in before.items()}
    assert update(spec, dict(before), cluster) == update(dict(before), dict(before), cluster)
    assert {key: value for key, value in spec.items() if value} == before


def test_a_policy_that_nobody_knows_is_refused_before_anything_else():
    found = resolve(view_of(ServiceSpec, {"ipFamilyPolicy": "Dual", "type": "ClusterIP"}), cluster=(F4,))
    assert isinstance(found, list)
    assert [(problem.path, problem.type.reason) for problem in found] == [("spec.ipFamilyPolicy", "FieldValueNotSupported")]


@pytest.mark.parametrize(
    "spec, paths",
    [
        pytest.param({"clusterIP": "10.0.0.1"}, ["spec.clusterIPs"], id="the single one alone"),
        pytest.param({"clusterIPs": ["10.0.0.1"]}, ["spec.clusterIPs"], id="the list alone"),
        pytest.param({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1"]}, ["spec.clusterIPs"], id="they disagree"),
        pytest.param({"clusterIP": "None", "clusterIPs": ["None", "fd00::1"]}, ["spec.clusterIPs"], id="None and an address"),
        pytest.param({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "None"]}, ["spec.clusterIPs[1]"], id="an address and None"),
        pytest.param({"clusterIP": "010.0.0.1", "clusterIPs": ["010.0.0.1"]}, ["spec.clusterIPs[0]"], id="leading zeros"),
        pytest.param({"clusterIP": "::ffff:1.2.3.4", "clusterIPs": ["::ffff:1.2.3.4"]}, ["spec.clusterIPs[0]"], id="an IPv4 address in IPv6's clothes"),
        pytest.param({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}, ["spec.clusterIPs"], id="two of one family"),
        pytest.param({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1", "10.0.0.2"]}, ["spec.clusterIPs"], id="three"),
        pytest.param({"ipFamilies": ["IPv4", "IPv4"]}, ["spec.ipFamilies[1]"], id="a family twice"),
        pytest.param({"ipFamilies": ["ipv4", "IPv5"]}, ["spec.ipFamilies[0]", "spec.ipFamilies[1]"], id="families that nobody knows"),
    ],
)
def test_the_four_fields_by_themselves(spec, paths):
    found = resolve(view_of(ServiceSpec, {"type": "ClusterIP", **spec}), cluster=(F4, F6))
    assert isinstance(found, list)
    assert [problem.path for problem in found] == paths


def test_an_address_that_stood_before_is_not_judged_anew_for_its_spelling():
    before = {"type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIP": "010.0.0.1", "clusterIPs": ["010.0.0.1"]}
    assert update(dict(before), before, (F4, F6)) == "S4"
