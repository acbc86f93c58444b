"""Server-side apply over a small kind: who owns what, who is in whose way, and what goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import apply, fields, typed
from twinstack.api.apply import ApplyConflict, Door, Writer
from twinstack.api.errors import BadRequest
from twinstack.api.objects import Document
from twinstack.api.schema import Schemas

_TEXT = {"type": "string"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
DEFINITIONS: dict[str, Any] = {
    "Thing": {"type": "object", "properties": {"metadata": {"$ref": "#/Meta"}, "spec": {"$ref": "#/Spec"}, "status": _TEXTS}},
    "Meta": {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "labels": _TEXTS,
            "annotations": _TEXTS,
            "finalizers": {"type": "array", "items": _TEXT, "x-kubernetes-list-type": "set"},
        },
    },
    "Spec": {
        "type": "object",
        "properties": {
            "size": {"type": "integer"},
            "whole": {**_TEXTS, "x-kubernetes-map-type": "atomic"},
            "list": {"type": "array", "items": _TEXT},
            "ports": {"type": "array", "items": {"$ref": "#/Port"}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"]},
        },
    },
    "Port": {"type": "object", "properties": {"port": {"type": "integer"}, "protocol": _TEXT, "name": _TEXT}},
}
SCHEMA = Schemas(DEFINITIONS.__getitem__).get("Thing")
DOOR = Door(SCHEMA, fields.of_paths([("status",)]), {"metadata": {}, "spec": {}, "status": {}})
STATUS = Door(SCHEMA, fields.of_paths([("spec",)]), DOOR.empty)
NOW = "2030-01-01T00:00:00Z"


def writer(name: str, subresource: str = "", time: str = NOW) -> Writer:
    return Writer(name, subresource, "v1", time)


def thing(spec: Document | None = None, **metadata: Any) -> Document:
    return {"metadata": metadata, "spec": spec} if spec is not None else {"metadata": metadata}


def put(live: Document, name: str, config: Document, *, force: bool = False) -> Document:
    """Apply, as the server would: what is stored has a uid."""
    after = apply.applied(live or None, config, writer(name), DOOR, force=force)
    after["metadata"]["uid"] = "1"
    return after


def write(live: Document, name: str, **spec: Any) -> Document:
    """Change the spec by any other way than apply."""
    after = {**live, "spec": {key: value for key, value in {**live.get("spec", {}), **spec}.items() if value is not None}}
    after["metadata"] = {**live["metadata"], "managedFields": apply.updated(live, after, None, writer(name), DOOR)}
    return after


def owners(document: Document) -> dict[str, list[str]]:
    """What each manager owns, as paths."""
    entries = document["metadata"].get("managedFields") or []
    return {entry["manager"]: [fields.text_of(path) for path in fields.members(entry["fieldsV1"])] for entry in entries}


def test_what_is_applied_is_owned_and_nothing_else() -> None:
    after = put({}, "a", thing({"size": 1, "whole": {"x": "y"}, "list": ["z"]}, name="t", labels={"l": "1"}))
    assert owners(after) == {"a": [".metadata.labels.l", ".spec.list", ".spec.size", ".spec.whole"]}


def test_what_is_created_by_another_way_is_owned_with_the_maps_and_lists_that_came_with_it() -> None:
    document = thing({"size": 1, "ports": [{"port": 80}]}, name="t", labels={"l": "1"})
    [entry] = apply.created(document, writer("a"), DOOR)
    ports = '.spec.ports[port=80,protocol="TCP"]'
    paths = [fields.text_of(path) for path in fields.members(entry["fieldsV1"])]
    assert sorted(paths) == [".metadata.labels", ".metadata.labels.l", ".spec.ports", ports, ports + ".port", ".spec.size"]


def test_a_field_of_another_is_in_the_way_until_it_is_forced() -> None:
    live = put({}, "a", thing({"size": 1}))
    with pytest.raises(ApplyConflict) as caught:
        put(live, "b", thing({"size": 2}))
    assert [(cause["reason"], cause["field"]) for cause in caught.value.causes] == [("FieldManagerConflict", ".spec.size")]
    after = put(live, "b", thing({"size": 2}), force=True)
    assert (after["spec"], owners(after)) == ({"size": 2}, {"b": [".spec.size"]})


def test_who_says_the_same_owns_it_too_and_it_stays_while_anyone_does() -> None:
    live = put(put({}, "a", thing({"size": 1})), "b", thing({"size": 1}))
    assert owners(live) == {"a": [".spec.size"], "b": [".spec.size"]}
    live = put(live, "a", thing({}))
    assert (live["spec"], owners(live)) == ({"size": 1}, {"a": [".spec"], "b": [".spec.size"]})
    assert not put(live, "b", thing({})).get("spec")


def test_elements_of_a_list_are_owned_one_by_one_and_keep_their_order() -> None:
    live = put({}, "a", thing({"ports": [{"port": 1}, {"port": 2}]}))
    live = put(live, "b", thing({"ports": [{"port": 3}, {"port": 2, "name": "two"}]}))
    assert [port["port"] for port in live["spec"]["ports"]] == [1, 3, 2]
    live = put(live, "a", thing({"ports": [{"port": 2}]}))
    assert live["spec"]["ports"] == [{"port": 3}, {"port": 2, "name": "two"}]


def test_a_write_takes_what_it_changes_and_lets_go_of_what_it_removes() -> None:
    live = write(put({}, "a", thing({"size": 1, "list": ["x"]})), "b", size=2)
    assert owners(live) == {"a": [".spec.list"], "b": [".spec.size"]}
    assert owners(write(live, "c", list=None)) == {"b": [".spec.size"]}


def test_what_its_writer_never_says_again_is_not_pruned_when_it_was_a_write() -> None:
    live = write(put({}, "a", thing({"size": 1})), "b", list=["x"])
    assert put(live, "b", thing({"size": 1}))["spec"] == {"size": 1, "list": ["x"]}


def test_before_the_first_apply_all_is_somebodys() -> None:
    live: Document = {"metadata": {"uid": "1"}, "spec": {"size": 1}}
    assert apply.updated(live, {**live, "spec": {"size": 2}}, None, writer("w"), DOOR) == []
    with pytest.raises(ApplyConflict, match='"before-first-apply"'):
        put(live, "a", thing({"size": 2}))


def test_a_door_owns_only_what_it_opens() -> None:
    live = put({}, "a", thing({"size": 1}))
    after = {**live, "spec": {"size": 9}, "status": {"x": "y"}}
    [first, second] = apply.updated(live, after, None, writer("s", "status"), STATUS)
    assert (first["manager"], second["manager"], second["subresource"]) == ("a", "s", "status")
    assert second["fieldsV1"] == {"f:status": {"f:x": {}}}


@pytest.mark.parametrize("given", [pytest.param([], id="an empty list"), pytest.param([{}], id="an empty entry")])
def test_entries_can_be_thrown_away(given: Any) -> None:
    live = put({}, "a", thing({"size": 1}))
    assert apply.updated(live, live, given, writer("b"), DOOR) == []
    assert apply.updated(live, live, given, writer("b", "status"), STATUS) == live["metadata"]["managedFields"]


def test_of_too_many_updaters_the_oldest_become_one() -> None:
    live: Document = thing({"size": 1, "list": ["x"]}, uid="1")
    live["metadata"]["managedFields"] = apply.created(live, writer("m00", time="2030-01-01T00:00:00Z"), DOOR)
    for number in range(1, 13):
        after = thing({**live["spec"]}, uid="1", labels={**live["metadata"].get("labels", {}), f"l{number}": "x"})
        after["metadata"]["managedFields"] = apply.updated(live, after, None, writer(f"m{number:02}", time=f"2030-01-01T00:00:{number:02}Z"), DOOR)
        live = after
    entries = live["metadata"]["managedFields"]
    assert len(entries) == apply.MAX_UPDATERS
    assert [entry["manager"] for entry in entries][:2] == ["ancient-changes", "m04"]


def test_client_side_apply_goes_over_without_being_in_its_own_way() -> None:
    memory = '{"metadata":{"name":"t"},"spec":{"size":1}}'
    live = thing({"size": 1}, uid="1", annotations={apply.LAST_APPLIED: memory})
    live["metadata"]["managedFields"] = apply.created(live, writer("kubectl-client-side-apply"), DOOR)
    with pytest.raises(ApplyConflict):
        put(live, "somebody", thing({"size": 2}))
    after = put(live, "kubectl", thing({"size": 2}, name="t"))
    assert after["spec"] == {"size": 2}
    assert '"size":2' in after["metadata"]["annotations"][apply.LAST_APPLIED]


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(thing({"ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]}), id="one element twice"),
        pytest.param(thing({}, finalizers=["x", "x"]), id="one value twice"),
        pytest.param(thing({}, managedFields=[]), id="entries of one's own"),
    ],
)
def test_what_cannot_be_applied_is_refused(config: Document) -> None:
    with pytest.raises(BadRequest):
        put({}, "a", config)


# ---- laws

_NAMES = st.sampled_from("abc")
_PORTS = st.lists(st.sampled_from((1, 2, 3)), unique=True, min_size=1, max_size=3).map(lambda ports: [{"port": port} for port in ports])
SPECS = st.fixed_dictionaries(
    {}, optional={"size": st.integers(0, 2), "list": st.lists(_NAMES, max_size=2), "ports": _PORTS, "whole": st.dictionaries(_NAMES, _NAMES, max_size=2)}
)


@given(st.lists(st.tuples(_NAMES, SPECS), max_size=5), SPECS)
def test_applying_twice_is_applying_once(past: list[tuple[str, Document]], spec: Document) -> None:
    live: Document = {}
    for name, one in past:
        live = put(live, name, thing(one, labels={name: "x"}), force=True)
    once = put(live, "a", thing(spec, labels={"a": "x"}), force=True)
    again = put(once, "a", thing(spec, labels={"a": "x"}))
    assert (again.get("spec") or {}, owners(again)) == (once.get("spec") or {}, owners(once))


@given(st.lists(st.tuples(_NAMES, SPECS), max_size=5), SPECS)
def test_after_an_apply_the_object_is_what_was_applied(past: list[tuple[str, Document]], spec: Document) -> None:
    live: Document = {}
    for name, one in past:
        live = put(live, name, thing(one), force=True)
    after = put(live, "a", thing(spec), force=True).get("spec", {})
    for key in ("size", "list", "whole"):
        if key in spec:
            assert after.get(key) == spec[key]
    assert all(port in after.get("ports", []) for port in spec.get("ports", []))


@given(SPECS, SPECS)
def test_what_differs_is_what_makes_one_of_the_other(one: Document, other: Document) -> None:
    changes = typed.compare(thing(one), thing(other), SCHEMA)
    assert (not changes.changed and not changes.removed) == (one == other or _same_ports(one, other))


def _same_ports(one: Document, other: Document) -> bool:
    """Whether two specs differ in the order of their ports only, which nobody owns."""

    def ordered(spec: Document) -> Document:
        return {**spec, "ports": sorted(port["port"] for port in spec["ports"])} if "ports" in spec else spec

    return ordered(one) == ordered(other)
