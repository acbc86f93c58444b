"""A world in memory: it holds documents, does what controllers want done, and tells them what changed.

It keeps the promises of the API server that controllers lean on: uids and revisions, preconditions, generations,
finalizers, the grace of pods that run somewhere, merge patches.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Document, Key, key_of, view_of
from twinstack.api.resources import BY_KIND, Resource, resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Absent, Action, After, Bind, Controller, Create, Delete, DeleteCollection, Patch, Replace, Tell

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_PODS = resource_of(kinds.Pod)


def _merged(before: Any, patch: Any, *, strategic: bool) -> Any:
    if strategic and isinstance(before, list) and isinstance(patch, list) and all(isinstance(one, dict) and "type" in one for one in patch):
        result = {one["type"]: one for one in before}
        for one in patch:
            result[one["type"]] = _merged(result.get(one["type"], {}), one, strategic=True)
        return list(result.values())
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    after = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = _merged(after.get(key), value, strategic=strategic)
    return after


class MemoryWorld:
    """Implements ``api.world.World``, and performs actions."""

    def __init__(self) -> None:
        self.now = START
        self.objects: dict[tuple[type[kinds.Object], Key], tuple[Document, kinds.Object]] = {}
        self.told: list[Tell] = []
        self.writes: list[Action] = []
        self.changes: list[tuple[type[kinds.Object], Any, Any]] = []
        self._count = 0

    # ---- looking

    def get(self, view, key):
        found = self.objects.get((view, key))
        return found[1] if found else None

    def list(self, view, namespace=""):
        return [one for _, one in sorted((key, one) for (kind, key), (_, one) in self.objects.items() if kind is view and namespace in ("", key.namespace))]

    def owned(self, view, uid):
        return [one for one in self.list(view) if any(owner.uid == uid for owner in one.metadata.ownerReferences)]

    def labelled(self, view, namespace, label, value):
        return [one for one in self.list(view, namespace) if one.labels.get(label) == value]

    def indexed(self, view, index, value):
        return [one for one in self.list(view) if value in index(one)]

    def document(self, view, key) -> Document:
        return copy.deepcopy(self.objects[view, key][0])

    # ---- changing

    def put(self, document: Document) -> Any:
        """Create or overwrite, as somebody else would do."""
        resource = BY_KIND[document["apiVersion"], document["kind"]]
        found = self.objects.get((resource.view, key_of(document)))
        if found is None:
            return self._create(resource, document)
        metadata = copy.deepcopy(found[0]["metadata"]) | document.get("metadata", {})
        return self._store(resource, document | {"metadata": metadata}, found)

    def change(self, view, key, patch: Document, *, strategic: bool = False) -> Any:
        """Merge a patch, as somebody else would do; status and the rest alike."""
        found = self.objects[view, key]
        return self._store(resource_of(view), _merged(found[0], patch, strategic=strategic), found)

    def remove(self, view, key) -> None:
        """The object is gone, without any ado."""
        _, one = self.objects.pop((view, key))
        self.changes.append((view, one, None))

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def _create(self, resource: Resource, document: Document) -> Any:
        document = copy.deepcopy(document)
        metadata = document.setdefault("metadata", {})
        self._count += 1
        if not metadata.get("name"):
            metadata["name"] = f"{metadata['generateName']}{self._count:05}"
        if (resource.view, key_of(document)) in self.objects:
            raise errors.already_exists(resource.plural, metadata["name"])
        metadata.setdefault("uid", f"uid-{self._count:05}")
        metadata.setdefault("creationTimestamp", text_of_time(self.now))
        metadata["generation"] = 1
        if resource is _PODS:
            document.setdefault("status", {}).setdefault("phase", "Pending")
        return self._store(resource, document, None)

    def _store(self, resource: Resource, document: Document, found: tuple[Document, Any] | None) -> Any:
        before = found[1] if found else None
        if found is not None and document.get("spec") != found[0].get("spec"):
            document["metadata"] = document["metadata"] | {"generation": found[0]["metadata"].get("generation", 0) + 1}
        if found is not None and document == found[0]:
            return before
        self._count += 1
        document["metadata"] = document["metadata"] | {"resourceVersion": str(self._count)}
        key = key_of(document)
        if document["metadata"].get("deletionTimestamp") and not document["metadata"].get("finalizers") and not self._lingers(resource, document):
            self.objects.pop((resource.view, key), None)
            self.changes.append((resource.view, before, None))
            return None
        one = view_of(resource.view, document)
        self.objects[resource.view, key] = (document, one)
        self.changes.append((resource.view, before, one))
        return one

    @staticmethod
    def _lingers(resource: Resource, document: Document) -> bool:
        if resource.view is kinds.Namespace:
            return bool(document.get("spec", {}).get("finalizers"))
        grace = document["metadata"].get("deletionGracePeriodSeconds")
        return resource is _PODS and grace != 0 and bool(document.get("spec", {}).get("nodeName"))

    def perform(self, action: Action) -> None:
        if isinstance(action, Tell):
            self.told.append(action)
            return
        if isinstance(action, After):
            return
        self.writes.append(action)
        match action:
            case Create(resource, document):
                self._create(resource, document)
            case Patch():
                found = self._found(action.resource, action.key, action.uid)
                if action.resource_version and found[0]["metadata"]["resourceVersion"] != action.resource_version:
                    raise errors.conflict(action.resource.plural, action.key.name, "it has changed")
                patch = action.patch
                if action.subresource == "status":
                    assert set(patch) <= {"status", "metadata"}, "only the status and metadata pass through its door"
                else:
                    assert "status" not in patch
                self._store(action.resource, _merged(found[0], patch, strategic=action.strategic), found)
            case Replace(resource, document, _):
                found = self._found(resource, key_of(document), document["metadata"].get("uid", ""))
                if found[0]["metadata"]["resourceVersion"] != document["metadata"]["resourceVersion"]:
                    raise errors.conflict(resource.plural, key_of(document).name, "it has changed")
                self._store(resource, copy.deepcopy(document), found)
            case Delete(resource, key, uid, grace, policy):
                if (resource.view, key) in self.objects:
                    self._delete(resource, key, uid, grace, policy)
            case DeleteCollection(resource, namespace):
                for one in self.list(resource.view, namespace):
                    self._delete(resource, Key(one.metadata.namespace, one.metadata.name), "", None, "")
            case Bind(key, node, uid):
                found = self._found(_PODS, key, uid)
                if found[1].spec.nodeName:
                    raise errors.conflict("pods", key.name, "it has a node")
                scheduled = {"type": "PodScheduled", "status": "True"}
                self._store(_PODS, _merged(found[0], {"spec": {"nodeName": node}, "status": {"conditions": [scheduled]}}, strategic=True), found)
            case Absent(resource, key, uid):
                found_now = self.objects.get((resource.view, key))
                if found_now is not None and uid in ("", found_now[1].metadata.uid):
                    raise errors.conflict(resource.plural, key.name, "it is still there")

    def _found(self, resource: Resource, key: Key, uid: str) -> tuple[Document, Any]:
        found = self.objects.get((resource.view, key))
        if found is None:
            raise errors.not_found(resource.plural, key.name)
        if uid and found[1].metadata.uid != uid:
            raise errors.conflict(resource.plural, key.name, "it has another uid")
        return found

    def _delete(self, resource: Resource, key: Key, uid: str, grace: int | None, policy: str) -> None:
        document, one = self._found(resource, key, uid)
        metadata = dict(document["metadata"])
        metadata.setdefault("deletionTimestamp", text_of_time(self.now))
        if grace is not None:
            metadata["deletionGracePeriodSeconds"] = grace
        finalizer = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy)
        if finalizer and finalizer not in metadata.get("finalizers", ()):
            metadata["finalizers"] = [*metadata.get("finalizers", ()), finalizer]
        self._store(resource, document | {"metadata": metadata}, (document, one))


class Loop:
    """Runs controllers over a world until nothing is left to decide, in an order of its own choice."""

    def __init__(self, world: MemoryWorld, *controllers: Controller, seed: int = 0) -> None:
        self.world, self.controllers = world, controllers
        self._random = random.Random(seed)
        self._queue: list[tuple[Controller, Key]] = []
        self.after: dict[tuple[str, Key], float] = {}

    def run(self, *, between: Callable[[], None] = lambda: None, most: int = 5000) -> None:
        """Hand the changes out, decide and perform, until it is quiet; *between* is the rest of the world taking its turn."""
        for _ in range(most):
            between()
            while self.world.changes:
                view, before, after = self.world.changes.pop(0)
                for controller in self.controllers:
                    for watch in controller.watches:
                        if watch.view is view:
                            self._queue.extend((controller, key) for key in watch.keys(before, after, self.world) if (controller, key) not in self._queue)
            if not self._queue:
                return
            controller, key = self._queue.pop(self._random.randrange(len(self._queue)))
            try:
                for action in controller.decide(key, self.world):
                    if isinstance(action, After):
                        self.after[controller.name, key] = action.seconds
                    self.world.perform(action)
            except (errors.Conflict, errors.AlreadyExists, errors.NotFound):
                self._queue.append((controller, key))
        raise AssertionError("the controllers do not come to rest")

    def decide(self, controller: Controller, key: Key) -> None:
        """One decision and what it wants, out of turn."""
        for action in controller.decide(key, self.world):
            self.world.perform(action)

    def writes_wanted(self, keys: Iterable[Key]) -> list[Action]:
        """What the controllers would still write about these keys: nothing, if they are at rest."""
        return [
            action for controller in self.controllers for key in keys for action in controller.decide(key, self.world) if not isinstance(action, (After, Tell))
        ]


@pytest.fixture
def world() -> MemoryWorld:
    return MemoryWorld()


@pytest.fixture
def new_world() -> Callable[[], MemoryWorld]:
    return MemoryWorld


@pytest.fixture
def loop() -> type[Loop]:
    return Loop


# ---- Documents


def _make_pod(
    name: str, *, labels: Document | None = None, ips: Sequence[str] = (), ready: bool = False, node: str = "", namespace: str = "default", **spec: Any
) -> Document:
    status: Document = {"phase": "Running" if ips else "Pending"}
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
        status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": text_of_time(START)}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {"nodeName": node, "containers": [{"name": "main"}], **spec},
        "status": status,
    }


def _make_node(name: str, *, ready: str = "True", labels: Document | None = None, pod_cidrs: Sequence[str] = (), **spec: Any) -> Document:
    if pod_cidrs:
        spec |= {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)}
    conditions = [{"type": "Ready", "status": ready, "lastHeartbeatTime": text_of_time(START), "lastTransitionTime": text_of_time(START)}] if ready else []
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": {"conditions": conditions}}


def _make_service(
    name: str,
    *,
    families: Sequence[str] = ("IPv4", "IPv6"),
    selector: Document | None = None,
    ports: Sequence[Document] | None = None,
    labels: Document | None = None,
    **spec: Any,
) -> Document:
    addresses = {"IPv4": "10.96.0.10", "IPv6": "fd00:10:96::10"}
    clusters = [addresses[family] for family in families]
    body = {"type": "ClusterIP", "clusterIP": clusters[0], "clusterIPs": clusters, "ipFamilies": list(families)}
    body |= {"ports": [{"name": "", "protocol": "TCP", "port": 80, "targetPort": 8080}] if ports is None else list(ports)}
    if selector is not None:
        body["selector"] = selector
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default", "labels": labels or {}}, "spec": body | spec}


@pytest.fixture
def pod() -> Callable[..., Document]:
    return _make_pod


@pytest.fixture
def node() -> Callable[..., Document]:
    return _make_node


@pytest.fixture
def service() -> Callable[..., Document]:
    return _make_service
