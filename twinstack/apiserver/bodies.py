"""From a request's body to a document, and the options that ride along.

JSON, YAML and protobuf come in, and mean the same document. Whatever bytes come, a document or one of our own errors
comes out: null fields are dropped as Kubernetes' decoder drops them, YAML aliases are refused because a few lines of them can mean
gigabytes, and the fields that views know have their types checked before any rule looks at them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import yaml

from twinstack.api import objects, protobuf
from twinstack.api.errors import BadRequest, FieldProblem, ProblemType, UnsupportedMediaType, invalid
from twinstack.api.objects import Document
from twinstack.api.resources import Resource
from twinstack.apiserver.calls import Call
from twinstack.apiserver.requests import Query

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
_JSON_TYPES: Final = frozenset(("application/json", "text/json"))
_YAML_TYPES: Final = frozenset(("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"))
_CONTAINERS: Final = (dict, list)

PATCH_TYPES: Final = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
APPLY: Final = "application/apply-patch+yaml"
_KNOWN_TYPES: Final = frozenset((*_JSON_TYPES, *_YAML_TYPES, *PATCH_TYPES, APPLY, PROTOBUF))


class _Loader(yaml.CSafeLoader):
    """YAML as JSON would have it: a date stays a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def media_type(call: Call) -> str:
    """What the body is of, without parameters, in small letters."""
    text = call.headers.get("Content-Type", "")
    return text if text in _KNOWN_TYPES else text.partition(";")[0].strip().lower()


def value_of(call: Call, api_version: str = "", kind: str = "", *, keep_nulls: bool = False) -> Any:
    """The JSON value that the body means; BadRequest or UnsupportedMediaType when it means none. Null fields are kept where asked for.

    Protobuf bytes that do not say what they are, are of the kind expected.
    """
    media = media_type(call)
    if media == PROTOBUF:
        return parse_protobuf(call.body, api_version, kind)
    if media in _YAML_TYPES:
        return parse_yaml(call.body, keep_nulls=keep_nulls)
    if media and media not in _JSON_TYPES:
        accepted = f"application/json, application/yaml, {PROTOBUF}"
        raise UnsupportedMediaType(f"the body of the request was in an unknown format - accepted media types include: {accepted}")
    return parse_json(call.body, keep_nulls=keep_nulls)


def parse_protobuf(body: bytes, api_version: str, kind: str) -> Document:
    """The document; BadRequest when there is none. Nulls can only be within fields that hold JSON."""
    try:
        document = protobuf.decode(body, api_version=api_version, kind=kind)
    except protobuf.ProtobufError as error:
        raise BadRequest(f"the body is not Kubernetes' protobuf: {error}") from error
    if b"null" in body:
        without_nulls(document)
    return document


def parse_json(body: bytes, *, keep_nulls: bool = False) -> Any:
    try:
        value = objects.decode(body)
        return without_nulls(value) if b"null" in body and not keep_nulls else value
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    except (RecursionError, UnicodeError) as error:
        raise BadRequest("the body is nested too deeply or is not UTF-8") from error


def parse_yaml(body: bytes, *, keep_nulls: bool = False) -> Any:
    try:
        if b"*" in body and any(isinstance(token, yaml.AliasToken) for token in yaml.scan(body, Loader=_Loader)):
            raise BadRequest("the YAML body has aliases, which are not accepted")
        value = _with_text_keys(yaml.load(body, Loader=_Loader))
        value = objects.decode(objects.encode(value))
        return value if keep_nulls else without_nulls(value)
    except yaml.YAMLError as error:
        raise BadRequest(f"the body is not YAML: {error}") from error
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError, UnicodeError) as error:
        raise BadRequest(f"the YAML body cannot be written as JSON: {error}") from error


def _with_text_keys(value: Any) -> Any:
    """Maps as JSON has them: a bare ``yes`` or ``80`` for a key is the text that JSON would show."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else objects.encode(key).decode(): _with_text_keys(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(child) for child in value]
    return value


def without_nulls(value: Any) -> Any:
    """Drop null fields of maps, in place."""
    if isinstance(value, dict):
        for name in [name for name, child in value.items() if child is None]:
            del value[name]
        for child in value.values():
            if isinstance(child, _CONTAINERS):
                without_nulls(child)
    elif isinstance(value, list):
        for child in value:
            if isinstance(child, _CONTAINERS):
                without_nulls(child)
    return value


def patch_of(call: Call) -> tuple[str, Any]:
    """The kind of a patch (json, merge, strategic) and the patch itself, nulls and all."""
    kind = PATCH_TYPES.get(media_type(call))
    if kind is None:
        raise UnsupportedMediaType(f"the body of the request was in an unknown format - accepted media types include: {', '.join((*PATCH_TYPES, APPLY))}")
    try:
        return kind, objects.decode(call.body)
    except msgspec.DecodeError as error:
        raise BadRequest(f"the patch is not JSON: {error}") from error
    except (RecursionError, UnicodeError) as error:
        raise BadRequest("the patch is nested too deeply or is not UTF-8") from error


def config_of(call: Call, api_version: str, kind: str) -> Document:
    """The configuration to apply in the body, YAML or JSON, nulls and all; it says itself what it is."""
    config = parse_yaml(call.body, keep_nulls=True)
    if not isinstance(config, dict):
        raise BadRequest(f"the body is not a {kind}: an object was expected")
    if (config.get("apiVersion"), config.get("kind")) != (api_version, kind):
        raise BadRequest(f"what is applied here is of apiVersion {api_version} and kind {kind}, not {config.get('apiVersion')} and {config.get('kind')}")
    if config.get("metadata") is None:
        config["metadata"] = {}
    if not isinstance(config["metadata"], dict):
        raise BadRequest(f"{kind}: metadata is an object")
    return config


def is_yaml(call: Call) -> bool:
    return media_type(call) in _YAML_TYPES


def document_of(call: Call, api_version: str, kind: str, *, keep_nulls: bool = False) -> Document:
    """The document of this kind in the body; a kind or version that is left out is the one expected."""
    value = value_of(call, api_version, kind, keep_nulls=keep_nulls)
    if value is None:  # ``null`` is an object of which nothing is said
        value = {}
    if not isinstance(value, dict):
        raise BadRequest(f"the body is not a {kind}: a JSON object was expected")
    if keep_nulls and None in value.values():
        value = {name: child for name, child in value.items() if child is not None}
    check_kind(value, api_version, kind)
    return value


def check_kind(document: Document, api_version: str, kind: str) -> None:
    """Fill in a kind and version that are left out; BadRequest when they are others, or when metadata is no object."""
    found_version = document["apiVersion"] = document.get("apiVersion") or api_version
    found_kind = document["kind"] = document.get("kind") or kind
    if found_version != api_version:
        raise BadRequest(f"the API version in the data ({found_version}) does not match the expected API version ({api_version})")
    if found_kind != kind:
        raise BadRequest(f"the kind in the data ({found_kind}) does not match the expected kind ({kind})")
    if not isinstance(document.setdefault("metadata", {}), dict):
        raise BadRequest(f"{kind}: metadata is an object")


def check_types(resource: Resource, document: Document) -> None:
    """BadRequest when a field that our views know has another type than it must have."""
    try:
        msgspec.convert(document, resource.view)
    except msgspec.ValidationError as error:
        raise BadRequest(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {error}') from error


class DeleteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to delete: Kubernetes' DeleteOptions, from the body or the query."""

    class Preconditions(msgspec.Struct, frozen=True):
        uid: str | None = None
        resourceVersion: str | None = None

    gracePeriodSeconds: int | None = None
    propagationPolicy: str | None = None
    orphanDependents: bool | None = None
    preconditions: Preconditions = Preconditions()
    dryRun: list[str] = []


def delete_options_of(value: Document) -> DeleteOptions:
    """The options in a DeleteOptions document; BadRequest when it is none."""
    if value.get("kind") not in (None, "", "DeleteOptions"):
        raise BadRequest(f"the body of a deletion is a DeleteOptions object, not a {value['kind']}")
    try:
        return _checked(msgspec.convert(value, DeleteOptions))
    except msgspec.ValidationError as error:
        raise BadRequest(f"DeleteOptions: {error}") from error


def _checked(options: DeleteOptions) -> DeleteOptions:
    policy, problems = options.propagationPolicy, []
    if policy is not None and options.orphanDependents is not None:
        problems.append(FieldProblem("propagationPolicy", ProblemType.INVALID, policy, "only one of it and orphanDependents may be given"))
    if policy not in (None, "Orphan", "Background", "Foreground"):
        problems.append(FieldProblem("propagationPolicy", ProblemType.NOT_SUPPORTED, policy, 'supported values: "Background", "Foreground", "Orphan"'))
    problems += _problems_with_dry_run(options.dryRun)
    if problems:
        raise invalid("DeleteOptions", "", problems, group="meta.k8s.io")
    return options


def delete_options(call: Call, query: Query) -> DeleteOptions:
    """The options of a deletion; the body's, or the query's where there is no body."""
    if call.body.strip():
        value = value_of(call, "v1", "DeleteOptions")
        if not isinstance(value, dict):
            raise BadRequest("the body of a deletion is a DeleteOptions object")
        return delete_options_of(value)
    orphan = query.flag("orphanDependents") if query.has("orphanDependents") else None
    return _checked(
        DeleteOptions(
            gracePeriodSeconds=query.number("gracePeriodSeconds"),
            propagationPolicy=query.text("propagationPolicy") or None,
            orphanDependents=orphan,
            dryRun=[value for value in query.texts("dryRun") if value],
        )
    )


def check_dry_run(query: Query) -> None:
    """Invalid when a creation says of ``dryRun`` something else than All."""
    if problems := _problems_with_dry_run([value for value in query.texts("dryRun") if value]):
        raise invalid("CreateOptions", "", problems, group="meta.k8s.io")


def _problems_with_dry_run(values: list[str]) -> list[FieldProblem]:
    if all(value == "All" for value in values):
        return []
    return [FieldProblem("dryRun", ProblemType.NOT_SUPPORTED, values, 'supported values: "All"')]
