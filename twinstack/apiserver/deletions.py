"""How objects go: at once, after a grace period, or once their finalizers are done.

An object whose deletion was asked for stays while anything holds it: a grace period that its agent ends by deleting
with zero seconds, finalizers that controllers take away, a namespace's ``spec.finalizers``. The
propagation policies Orphan and Foreground are finalizers too, for the garbage controller to act upon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from twinstack.api import errors, objects
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_KIND, SHOWN_WHEN_GONE, Resource
from twinstack.apiserver.bodies import DeleteOptions
from twinstack.apiserver.cache import Collection, Stored
from twinstack.apiserver.changes import ATTEMPTS, MODIFIED, NAMESPACES, Changes, Outcome, is_finally_gone, timestamp
from twinstack.apiserver.strategies.base import Strategy, Transaction
from twinstack.rules.priorities import BUILT_IN
from twinstack.store.base import RevisionMismatch

ORPHAN: Final = "orphan"
FOREGROUND: Final = "foregroundDeletion"
PRIORITY_CLASSES: Final = BY_KIND["scheduling.k8s.io/v1", "PriorityClass"]
IMMORTAL: Final = frozenset(("default", "kube-system", "kube-public"))
_AT_ONCE: Final = 64
PLAIN: Final = DeleteOptions()


class Deletions:
    """Deletes one, or a collection."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def delete(self, resource: Resource, key: Key, options: DeleteOptions = PLAIN, *, dry_run: bool = False) -> Outcome:
        """Delete an object, or ask for its deletion. The outcome is the object as it is now, or a Status when it is gone."""
        if resource == NAMESPACES and key.name in IMMORTAL:
            raise errors.Forbidden(f'namespaces "{key.name}" is forbidden: this namespace may not be deleted', kind=resource.plural, name=key.name)
        if resource == PRIORITY_CLASSES and key.name in BUILT_IN:
            told = f'priorityclasses.scheduling.k8s.io "{key.name}" is forbidden: this class is the cluster\'s own and may not be deleted'
            raise errors.Forbidden(told, kind=resource.plural, name=key.name, group=resource.group)
        changes = self._changes
        collection = changes.cache.collections[resource]
        for attempt in range(ATTEMPTS):
            if attempt:
                await changes.store.settled()
            stored = collection.items.get(key)
            if stored is None:
                raise errors.not_found(resource.plural, key.name, group=resource.group)
            _check_preconditions(resource, stored, options)
            try:
                return await self._delete(collection, stored, options, dry_run=dry_run)
            except RevisionMismatch:
                continue
        raise errors.conflict(resource.plural, key.name, MODIFIED, group=resource.group)

    async def _delete(self, collection: Collection, stored: Stored, options: DeleteOptions, *, dry_run: bool) -> Outcome:
        changes, strategy, resource = self._changes, collection.strategy, collection.resource
        now = changes.now()
        before = stored.raw_document()
        after = stored.raw_document()
        metadata = after["metadata"]
        grace = max(0, strategy.grace_period_seconds(before, options.gracePeriodSeconds))
        deleting, granted = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds", 0)
        if strategy.owns and not (deleting and granted and grace >= granted):  # a pending grace period is ended sooner, or nothing happens
            _set_propagation(metadata, options, strategy)
        if not deleting:
            metadata["deletionTimestamp"] = timestamp(now + timedelta(seconds=grace))
            if resource != NAMESPACES:  # whose going is not a matter of time
                metadata["deletionGracePeriodSeconds"] = grace
            if strategy.counts_generation:
                metadata["generation"] = metadata.get("generation", 0) + 1
        elif grace < granted:
            # A second deletion can only make it sooner, counted from the first.
            metadata["deletionTimestamp"] = timestamp(datetime.fromisoformat(deleting) + timedelta(seconds=grace - granted))
            metadata["deletionGracePeriodSeconds"] = grace
        if resource == NAMESPACES:
            after.setdefault("status", {})["phase"] = "Terminating"
        warnings = self.warnings(resource, options)
        accepted = options.orphanDependents is False
        transaction = Transaction(changes.cache, now=now, dry_run=dry_run)
        with transaction.undo:
            if is_finally_gone(after):
                strategy.after_delete(after, transaction)
                if not dry_run:
                    removal = [collection.deletion(stored.key, stored.revision), *changes.beside(transaction)]
                    revisions = await changes.commit(removal, transaction)
                    metadata["resourceVersion"] = str(revisions[0])
                return Outcome(_farewell(resource, stored, after), warnings)
            if after == before or dry_run:
                return Outcome(objects.encode(after), warnings, accepted=accepted)
            write = collection.write(after, stored.revision)
            revisions = await changes.commit([write, *changes.beside(transaction)], transaction)
        return Outcome(collection.stored(write.note, revisions[0]).data, warnings, accepted=accepted)

    def warnings(self, resource: Resource, options: DeleteOptions) -> list[str]:
        """What to tell whoever deletes so."""
        told = options.propagationPolicy is not None or options.orphanDependents is not None
        return [] if told else self._changes.cache.collections[resource].strategy.deletion_warnings()

    async def delete_all(self, resource: Resource, matched: Sequence[Stored], options: DeleteOptions, *, dry_run: bool = False) -> None:
        """Delete all of these. What goes meanwhile by another hand is no failure."""

        async def one(stored: Stored) -> None:
            try:
                await self.delete(resource, stored.key, options, dry_run=dry_run)
            except errors.NotFound:
                return

        for start in range(0, len(matched), _AT_ONCE):
            results = await asyncio.gather(*(one(stored) for stored in matched[start : start + _AT_ONCE]), return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result


def _check_preconditions(resource: Resource, stored: Stored, options: DeleteOptions) -> None:
    wanted = options.preconditions
    detail = ""
    if wanted.uid is not None and wanted.uid != stored.uid:
        detail = f"Precondition failed: UID in precondition: {wanted.uid}, UID in object meta: {stored.uid}"
    elif wanted.resourceVersion is not None and wanted.resourceVersion != str(stored.revision):
        detail = f"Precondition failed: ResourceVersion in precondition: {wanted.resourceVersion}, ResourceVersion in object meta: {stored.revision}"
    if detail:
        raise errors.conflict(resource.plural if resource == NAMESPACES else resource.kind, stored.key.name, detail, group=resource.group)


def _set_propagation(metadata: Document, options: DeleteOptions, strategy: Strategy) -> None:
    """Put in and take out the finalizers that the policy means; without a policy, those that are there stay, else the kind's own counts."""
    policy = options.propagationPolicy
    if policy is None and options.orphanDependents is not None:
        policy = "Orphan" if options.orphanDependents else "Background"
    if policy is None and strategy.orphans_by_default and not {ORPHAN, FOREGROUND} & set(metadata.get("finalizers") or ()):
        policy = "Orphan"
    if policy is None:
        return
    finalizers = [name for name in metadata.get("finalizers") or () if name not in (ORPHAN, FOREGROUND)]
    if policy == "Orphan":
        finalizers.append(ORPHAN)
    elif policy == "Foreground":
        finalizers.append(FOREGROUND)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)


def _farewell(resource: Resource, stored: Stored, document: Document) -> bytes:
    """The answer to a deletion that is done."""
    if resource.plural in SHOWN_WHEN_GONE:
        return objects.encode(document)
    details = {"name": stored.key.name, "kind": resource.plural, "uid": stored.uid}
    if resource.group:
        details["group"] = resource.group
    return objects.encode({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
