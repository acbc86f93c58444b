"""What the published schema says about a kind, as far as a server needs it: types, merge keys, list types.

A :class:`Schema` is one place in a document. The marks (``x-kubernetes-patch-merge-key``, ``-patch-strategy``,
``-list-type``, ``-list-map-keys``, ``-map-type``) belong to the place, the fields to its type: two places of one
type share their fields. A place that the schema leaves open (a label map, a raw extension) has no fields, and
anything may stand there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from twinstack.api.objects import Document
from twinstack.api.times import canonical_micro_time, canonical_time

OBJECT: Final = "object"
ARRAY: Final = "array"
_Types = tuple[type, ...]
_PYTHON_TYPES: Final[Mapping[str, _Types]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "int-or-string": (int, str),
    "quantity": (str, int, float),
    "time": (),  # which no value is by its type alone
    "micro-time": (),
}
_TIMES: Final[Mapping[str, Callable[[str], str]]] = {"time": canonical_time, "micro-time": canonical_micro_time}
_ZEROS: Final[Mapping[str, Any]] = {"object": {}, "string": "", "boolean": False, "integer": 0, "number": 0, "quantity": "0"}
_LEAVES: Final = (str, int, float, bool)
_SPECIAL: Final[Mapping[str, str]] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "micro-time",
}


class Schema(msgspec.Struct, eq=False, kw_only=True):
    """One place of a document.

    ``type`` is a JSON type, ``int-or-string``, ``quantity``, ``time``, ``micro-time``, or empty where anything may stand. ``fields`` are the
    known fields of an object; ``values`` is the place of each value of a map or each element of a list.
    Treat it as frozen: its places are shared.
    """

    type: str = ""
    name: str = ""  # the definition that the type comes from; empty for what is written in place
    fields: dict[str, Schema] = {}
    values: Schema | None = None
    merge_key: str = ""
    strategies: tuple[str, ...] = ()  # merge, replace, retainKeys
    list_type: str = ""  # atomic, set, map
    list_keys: tuple[str, ...] = ()
    map_type: str = ""  # atomic, granular
    leaves: _Types = ()  # the Python types of a plain value that may stand here; found from the type

    def __post_init__(self) -> None:
        self.leaves = () if self.type in (OBJECT, ARRAY) else _PYTHON_TYPES.get(self.type, _LEAVES)

    @property
    def open(self) -> bool:
        """Whether any field may stand here."""
        return not self.fields

    def at(self, key: str) -> Schema:
        """The place of a field; :data:`ANYTHING` where the schema does not say."""
        return self.fields.get(key) or self.values or ANYTHING


ANYTHING: Final = Schema()


class Schemas:
    """Schemas made on demand from definitions, which refer to each other by name.

    *definition* gives the JSON schema of a name: ``type`` (a text, or a list with "null"), ``properties``,
    ``items``, ``additionalProperties``, ``$ref`` whose last part is a name, and Kubernetes' marks.
    """

    def __init__(self, definition: Callable[[str], Mapping[str, Any]]) -> None:
        self._definition = definition
        self._made: dict[str, Schema] = {}

    def get(self, name: str) -> Schema:
        """The schema of a definition; whatever *definition* raises where there is none."""
        made = self._made.get(name)
        if made is None:
            node = self._definition(name)
            # Known before its fields are: a type may contain itself.
            made = self._made[name] = Schema(type=_SPECIAL.get(name) or _type_of(node), name=name, fields={})
            made.map_type = node.get("x-kubernetes-map-type", "")
            self._fill(made, node)
        return made

    def _fill(self, schema: Schema, node: Mapping[str, Any]) -> None:
        for key, child in (node.get("properties") or {}).items():
            schema.fields[key] = self._place(child)
        below = node.get("items") or node.get("additionalProperties")
        if isinstance(below, Mapping):
            schema.values = self._place(below)

    def _place(self, node: Mapping[str, Any]) -> Schema:
        reference = node.get("$ref")
        if reference:
            kind = self.get(name_in(reference))
            schema = Schema(type=kind.type, name=kind.name, fields=kind.fields, values=kind.values, map_type=kind.map_type)
        else:
            schema = Schema(type=_type_of(node))
            if "properties" in node:
                schema.fields = {}
            self._fill(schema, node)
        schema.merge_key = node.get("x-kubernetes-patch-merge-key", "")
        strategies = node.get("x-kubernetes-patch-strategy", "")
        schema.strategies = tuple(strategies.split(",")) if strategies else ()
        schema.list_type = node.get("x-kubernetes-list-type", "")
        schema.list_keys = tuple(node.get("x-kubernetes-list-map-keys") or ())
        schema.map_type = node.get("x-kubernetes-map-type", "") or schema.map_type
        return schema


def name_in(reference: str) -> str:
    """The name of the definition that a ``$ref`` names."""
    return reference.rpartition("/")[2]


def _type_of(node: Mapping[str, Any]) -> str:
    type_ = node.get("type", "")
    if isinstance(type_, list):
        type_ = next((one for one in type_ if one != "null"), "")
    return str(type_)


def _zero(schema: Schema) -> Any:
    value = _ZEROS[schema.type]
    return {} if value == {} else value


class Findings(NamedTuple):
    """What in a document its schema does not know: fields of no such name, and values of another type."""

    unknown: list[str]
    mistyped: list[tuple[str, str]]  # path, and the type that would do


def examine(document: Document, schema: Schema) -> Findings:
    """Everything in a document that its schema does not know, by path (``spec.ports[0].color``), in the document's order.

    Null stands for an absent field, as Kubernetes has it; as an element of a list it is of another type.
    """
    findings = Findings([], [])
    _examine(document, schema, "", findings)
    return findings


def unknown_fields(document: Document, schema: Schema) -> list[str]:
    """The paths of the fields that the schema does not know."""
    return examine(document, schema).unknown


def prune(document: Document, schema: Schema) -> Findings:
    """Make of the document what decoding into Kubernetes' own types would; what was found.

    Fields that the schema does not know go, a null that is the value of a map or an element of a list is its type's zero, and times are
    told in UTC.
    """
    findings = Findings([], [])
    _examine(document, schema, "", findings, prune=True)
    return findings


def _examine(value: Any, schema: Schema, path: str, findings: Findings, prune: bool = False) -> None:
    wanted = _PYTHON_TYPES.get(schema.type)
    if wanted is None:
        return
    found = type(value)
    if found not in wanted and not (found is float and schema.type == "integer" and value.is_integer()):
        findings.mistyped.append((path, schema.type))
        return
    if found is dict:
        fields, below = schema.fields, schema.values
        if not fields and below is None:
            return
        unknown: list[str] = []
        for key, child in value.items():
            place = fields.get(key) if fields else below
            if place is None:
                unknown.append(key)
                findings.unknown.append(f"{path}.{key}" if path else key)
            elif type(child) in place.leaves:
                continue  # most of a document; those that are as they must be need neither a path nor a call
            elif child is None:
                if prune and not fields and place.type in _ZEROS:
                    value[key] = _zero(place)
            else:
                if place.type not in _TIMES:
                    _examine(child, place, f"{path}.{key}" if path else key, findings, prune)
                    continue
                try:
                    text = _TIMES[place.type](child)
                except (TypeError, ValueError):
                    findings.mistyped.append((f"{path}.{key}" if path else key, place.type))
                else:
                    if prune:
                        value[key] = text
        if prune:
            for key in unknown:
                del value[key]
    elif found is list and schema.values is not None:
        for index, child in enumerate(value):
            if child is None and prune and schema.values.type in _ZEROS:
                value[index] = child = _zero(schema.values)
            _examine(child, schema.values, f"{path}[{index}]", findings, prune)
