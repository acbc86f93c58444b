"""Each pod runs as a ServiceAccount, and finds its token where clients look for it.

Source: the Kubernetes documentation, "Managing Service Accounts", section "ServiceAccount admission controller".
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from twinstack.api import kinds
from twinstack.api.errors import Forbidden
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.apiserver.cache import Cache
from twinstack.rules.node_access import MIRROR

MOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS: Final = 3607
_ACCOUNTS: Final = resource_of(kinds.ServiceAccount)
_DEFAULT: Final = "default"
_LOOKS, _PAUSE_SECONDS = 20, 0.075  # 1.5 s in all, the most that upstream waits
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


class ServiceAccountAdmission:
    """Names the ServiceAccount of new pods and mounts its token, unless the pod or the account does not want it."""

    def __init__(self, cache: Cache, chance: random.Random | None = None) -> None:
        self._cache = cache
        self._chance = chance or random.Random()

    async def ready(self, pod: Document) -> None:
        """Wait a little for the default ServiceAccount: a controller makes it, and a manifest's pod comes right after its namespace."""
        metadata, spec = pod.get("metadata") or {}, pod.get("spec")
        if not isinstance(spec, dict) or _account_of(spec) != _DEFAULT or (metadata.get("annotations") or {}).get(MIRROR):
            return
        key = Key(str(metadata.get("namespace", "")), _DEFAULT)
        for _ in range(_LOOKS):
            if self._cache.get(_ACCOUNTS, key) is not None:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    def admit(self, pod: Document) -> None:
        """Complete a new pod; Forbidden when its ServiceAccount does not exist."""
        metadata, spec = pod.get("metadata") or {}, pod.get("spec")
        if not isinstance(spec, dict) or (metadata.get("annotations") or {}).get(MIRROR):
            return  # what is wrong with it is told later; a mirror pod has no account
        name = _account_of(spec)
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = self._cache.get(_ACCOUNTS, Key(metadata.get("namespace", ""), str(name)))
        if account is None:
            looked_up = f'error looking up service account {metadata.get("namespace", "")}/{name}: serviceaccount "{name}" not found'
            message = f'pods "{metadata.get("name", "")}" is forbidden: {looked_up}'
            raise Forbidden(message, kind="pods", name=metadata.get("name", ""))
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        wanted = spec.get("automountServiceAccountToken")
        if wanted is None:
            wanted = account.get("automountServiceAccountToken", True)
        if wanted:
            self._mount(spec)

    def _mount(self, spec: Document) -> None:
        containers = [one for field in ("initContainers", "containers") for one in spec.get(field) or () if isinstance(one, dict)]
        lacking = [one for one in containers if not _has_mount(one)]
        if not lacking:
            return
        volumes = spec.setdefault("volumes", [])
        if not isinstance(volumes, list):
            return
        known = next((one["name"] for one in volumes if isinstance(one, dict) and str(one.get("name", "")).startswith("kube-api-access-")), None)
        name = known or "kube-api-access-" + "".join(self._chance.choices(_ALPHABET, k=5))
        if known is None:
            volumes.append({"name": name, "projected": {"defaultMode": 0o644, "sources": _sources()}})
        for container in lacking:
            container.setdefault("volumeMounts", []).append({"name": name, "readOnly": True, "mountPath": MOUNT_PATH})


def _account_of(spec: Document) -> Any:
    return spec.get("serviceAccountName") or spec.get("serviceAccount") or _DEFAULT


def _has_mount(container: Document) -> bool:
    mounts: Any = container.get("volumeMounts") or ()
    return any(isinstance(one, dict) and one.get("mountPath") == MOUNT_PATH for one in mounts)


def _sources() -> list[Document]:
    return [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]
