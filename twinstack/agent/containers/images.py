"""The images that are kept on this machine: each unpacked once, found by its names.

Rule of this file: a directory is a whole image or does not exist: it is filled under another name and renamed.

::

    <images>/<64 hexadecimal digits>/image.json   names, configuration, size
                                     rootfs/      all layers, one over the other
                                     users/       a link to each container's bundle, so that no image is taken from under it
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from twinstack.agent.containers import layers
from twinstack.agent.containers.archives import Checked, ImageError, Shipped, opened

_REFERENCE = re.compile(
    r"(?:(?P<host>(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?)/)?(?P<path>[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is kept."""

    id: str  # sha256:… of its configuration
    names: tuple[str, ...]  # with registry and tag
    config: dict[str, Any]  # the OCI configuration's ``config``: Env, Entrypoint, Cmd, User, WorkingDir …
    size: int  # bytes of its layers, uncompressed
    created: float  # when it was loaded here
    rootfs: str = ""


def normalized(reference: str) -> str:
    """An image's name in full, as ``docker.io/library/busybox:latest``; ImageError when it is none."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ImageError(f"{reference!r} is not the name of an image")
    host, path = match["host"] or "", match["path"]
    if host and not ("." in host or ":" in host or host == "localhost"):
        host, path = "", f"{host}/{path}"
    if not host:
        host, path = "docker.io", path if "/" in path else f"library/{path}"
    return f"{host}/{path}" + (f":{match['tag'] or 'latest'}" if not match["digest"] else f"@{match['digest']}")


class Images:
    """The images below a directory, which several nodes of one machine may share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def all(self) -> list[Image]:
        """All images, by name."""
        try:
            entries = [entry for entry in os.listdir(self.directory) if len(entry) == 64]
        except FileNotFoundError:
            return []
        return sorted((image for entry in entries if (image := self._read(entry)) is not None), key=lambda image: (image.names, image.id))

    def _read(self, entry: str) -> Image | None:
        place = self.directory / entry
        try:
            image = msgspec.json.decode((place / "image.json").read_bytes(), type=Image)
        except FileNotFoundError:  # it was removed meanwhile
            return None
        except msgspec.MsgspecError as error:
            raise ImageError(f"{place}/image.json cannot be read: {error}") from error
        return msgspec.structs.replace(image, rootfs=str(place / "rootfs"))

    def find(self, reference: str) -> Image | None:
        """The image of a name, or of an id or the beginning of one; None when it is not here. ImageError for a name that is none."""
        images = self.all()
        text = reference.removeprefix("sha256:")
        if len(text) >= 6 and re.fullmatch(r"[0-9a-f]{6,64}", text):
            found = [image for image in images if image.id.removeprefix("sha256:").startswith(text)]
            if len(found) == 1:
                return found[0]
        name = normalized(reference)
        if "@" in name:
            return next((image for image in images if image.id == name.partition("@")[2] or name in image.names), None)
        return next((image for image in images if name in image.names), None)

    def load(self, path: Path, *, name: str = "") -> list[Image]:
        """Keep the images of an archive or a layout; *name* is for one that has none. ImageError when one cannot be kept."""
        wanted = (normalized(name),) if name else ()
        with opened(path) as shipped, self._locked():
            if name and len(shipped) > 1:
                raise ImageError(f"{path} has {len(shipped)} images, which cannot all be {name}")
            return [self._keep(one, wanted or _names_of(one, path)) for one in shipped]

    def _keep(self, shipped: Shipped, names: Sequence[str]) -> Image:
        digest = shipped.identity.removeprefix("sha256:")
        place = self.directory / digest
        known = self._read(digest) if place.is_dir() else None
        if known is None:
            draft = self.directory / f".new-{digest}"
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "rootfs").mkdir(parents=True)
            (draft / "users").mkdir()
            os.chmod(draft / "rootfs", 0o755)
            size = 0
            try:
                for layer in shipped.layers:
                    with Checked(layer) as stream:
                        layers.apply(stream, str(draft / "rootfs"))  # type: ignore[arg-type]
                        stream.finish()
                        size += stream.size
                config = shipped.config.get("config")
                known = Image(id=shipped.identity, names=(), config=config if isinstance(config, dict) else {}, size=size, created=time.time())
                _write(draft / "image.json", known)
                draft.rename(place)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        return self._named(known, names)

    def name(self, image: Image, name: str) -> Image:
        """Let a name mean an image that is kept already; ImageError when it was removed meanwhile."""
        with self._locked():
            known = self._read(image.id.removeprefix("sha256:"))
            if known is None:
                raise ImageError(f"image {image.id} was removed meanwhile")
            return self._named(known, [normalized(name)])

    def _named(self, known: Image, names: Sequence[str]) -> Image:
        place = self.directory / known.id.removeprefix("sha256:")
        image = msgspec.structs.replace(known, names=tuple(dict.fromkeys([*known.names, *names])), rootfs="")
        if image.names != known.names:
            _write(place / "image.json", image)
        for other in self.all():  # a name means the image that had it last
            if other.id != image.id and set(other.names) & set(names):
                kept = msgspec.structs.replace(other, names=tuple(one for one in other.names if one not in names), rootfs="")
                _write(self.directory / other.id.removeprefix("sha256:") / "image.json", kept)
        return msgspec.structs.replace(image, rootfs=str(place / "rootfs"))

    def remove(self, reference: str) -> Image:
        """Let go of a name, and of the image with its last one; ImageError when it is not here or a container uses it."""
        with self._locked():
            image = self.find(reference)
            if image is None:
                raise ImageError(f"there is no image {reference}")
            place = self.directory / image.id.removeprefix("sha256:")
            name = normalized(reference) if _REFERENCE.fullmatch(reference) else ""
            rest = tuple(one for one in image.names if one != name)
            if name in image.names and rest:
                _write(place / "image.json", msgspec.structs.replace(image, names=rest, rootfs=""))
                return image
            if users := list(self._users(place)):
                raise ImageError(f"image {reference} is used by {len(users)} container{'s' if len(users) > 1 else ''}: {', '.join(users[:3])}")
            gone = self.directory / f".gone-{place.name}"
            place.rename(gone)
            shutil.rmtree(gone)
        return image

    def use(self, image: Image, container: str, bundle: Path) -> None:
        """Note that a container's bundle lies over an image; the note is void once the bundle is gone."""
        link = self.directory / image.id.removeprefix("sha256:") / "users" / container
        try:
            os.symlink(bundle, link)
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise ImageError(f"image {image.id} was removed meanwhile") from None

    @staticmethod
    def _users(place: Path) -> Iterator[str]:
        for entry in sorted(os.listdir(place / "users")):
            link = place / "users" / entry
            if link.exists():
                yield entry
            else:
                link.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(self.directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for entry in os.listdir(self.directory):  # what a crash has left
                if entry.startswith((".new-", ".gone-")):
                    shutil.rmtree(self.directory / entry, ignore_errors=True)
            yield
        finally:
            os.close(descriptor)


def _names_of(shipped: Shipped, path: Path) -> list[str]:
    names = [normalized(name) for name in shipped.names if "/" in name or ":" in name]  # an OCI layout may tell a bare tag
    if not names:
        told = f" (only {', '.join(shipped.names)})" if shipped.names else ""
        raise ImageError(f"the image in {path} has no name{told}: give it one with --tag")
    return names


def _write(path: Path, image: Image) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(msgspec.json.encode(image))
    draft.replace(path)
