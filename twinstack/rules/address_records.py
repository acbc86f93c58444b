"""Where the records of addresses (IPAddresses) and the Services that hold them disagree, and what is to be done.

Rule of this file: one object, what it refers to and a time in, findings out. Services are believed first: an address that a Service
lists and nobody else owns is its own. Then records that nobody stands for go; young ones are given time, because a Service
and its records are not always seen together (spec/api.md 4.9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from twinstack.api.kinds import IPAddress, IPAddressSpec, Object, View
from twinstack.api.objects import Document, Key
from twinstack.api.times import parse_time
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, Family
from twinstack.rules.cidrs import FAMILY_LABEL, MANAGER, MANAGER_LABEL, ip_address
from twinstack.rules.families import NONE

ORPHAN_SECONDS, YOUNG_SECONDS = 60.0, 5.0
_SEPARATORS = {family.value: family.facts.separator for family in FAMILIES}


class HolderSpec(View, frozen=True):
    """What a Service says about its addresses."""

    type: str = ""
    clusterIPs: list[str] = []
    ipFamilies: list[str] | None = None


class Holder(Object, frozen=True):
    """A Service, of which only its addresses matter here: there may be many thousands of them."""

    spec: HolderSpec = HolderSpec()


class HolderSketch(View, frozen=True):
    """As much of a Service as a first look takes."""

    spec: HolderSpec = HolderSpec()


class _Labels(View, frozen=True):
    labels: dict[str, str] | None = None


class RecordSketch(View, frozen=True):
    """As much of an IPAddress as a first look takes."""

    metadata: _Labels = _Labels()
    spec: IPAddressSpec = IPAddressSpec()


class Finding(NamedTuple):
    """One disagreement: the record to remove, the record to write, and what to tell about whom."""

    address: str
    about: Object
    reason: str = ""
    message: str = ""
    remove: bool = False
    record: Document | None = None

    @property
    def action(self) -> str:
        """What was being done when it was found."""
        if self.reason.startswith("IPAddress"):
            return "IPAddressAllocation"
        return "ClusterIPValidation" if self.reason == "ClusterIPNotValid" else "ClusterIPAllocation"


HolderOf = Callable[[Key], Holder | None]
RecordOf = Callable[[str], IPAddress | None]


class Survey:
    """The first look at all records and then at all Services, which reads no address: who agrees at first sight is not judged.

    *strays* are the recorded addresses that no ServiceCIDR hands out.
    """

    def __init__(self, strays: Iterable[Address]) -> None:
        self._strays = frozenset(map(str, strays))
        self._owners: dict[str, Key] = {}  # of the records that are as the server writes them, and that no Service has claimed yet
        self._odd: list[Key] = []
        self.services: list[Key] = []  # those to be judged

    def take_record(self, key: Key, record: RecordSketch) -> None:
        """Look at a record; all of them come before the Services."""
        labels, parent = record.metadata.labels or {}, record.spec.parentRef
        separator = _SEPARATORS.get(labels.get(FAMILY_LABEL, ""))
        managed = labels.get(MANAGER_LABEL) == MANAGER and separator is not None and separator in key.name
        if managed and parent is not None and not parent.group and parent.resource == "services" and key.name not in self._strays:
            self._owners[key.name] = Key(parent.namespace, parent.name)
        else:
            self._odd.append(key)

    def take_service(self, key: Key, service: HolderSketch) -> None:
        """Look at a Service."""
        agrees = True
        for text in () if service.spec.type == "ExternalName" else service.spec.clusterIPs:
            if text not in ("", NONE):
                if self._owners.get(text) == key:
                    del self._owners[text]
                else:
                    agrees = False
        if not agrees:
            self.services.append(key)

    @property
    def records(self) -> list[Key]:
        """The records to be judged: odd ones, and those that no Service claimed."""
        return self._odd + [Key("", name) for name in self._owners]


def findings_about_service(key: Key, holder: Holder, *, record_of: RecordOf, holder_of: HolderOf, hands_out: Callable[[Address], bool]) -> Iterator[Finding]:
    """What is to be repaired about a Service's addresses; *hands_out* says whether any ServiceCIDR holds an address."""
    for text in addresses_of(holder):
        if text not in ("", NONE):
            yield from _of_address(key, holder, text, record_of, holder_of, hands_out)


def _of_address(key: Key, service: Holder, text: str, record_of: RecordOf, holder_of: HolderOf, hands_out: Callable[[Address], bool]) -> Iterator[Finding]:
    try:
        address = parse_address(text)
    except AddressError:
        yield Finding(text, service, "ClusterIPNotValid", f"cluster IP {text} is not an IP address; please recreate the Service")
        return
    name = str(address)
    if not hands_out(address):
        yield Finding(name, service, "ClusterIPOutOfRange", f"cluster IP {text} lies in no ServiceCIDR; please recreate the Service")
        return
    wanted = ip_address(address, namespace=key.namespace, name=key.name)
    record = record_of(name)
    if record is None:
        yield Finding(name, service, "ClusterIPNotAllocated", f"cluster IP {text} was recorded by nobody; it is now", record=wanted)
        return
    parent = record.spec.parentRef
    if parent is None or parent.group or parent.resource != "services":
        yield Finding(name, service, "ClusterIPNotAllocated", f"cluster IP {text} was recorded for no Service; it is now", remove=True, record=wanted)
        return
    owner = Key(parent.namespace, parent.name)
    if owner != key:
        other = holder_of(owner)
        if lists(other, address):
            yield Finding(name, service, "ClusterIPAlreadyAllocated", f"cluster IP {text} belongs to Service {owner}; please recreate this one")
        elif other is None:
            yield Finding(name, service, "ClusterIPNotAllocated", f"cluster IP {text} was recorded for {owner}, which is gone", remove=True, record=wanted)
    elif (record.labels.get(FAMILY_LABEL), record.labels.get(MANAGER_LABEL)) != (Family.of(address).value, MANAGER):
        yield Finding(name, service, remove=True, record=wanted)


def findings_about_record(record: IPAddress, *, holder_of: HolderOf, now: datetime) -> Iterator[Finding]:
    """What is to be repaired about a record that the server manages; others' are left alone."""
    name = record.metadata.name
    if record.labels.get(MANAGER_LABEL) != MANAGER:
        return
    parent = record.spec.parentRef
    if parent is None or parent.group or parent.resource != "services":
        yield Finding(name, record, "IPAddressNotAllocated", f"IPAddress {name} is managed here and belongs to no Service", remove=True)
        return
    service = holder_of(Key(parent.namespace, parent.name))
    age = _age_seconds(record, now)
    if service is None:
        if age > ORPHAN_SECONDS:
            message = f"IPAddress {name} belongs to Service {parent.namespace}/{parent.name}, which does not exist"
            yield Finding(name, record, "IPAddressNotAllocated", message, remove=True)
        return
    if lists(service, parse_address(name)):
        return
    if (service.spec.type == "ExternalName" and age < ORPHAN_SECONDS) or age < YOUNG_SECONDS:
        return
    message = f"IPAddress {name} belongs to Service {parent.namespace}/{parent.name}, which does not list it"
    yield Finding(name, record, "IPAddressWrongReference", message, remove=True)


def addresses_of(service: Holder) -> list[str]:
    """The texts of a Service's addresses; what an ExternalName spells out is none of its own (spec/api.md 12, 14)."""
    return [] if service.spec.type == "ExternalName" else service.spec.clusterIPs


def lists(service: Holder | None, address: Address) -> bool:
    """Whether the Service has this address, however it spells it."""
    for text in addresses_of(service) if service else ():
        try:
            if text not in ("", NONE) and parse_address(text) == address:
                return True
        except AddressError:
            continue
    return False


def _age_seconds(record: IPAddress, now: datetime) -> float:
    created = parse_time(record.metadata.creationTimestamp)
    return (now - created).total_seconds() if created else float("inf")
