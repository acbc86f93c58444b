"""What stands in a pod's /etc/hosts and /etc/resolv.conf.

Texts in, texts out. Facts: kubelet 1.36 (managed hosts file; dnsPolicy and its limits: three name servers,
32 search domains, 2048 characters of them).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from twinstack.api.kinds import HostAlias, PodSpec
from twinstack.net.errors import Error
from twinstack.net.family import FAMILIES, Address, Family

LONGEST_NAME = 64  # of a host name, for the kernel
MOST_SERVERS, MOST_DOMAINS, MOST_CHARACTERS = 3, 32, 2048


class HostnameError(Error):
    """A pod's host name cannot be what it asks for."""


class Resolver(NamedTuple):
    """A resolv.conf(5) as values."""

    servers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """The file, within the limits that the C library and kubelet set."""
        kept = self._searched()
        lines = [f"search {' '.join(kept)}"] if kept else []
        lines += [f"nameserver {server}" for server in self.servers[:MOST_SERVERS]]
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return "\n".join(lines) + "\n"

    def _searched(self) -> list[str]:
        kept: list[str] = []
        for domain in self.domains[:MOST_DOMAINS]:
            if sum(map(len, kept)) + len(kept) + len(domain) <= MOST_CHARACTERS:
                kept.append(domain)
        return kept

    def omissions(self) -> Iterator[str]:
        """What does not stand in the file, as it would be beyond the limits."""
        if len(self.servers) > MOST_SERVERS:
            yield f"There are more than {MOST_SERVERS} name servers, and these are asked: {' '.join(self.servers[:MOST_SERVERS])}"
        if len(kept := self._searched()) < len(self.domains):
            yield f"There are more than {MOST_DOMAINS} search domains or {MOST_CHARACTERS} characters of them, and these are searched: {' '.join(kept)}"


def parse_resolver(text: str) -> Resolver:
    """The values of a resolv.conf; the last ``search`` or ``domain`` line counts, as the C library has it."""
    servers, domains, options = [], [], []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if not words:
            continue
        match words[0]:
            case "nameserver":
                servers += words[1:2]
            case "search" | "domain":
                domains = words[1:]
            case "options":
                options = words[1:]
    return Resolver(tuple(servers), tuple(domains), tuple(options))


def resolver_of(
    spec: PodSpec, namespace: str, *, cluster_dns: Sequence[Address], cluster_domain: str, node: Resolver | None, node_ips: Sequence[Address]
) -> Resolver:
    """How a pod looks names up; *node* is the node's own file, None for ``--resolv-conf=``."""
    policy = spec.dnsPolicy or "ClusterFirst"
    if policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not spec.hostNetwork):
        policy = "Cluster" if cluster_dns else "Default"
    if node is None:
        loopbacks = [Family.of(address).facts.loopback for address in node_ips] or [Family.IPV4.facts.loopback]
        default = Resolver(tuple(loopbacks), (".",))
    else:
        default = node
    if policy == "Cluster":
        searched = (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain) if cluster_domain else ()
        found = Resolver(tuple(map(str, cluster_dns)), (*searched, *(node.domains if node else ())), ("ndots:5",))
    else:
        found = Resolver() if policy == "None" else default
    return _with_config(found, spec)


def _with_config(found: Resolver, spec: PodSpec) -> Resolver:
    """dnsConfig is added to what the policy gives; an option of its name replaces one."""
    config = spec.dnsConfig or {}
    options = {option.partition(":")[0]: option for option in found.options}
    for one in config.get("options") or ():
        name, value = one.get("name", ""), one.get("value")
        options[name] = name if value is None else f"{name}:{value}"
    return Resolver(
        tuple(dict.fromkeys((*found.servers, *(config.get("nameservers") or ())))),
        tuple(dict.fromkeys((*found.domains, *(config.get("searches") or ())))),
        tuple(options.values()),
    )


def hosts_text(addresses: Iterable[Address], *, hostname: str, domain: str = "", aliases: Iterable[HostAlias] = ()) -> str:
    """The managed /etc/hosts of a pod with a network of its own: a line for each of its addresses."""
    lines = ["# Kubernetes-managed hosts file."]
    for family in FAMILIES:
        lines += family.facts.hosts_lines
    named = f"{hostname}.{domain}\t{hostname}" if domain else hostname
    lines += [f"{address}\t{named}" for address in addresses]
    return "\n".join(lines) + "\n" + _aliases(aliases)


def host_network_hosts_text(node_file: str, aliases: Iterable[HostAlias] = ()) -> str:
    """The /etc/hosts of a pod in the node's network: the node's own, and the aliases."""
    return "# Kubernetes-managed hosts file (host network).\n" + node_file + _aliases(aliases)


def _aliases(aliases: Iterable[HostAlias]) -> str:
    lines = [f"{alias.ip}\t" + "\t".join(alias.hostnames or ()) for alias in aliases]
    return "\n".join(["", "# Entries added by HostAliases.", *lines]) + "\n" if lines else ""


def hostname_of(name: str, spec: PodSpec) -> str:
    """The pod's host name: what it asks for, or its name, cut to what a host name may be long."""
    return (spec.hostname or name)[:63].rstrip("-.")


def full_name_of(hostname: str, namespace: str, spec: PodSpec, cluster_domain: str) -> str:
    """What the pod's kernel calls it: its host name, or its full name where it asks for that. HostnameError when that is too long."""
    domain = domain_of(namespace, spec, cluster_domain)
    if not spec.setHostnameAsFQDN or not domain:
        return hostname
    name = f"{hostname}.{domain}"
    if len(name) > LONGEST_NAME:
        raise HostnameError(f"setHostnameAsFQDN: {name!r} has {len(name)} characters, and a kernel's host name may have {LONGEST_NAME}")
    return name


def domain_of(namespace: str, spec: PodSpec, cluster_domain: str) -> str:
    """The domain that a pod with a subdomain is known by."""
    return f"{spec.subdomain}.{namespace}.svc.{cluster_domain}" if spec.subdomain else ""
