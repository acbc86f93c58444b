"""The tables of docs/law.md, asked of the rules themselves, so that the page cannot say what the code does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import Service, ServiceSpec
from twinstack.api.objects import view_of
from twinstack.net.cidr import parse_cidr
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.cidrs import address_band, port_band
from twinstack.rules.families import NONE, POLICIES, PREFER, REQUIRE, SINGLE, Resolution, problems_with_primary, resolve
from twinstack.rules.reconfiguration import concern_about
from twinstack.rules.services import carry_over, reconcile
from twinstack.rules.windows import SERVED

F4, F6 = FAMILIES
ADDRESS = {family.value: str(family.address(int(parse_cidr(cidr).network_address) + 9)) for family, cidr in ((F4, "10.96.0.0/16"), (F6, "fd00:10:96::/112"))}
LISTS: tuple[tuple[Family, ...], ...] = ((), (F4,), (F6,), (F4, F6), (F6, F4))
CLUSTERS: tuple[tuple[Family, ...], ...] = ((F4,), (F6,), (F4, F6), (F6, F4))
SHORT = {SINGLE: "S", PREFER: "P", REQUIRE: "R", None: "–"}
RANGES = ("192.168.0.0/29", "10.0.0.0/27", "10.0.0.0/24", "10.96.0.0/16", "10.0.0.0/12", "fd00::/125", "fd00::/122", "fd00::/112", "fd00::/108", "fd00::/64")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def names(families: Iterable[Family]) -> str:
    """``IPv4, IPv6``"""
    return ", ".join(family.value for family in families) or "none named"


def outcome(found: Resolution | list[FieldProblem]) -> str:
    """``P IPv4, IPv6``, or the fields that are refused."""
    if isinstance(found, list):
        return "✗ " + ", ".join(dict.fromkeys(f"`{problem.path.removeprefix('spec.')}`" for problem in found))
    return f"{SHORT[found.policy]} {', '.join(found.families)}".strip()


def spec_of(policy: str | None, families: Sequence[Family], address: str = "", **more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {"type": "ClusterIP", "selector": {"app": "web"}, **more}
    if policy:
        spec["ipFamilyPolicy"] = policy
    if families:
        spec["ipFamilies"] = [family.value for family in families]
    if address:
        spec["clusterIP"] = address
    return spec


def create(spec: dict[str, Any], cluster: Sequence[Family]) -> str:
    reconcile(spec, None)
    return outcome(resolve(view_of(ServiceSpec, spec), cluster=cluster))


def update(spec: dict[str, Any], before: dict[str, Any], cluster: Sequence[Family]) -> str:
    carry_over(spec, before)
    reconcile(spec, before)
    old = view_of(ServiceSpec, before)
    found = resolve(view_of(ServiceSpec, spec), old, cluster=cluster)
    if isinstance(found, list):
        return outcome(found)
    texts = [*found.cluster_ips, *(ADDRESS[family] for family in found.families[len(found.cluster_ips) :])]
    after = {**spec, "ipFamilyPolicy": found.policy, "ipFamilies": list(found.families), "clusterIPs": texts, "clusterIP": texts[0] if texts else ""}
    problems = list(problems_with_primary(view_of(ServiceSpec, after), old))
    return outcome(problems or found)


def creates(**more: Any) -> list[str]:
    """Policy by families, a column for each kind of cluster."""
    rows = ([SHORT[policy], names(families), *(create(spec_of(policy, families, **more), cluster) for cluster in CLUSTERS)] for policy, families in _asked())
    return table(["policy", "ipFamilies", *(f"cluster {names(cluster)}" for cluster in CLUSTERS)], rows)


def _asked() -> Iterator[tuple[str | None, tuple[Family, ...]]]:
    return product((None, *POLICIES), LISTS)


def creates_with_address() -> list[str]:
    rows = []
    for policy, family in product((None, *POLICIES), FAMILIES):
        rows.append([SHORT[policy], f"of {family.value}", *(create(spec_of(policy, (), ADDRESS[family.value]), cluster) for cluster in CLUSTERS)])
    return table(["policy", "clusterIP", *(f"cluster {names(cluster)}" for cluster in CLUSTERS)], rows)


def changes() -> list[str]:
    """What becomes of a Service of one family, and of one of both, on a cluster of both."""
    single = {**spec_of(SINGLE, (F4,), ADDRESS["IPv4"]), "clusterIPs": [ADDRESS["IPv4"]]}
    dual = {**spec_of(REQUIRE, FAMILIES, ADDRESS["IPv4"]), "clusterIPs": [ADDRESS["IPv4"], ADDRESS["IPv6"]]}
    rows = []
    for policy, families in _asked():
        rows.append([SHORT[policy], names(families), *(update(spec_of(policy, families), dict(before), FAMILIES) for before in (single, dual))])
    return table(["policy", "ipFamilies", "it was S IPv4", "it was R IPv4, IPv6"], rows)


def bands() -> list[str]:
    rows = []
    for text in RANGES:
        network = parse_cidr(text)
        band = address_band(network)
        assert band is not None
        family = Family.of(network)
        first, start, last = (str(family.address(number)) for number in (band.first, band.first + band.reserved, band.last))
        rows.append([f"`{text}`", f"{band.last - band.first + 1:,}", band.reserved or "none", f"`{first}`", f"`{start}`", f"`{last}`"])
    return table(["range", "addresses", "kept for those who ask", "first", "first handed out", "last"], rows)


def port_bands() -> list[str]:
    rows = []
    for first, last in ((30000, 32767), (30000, 30015), (30000, 30099)):
        band = port_band(first, last)
        rows.append([f"{first}–{last}", last - first + 1, band.reserved or "none", first + band.reserved])
    return table(["--service-node-port-range", "ports", "kept for those who ask", "first handed out"], rows)


def concerns() -> list[str]:
    """Whom a change of the cluster's families concerns, by what the Service is."""
    kinds = {
        "S IPv4": spec_of(SINGLE, (F4,)),
        "S IPv6": spec_of(SINGLE, (F6,)),
        "P IPv4, IPv6": spec_of(PREFER, FAMILIES),
        "R IPv4, IPv6": spec_of(REQUIRE, FAMILIES),
        "headless without selector, R IPv4, IPv6": spec_of(REQUIRE, FAMILIES, NONE, selector={}),
    }
    rows = []
    for name, spec in kinds.items():
        told = [concern_about(view_of(Service, {"metadata": {"name": "web"}, "spec": spec}), cluster) for cluster in CLUSTERS]
        rows.append([name, *(one.message if one else "nothing" for one in told)])
    return table(["a Service that is", *(f"cluster now {names(cluster)}" for cluster in CLUSTERS)], rows)


def windows() -> list[str]:
    return table(
        ["network mode", "families of the node", "served"], ([mode, names(families), "yes" if served else "no"] for (mode, families), served in SERVED.items())
    )


TABLES: dict[str, Callable[[], list[str]]] = {
    "creates": creates,
    "creates-with-address": creates_with_address,
    "creates-headless-own": lambda: creates(clusterIP=NONE, selector={}),
    "changes": changes,
    "bands": bands,
    "port-bands": port_bands,
    "concerns": concerns,
    "windows": windows,
}


def filled(text: str) -> str:
    """The page with every table between its marks made anew; KeyError for a mark that no table has."""

    def made(found: re.Match[str]) -> str:
        return "\n".join([f"<!-- {found[1]} -->", "", *TABLES[found[1]](), "", "<!-- end -->"])

    return re.sub(r"<!-- ([a-z-]+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)
