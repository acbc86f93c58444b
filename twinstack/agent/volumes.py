"""A pod's volumes as directories and files of the host.

Kinds: emptyDir, hostPath, configMap, secret, downwardAPI, and projected volumes made of the last three. Any other
is refused by name. What comes from the API is written when a container is started and is not refreshed meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from twinstack.agent.containers.base import Mount
from twinstack.agent.environment import ConfigError, Facts, decoded_secret, expand, field_value
from twinstack.api.kinds import ConfigMap, Container, Pod, Secret

KINDS = ("emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected")
_ONLY_HERE = frozenset({"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"})


def kind_of(volume: Mapping[str, Any]) -> str:
    """The kind of a volume; ConfigError names one that is not supported."""
    named = [key for key, value in volume.items() if key != "name" and value is not None]
    if len(named) != 1 or named[0] not in KINDS:
        raise ConfigError(f"volume {volume.get('name')!r} is of kind {', '.join(named) or 'none'}, and only {', '.join(KINDS)} are supported")
    return named[0]


def sources_named(pod: Pod) -> set[tuple[str, str]]:
    """The ConfigMaps and Secrets that the volumes are made of, as (kind, name)."""
    named: set[tuple[str, str]] = set()
    for volume in pod.spec.volumes or ():
        kind = kind_of(volume)
        for part, source in _parts(volume, kind):
            if part == "configmap":
                named.add((part, source.get("name", "")))
            elif part == "secret":
                named.add((part, source.get("secretName") or source.get("name", "")))
    return named


def _parts(volume: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What a volume's files come from: (configmap, secret or downward, its source)."""
    words = {"configMap": "configmap", "secret": "secret", "downwardAPI": "downward"}
    if kind in words:
        yield words[kind], volume[kind] or {}
    for source in (volume[kind].get("sources") or ()) if kind == "projected" else ():
        for name, value in source.items():
            if name not in words:
                raise ConfigError(f"volume {volume.get('name')!r} projects {name}, which is not supported yet")
            yield words[name], value or {}


def prepare(pod: Pod, folder: Path, objects: Mapping[tuple[str, str], ConfigMap | Secret | None], facts: Facts) -> dict[str, Path]:
    """Make every volume below *folder*; the path of each by name. ConfigError when one cannot be made."""
    made = {}
    for volume in pod.spec.volumes or ():
        name, kind = str(volume.get("name", "")), kind_of(volume)
        path = folder / name
        if kind == "hostPath":
            path = _host_path(volume[kind] or {})
        elif kind == "emptyDir":
            if not path.is_dir():
                path.mkdir(parents=True)
                path.chmod(0o777)
        else:
            _write(path, _files(volume, kind, pod, objects, facts), int((volume[kind] or {}).get("defaultMode") or 0o644))
        made[name] = path
    return made


def _host_path(source: Mapping[str, Any]) -> Path:
    path, kind = Path(str(source.get("path", ""))), source.get("type") or ""
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch()
    if not path.is_absolute() or not path.exists():
        raise ConfigError(f"hostPath {str(path)!r} does not exist")
    if (kind == "Directory" and not path.is_dir()) or (kind == "File" and not path.is_file()):
        raise ConfigError(f"hostPath {str(path)!r} is not a {kind.lower()}")
    return path


def _files(
    volume: Mapping[str, Any], kind: str, pod: Pod, objects: Mapping[tuple[str, str], ConfigMap | Secret | None], facts: Facts
) -> dict[str, tuple[bytes, int | None]]:
    """File name → content and mode."""
    files: dict[str, tuple[bytes, int | None]] = {}
    for part, source in _parts(volume, kind):
        if part == "downward":
            for item in source.get("items") or ():
                files[_relative(item.get("path"))] = (_downward(item, pod, facts).encode(), item.get("mode"))
            continue
        name = (source.get("secretName") or source.get("name", "")) if part == "secret" else source.get("name", "")
        found = objects.get((part, name))
        if found is None:
            if source.get("optional"):
                continue
            raise ConfigError(f'{part} "{name}" not found')
        data = contents_of(found)
        if not source.get("items"):
            files |= {key: (value, None) for key, value in data.items()}
        for item in source.get("items") or ():
            key = item.get("key", "")
            if key in data:
                files[_relative(item.get("path"))] = (data[key], item.get("mode"))
            elif not source.get("optional"):
                raise ConfigError(f"couldn't find key {key} in {part} {name}")
    return files


def contents_of(found: ConfigMap | Secret) -> dict[str, bytes]:
    """The values of a ConfigMap or Secret as bytes."""
    if isinstance(found, Secret):
        return decoded_secret(found.data)
    try:
        binary = {key: base64.b64decode(value) for key, value in (found.binaryData or {}).items()}
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"a ConfigMap's binaryData is not base64: {error}") from error
    return {key: value.encode() for key, value in (found.data or {}).items()} | binary


def _downward(item: Mapping[str, Any], pod: Pod, facts: Facts) -> str:
    path = (item.get("fieldRef") or {}).get("fieldPath", "")
    if path.split("[")[0] not in _ONLY_HERE:
        raise ConfigError(f"downwardAPI volume: {path or 'resourceFieldRef'} is not supported in a file")
    return field_value(path, pod, facts)


def _relative(path: Any) -> str:
    pure = PurePosixPath(str(path or ""))
    if not path or pure.is_absolute() or ".." in pure.parts:
        raise ConfigError(f"a volume's item has path {path!r}, which is not a relative path without '..'")
    return str(pure)


def _write(path: Path, files: Mapping[str, tuple[bytes, int | None]], mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, (content, own_mode) in files.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(own_mode or mode)
    if path.exists():
        # files are replaced within the directory, for containers have that very directory mounted
        for name in files:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(fresh / name, path / name)
        shutil.rmtree(fresh)
    else:
        fresh.rename(path)


def mounts_of(container: Container, volumes: Mapping[str, Path], variables: Mapping[str, str]) -> list[Mount]:
    """Where a container sees the volumes."""
    mounts = []
    for wanted in container.volumeMounts or ():
        name, target = str(wanted.get("name", "")), str(wanted.get("mountPath", ""))
        if name not in volumes:
            raise ConfigError(f"volumeMount {target!r} names volume {name!r}, which the pod does not have")
        if not target.startswith("/"):
            raise ConfigError(f"mountPath {target!r} is not absolute")
        below = wanted.get("subPath") or expand(wanted.get("subPathExpr") or "", variables)
        source = volumes[name]
        if below:
            source /= _relative(below)
            if not source.exists():
                source.mkdir(parents=True)
        mounts.append(Mount(str(source), target, bool(wanted.get("readOnly"))))
    return mounts
