"""What an Endpoints and an EndpointSlice must look like (spec/api.md appendix C).

Of an update only what changed is judged: endpoints that stood before are nobody's mistake today.
"""

from __future__ import annotations

from collections.abc import Iterator

from twinstack.api.errors import FieldProblem
from twinstack.api.kinds import CoreEndpointPort, Endpoint, EndpointAddress, EndpointPort, Endpoints, EndpointSlice, ForZone
from twinstack.api.objects import Document
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.addresses import address_problem, special_problem
from twinstack.rules.names import label_problem, label_value_problem, port_number_problem, qualified_problem, subdomain_problem
from twinstack.rules.problems import duplicate, required, too_many, unsupported, wrong
from twinstack.rules.service_validation import PROTOCOLS
from twinstack.rules.services import spelling_warnings
from twinstack.rules.shape import default, drop_zeros

ADDRESS_TYPES = (*(family.value for family in FAMILIES), "FQDN")
MOST_ENDPOINTS, MOST_PORTS, MOST_ADDRESSES, MOST_HINTS = 1000, 20000, 100, 8
_BY_NAME = {family.value: family for family in FAMILIES}


def default_endpoints(document: Document) -> None:
    """A port's protocol is TCP unless it says otherwise."""
    drop_zeros(document, ("subsets",))
    for subset in document.get("subsets") or ():
        drop_zeros(subset, ("addresses", "notReadyAddresses", "ports"))
        for port in subset.get("ports") or ():
            drop_zeros(port, ("name",))
            default(port, "protocol", "TCP")


def default_slice(document: Document) -> None:
    """A port's name is empty and its protocol TCP unless it says otherwise; nothing is known of an endpoint's conditions."""
    document.setdefault("addressType", "")
    drop_zeros(document, ("endpoints", "ports"))
    for endpoint in document.get("endpoints") or ():
        endpoint.setdefault("conditions", {})
        endpoint.pop("deprecatedTopology", None)
    for port in document.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def problems_with_endpoints(after: Endpoints, before: Endpoints | None = None) -> list[FieldProblem]:
    """What is wrong with an Endpoints."""
    if before is not None and (after.subsets or []) == (before.subsets or []):
        return []
    problems: list[FieldProblem] = []
    for i, subset in enumerate(after.subsets or []):
        path = f"subsets[{i}]"
        if not subset.addresses and not subset.notReadyAddresses:
            problems.append(required(path, "addresses or notReadyAddresses is needed"))
        for field, addresses in (("addresses", subset.addresses), ("notReadyAddresses", subset.notReadyAddresses)):
            for j, address in enumerate(addresses or []):
                problems += _problems_with_address(address, f"{path}.{field}[{j}]")
        ports = subset.ports or []
        for j, port in enumerate(ports):
            problems += _problems_with_core_port(port, f"{path}.ports[{j}]", many=len(ports) > 1)
    return problems


def _problems_with_address(one: EndpointAddress, path: str) -> Iterator[FieldProblem]:
    if problem := address_problem(one.ip) or special_problem(one.ip):
        yield wrong(f"{path}.ip", one.ip, problem)
    if one.hostname and (problem := label_problem(one.hostname)):
        yield wrong(f"{path}.hostname", one.hostname, problem)
    if one.nodeName is not None and (problem := subdomain_problem(one.nodeName)):
        yield wrong(f"{path}.nodeName", one.nodeName, problem)


def _problems_with_core_port(port: CoreEndpointPort, path: str, *, many: bool) -> Iterator[FieldProblem]:
    if not port.name and many:
        yield required(f"{path}.name", "each of several ports needs a name")
    elif port.name and (problem := label_problem(port.name)):
        yield wrong(f"{path}.name", port.name, problem)
    if problem := port_number_problem(port.port):
        yield wrong(f"{path}.port", port.port, problem)
    yield from _problems_with_protocol(port.protocol, port.appProtocol, path)


def _problems_with_protocol(protocol: str, application: str | None, path: str) -> Iterator[FieldProblem]:
    if not protocol:
        yield required(f"{path}.protocol")
    elif protocol not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", protocol, PROTOCOLS)
    if application is not None and (problem := qualified_problem(application)):
        yield wrong(f"{path}.appProtocol", application, problem)


def problems_with_slice(after: EndpointSlice, before: EndpointSlice | None = None) -> list[FieldProblem]:
    """What is wrong with an EndpointSlice; its address type never changes."""
    problems: list[FieldProblem] = []
    if before is not None and after.addressType != before.addressType:
        problems.append(wrong("addressType", after.addressType, "may not change; delete the slice and make another"))
    if not after.addressType:
        problems.append(required("addressType"))
    elif after.addressType not in ADDRESS_TYPES:
        problems.append(unsupported("addressType", after.addressType, ADDRESS_TYPES))
    endpoints, ports = after.endpoints or [], after.ports or []
    if before is None or endpoints != (before.endpoints or []):
        if len(endpoints) > MOST_ENDPOINTS:
            problems.append(too_many("endpoints", len(endpoints), MOST_ENDPOINTS))
        for i, endpoint in enumerate(endpoints):
            problems += _problems_with_endpoint(endpoint, after.addressType, f"endpoints[{i}]")
    if len(ports) > MOST_PORTS:
        problems.append(too_many("ports", len(ports), MOST_PORTS))
    return [*problems, *_problems_with_ports(ports)]


def _problems_with_endpoint(endpoint: Endpoint, type_: str, path: str) -> Iterator[FieldProblem]:
    if not endpoint.addresses:
        yield required(f"{path}.addresses", "at least one address is needed")
    elif len(endpoint.addresses) > MOST_ADDRESSES:
        yield too_many(f"{path}.addresses", len(endpoint.addresses), MOST_ADDRESSES)
    for i, text in enumerate(endpoint.addresses):
        if type_ == "FQDN":
            if problem := _host_problem(text):
                yield wrong(f"{path}.addresses[{i}]", text, problem)
        elif family := _BY_NAME.get(type_):
            yield from _problems_with_text(text, family, f"{path}.addresses", i)
    if endpoint.hostname is not None and (problem := label_problem(endpoint.hostname)):
        yield wrong(f"{path}.hostname", endpoint.hostname, problem)
    if endpoint.nodeName is not None and (problem := subdomain_problem(endpoint.nodeName)):
        yield wrong(f"{path}.nodeName", endpoint.nodeName, problem)
    if endpoint.hints is not None:
        yield from _problems_with_hints(endpoint.hints.forZones or [], f"{path}.hints.forZones")
        yield from _problems_with_hints(endpoint.hints.forNodes or [], f"{path}.hints.forNodes")


def _problems_with_text(text: str, family: Family, path: str, i: int) -> Iterator[FieldProblem]:
    """Syntax and special addresses are told at the element, a wrong family at the list."""
    try:
        address = parse_address(text)
    except AddressError as error:
        yield wrong(f"{path}[{i}]", text, str(error))
        return
    if family.facts.slice_canonical and str(address) != text and Family.of(address) is family:
        yield wrong(f"{path}[{i}]", text, f"must be in canonical form, which is {str(address)!r}")
    elif problem := special_problem(text):
        yield wrong(f"{path}[{i}]", text, problem)
    if Family.of(address) is not family:
        yield wrong(path, text, f"must be an {family} address, as addressType says")


def _host_problem(text: str) -> str | None:
    try:
        parse_address(text)
    except AddressError:
        return subdomain_problem(text)
    return "must be a DNS name where addressType is FQDN"


def _problems_with_hints(hints: list[ForZone], path: str) -> Iterator[FieldProblem]:
    if len(hints) > MOST_HINTS:
        yield too_many(path, len(hints), MOST_HINTS)
    seen: set[str] = set()
    for i, hint in enumerate(hints):
        if hint.name in seen:
            yield duplicate(f"{path}[{i}].name", hint.name)
        seen.add(hint.name)
        if not hint.name:
            yield required(f"{path}[{i}].name")
        elif problem := label_value_problem(hint.name):
            yield wrong(f"{path}[{i}].name", hint.name, problem)


def _problems_with_ports(ports: list[EndpointPort]) -> Iterator[FieldProblem]:
    names: set[str] = set()
    for i, port in enumerate(ports):
        path, name = f"ports[{i}]", port.name or ""
        if name and (problem := label_problem(name)):
            yield wrong(f"{path}.name", name, problem)
        if name in names:
            yield duplicate(f"{path}.name", name)
        names.add(name)
        yield from _problems_with_protocol(port.protocol or "", port.appProtocol, path)


def warnings_about_endpoints(document: Document) -> list[str]:
    """Odd spellings."""
    result = []
    for i, subset in enumerate(document.get("subsets") or ()):
        for field in ("addresses", "notReadyAddresses"):
            for j, address in enumerate(subset.get(field) or ()):
                result += spelling_warnings(f"subsets[{i}].{field}[{j}].ip", address.get("ip", ""))
    return result


def warnings_about_slice(document: Document) -> list[str]:
    """Names as addresses were never used by anything."""
    if document.get("addressType") == "FQDN":
        return ["addressType: FQDN endpoints are deprecated: nothing reads them"]
    return []
