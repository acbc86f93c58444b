"""A Deployment's pods are of its newest template, and get there without falling below what it promises.

The invariant, once it rests: the ReplicaSet whose template is the Deployment's has ``spec.replicas`` pods, all others
have none, at most ``revisionHistoryLimit`` of them are kept, and the status tells counts, ``Available`` and
``Progressing``. Each ReplicaSet carries its revision, so that ``kubectl rollout history`` and ``undo`` can name it.

How large each ReplicaSet is on the way there stands in ``rules.rollouts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twinstack.api.kinds import Deployment, Pod, ReplicaSet
from twinstack.api.objects import Document, Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, After, Create, Delete, Patch, Tell, Watch, World, controller_key, own_key
from twinstack.rules import progress
from twinstack.rules.rollouts import Size, grown, in_proportion, shrunk
from twinstack.rules.workloads import (
    claims,
    controlled_by,
    exact_labels,
    finished,
    owner_reference,
    references,
    selector_of,
    surge_and_unavailable,
    template_hash,
    template_metadata,
)

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = {REVISION, HISTORY, DESIRED, MOST, "kubectl.kubernetes.io/last-applied-configuration", "deprecated.deployment.rollback.to"}
_RESOURCE, _REPLICA_SETS = resource_of(Deployment), resource_of(ReplicaSet)


class Deployments:
    """ReplicaSets for Deployments."""

    name = "deployment-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(Deployment, own_key), Watch(ReplicaSet, _keys_of_replica_set), Watch(Pod, _keys_of_pod))

    def decide(self, key: Key, world: World) -> list[Action]:
        one = world.get(Deployment, key)
        if one is None or one.metadata.deletionTimestamp is not None:
            return []
        selector = selector_of(one.spec.selector)
        if selector is None:
            return []
        claimed = claims(one, selector, world.owned(ReplicaSet, one.metadata.uid), _candidates(one, world))
        actions: list[Action] = [_owners(other, [*other.metadata.ownerReferences, owner_reference(one)]) for other in claimed.adopt]
        actions.extend(_owners(other, [owner for owner in other.metadata.ownerReferences if owner.uid != one.metadata.uid]) for other in claimed.release)
        rollout = _Rollout(one, claimed.held, world)
        return actions + rollout.actions()


def _candidates(one: Deployment, world: World) -> Sequence[ReplicaSet]:
    namespace, exact = one.metadata.namespace, exact_labels(one.spec.selector)
    if not exact:
        return world.list(ReplicaSet, namespace)
    return min((world.labelled(ReplicaSet, namespace, label, value) for label, value in exact.items()), key=len)


def _owners(other: ReplicaSet, owners: Iterable[Any]) -> Patch:
    metadata = other.metadata
    patch: Document = {"metadata": {"ownerReferences": references(owners) or None}}
    return Patch(_REPLICA_SETS, Key(metadata.namespace, metadata.name), patch, uid=metadata.uid, resource_version=metadata.resourceVersion)


def _replicas(one: Deployment | ReplicaSet) -> int:
    return 1 if one.spec.replicas is None else one.spec.replicas


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _age(other: ReplicaSet) -> tuple[str, str]:
    return other.metadata.creationTimestamp or "", other.metadata.name


class _Rollout:
    """One decision about one Deployment."""

    def __init__(self, one: Deployment, held: Sequence[ReplicaSet], world: World) -> None:
        self.one, self.world = one, world
        self.replicas = _replicas(one)
        rolling = one.spec.strategy.rollingUpdate
        surge, below = surge_and_unavailable(rolling.maxSurge if rolling else None, rolling.maxUnavailable if rolling else None, self.replicas)
        self.recreates = one.spec.strategy.type == "Recreate"
        self.surge, self.unavailable = (0, 0) if self.recreates else (surge, below)
        self.hash = template_hash(one.spec.template, one.status.collisionCount or 0)
        ours = sorted(held, key=_age)
        self.new = next((other for other in ours if self._is_of_template(other)), None)
        if self.new is None:
            self.new = next((other for other in ours if other.labels.get(HASH) == self.hash), None)
        self.old = [other for other in ours if other is not self.new]

    def _is_of_template(self, other: ReplicaSet) -> bool:
        mine, its = self.one.spec.template, other.spec.template
        return its.spec == mine.spec and template_metadata(its, without_label=HASH) == template_metadata(mine, without_label=HASH)

    def actions(self) -> list[Action]:
        name = f"{self.one.metadata.name}-{self.hash}"
        if self.new is None and not self.one.spec.paused:
            if self.world.get(ReplicaSet, Key(self.one.metadata.namespace, name)) is not None:
                return [self._patch({"status": {"collisionCount": (self.one.status.collisionCount or 0) + 1}}, subresource="status")]
            if not self._is_scaling() and (not self.recreates or self._old_are_gone()):
                return [*self._creation(name), *self._status()]
        sizes = self._sizes()
        actions: list[Action] = []
        for other in (*self.old, *([self.new] if self.new else ())):
            actions.extend(self._sized(other, sizes[other.metadata.uid]))
        actions.extend(self._own_revision())
        actions.extend(self._clean_up())
        actions.extend(self._status())
        return actions

    # ---- Sizes

    def _is_scaling(self) -> bool:
        """Whether the wanted count has changed since the ReplicaSets were sized."""
        return any(_replicas(other) and _number(other.annotations.get(DESIRED, str(self.replicas))) != self.replicas for other in self._all())

    def _all(self) -> list[ReplicaSet]:
        return [*self.old, *([self.new] if self.new else ())]

    def _old_are_gone(self) -> bool:
        """Whether no pod of an older template runs any more, one that is being deleted included."""
        for other in self.old:
            if _replicas(other) or any(controlled_by(pod, other.metadata.uid) and not finished(pod) for pod in self.world.owned(Pod, other.metadata.uid)):
                return False
        return True

    def _sizes(self) -> dict[str, int]:
        sizes = {other.metadata.uid: _replicas(other) for other in self._all()}
        if self.one.spec.paused or self._is_scaling():
            return sizes | self._rescaled()
        if self.recreates:
            sizes |= {other.metadata.uid: 0 for other in self.old}
            if self.new is not None and self._old_are_gone():
                sizes[self.new.metadata.uid] = self.replicas
            return sizes
        if self.new is None:
            return sizes
        uid, total = self.new.metadata.uid, self._old_pods()
        sizes[uid] = grown(sizes[uid], total, replicas=self.replicas, surge=self.surge)
        if sizes[uid] == _replicas(self.new):
            old = [Size(_replicas(other), other.status.availableReplicas) for other in self.old]
            new = Size(sizes[uid], min(sizes[uid], self.new.status.availableReplicas))
            for other, size in zip(self.old, shrunk(old, new, replicas=self.replicas, unavailable=self.unavailable), strict=True):
                sizes[other.metadata.uid] = size
        return sizes

    def _old_pods(self) -> int:
        """How many old pods there may be: a ReplicaSet that was just made smaller has its pods still."""
        return sum(max(_replicas(other), other.status.replicas) for other in self.old)

    def _rescaled(self) -> dict[str, int]:
        """The sizes after the wanted count changed, or while the Deployment is paused."""
        live = [other for other in self._all() if _replicas(other)]
        if len(live) <= 1:
            only = live[0] if live else self.new or (self.old[-1] if self.old else None)
            return {only.metadata.uid: self.replicas} if only else {}
        if self.new is not None and progress.is_saturated(self.new.status, _replicas(self.new), self.replicas):
            return {other.metadata.uid: 0 for other in self.old}
        if self.recreates or not self._is_scaling():
            return {}
        total = self.replicas + self.surge if self.replicas else 0
        growing = total >= sum(_replicas(other) for other in live)
        live.sort(key=_age, reverse=growing)  # what rounding leaves goes to the newest when growing, to the oldest when shrinking
        live.sort(key=_replicas, reverse=True)
        sizes = in_proportion([_replicas(other) for other in live], total)
        return {other.metadata.uid: size for other, size in zip(live, sizes, strict=True)}

    # ---- Writes

    def _patch(self, patch: Document, *, subresource: str = "") -> Patch:
        metadata = self.one.metadata
        return Patch(_RESOURCE, Key(metadata.namespace, metadata.name), patch, subresource=subresource, uid=metadata.uid)

    def _revision(self) -> int:
        """The revision of the new ReplicaSet: above all others', and never below what it has."""
        above = max((_number(other.annotations.get(REVISION)) for other in self.old), default=0) + 1
        return max(above, _number(self.new.annotations.get(REVISION)) if self.new else 0)

    def _counts(self) -> dict[str, str]:
        return {DESIRED: str(self.replicas), MOST: str(self.replicas + self.surge)}

    def _creation(self, name: str) -> Iterable[Action]:
        one, template = self.one, self.one.spec.template
        size = grown(0, self._old_pods(), replicas=self.replicas, surge=self.surge)
        revision = self._revision()
        metadata = template_metadata(template)
        metadata["labels"] = {**metadata.get("labels", {}), HASH: self.hash}
        copied = {key: text for key, text in one.annotations.items() if key not in _NOT_COPIED}
        selector = document_of(one.spec.selector) if one.spec.selector else {}
        selector["matchLabels"] = {**selector.get("matchLabels", {}), HASH: self.hash}
        spec: Document = {"replicas": size, "selector": selector, "template": {"metadata": metadata, "spec": template.spec}}
        if one.spec.minReadySeconds:
            spec["minReadySeconds"] = one.spec.minReadySeconds
        yield Create(
            _REPLICA_SETS,
            {
                "apiVersion": _REPLICA_SETS.api_version,
                "kind": _REPLICA_SETS.kind,
                "metadata": {
                    "name": name,
                    "namespace": one.metadata.namespace,
                    "labels": dict(metadata["labels"]),
                    "annotations": copied | self._counts() | {REVISION: str(revision)},
                    "ownerReferences": references([owner_reference(one)]),
                },
                "spec": spec,
            },
        )
        if size:
            yield Tell(one, "Normal", "ScalingReplicaSet", f"ReplicaSet {name} goes from 0 to {size} pods")
        if one.annotations.get(REVISION) != str(revision):
            yield self._patch({"metadata": {"annotations": {REVISION: str(revision)}}})

    def _sized(self, other: ReplicaSet, size: int) -> Iterable[Action]:
        before = _replicas(other)
        annotations: dict[str, str] = self._counts() if before or size else {}
        spec: Document = {} if size == before else {"replicas": size}
        if other is self.new and not self.one.spec.paused:
            annotations |= {key: text for key, text in self.one.annotations.items() if key not in _NOT_COPIED}
            revision, present = self._revision(), other.annotations.get(REVISION)
            annotations[REVISION] = str(revision)
            if present and present != str(revision):
                annotations[HISTORY] = ",".join(filter(None, (other.annotations.get(HISTORY), present)))
            if other.spec.minReadySeconds != self.one.spec.minReadySeconds:
                spec["minReadySeconds"] = self.one.spec.minReadySeconds
        changed = {key: text for key, text in annotations.items() if other.annotations.get(key) != text}
        patch: Document = {}
        if changed:
            patch["metadata"] = {"annotations": changed}
        if spec:
            patch["spec"] = spec
        if patch:
            yield Patch(_REPLICA_SETS, Key(other.metadata.namespace, other.metadata.name), patch, uid=other.metadata.uid)
        if size != before:
            yield Tell(self.one, "Normal", "ScalingReplicaSet", f"ReplicaSet {other.metadata.name} goes from {before} to {size} pods")

    def _own_revision(self) -> Iterable[Action]:
        if self.new is not None and not self.one.spec.paused:
            revision = str(self._revision())
            if self.one.annotations.get(REVISION) != revision:
                yield self._patch({"metadata": {"annotations": {REVISION: revision}}})

    def _clean_up(self) -> Iterable[Action]:
        """Old ReplicaSets beyond the history limit go, oldest revisions first, once nothing moves any more."""
        limit = self.one.spec.revisionHistoryLimit
        is_current = self.one.status.observedGeneration >= self.one.metadata.generation
        if self.one.spec.paused or not is_current or not progress.is_complete(self.one.status, self.replicas):
            return
        empty = [
            other for other in self.old if not _replicas(other) and not other.status.replicas and other.status.observedGeneration >= other.metadata.generation
        ]
        spare = len([other for other in self.old if other.metadata.deletionTimestamp is None]) - (10 if limit is None else limit)
        for other in sorted(empty, key=lambda other: (_number(other.annotations.get(REVISION)), _age(other)))[: max(0, spare)]:
            if other.metadata.deletionTimestamp is None:
                yield Delete(_REPLICA_SETS, Key(other.metadata.namespace, other.metadata.name), uid=other.metadata.uid)

    # ---- Status

    def _status(self) -> Iterable[Action]:
        after = progress.status_of(
            self.one,
            [(other.status, _replicas(other)) for other in self._all()],
            self.new.status if self.new else None,
            new_name=self.new.metadata.name if self.new else "",
            unavailable=self.unavailable,
            now=self.world.now,
        )
        if after.status != self.one.status:
            yield self._patch({"status": progress.document_of_status(after.status)}, subresource="status")
        if after.seconds_left is not None:
            yield After(after.seconds_left)


# ---- What wakes us

_controller = controller_key("Deployment")


def _keys_of_replica_set(before: ReplicaSet | None, after: ReplicaSet | None, world: World) -> Iterable[Key]:
    yield from dict.fromkeys(_controller(before, after, world))
    if after is not None and after.metadata.controller is None and (before is None or before.metadata != after.metadata):
        for one in world.list(Deployment, after.metadata.namespace):
            selector = selector_of(one.spec.selector)
            if selector is not None and selector.matches(after.metadata.labels):
                yield Key(one.metadata.namespace, one.metadata.name)


def _keys_of_pod(before: Pod | None, after: Pod | None, world: World) -> Iterable[Key]:
    """A pod that ends may be the last of the old ones for which a Deployment that recreates has been waiting."""
    if before is None or (after is not None and finished(after) == finished(before)):
        return
    owner = before.metadata.controller
    if owner is None or owner.kind != "ReplicaSet":
        return
    other = world.get(ReplicaSet, Key(before.metadata.namespace, owner.name))
    if other is not None and other.metadata.uid == owner.uid:
        yield from _controller(None, other, world)
