"""What each verb does with a request, once it is known who asks for what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from twinstack.api import errors, objects, patches
from twinstack.api.errors import BadRequest, FieldProblem, MethodNotAllowed, ProblemType
from twinstack.api.objects import Document, Key
from twinstack.api.resources import Resource
from twinstack.api.schema import prune
from twinstack.apiserver import answers, doors, tables, watches
from twinstack.apiserver.bodies import check_kind, delete_options, document_of, dry_run, patch_of
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.calls import Answer, Call, Reaction, Streamed
from twinstack.apiserver.changes import Changes, Outcome
from twinstack.apiserver.deletions import Deletions
from twinstack.apiserver.lists import filter_of, page_of
from twinstack.apiserver.openapi import OpenAPI, SchemaMissing
from twinstack.apiserver.requests import Request
from twinstack.store.base import Store

Logs = Callable[[Request, Document], Awaitable[Reaction]]
Streams = Callable[[Request, Call, Document], Awaitable[Reaction]]
STREAMS: Final = frozenset(("exec", "attach", "portforward"))
_CARRIES_NO_OBJECT: Final = frozenset(("binding", "log"))


def utc_now() -> datetime:
    return datetime.now(UTC)


class Handlers:
    """Reacts to requests for objects. ``logs`` answers for a pod's log, ``streams`` for what is talked with a pod."""

    def __init__(
        self,
        cache: Cache,
        store: Store,
        openapi: OpenAPI,
        *,
        logs: Logs | None = None,
        streams: Streams | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.cache = cache
        self.now = now
        self.changes = Changes(cache, store, now)
        self.deletions = Deletions(self.changes)
        self._openapi = openapi
        self._logs, self._streams = logs, streams
        self._verbs: dict[str, Callable[[Request, Call], Awaitable[Reaction]]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    async def react(self, request: Request, call: Call) -> Reaction:
        """The answer or the stream; any APIError is the failure."""
        if request.sub in STREAMS:
            if self._streams is None:
                raise MethodNotAllowed("this server does not know how to reach kubelets")
            return await self._streams(request, call, self._stored(request).document())
        return await self._verbs[request.verb](request, call)

    # ---- reading

    async def _get(self, request: Request, call: Call) -> Reaction:
        stored = self._stored(request)
        form = _form_of(call)
        if request.sub == "log":
            if self._logs is None:
                raise MethodNotAllowed("this server does not know how to reach kubelets")
            return await self._logs(request, stored.document())
        if request.sub == "scale":
            return Answer(200, objects.encode(doors.scale_of(stored.document())))
        if form == "json":
            return Answer(200, stored.data)
        return Answer(200, self._shown(request, form, stored.document()))

    def _stored(self, request: Request) -> Stored:
        stored = self.cache.collections[request.resource].items.get(Key(request.namespace, request.name))
        if stored is None:
            raise errors.not_found(request.resource.plural, request.name, group=request.resource.group)
        return stored

    async def _list(self, request: Request, call: Call) -> Reaction:
        form = _form_of(call)
        collection = self.cache.collections[request.resource]
        page = page_of(self.cache, collection, filter_of(request, collection), request.query)
        if form == "json":
            return Answer(200, list_bytes(request.resource, page.metadata(), page.items))
        documents = (one.document() for one in page.items)
        if form in ("table", "people"):
            include = request.query.text("includeObject")
            shown = tables.table(request.resource, documents, now=self.now(), include_object=include, metadata=page.metadata(), people=form == "people")
        else:
            shown = tables.partial_metadata_list(documents, page.metadata())
        return Answer(200, objects.encode(shown))

    async def _watch(self, request: Request, call: Call) -> Reaction:
        if not call.can_stream:
            raise BadRequest("a watch needs HTTP/1.1")
        if answers.wants_yaml(call.headers.get("Accept", "")):
            raise errors.NotAcceptable("a watch is a stream of JSON values; application/json would do")
        form = _form_of(call)
        streamed: Streamed = watches.watch(self.cache, request, form=form, now=self.now)
        return streamed

    # ---- writing

    async def _create(self, request: Request, call: Call) -> Reaction:
        resource = request.resource
        dry = dry_run(request.query)
        if request.sub == "binding":
            binding = document_of(call, "v1", "Binding")
            outcome = await doors.bind(self.changes, resource, Key(request.namespace, request.name), binding, dry_run=dry)
            return self._answer(request, call, outcome)
        document = document_of(call, resource.api_version, resource.kind)
        warnings = self._unknown_fields(request, document)
        outcome = await self.changes.create(resource, document, request.namespace, dry_run=dry)
        return self._answer(request, call, outcome, warnings)

    async def _update(self, request: Request, call: Call) -> Reaction:
        resource, key = request.resource, Key(request.namespace, request.name)
        warnings: list[str] = []

        def change(stored: Document) -> Document:
            warnings.clear()
            if request.sub == "scale":
                return doors.scaled(stored, document_of(call, doors.SCALE_VERSION, doors.SCALE_KIND))
            document = document_of(call, resource.api_version, resource.kind)
            if request.sub == "finalize":
                return doors.finalized(stored, document)
            if not document["metadata"].get("name"):
                raise BadRequest(f"the name of the object must be given, as it is on the URL ({request.name})")
            warnings.extend(self._unknown_fields(request, document))
            return document

        # The scale door leads to the object itself; what comes through it is a change of the object.
        subresource = "" if request.sub == "scale" else request.sub
        outcome = await self.changes.update(
            resource, key, change, subresource=subresource, dry_run=dry_run(request.query, options="UpdateOptions"), create=True
        )
        return self._answer(request, call, outcome, warnings)

    async def _patch(self, request: Request, call: Call) -> Reaction:
        resource, key = request.resource, Key(request.namespace, request.name)
        kind, patch = patch_of(call)
        warnings: list[str] = []

        def change(stored: Document) -> Document:
            warnings.clear()
            if request.sub == "scale":
                scale = self._patched(resource, "scale", kind, doors.scale_of(stored), patch)
                check_kind(scale, doors.SCALE_VERSION, doors.SCALE_KIND)
                return doors.scaled(stored, scale)
            patched = self._patched(resource, "", kind, stored, patch)
            warnings.extend(self._unknown_fields(request, patched, patch=True))
            return patched

        subresource = "" if request.sub == "scale" else request.sub
        outcome = await self.changes.update(resource, key, change, subresource=subresource, dry_run=dry_run(request.query, options="PatchOptions"))
        return self._answer(request, call, outcome, warnings)

    def _patched(self, resource: Resource, subresource: str, kind: str, document: Document, patch: Any) -> Document:
        if kind == "json":
            return patches.json_patch(document, patch)
        if kind == "merge":
            return patches.merge_patch(document, patch)
        try:
            schema = self._openapi.schema_of(resource, subresource)
        except SchemaMissing as error:
            raise errors.UnsupportedMediaType(f"a strategic merge patch needs the schema of {resource.kind}: {error}; use a merge patch") from error
        return patches.strategic_merge_patch(document, patch, schema)

    async def _delete(self, request: Request, call: Call) -> Reaction:
        options = delete_options(call, request.query)
        key = Key(request.namespace, request.name)
        outcome = await self.deletions.delete(request.resource, key, options, dry_run=dry_run(request.query, options.dryRun, options="DeleteOptions"))
        return self._answer(request, call, outcome)

    async def _delete_collection(self, request: Request, call: Call) -> Reaction:
        options = delete_options(call, request.query)
        filter_ = filter_of(request, self.cache.collections[request.resource])
        dry = dry_run(request.query, options.dryRun, options="DeleteOptions")
        gone = await self.deletions.delete_collection(request.resource, filter_, options, dry_run=dry)
        # As Kubernetes answers, the items do not say again what they are.
        items = [{name: value for name, value in one.document().items() if name not in ("kind", "apiVersion")} for one in gone]
        kind, version = f"{request.resource.kind}List", request.resource.api_version
        return Answer(200, objects.encode({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": str(self.cache.revision)}, "items": items}))

    # ---- answers

    def _answer(self, request: Request, call: Call, outcome: Outcome, warnings: Sequence[str] = ()) -> Answer:
        headers = [("Warning", f'299 - "{_quoted(text)}"') for text in dict.fromkeys((*warnings, *outcome.warnings))]
        body = outcome.data
        if request.sub == "scale":
            body = objects.encode(doors.scale_of(objects.decode(body)))
        elif request.sub not in _CARRIES_NO_OBJECT:
            form = _form_of(call)
            if form != "json":
                document = objects.decode(body)
                if document.get("kind") == request.resource.kind:
                    body = self._shown(request, form, document)
        return Answer(201 if outcome.created else 200, body, headers=headers)

    def _shown(self, request: Request, form: tables.Form, document: Document) -> bytes:
        if form not in ("table", "people"):
            return objects.encode(tables.partial_metadata(document))
        metadata = {"resourceVersion": document["metadata"].get("resourceVersion", "")}
        include = request.query.text("includeObject")
        people = form == "people"
        return objects.encode(tables.table(request.resource, [document], now=self.now(), include_object=include, metadata=metadata, people=people))

    def _unknown_fields(self, request: Request, document: Document, *, patch: bool = False) -> list[str]:
        """Take out the fields that the schema does not know: in silence, with warnings, or BadRequest with ``fieldValidation=Strict``.

        A field of another type is BadRequest whatever the mode: it cannot be read. With *patch* an unknown field is Invalid, the patch
        being what is wrong.
        """
        mode = request.query.text("fieldValidation") or "Warn"
        if mode not in ("Ignore", "Warn", "Strict"):
            raise BadRequest(f"fieldValidation is one of Ignore, Warn, Strict, not {mode!r}")
        try:
            found = prune(document, self._openapi.schema_of(request.resource))
        except SchemaMissing:
            return []
        refusal = f"{request.resource.kind} in version {request.resource.version!r} cannot be handled as a {request.resource.kind}: "
        if found.mistyped:
            raise BadRequest(refusal + ", ".join(f'field "{path}" must be of type {type_}' for path, type_ in found.mistyped))
        unknown = [f'unknown field "{path}"' for path in found.unknown if not path.startswith("metadata.managedFields")]
        if unknown and mode == "Strict":
            if patch:
                raise errors.Invalid(f"the patch is invalid: strict decoding error: {', '.join(unknown)}", problems=[_wrong_patch(unknown)])
            raise BadRequest(f"{refusal}strict decoding error: {', '.join(unknown)}")
        return [] if mode == "Ignore" else unknown


def _form_of(call: Call) -> tables.Form:
    return tables.wants(call.headers.get("Accept", ""), call.headers.get("User-Agent", ""))


def _wrong_patch(unknown: Sequence[str]) -> FieldProblem:
    return FieldProblem("patch", ProblemType.INVALID, "", f"strict decoding error: {', '.join(unknown)}")


def list_bytes(resource: Resource, metadata: Document, items: Sequence[Stored]) -> bytes:
    """A List document: its items' bytes joined."""
    kind, version = f"{resource.kind}List".encode(), resource.api_version.encode()
    head = b'{"kind":"%b","apiVersion":"%b","metadata":%b,"items":[' % (kind, version, objects.encode(metadata))
    return b"".join((head, b",".join([one.data for one in items]), b"]}"))


def _quoted(text: str) -> str:
    """A warning's text within its quotes (RFC 7234 section 5.5)."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')
