"""What ip-masq-agent is told: upstream's flags, and upstream's configuration file.

Rule of this file: a file is taken whole or not at all. Keys are upstream's, case-sensitive; unknown ones are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from twinstack.loops.durations import parse_duration
from twinstack.net.cidr import parse_cidr
from twinstack.net.errors import Error
from twinstack.net.family import Family, Network

CONFIG_FILE = "/etc/config/ip-masq-agent"
DEFAULT_CIDRS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
RESERVED_CIDRS = (
    "100.64.0.0/10",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
)
# which key masquerades link-local destinations of which family
LINK_LOCAL_KEYS: Mapping[str, Family] = {"masqLinkLocal": Family.IPV4, "masqLinkLocalIPv6": Family.IPV6}

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ConfigError(Error, ValueError):
    """A flag or the configuration file says what cannot be."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per flag; ``config_file`` is ours, upstream's path is fixed."""

    config_file: str = CONFIG_FILE
    masq_chain: str = "IP-MASQ-AGENT"
    nomasq_all_reserved_ranges: bool = False
    enable_ipv6: bool = False
    random_fully: bool = True
    to_ports: str = ""
    dry_run: bool = False

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that are masqueraded, in upstream's order."""
        return (Family.IPV4, Family.IPV6) if self.enable_ipv6 else (Family.IPV4,)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration file says, or the defaults."""

    cidrs: tuple[Network, ...]
    link_local: frozenset[Family] = frozenset()  # families whose link-local destinations are masqueraded, too
    resync_seconds: float = 60.0


def checked(settings: Settings) -> Settings:
    """The settings; ConfigError when a flag cannot be."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,27}", settings.masq_chain):
        raise ConfigError(f"--masq-chain {settings.masq_chain!r} is not a chain's name of at most 28 letters")
    parse_ports(settings.to_ports)
    return settings


def parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    """The intervals of ``1024-29999,32768-65535``; none for an empty text."""
    intervals = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", part.strip())
        if not found or not 0 < int(found[1]) <= int(found[2]) <= 65535:
            raise ConfigError(f"--to-ports: {part!r} is not an interval of ports such as 1024-29999")
        intervals.append((int(found[1]), int(found[2])))
    return tuple(intervals)


def default_config(settings: Settings) -> Config:
    """What holds without a file."""
    texts = DEFAULT_CIDRS + (RESERVED_CIDRS if settings.nomasq_all_reserved_ranges else ())
    return Config(cidrs=tuple(map(parse_cidr, texts)))


def parse_config(data: bytes | str, settings: Settings) -> Config:
    """The defaults, overlaid with what the file gives; a given list replaces, it does not append. ConfigError when any of it is wrong."""
    try:
        document = yaml.load(data, _LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(f"the file is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError("the file is not a mapping of keys to values")
    config = default_config(settings)
    if (texts := document.get("nonMasqueradeCIDRs")) is not None:
        config = msgspec.structs.replace(config, cidrs=_cidrs(texts, settings))
    limit = document.get("cidrLimit", 64)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise ConfigError(f"cidrLimit: {limit!r} is not a number")
    if len(config.cidrs) > limit:
        raise ConfigError(f"nonMasqueradeCIDRs: {len(config.cidrs)} entries are more than cidrLimit, which is {limit}")
    for key in LINK_LOCAL_KEYS:
        if not isinstance(document.get(key, False), bool):
            raise ConfigError(f"{key}: {document[key]!r} is neither true nor false")
    link_local = frozenset(family for key, family in LINK_LOCAL_KEYS.items() if document.get(key, False))
    return msgspec.structs.replace(config, link_local=link_local, resync_seconds=_interval(document.get("resyncInterval", "60s")))


def _cidrs(texts: Any, settings: Settings) -> tuple[Network, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError("nonMasqueradeCIDRs: not a list of CIDRs")
    cidrs = []
    for i, text in enumerate(texts):
        try:
            network = parse_cidr(text)
        except Error as error:
            raise ConfigError(f"nonMasqueradeCIDRs[{i}]: {error}") from error
        if Family.of(network) not in settings.families:
            raise ConfigError(f"nonMasqueradeCIDRs[{i}]: {text!r} is {Family.of(network)}, which needs --enable-ipv6")
        cidrs.append(network)
    return tuple(cidrs)


def _interval(text: Any) -> float:
    try:
        seconds = parse_duration(str(text))
    except ValueError as error:
        raise ConfigError(f"resyncInterval: {error}") from error
    if seconds <= 0:
        raise ConfigError(f"resyncInterval: {text!r} must be greater than zero")
    return seconds
