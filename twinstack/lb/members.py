"""Which nodes live, by their Leases: a value that is told what was seen and when, and judges.

Rule of this file: no clock and no I/O; times are the caller's, monotonic, in seconds.

Theory. A node that has not renewed its Lease for *lease_seconds*, by our clock, is dead. But silence of all others may be our own
deafness: while the API server is away, everybody looks dead to everybody. So nobody is judged unless our own renewals come
back to us by the same watch, and have done so for a whole lease; and nobody for a silence in which we have not heard ourselves
all the time for half a lease at least. Until then everything stays as it was. Nodes rest, and renew
seldom, while there is no address to answer for; nobody is judged then either.
"""

from __future__ import annotations


class Members:
    """What one node knows of all."""

    def __init__(self, own: str, *, lease_seconds: float) -> None:
        self.own, self._lease_seconds = own, lease_seconds
        self._seen: dict[str, float] = {}
        self._renewals: dict[str, str] = {}
        self._dead: set[str] = set()
        self._since: float | None = None  # our own renewals have come back, none later than a lease after the last
        self._run = 0.0  # and none later than half a lease
        self.active = False

    @property
    def living(self) -> frozenset[str]:
        """Who is not known to be dead."""
        return frozenset(self._seen.keys() - self._dead)

    def observe(self, node: str, renewal: str | None, now: float) -> bool:
        """A Lease was seen with this time of renewal, or None when it was given up; whether that is news about who lives, or about ourselves."""
        if renewal is None:
            self._renewals.pop(node, None)
            self._dead.discard(node)
            return self._seen.pop(node, None) is not None
        if self._renewals.get(node) == renewal:
            return False
        lapsed = node == self.own and not self.is_current(now)
        if lapsed:
            self._since = now
        if node == self.own and now >= self._seen.get(node, -1e9) + self._lease_seconds / 2:
            self._run = now
        news = node not in self._seen or node in self._dead or lapsed
        self._renewals[node], self._seen[node] = renewal, now
        self._dead.discard(node)
        return news

    def begin(self, now: float) -> None:
        """There is something to answer for: from now on all renew often, and who does not will be judged."""
        self.active, self._since = True, None

    def rest(self) -> None:
        """There is nothing to answer for."""
        self.active = False

    def is_current(self, now: float) -> bool:
        """Whether our own Lease is known to stand."""
        return self._since is not None and now < self._seen.get(self.own, -1e9) + self._lease_seconds

    def judge(self, now: float) -> bool:
        """Bury who has been silent for too long, if we may judge; whether anybody was."""
        if not self._may_judge(now):
            return False
        heard = self._seen[self.own] - self._lease_seconds / 2
        if self._run > heard:
            return False
        silent = {node for node, seen in self._seen.items() if now >= seen + self._lease_seconds and seen <= heard} - self._dead
        self._dead |= silent
        return bool(silent)

    def _may_judge(self, now: float) -> bool:
        return self.active and self.is_current(now) and self._since is not None and now >= self._since + self._lease_seconds

    def patience(self, now: float) -> float | None:
        """In how many seconds to judge again, if nothing is seen until then; None: when our own Lease is."""
        if not self.active or not self.is_current(now) or self._since is None:
            return None
        ends = (max(seen, self._since) + self._lease_seconds for node, seen in self._seen.items() if node != self.own and node not in self._dead)
        return min((end - now for end in ends if end > now), default=None)
