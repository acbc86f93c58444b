"""Session affinity as rules: who looks up where a client was, and which connections are learned from.

Rule of this file: chains and maps that only a table with affinity has; others' packets do not pay for it.

Theory. Rules learn (client, list) → address of an endpoint, and → its port, in two maps whose elements expire. A *list* is
the endpoints of a Service port, all or this node's, and has a number (``ids``): a client stays with its endpoint whichever of
the Service's addresses and node ports it comes by. A front end with affinity leads to ``sticky-pick-3``, which asks
``recall`` first and then picks as ever:

    recall     keep the packet's priority aside · tag it with the front end's list · note the list by connection ·
               translate to what is known of (client, list) · else give the priority back
    give-back  right after translation (priority -99): the tagged packet gets its own priority again
    learn-60   at the very end (priority 300, input and postrouting), for a new connection to a front end in ``sticky``: tag
               it with its list, and if its endpoint is of that (``serving``), remember it for so many seconds, or start the
               time anew; give the priority back

nft has no words for one lookup inside another, and the packet's priority is the one place where a number can lie for the
moment that routes nothing; it has its own value again before anything that looks at it runs. A client is a hash of
its address (``client``), because long keys are beyond libnftables 1.0.6; two clients of one hash share an endpoint.
An endpoint that goes takes along what was learned of it (``affinity``); what was learned outlives a whole write.
"""

from __future__ import annotations

from twinstack.dataplane.ruleset import Chain, Dnat, Goto, Hook, Lookup, Map, Match, Rule, Set, Tag, Update
from twinstack.proxy.fronts import ANY_INDEX, KINDS, KNOWN_PROTOCOL, LISTS, NEW, PROTOCOLS, Kind
from twinstack.proxy.services import ServicePort

_MOST_CLIENTS = 1 << 18  # are remembered; others spread
_CLIENT_OF_LIST = ("client", "tag")
_DYNAMIC = ("dynamic", "timeout")
AFFINITY = Map("affinity", (ANY_INDEX, "tag"), ("daddr",), _DYNAMIC, size=_MOST_CLIENTS)
AFFINITY_PORTS = Map("affinity-ports", (ANY_INDEX, "tag"), ("dport",), _DYNAMIC, size=_MOST_CLIENTS)
# what rules keep of a connection between two hooks: a moment, and how many may be in it
_MOMENT_SECONDS, _MOST_AT_ONCE = 3, 1 << 16
_KEPT, _KEPT_LATE, _CHOSEN = (Map(name, ("ct id",), ("tag",), _DYNAMIC, size=_MOST_AT_ONCE) for name in ("kept", "kept-late", "chosen"))
SERVING = Set("serving", ("tag", "daddr", "dport"))
_LEARN = "learn"


def list_name(port: ServicePort, *, local: bool) -> str:
    """What names a list of endpoints: those of a Service port, all or this node's."""
    return f"{port.name}/{port.protocol}" + ("/local" if local else "")


def sets() -> tuple[Set | Map, ...]:
    """The maps of session affinity."""
    return (
        *(AFFINITY, AFFINITY_PORTS, SERVING, _KEPT, _KEPT_LATE, _CHOSEN),
        *(Map(kind.ids(local=local), kind.front, ("tag",)) for kind, local in LISTS),
        *(Map(kind.sticky, kind.front, ("verdict",)) for kind in KINDS),
    )


def _kept(connection: Map) -> Update:
    """Keep what the packet bears; before it is tagged, so that it can be given back."""
    return Update(connection.name, ("ct id",), ("tag",), _MOMENT_SECONDS)


def _given_back(connection: Map) -> Tag:
    return Tag(("ct id",), connection.name)


def chains() -> tuple[Chain, ...]:
    """The chains of session affinity: who looks up what was learned, and which connections are learned from."""
    learn = tuple(
        (Match(("l4proto",), protocol), Lookup(kind.original, kind.sticky))
        for protocol in PROTOCOLS  # nft 1.0.6 wants it named before it takes a connection's ports
        for kind in KINDS
    )
    translated = (NEW, Match(("ct status",), "dnat"))
    return (
        *(_recall(kind, local=local) for kind, local in LISTS),
        *(Chain(f"give-back-{hook}", ((*translated, _given_back(_KEPT)),), Hook("filter", hook, -99)) for hook in ("prerouting", "output")),
        Chain(_LEARN, learn),
        *(Chain(f"{_LEARN}-{hook}", ((*translated, Goto(_LEARN)),), Hook("filter", hook, 300)) for hook in ("postrouting", "input")),
    )


def _recall(kind: Kind, *, local: bool) -> Chain:
    known: Rule = (
        KNOWN_PROTOCOL,
        _kept(_KEPT),
        Tag(kind.front, kind.ids(local=local)),
        Update(_CHOSEN.name, ("ct id",), ("tag",), _MOMENT_SECONDS),
        Dnat(_CLIENT_OF_LIST, AFFINITY.name, AFFINITY_PORTS.name),
    )
    return Chain(kind.recall(local=local), (known, (_given_back(_KEPT),)))


def learn_for(seconds: int) -> Chain:
    """The chain that remembers a connection's endpoint for so long."""
    client = ("ct original client", "tag")
    learn: Rule = (
        KNOWN_PROTOCOL,
        _kept(_KEPT_LATE),
        Tag(("ct id",), _CHOSEN.name),
        Match(SERVING.key, f"@{SERVING.name}"),  # what tells connections apart is a hash, too: never learn of another list's endpoint
        *(Update(one.name, client, one.data, seconds) for one in (AFFINITY, AFFINITY_PORTS)),
    )
    return Chain(f"{_LEARN}-{seconds}", (learn, (_given_back(_KEPT_LATE),)))
