"""Which nodes live, by their Leases: a value that is told what was seen and when, and judges.

Rule of this file: no clock and no I/O; times are the caller's, monotonic, in seconds.

Theory. A node that has not renewed its Lease for *lease_seconds*, by our clock, is dead. But silence of all others may be our own
deafness: while the API server is away, everybody looks dead to everybody. So a silence counts only if our own renewals came back to
us in it, by the same watch, some times; and after we were deaf for a lease ourselves, some more. That they are counted and not
timed lets a busy cluster be slower instead of wrong. Nodes rest, and renew seldom, while there is no address to answer
for; nobody is judged then.
"""

from __future__ import annotations

_RENEWALS = 3  # of our own, within another's silence
_AFTER_DEAFNESS = 2  # more of them


class Members:
    """What one node knows of all."""

    def __init__(self, own: str, *, lease_seconds: float) -> None:
        self.own, self._lease_seconds = own, lease_seconds
        self._seen: dict[str, float] = {}
        self._renewals: dict[str, str] = {}
        self._own_since: dict[str, int] = {}  # our own renewals since a node's last
        self._dead: set[str] = set()
        self.active = False

    @property
    def living(self) -> frozenset[str]:
        """Who is not known to be dead."""
        return frozenset(self._seen.keys() - self._dead)

    def observe(self, node: str, renewal: str | None, now: float) -> bool:
        """A Lease was seen with this time of renewal, or None when it was given up; whether that is news about who lives, or about ourselves."""
        if renewal is None:
            for known in (self._renewals, self._own_since):
                known.pop(node, None)
            self._dead.discard(node)
            return self._seen.pop(node, None) is not None
        if self._renewals.get(node) == renewal:
            return False
        lapsed = node == self.own and not self.is_current(now)
        if lapsed:
            self._forgive()
        if node == self.own:
            self._own_since = {other: count + 1 for other, count in self._own_since.items()}
        else:
            self._own_since[node] = 0
        news = node not in self._seen or node in self._dead or lapsed
        self._renewals[node], self._seen[node] = renewal, now
        self._dead.discard(node)
        return news

    def _forgive(self) -> None:
        self._own_since = dict.fromkeys(self._own_since, -_AFTER_DEAFNESS)

    def begin(self) -> None:
        """There is something to answer for: from now on all renew often, and who does not will be judged."""
        self.active = True
        self._forgive()

    def rest(self) -> None:
        """There is nothing to answer for."""
        self.active = False

    def is_current(self, now: float) -> bool:
        """Whether our own Lease is known to stand."""
        return now < self._seen.get(self.own, -1e9) + self._lease_seconds

    def judge(self, now: float) -> bool:
        """Bury who has been silent for too long, if we may judge; whether anybody was."""
        if not self.active or not self.is_current(now):
            return False
        silent = {node for node, end in self._ends() if now >= end}
        self._dead |= silent
        return bool(silent)

    def patience(self, now: float) -> float | None:
        """In how many seconds to judge again, if nothing is seen until then; None: when our own Lease is."""
        if not self.active or not self.is_current(now):
            return None
        return min((end - now for _, end in self._ends() if end > now), default=None)

    def _ends(self) -> list[tuple[str, float]]:
        """The nodes whose silence counts, and when it will have been too long."""
        return [(node, self._seen[node] + self._lease_seconds) for node, count in self._own_since.items() if count >= _RENEWALS and node not in self._dead]
