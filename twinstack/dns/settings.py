"""What the DNS server is told: one field per flag, and what is checked of them.

Rule of this file: it checks and translates; every problem is told at once, with what would be right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from twinstack.dns.records import reverse_zones
from twinstack.net.cidr import host_port, parse_address, parse_cidrs
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import FAMILIES, Address, Family, Network

PORT, HEALTH_PORT, READY_PORT, METRICS_PORT = 53, 8080, 8181, 9153
PODS = ("disabled", "insecure", "verified")
WITHOUT_UPSTREAM = {"refused": 5, "servfail": 2, "nxdomain": 3}  # RFC 1035 4.1.1
NONE = "none"
MOST_REVERSE_ZONES = 4096


class SettingsError(Error, ValueError):
    """A flag has a value that cannot be."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per flag; see :func:`problems_with` for what is checked."""

    kubeconfig: str = ""
    cluster_domain: str = "cluster.local"
    bind_addresses: tuple[str, ...] = tuple(family.facts.unspecified for family in FAMILIES)
    port: int = PORT  # 0: any that is free
    forward: tuple[str, ...] = ()  # address or address and port; empty: those of resolv_conf; ("none",): nobody
    resolv_conf: str = "/etc/resolv.conf"
    without_upstream: str = "refused"
    forward_seconds: float = 2.0  # how long one upstream resolver is waited for
    cache_seconds: int = 30  # the longest that an upstream's answer is kept; 0: not at all
    ttl_seconds: int = 5
    pods: str = "insecure"
    reverse_cidrs: str = ""
    hide_dead_families: bool = False
    answer_families: str = ""  # one of Kubernetes' names of them, or both; empty: both
    udp_bytes: int = 1232  # the most that is sent by UDP, and what is offered
    service: str = "kube-system/kube-dns"
    health_port: int | None = HEALTH_PORT  # None: none
    ready_port: int | None = READY_PORT
    metrics_port: int | None = METRICS_PORT

    @property
    def own_service(self) -> tuple[str, str]:
        """The namespace and name of the Service that the server is behind."""
        namespace, _, name = self.service.partition("/")
        return namespace, name

    @property
    def answered(self) -> tuple[Family, ...]:
        """The families that names are answered in."""
        words = {word.strip().lower() for word in self.answer_families.split(",") if word.strip()}
        return tuple(family for family in FAMILIES if family.value.lower() in words) or FAMILIES

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks whose pointers are ours alone."""
        return parse_cidrs(self.reverse_cidrs)


def checked(settings: Settings) -> Settings:
    """The settings; SettingsError with all that is wrong with them."""
    if problems := list(problems_with(settings)):
        raise SettingsError("; ".join(problems))
    return settings


def problems_with(settings: Settings) -> Iterator[str]:
    """Everything that is wrong."""
    domain = settings.cluster_domain
    if not all(0 < len(label) <= 63 and label.isascii() for label in domain.split(".")) or len(domain) > 200:
        yield f"--cluster-domain {domain!r} is not a domain such as cluster.local"
    if not settings.bind_addresses:
        yield "--bind-address names no address"
    for text in settings.bind_addresses:
        try:
            parse_address(text)
        except AddressError as error:
            yield f"--bind-address: {error}"
    for flag, port in (
        ("port", settings.port),
        ("health-port", settings.health_port),
        ("ready-port", settings.ready_port),
        ("metrics-port", settings.metrics_port),
    ):
        if port is not None and not 0 <= port <= 65535:
            yield f"--{flag} {port} is not a port"
    if settings.forward != (NONE,):
        for text in settings.forward:
            try:
                parse_upstream(text)
            except SettingsError as error:
                yield str(error)
    if settings.without_upstream not in WITHOUT_UPSTREAM:
        yield f"--without-upstream {settings.without_upstream!r} is none of {', '.join(WITHOUT_UPSTREAM)}"
    known = [family.value.lower() for family in FAMILIES]
    if settings.answer_families and any(word.strip().lower() not in known for word in settings.answer_families.split(",")):
        yield f"--answer-families {settings.answer_families!r} is not one or both of {', '.join(map(str, FAMILIES))}"
    if settings.pods not in PODS:
        yield f"--pods {settings.pods!r} is none of {', '.join(PODS)}"
    if not 0 <= settings.ttl_seconds <= 3600:
        yield f"--ttl {settings.ttl_seconds} is not 0 to 3600 seconds"
    if not 512 <= settings.udp_bytes <= 4096:
        yield f"--udp-size {settings.udp_bytes} is not 512 to 4096 bytes"
    if settings.service.count("/") != 1:
        yield f"--service {settings.service!r} is not a namespace and a name such as kube-system/kube-dns"
    try:
        if len(reverse_zones(settings.networks)) > MOST_REVERSE_ZONES:
            yield f"--reverse-cidrs makes more than {MOST_REVERSE_ZONES} zones"
    except AddressError as error:
        yield f"--reverse-cidrs: {error}"


def parse_upstream(text: str) -> tuple[Address, int]:
    """``192.0.2.1``, ``192.0.2.1:53``, ``2001:db8::1`` or ``[2001:db8::1]:53``."""
    try:
        return parse_address(text), PORT
    except AddressError:
        host, colon, port = text.rpartition(":")
    try:
        address = parse_address(host.removeprefix("[").removesuffix("]"))
    except AddressError:
        raise SettingsError(f"--forward {text!r} is not an address, with or without a port, nor '{NONE}'") from None
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65535 or host_port(address, int(port)) != text:
        raise SettingsError(f"--forward {text!r} is not an address with a port such as {host_port(address, PORT)}")
    return address, int(port)


def upstreams(settings: Settings, own: Iterable[Address] = ()) -> tuple[tuple[Address, int], ...]:
    """The resolvers to be asked; this server itself, by its *own* addresses, is none."""
    if settings.forward == (NONE,):
        return ()
    texts = settings.forward or _nameservers(settings.resolv_conf)
    mine = {(address, settings.port) for address in own}
    return tuple(one for one in dict.fromkeys(map(parse_upstream, texts)) if one not in mine)


def _nameservers(path: str) -> tuple[str, ...]:
    """The name servers of a resolv.conf(5); none of a file that is not there. Addresses with a zone are left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from error
    found = []
    for words in (line.split() for line in lines):
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                found.append(str(parse_address(words[1])))
            except AddressError:
                continue
    return tuple(found)
