"""Bootstrap tokens: a node that knows nobody yet shows one, and is ``system:bootstrap:ID`` (``--enable-bootstrap-token-auth``).

A token is a Secret of type ``bootstrap.kubernetes.io/token`` in kube-system. It is looked up with each request, so deleting it ends it.

Source: the Kubernetes documentation, "Authenticating with Bootstrap Tokens".
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.times import parse_time
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.calls import User
from twinstack.rules.bootstrap_tokens import NAMESPACE, PREFIX, TYPE, text_of

GROUP: Final = "system:bootstrappers"
_SECRETS: Final = resource_of(kinds.Secret)
_FORM: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})\Z", re.ASCII)
_EXTRA_GROUP: Final = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\Z", re.ASCII)


class BootstrapTokens:
    """Knows the tokens that stand in kube-system."""

    def __init__(self, cache: Cache, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._items = cache.collections[_SECRETS].items
        self._now = now

    def user(self, token: str) -> User | None:
        """Whose token this is; None when it is none, has ended, or is for something else."""
        form = _FORM.match(token)
        if form is None:
            return None
        id, secret = form.groups()
        stored = self._items.get(Key(NAMESPACE, PREFIX + id))
        if stored is None:
            return None
        document = stored.document()
        if document.get("type") != TYPE or document["metadata"].get("deletionTimestamp"):
            return None
        data = {name: text_of(value) for name, value in (document.get("data") or {}).items()}
        if not hmac.compare_digest(data.get("token-secret", "").encode(), secret.encode()) or data.get("token-id") != id:
            return None
        if data.get("usage-bootstrap-authentication") != "true":
            return None
        if ends := data.get("expiration", ""):
            moment = parse_time(ends)
            if moment is None or self._now() >= moment:
                return None
        extra = [group for group in data.get("auth-extra-groups", "").split(",") if group]
        if not all(_EXTRA_GROUP.match(group) for group in extra):
            return None
        return User(f"system:bootstrap:{id}", "", (GROUP, *dict.fromkeys(extra), "system:authenticated"))
