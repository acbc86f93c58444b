"""Who asks the kubelet, and what he may: certificates and tokens, and the API server's word on both.

Rule of this file: a request's peer, header, method and path in; nothing out, or Unauthorized or Forbidden. A client certificate
that --client-ca-file has signed names its user; a bearer token is shown to the API server (TokenReview) where the settings
say so. What he may is asked of the API server, too (SubjectAccessReview of ``nodes/…``, as upstream names the parts); without
such a mode only the API server's own kubelet client and administrators come in. Answers are kept for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from twinstack.agent.settings import Settings
from twinstack.api import errors
from twinstack.api.objects import Document, encode
from twinstack.client.client import Client
from twinstack.client.tls import identity_of

log = logging.getLogger(__name__)
CLIENT_NAME = "kube-apiserver-kubelet-client"
CLIENT_GROUPS = frozenset({"system:masters", "kubeadm:cluster-admins"})
ANONYMOUS = "system:anonymous"
MOST_REMEMBERED = 1024
_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
# the first part of a path → the subresource of nodes that must be allowed; those that were a part of proxy once are so still
_SUBRESOURCES: Mapping[str, tuple[str, ...]] = {
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "configz": ("configz", "proxy"),
    "healthz": ("healthz", "proxy"),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
}


class User(NamedTuple):
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


def subresources_of(path: str) -> tuple[str, ...]:
    """The subresources of nodes of which one must be allowed."""
    return _SUBRESOURCES.get(path.split("/")[1] if "/" in path else "", ("proxy",))


class Access:
    """Decides, and remembers the API server's answers for as long as the settings say."""

    def __init__(self, settings: Settings, client: Client, node_name: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._client, self._node_name, self._now = settings, client, node_name, now
        self._tokens: dict[str, tuple[float, User]] = {}  # until when, whose
        self._answers: dict[tuple[User, str, str], tuple[float, bool]] = {}

    async def check(self, *, certificate: Mapping[str, Any] | None, authorization: str, method: str, path: str) -> None:
        """Let a request pass; Unauthorized or Forbidden when it may not, InternalError when the API server does not say."""
        user = await self._user(certificate, authorization)
        verb, subresources = _VERBS.get(method, ""), subresources_of(path)
        try:
            allowed = await self._may(user, verb, subresources)
        except errors.APIError as error:
            log.warning("The API server does not say who may ask this kubelet", extra={"user": user.name, "error": error.message})
            raise errors.InternalError(f"Authorization error (user={user.name}, verb={verb}, resource=nodes, subresource(s)={list(subresources)})") from error
        if not allowed:
            raise errors.Forbidden(f"Forbidden (user={user.name}, verb={verb}, resource=nodes, subresource(s)={list(subresources)})")

    # ---- who

    async def _user(self, certificate: Mapping[str, Any] | None, authorization: str) -> User:
        if certificate:
            name, groups = identity_of(certificate)
            return User(name, (*groups, "system:authenticated"))
        kind, _, token = authorization.partition(" ")
        if kind.lower() == "bearer" and token.strip() and self._settings.token_webhook:
            return await self._bearer(token.strip())
        if authorization or not self._settings.anonymous:
            raise errors.Unauthorized("Unauthorized")
        return User(ANONYMOUS, ("system:unauthenticated",))

    async def _bearer(self, token: str) -> User:
        until, known = self._tokens.get(token, (0.0, None))
        if known is not None and self._now() < until:
            return known
        review: Document = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        try:
            status = (await self._ask(_TOKEN_REVIEWS, review)).get("status") or {}
        except errors.APIError as error:
            log.warning("The API server does not say whose a token is", extra={"error": error.message})
            raise errors.Unauthorized("Unauthorized") from error
        if status.get("authenticated") is not True:
            raise errors.Unauthorized("Unauthorized")
        said = status.get("user") or {}
        extra = tuple(sorted((str(key), tuple(values)) for key, values in (said.get("extra") or {}).items()))
        user = User(str(said.get("username", "")), tuple(said.get("groups") or ()), str(said.get("uid", "")), extra)
        _remember(self._tokens, token, (self._now() + self._settings.token_seconds, user))
        return user

    # ---- what

    async def _may(self, user: User, verb: str, subresources: Sequence[str]) -> bool:
        match self._settings.authorization:
            case "AlwaysAllow":
                return True
            case "Webhook":
                for subresource in subresources:
                    if await self._allowed(user, verb, subresource):
                        return True
                return False
            case _:
                return user.name == CLIENT_NAME or bool(CLIENT_GROUPS & set(user.groups))

    async def _allowed(self, user: User, verb: str, subresource: str) -> bool:
        until, known = self._answers.get((user, verb, subresource), (0.0, False))
        if self._now() < until:
            return known
        attributes = {"verb": verb, "group": "", "version": "v1", "resource": "nodes", "subresource": subresource, "name": self._node_name}
        spec = {"user": user.name, "groups": list(user.groups), "uid": user.uid, "extra": dict(user.extra), "resourceAttributes": attributes}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        allowed = ((await self._ask(_ACCESS_REVIEWS, review)).get("status") or {}).get("allowed") is True
        seconds = self._settings.allowed_seconds if allowed else self._settings.denied_seconds
        _remember(self._answers, (user, verb, subresource), (self._now() + seconds, allowed))
        return allowed

    async def _ask(self, path: str, review: Document) -> Document:
        answer = await self._client.raw("POST", path, body=encode(review))
        document: Document = msgspec.json.decode(answer.body)
        return document


def _remember(memory: dict[Any, Any], key: object, value: object) -> None:
    memory.pop(key, None)
    memory[key] = value
    if len(memory) > MOST_REMEMBERED:
        del memory[next(iter(memory))]
