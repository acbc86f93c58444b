"""The way of a new object and of a changed one (spec/api.md 0.3 and 0.4).

Rule of this file: from the look at the present state to the store's acceptance nothing waits, so what was
checked still holds when it is accepted; and whatever a strategy took is given back when any later step fails.

The way of a create: decode → default → metadata → name → begin (families, addresses, ports) → validate → one commit of
the object and everything beside it → answer. Of an update: the same, with the old object in view; a conflict with a write that
is not durable yet waits for that one and begins anew, unless the caller named the version that it changes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from twinstack.api import apply, errors, objects
from twinstack.api.errors import BadRequest, Forbidden
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_PATH, Resource
from twinstack.apiserver.bodies import check_kind, check_types
from twinstack.apiserver.cache import Cache, Collection, Stored
from twinstack.apiserver.ownership import Doors
from twinstack.apiserver.strategies.base import Strategy, Transaction
from twinstack.rules.metadata import problems_with_metadata, problems_with_metadata_update
from twinstack.rules.resizing import resized_spec
from twinstack.store.base import KeyExists, RevisionMismatch, Store, StoreError, Write

NAMESPACES = BY_PATH["", "v1", "namespaces"]
_COUNTED = ("", "ephemeralcontainers", "resize")  # doors through which an object becomes one of another generation
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels, no look-alikes: random names spell nothing
ATTEMPTS = 8
OURSELVES = "kube-apiserver"  # the manager of what the server writes on its own
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def timestamp(now: datetime) -> str:
    """RFC 3339 in whole seconds, as metadata has it."""
    return _timestamp(int(now.timestamp()))


@lru_cache(maxsize=16)
def _timestamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Uids:
    """Random UUIDs (RFC 9562, version 4); asks the kernel for many at once, for asking is what costs."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def next(self) -> str:
        if self._at >= len(self._bytes):
            self._bytes, self._at = os.urandom(16 * 64), 0
        taken = self._bytes[self._at : self._at + 16]
        self._at += 16
        digits = taken.hex()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[taken[8] & 3]}{digits[17:20]}-{digits[20:]}"


class Outcome(msgspec.Struct, frozen=True):
    """What became of a change: the bytes of the answer, and what to tell besides."""

    data: bytes
    warnings: Sequence[str] = ()
    created: bool = False
    document: Document | None = None  # where the bytes had to be made from one
    accepted: bool = False  # a deletion that is not done yet, asked for by one who wants the owned gone, too


class Admission(Protocol):
    """Looks at what is about to be written, and at who writes; Forbidden when it may not be. It may complete a new object."""

    async def ready(self, resource: Resource, document: Document) -> None:
        """Before all else of a new object: the time to wait for what it needs."""

    def new(self, resource: Resource, document: Document) -> None:
        """Before the defaults of a new object."""

    def changed(self, resource: Resource, after: Document, before: Document, subresource: str) -> None:
        """After the defaults of a changed one."""


class Changes:
    """Creates and updates."""

    def __init__(self, cache: Cache, store: Store, now: Callable[[], datetime], chance: random.Random | None = None, *, doors: Doors | None = None) -> None:
        self.cache = cache
        self._doors = doors
        self._alike: dict[tuple[Any, ...], list[Any]] = {}
        self.store = store
        self.now = now
        self._chance = chance or random.Random()
        self._uids = Uids()
        self.admission: Admission | None = None  # without one, whoever comes this far may write anything

    # ---- create

    async def create(
        self, resource: Resource, document: Document, namespace: str, *, dry_run: bool = False, manager: str = "", applied: bool = False
    ) -> Outcome:
        """Create an object; *namespace* is the request's.

        What the document has is the *manager*'s, if one is named; with *applied* it says itself whose its fields are.
        """
        collection = self.cache.collections[resource]
        metadata = document["metadata"]
        check_types(resource, document)
        _fit_namespace(resource, metadata, namespace)
        if _is_version(metadata.pop("resourceVersion", "")):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        if resource.namespaced:
            self.check_namespace(resource, metadata["namespace"], metadata.get("name") or metadata.get("generateName", ""))
            if self.admission is not None:
                await self.admission.ready(resource, document)
        now = self.now()
        for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(field, None)
        if not applied:
            metadata.pop("managedFields", None)
        metadata["uid"] = self._uids.next()
        metadata["creationTimestamp"] = timestamp(now)
        if collection.strategy.counts_generation:
            metadata["generation"] = 1  # where it is not counted, it is the writer's
        generated = bool(metadata.get("generateName")) and not metadata.get("name")
        owner = "" if applied else manager
        if not generated and not collection.strategy.allocates:
            return await self._create(collection, document, now, owner, dry_run=dry_run)
        original = objects.encode(document)
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1:
                document = objects.decode(original)
            if generated:
                document["metadata"]["name"] = collection.strategy.generated_name(metadata["generateName"], self._suffix())
            try:
                return await self._create(collection, document, now, owner, dry_run=dry_run)
            except errors.AlreadyExists:
                if attempt == ATTEMPTS or not generated:
                    raise
            except RevisionMismatch:  # somebody else was faster with what was allocated
                await self.store.settled()
        raise errors.conflict(resource.plural, metadata.get("name", ""), MODIFIED, group=resource.group)

    async def _create(self, collection: Collection, document: Document, now: datetime, manager: str, *, dry_run: bool) -> Outcome:
        resource, strategy = collection.resource, collection.strategy
        if strategy.has_status:
            document.pop("status", None)
        told = _tell_owners_once(document["metadata"])
        if manager and self.admission is not None and resource.kind == "Pod":
            # What admission adds, such as a ServiceAccount's token, is nobody's.
            strategy.default(document)
            self._own(resource, document, manager)
            manager = ""
        if self.admission is not None:
            self.admission.new(resource, document)
        strategy.default(document)
        if manager:
            self._own(resource, document, manager)
        transaction = Transaction(self.cache, now=now, dry_run=dry_run)
        with transaction.undo:
            strategy.begin_create(document, transaction)
            name = document["metadata"].get("name", "")
            problems = [
                *problems_with_metadata(document, name_problem=strategy.name_problem, namespaced=resource.namespaced),
                *strategy.problems_with_create(document),
            ]
            if problems:
                raise errors.invalid(resource.kind, name, problems, group=resource.kept_group)
            warnings = [*told, *transaction.warnings, *strategy.warnings(document, None)]
            if dry_run:
                if objects.key_of(document) in collection.items:
                    raise errors.already_exists(resource.plural, name, group=resource.group)
                strategy.on_read(document)
                return Outcome(objects.encode(document), warnings, True, document)
            write = collection.write(document, 0)
            revisions = await self.commit([write, *self.beside(transaction)], transaction)
        return Outcome(self._answer(collection, write, revisions[0]), warnings, True)

    def _own(self, resource: Resource, document: Document, manager: str) -> None:
        """Say that all of a new document is the manager's."""
        door = self._doors.of(resource) if self._doors is not None else None
        if door is not None:
            metadata = document["metadata"]
            writer = apply.Writer(manager, "", resource.api_version, metadata["creationTimestamp"])
            if entries := apply.created(document, writer, door):
                metadata["managedFields"] = entries

    def _complete(self, collection: Collection, document: Document) -> None:
        """Give what is written beside an object its defaults, and say that it is the server's own.

        Records that name a parent are all alike: what one of a shape lacks, and which fields it has, is found once.
        """
        metadata, spec = document["metadata"], document.get("spec") or {}
        parent = spec.get("parentRef")
        shape = (collection.resource, *metadata, *metadata.get("labels", ()), *spec, *parent) if parent else None
        owned = self._alike.get(shape) if shape else None
        if owned is None:
            given = objects.encode(document)
            collection.strategy.default(document)
            is_complete = objects.encode(document) == given
            self._own(collection.resource, document, OURSELVES)
            if shape and is_complete:
                self._alike[shape] = metadata.get("managedFields") or []
        elif owned:
            metadata["managedFields"] = [{**owned[0], "time": metadata["creationTimestamp"]}]

    def _owners(self, resource: Resource, before: Document, after: Document, given: Any, manager: str, subresource: str) -> list[Any]:
        """Who owns what of a document that *manager* changes; as before when nobody is named or no schema tells."""
        door = self._doors.of(resource, subresource) if self._doors is not None and manager else None
        if door is None:
            return before["metadata"].get("managedFields") or []
        return apply.updated(before, after, given, apply.Writer(manager, subresource, resource.api_version, timestamp(self.now())), door)

    def _suffix(self) -> str:
        return "".join(self._chance.choices(_ALPHABET, k=5))

    def check_namespace(self, resource: Resource, name: str, called: str) -> None:
        """The namespace lifecycle: nothing new, *called* so, where there is no namespace, or where one is going away."""
        namespace = self.cache.collections[NAMESPACES].items.get(Key("", name))
        if namespace is None:
            raise errors.not_found(NAMESPACES.plural, name)
        if b'"deletionTimestamp":"' in namespace.data and self.is_terminating(namespace):
            raise Forbidden(
                f'{resource.qualified} "{called or "Unknown"}" is forbidden: unable to create new content in namespace {name} because it is being terminated',
                group=resource.group,
                kind=resource.plural,
                name=called or "Unknown",
                causes=[{"reason": "NamespaceTerminating", "message": f"namespace {name} is being terminated", "field": "metadata.namespace"}],
            )

    @staticmethod
    def is_terminating(one: Stored) -> bool:
        return bool(one.document()["metadata"].get("deletionTimestamp"))

    # ---- update

    async def update(
        self,
        resource: Resource,
        key: Key,
        change: Callable[[Document], Document],
        *,
        subresource: str = "",
        dry_run: bool = False,
        create: bool = False,
        manager: str = "",
        applied: bool = False,
        patched: bool = False,
    ) -> Outcome:
        """Change an object: *change* makes the new document of the stored one, which carries its resourceVersion.

        A resourceVersion in the new document that differs from the stored one's is a conflict; one that is left out is not.
        With *create*, one that does not exist is created, where its kind allows that, and with *applied* whatever its kind:
        *change* is given an empty document. What changes becomes the *manager*'s; with *applied*, *change* has said so itself.
        Another uid is a conflict, but wrong in itself when it came by a patch.
        """
        collection = self.cache.collections[resource]
        for attempt in range(ATTEMPTS):
            if attempt:
                await self.store.settled()
            stored = collection.items.get(key)
            if stored is None:
                if create and not subresource and (applied or collection.strategy.creates_on_update):
                    document = change({})
                    metadata = document["metadata"]
                    _fit_name(metadata, key.name)
                    if metadata.get("uid") and not patched:
                        raise _uid_conflict(resource, key, metadata["uid"], "")
                    metadata.pop("resourceVersion", None)
                    return await self.create(resource, document, key.namespace, dry_run=dry_run, manager=manager, applied=applied)
                raise errors.not_found(resource.plural, key.name, group=resource.group)
            after = change(stored.raw_document())
            try:
                return await self._update(collection, stored, after, subresource, manager, dry_run=dry_run, applied=applied, patched=patched)
            except RevisionMismatch:
                continue
        raise errors.conflict(resource.plural, key.name, MODIFIED, group=resource.group)

    async def _update(
        self, collection: Collection, stored: Stored, after: Document, subresource: str, manager: str, *, dry_run: bool, applied: bool, patched: bool
    ) -> Outcome:
        resource, strategy, key = collection.resource, collection.strategy, stored.key
        check_kind(after, resource.api_version, resource.kind)
        check_types(resource, after)
        before = stored.document()
        metadata, old = after["metadata"], before["metadata"]
        self._check_identity(resource, key, metadata, old, stored, strategy, patched=patched)
        _keep_what_the_system_sets(metadata, old)
        given = metadata.pop("managedFields", None)
        metadata["resourceVersion"] = old["resourceVersion"]
        sent = strategy.problems_with_sent(after, before, subresource)
        _keep_what_the_door_does_not_open(after, before, subresource, strategy)
        told = _tell_owners_once(metadata)
        strategy.default(after)
        if self.admission is not None:
            self.admission.changed(resource, after, before, subresource)
        entries = given or [] if applied else self._owners(resource, before, after, given, manager, subresource)
        had = old.get("managedFields") or []
        # A write that only says again who owns what is none, so that its time is not one either.
        later = entries if entries is not had and entries != had and apply.same_but_times(entries, had) else None
        if entries := had if later is not None else entries:
            metadata["managedFields"] = entries
        transaction = Transaction(self.cache, now=self.now(), dry_run=dry_run)
        with transaction.undo:
            strategy.begin_update(after, before, subresource, transaction)
            if strategy.counts_generation and subresource in _COUNTED and _differs_beyond_metadata(after, before):
                metadata["generation"] = old.get("generation", 0) + 1
            problems = [*sent, *problems_with_metadata_update(after, before), *strategy.problems_with_update(after, before, subresource)]
            if problems:
                raise errors.invalid(resource.kind, key.name, problems, group=resource.kept_group)
            warnings = [*told, *transaction.warnings, *strategy.warnings(after, before)]
            if later is not None and after != before:
                metadata["managedFields"] = later
            if dry_run:
                strategy.on_read(after)
                return Outcome(objects.encode(after), warnings, False, after)
            if is_finally_gone(after):
                strategy.after_delete(after, transaction)
                removal = [collection.deletion(key, stored.revision), *self.beside(transaction)]
                await self.commit(removal, transaction)
                return Outcome(objects.encode(after), warnings, False, after)
            beside = self.beside(transaction)
            if not beside and after == (before if stored.raw is stored.data else stored.raw_document()):
                return Outcome(stored.data, warnings)
            write = collection.write(after, stored.revision)
            revisions = await self.commit([write, *beside], transaction)
        return Outcome(self._answer(collection, write, revisions[0]), warnings)

    @staticmethod
    def _check_identity(resource: Resource, key: Key, metadata: Document, old: Document, stored: Stored, strategy: Strategy, *, patched: bool) -> None:
        """The new document must be of the object that the path names, and of the version that stands."""
        _fit_namespace(resource, metadata, key.namespace)
        _fit_name(metadata, key.name)
        if not patched and (metadata.get("uid") or old.get("uid")) != old.get("uid"):
            raise _uid_conflict(resource, key, metadata["uid"], old.get("uid", ""))
        version = metadata.get("resourceVersion", "")
        if version and not version.strip("0"):
            version = ""  # 0 is no version, and so says nothing of what stands
        if not version and not strategy.unconditional_update:
            problem = errors.FieldProblem("metadata.resourceVersion", errors.ProblemType.INVALID, "", "must be specified for an update")
            raise errors.invalid(resource.plural, key.name, [problem], group=resource.group)
        if version and version != str(stored.revision):
            raise errors.conflict(resource.plural, key.name, MODIFIED, group=resource.group)

    # ---- the commit

    def beside(self, transaction: Transaction) -> list[Write]:
        """The writes that go with the object's own."""
        writes: list[Write] = []
        created = timestamp(transaction.now) if transaction.creates else ""
        for resource, document in transaction.creates:
            collection = self.cache.collections[resource]
            metadata = document.setdefault("metadata", {})
            if "uid" not in metadata:
                metadata["uid"] = self._uids.next()
            metadata.setdefault("creationTimestamp", created)
            if collection.strategy.counts_generation:
                metadata.setdefault("generation", 1)
            self._complete(collection, document)
            writes.append(collection.write(document, 0))
        for resource, key in transaction.deletes:
            collection = self.cache.collections[resource]
            if key in collection.items:
                writes.append(collection.deletion(key, None))
        return writes

    async def commit(self, writes: Sequence[Write], transaction: Transaction) -> list[int]:
        """Make it durable. A failure leaves through the transaction's undo; RevisionMismatch is the caller's to repeat."""
        try:
            revisions = await self.store.commit(writes)
        except RevisionMismatch:
            raise
        except KeyExists as error:
            write = next(one for one in writes if one.key == error.key)
            if write is not writes[0]:
                raise RevisionMismatch(write.key, 0, -1) from error
            resource = write.note.collection.resource
            raise errors.already_exists(resource.plural, write.note.key.name, group=resource.group) from error
        except StoreError as error:
            raise errors.ServiceUnavailable(f"the change could not be stored: {error}", retry_after_seconds=1) from error
        transaction.undo.forget()
        for function in transaction.after_commit:
            function()
        return revisions

    @staticmethod
    def _answer(collection: Collection, write: Write, revision: int) -> bytes:
        """The object as it was written, which is what stands now unless somebody was faster."""
        stands = collection.items.get(write.note.key)
        return stands.data if stands is not None and stands.revision == revision else collection.stored(write.note, revision).data


def _uid_conflict(resource: Resource, key: Key, wanted: str, found: str) -> errors.Conflict:
    detail = f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
    return errors.conflict(resource.plural, key.name, detail, group=resource.group)


def _is_version(text: str) -> bool:
    """Whether a text names a version; one that cannot be read does not, and neither does 0."""
    return text.isascii() and text.isdigit() and bool(text.strip("0"))


def is_finally_gone(document: Document) -> bool:
    """Whether nothing keeps an object any longer whose deletion was asked for."""
    metadata = document["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds"):
        return False
    return document.get("kind") != NAMESPACES.kind or not (document.get("spec") or {}).get("finalizers")


def _fit_namespace(resource: Resource, metadata: Document, namespace: str) -> None:
    """The document's namespace is the request's."""
    if not resource.namespaced:
        metadata.pop("namespace", None)
    elif metadata.get("namespace", "") in ("", namespace):
        metadata["namespace"] = namespace
    else:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")


def _fit_name(metadata: Document, name: str) -> None:
    """The document's name is the path's."""
    if metadata.setdefault("name", name) != name:
        raise BadRequest(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")


def _tell_owners_once(metadata: Document) -> list[str]:
    """Leave of equal owners one; what to warn of."""
    owners = metadata.get("ownerReferences")
    if not owners or len(owners) < 2:
        return []
    single = [owner for index, owner in enumerate(owners) if owner not in owners[:index]]
    if len(single) == len(owners):
        return []
    metadata["ownerReferences"] = single
    return [".metadata.ownerReferences contains duplicate entries; only one of each is kept"]


def _keep_what_the_system_sets(metadata: Document, old: Document) -> None:
    """Carry over what a writer may leave out or not change; what it may not set stays, for validation to refuse."""
    for field in ("creationTimestamp", "generation"):
        if field in old:
            metadata[field] = old[field]
        else:
            metadata.pop(field, None)
    if not metadata.get("uid") and "uid" in old:
        metadata["uid"] = old["uid"]
    if "deletionTimestamp" in old:
        metadata["deletionTimestamp"] = old["deletionTimestamp"]
    if "deletionGracePeriodSeconds" in old:
        metadata.setdefault("deletionGracePeriodSeconds", old["deletionGracePeriodSeconds"])


def _keep_what_the_door_does_not_open(after: Document, before: Document, subresource: str, strategy: Strategy) -> None:
    """The status door changes status (and metadata), a pod's doors of ephemeral containers and of amounts these, the main door all but the status."""
    if subresource == "status":
        for name in [name for name in after if name not in ("metadata", "status")]:
            del after[name]
        after.update({name: value for name, value in before.items() if name not in ("metadata", "status")})
    elif subresource == "ephemeralcontainers":
        added = (after.get("spec") or {}).get("ephemeralContainers")
        for name in [name for name in after if name != "metadata"]:
            del after[name]
        after.update({name: value for name, value in before.items() if name != "metadata"})
        rest = {name: value for name, value in before["spec"].items() if name != "ephemeralContainers"}
        after["spec"] = {**rest, "ephemeralContainers": added} if added else rest
    elif subresource == "resize":
        sent = after.get("spec") or {}
        for name in [name for name in after if name != "metadata"]:
            del after[name]
        after.update({name: value for name, value in before.items() if name != "metadata"})
        after["spec"] = resized_spec(sent, before["spec"])
    elif not subresource and strategy.has_status:
        after.pop("status", None)
        if "status" in before:
            after["status"] = before["status"]


def _differs_beyond_metadata(after: Document, before: Document) -> bool:
    names = (after.keys() | before.keys()) - {"metadata", "status"}
    return any(after.get(name) != before.get(name) for name in names)
