"""Informers: a kind's present state in memory, kept true by a watch.

Rule of this file: the cache is always some true state of the past, it only moves forward, and no change is lost.

Theory. A watch is a log read from a revision on. Three things can go wrong with a reader of a log, and each has one answer:

1. *The connection breaks.* Read on from the last revision seen. Bookmarks move that revision when nothing of this
   kind happens, so that it seldom grows too old.
2. *The revision is too old* (410 Expired), or there is none yet. Read the whole state, and compare it with the cache:
   what the cache has and the state has not was deleted while nobody looked, and is told as a deletion like any other.
   The state is read by the watch itself (``sendInitialEvents``, KEP-3157: ADDED for each object, then a BOOKMARK that
   says that this was all), from servers that refuse that, by a list.
3. *We know more than the log has told us yet*: the answer to a write of our own. ``take`` puts it into the cache at once.
   Without it a controller that has just created a pod would look again, see none, and create another.

The third makes time run twice, so each move is guarded by the revision, which is one counter for all kinds (KEP-5504
makes it comparable): an event older than the object in the cache is late news and is skipped; an answer older than
what the log has told already (``revision``) is late too, even when its object is not in the cache, because then the
log has told its deletion as well. So a deleted object never comes back, and a recreated one never goes. The one exception is a
server whose log begins anew (a store that was lost or restored): it calls our revision too large, and then nothing that we know counts.

Each event is decoded once, into the frozen view, and shared by all who look. Callbacks run after the cache has
changed, synchronously; what they raise is logged and stops nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import random
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import msgspec

from twinstack.api import errors, kinds, selectors
from twinstack.api.objects import Document, Key, decode_view, key_of, read, view_of
from twinstack.api.resources import resource_of
from twinstack.api.world import Index
from twinstack.client.client import Client, WatchEvent

V = TypeVar("V", bound=kinds.Object)
Callback = Callable[[Any, Any], None]  # (before, after): before is None for a new object, after for a deleted one

Changes = list[tuple[V | None, V | None]]

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS = 0.05, 10.0
LASTED_SECONDS = 5.0  # a watch that held so long begins with the first delay again
# A server that neither refuses sendInitialEvents nor knows it stays silent; then we list.
SILENCE_SECONDS = 5.0

log = logging.getLogger(__name__)


class Bucket(Generic[V]):
    """Objects by key, listed in the order of their keys. Who lists again what has not changed gets the same list."""

    __slots__ = ("_keys", "_listed", "_sorted", "objects")

    def __init__(self) -> None:
        self.objects: dict[Key, V] = {}
        self._keys: list[Key] = []
        self._sorted = True
        self._listed: list[V] | None = None

    def put(self, key: Key, one: V) -> None:
        self._listed = None
        if key not in self.objects:
            self._sorted = self._sorted and (not self._keys or self._keys[-1] < key)
            self._keys.append(key)
        self.objects[key] = one

    def drop(self, key: Key) -> None:
        self._listed = None
        if self.objects.pop(key, None) is not None:
            self._sort()
            del self._keys[bisect_left(self._keys, key)]

    def listed(self) -> list[V]:
        if self._listed is None:
            self._sort()
            self._listed = [self.objects[key] for key in self._keys]
        return self._listed

    def _sort(self) -> None:
        if not self._sorted:
            self._keys.sort()
            self._sorted = True


class Informer(Generic[V]):
    """One kind, or that part of it which the selectors choose, kept in memory while :meth:`run` runs."""

    def __init__(
        self,
        client: Client,
        view: type[V],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        lean: Callable[[V], V] | None = None,
    ) -> None:
        """*lean* makes of each object that is read what is kept of it, for programs that keep very many and look at little."""
        self.view, self.resource = view, resource_of(view)
        self._lean = lean
        self.revision = 0
        self._client = client
        self._namespace, self._label_selector, self._field_selector = namespace, label_selector, field_selector
        self._selector = selectors.parse_labels(label_selector)
        self._all: Bucket[V] = Bucket()
        self._indexes: dict[Index, dict[Hashable, Bucket[V]]] = {}  # each made when it is first asked for
        self._by_label: dict[str, Index] = {}
        self._callbacks: list[Callback] = []
        self._synced = asyncio.Event()
        self._streams = True
        self._whole = True  # whether the next thing to read is the whole state
        self._begins_anew = False  # whether revisions known so far mean nothing any more

    # ---- looking

    @property
    def is_synced(self) -> bool:
        return self._synced.is_set()

    async def synced(self) -> None:
        """Wait until the whole state has been read once."""
        await self._synced.wait()

    def get(self, key: Key) -> V | None:
        return self._all.objects.get(key)

    def list(self, namespace: str = "") -> Sequence[V]:
        """All objects, or those of a namespace, by key."""
        if not namespace or not self.resource.namespaced:
            return self._all.listed()
        return self.indexed(_by_namespace, namespace)

    def owned(self, uid: str) -> Sequence[V]:
        """The objects that name this uid among their owners, by key."""
        return self.indexed(_by_owner, uid)

    def labelled(self, namespace: str, label: str, value: str) -> Sequence[V]:
        """The objects of a namespace with this very label value, by key."""
        index = self._by_label.get(label)
        if index is None:
            index = self._by_label[label] = _by_label(label)
        return self.indexed(index, (namespace, value))

    def indexed(self, index: Index, value: Hashable) -> Sequence[V]:
        """The objects for which the index gives this value, by key."""
        buckets = self._indexes.get(index)
        if buckets is None:
            buckets = self._indexes[index] = {}
            for key, one in self._all.objects.items():
                for found in index(one):
                    buckets.setdefault(found, Bucket()).put(key, one)
        bucket = buckets.get(value)
        return bucket.listed() if bucket else []

    def __len__(self) -> int:
        return len(self._all.objects)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call *callback* for each object that is there already, and from now on for each change; the answer unsubscribes."""
        self._callbacks.append(callback)
        for one in self.list():
            self._tell_one(callback, None, one)
        return lambda: self._callbacks.remove(callback)

    # ---- changing

    def take(self, document: Document) -> bool:
        """Take in the answer to a write of our own; False when it is not newer than what is known, or not ours to see."""
        key = key_of(document)
        if self._namespace and key.namespace != self._namespace:
            return False
        if self._field_selector and key not in self._all.objects:
            return False  # whether the fields match is for the server to say
        if not self._selector.matches(read(document, ("metadata", "labels"))):
            return False
        revision = _number(read(document, ("metadata", "resourceVersion"), ""))
        before = self._all.objects.get(key)
        if revision <= self.revision or (before is not None and revision <= _revision(before)):
            return False
        try:
            after = view_of(self.view, document)
            after = self._lean(after) if self._lean else after
        except msgspec.ValidationError as error:
            log.error("An object does not fit its view", extra={"resource": self.resource.qualified, "key": key, "error": str(error)})
            return False
        self._put(key, before, after)
        return True

    async def run(self) -> None:
        """Keep the cache true until cancelled; reconnects for ever, with back-off."""
        delay, last = FIRST_DELAY_SECONDS, ""
        loop = asyncio.get_running_loop()
        while True:
            seen, began, why = self.revision, loop.time(), "it ended"
            try:
                await (self._read_whole() if self._whole else self._read_on())
            except errors.Gone:
                self._whole, why = True, "its revision is no longer kept"
                delay = FIRST_DELAY_SECONDS  # the server is there, and has answered
            except errors.APIError as error:
                why = error.message
                if any(cause.get("reason") == "ResourceVersionTooLarge" for cause in error.causes):
                    self._whole, self._begins_anew = True, True
            if self.revision > seen or loop.time() - began > LASTED_SECONDS:
                delay, last = FIRST_DELAY_SECONDS, ""
                if why == "it ended":
                    continue
            # One line for each trouble, not for each try.
            log.log(
                logging.DEBUG if why == last else logging.INFO,
                "A watch is begun again",
                extra={"resource": self.resource.qualified, "seconds": round(delay, 2), "because": why},
            )
            last = why
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(LAST_DELAY_SECONDS, delay * 2)

    async def _read_whole(self) -> None:
        if self._streams:
            try:
                await self._read_stream()
                return
            except (errors.Invalid, errors.BadRequest) as error:
                log.info("The server does not stream the initial state; it is listed", extra={"resource": self.resource.qualified, "error": error.message})
                self._streams = False
            except TimeoutError:
                log.info("The server does not tell the end of the initial state; it is listed", extra={"resource": self.resource.qualified})
                self._streams = False
        await self._read_list()

    async def _read_stream(self) -> None:
        """The whole state by the watch itself; then read on in the same stream until it ends."""
        fresh: dict[Key, V] | None = {}
        events = self._client.watch(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            send_initial_events=True,
        )
        async with aclosing(events):
            while True:
                async with asyncio.timeout(SILENCE_SECONDS if fresh is not None else None):
                    event = await anext(events, None)
                if event is None:
                    break
                if fresh is None:
                    self._apply(event)
                elif event.kind == "BOOKMARK":
                    mark = event.view(kinds.Object)
                    if mark.annotations.get(INITIAL_EVENTS_END) == "true":
                        self._replace(fresh, _revision(mark))
                        fresh = None
                elif (one := self._decoded(event.raw)) is not None:
                    fresh[_key(one)] = one
                    if event.kind == "DELETED":
                        del fresh[_key(one)]
        if fresh is not None:
            raise errors.ServiceUnavailable("the watch ended before the initial state did")

    async def _read_list(self) -> None:
        listed = await self._client.list_raw(self.resource, self._namespace, label_selector=self._label_selector, field_selector=self._field_selector)
        decoded = (self._decoded(item) for item in listed.items or ())
        self._replace({_key(one): one for one in decoded if one is not None}, _number(listed.metadata.resourceVersion))

    async def _read_on(self) -> None:
        events = self._client.watch(
            self.resource,
            self._namespace,
            resource_version=str(self.revision),
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        async with aclosing(events):
            async for event in events:
                self._apply(event)

    def _decoded(self, raw: Any) -> V | None:
        try:
            one = decode_view(self.view, raw)
            return self._lean(one) if self._lean else one
        except msgspec.MsgspecError as error:
            log.error("An object does not fit its view and is left out", extra={"resource": self.resource.qualified, "error": str(error)})
            return None

    def _apply(self, event: WatchEvent) -> None:
        if event.kind == "BOOKMARK":
            self.revision = max(self.revision, _revision(event.view(kinds.Object)))
            return
        one = self._decoded(event.raw)
        if one is None:
            return
        key, revision = _key(one), _revision(one)
        self.revision = max(self.revision, revision)
        before = self._all.objects.get(key)
        if before is not None and revision < _revision(before):
            return
        if event.kind == "DELETED":
            if before is not None:
                self._drop(key, before)
        elif before is None or revision > _revision(before):
            self._put(key, before, one)

    def _replace(self, fresh: dict[Key, V], revision: int) -> None:
        """Make the cache this state, read at this revision; answers of our own that are newer stay."""
        anew, self._begins_anew = self._begins_anew, False
        self.revision, self._whole = revision, False
        changes: Changes[V] = []
        for key, before in tuple(self._all.objects.items()):
            if key not in fresh and (anew or _revision(before) <= revision):
                self._unindex(key, before)
                changes.append((before, None))
        for key, after in fresh.items():
            known = self._all.objects.get(key)
            if known is None or anew or _revision(after) > _revision(known):
                self._index(key, known, after)
                changes.append((known, after))
        self._synced.set()
        for one, other in changes:
            self._tell(one, other)

    # ---- the cache

    def _put(self, key: Key, before: V | None, after: V) -> None:
        self._index(key, before, after)
        self._tell(before, after)

    def _drop(self, key: Key, before: V) -> None:
        self._unindex(key, before)
        self._tell(before, None)

    def _index(self, key: Key, before: V | None, after: V) -> None:
        self._all.put(key, after)
        for index, buckets in self._indexes.items():
            values = set(index(after))
            for value in set(index(before)) - values if before is not None else ():
                _drop_from(buckets, value, key)
            for value in values:
                bucket = buckets.get(value)
                if bucket is None:
                    bucket = buckets[value] = Bucket()
                bucket.put(key, after)

    def _unindex(self, key: Key, before: V) -> None:
        self._all.drop(key)
        for index, buckets in self._indexes.items():
            for value in set(index(before)):
                _drop_from(buckets, value, key)

    def _tell(self, before: V | None, after: V | None) -> None:
        for callback in tuple(self._callbacks):
            self._tell_one(callback, before, after)

    def _tell_one(self, callback: Callback, before: V | None, after: V | None) -> None:
        try:
            callback(before, after)
        except Exception:
            log.exception("A change could not be handed on", extra={"resource": self.resource.qualified, "key": _key(after or before)})


def _by_namespace(one: kinds.Object) -> Iterable[Hashable]:
    return (one.metadata.namespace,)


def _by_owner(one: kinds.Object) -> Iterable[Hashable]:
    return [owner.uid for owner in one.metadata.ownerReferences]


def _by_label(label: str) -> Index:
    def index(one: kinds.Object) -> Iterable[Hashable]:
        value = one.labels.get(label)
        return () if value is None else ((one.metadata.namespace, value),)

    return index


def _drop_from(index: dict[Any, Bucket[V]], name: Any, key: Key) -> None:
    bucket = index.get(name)
    if bucket is not None:
        bucket.drop(key)
        if not bucket.objects:
            del index[name]


def _key(one: kinds.Object | None) -> Key:
    return Key(one.metadata.namespace, one.metadata.name) if one is not None else Key("", "")


def _revision(one: kinds.Object) -> int:
    return _number(one.metadata.resourceVersion)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
