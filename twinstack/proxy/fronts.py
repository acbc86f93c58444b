"""The two kinds of front end, and the words in which rules speak of them.

Rule of this file: names and selectors. What the rules do stands in ``ruleset`` and ``recalling``.
"""

from __future__ import annotations

from typing import NamedTuple

from twinstack.dataplane.ruleset import Match

PROTOCOLS = ("tcp", "udp", "sctp")

FRONT = ("daddr", "l4proto", "dport")
NODE_FRONT = ("l4proto", "dport")
ANY_INDEX = "numgen random mod 65536"
BACKEND = ("daddr", "dport")
NEW = Match(("ct state",), "new")
KNOWN_PROTOCOL = Match(("l4proto",), "{ " + ", ".join(PROTOCOLS) + " }")


class Kind(NamedTuple):
    """A kind of front end: with an address, or a node port's without."""

    prefix: str
    front: tuple[str, ...]
    verdicts: str
    missing: str
    endpoints: str
    local_endpoints: str
    sticky: str
    original: tuple[str, ...]  # the front end that a connection was to before it was translated

    def ids(self, *, local: bool) -> str:
        """The map of the numbers of the front ends' lists, all endpoints or this node's."""
        return f"{self.prefix}{'local-' if local else ''}ids"

    def recall(self, *, local: bool) -> str:
        """The chain that translates as the client was before."""
        return f"{self.prefix}recall{'-local' if local else ''}"


ADDRESSED = Kind("", FRONT, "services", "no-endpoints", "endpoints", "local-endpoints", "sticky", ("ct original daddr", "l4proto", "ct original proto-dst"))
NODE = Kind(
    "node-", NODE_FRONT, "node-services", "node-no-endpoints", "node-endpoints", "node-local-endpoints", "node-sticky", ("l4proto", "ct original proto-dst")
)
KINDS = (ADDRESSED, NODE)
LISTS = [(kind, local) for kind in KINDS for local in (False, True)]
