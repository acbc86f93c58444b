"""What is found out about one request on its way through the server; the audit log tells of it afterwards."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from twinstack.apiserver.auth import ANONYMOUS
from twinstack.apiserver.calls import Call, User
from twinstack.apiserver.fairness import Seats
from twinstack.apiserver.requests import Request
from twinstack.rules.rbac import Verdict

# Subresources whose requests last as long as the client likes; they take no place among the requests in flight.
LONG_RUNNING: Final = frozenset(("attach", "exec", "log", "portforward", "proxy"))
# Of these, the ones that do something in a pod.
INTERACTIVE: Final = frozenset(("attach", "exec", "portforward"))


class Visit:
    """One request."""

    __slots__ = ("call", "caller", "id", "received", "request", "seats", "user", "verdict")

    def __init__(self, call: Call, id: str) -> None:
        self.call, self.id = call, id
        self.received = datetime.now(UTC)
        self.caller: User = ANONYMOUS
        self.user: User = ANONYMOUS  # the caller, or who it calls as
        self.request: Request | None = None
        self.verdict: Verdict | None = None
        self.seats: Seats | None = None  # where it holds a place

    def leave(self) -> None:
        """Give up the place."""
        if self.seats is not None:
            self.seats.leave(self.user.name)
            self.seats = None
