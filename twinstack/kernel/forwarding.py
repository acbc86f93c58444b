"""Switching on that a host forwards, without cutting it off from routers that it hears of by advertisement.

Facts: Linux's ``accept_ra``: 1 means "unless this host forwards", 2 "even then". A host whose default route comes from a
router advertisement (RFC 4861) loses it within minutes once it forwards, unless the link is set to 2 before.
"""

from __future__ import annotations

from collections.abc import Iterable

from twinstack.kernel import namespaces
from twinstack.kernel.netlink import Netlink
from twinstack.net.family import Family

_ADVERTISED = 9  # RTPROT_RA: a route that the kernel has from an advertisement


def switch_on(families: Iterable[Family]) -> list[str]:
    """Let this namespace forward the families; returns the links that go on listening to routers.

    KernelError ``.missing`` when the kernel has not the family.
    """
    listening = []
    for family in families:
        facts = family.facts
        if namespaces.read_sysctl(facts.forwarding) != "0":
            continue
        if facts.accept_ra:
            with Netlink() as kernel:
                links = {route.link for route in kernel.routes([family], protocol=_ADVERTISED) if route.link}
            for link in sorted(links):
                if namespaces.read_sysctl(facts.accept_ra.format(link)) == "1":
                    namespaces.write_sysctl(facts.accept_ra.format(link), "2")
                    listening.append(link)
        namespaces.write_sysctl(facts.forwarding, "1")
    return listening
