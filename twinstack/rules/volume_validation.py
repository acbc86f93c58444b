"""What can be wrong with a pod's volumes: names, one source each, and what the sources say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.rules.container_validation import OF_ITS_METADATA, problems_with_field_reference
from twinstack.rules.names import label_problem
from twinstack.rules.problems import duplicate, forbidden, required, unsupported, wrong
from twinstack.rules.quantities import parse_quantity

_HIGHEST_MODE = 0o777
_HOST_PATHS = ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice")
_PROJECTED = ("secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate")
_SHORTEST_TOKEN, _LONGEST_TOKEN = 600, 2**32


def problems_with_volumes(volumes: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    """Everything that is wrong with a list of volumes."""
    seen: set[str] = set()
    for i, volume in enumerate(volumes):
        here, name = f"{path}[{i}]", volume.get("name", "")
        if not name:
            yield required(f"{here}.name")
        elif problem := label_problem(name):
            yield wrong(f"{here}.name", name, problem)
        if name in seen:
            yield duplicate(f"{here}.name", name)
        seen.add(name)
        sources = [source for source in volume if source != "name"]
        for extra in sources[1:]:
            yield forbidden(f"{here}.{extra}", f"the volume is a {sources[0]} already")
        if sources and isinstance(volume[sources[0]], Mapping):
            yield from _problems_with_source(sources[0], volume[sources[0]], f"{here}.{sources[0]}")


def _problems_with_source(kind: str, source: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    if kind in _NEEDED:
        for field in _NEEDED[kind]:
            if not source.get(field):
                yield required(f"{path}.{field}")
    if kind in ("configMap", "secret", "projected", "downwardAPI"):
        yield from _problem_with_mode(source.get("defaultMode"), f"{path}.defaultMode")
    match kind:
        case "emptyDir":
            if source.get("sizeLimit") is not None and parse_quantity(source["sizeLimit"]) < 0:
                yield forbidden(f"{path}.sizeLimit", "must not be negative")
        case "hostPath":
            if ".." in source.get("path", "").split("/"):
                yield wrong(f"{path}.path", source["path"], "must not contain '..'")
            if source.get("type", "") not in _HOST_PATHS:
                yield unsupported(f"{path}.type", source["type"], _HOST_PATHS)
        case "nfs":
            if source.get("path") and not source["path"].startswith("/"):
                yield wrong(f"{path}.path", source["path"], "must be an absolute path")
        case "configMap" | "secret":
            yield from _problems_with_items(source.get("items") or (), f"{path}.items")
        case "downwardAPI":
            yield from _problems_with_files(source.get("items") or (), path)
        case "projected":
            for i, one in enumerate(source.get("sources") or ()):
                yield from _problems_with_projection(one, f"{path}.sources[{i}]")


_NEEDED: Mapping[str, tuple[str, ...]] = {
    "hostPath": ("path",),
    "configMap": ("name",),
    "secret": ("secretName",),
    "persistentVolumeClaim": ("claimName",),
    "nfs": ("server", "path"),
}


def _problem_with_mode(mode: Any, path: str) -> Iterator[FieldProblem]:
    if mode is not None and not 0 <= mode <= _HIGHEST_MODE:
        yield wrong(path, mode, "must be a number between 0 and 0777 (octal)")


def _problems_with_items(items: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    for i, item in enumerate(items):
        if not item.get("key"):
            yield required(f"{path}[{i}].key")
        if not item.get("path"):
            yield required(f"{path}[{i}].path")
        else:
            yield from problems_with_place_below(item["path"], f"{path}[{i}].path", reserved=True)
        yield from _problem_with_mode(item.get("mode"), f"{path}[{i}].mode")


def _problems_with_files(files: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    """Files of what a pod knows of itself; Kubernetes does not say which of them is wrong."""
    for file in files:
        if not file.get("path"):
            yield required(f"{path}.path")
        else:
            yield from problems_with_place_below(file["path"], f"{path}.path", reserved=True)
        if file.get("fieldRef") is not None:
            yield from problems_with_field_reference(file["fieldRef"], f"{path}.fieldRef", OF_ITS_METADATA)
            if file.get("resourceFieldRef") is not None:
                yield wrong(path, "resource", "may have only one of fieldRef and resourceFieldRef")
        elif file.get("resourceFieldRef") is None:
            yield required(path, "one of fieldRef and resourceFieldRef is needed")
        yield from _problem_with_mode(file.get("mode"), f"{path}.mode")


def _problems_with_projection(source: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    given = [name for name in _PROJECTED if source.get(name) is not None]
    if not given:
        yield required(path, f"one of {', '.join(_PROJECTED)} is needed")
    for name in given[1:]:
        yield forbidden(f"{path}.{name}", f"the source is a {given[0]} already")
    for name in given[:1]:
        below = source[name]
        if name in ("secret", "configMap"):
            if not below.get("name"):
                yield required(f"{path}.{name}.name")
            yield from _problems_with_items(below.get("items") or (), f"{path}.{name}.items")
        elif name == "downwardAPI":
            yield from _problems_with_files(below.get("items") or (), f"{path}.downwardAPI")
        elif name == "serviceAccountToken":
            seconds = below.get("expirationSeconds", _SHORTEST_TOKEN)
            if not _SHORTEST_TOKEN <= seconds <= _LONGEST_TOKEN:
                yield wrong(f"{path}.{name}.expirationSeconds", seconds, f"must be between {_SHORTEST_TOKEN} and {_LONGEST_TOKEN}")
            if not below.get("path"):
                yield required(f"{path}.{name}.path")
            else:
                yield from problems_with_place_below(below["path"], f"{path}.{name}.path", reserved=True)


def problems_with_place_below(place: str, path: str, *, reserved: bool = False) -> Iterator[FieldProblem]:
    """A relative path that goes down only; names that begin with two dots are the kubelet's where they are *reserved*."""
    if place.startswith("/"):
        yield wrong(path, place, "must be a relative path")
    if ".." in place.split("/"):
        yield wrong(path, place, "must not contain '..'")
    elif reserved and place.startswith(".."):
        yield wrong(path, place, "must not begin with '..'")
