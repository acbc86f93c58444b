"""The present state of every resource in memory, and its recent history.

Rule of this file: what is here is durable. The store's events are the only way in, so GET, LIST and WATCH never touch
the disk and never show what may still be refused.

Theory. An object lives as the bytes that are sent, beside the few values that selectors and preconditions
ask for; the garbage collector sees neither. At rest a document lacks its resourceVersion, which is the revision
that the store gives it. It is put in at a place that is known without decoding: ``metadata`` stands at the same
offset in every document of a resource, and the resourceVersion is its first field.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from twinstack.api import objects
from twinstack.api.errors import BadRequest
from twinstack.api.objects import Document, Key, View
from twinstack.api.resources import BY_PATH, RESOURCES, Resource
from twinstack.api.selectors import FieldRequirement, Selector
from twinstack.apiserver.sharing import NO_FIELDS, Fields, Sharing
from twinstack.apiserver.strategies.base import Strategy
from twinstack.store.base import Event, Revision, Store, Write
from twinstack.store.broadcast import Broadcast

log = logging.getLogger(__name__)

_VERSION = b'"resourceVersion":"'
_ORDER = ("kind", "apiVersion", "metadata")  # in which the bytes at rest begin
FIRST = 2
_FEW = 64  # keys that are sooner put in place one by one than by sorting all


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An object as it is served. ``raw`` differs from ``data`` only where reading fills in defaults."""

    data: bytes
    revision: Revision
    key: Key
    uid: str
    labels: Mapping[str, str]
    fields: Fields
    raw: bytes

    def document(self) -> Document:
        """A copy of one's own, as it is served."""
        document: Document = objects.decode(self.data)
        return document

    def raw_document(self) -> Document:
        """A copy of one's own, as it is stored."""
        document: Document = objects.decode(self.raw)
        return document


class Change(msgspec.Struct, gc=False):
    """What happened to one key. ``data`` is what a watcher is shown: at a deletion, the last state at the deletion's revision."""

    revision: Revision
    before: Stored | None
    after: Stored | None
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


class Draft(msgspec.Struct, gc=False):
    """A document on its way into the store."""

    collection: Collection
    key: Key
    uid: str
    labels: Mapping[str, str]
    fields: Fields
    raw: bytes
    served: bytes  # empty when it is raw


class _SketchMeta(msgspec.Struct, frozen=True, gc=False):
    uid: str = ""
    labels: dict[str, str] | None = None


class _Sketch(msgspec.Struct, frozen=True, gc=False):
    """As much of a document as the cache itself looks at."""

    metadata: _SketchMeta = _SketchMeta()


Observer = Callable[[Resource, Stored | None, Stored | None], None]


class Collection:
    """All objects of one resource."""

    def __init__(self, resource: Resource, strategy: Strategy, start: Revision = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.resource = resource
        self.strategy = strategy
        self.items: dict[Key, Stored] = {}
        self._order: list[Key] = []
        self._unordered: set[Key] = set()  # keys that are new since the order was asked for
        self.broadcast: Broadcast[Change] = Broadcast(start, clock=clock)
        self.root = f"/registry/{resource.group or 'core'}/{resource.plural}/"
        self._kind, self._api_version = resource.kind, resource.api_version
        self.prefix = objects.encode({"kind": self._kind, "apiVersion": self._api_version, "metadata": {}})[:-2]
        self._reads = type(strategy).on_read is not Strategy.on_read
        self._selectable = type(strategy).fields is not Strategy.fields
        self._sharing = Sharing()

    # ---- in

    def store_key(self, key: Key) -> str:
        return f"{self.root}{key.namespace}/{key.name}" if self.resource.namespaced else self.root + key.name

    def draft(self, document: Document) -> Draft:
        """Encode a document for the store; its resourceVersion is left out."""
        metadata = document["metadata"]
        raw = self._encode(document)
        served = b""
        if self._reads and not self.strategy.is_shown(document):
            read = objects.decode(raw)
            self.strategy.on_read(read)
            served = self._encode(read)
            if served == raw:
                served = b""
        return Draft(
            self,
            Key(self._sharing.text(metadata.get("namespace", "")), metadata["name"]),
            metadata.get("uid", ""),
            self._sharing.labels(metadata.get("labels")),
            self._sharing.fields(self.strategy.fields(document)) if self._selectable else NO_FIELDS,
            raw,
            served,
        )

    def found(self, key: Key, raw: bytes) -> Draft:
        """The draft that these bytes of the store are of: they are not encoded again, and not decoded where nobody asks what is in them."""
        if self._reads or not raw.startswith(self.prefix):
            return self.draft(objects.decode(raw))
        metadata = objects.decode_view(_Sketch, raw).metadata
        fields = self._sharing.fields(self.strategy.fields(objects.decode(raw))) if self._selectable else NO_FIELDS
        return Draft(self, Key(self._sharing.text(key.namespace), key.name), metadata.uid, self._sharing.labels(metadata.labels), fields, raw, b"")

    def write(self, document: Document, expect: Revision | None) -> Write:
        draft = self.draft(document)
        return Write(self.store_key(draft.key), draft.raw, expect, draft)

    def deletion(self, key: Key, expect: Revision | None) -> Write:
        return Write(self.store_key(key), None, expect, (self, key))

    def _encode(self, document: Document) -> bytes:
        metadata = document["metadata"]
        if "resourceVersion" in metadata:
            metadata = {name: value for name, value in metadata.items() if name != "resourceVersion"}
        elif tuple(document)[:3] == _ORDER and document["kind"] == self._kind and document["apiVersion"] == self._api_version:
            return objects.encode(document)
        ordered = {"kind": self._kind, "apiVersion": self._api_version, "metadata": metadata}
        for name, value in document.items():
            if name not in ordered:
                ordered[name] = value
        return objects.encode(ordered)

    def versioned(self, raw: bytes, revision: Revision) -> bytes:
        """The bytes at rest with their resourceVersion put in."""
        return b'%b%b%d",%b' % (self.prefix, _VERSION, revision, raw[len(self.prefix) :])

    def reversioned(self, data: bytes, revision: Revision) -> bytes:
        """Versioned bytes with another resourceVersion."""
        start = len(self.prefix) + len(_VERSION)
        return b"%b%d%b" % (data[:start], revision, data[data.index(b'"', start) :])

    def stored(self, draft: Draft, revision: Revision) -> Stored:
        raw = self.versioned(draft.raw, revision)
        data = self.versioned(draft.served, revision) if draft.served else raw
        return Stored(data, revision, draft.key, draft.uid, draft.labels, draft.fields, raw)

    def apply(self, key: Key, draft: Draft | None, revision: Revision) -> Change:
        """Take in a durable write; a deletion has no draft."""
        before = self.items.get(key)
        if draft is None:
            if before is not None:
                del self.items[key]
                if key in self._unordered:
                    self._unordered.remove(key)
                else:
                    del self._order[bisect_left(self._order, key)]
            return Change(revision, before, None, self.reversioned(before.data, revision) if before else b"")
        after = self.items[key] = self.stored(draft, revision)
        if before is None:
            self._unordered.add(key)
        return Change(revision, before, after, after.data)

    def load(self, key: Key, draft: Draft, revision: Revision) -> None:
        """Take in what stood when the store was opened; :meth:`loaded` follows once."""
        self.items[key] = self.stored(draft, revision)

    def loaded(self, revision: Revision) -> None:
        self._order = sorted(self.items)
        # The first revisions of a new store are before anything that a client could know: whoever asks for them asks for what is long gone.
        self.broadcast.floor = max(revision, FIRST)

    # ---- out

    def keys(self, namespace: str, after: Key | None = None) -> Sequence[Key]:
        """The keys of all namespaces, or of one, in order, after the given one."""
        order = self._order
        if self._unordered:  # a writer does not wait for an order that nobody may ask for
            if len(self._unordered) < _FEW:
                for key in self._unordered:
                    insort(order, key)
            else:
                order += self._unordered
                order.sort()
            self._unordered.clear()
        low, high = 0, len(order)
        if namespace:
            low, high = bisect_left(order, (namespace, "")), bisect_left(order, (namespace + "\0", ""))
        if after is not None:
            low = max(low, bisect_right(order, after))
        return order[low:high]

    def selectable(self) -> frozenset[str]:
        """The fields that a field selector may name."""
        names = {"metadata.name", "metadata.namespace"}  # the latter of any kind that does not say itself by what it is selected
        if self._selectable:
            if not self.resource.namespaced:
                names.remove("metadata.namespace")
            names |= set(self.strategy.fields({"metadata": {}, "spec": {}, "status": {}}))
        return frozenset(names)


class Mirror(Collection):
    """The objects of another collection in another form: writes go there, and every change of it is told here too."""

    def __init__(self, resource: Resource, strategy: Strategy, kept: Collection, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(resource, strategy, clock=clock)
        self._kept = kept

    def write(self, document: Document, expect: Revision | None) -> Write:
        return self._kept.write(self.strategy.kept(document), expect)

    def deletion(self, key: Key, expect: Revision | None) -> Write:
        return self._kept.deletion(key, expect)

    def stored(self, draft: Draft, revision: Revision) -> Stored:
        if draft.collection is not self:
            draft = self.draft(self.strategy.shown(objects.decode(draft.raw)))
        return super().stored(draft, revision)


class Filter:
    """Which objects are meant: a namespace, labels, fields. ``text`` tells equal filters apart from others."""

    __slots__ = ("fields", "labels", "name", "namespace", "text", "trivial")

    def __init__(self, namespace: str = "", labels: Selector | None = None, fields: Sequence[FieldRequirement] = (), *, text: str = "") -> None:
        self.namespace = namespace
        self.labels = labels if labels is not None and labels.requirements else None
        self.fields = tuple(fields)
        # The one object that can match, where the fields say so: no other needs to be looked at.
        self.name = next((one.value for one in self.fields if one.path == "metadata.name" and one.equal), "")
        self.trivial = self.labels is None and not self.fields
        self.text = text

    def check(self, collection: Collection) -> None:
        """BadRequest when a field cannot be selected by."""
        selectable = collection.selectable()
        for requirement in self.fields:
            if requirement.path not in selectable and requirement.path not in collection.strategy.empty_fields:
                raise BadRequest(f"field label not supported: {requirement.path}; {', '.join(sorted(selectable))} are")

    def matches(self, one: Stored) -> bool:
        if self.namespace and one.key.namespace != self.namespace:
            return False
        if self.labels is not None and not self.labels.matches(one.labels):
            return False
        for requirement in self.fields:
            if requirement.path == "metadata.name":
                value = one.key.name
            elif requirement.path == "metadata.namespace":
                value = one.key.namespace
            else:
                value = one.fields.get(requirement.path, "")
            if (value == requirement.value) is not requirement.equal:
                return False
        return True

    def select(self, collection: Collection, after: Key | None = None) -> Iterator[Stored]:
        """The matching objects, by key, after the given key."""
        items = collection.items
        if self.name and (self.namespace or not collection.resource.namespaced):
            one = items.get(Key(self.namespace, self.name))
            if one is not None and self.matches(one) and (after is None or one.key > after):
                yield one
            return
        for key in collection.keys(self.namespace, after):
            one = items[key]
            if self.trivial or self.matches(one):
                yield one


class Cache:
    """Every collection; also the strategies' Reader."""

    def __init__(self, strategies: Mapping[Resource, Strategy] | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.collections: dict[Resource, Collection] = {}
        self.revision: Revision = 0
        self._clock = clock
        self._by_root: dict[str, Collection] = {}
        self._mirrors: dict[Collection, Collection] = {}
        self._observers: list[Observer] = []
        if strategies is not None:
            self.install(strategies)

    def install(self, strategies: Mapping[Resource, Strategy]) -> None:
        """Give each resource its way. Before :meth:`load`; strategies may hold this very cache as their reader."""
        for resource in RESOURCES:
            if resource.kept_as:
                continue
            collection = Collection(resource, strategies.get(resource) or Strategy(resource), clock=self._clock)
            self.collections[resource] = collection
            self._by_root[collection.root] = collection
        for resource in RESOURCES:
            if resource.kept_as:
                kept = self.collections[BY_PATH[resource.kept_as]]
                self.collections[resource] = self._mirrors[kept] = Mirror(resource, strategies.get(resource) or Strategy(resource), kept, self._clock)

    def load(self, store: Store) -> None:
        """Read the store's present state, and follow it from there."""
        for item in store.load():
            collection, key = self._place(item.key)
            if collection is not None:
                draft = collection.found(key, item.value)
                collection.load(draft.key, draft, item.revision)
                if collection in self._mirrors:
                    self._mirrors[collection].load(draft.key, draft, item.revision)
        self.revision = store.revision
        for collection in self.collections.values():
            collection.loaded(store.revision)
        store.subscribe(self.apply)

    def observe(self, observer: Observer) -> None:
        """Call with every durable change: the resource, what was, what is."""
        self._observers.append(observer)

    def apply(self, events: Sequence[Event]) -> None:
        """Take in durable writes, in order, and tell every watcher."""
        changes: dict[Collection, list[Change]] = {}
        for event in events:
            collection, key, draft = self._read_note(event)
            self.revision = event.revision
            if collection is None:
                continue
            change = collection.apply(key, draft, event.revision)
            if change.before is None and change.after is None:
                continue
            changes.setdefault(collection, []).append(change)
            if collection in self._mirrors:
                mirror = self._mirrors[collection]
                changes.setdefault(mirror, []).append(mirror.apply(key, draft, event.revision))
            for observer in self._observers:
                try:
                    observer(collection.resource, change.before, change.after)
                except Exception:  # the write is durable: everybody else must learn of it
                    log.exception("An observer failed", extra={"resource": collection.resource.qualified, "key": key})
        for collection, some in changes.items():
            collection.broadcast.publish(some)

    def _read_note(self, event: Event) -> tuple[Collection | None, Key, Draft | None]:
        note = event.note
        if isinstance(note, Draft):
            return note.collection, note.key, note
        if isinstance(note, tuple):
            return note[0], note[1], None
        collection, key = self._place(event.key)
        draft = collection.draft(objects.decode(event.value)) if collection is not None and event.value is not None else None
        return collection, key, draft

    def _place(self, store_key: str) -> tuple[Collection | None, Key]:
        """The collection and key that a store key stands for."""
        parts = store_key.split("/", 4)
        collection = self._by_root.get("/".join(parts[:4]) + "/")
        rest = parts[4] if len(parts) > 4 else ""
        if collection is not None and collection.resource.namespaced:
            return collection, Key.parse(rest)
        return collection, Key("", rest)

    # ---- Reader

    def get(self, resource: Resource, key: Key) -> Document | None:
        one = self.collections[resource].items.get(key)
        return one.document() if one is not None else None

    def list(self, resource: Resource, namespace: str = "") -> Sequence[Document]:
        collection = self.collections[resource]
        return [collection.items[key].document() for key in collection.keys(namespace)]

    def each(self, resource: Resource, having: bytes = b"") -> Iterator[Document]:
        for one in list(self.collections[resource].items.values()):
            if having in one.data:
                yield one.document()

    def keys(self, resource: Resource) -> Sequence[Key]:
        return list(self.collections[resource].items)

    def views(self, resource: Resource, view: type[View]) -> Iterator[tuple[Key, View]]:
        for one in list(self.collections[resource].items.values()):
            yield one.key, objects.decode_view(view, one.data)
