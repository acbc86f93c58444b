"""Lists: what matches, in pages, at one revision.

A page's ``continue`` names the revision of the first page and the last key sent; the next page is of that very
state, which is the present one with everything undone that the history knows to be newer. When the history does not
reach back so far, the list is Expired (410), as Kubernetes has it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from twinstack.api import objects
from twinstack.api.errors import BadRequest, Expired, FieldProblem, Invalid, ProblemType, Timeout, invalid
from twinstack.api.objects import Document, Key
from twinstack.api.resources import Resource
from twinstack.api.selectors import parse_fields, parse_labels
from twinstack.apiserver.cache import Cache, Change, Collection, Filter, Stored
from twinstack.apiserver.calls import Answer, Rest
from twinstack.apiserver.requests import Query, Request
from twinstack.store.base import Compacted, Revision

EXACT: Final = "Exact"
NOT_OLDER: Final = "NotOlderThan"
_MATCH: Final = "resourceVersionMatch"
_JOINED: Final = 128  # items of a list that are joined at once


class Page(NamedTuple):
    """A list's answer before it is encoded."""

    items: Sequence[Stored]
    revision: Revision
    continue_: str
    remaining: int | None

    def metadata(self) -> Document:
        """The ListMeta."""
        result: Document = {"resourceVersion": str(self.revision)}
        if self.continue_:
            result["continue"] = self.continue_
        if self.remaining is not None:
            result["remainingItemCount"] = self.remaining
        return result


class _Token(msgspec.Struct, frozen=True):
    v: int
    rv: int
    ns: str
    name: str


def filter_of(request: Request, collection: Collection) -> Filter:
    """The objects that a request means; BadRequest when a selector cannot be read."""
    labels, fields = request.query.text("labelSelector"), request.query.text("fieldSelector")
    found = Filter(
        request.namespace,
        parse_labels(labels) if labels else None,
        parse_fields(fields) if fields else (),
        text=f"{request.namespace}?{labels}?{fields}",
    )
    if found.fields:
        found.check(collection)
    return found


def check_revision(query: Query) -> Revision | None:
    """The resourceVersion asked for; None when none is. BadRequest when it is not a number."""
    text = query.text("resourceVersion")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid(f'invalid resource version "{text[:40]}"', problems=[FieldProblem("resourceVersion", ProblemType.INVALID, text[:40], "must be a number")])
    return int(text)


def page_of(cache: Cache, collection: Collection, filter_: Filter, query: Query) -> Page:
    """The page asked for: BadRequest, Invalid, Expired or Timeout when it cannot be had."""
    limit = max(0, query.number("limit") or 0)
    token = query.text("continue")
    check_options(query)
    asked, match = check_revision(query), query.text("resourceVersionMatch")
    after: Key | None = None
    revision = cache.revision
    if token:
        if asked:
            raise BadRequest("resourceVersion may not be given together with continue")
        revision, after = _read_token(token)
        revision = revision or cache.revision
    elif asked and (match == "Exact" or (limit and not match)):
        # A page of what is at least as new would be of no state that a next page could be of.
        revision = asked
    if asked == 0:
        limit = 0  # any state will do, and the one in memory is told whole
    if max(asked or 0, revision) > cache.revision:
        raise too_large(max(asked or 0, revision), cache.revision)
    if revision < cache.revision:
        try:
            newer = collection.broadcast.since(revision)
        except Compacted as error:
            raise _expired(after) from error
        found: Iterable[Stored] = _past(collection, filter_, newer, after)
    else:
        found = filter_.select(collection, after)
    if not limit:
        return Page(list(found), revision, "", None)
    items: list[Stored] = []
    more = 0
    for one in found:
        if len(items) < limit:
            items.append(one)
        else:
            more += 1
            if not filter_.trivial:
                break
    if not more and limit == len(items) and not filter_.name and not filter_.trivial:
        # Whether any of what comes after would match, nobody has looked yet.
        more = len(collection.keys(filter_.namespace, items[-1].key)) if revision == cache.revision else 0
    if not more:
        return Page(items, revision, "", None)
    return Page(items, revision, _write_token(revision, items[-1].key), more if filter_.trivial else None)


def list_answer(resource: Resource, metadata: Document, items: Sequence[Stored], version: str) -> Answer:
    """A List document: its items' bytes joined, many of them only as they are sent. As Kubernetes has it, the items do not say again what they are."""
    kind, api_version = f"{resource.kind}List".encode(), resource.api_version.encode()
    head = b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % (kind, api_version, objects.encode(metadata))
    if not items:
        return Answer(200, head + b"]}", version=version)
    # Every stored document begins with its kind and version, at the same length.
    said = items[0].data.index(b'"metadata":')
    if len(items) <= _JOINED:
        return Answer(200, b"".join((head, b"{", b",{".join([one.data[said:] for one in items]), b"]}")), version=version)

    def pieces() -> Iterator[bytes]:
        opening = b"{"
        for at in range(0, len(items), _JOINED):
            yield opening + b",{".join([one.data[said:] for one in items[at : at + _JOINED]])
            opening = b",{"
        yield b"]}"

    size = sum([len(one.data) for one in items]) - len(items) * (said - len(b",{")) - len(b",") + len(b"]}")
    return Answer(200, head, version=version, rest=Rest(size, pieces))


def too_large(asked: Revision, present: Revision) -> Timeout:
    """The future is asked for."""
    return Timeout(
        f"Too large resource version: {asked}, current: {present}",
        causes=[{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        retry_after_seconds=1,
    )


def _expired(after: Key | None) -> Expired:
    """The state asked for is forgotten; who was in the middle of a list may go on with what is there now."""
    error = Expired("The provided continue parameter or resourceVersion is too old to display a consistent list result; list anew without it")
    if after is not None:
        error.continue_ = _write_token(0, after)
    return error


def _past(collection: Collection, filter_: Filter, newer: Sequence[Change], after: Key | None) -> Iterator[Stored]:
    """What matched before these newer changes, by key."""
    then: dict[Key, Stored | None] = {}
    for change in newer:
        one = change.before or change.after
        assert one is not None
        # The first newer change of a key knows what it was before all newer ones.
        then.setdefault(one.key, change.before)
    keys = set(collection.keys(filter_.namespace, after))
    keys.update(key for key in then if (after is None or key > after) and (not filter_.namespace or key.namespace == filter_.namespace))
    for key in sorted(keys):
        past = then[key] if key in then else collection.items.get(key)
        if past is not None and filter_.matches(past):
            yield past


def check_options(query: Query, *, watch: bool = False) -> None:
    """Invalid, with everything that is wrong, when the parameters of a list or a watch do not go together."""
    match, sends = query.text("resourceVersionMatch"), query.has("sendInitialEvents")
    problems: list[FieldProblem] = []

    def forbid(field: str, detail: str) -> None:
        problems.append(FieldProblem(field, ProblemType.FORBIDDEN, query.text(field), detail))

    if watch and sends and match != NOT_OLDER:
        forbid(_MATCH, f"must be {NOT_OLDER} when sendInitialEvents is given")
    if not watch and sends:
        forbid("sendInitialEvents", "is for watches only")
    if match:
        if watch and not sends:
            forbid(_MATCH, "must not be given for a watch without sendInitialEvents")
        if not watch and not query.text("resourceVersion"):
            forbid(_MATCH, "must not be given without resourceVersion")
        if query.text("continue"):
            forbid(_MATCH, "must not be given together with continue")
        known = (NOT_OLDER,) if watch else (EXACT, NOT_OLDER)
        if match not in known:
            problems.append(FieldProblem(_MATCH, ProblemType.NOT_SUPPORTED, match, f"supported values: {', '.join(known)}"))
        if not watch and match == EXACT and query.text("resourceVersion") == "0":
            forbid(_MATCH, "must not be Exact for resourceVersion 0")
    if problems:
        raise invalid("ListOptions", "", problems, group="meta.k8s.io")


def _write_token(revision: Revision, key: Key) -> str:
    return base64.urlsafe_b64encode(objects.encode(_Token(1, revision, key.namespace, key.name))).rstrip(b"=").decode()


def _read_token(text: str) -> tuple[Revision, Key]:
    try:
        token = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=_Token)
    except (binascii.Error, msgspec.MsgspecError, ValueError) as error:
        raise BadRequest("continue key is not valid") from error
    return token.rv, Key(token.ns, token.name)
