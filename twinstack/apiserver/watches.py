"""Watches: what is there, then every change, each in the form the client asked for.

Rule of this file: a change is encoded once for all watchers that are told the same (same filter, same form), framed and
all; what is left for each is one write.

Theory. A watcher sees the world through its filter: an object that begins to match is ADDED, one that stops is
DELETED, whatever really happened to it. It starts from nothing known (no resourceVersion, or 0: the present objects as
ADDED come first), or from a revision, after which the history must be complete (else one ERROR event, 410). With
``sendInitialEvents`` a bookmark says when the present objects are all told. While the beginning is being sent, which may
take a slow client long, later batches are held back in order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from twinstack.api import errors, objects
from twinstack.api.objects import Document
from twinstack.apiserver import tables
from twinstack.apiserver.cache import Cache, Change, Collection, Filter, Stored
from twinstack.apiserver.calls import Stream, Streamed, frame
from twinstack.apiserver.lists import check_options, check_revision, filter_of, too_large
from twinstack.apiserver.requests import Request
from twinstack.store.base import Compacted, Revision
from twinstack.store.broadcast import Batch

BOOKMARK_SECONDS: Final = 60.0
LAST_WORDS_SECONDS: Final = 2.0  # so long before its end a watch is told once more where it stands
MIN_SECONDS: Final = 1800.0
_PIECE: Final = 256 << 10
_FROM_NOW: Final = -1


class Watching:
    """One watch."""

    def __init__(
        self,
        cache: Cache,
        collection: Collection,
        filter_: Filter,
        *,
        form: tables.Form,
        include_object: str,
        now: Callable[[], datetime],
        since: Revision,
        initial: bool,
        bookmarks: bool,
        end_of_initial: bool,
        seconds: float,
    ) -> None:
        self._cache, self._collection, self._filter = cache, collection, filter_
        self._form, self._include_object, self._now = form, include_object, now
        self._since, self._initial, self._bookmarks, self._end_of_initial = since, initial, bookmarks, end_of_initial
        self._seconds = seconds
        self._group = (filter_.text, form, include_object)
        self._held: list[bytes] | None = []
        self._held_bytes = 0
        self._tables = form.shape == "table"
        self._headers_sent = not self._tables
        self._stream: Stream | None = None

    # ---- told by the broadcast

    def deliver(self, batch: Batch[Change]) -> None:
        data = self._first_table(batch.changes) if not self._headers_sent else batch.shared.get(self._group)
        if data is None:
            data = batch.shared[self._group] = self._framed(self._lines(batch.changes))
        if not data:
            return
        if self._held is not None:
            self._held.append(data)
            self._held_bytes += len(data)
        elif self._stream is not None:
            self._stream.push(data)

    @property
    def backlog(self) -> int:
        return self._held_bytes + (self._stream.backlog if self._stream is not None else 0)

    def cut(self) -> None:
        if self._stream is not None:
            self._stream.abort()

    # ---- from the beginning to the end

    async def run(self, stream: Stream) -> None:
        """Tell the beginning, then stay until the time is over or the client is gone."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        self._stream = stream
        broadcast = self._collection.broadcast
        try:
            present: Sequence[Stored] = list(self._filter.select(self._collection)) if self._initial else ()
            missed = () if self._initial or self._since == _FROM_NOW else broadcast.since(self._since)
        except Compacted as error:
            await stream.send(self._error(error))
            return
        revision = self._cache.revision
        broadcast.subscribe(self)
        try:
            await self._begin(stream, present, missed, revision)
            last = end - LAST_WORDS_SECONDS
            while (now := loop.time()) < end:
                due = min(now + BOOKMARK_SECONDS, last if now < last else end)
                if await stream.ended(due - now):
                    return
                if self._bookmarks and due < end:
                    stream.push(frame(self._bookmark(self._cache.revision)))
                if due == last:
                    last = now  # which is over
        finally:
            broadcast.unsubscribe(self)

    async def _begin(self, stream: Stream, present: Sequence[Stored], missed: Sequence[Change], revision: Revision) -> None:
        piece: list[bytes] = []
        size = 0
        for line in self._beginning(present, missed):
            piece.append(line)
            size += len(line)
            if size >= _PIECE:
                await stream.send(b"".join(piece))
                piece.clear()
                size = 0
        if self._end_of_initial:
            piece.append(self._bookmark(revision, end_of_initial=True))
        if piece:
            await stream.send(b"".join(piece))
        # From here to the loop nothing waits, so no batch can slip between what was held and what is pushed.
        for data in self._held or ():
            stream.push(data)
        self._held, self._held_bytes = None, 0

    def _beginning(self, present: Sequence[Stored], missed: Sequence[Change]) -> Iterable[bytes]:
        for one in present:
            yield self._line(b"ADDED", one.data)
        yield from self._lines(missed)

    # ---- forms

    def _framed(self, lines: Iterable[bytes]) -> bytes:
        data = b"".join(lines)
        return frame(data) if data else b""

    def _first_table(self, changes: Sequence[Change]) -> bytes:
        """Nothing of it is shared: the first event of a Table carries the headers."""
        return self._framed(self._lines(changes))

    def _lines(self, changes: Iterable[Change]) -> Iterable[bytes]:
        matches, trivial = self._filter.matches, self._filter.trivial and not self._filter.namespace
        for change in changes:
            before, after = change.before, change.after
            was = before is not None and (trivial or matches(before))
            is_ = after is not None and (trivial or matches(after))
            if is_ and after is not None:
                yield self._line(b"MODIFIED" if was else b"ADDED", after.data)
            elif was and before is not None:
                data = change.data if after is None else self._collection.reversioned(before.data, change.revision)
                yield self._line(b"DELETED", data)

    def _line(self, type_: bytes, data: bytes) -> bytes:
        if self._form.shape != "json":
            data = objects.encode(self._shown(objects.decode(data)))
        return b'{"type":"%b","object":%b}\n' % (type_, data)

    def _shown(self, document: Document) -> Document:
        if not self._tables:
            return tables.partial_metadata(document, self._form.version)
        metadata = {"resourceVersion": document["metadata"].get("resourceVersion", "")}
        headers, self._headers_sent = not self._headers_sent, True
        return tables.table(
            self._collection.resource,
            [document],
            now=self._now(),
            include_object=self._include_object,
            metadata=metadata,
            headers=headers,
            form=self._form,
        )

    def _bookmark(self, revision: Revision, *, end_of_initial: bool = False) -> bytes:
        metadata: Document = {"resourceVersion": str(revision), "creationTimestamp": None}
        if end_of_initial:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        resource = self._collection.resource
        document: Document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        if self._tables:
            document = tables.table(resource, [], now=self._now(), metadata={"resourceVersion": str(revision)}, headers=False, form=self._form)
            document["rows"] = [{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": self._form.version, "metadata": metadata}}]
        elif self._form.shape != "json":
            document = tables.partial_metadata(document, self._form.version)
        return b'{"type":"BOOKMARK","object":%b}\n' % objects.encode(document)

    @staticmethod
    def _error(error: Compacted) -> bytes:
        expired = errors.Expired(f"too old resource version: {error.revision} ({error.floor})")
        return b'{"type":"ERROR","object":%b}\n' % objects.encode(expired.status())


def watch(cache: Cache, request: Request, *, form: tables.Form, now: Callable[[], datetime], min_seconds: float = MIN_SECONDS) -> Streamed:
    """The stream that a watch request asks for; BadRequest, NotAcceptable or Invalid when it asks for none."""
    query = request.query
    collection = cache.collections[request.resource]
    filter_ = filter_of(request, collection)
    check_options(query, watch=True)
    asked = check_revision(query)
    bookmarks = query.flag("allowWatchBookmarks")
    send_initial = query.flag("sendInitialEvents") if query.has("sendInitialEvents") else None
    if send_initial is None and not asked:
        send_initial = True  # whoever starts from nothing is told where the beginning ends, asked for or not
    include_object = query.text("includeObject")
    if form.shape == "table":
        tables.table(request.resource, [], now=now(), include_object=include_object)  # refuses a bad includeObject before the stream begins
    if send_initial and (asked or 0) > cache.revision:
        raise too_large(asked or 0, cache.revision)
    watching = Watching(
        cache,
        collection,
        filter_,
        form=form,
        include_object=include_object,
        now=now,
        since=_FROM_NOW if send_initial is False and not asked else (asked or 0),
        initial=send_initial is True,
        bookmarks=bookmarks,
        end_of_initial=bool(send_initial) and bookmarks,
        seconds=float(query.number("timeoutSeconds") or 0) or min_seconds * random.uniform(1, 2),
    )
    return Streamed("application/json", watching.run)
