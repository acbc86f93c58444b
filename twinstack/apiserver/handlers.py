"""What each verb does with a request, once it is known who asks for what."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from twinstack.api import apply, errors, kinds, objects, patches
from twinstack.api.errors import BadRequest, MethodNotAllowed
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BINDINGS, Resource, resource_of
from twinstack.api.schema import Schema, examine
from twinstack.apiserver import answers, doors, tables, watches
from twinstack.apiserver.bodies import (
    APPLY,
    PROTOBUF,
    check_kind,
    config_of,
    delete_options,
    document_of,
    is_yaml,
    media_type,
    patch_of,
    without_nulls,
)
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.calls import Answer, Call, Reaction, Streamed
from twinstack.apiserver.changes import Changes, Outcome, timestamp
from twinstack.apiserver.deletions import Deletions
from twinstack.apiserver.lists import Page, check_revision, filter_of, list_answer, page_of, too_large
from twinstack.apiserver.openapi import OpenAPI, SchemaMissing
from twinstack.apiserver.options import Options, options_of
from twinstack.apiserver.ownership import Doors
from twinstack.apiserver.requests import Request
from twinstack.apiserver.strictness import duplicates, json_duplicates, judged, yaml_duplicates
from twinstack.store.base import Store

Logs = Callable[[Request, Document], Awaitable[Reaction]]
Streams = Callable[[Request, Call, Document], Awaitable[Reaction]]
Proxy = Callable[[Request, Call], Awaitable[Reaction]]
STREAMS: Final = frozenset(("exec", "attach", "portforward", "proxy"))
PODS: Final = resource_of(kinds.Pod)
_CARRIES_NO_OBJECT: Final = frozenset(("binding", "eviction", "log"))


def utc_now() -> datetime:
    return datetime.now(UTC)


class Handlers:
    """Reacts to requests for objects. ``logs`` answers for a pod's log, ``streams`` for what is talked with a pod, ``proxy`` for what is passed on."""

    def __init__(
        self,
        cache: Cache,
        store: Store,
        openapi: OpenAPI,
        *,
        logs: Logs | None = None,
        streams: Streams | None = None,
        proxy: Proxy | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.cache = cache
        self.now = now
        self.min_watch_seconds = watches.MIN_SECONDS
        self.doors = Doors(openapi)
        self.changes = Changes(cache, store, now, doors=self.doors)
        self.deletions = Deletions(self.changes)
        self._openapi = openapi
        self._logs, self._streams, self._proxy = logs, streams, proxy
        self._verbs: dict[str, Callable[[Request, Call], Reaction | Awaitable[Reaction]]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    def react(self, request: Request, call: Call) -> Reaction | Awaitable[Reaction]:
        """The answer or the stream, at once where it comes from memory; any APIError is the failure."""
        if request.sub in STREAMS:
            if request.sub == "proxy" and self._proxy is not None:
                return self._proxy(request, call)
            if self._streams is None:
                raise MethodNotAllowed("this server does not know how to reach kubelets")
            return self._streams(request, call, self._stored(request).document())
        return self._verbs[request.verb](request, call)

    # ---- reading

    def _get(self, request: Request, call: Call) -> Reaction | Awaitable[Reaction]:
        if call.query:
            asked = check_revision(request.query) or 0
            if asked > self.cache.revision:
                raise too_large(asked, self.cache.revision)
        stored = self._stored(request)
        form = _form_of(call)
        tables.refuse_mismatch(form, lists=False)
        if request.sub == "log":
            if self._logs is None:
                raise MethodNotAllowed("this server does not know how to reach kubelets")
            return self._logs(request, stored.document())
        scale = request.sub == "scale"
        if form.shape == "json" and not scale:
            return Answer(200, stored.data)
        shown = doors.scale_of(stored.document()) if scale else stored.document()
        return Answer(200, objects.encode(shown) if form.shape == "json" else self._shown(request, form, shown))

    def _stored(self, request: Request) -> Stored:
        stored = self.cache.collections[request.resource].items.get(Key(request.namespace, request.name))
        if stored is None:
            raise errors.not_found(request.resource.plural, request.name, group=request.resource.group)
        return stored

    def _list(self, request: Request, call: Call) -> Reaction:
        form = _form_of(call)
        tables.refuse_mismatch(form, lists=True)
        collection = self.cache.collections[request.resource]
        page = page_of(self.cache, collection, filter_of(request, collection), request.query)
        return self._listed(request, form, page)

    def _listed(self, request: Request, form: tables.Form, page: Page) -> Answer:
        if form.shape == "json":
            return list_answer(request.resource, page.metadata(), page.items, str(page.revision))
        documents = (one.document() for one in page.items)
        if form.shape == "table":
            include = request.query.text("includeObject")
            shown = tables.table(request.resource, documents, now=self.now(), include_object=include, metadata=page.metadata(), form=form)
        else:
            shown = tables.partial_metadata_list(documents, page.metadata(), form.version)
        return Answer(200, objects.encode(shown))

    def _watch(self, request: Request, call: Call) -> Reaction:
        if not call.can_stream:
            raise BadRequest("a watch needs HTTP/1.1")
        if answers.wants_yaml(call.headers.get("Accept", "")):
            raise errors.NotAcceptable("a watch is a stream of JSON values; application/json would do")
        form = _form_of(call)
        streamed: Streamed = watches.watch(self.cache, request, form=form, now=self.now, min_seconds=self.min_watch_seconds)
        return streamed

    # ---- writing

    async def _create(self, request: Request, call: Call) -> Reaction:
        resource, key = request.resource, Key(request.namespace, request.name)
        options = options_of(call, request.query, "CreateOptions")
        if request.sub == "binding" or resource is BINDINGS:
            binding = document_of(call, "v1", "Binding")
            pod = key if request.name else Key(request.namespace, binding["metadata"].get("name", ""))
            outcome = await doors.bind(self.changes, PODS, pod, binding, dry_run=options.dry_run)
            return self._answer(request, call, outcome)
        if request.sub == "eviction":
            eviction = doors.eviction_of(call)
            outcome = await doors.evict(self.changes, self.deletions, resource, key, eviction, dry_run=options.dry_run)
            return self._answer(request, call, outcome)
        document = document_of(call, resource.api_version, resource.kind, keep_nulls=True)
        warnings = self._judged(request, call, document, options)
        outcome = await self.changes.create(resource, document, request.namespace, dry_run=options.dry_run, manager=options.manager)
        return self._answer(request, call, outcome, warnings)

    async def _update(self, request: Request, call: Call) -> Reaction:
        resource = request.resource
        options = options_of(call, request.query, "UpdateOptions")
        warnings: list[str] = []

        def change(stored: Document) -> Document:
            warnings.clear()
            if request.sub == "scale":
                scale = document_of(call, doors.SCALE_VERSION, doors.SCALE_KIND)
                warnings.extend(judged(doors.SCALES, scale, self._schema(request), options.mode))
                return doors.scaled(stored, scale, self._writer(request, options), self.doors.of(resource, "scale"))
            document = document_of(call, resource.api_version, resource.kind, keep_nulls=request.sub != "finalize")
            if request.sub == "finalize":
                return doors.finalized(stored, document)
            if not document["metadata"].get("name"):
                raise BadRequest(f"the name of the object must be given, as it is on the URL ({request.name})")
            warnings.extend(self._judged(request, call, document, options))
            return document

        outcome = await self._changed(request, change, options, create=True)
        return self._answer(request, call, outcome, warnings)

    async def _patch(self, request: Request, call: Call) -> Reaction:
        if media_type(call) == APPLY:
            return await self._apply(request, call)
        resource = request.resource
        options = options_of(call, request.query, "PatchOptions")
        kind, patch = patch_of(call)
        warnings: list[str] = []

        def change(stored: Document) -> Document:
            warnings.clear()
            if request.sub == "scale":
                scale = self._patched(resource, "scale", kind, doors.scale_of(stored), patch)
                check_kind(scale, doors.SCALE_VERSION, doors.SCALE_KIND)
                warnings.extend(judged(doors.SCALES, scale, self._schema(request), options.mode, patch=True))
                return doors.scaled(stored, scale, self._writer(request, options), self.doors.of(resource, "scale"))
            patched = self._patched(resource, "", kind, stored, patch)
            twice = json_duplicates(call.body, patch) if options.mode != "Ignore" else ()
            # The rest stands as it was judged when it was written.
            touched = patch if stored and kind != "json" and not any(name.startswith("$") for name in patch) else None
            warnings.extend(judged(resource, patched, self._schema(request), options.mode, twice, patch=True, touched=touched))
            if kind == "json" or b"null" in call.body:
                without_nulls(patched)
            return patched

        outcome = await self._changed(request, change, options, patched=True)
        return self._answer(request, call, outcome, warnings)

    async def _apply(self, request: Request, call: Call) -> Reaction:
        """Server-side apply."""
        resource = request.resource
        options = options_of(call, request.query, "PatchOptions", apply=True)
        door = self.doors.of(resource, request.sub)
        if door is None:
            raise errors.UnsupportedMediaType(f"apply needs the schema of {resource.kind}, which is missing; use a merge patch")
        scale = request.sub == "scale"
        config = config_of(call, *((doors.SCALE_VERSION, doors.SCALE_KIND) if scale else (resource.api_version, resource.kind)))
        found = examine(config, door.schema)
        if found.mistyped or found.unknown:
            texts = [f'field "{path}" must be of type {type_}' for path, type_ in found.mistyped] + [f'unknown field "{path}"' for path in found.unknown]
            raise BadRequest(f"the configuration of {resource.kind} {request.name} cannot be applied: {', '.join(texts)}")
        twice = [f'duplicate field "{path}"' for path in yaml_duplicates(call.body)] if options.mode != "Ignore" else []
        if twice and options.mode == "Strict":
            raise BadRequest(f"error strict decoding YAML: {', '.join(twice)}")

        def change(stored: Document) -> Document:
            writer = self._writer(request, options)
            if scale:
                after = apply.applied(doors.owned_scale_of(stored), config, writer, door, force=options.force)
                return doors.scaled(stored, after, writer, door, applied=True)
            if not stored and (config.get("metadata") or {}).get("uid"):
                raise errors.conflict(resource.plural, request.name, "uid mismatch: no object with the given uid exists", group=resource.group)
            return apply.applied(stored or None, config, writer, door, force=options.force)

        outcome = await self._changed(request, change, options, create=True, patched=True, applied=True)
        return self._answer(request, call, outcome, twice)

    async def _changed(
        self, request: Request, change: Callable[[Document], Document], options: Options, *, create: bool = False, patched: bool = False, applied: bool = False
    ) -> Outcome:
        key, scale = Key(request.namespace, request.name), request.sub == "scale"
        return await self.changes.update(
            request.resource,
            key,
            change,
            # The scale door leads to the object itself; what comes through it is a change of the object, and says itself whose it is.
            subresource="" if scale else request.sub,
            dry_run=options.dry_run,
            create=create and not scale,
            manager=options.manager,
            applied=applied or scale,
            patched=patched,
        )

    def _writer(self, request: Request, options: Options) -> apply.Writer:
        version = doors.SCALE_VERSION if request.sub == "scale" else request.resource.api_version
        return apply.Writer(options.manager, request.sub, version, timestamp(self.now()))

    def _patched(self, resource: Resource, subresource: str, kind: str, document: Document, patch: Any) -> Document:
        if kind == "json":
            return patches.json_patch(document, patch)
        if kind == "merge":
            return patches.merge_patch(document, patch, own=True)
        try:
            schema = self._openapi.schema_of(resource, subresource)
        except SchemaMissing as error:
            raise errors.UnsupportedMediaType(f"a strategic merge patch needs the schema of {resource.kind}: {error}; use a merge patch") from error
        return patches.strategic_merge_patch(document, patch, schema, own=True)

    async def _delete(self, request: Request, call: Call) -> Reaction:
        options = delete_options(call, request.query)
        key = Key(request.namespace, request.name)
        outcome = await self.deletions.delete(request.resource, key, options, dry_run=bool(options.dryRun))
        return self._answer(request, call, outcome)

    async def _delete_collection(self, request: Request, call: Call) -> Reaction:
        options = delete_options(call, request.query)
        form, collection = _form_of(call), self.cache.collections[request.resource]
        tables.refuse_mismatch(form, lists=True)
        # The answer is the list as it was; a limit is for the deletion, too.
        page = page_of(self.cache, collection, filter_of(request, collection), request.query)
        await self.deletions.delete_all(request.resource, page.items, options, dry_run=bool(options.dryRun))
        return self._listed(request, form, page)._replace(version="", headers=_warnings(self.deletions.warnings(request.resource, options)))

    # ---- answers

    def _answer(self, request: Request, call: Call, outcome: Outcome, warnings: Sequence[str] = ()) -> Answer:
        headers = _warnings((*warnings, *outcome.warnings))
        body = outcome.data
        if request.sub == "scale":
            body = objects.encode(doors.scale_of(objects.decode(body)))
        elif request.sub not in _CARRIES_NO_OBJECT:
            form = _form_of(call)
            if form.shape != "json":
                document = objects.decode(body)
                if document.get("kind") == request.resource.kind:
                    body = self._shown(request, form, document)
        return Answer(201 if outcome.created else 202 if outcome.accepted else 200, body, headers=headers)

    def _shown(self, request: Request, form: tables.Form, document: Document) -> bytes:
        if form.shape != "table":
            return objects.encode(tables.partial_metadata(document, form.version))
        metadata = {"resourceVersion": document["metadata"].get("resourceVersion", "")}
        include = request.query.text("includeObject")
        resource = doors.SCALES if request.sub == "scale" else request.resource
        return objects.encode(tables.table(resource, [document], now=self.now(), include_object=include, metadata=metadata, form=form))

    def _judged(self, request: Request, call: Call, document: Document, options: Options) -> list[str]:
        """What to warn of in the document of a request's body."""
        from_yaml = is_yaml(call)
        twice = duplicates(call.body, document, is_yaml=from_yaml) if options.mode != "Ignore" and media_type(call) != PROTOBUF else ()
        warnings = judged(request.resource, document, self._schema(request), options.mode, twice)
        if from_yaml or b"null" in call.body:
            without_nulls(document)
        return warnings

    def _schema(self, request: Request) -> Schema | None:
        try:
            return self._openapi.schema_of(request.resource, "scale" if request.sub == "scale" else "")
        except SchemaMissing:
            return None


def _form_of(call: Call) -> tables.Form:
    return tables.wants(call.headers.get("Accept", ""), call.headers.get("User-Agent", ""))


def _warnings(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Warning headers, each text once."""
    return [("Warning", f'299 - "{_quoted(text)}"') for text in dict.fromkeys(texts)]


def _quoted(text: str) -> str:
    """A warning's text within its quotes (RFC 7234 section 5.5)."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')
