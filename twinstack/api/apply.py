"""Who owns which fields of an object (``metadata.managedFields``), and server-side apply (KEP-555).

Rule of this file: documents and entries in, documents and entries out; what a field is, ``api.typed`` knows.

Theory. An entry says what one manager owns, by one way: what it wrote (Update, one entry for each of its API versions and
subresources) or what it applied (Apply). Every write takes the fields that it changes from all the others, and fields that go are nobody's.
An apply says the manager's whole will instead: it may not change what another owns, unless forced; what it applied the last time and leaves out now goes,
unless another still owns it. What a subresource's door does not open (``Door.closed``) is never owned through it.

Entries are managedFields' own documents. None is changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from twinstack.api import fields, typed
from twinstack.api.errors import BadRequest, Conflict
from twinstack.api.fields import Fields
from twinstack.api.objects import Document, decode, encode
from twinstack.api.schema import Schema

MAX_UPDATERS: Final = 10
UPDATE: Final = "Update"
APPLY: Final = "Apply"
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_LAST_APPLIED_SIZE: Final = 256 * 1024
_OLDEST: Final = "ancient-changes"
_BEFORE_FIRST: Final = "before-first-apply"
_KUBECTL: Final = "kubectl"

Entry = dict[str, Any]


class Writer(NamedTuple):
    """Who writes, through which door, and when. ``time`` is RFC 3339."""

    manager: str
    subresource: str
    api_version: str
    time: str


class Door(NamedTuple):
    """What a kind looks like through one of its doors: its schema, what nobody can own through it, and what even an empty object has."""

    schema: Schema
    closed: Fields
    empty: Document


# ---- entries


def _identity(entry: Entry) -> tuple[str, str, str, str]:
    """What tells an entry from others; an applier has one for all versions."""
    operation = entry["operation"]
    return entry["manager"], operation, entry.get("subresource", ""), "" if operation == APPLY else entry.get("apiVersion", "")


def _entry(writer: Writer, operation: str, owned: Fields) -> Entry:
    entry = {
        "manager": writer.manager,
        "operation": operation,
        "apiVersion": writer.api_version,
        "time": writer.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": owned,
    }
    if writer.subresource:
        entry["subresource"] = writer.subresource
    return entry


def _owning(entry: Entry, owned: Fields) -> Entry:
    return {**entry, "fieldsV1": owned}


def entries_of(value: Any) -> list[Entry] | None:
    """Entries that came from outside, without the empty ones; None when they cannot be understood."""
    if not isinstance(value, list):
        return None
    result: list[Entry] = []
    for one in value:
        if not isinstance(one, dict) or one.get("operation") not in (UPDATE, APPLY) or not isinstance(one.get("manager", ""), str):
            return None
        owned = fields.canonical(one.get("fieldsV1") or {})
        if owned is None or one.get("fieldsType") != "FieldsV1" or not one.get("apiVersion"):
            return None
        if owned:
            result.append({**one, "manager": one.get("manager", ""), "fieldsV1": owned})
    return result


def _is_reset(value: Any) -> bool:
    """Whether the writer wants every entry gone: an empty list, or one with an empty entry."""
    return isinstance(value, list) and (not value or value == [{}])


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda one: (one["operation"], one.get("time") or "", one["manager"], one.get("apiVersion", ""), one.get("subresource", "")))


def same_but_times(one: Sequence[Entry], other: Sequence[Entry]) -> bool:
    """Whether two lists differ in nothing but when."""
    if len(one) != len(other):
        return False
    mine = {_identity(entry): entry["fieldsV1"] for entry in one}
    return all(mine.get(_identity(entry)) == entry["fieldsV1"] for entry in other)


# ---- writes


def created(document: Document, writer: Writer, door: Door) -> list[Entry]:
    """The entries of a new object: all that its writer gave or had filled in."""
    owned = fields.without(typed.compare(door.empty, document, door.schema).changed, door.closed)
    return [_entry(writer, UPDATE, owned)] if owned else []


def updated(before: Document, after: Document, given: Any, writer: Writer, door: Door) -> list[Entry]:
    """The entries after a write; *given* are those in the writer's own document, which count through the main door."""
    present = before["metadata"].get("managedFields") or []
    if given is not None and not writer.subresource and given != present:
        if _is_reset(given):
            return []
        present = entries_of(given) or present
    if not present:
        return []  # nobody was ever tracked, and tracking begins with the first apply
    return _written(before, after, present, writer, door)


def _written(before: Document, after: Document, present: Sequence[Entry], writer: Writer, door: Door) -> list[Entry]:
    changes = typed.compare(before, after, door.schema)
    changed, removed = fields.without(changes.changed, door.closed), fields.without(changes.removed, door.closed)
    if not changed and not removed:
        return list(present)
    own = _entry(writer, UPDATE, changed)
    identity, mine = _identity(own), changed
    result: list[Entry] = []
    for entry in present:
        owned = entry["fieldsV1"]
        if _identity(entry) == identity:
            owned = fields.difference(owned, removed)
            if changed:
                mine = fields.union(owned, changed)
                continue
        else:
            owned = fields.difference(fields.difference(owned, changed), removed)
        if owned is entry["fieldsV1"]:
            result.append(entry)
        elif owned:
            result.append(_owning(entry, owned))
    if changed:
        result.append(_owning(own, mine))
    return _sorted(_capped(result))


def _capped(entries: list[Entry]) -> list[Entry]:
    """Not too many updaters: the oldest of a version become one."""
    updaters = [entry for entry in entries if entry["operation"] == UPDATE]
    excess = len(updaters) - MAX_UPDATERS
    if excess <= 0:
        return entries
    kept = {_identity(entry): entry for entry in entries}
    first: dict[str, Entry] = {}
    for entry in sorted(updaters, key=lambda one: (one.get("time") or "", _identity(one))):
        if excess <= 0:
            break
        version = entry.get("apiVersion", "")
        before = first.setdefault(version, entry)
        if before is entry:
            continue
        bucket = {key: value for key, value in before.items() if key != "subresource"} | {"manager": _OLDEST}
        old = kept.pop(_identity(before))
        del kept[_identity(entry)]
        bucket["fieldsV1"] = fields.union(old["fieldsV1"], entry["fieldsV1"])
        if "time" in entry:
            bucket["time"] = entry["time"]
        kept[_identity(bucket)] = first[version] = bucket
        excess -= 1
    return list(kept.values())


# ---- apply


def applied(live: Document | None, config: Document, writer: Writer, door: Door, *, force: bool) -> Document:
    """The document after an apply, with its entries; *live* is None when it does not exist yet.

    Conflict, with a cause for each field, when it would change what others own; BadRequest for a configuration that cannot be applied.
    """
    if config.get("metadata", {}).get("managedFields") is not None:
        raise BadRequest("metadata.managedFields must not be in an applied configuration")
    typed.check_config(config, door.schema)
    before = live if live is not None else {**door.empty, "metadata": {}}
    try:
        result = _applied(before, config, writer, door, force=force)
    except ApplyConflict as conflict:
        # What client-side apply wrote is this same user's: its entries must not stop kubectl from going over to the server's apply.
        if writer.manager != _KUBECTL:
            raise
        allowed = _last_applied(before, door)
        left = [(entry, rest) for entry, owned in conflict.conflicts if (rest := fields.difference(owned, allowed))]
        if left:
            raise ApplyConflict(left) from conflict
        result = _applied(before, config, writer, door, force=True)
    annotations = result["metadata"].get("annotations")
    if writer.manager == _KUBECTL and annotations and LAST_APPLIED in annotations:
        result["metadata"]["annotations"] = _renewed(annotations, config)
    return result


class ApplyConflict(Conflict):
    """An apply would change what others own. ``conflicts`` are the others' entries with the fields in question."""

    def __init__(self, conflicts: Sequence[tuple[Entry, Fields]]) -> None:
        self.conflicts = list(conflicts)
        paths = [(entry, fields.text_of(path)) for entry, owned in conflicts for path in fields.members(owned)]
        causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {_name_of(entry)}", "field": path} for entry, path in paths]
        by_manager: dict[str, list[str]] = {}
        for entry, path in paths:
            by_manager.setdefault(_name_of(entry), []).append(path)
        told = "; ".join(
            f"conflicts with {name}: {', '.join(some)}" if len(some) > 1 else f"conflict with {name}: {some[0]}" for name, some in by_manager.items()
        )
        super().__init__(f"Apply failed with {len(paths)} conflict{'s' if len(paths) != 1 else ''}: {told}", causes=causes)


def _name_of(entry: Entry) -> str:
    text = encode(entry["manager"]).decode()
    if entry.get("subresource"):
        text += f" with subresource {encode(entry['subresource']).decode()}"
    if entry["operation"] == UPDATE:
        text += f" using {entry.get('apiVersion', '')}" + (f" at {entry['time']}" if entry.get("time") else "")
    return text


def _applied(live: Document, config: Document, writer: Writer, door: Door, *, force: bool) -> Document:
    schema = door.schema
    present: list[Entry] = live["metadata"].get("managedFields") or []
    if not present and live["metadata"].get("uid"):
        # What was there before anybody was tracked is somebody's too, so that the first apply does not take it by accident.
        present = _first(live, writer, door)
    merged = typed.merge(live, config, schema)
    wanted = fields.without(_owned_by(config, schema), door.closed)
    own = _entry(writer, APPLY, wanted)
    identity = _identity(own)
    last = next((entry["fieldsV1"] for entry in present if _identity(entry) == identity), None)
    others = [entry for entry in present if _identity(entry) != identity]
    if last:
        merged = _pruned(merged, last, [own, *others], schema)
    changes = typed.compare(live, merged, schema)
    changed, removed = fields.without(changes.changed, door.closed), fields.without(changes.removed, door.closed)
    conflicts = [(entry, both) for entry in others if (both := fields.intersection(entry["fieldsV1"], changed))]
    if conflicts and not force:
        raise ApplyConflict(conflicts)
    result: list[Entry] = []
    for entry in others:
        owned = fields.difference(fields.difference(entry["fieldsV1"], changed), removed)
        if owned:
            result.append(entry if owned is entry["fieldsV1"] else _owning(entry, owned))
    wanted = fields.difference(wanted, removed)
    if wanted:
        result.append(_owning(own, fields.in_order(wanted)))
    document: Document = typed.without_nulls(merged)
    for name, value in door.empty.items():
        if isinstance(value, dict) and name in live:
            document.setdefault(name, {})  # what an object always has, if only empty, does not go
    metadata = document.setdefault("metadata", {})
    metadata.pop("managedFields", None)
    if result:
        metadata["managedFields"] = _sorted(_capped(result))
    return document


def _owned_by(config: Document, schema: Schema) -> Fields:
    """What an applied configuration claims."""
    body = {key: value for key, value in config.items() if key not in ("apiVersion", "kind", "metadata")}
    result = typed.fields_of(body, schema)
    metadata = fields.difference(typed.fields_of(config.get("metadata") or {}, schema.at("metadata")), _NOBODYS)
    return {"f:metadata": metadata, **result} if metadata else result


_NOBODYS: Final[Fields] = fields.of_paths(
    [(name,) for name in ("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion")]
)


def _first(live: Document, writer: Writer, door: Door) -> list[Entry]:
    return created(live, writer._replace(manager=_BEFORE_FIRST), door)


def _pruned(merged: Document, last: Fields, owners: Sequence[Entry], schema: Schema) -> Document:
    """The merged document without what its applier owned the last time and nobody owns now."""

    def named(owned: Fields) -> Fields:
        return typed.with_named(owned, schema)

    pruned = typed.remove(merged, named(last), schema) or {}
    owned: Fields = {}
    for entry in owners:
        owned = fields.union(owned, entry["fieldsV1"])
    all_ = named(typed.fields_of(merged, schema))
    # What somebody owns comes back, and so does what stood beneath it without being ours.
    kept = typed.remove(merged, fields.difference(all_, fields.union(named(typed.fields_of(pruned, schema)), named(owned))), schema) or {}
    gone = fields.intersection(fields.difference(all_, named(typed.fields_of(kept, schema))), named(last))
    result: Document = typed.remove(merged, gone, schema) or {}
    return result


def _last_applied(live: Document, door: Door) -> Fields:
    """What client-side apply wrote, and nobody changed since; nothing when it never did."""
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    if not isinstance(text, str) or not text:
        return {}
    try:
        config = decode(text)
    except ValueError:
        return {}
    if not isinstance(config, dict):
        return {}
    changes = typed.compare(live, {**config, "metadata": config.get("metadata") or {}}, door.schema)
    return fields.difference(fields.difference(_owned_by(config, door.schema), changes.changed), changes.removed)


def _renewed(annotations: Document, config: Document) -> Document:
    """The annotations with client-side apply's memory of the configuration brought up to date; without it when it is too large."""
    metadata = dict(config.get("metadata") or {})
    if metadata.get("annotations") is not None:
        metadata["annotations"] = {name: value for name, value in metadata["annotations"].items() if name != LAST_APPLIED}
    text = msgspec.json.encode({**config, "metadata": metadata}, order="sorted").decode() + "\n"
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")  # as Go writes them, for kubectl compares
    if len(text) > _LAST_APPLIED_SIZE:
        return {name: value for name, value in annotations.items() if name != LAST_APPLIED}
    return {**annotations, LAST_APPLIED: text}


# ---- the scale door


def scale_entries(entries: Sequence[Entry], replicas: Sequence[str], api_version: str) -> list[Entry]:
    """The entries as the scale subresource shows them: those that own the replicas."""
    path = [fields.field_step(name) for name in replicas]
    own = fields.of_paths([("spec", "replicas")])
    return [{**entry, "apiVersion": api_version, "fieldsV1": own} for entry in entries if fields.has(entry["fieldsV1"], path)]


def with_scale_entries(entries: Sequence[Entry], scale: Sequence[Entry], replicas: Sequence[str], api_version: str) -> list[Entry]:
    """The object's entries after a write through its scale; *scale* are the Scale's. An owner that is new has no time, as upstream has it."""
    path = [fields.field_step(name) for name in replicas]
    own = fields.of_paths([tuple(replicas)])

    def manager(entry: Entry) -> tuple[str, str, str]:
        return entry["manager"], entry["operation"], entry.get("subresource", "")

    left = {manager(entry): entry for entry in scale if fields.has(entry["fieldsV1"], ("f:spec", "f:replicas"))}
    result: list[Entry] = []
    for entry in entries:
        if not fields.has(entry["fieldsV1"], path):
            result.append(entry)
        elif manager(entry) in left:
            result.append(entry)
            del left[manager(entry)]
        elif rest := fields.difference(entry["fieldsV1"], own):
            result.append(_owning(entry, rest))
    for entry in left.values():
        new = {key: value for key, value in entry.items() if key != "time"}
        result.append({**new, "apiVersion": api_version, "fieldsV1": own})
    return _sorted(result)
