"""A ServiceAccount for each controller, so that what one of them writes is bounded by what it needs (``--use-service-account-credentials``).

An :class:`Identity` makes its account when there is none, asks for a token by the program's own credentials, and renews it well before
it ends. All identities share the connections of one client that shows no certificate: a token says who asks.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

from twinstack.api import errors, kinds
from twinstack.api.objects import Document
from twinstack.api.resources import resource_of
from twinstack.api.world import Action
from twinstack.client.client import Client
from twinstack.loops.clock import Clock
from twinstack.rules.controller_roles import NAMESPACE

log = logging.getLogger(__name__)

TOKEN_SECONDS: Final = 3600
RENEW_SECONDS: Final = TOKEN_SECONDS * 0.8
RETRY_SECONDS: Final = 10.0
_ACCOUNTS: Final = resource_of(kinds.ServiceAccount)


class Identity:
    """Acts as one ServiceAccount. *own* asks as the program itself; *shared* is open and has no credentials."""

    def __init__(self, name: str, own: Client, shared: Client, clock: Clock) -> None:
        self.name = name
        self._own, self._clock = own, clock
        self._token = ""
        self._client = shared.acting(lambda: self._token)

    async def begin(self) -> None:
        """Get the first token, however long the API server lets one wait."""
        while True:
            try:
                return await self.renew()
            except (errors.ServiceUnavailable, errors.TooManyRequests, errors.Timeout) as error:
                log.warning("A controller has no token yet", extra={"account": self.name, "err": str(error)})
                await self._clock.sleep(RETRY_SECONDS)

    async def renew(self) -> None:
        """Get a token; the account is made when there is none."""
        request: Document = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        try:
            answer = await self._ask(request)
        except errors.NotFound:
            account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": self.name, "namespace": NAMESPACE}}
            with suppress(errors.AlreadyExists):  # somebody else's start is this moment, too
                await self._own.create(_ACCOUNTS, account)
            answer = await self._ask(request)
        self._token = str((answer.get("status") or {}).get("token", ""))

    async def _ask(self, request: Document) -> Document:
        return await self._own.create(_ACCOUNTS, request, namespace=NAMESPACE, name=self.name, subresource="token")

    async def keep(self) -> None:
        """Renew the token before it ends, until cancelled."""
        wait = RENEW_SECONDS
        while True:
            await self._clock.sleep(wait)
            try:
                await self.renew()
                wait = RENEW_SECONDS
            except errors.APIError as error:
                log.warning("A controller's token could not be renewed", extra={"account": self.name, "err": str(error)})
                wait = RETRY_SECONDS

    async def perform(self, action: Action) -> Document | None:
        """Do it as this account; a token that is no good any more, for the account was made anew, is replaced once."""
        used = self._token
        try:
            return await self._client.perform(action)
        except errors.Unauthorized:
            if self._token == used:  # nobody else was faster
                await self.renew()
            return await self._client.perform(action)
