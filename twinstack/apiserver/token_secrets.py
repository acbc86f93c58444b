"""Secrets of type ``kubernetes.io/service-account-token``: filled with a token that lasts as long as they do, and gone with their ServiceAccount.

Most tokens are asked for when they are needed; these are for those who want one in a Secret, as charts of before did. Such a token is bound to its
Secret, so deleting that ends it.

Source: the Kubernetes documentation, "Manually create a long-lived API token for a ServiceAccount".
"""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Final

from twinstack.api import kinds
from twinstack.api.errors import APIError
from twinstack.api.objects import Key, key_of
from twinstack.api.resources import Resource, resource_of
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.strategies.base import API
from twinstack.apiserver.tokens import ACCOUNTS, LONGEST_SECONDS, ServiceAccountTokens

log = logging.getLogger(__name__)

TYPE: Final = "kubernetes.io/service-account-token"
NAME, UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"
ROOT_CA: Final = "kube-root-ca.crt"
AGAIN_SECONDS: Final = 5.0
_BYTES: Final = TYPE.encode()
_SECRETS: Final = resource_of(kinds.Secret)
_CONFIG_MAPS: Final = resource_of(kinds.ConfigMap)


class TokenSecrets:
    """Sees to the Secrets that want a token."""

    def __init__(self, api: API, cache: Cache, tokens: ServiceAccountTokens) -> None:
        self._api, self._tokens = api, tokens
        self._items, self._accounts = cache.collections[_SECRETS].items, cache.collections[ACCOUNTS].items
        self._due: set[Key] = {key for key, one in self._items.items() if _BYTES in one.raw}
        self._woken = asyncio.Event()
        self._woken.set()
        cache.observe(self._observe)

    def _observe(self, resource: Resource, before: Stored | None, after: Stored | None) -> None:
        if resource is _SECRETS:
            if after is not None and _BYTES in after.raw:
                self._due.add(after.key)
                self._woken.set()
        elif resource is ACCOUNTS and before is not None and (after is None or after.uid != before.uid):
            # Its Secrets go; there are few of them at all.
            self._due |= {key for key, one in self._items.items() if key.namespace == before.key.namespace and _BYTES in one.raw}
            self._woken.set()

    async def run(self) -> None:
        """Fill what comes, until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            failed: set[Key] = set()
            while self._due:
                key = self._due.pop()
                try:
                    await self._settle(key)
                except APIError as error:
                    log.warning("A Secret could not be given its token: %s", error, extra={"key": key})
                    failed.add(key)
            if failed:
                await asyncio.sleep(AGAIN_SECONDS)
                self._due |= failed
                self._woken.set()

    async def _settle(self, key: Key) -> None:
        stored = self._items.get(key)
        if stored is None:
            return
        document = stored.document()
        if document.get("type") != TYPE or document["metadata"].get("deletionTimestamp"):
            return
        annotations = document["metadata"].get("annotations") or {}
        account = Key(key.namespace, annotations.get(NAME, ""))
        owner = self._accounts.get(account)
        if owner is None or annotations.get(UID, owner.uid) != owner.uid:
            await self._api.delete(_SECRETS, key)
            return
        wanted = {"namespace": key.namespace, **self._authority(key.namespace)}
        data = dict(document.get("data") or {})
        missing = {name: text for name, text in wanted.items() if name not in data}
        if not data.get("token"):
            reference = {"kind": "Secret", "apiVersion": "v1", "name": key.name, "uid": stored.uid}
            asked = {"spec": {"expirationSeconds": LONGEST_SECONDS, "boundObjectRef": reference}}
            missing["token"] = str(self._tokens.request(account, asked, None)["status"]["token"])
        if not missing and UID in annotations:
            return
        document["metadata"]["annotations"] = {**annotations, UID: owner.uid}
        document["data"] = data | {name: base64.b64encode(text.encode()).decode() for name, text in missing.items()}
        assert key_of(document) == key
        await self._api.update(_SECRETS, document)

    def _authority(self, namespace: str) -> dict[str, str]:
        """The cluster's authority, where the namespace has it."""
        found = self._api.reader.get(_CONFIG_MAPS, Key(namespace, ROOT_CA))
        text = ((found or {}).get("data") or {}).get("ca.crt")
        return {"ca.crt": str(text)} if text else {}
