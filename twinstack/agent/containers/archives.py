"""Images as others ship them: OCI layouts, as a directory or an archive, and Docker's archives. Read, never trusted.

Rule of this file: bytes in; a description of the image and its layers as streams out. Where files land is ``layers``' business.

Facts: OCI image specification 1.1 (layout, index, manifest, configuration); ``docker save``'s manifest.json. Every blob is
checked against the digest that it is named by.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from twinstack.net.errors import Error

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")  # annotations that name an image
_LARGEST_DOCUMENT = 16 << 20  # bytes of one JSON document
_LARGEST_WINDOW = 128 << 20  # bytes of memory that a layer compressed with zstd may ask for


class ImageError(Error):
    """An archive is not an image that can be kept, or there is no such image."""


class Layer(NamedTuple):
    """A layer: how to open it, the digest of its bytes where known, and that of its uncompressed bytes."""

    open: Callable[[], IO[bytes]]
    digest: str
    diff_id: str


class Shipped(NamedTuple):
    """An image in an archive: its names, its identity (the digest of its configuration), configuration and layers."""

    names: tuple[str, ...]
    identity: str
    config: Mapping[str, Any]
    layers: tuple[Layer, ...]


@contextmanager
def opened(path: Path) -> Iterator[list[Shipped]]:
    """The images of an archive or layout directory, to be read within the body; ImageError when there is none in it."""
    try:
        if path.is_dir():
            yield _images(_Directory(path))
            return
        with tarfile.open(path, "r:*") as tar:
            yield _images(_Tar(tar))
    except tarfile.TarError as error:
        raise ImageError(f"{path} is not an image archive: {error}") from error
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes] | None:
        try:
            return (self._path / name).open("rb")
        except FileNotFoundError:
            return None


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members = {member.name.removeprefix("./"): member for member in tar if member.isfile() or member.issym() or member.islnk()}

    def open(self, name: str) -> IO[bytes] | None:
        member = self._members.get(name)
        for _ in range(8):  # docker save makes links of layers that occur twice
            if member is None or member.isfile():
                break
            target = member.linkname if member.islnk() else os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
            member = self._members.get(target.removeprefix("./"))
        return None if member is None or not member.isfile() else self._tar.extractfile(member)


_Source = _Directory | _Tar


def _images(source: _Source) -> list[Shipped]:
    if (file := source.open("manifest.json")) is not None:
        found = [_of_docker(source, entry) for entry in _document(file, "manifest.json", list)]
    elif (file := source.open("index.json")) is not None:
        index = _document(file, "index.json", dict)
        found = [one for entry in index.get("manifests") or [] for one in _of_oci(source, entry, ())]
    else:
        raise ImageError("it is not an image: there is neither a manifest.json (docker save) nor an index.json (OCI layout) in it")
    if not found:
        raise ImageError(f"there is no image for linux/{_architecture()} in it")
    return found


def _architecture() -> str:
    return _MACHINES.get(platform.machine(), platform.machine())


def _document(file: IO[bytes], name: str, kind: type) -> Any:
    with file:
        data = file.read(_LARGEST_DOCUMENT + 1)
    try:
        document = json.loads(data) if len(data) <= _LARGEST_DOCUMENT else None
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{name} is not JSON: {error}") from None
    if not isinstance(document, kind):
        raise ImageError(f"{name} is not what an image has there")
    return document


def _of_docker(source: _Source, entry: Any) -> Shipped:
    try:
        config_name, layer_names = str(entry["Config"]), [str(name) for name in entry["Layers"]]
        names = tuple(str(name) for name in entry.get("RepoTags") or ())
    except (KeyError, TypeError) as error:
        raise ImageError(f"manifest.json lacks {error}") from None
    file = source.open(config_name)
    if file is None:
        raise ImageError(f"{config_name} is missing")
    with file:
        data = file.read(_LARGEST_DOCUMENT)
    config = _document(io.BytesIO(data), config_name, dict)
    diff_ids = _diff_ids(config)
    if len(diff_ids) != len(layer_names):
        raise ImageError(f"the configuration has {len(diff_ids)} layers, the archive {len(layer_names)}")
    layers = tuple(Layer(_opener(source, name), "", diff_id) for name, diff_id in zip(layer_names, diff_ids, strict=True))
    return Shipped(names, f"sha256:{hashlib.sha256(data).hexdigest()}", config, layers)


def _of_oci(source: _Source, entry: Any, names: tuple[str, ...]) -> Iterator[Shipped]:
    """The images of an index's entry that are for this machine; an entry may be an index itself."""
    if not isinstance(entry, dict):
        raise ImageError("an index has an entry that is none")
    notes = entry.get("annotations") or {}
    names = tuple(dict.fromkeys(notes[key] for key in _NAMES if notes.get(key))) or names
    wanted = entry.get("platform") or {}
    if wanted and (wanted.get("os", "linux"), wanted.get("architecture", _architecture())) != ("linux", _architecture()):
        return
    manifest = _blob_document(source, str(entry.get("digest", "")))
    if "manifests" in manifest:
        for inner in manifest["manifests"] or []:
            yield from _of_oci(source, inner, names)
        return
    try:
        identity, entries = str(manifest["config"]["digest"]), [(str(one["digest"]), str(one.get("mediaType", ""))) for one in manifest["layers"]]
    except (KeyError, TypeError) as error:
        raise ImageError(f"a manifest lacks {error}") from None
    config = _blob_document(source, identity)
    if "rootfs" not in config:  # an attestation or another artifact
        return
    diff_ids = _diff_ids(config)
    if len(diff_ids) != len(entries):
        raise ImageError(f"the configuration has {len(diff_ids)} layers, the manifest {len(entries)}")
    layers = tuple(Layer(_opener(source, _blob_name(digest)), digest, diff_id) for (digest, _), diff_id in zip(entries, diff_ids, strict=True))
    yield Shipped(names, identity, config, layers)


def _diff_ids(config: Mapping[str, Any]) -> list[str]:
    try:
        return [str(one) for one in config["rootfs"]["diff_ids"]]
    except (KeyError, TypeError):
        raise ImageError("the configuration names no layers (rootfs.diff_ids)") from None


def _blob_name(digest: str) -> str:
    algorithm, _, text = digest.partition(":")
    if algorithm != "sha256" or len(text) != 64 or any(c not in "0123456789abcdef" for c in text):
        raise ImageError(f"{digest!r} is not a digest that is known here (sha256)")
    return f"blobs/sha256/{text}"


def _blob_document(source: _Source, digest: str) -> dict[str, Any]:
    name = _blob_name(digest)
    file = source.open(name)
    if file is None:
        raise ImageError(f"blob {digest} is missing")
    with file:
        data = file.read(_LARGEST_DOCUMENT)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise ImageError(f"blob {digest} has other content than its name says")
    document: dict[str, Any] = _document(io.BytesIO(data), name, dict)
    return document


def _opener(source: _Source, name: str) -> Callable[[], IO[bytes]]:
    def opener() -> IO[bytes]:
        file = source.open(name)
        if file is None:
            raise ImageError(f"layer {name} is missing")
        return file

    return opener


class Checked(io.RawIOBase):
    """A layer's uncompressed bytes, counted and digested as they are read; ``finish`` compares with what was promised."""

    def __init__(self, layer: Layer) -> None:
        self._layer, self._digest = layer, hashlib.sha256()
        raw = layer.open()
        magic = raw.read(4)
        raw.seek(0)
        self._raw = raw
        self._file: IO[bytes] = raw
        self._failures: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
        if magic[:2] == b"\x1f\x8b":  # RFC 1952
            self._file = gzip.GzipFile(fileobj=raw, mode="rb")  # type: ignore[assignment]
        elif magic == b"\x28\xb5\x2f\xfd":  # RFC 8878
            import zstandard  # rare, and a megabyte

            self._failures += (zstandard.ZstdError,)
            self._file = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).stream_reader(raw, read_across_frames=True)
        self.size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._file.read(size)
        except self._failures as error:
            raise ImageError(f"layer {self._layer.diff_id} cannot be uncompressed: {error}") from error
        self._digest.update(data)
        self.size += len(data)
        return data

    def finish(self) -> None:
        """Read what is left; ImageError when the layer is not what the configuration says."""
        while self.read(1 << 20):
            pass
        if f"sha256:{self._digest.hexdigest()}" != self._layer.diff_id:
            raise ImageError(f"layer {self._layer.diff_id} has other content than the configuration says")

    def close(self) -> None:
        self._file.close()
        self._raw.close()
        super().close()
