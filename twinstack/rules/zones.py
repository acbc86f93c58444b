"""How many nodes of a zone may lose their pods, and how fast: less, when so many are silent that it is rather the network that fails.

Rule of this file: nodes and rates in; when the next node may be given up, out. No clock is asked, and nothing is remembered: the taints tell when
the last one was.

Theory (spec: "Nodes", section on eviction rates). A zone is *full of trouble* when none of its nodes is ready, *in trouble* when more than two are
not and they are at least the threshold's share. In trouble, nodes are given up at the secondary rate, and not at all in a small zone. Where every zone is
full of trouble nobody is given up: then it is we who are cut off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from twinstack.api.kinds import Node, condition_of
from twinstack.api.times import parse_time
from twinstack.rules.taints import NOT_READY, UNREACHABLE

_LABELS = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")


class Rates(NamedTuple):
    """Nodes a second; *threshold* is a share of a zone's nodes, *large* the number of nodes above which a zone is not small."""

    usual: float = 0.1
    secondary: float = 0.01
    threshold: float = 0.55
    large: int = 50


Zone = tuple[str, ...]


def zone_of(node: Node) -> Zone:
    """Region and zone; nodes without are in one together."""
    return tuple(node.labels.get(label, "") for label in _LABELS)


def rate_for(node: Node, nodes: Iterable[Node], rates: Rates) -> float | None:
    """How many nodes a second may be given up in the zone of a node that is silent; None when none may, anywhere, and those that were are taken back."""
    ready: Counter[Zone] = Counter()
    silent: Counter[Zone] = Counter()
    for other in nodes:
        condition = condition_of(other.status.conditions, "Ready")
        is_ready = condition is not None and condition.status == "True" and other is not node  # its own condition may not say it yet
        (ready if is_ready else silent)[zone_of(other)] += 1
    if not ready:
        return None
    zone = zone_of(node)
    down, size = silent[zone], silent[zone] + ready[zone]
    if ready[zone] and down > 2 and down >= rates.threshold * size:
        return rates.secondary if size > rates.large else 0.0
    return rates.usual


def seconds_to_wait(node: Node, nodes: Sequence[Node], rate: float, now: datetime) -> float | None:
    """In how many seconds the node may be given up; None when that is not to be told now."""
    if rate <= 0:
        return None
    zone = zone_of(node)
    given = [
        added
        for other in nodes
        if zone_of(other) == zone
        for taint in other.spec.taints or ()
        if taint.effect == "NoExecute" and taint.key in (NOT_READY, UNREACHABLE) and (added := parse_time(taint.timeAdded)) is not None
    ]
    return max(0.0, (max(given) + timedelta(seconds=1 / rate) - now).total_seconds()) if given else 0.0
