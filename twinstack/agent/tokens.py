"""Tokens of ServiceAccounts for a node's pods: asked for once, kept, and renewed well before they end.

Rule of this file: a token is bound to its pod, so it is asked for by the pod's uid and forgotten with it. It is
renewed when four fifths of its time have passed, or after a day (as upstream's kubelet has it); while the API server
does not answer, one that still holds serves on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from twinstack.agent.environment import ConfigError
from twinstack.agent.volumes import Token
from twinstack.api import errors
from twinstack.api.kinds import Pod, ServiceAccount
from twinstack.api.objects import Document
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time
from twinstack.client.client import Client

ACCOUNTS = resource_of(ServiceAccount)
LONGEST_SECONDS = 24 * 3600.0
SPENT, JITTER_SECONDS = 0.8, 10.0


class _Held(NamedTuple):
    """A token that was issued, when it is to be renewed and when it ends, in seconds of the wall clock."""

    text: str
    renew_at: float
    ends_at: float


class Tokens:
    """The tokens of a node's pods."""

    def __init__(self, client: Client, *, now: Callable[[], float] = lambda: datetime.now(UTC).timestamp()) -> None:
        self._client, self._now = client, now
        self._held: dict[str, dict[Token, _Held]] = {}  # by the pod's uid

    async def get(self, pod: Pod, wanted: Token) -> str:
        """A token of the pod's ServiceAccount; ConfigError when none is issued, APIError when none can be at the moment."""
        held = self._held.get(pod.metadata.uid, {}).get(wanted)
        now = self._now()
        if held is not None and now < held.renew_at:
            return held.text
        try:
            held = await self._ask(pod, wanted)
        except (errors.ServiceUnavailable, errors.Timeout, errors.TooManyRequests):
            if held is None or now >= held.ends_at:
                raise
            return held.text
        except (errors.NotFound, errors.MethodNotAllowed) as error:
            raise ConfigError(f'no token of service account "{_account(pod)}" is issued: {error.message}') from error
        self._held.setdefault(pod.metadata.uid, {})[wanted] = held
        return held.text

    async def _ask(self, pod: Pod, wanted: Token) -> _Held:
        bound = {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
        spec: Document = {"expirationSeconds": wanted.seconds, "boundObjectRef": bound, "audiences": [wanted.audience] if wanted.audience else []}
        document = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": spec}
        asked_at = self._now()
        answer = await self._client.create(ACCOUNTS, document, namespace=pod.metadata.namespace, name=_account(pod), subresource="token")
        status = answer.get("status") or {}
        ends = parse_time(status.get("expirationTimestamp"))
        if not status.get("token") or ends is None:
            raise ConfigError(f'the token of service account "{_account(pod)}" is not told in the answer')
        lasts = ends.timestamp() - asked_at
        # not all pods that were started together ask together
        renew_at = asked_at + min(LONGEST_SECONDS, lasts * SPENT) - random.uniform(0, min(JITTER_SECONDS, lasts / 20))
        return _Held(status["token"], renew_at, ends.timestamp())

    def renewal(self, pod: Pod, wanted: Iterable[Token]) -> float | None:
        """When the first of these is to be renewed, in seconds of the wall clock; None when there is none."""
        held = self._held.get(pod.metadata.uid, {})
        return min((held[token].renew_at for token in wanted if token in held), default=None)

    def forget(self, uid: str) -> None:
        """Forget a pod's tokens."""
        self._held.pop(uid, None)


def _account(pod: Pod) -> str:
    return pod.spec.serviceAccountName or "default"
