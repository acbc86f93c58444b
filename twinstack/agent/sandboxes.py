"""A pod's place on the node: its directory, its network namespace, its addresses.

Rule of this file: what is about to be made is written down before it is made, so that after a crash at any point
the next agent finds everything and can take it back. One directory a pod, named for its uid:

    pods/<uid>/sandbox.json    which namespace, which network, what ADD has answered
    pods/<uid>/etc/            hosts, resolv.conf, hostname
    pods/<uid>/volumes/        emptyDir and what is projected from the API
    pods/<uid>/logs/           <container>/<attempt>.log
    pods/<uid>/messages/       <container>/<attempt>: last words
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from twinstack.agent import network
from twinstack.agent.containers.base import Mount, Record
from twinstack.agent.hostfiles import Resolver, domain_of, full_name_of, host_network_hosts_text, hostname_of, hosts_text, parse_resolver, resolver_of
from twinstack.agent.logfiles import tail
from twinstack.agent.network import Attachment, Network, parse_configuration
from twinstack.agent.pods import everything
from twinstack.agent.settings import Settings, preferred_family
from twinstack.agent.status import sorted_addresses
from twinstack.agent.sysctls import sysctls_of
from twinstack.api import cni
from twinstack.api.kinds import Container, Pod
from twinstack.kernel import namespaces
from twinstack.kernel.mounts import unmount_below
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Address
from twinstack.rules.quantities import QuantityError, parse_quantity

log = logging.getLogger(__name__)
LEAST_BANDWIDTH, MOST_BANDWIDTH = 10**3, 10**15  # bits a second, upstream's bounds
LONGEST_MESSAGE, LONGEST_TAIL, MOST_LINES = 4096, 2048, 80  # of a termination message, of what is taken from the log instead


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's sandbox as it is written down. ``netns`` is empty in the node's own network; ``result`` before ADD has answered."""

    uid: str
    namespace: str
    name: str
    netns: str = ""
    configuration: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    addresses: tuple[str, ...] = ()
    hostname: str = ""
    port_mappings: list[dict[str, Any]] = []
    bandwidth: dict[str, int] = {}
    ip_ranges: list[list[dict[str, Any]]] = []

    @property
    def ready(self) -> bool:
        """Whether containers can be started in it."""
        return not self.netns or self.result is not None

    @property
    def attachment(self) -> Attachment:
        names = {"K8S_POD_NAMESPACE": self.namespace, "K8S_POD_NAME": self.name, "K8S_POD_INFRA_CONTAINER_ID": self.uid, "K8S_POD_UID": self.uid}
        wishes = {"portMappings": self.port_mappings, "bandwidth": self.bandwidth, network.RANGES: self.ip_ranges}
        return Attachment(self.uid, self.netns, names, {name: value for name, value in wishes.items() if value})


class Sandboxes:
    """Makes and removes sandboxes."""

    def __init__(self, settings: Settings, network: Network) -> None:
        self._settings, self._network = settings, network
        self.directory = settings.root_dir / "pods"

    def path(self, uid: str, *parts: str) -> Path:
        """A path below a pod's directory."""
        return self.directory.joinpath(uid, *parts)

    def known(self) -> list[str]:
        """The uids of all pods that have a directory."""
        return sorted(os.listdir(self.directory)) if self.directory.is_dir() else []

    def load(self, uid: str) -> Sandbox | None:
        """The sandbox that an earlier agent has written down; None when there is none, or it is unreadable."""
        try:
            return msgspec.json.decode(self.path(uid, "sandbox.json").read_bytes(), type=Sandbox)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            log.error("A pod's sandbox.json cannot be read", extra={"uid": uid, "error": str(error)})
            return None

    def stands(self, sandbox: Sandbox) -> bool:
        """Whether a sandbox that was written down is there: a reboot takes namespaces away."""
        return sandbox.ready and (not sandbox.netns or namespaces.exists(sandbox.netns))

    def _save(self, sandbox: Sandbox) -> None:
        path = self.path(sandbox.uid, "sandbox.json")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        temporary = path.with_name(".sandbox.json.new")
        temporary.write_bytes(msgspec.json.encode(sandbox))
        temporary.replace(path)

    async def make(self, pod: Pod, *, host_name: str, host_ips: tuple[Address, ...]) -> Sandbox:
        """Make a pod's sandbox; SysctlForbidden, CNIError or KernelError when it cannot be, and then nothing but the note stays."""
        uid, sysctls = pod.metadata.uid, sysctls_of(pod, self._settings.unsafe_sysctls)
        before = self.load(uid)
        if before is not None and before.netns:
            await self._detach(before)
        own = not pod.spec.hostNetwork
        hostname = hostname_of(pod.metadata.name, pod.spec) if own else host_name
        kernel_name = full_name_of(hostname, pod.metadata.namespace, pod.spec, self._settings.cluster_domain) if own else host_name
        wanted = Sandbox(uid=uid, namespace=pod.metadata.namespace, name=pod.metadata.name, hostname=kernel_name)
        if own:
            configuration = self._network.configuration()
            wanted = msgspec.structs.replace(
                wanted,
                netns=str(self._settings.netns_dir / uid),
                configuration=configuration.document(),
                port_mappings=port_mappings_of(pod),
                bandwidth=bandwidth_of(pod),
                ip_ranges=self._network.ranges_for(configuration),
            )
            self._save(wanted)
            namespaces.create(wanted.netns, (*_POD_SYSCTLS, *sysctls))
            try:
                result = await self._network.add(wanted.attachment, configuration)
                found = sorted_addresses(network.addresses_of(result), preferred_family(self._settings.node_ips))
            except BaseException:
                namespaces.remove(wanted.netns)
                raise
            wanted = msgspec.structs.replace(wanted, result=result, addresses=tuple(map(str, found)))
        self._write_files(pod, wanted, host_ips)
        self._save(wanted)
        return wanted

    def _write_files(self, pod: Pod, sandbox: Sandbox, host_ips: tuple[Address, ...]) -> None:
        settings = self._settings
        folder = self.path(sandbox.uid, "etc")
        folder.mkdir(parents=True, exist_ok=True)
        if sandbox.netns:
            addresses = tuple(map(parse_address, sandbox.addresses))
            domain = domain_of(pod.metadata.namespace, pod.spec, settings.cluster_domain)
            hostname = hostname_of(pod.metadata.name, pod.spec)
            hosts = hosts_text(addresses, hostname=hostname, domain=domain, aliases=pod.spec.hostAliases or ())
        else:
            hosts = host_network_hosts_text(_text("/etc/hosts"), pod.spec.hostAliases or ())
        for name, text in (("hosts", hosts), ("resolv.conf", self._resolver(pod, host_ips).text()), ("hostname", sandbox.hostname + "\n")):
            (folder / name).write_text(text)

    def _resolver(self, pod: Pod, host_ips: tuple[Address, ...]) -> Resolver:
        settings = self._settings
        node: Resolver | None = parse_resolver(_text(settings.resolv_conf)) if settings.resolv_conf is not None else None
        return resolver_of(
            pod.spec, pod.metadata.namespace, cluster_dns=settings.cluster_dns, cluster_domain=settings.cluster_domain, node=node, node_ips=host_ips
        )

    def dns_problems(self, pod: Pod, host_ips: tuple[Address, ...]) -> Iterator[tuple[str, str]]:
        """Reason and message of what a pod does not get of the name service that it asks for."""
        wants = pod.spec.dnsPolicy == "ClusterFirstWithHostNet" or (pod.spec.dnsPolicy == "ClusterFirst" and not pod.spec.hostNetwork)
        if wants and not self._settings.cluster_dns:
            yield "MissingClusterDNS", f'The kubelet has no --cluster-dns, so dnsPolicy "{pod.spec.dnsPolicy}" is as Default'
        for omission in self._resolver(pod, host_ips).omissions():
            yield "DNSConfigForming", omission

    def mounts(self, sandbox: Sandbox) -> list[Mount]:
        """The files of /etc that every container of the pod sees."""
        folder = self.path(sandbox.uid, "etc")
        return [Mount(str(folder / name), f"/etc/{name}") for name in ("hosts", "resolv.conf", "hostname")]

    async def remove(self, sandbox: Sandbox) -> None:
        """Give addresses and namespace back; logs and volumes stay. CNIError when a plugin refuses, to be tried again."""
        if sandbox.netns:
            await self._detach(sandbox)
        self.path(sandbox.uid, "sandbox.json").unlink(missing_ok=True)

    async def _detach(self, sandbox: Sandbox) -> None:
        try:
            await self._network.delete(sandbox.attachment, parse_configuration(cni.encode(sandbox.configuration)), sandbox.result)
        finally:
            namespaces.remove(sandbox.netns)

    def prepare_message(self, uid: str, container: str, attempt: int) -> str:
        """An empty file into which a container writes its last words."""
        path = self.path(uid, "messages", container, str(attempt))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        path.chmod(0o666)
        return str(path)

    def last_words(self, record: Record, container: Container) -> str:
        """What a container that has ended has left to be told: its message, or the end of its log where its policy allows that."""
        attempt = record.labels["attempt"]
        try:
            with self.path(record.pod, "messages", container.name, attempt).open("rb") as file:
                text = file.read(LONGEST_MESSAGE)
        except FileNotFoundError:
            return ""
        if not text and container.terminationMessagePolicy == "FallbackToLogsOnError" and record.exit_code != 0:
            text = tail(self.path(record.pod, "logs", container.name, f"{attempt}.log"), lines=MOST_LINES, size=LONGEST_TAIL)
        return text.decode(errors="replace")

    def drop_log(self, uid: str, container: str, attempt: int) -> None:
        """Remove the log of an attempt that nobody asks for any more."""
        folder = self.path(uid, "logs", container)
        for path in folder.glob(f"{attempt}.log*") if attempt >= 0 else ():
            path.unlink(missing_ok=True)
        self.path(uid, "messages", container, str(attempt)).unlink(missing_ok=True)

    def forget(self, uid: str) -> None:
        """Remove a pod's directory with all that is in it."""
        path = self.path(uid)
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY:  # it is not because a volume is a file system of its own
                raise
            unmount_below(str(path))
            shutil.rmtree(path)


def port_mappings_of(pod: Pod) -> list[dict[str, Any]]:
    """The host ports of a pod in the words of the capability portMappings."""
    return [
        {"hostPort": port.hostPort, "containerPort": port.containerPort, "protocol": port.protocol.lower(), "hostIP": port.hostIP}
        for container in everything(pod)
        for port in container.ports or ()
        if port.hostPort
    ]


def bandwidth_of(pod: Pod) -> dict[str, int]:
    """How fast a pod may receive and send, of its annotations, in the words of the capability bandwidth; CNIError when one means nothing.

    A tenth of a second may pass at once.
    """
    found: dict[str, int] = {}
    for way in ("ingress", "egress"):
        if text := pod.annotations.get(f"kubernetes.io/{way}-bandwidth"):
            try:
                rate = parse_quantity(text)
            except QuantityError as error:
                raise cni.CNIError(cni.BAD_CONFIG, f"annotation kubernetes.io/{way}-bandwidth {text!r} is no quantity", str(error)) from error
            if not LEAST_BANDWIDTH <= rate <= MOST_BANDWIDTH:
                raise cni.CNIError(cni.BAD_CONFIG, f"annotation kubernetes.io/{way}-bandwidth {text!r} is out of bounds", "from 1k to 1P bits a second")
            found |= {f"{way}Rate": int(rate), f"{way}Burst": min(2**32 - 1, max(1 << 20, int(rate / 10)))}
    return found


# What a pod's namespace is set to before anything comes into it: no wait on duplicate address detection, no router's word.
_POD_SYSCTLS = tuple((key, value) for family in FAMILIES for key, value in family.facts.route_default_sysctls if key != family.facts.forwarding)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except FileNotFoundError:
        return ""
