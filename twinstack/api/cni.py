"""The documents of the Container Network Interface (CNI 1.1): configuration in, result or error out.

Rule of this file: documents and values only. It imports ``json`` and not msgspec, because a plugin is
executed anew for every pod and must start fast.

Theory. A runtime says what it wants by environment variables and gives the configuration on stdin; the
plugin answers on stdout in the version that was asked for. Before 1.0.0 each address named its family;
since 1.1.0 an interface tells its MTU. Two families are two entries of ``ips``, each with its gateway, and
one default route each. Ranges have host-local's form: one address is taken of *each* set, the members of one
set are alternatives of one family.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twinstack.net.cidr import contains, parse_address, parse_cidr
from twinstack.net.errors import AddressError, Error
from twinstack.net.family import Address, Family, Network

Document = dict[str, Any]

PLUGIN, IPAM = "twinstack-cni", "twinstack-ipam"
VERSIONS: tuple[str, ...] = ("0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
DATA_DIR = "/var/lib/cni/networks"
CAPABILITIES = ("bandwidth", "dns", "ips", "ipRanges", "mac", "portMappings")

# the specification's codes; from 100 on they are a plugin's own
INCOMPATIBLE_VERSION, UNSUPPORTED_FIELD, UNKNOWN_CONTAINER, BAD_ENVIRONMENT, IO_FAILURE, UNDECODABLE, BAD_CONFIG = 1, 2, 3, 4, 5, 6, 7
TRY_AGAIN, NOT_AVAILABLE, LIMITED_CONNECTIVITY = 11, 50, 51
DUPLICATE, NOT_AS_TOLD, NO_ADDRESS, KERNEL_REFUSED, PORT_TAKEN = 100, 101, 102, 103, 104
_PROTOCOLS = ("tcp", "udp", "sctp")
_MOST_BURST = 2**32 - 1  # bits, as upstream's plugin bounds it


class CNIError(Error):
    """A plugin's failure, told on stdout with its code."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details

    def document(self, version: str = NEWEST) -> Document:
        return {"cniVersion": version, "code": self.code, "msg": self.message, **({"details": self.details} if self.details else {})}


class Range(NamedTuple):
    """Addresses to give out of a subnet: first to last, without ``skipped``."""

    subnet: Network
    first: Address
    last: Address
    skipped: Address | None = None


class Attachment(NamedTuple):
    """One interface of one container: what everything is kept and released by."""

    container: str
    interface: str


class Given(NamedTuple):
    """An address that a container got, in the subnet that it was taken from."""

    address: Address
    subnet: Network
    gateway: Address | None = None


class PortMapping(NamedTuple):
    """A port of the host that leads to one of the container. Without ``host_ip`` it is one of every address of both families."""

    host_port: int
    container_port: int
    protocol: str
    host_ip: Address | None = None

    def is_of(self, family: Family) -> bool:
        """Whether the mapping is served in a family: one that names an address only in that address's own."""
        return self.host_ip is None or Family.of(self.host_ip) is family


class Bandwidth(NamedTuple):
    """How fast a container may receive (ingress) and send (egress): bits a second, and bits at once. 0: no bound."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class Config(NamedTuple):
    """A plugin's configuration, validated."""

    version: str
    network: str
    range_sets: tuple[tuple[Range, ...], ...]
    data_dir: str = DATA_DIR
    mtu: int = 0  # 0: the kernel's default
    requested: tuple[Address, ...] = ()
    previous: Document | None = None
    valid: tuple[Attachment, ...] | None = None  # for GC
    delegate: str = ""  # the plugin that gives addresses in our place; empty: ourselves
    chained: bool = False  # there is nothing to make and no address to give: ports are mapped to what an earlier plugin has made
    port_mappings: tuple[PortMapping, ...] = ()
    routes: tuple[Document, ...] = ()  # of ipam.routes, told on in the result of an IPAM plugin
    dns: Document = {}
    mac: str = ""  # the container's hardware address; empty: computed
    bandwidth: Bandwidth = Bandwidth()


def decode(data: bytes) -> Document:
    """The JSON object that the bytes are; CNIError 6 when they are none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CNIError(UNDECODABLE, "the network configuration is not JSON", str(error)) from None
    if not isinstance(document, dict):
        raise CNIError(UNDECODABLE, "the network configuration is not a JSON object")
    return document


def encode(document: Document) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def version_of(document: Document) -> str:
    """The version to answer in; CNIError 1 when we do not speak it. One that is not named is 0.1.0 by the specification."""
    version = document.get("cniVersion", "0.1.0")
    if version not in VERSIONS:
        raise CNIError(INCOMPATIBLE_VERSION, f"CNI version {version!r} is not spoken here", f"versions spoken: {', '.join(VERSIONS)}")
    return str(version)


def at_least(version: str, least: str) -> bool:
    """Whether a version that we speak is this one or a later one."""
    return VERSIONS.index(version) >= VERSIONS.index(least)


def parse_config(data: bytes, arguments: str = "", *, for_others: bool = False) -> Config:
    """The configuration that a runtime gives, *arguments* being its CNI_ARGS; CNIError says what is wrong with it.

    *for_others*: addresses are given to another plugin's link, whose gateway has an address of the range, by default the first.
    """
    document = decode(data)
    version = version_of(document)
    ipam = _mapping(document, "ipam")
    runtime = _mapping(document, "runtimeConfig")
    kind = _string(ipam, "type", PLUGIN)
    if "/" in kind:
        raise CNIError(BAD_CONFIG, f"ipam.type {kind!r} is not a file name")
    delegate = "" if for_others or kind in (PLUGIN, IPAM) else kind
    sets = [] if delegate else [*_list(runtime, "ipRanges", "runtimeConfig"), *_list(ipam, "ranges", "ipam")]
    if "subnet" in ipam and not delegate:  # host-local's older form
        sets.insert(0, [{key: ipam[key] for key in ("subnet", "rangeStart", "rangeEnd", "gateway") if key in ipam}])
    previous = document.get("prevResult")
    return Config(
        version=version,
        network=_name(document),
        range_sets=_range_sets(sets, for_others=for_others),
        data_dir=_string(ipam, "dataDir", _string(document, "dataDir", DATA_DIR)),
        mtu=_mtu(document),
        requested=() if delegate else _requested(document, runtime, arguments),
        previous=previous if isinstance(previous, dict) else None,
        valid=_valid(document),
        delegate=delegate,
        chained="ipam" not in document and not sets,
        port_mappings=_port_mappings(_list(runtime, "portMappings", "runtimeConfig")),
        routes=tuple(one for one in _list(ipam, "routes", "ipam") if isinstance(one, dict)),
        dns=_resolver(_mapping(runtime, "dns")) or _mapping(document, "dns"),
        mac=_mac(document, runtime, arguments),
        bandwidth=_bandwidth(_lowered(_mapping(runtime, "bandwidth"))),
    )


def _resolver(told: Document) -> Document:
    """The runtime's resolver in the words of a result."""
    told = _lowered(told)
    found = {"nameservers": told.get("servers"), "domain": told.get("domain"), "search": told.get("searches"), "options": told.get("options")}
    return {key: value for key, value in found.items() if value}


def _bandwidth(told: Document) -> Bandwidth:
    numbers = []
    for way in ("ingress", "egress"):
        rate, burst = (told.get(f"{way}{part}") or 0 for part in ("Rate", "Burst"))
        for name, number in ((f"{way}Rate", rate), (f"{way}Burst", burst)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise CNIError(BAD_CONFIG, f"runtimeConfig.bandwidth.{name} is {number!r}", "bits, as a number that is not negative")
        if burst and not rate:
            raise CNIError(BAD_CONFIG, f"runtimeConfig.bandwidth has {way}Burst without {way}Rate")
        if burst > _MOST_BURST:
            raise CNIError(BAD_CONFIG, f"runtimeConfig.bandwidth.{way}Burst {burst} is more than {_MOST_BURST} bits")
        numbers += [rate, burst or rate // 10]  # without a word, a tenth of a second
    return Bandwidth(*(min(number, _MOST_BURST) if i % 2 else number for i, number in enumerate(numbers)))


def _mac(document: Document, runtime: Document, arguments: str) -> str:
    """The hardware address that the runtime asks for: ``runtimeConfig.mac``, else ``args.cni.mac``, else CNI_ARGS ``MAC=``."""
    by_name = dict(pair.partition("=")[::2] for pair in arguments.split(";"))
    told = runtime.get("mac") or _mapping(_mapping(document, "args"), "cni").get("mac") or by_name.get("MAC") or ""
    if not told:
        return ""
    octets = str(told).lower().replace("-", ":").split(":")
    try:
        numbers = [int(octet, 16) for octet in octets if len(octet) == 2]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or len(octets) != 6 or numbers[0] & 1 or not any(numbers):
        raise CNIError(BAD_CONFIG, f"mac {told!r} is no address of one station", "six octets such as 02:00:5e:10:00:01")
    return ":".join(octets)


def _port_mappings(entries: Sequence[Any]) -> tuple[PortMapping, ...]:
    """The port mappings of the runtime; a hostPort of 0 maps nothing."""
    found = []
    for i, entry in enumerate(entries):
        where = f"runtimeConfig.portMappings[{i}]"
        if not isinstance(entry, dict):
            raise CNIError(BAD_CONFIG, f"{where} is not an object")
        entry = _lowered(entry)
        host_port, port = entry.get("hostPort") or 0, entry.get("containerPort") or 0
        if host_port == 0:
            continue
        if not all(isinstance(number, int) and 0 < number <= 65535 for number in (host_port, port)):
            raise CNIError(BAD_CONFIG, f"{where} maps {host_port!r} to {port!r}", "a port is a number from 1 to 65535")
        protocol = str(entry.get("protocol") or "tcp").lower()
        if protocol not in _PROTOCOLS:
            raise CNIError(BAD_CONFIG, f"{where}.protocol {protocol!r} is not known", ", ".join(_PROTOCOLS))
        try:
            host_ip = parse_address(str(entry["hostIP"])) if entry.get("hostIP") else None
        except AddressError as error:
            raise CNIError(BAD_CONFIG, f"{where}.hostIP is none", str(error)) from None
        found.append(PortMapping(host_port, port, protocol, host_ip))
    return tuple(dict.fromkeys(found))


def _mapping(document: Document, key: str) -> Document:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise CNIError(BAD_CONFIG, f"{key} is not an object")
    return value


def _list(document: Document, key: str, where: str) -> list[Any]:
    value = document.get(key) or []
    if not isinstance(value, list):
        raise CNIError(BAD_CONFIG, f"{where}.{key} is not a list")
    return value


def _string(document: Document, key: str, default: str) -> str:
    value = document.get(key) or default
    if not isinstance(value, str):
        raise CNIError(BAD_CONFIG, f"{key} is not a text")
    return value


def _name(document: Document) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not is_identifier(name):
        raise CNIError(BAD_CONFIG, f"name {name!r} is not a network's name", "it starts with a letter or digit; letters, digits, '.', '_' and '-' follow")
    return name


def _mtu(document: Document) -> int:
    mtu = document.get("mtu") or 0
    if not isinstance(mtu, int) or isinstance(mtu, bool) or not (mtu == 0 or 1280 <= mtu <= 65535):
        raise CNIError(BAD_CONFIG, f"mtu {mtu!r} is not possible", "1280, which every link must carry (RFC 8200), to 65535; or 0 for the kernel's default")
    return mtu


def is_identifier(text: str) -> bool:
    """Whether a text may name a container or a network: a letter or digit, then letters, digits, '.', '_', '-'."""
    return bool(text) and text.isascii() and text[0].isalnum() and text.replace(".", "").replace("_", "").replace("-", "").isalnum()


def is_interface_name(text: str) -> bool:
    """Whether a text may name a link: 1 to 15 bytes, not '.' or '..', neither '/' nor ':' nor white space."""
    return 0 < len(text.encode(errors="surrogateescape")) <= 15 and text not in (".", "..") and not any(c in "/:\0" or c.isspace() for c in text)


def _lowered(entry: Document) -> Document:
    """An entry of the runtime's with its keys as the specification has them: containerd writes ``HostPort``, which Go reads alike."""
    return {key[:1].lower() + key[1:]: value for key, value in entry.items()}


def _range_sets(sets: Sequence[Any], *, for_others: bool) -> tuple[tuple[Range, ...], ...]:
    parsed = []
    for i, members in enumerate(sets):
        if not isinstance(members, list) or not members:
            raise CNIError(BAD_CONFIG, f"ipam.ranges[{i}] is not a list of ranges")
        ranges = tuple(_range(member, f"ipam.ranges[{i}][{j}]", for_others=for_others) for j, member in enumerate(members))
        families = {Family.of(one.subnet) for one in ranges}
        if len(families) > 1:
            raise CNIError(BAD_CONFIG, f"ipam.ranges[{i}] mixes families", "each family has a list of its own: [[{subnet: …}], [{subnet: …}]]")
        parsed.append(ranges)
    every = [(f"ipam.ranges[{i}][{j}]", one) for i, ranges in enumerate(parsed) for j, one in enumerate(ranges)]
    for i, (name, one) in enumerate(every):
        for other_name, other in every[i + 1 :]:
            if one.subnet.version == other.subnet.version and one.first <= other.last and other.first <= one.last:  # type: ignore[operator]
                raise CNIError(BAD_CONFIG, f"{name} and {other_name} overlap", f"{one.first}-{one.last} and {other.first}-{other.last}")
    return tuple(parsed)


def _range(document: Any, where: str, *, for_others: bool) -> Range:
    document = _lowered(document) if isinstance(document, dict) else document
    if not isinstance(document, dict) or not isinstance(document.get("subnet"), str):
        raise CNIError(BAD_CONFIG, f"{where} has no subnet")
    try:
        subnet = parse_cidr(document["subnet"])
        family = Family.of(subnet)
        if family.bits - subnet.prefixlen < 2:
            raise CNIError(BAD_CONFIG, f"{where}.subnet {subnet} is too small", f"the longest prefix is /{family.bits - 2}")
        last_number = int(subnet.network_address) + subnet.num_addresses - 1 - (1 if family.facts.has_broadcast else 0)
        first = _within(document, "rangeStart", subnet, family.address(int(subnet.network_address) + 1), where)
        last = _within(document, "rangeEnd", subnet, family.address(last_number), where)
        skipped = parse_address(document["gateway"]) if document.get("gateway") else None
        if skipped is None and for_others:
            skipped = family.address(int(subnet.network_address) + 1)
    except AddressError as error:
        raise CNIError(BAD_CONFIG, f"{where} is malformed", str(error)) from None
    if int(first) > int(last):
        raise CNIError(BAD_CONFIG, f"{where} starts after its end", f"{first} and {last}")
    return Range(subnet, first, last, skipped)


def _within(document: Document, key: str, subnet: Network, default: Address, where: str) -> Address:
    if not document.get(key):
        return default
    address = parse_address(str(document[key]))
    if not contains(subnet, address):
        raise CNIError(BAD_CONFIG, f"{where}.{key} {address} is not in {subnet}")
    return address


def _requested(document: Document, runtime: Document, arguments: str) -> tuple[Address, ...]:
    """Addresses that the runtime asks for by name: CNI_ARGS ``IP=``, ``args.cni.ips`` and ``runtimeConfig.ips``."""
    texts: list[Any] = []
    for pair in filter(None, arguments.split(";")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CNIError(BAD_ENVIRONMENT, f"CNI_ARGS has {pair!r}, which is not KEY=VALUE")
        if key == "IP":
            texts += value.split(",")
    texts += _list(_mapping(_mapping(document, "args"), "cni"), "ips", "args.cni")
    texts += _list(runtime, "ips", "runtimeConfig")
    try:
        return tuple(dict.fromkeys(parse_address(str(text).partition("/")[0].strip()) for text in texts))
    except AddressError as error:
        raise CNIError(BAD_CONFIG, "an address asked for is none", str(error)) from None


def _valid(document: Document) -> tuple[Attachment, ...] | None:
    if "cni.dev/valid-attachments" not in document:
        return None
    entries = _list(document, "cni.dev/valid-attachments", "configuration")
    if not all(isinstance(entry, dict) for entry in entries):
        raise CNIError(BAD_CONFIG, "cni.dev/valid-attachments is not a list of objects")
    return tuple(Attachment(str(entry.get("containerID", "")), str(entry.get("ifname", ""))) for entry in entries)


def result(
    version: str, *, host_link: str, host_mac: str, link: str, mac: str, netns: str, mtu: int, given: Iterable[Given], dns: Document | None = None
) -> Document:
    """What ADD answers: both ends of the link, an address of each family, and its default route."""
    ends: list[Document] = [{"name": host_link, "mac": host_mac}, {"name": link, "mac": mac, "sandbox": netns}]
    if at_least(version, "1.1.0") and mtu:
        ends = [{**end, "mtu": mtu} for end in ends]
    ips, routes = [], []
    for one in given:
        facts = Family.of(one.address).facts
        old = {} if at_least(version, "1.0.0") else {"version": facts.cni_version}
        ips.append({**old, "address": f"{one.address}/{Family.of(one.address).bits}", "gateway": facts.pod_gateway, "interface": 1})
        routes.append({"dst": facts.everything, "gw": facts.pod_gateway})
    return {"cniVersion": version, "interfaces": ends, "ips": ips, "routes": routes, "dns": dns or {}}


def ipam_result(config: Config, given: Iterable[Given]) -> Document:
    """What an IPAM plugin answers: addresses with their subnets and gateways, and the routes of its configuration."""
    ips = []
    for one in given:
        old = {} if at_least(config.version, "1.0.0") else {"version": Family.of(one.address).facts.cni_version}
        gateway = {"gateway": str(one.gateway)} if one.gateway is not None else {}
        ips.append({**old, "address": f"{one.address}/{one.subnet.prefixlen}", **gateway})
    return {"cniVersion": config.version, "ips": ips, "routes": list(config.routes), "dns": config.dns}


def given_of(answer: Mapping[str, Any]) -> list[Given]:
    """The addresses that an IPAM plugin's result tells, at most one of each family; CNIError 6 or 7 when it is none."""
    found = []
    try:
        for one in answer.get("ips") or []:
            text, _, prefix = str(one["address"]).partition("/")
            address = parse_address(text)
            family = Family.of(address)
            length = int(prefix) if prefix else family.bits
            found.append(Given(address, family.network(int(address) >> (family.bits - length) << (family.bits - length), length)))
    except (AddressError, KeyError, TypeError, ValueError) as error:
        raise CNIError(UNDECODABLE, "the IPAM plugin's ips are malformed", str(error)) from None
    families = [Family.of(one.address) for one in found]
    if len(set(families)) != len(families) or not found:
        told = ", ".join(str(one.address) for one in found) or "no address"
        raise CNIError(BAD_CONFIG, f"the IPAM plugin gave {told}", "a pod has one address, or one of each family")
    return found


def addresses_of(answer: Mapping[str, Any]) -> tuple[Address, ...]:
    """The addresses that a result tells, in its order; CNIError 6 when it is none."""
    try:
        return tuple(parse_address(str(one["address"]).partition("/")[0]) for one in answer.get("ips") or [])
    except (AddressError, KeyError, TypeError) as error:
        raise CNIError(UNDECODABLE, "a result's ips are malformed", str(error)) from None


def network_config(name: str, pod_cidrs: Iterable[str], *, mtu: int = 0, data_dir: str = "") -> Document:
    """The network configuration list that a node with these pod CIDRs gives its runtime: one address of each."""
    ipam: Document = {"type": PLUGIN, "ranges": [[{"subnet": cidr}] for cidr in pod_cidrs], **({"dataDir": data_dir} if data_dir else {})}
    plugin: Document = {"type": PLUGIN, **({"mtu": mtu} if mtu else {}), "capabilities": dict.fromkeys(CAPABILITIES, True), "ipam": ipam}
    # a runtime that knows cniVersions (1.1.0) takes the newest that it speaks; an older one reads the first key only
    return {"cniVersion": "1.0.0", "cniVersions": list(VERSIONS), "name": name, "plugins": [plugin]}
