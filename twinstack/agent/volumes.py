"""A pod's volumes as directories and files of the host.

Kinds: emptyDir, hostPath, configMap, secret, downwardAPI, and projected volumes made of the last three and of tokens of
the pod's ServiceAccount. Any other is refused by name.

Theory. What comes from the API is swapped as a whole, so that nobody ever reads half of an old and half of a new one:
the files stand in ``..<moment>/``, the link ``..data`` points there, and each name in the volume is a link through
``..data``. A change is a new directory and one rename of ``..data``; containers that have the volume mounted see it at once.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from twinstack.agent import amounts
from twinstack.agent.containers.base import Mount
from twinstack.agent.environment import ConfigError, Facts, decoded_secret, expand, field_value
from twinstack.api.kinds import ConfigMap, Container, Pod, Secret
from twinstack.kernel import mounts
from twinstack.rules.quantities import parse_quantity

KINDS = ("emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected")
FROM_THE_API = frozenset({"configMap", "secret", "downwardAPI", "projected"})
DEFAULT_TOKEN_SECONDS = 3600
_WORDS = {"configMap": "configmap", "secret": "secret", "downwardAPI": "downward", "serviceAccountToken": "token"}
_ONLY_HERE = frozenset({"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"})
_DATA = "..data"

Files = dict[str, tuple[bytes, int | None]]
"""File name → content and mode; None is the volume's default."""


class VolumeError(ConfigError):
    """A volume cannot be made; retried, for what is missing may come."""


class Token(NamedTuple):
    """What a token is asked for: for whom it is meant, empty for the API server, and how long it shall hold."""

    audience: str
    seconds: int


class Given(NamedTuple):
    """What was read of the API for a pod's volumes: the objects by (kind, name), None for one that is absent, and tokens."""

    objects: Mapping[tuple[str, str], ConfigMap | Secret | None] = {}
    tokens: Mapping[Token, str] = {}


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
        for part, source in _parts(volume, kind_of(volume)):
            if part == "configmap":
                named.add((part, source.get("name", "")))
            elif part == "secret":
                named.add((part, source.get("secretName") or source.get("name", "")))
    return named


def tokens_named(pod: Pod) -> set[Token]:
    """The tokens that the volumes hold."""
    return {_token(source) for volume in pod.spec.volumes or () for part, source in _parts(volume, kind_of(volume)) if part == "token"}


def _token(source: Mapping[str, Any]) -> Token:
    return Token(str(source.get("audience") or ""), int(source.get("expirationSeconds") or DEFAULT_TOKEN_SECONDS))


def _parts(volume: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What a volume's files come from: (configmap, secret, downward or token, its source)."""
    if kind in _WORDS:
        yield _WORDS[kind], volume[kind] or {}
    for source in (volume[kind].get("sources") or ()) if kind == "projected" else ():
        for name, value in source.items():
            if name not in _WORDS:
                raise ConfigError(f"volume {volume.get('name')!r} projects {name}, which is not supported yet")
            yield _WORDS[name], value or {}


def prepare(pod: Pod, folder: Path, given: Given, facts: Facts) -> dict[str, Path]:
    """Make every volume below *folder*, and bring what comes from the API up to date; the path of each by name.

    VolumeError when one cannot be made.
    """
    made = {}
    group = (pod.spec.securityContext or {}).get("fsGroup")
    for volume in pod.spec.volumes or ():
        name, kind = str(volume.get("name", "")), kind_of(volume)
        path = folder / name
        source = volume[kind] or {}
        try:
            if kind == "hostPath":
                path = _host_path(source)
            elif kind == "emptyDir":
                _empty(path, source, group)
            else:
                _swap(path, _files(volume, kind, pod, given, facts), int(source.get("defaultMode") or 0o644), group)
        except (ConfigError, OSError) as error:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error
        made[name] = path
    return made


def refresh(pod: Pod, folder: Path, given: Given, facts: Facts) -> list[str]:
    """Bring what comes from the API up to date in the volumes that stand; what stood in the way, for one that keeps its old state."""
    problems = []
    group = (pod.spec.securityContext or {}).get("fsGroup")
    for volume in pod.spec.volumes or ():
        kind = kind_of(volume)
        path = folder / str(volume.get("name", ""))
        if kind in FROM_THE_API and path.is_dir():
            try:
                _swap(path, _files(volume, kind, pod, given, facts), int((volume[kind] or {}).get("defaultMode") or 0o644), group)
            except ConfigError as error:
                problems.append(f"volume {volume.get('name')!r}: {error}")
    return problems


def _empty(path: Path, source: Mapping[str, Any], group: int | None) -> None:
    """An empty directory, of memory where that is asked for (``medium: Memory``); what containers have put there stays.

    It has no permissions until it is whole, by which one is known that an agent was making when it was killed.
    """
    medium = str(source.get("medium") or "")
    if medium not in ("", "Memory"):
        raise ConfigError(f"emptyDir has medium {medium!r}, and only the default one and Memory are supported")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode):
            return
    mode = 0o777 if group is None else 0o2777
    if medium:
        limit = source.get("sizeLimit")
        mounts.mount_memory(str(path), mode=mode, group=group, size=int(parse_quantity(limit)) if limit is not None else None)
        return
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)


def has_limits(pod: Pod) -> bool:
    """Whether an emptyDir of this disk has a sizeLimit."""
    return any((one.get("emptyDir") or {}).get("sizeLimit") is not None and not one["emptyDir"].get("medium") for one in pod.spec.volumes or ())


def over_limit(pod: Pod, folder: Path) -> str | None:
    """Say which emptyDir of this disk holds more than its sizeLimit allows; None when none does."""
    for volume in pod.spec.volumes or ():
        source = volume.get("emptyDir") or {}
        if source.get("sizeLimit") is not None and not source.get("medium"):
            used, limit = disk_usage(folder / str(volume.get("name", ""))), parse_quantity(source["sizeLimit"])
            if used > limit:
                return f'Usage of EmptyDir volume "{volume.get("name")}" exceeds the limit "{source["sizeLimit"]}"'
    return None


def disk_usage(folder: Path) -> int:
    """Bytes of the files below a directory."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:  # it has gone meanwhile
                continue
    return total


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


def _files(volume: Mapping[str, Any], kind: str, pod: Pod, given: Given, facts: Facts) -> Files:
    files: Files = {}
    for part, source in _parts(volume, kind):
        if part == "downward":
            for item in source.get("items") or ():
                files[_relative(item.get("path"))] = (_downward(item, pod, facts).encode(), item.get("mode"))
            continue
        if part == "token":
            token = given.tokens.get(_token(source))
            if token is None:
                raise ConfigError("there is no token of the pod's ServiceAccount yet")
            files[_relative(source.get("path"))] = (token.encode(), _token_mode(pod))
            continue
        name = (source.get("secretName") or source.get("name", "")) if part == "secret" else source.get("name", "")
        found = given.objects.get((part, name))
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


def _token_mode(pod: Pod) -> int | None:
    """A token is for the pod's group alone, or for the superuser where nobody else runs; otherwise as the volume says."""
    shared = pod.spec.securityContext or {}
    if shared.get("fsGroup") is not None:
        return 0o640
    users = [(one.securityContext or {}).get("runAsUser", shared.get("runAsUser")) for one in (*(pod.spec.initContainers or ()), *pod.spec.containers)]
    return None if any(users) else 0o600


def texts_of(found: ConfigMap | Secret) -> Mapping[str, str]:
    """What variables are made of: all values of a Secret, of a ConfigMap those that are texts."""
    if isinstance(found, Secret):
        return {key: value.decode(errors="replace") for key, value in decoded_secret(found.data).items()}
    return found.data or {}


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
    if reference := item.get("resourceFieldRef"):
        wanted = reference.get("containerName")
        container = next((one for one in (*pod.spec.containers, *(pod.spec.initContainers or ())) if one.name == wanted), None)
        if container is None:
            raise ConfigError(f"downwardAPI volume: resourceFieldRef names container {wanted!r}, which the pod does not have")
        try:
            return amounts.field_value(reference, container, facts.allocatable)
        except ValueError as error:
            raise ConfigError(f"downwardAPI volume: {error}") from error
    path = (item.get("fieldRef") or {}).get("fieldPath", "")
    if path.split("[")[0] not in _ONLY_HERE:
        raise ConfigError(f"downwardAPI volume: {path or 'an item without fieldRef'} is not supported in a file")
    return field_value(path, pod, facts)


def _relative(path: Any) -> str:
    pure = PurePosixPath(str(path or ""))
    if not path or pure.is_absolute() or ".." in pure.parts or pure.parts[0].startswith(".."):
        raise ConfigError(f"a volume's item has path {path!r}, which is not a relative path without '..'")
    return str(pure)


def _swap(path: Path, files: Files, mode: int, group: int | None) -> None:
    """Let a volume hold these files, all at once; nothing is touched when it does already."""
    path.mkdir(parents=True, exist_ok=True)
    data = path / _DATA
    before = path / os.readlink(data) if data.is_symlink() else None
    wanted = {name: (content, own or mode) for name, (content, own) in files.items()}
    if before is not None and _held(before) == wanted:
        return
    fresh = path / f"..{time.time_ns()}"
    fresh.mkdir()
    for name, (content, own) in wanted.items():
        target = fresh / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if group is not None:
            os.chown(target, -1, group)
        target.chmod(own | (0o040 if group is not None else 0))
    link = path / "..data_tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.rename(data)
    tops = {PurePosixPath(name).parts[0] for name in wanted}
    for top in tops:
        if not (path / top).is_symlink():
            (path / top).symlink_to(f"{_DATA}/{top}")
    for entry in os.listdir(path):
        if entry not in tops and not entry.startswith(".."):
            (path / entry).unlink()
        elif entry.startswith("..") and entry not in (_DATA, fresh.name):
            shutil.rmtree(path / entry, ignore_errors=True)


def _held(folder: Path) -> dict[str, tuple[bytes, int]]:
    held = {}
    for root, _, names in os.walk(folder):
        for name in names:
            one = Path(root, name)
            held[str(one.relative_to(folder))] = (one.read_bytes(), one.stat().st_mode & 0o7777)
    return held


def is_recursive(mount: Mapping[str, Any]) -> bool:
    """Whether what is mounted below a volume is to be read-only, too (KEP-3857)."""
    return bool(mount.get("readOnly")) and mount.get("recursiveReadOnly") in ("Enabled", "IfPossible")


def mounts_of(container: Container, volumes: Mapping[str, Path], variables: Mapping[str, str], readonly: frozenset[str] = frozenset()) -> list[Mount]:
    """Where a container sees the volumes; those named *readonly* are never written through."""
    made = []
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
                if name in readonly:
                    raise ConfigError(f"volume {name!r} has no {below!r}")
                source.mkdir(parents=True)
            source = source.resolve()
            if not source.is_relative_to(volumes[name].resolve()):
                raise ConfigError(f"subPath {below!r} leads out of volume {name!r}")
        propagation = wanted.get("mountPropagation") or "None"
        if propagation == "Bidirectional":
            raise ConfigError(f"volumeMount {target!r}: mountPropagation Bidirectional is not supported, for what a container mounts ends with it")
        asked, recursively = bool(wanted.get("readOnly")), is_recursive(wanted)
        made.append(Mount(str(source), target, asked or name in readonly, propagation == "HostToContainer", recursively))
    return made


def from_the_api(pod: Pod) -> frozenset[str]:
    """The names of the volumes that the API fills."""
    return frozenset(str(volume.get("name", "")) for volume in pod.spec.volumes or () if kind_of(volume) in FROM_THE_API)
