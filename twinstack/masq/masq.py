"""ip-masq-agent: what leaves the cluster leaves under the node's own address.

Rule of this file: first the table as a value, then the rounds that keep it in the kernel. Upstream's semantics are
kept, also where they surprise: with both families on, there is no default exemption of the second but link-local
addresses, so a cluster's own CIDRs of that family belong into the configuration file; a list given there replaces
the default one, for both families.

Theory. The chain runs after the Service proxy's (source NAT is decided once, by the first that decides). What goes to
the host itself, to link-local addresses or to an exempt CIDR returns; all else is masqueraded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import Chain, Element, Goto, Hook, Masquerade, Match, Rule, Set, Table, Verdict, gone, table_of, whole
from twinstack.kernel import nftables
from twinstack.kernel.errors import KernelError
from twinstack.masq.settings import Config, ConfigError, Settings, checked, default_config, parse_config, parse_ports
from twinstack.net.cidr import collapsed, parse_cidr
from twinstack.net.family import FAMILIES, Family, Network

TABLE = "twinstack-masq"
PRIORITY = 110  # after the proxy's 100
_PORTS_OF = Match(("l4proto",), "{ tcp, udp, sctp }")
_RETURN = Verdict("return")

log = logging.getLogger(__name__)


def wanted(config: Config, settings: Settings, family: Family) -> Table:
    """The family's table."""
    rules: list[Rule] = [(Match(("daddr",), "@exempt"), _RETURN)]
    intervals = parse_ports(settings.to_ports)
    left = sum(last - first + 1 for first, last in intervals)
    for i, (first, last) in enumerate(intervals):
        size = last - first + 1
        ports = Masquerade(f"{first}-{last}" if first != last else str(first), settings.random_fully)
        sometimes: Rule = (Match((f"numgen random mod {left}",), str(size), "<"),) if i < len(intervals) - 1 else ()
        rules.append((_PORTS_OF, *sometimes, ports))
        left -= size
    rules.append((Masquerade(random=settings.random_fully),))
    chains = [
        Chain(settings.masq_chain, tuple(rules)),
        Chain(
            "nat-postrouting",
            ((Match(("fib daddr type",), "local", "!="), Goto(settings.masq_chain, jump=True)),),
            Hook("nat", "postrouting", PRIORITY),
        ),
    ]
    elements: list[Element] = [("exempt", (interval,), None) for interval in _exempt(config, family)]
    return table_of(family, TABLE, chains, [Set("exempt", ("daddr",), ("interval",))], elements)


def _exempt(config: Config, family: Family) -> list[str]:
    networks: list[Network] = [network for network in config.cidrs if Family.of(network) is family]
    if family not in config.link_local:
        networks.append(parse_cidr(family.facts.link_local))
    return [text.interval_text(network) for network in collapsed(networks)]


def read_config(settings: Settings) -> Config:
    """What the file says; the defaults when there is none. ConfigError when it cannot be read or is wrong."""
    try:
        data = Path(settings.config_file).read_bytes()
    except FileNotFoundError:
        return default_config(settings)
    except OSError as error:
        raise ConfigError(f"{settings.config_file}: {error.strerror or error}") from error
    try:
        return parse_config(data, settings)
    except ConfigError as error:
        raise ConfigError(f"{settings.config_file}: {error}") from error


def cleanup() -> None:
    """Remove our tables of both families."""
    with nftables.Nftables() as ruleset:
        for family in FAMILIES:
            nftables.apply(ruleset, gone(family, TABLE))


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None, ruleset: nftables.Ruleset | None = None) -> None:
    """Keep the rules in the network namespace of this thread until cancelled; nothing is removed on the way out.

    With ``dry_run`` the tables are printed instead. *ruleset* replaces the kernel's. Ready after the first round.
    """
    settings = checked(settings)
    if settings.dry_run:
        config = read_config(settings)
        print("".join(text.listing(wanted(config, settings, family)) for family in settings.families), end="")
        return
    with contextlib.ExitStack() as stack:
        if ruleset is None:
            ruleset = stack.enter_context(nftables.Nftables())
        pause = default_config(settings).resync_seconds
        first = True
        while True:
            applied = await sync_once(settings, ruleset)
            if applied is not None:
                pause = applied.resync_seconds
            if first:
                ready()
                first = False
            await asyncio.sleep(pause)


async def sync_once(settings: Settings, ruleset: nftables.Ruleset) -> Config | None:
    """One round: read, then write each family's table. None when the file is bad, and then no rule is touched."""
    try:
        config = read_config(settings)
    except ConfigError as error:
        log.error("The configuration is refused; the rules stay as they are", extra={"error": str(error)})
        return None
    for family in settings.families:
        try:
            await asyncio.to_thread(nftables.apply, ruleset, whole(wanted(config, settings, family)))
        except KernelError as error:
            log.error("The kernel refuses the rules", extra={"family": family.value, "error": str(error)})
            break  # upstream's order: what fails for the first family leaves the second for the next round
    return config
