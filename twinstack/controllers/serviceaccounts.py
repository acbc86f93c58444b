"""Every namespace that lives has its default ServiceAccount, and the cluster's certificate authority to check servers by.

The invariant: in each namespace that is not terminating there is a ServiceAccount ``default`` and, when the controller
was given a root certificate, a ConfigMap ``kube-root-ca.crt`` that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twinstack.api.kinds import ConfigMap, Namespace, Object, ServiceAccount
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, Create, Patch, Watch, World

DEFAULT, ROOT_CA, _FILE = "default", "kube-root-ca.crt", "ca.crt"
_ACCOUNTS, _CONFIG_MAPS = resource_of(ServiceAccount), resource_of(ConfigMap)


class ServiceAccounts:
    """The default ServiceAccount of each namespace, and *root_ca*, a PEM text, if it is not empty."""

    name = "serviceaccount-controller"

    def __init__(self, *, root_ca: str = "") -> None:
        self._data = {_FILE: root_ca} if root_ca else None
        watches = [Watch(Namespace, _keys_of_namespace), Watch(ServiceAccount, _keys_of(DEFAULT))]
        if root_ca:
            watches.append(Watch(ConfigMap, _keys_of(ROOT_CA)))
        self.watches: Sequence[Watch] = tuple(watches)

    def decide(self, key: Key, world: World) -> list[Action]:
        """The key is the namespace's."""
        namespace = world.get(Namespace, key)
        if namespace is None or namespace.metadata.deletionTimestamp or namespace.status.phase == "Terminating":
            return []
        actions: list[Action] = []
        if world.get(ServiceAccount, Key(key.name, DEFAULT)) is None:
            actions.append(Create(_ACCOUNTS, _document("ServiceAccount", key.name, DEFAULT)))
        if self._data is not None:
            present = world.get(ConfigMap, Key(key.name, ROOT_CA))
            if present is None:
                actions.append(Create(_CONFIG_MAPS, _document("ConfigMap", key.name, ROOT_CA) | {"data": dict(self._data)}))
            elif present.data != self._data:
                gone = dict.fromkeys(present.data or {})
                actions.append(Patch(_CONFIG_MAPS, Key(key.name, ROOT_CA), {"data": gone | self._data}, uid=present.metadata.uid))
        return actions


def _document(kind: str, namespace: str, name: str) -> Document:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}}


def _keys_of_namespace(before: Namespace | None, after: Namespace | None, world: World) -> Iterable[Key]:
    if after is not None and (before is None or before.status.phase != after.status.phase):
        yield Key("", after.metadata.name)


def _keys_of(name: str) -> Callable[[Object | None, Object | None, World], Iterable[Key]]:
    """Wake the namespace of an object of this name."""

    def keys(before: Object | None, after: Object | None, world: World) -> Iterable[Key]:
        one = after or before
        if one is not None and one.metadata.name == name:
            yield Key("", one.metadata.namespace)

    return keys
