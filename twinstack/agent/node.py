"""The Node object as its agent wants it: labels, addresses, capacity, conditions.

Values in, documents out; what is read of the machine is read by :func:`machine` and given in. Facts: kubelet 1.36
(order of addresses by --node-ip, validation of explicit ones, conditions).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from twinstack import __version__
from twinstack.agent.containers.images import Image
from twinstack.agent.settings import EXTERNAL, Settings, SettingsError, Taint, preferred_family
from twinstack.api.kinds import Node, condition_of
from twinstack.api.objects import Document, document_of
from twinstack.dataplane import host
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import Address, Family
from twinstack.rules.quantities import canonical, parse_quantity

KUBELET_VERSION = "v1.36.2+twinstack"
_PRESSURES = {
    "MemoryPressure": (("KubeletHasSufficientMemory", "enough memory is left"), ("KubeletHasInsufficientMemory", "memory is short")),
    "DiskPressure": (("KubeletHasNoDiskPressure", "enough disk is left"), ("KubeletHasDiskPressure", "disk is short")),
    "PIDPressure": (("KubeletHasSufficientPID", "enough process numbers are left"), ("KubeletHasInsufficientPID", "process numbers are short")),
}
PROVIDED_NODE_IP = "alpha.kubernetes.io/provided-node-ip"
UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"


class NodeAddressError(Error):
    """The node's addresses cannot be what --node-ip says, or none can be found."""


class Machine(NamedTuple):
    """What the host is made of."""

    hostname: str
    cpus: int
    memory_kib: int
    disk_bytes: int
    kernel: str
    image: str
    machine_id: str
    system_uuid: str
    boot_id: str
    architecture: str
    huge_pages: tuple[tuple[str, str], ...] = ()  # resource and amount, of each size that the kernel has


def machine(root: Path) -> Machine:
    """Read what the host is made of; *root* is where pods' files are kept."""
    memory = next((int(line.split()[1]) for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal:")), 0)
    image = next((line.partition("=")[2].strip('"') for line in _read("/etc/os-release").splitlines() if line.startswith("PRETTY_NAME=")), "Linux")
    names = {"x86_64": "amd64", "aarch64": "arm64"}
    statistics = os.statvfs(root)
    return Machine(
        hostname=platform.node().lower(),
        cpus=os.cpu_count() or 1,
        memory_kib=memory,
        disk_bytes=statistics.f_frsize * statistics.f_blocks,
        kernel=platform.release(),
        image=image,
        machine_id=(machine_id := _read("/etc/machine-id").strip()),
        system_uuid=_read("/sys/class/dmi/id/product_uuid").strip() or machine_id,
        boot_id=_read("/proc/sys/kernel/random/boot_id").strip(),
        architecture=names.get(platform.machine(), platform.machine()),
        huge_pages=tuple(_huge_pages(Path("/sys/kernel/mm/hugepages"))),
    )


def _huge_pages(folder: Path) -> Iterator[tuple[str, str]]:
    for one in sorted(folder.glob("hugepages-*kB")):
        kib = int(one.name[len("hugepages-") : -len("kB")])
        yield f"hugepages-{binary(kib * 1024)}", binary(int(_read(one / "nr_hugepages") or "0") * kib * 1024)


def binary(amount: int) -> str:
    """Bytes in the largest binary unit that tells them exactly, as quantities have it: ``2Mi``."""
    unit, bits = next(((unit, bits) for unit, bits in (("Gi", 30), ("Mi", 20), ("Ki", 10)) if amount and amount % (1 << bits) == 0), ("", 0))
    return f"{amount >> bits}{unit}"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, PermissionError):  # a machine without firmware tables, or whose user may not read them
        return ""


def node_addresses(
    node_ips: Sequence[Address], name: str, present: Iterable[host.Address], routes: Iterable[host.Route], *, named: Sequence[Address] = ()
) -> tuple[Address, ...]:
    """The node's own addresses, the primary one first; NodeAddressError when an explicit one is unusable, or none is found.

    *present* are the addresses of the host's links, *routes* those that a default route is looked for in, *named* those that the node's
    name stands for.
    """
    explicit = [address for address in node_ips if not address.is_unspecified]
    here = list(present)
    for address in explicit:
        if problem := _problem_with(address, here):
            raise NodeAddressError(f"failed to validate nodeIP: {problem}")
    if explicit:
        return tuple(explicit)
    try:
        return (parse_address(name),)
    except AddressError:
        pass
    first = preferred_family(node_ips)
    usable = [address for address in named if _problem_with(address, here) is None]
    if usable:
        return (min(usable, key=lambda address: Family.of(address) is not first),)
    defaults = [route for route in routes if route.destination.prefixlen == 0]
    for family in (first, first.other):
        for route in sorted(defaults, key=lambda one: one.metric):
            links = (route.link, "lo") if route.family is family else ()
            for link in links:
                for one in here:
                    if one.link == link and Family.of(one.address) is family and one.scope == "global" and not one.address.is_loopback:
                        return (one.address,)
    raise NodeAddressError("no address for this node: there is no default route in either family; give --node-ip")


def _problem_with(address: Address, here: Iterable[host.Address]) -> str | None:
    """Why no node can have this address."""
    for wrong, word in ((address.is_loopback, "a loopback"), (address.is_multicast, "a multicast"), (address.is_link_local, "a link-local")):
        if wrong:
            return f"{address} is {word} address"
    return None if any(one.address == address for one in here) else f"{address} is on no interface of this host"


def node_document(settings: Settings, name: str, host_machine: Machine) -> Document:
    """A Node to be registered, without its status."""
    labels = {
        "beta.kubernetes.io/arch": host_machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": host_machine.architecture,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        **dict(settings.labels),
    }
    document: Document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}}
    taints = [*settings.taints, *([Taint(UNINITIALIZED, "true", "NoSchedule")] if settings.cloud_provider == EXTERNAL else [])]
    if taints:
        document["spec"]["taints"] = [{"key": one.key, **({"value": one.value} if one.value else {}), "effect": one.effect} for one in taints]
    if settings.provider_id:
        document["spec"]["providerID"] = settings.provider_id
    if (provided := provided_node_ip(settings)) is not None:
        document["metadata"]["annotations"] = {PROVIDED_NODE_IP: provided}
    return document


def allocatable(settings: Settings, host_machine: Machine) -> dict[str, str]:
    """What the pods of this node may use together: what it has, but for what is reserved and what must be left."""
    amounts = capacity(settings, host_machine)
    reserved = [*settings.kube_reserved, *settings.system_reserved]
    reserved += [("memory", value) for signal, value in settings.eviction_hard if signal == "memory.available" and not value.endswith("%")]
    for name, value in reserved:
        if name in amounts:
            left = parse_quantity(amounts[name]) - parse_quantity(value)
            if left < 0:
                raise SettingsError(f"more {name} is reserved than this node has")
            amounts[name] = f"{int(left) // 1024}Ki" if name == "memory" else canonical(f"{left.numerator * 1000 // left.denominator}m")
    return amounts


def capacity(settings: Settings, host_machine: Machine) -> dict[str, str]:
    """What this node has."""
    return {
        "cpu": str(host_machine.cpus),
        "memory": f"{host_machine.memory_kib}Ki",
        "ephemeral-storage": str(host_machine.disk_bytes),
        **dict(host_machine.huge_pages),
        "pods": str(settings.max_pods),
    }


def node_status(
    settings: Settings,
    name: str,
    host_machine: Machine,
    addresses: Sequence[Address],
    *,
    port: int,
    problem: str | None,
    before: Node | None,
    now: str,
    pressures: Collection[str] = (),
    images: Sequence[Document] = (),
) -> Document:
    """The status; ``problem`` says why pods cannot be run, and conditions that stand keep their moment of transition."""
    ready = (
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
        if problem is None
        else ("Ready", "False", "KubeletNotReady", f"container runtime network not ready: {problem}")
    )
    pressed = [(type_, str(type_ in pressures), *texts[type_ in pressures]) for type_, texts in _PRESSURES.items()]
    conditions = [*pressed, ready]
    return {
        "addresses": told_addresses(settings, name, addresses, before),
        "capacity": capacity(settings, host_machine),
        "allocatable": allocatable(settings, host_machine),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "machineID": host_machine.machine_id,
            "systemUUID": host_machine.system_uuid,
            "bootID": host_machine.boot_id,
            "kernelVersion": host_machine.kernel,
            "osImage": host_machine.image,
            "containerRuntimeVersion": f"twinstack://{__version__}",
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": host_machine.architecture,
        },
        "conditions": [_condition(*one, before=before, now=now) for one in conditions],
        "images": list(images),
    }


def images_told(images: Iterable[Image], most: int) -> list[Document]:
    """``status.images``: the largest ones."""
    largest = sorted(images, key=lambda image: -image.size)[: most if most >= 0 else None]
    return [{"names": list(image.names) or [image.id], "sizeBytes": image.size} for image in largest]


def told_addresses(settings: Settings, name: str, addresses: Sequence[Address], before: Node | None) -> list[Document]:
    """``status.addresses``; an external cloud provider's word stays, once it has been given."""
    if keeps_addresses(settings, before):
        return [document_of(one) for one in before.status.addresses or ()] if before is not None else []
    return [*({"type": "InternalIP", "address": str(address)} for address in addresses), {"type": "Hostname", "address": name}]


def keeps_addresses(settings: Settings, before: Node | None) -> bool:
    """Whether the node's addresses are somebody else's to tell."""
    return settings.cloud_provider == EXTERNAL and before is not None and bool(before.status.addresses)


def provided_node_ip(settings: Settings) -> str | None:
    """The annotation by which an external cloud provider learns of --node-ip; None for none."""
    explicit = [str(address) for address in settings.node_ips if not address.is_unspecified]
    return ",".join(explicit) if explicit and settings.cloud_provider == EXTERNAL else None


def _condition(type_: str, status: str, reason: str, message: str, *, before: Node | None, now: str) -> Document:
    known = condition_of(before.status.conditions, type_) if before is not None else None
    since = known.lastTransitionTime if known is not None and known.status == status and known.lastTransitionTime else now
    return {"type": type_, "status": status, "lastHeartbeatTime": now, "lastTransitionTime": since, "reason": reason, "message": message}


def without_heartbeats(status: Document) -> Document:
    """A status without what changes every time, to be compared."""
    return {**status, "conditions": [{**one, "lastHeartbeatTime": None, "lastTransitionTime": None} for one in status["conditions"]]}


def host_ips_of(node: Node | None) -> tuple[str, ...]:
    """A node's addresses as its pods tell them: the first, and the first later one of the other family."""
    listed = node.status.addresses or () if node is not None else ()
    texts = [one.address for kind in ("InternalIP", "ExternalIP") for one in listed if one.type == kind]
    if not texts:
        return ()
    try:
        first = Family.of(parse_address(texts[0]))
        second = next((text for text in texts[1:] if Family.of(parse_address(text)) is not first), None)
    except AddressError:
        return (texts[0],)
    return (texts[0],) if second is None else (texts[0], second)
