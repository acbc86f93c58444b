"""Layers of an image, one after the other, into a directory: nothing lands outside of it, whatever they say.

Rule of this file: every path is walked link by link inside the root, as the container would walk it, before anything is made there.

Facts: OCI image specification 1.1, layers: ``.wh.NAME`` takes NAME of the layers below away, ``.wh..wh..opq`` all that
a directory has of them; extended attributes are PAX headers ``SCHILY.xattr.*``.
"""

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
from contextlib import suppress
from typing import IO

from twinstack.agent.containers.archives import ImageError

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_MOST_LINKS = 40  # as the kernel's ELOOP


def apply(layer: IO[bytes], root: str) -> None:
    """Unpack one layer's tar stream over what *root* holds; ImageError when it is malformed or tries to leave."""
    made: set[str] = set()  # by this layer: what opaque directories keep
    times: list[tuple[str, float]] = []
    try:
        with tarfile.open(fileobj=layer, mode="r|") as tar:
            for member in tar:
                _member(tar, member, root, made, times)
    except tarfile.TarError as error:
        raise ImageError(f"a layer is not a tar archive: {error}") from error
    for path, moment in reversed(times):  # of directories, which change as they are filled
        with suppress(OSError):
            os.utime(path, (moment, moment), follow_symlinks=False)


def _parts(name: str) -> list[str]:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise ImageError(f"a layer has the path {name!r}, which leaves the image")
    return parts


def within(root: str, parts: list[str], *, make: bool = False) -> str:
    """The directory that a path means inside the root, its symbolic links followed there; ImageError for endless links."""
    current: list[str] = []
    waiting, links = list(parts), 0
    while waiting:
        part = waiting.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            current = current[:-1]
            continue
        path = os.path.join(root, *current, part)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if make:
                os.mkdir(path, 0o755)
            current.append(part)
            continue
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MOST_LINKS:
                raise ImageError(f"a layer has links without end at {'/'.join(parts)!r}")
            target = os.readlink(path)
            if target.startswith("/"):
                current = []
            waiting = [*target.split("/"), *waiting]
            continue
        if make and not stat.S_ISDIR(mode):
            os.unlink(path)
            os.mkdir(path, 0o755)
        current.append(part)
    return os.path.join(root, *current)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, root: str, made: set[str], times: list[tuple[str, float]]) -> None:
    parts = _parts(member.name)
    if not parts:
        if member.isdir():
            os.chmod(root, stat.S_IMODE(member.mode))
            os.lchown(root, member.uid, member.gid)
        return
    parent, name = within(root, parts[:-1], make=True), parts[-1]
    if name == _OPAQUE:
        _clear(parent, made)
        return
    if name.startswith(_WHITEOUT):
        _remove(os.path.join(parent, name.removeprefix(_WHITEOUT)))
        return
    path = os.path.join(parent, name)
    _make_room(path, directory=member.isdir())
    if member.isdir():
        with suppress(FileExistsError):
            os.mkdir(path)
    elif member.isreg():
        source = tar.extractfile(member)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            if source is not None:
                shutil.copyfileobj(source, file, 1 << 18)
    elif member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        where = _parts(member.linkname)
        target = os.path.join(within(root, where[:-1]), where[-1]) if where else root
        try:
            os.link(target, path, follow_symlinks=False)
        except OSError as error:
            raise ImageError(f"a layer links {member.name!r} to {member.linkname!r}: {error.strerror}") from error
    elif member.isfifo():
        os.mkfifo(path)
    elif member.ischr() or member.isblk():
        os.mknod(path, stat.S_IMODE(member.mode) | (stat.S_IFCHR if member.ischr() else stat.S_IFBLK), os.makedev(member.devmajor, member.devminor))
    else:
        raise ImageError(f"a layer has {member.name!r} of a kind that is not known ({member.type!r})")
    # its parents too: an opaque directory keeps what this layer put below it
    while path not in made:
        made.add(path)
        path = os.path.dirname(path)
        if path == root:
            break
    path = os.path.join(parent, name)
    if member.islnk():
        return
    os.lchown(path, member.uid, member.gid)
    if not member.issym():
        os.chmod(path, stat.S_IMODE(member.mode))  # after the owner, whose change clears setuid
        for key, text in member.pax_headers.items():
            if key.startswith(_XATTR):
                with suppress(OSError):  # a file system without them
                    os.setxattr(path, key.removeprefix(_XATTR), text.encode(errors="surrogateescape"), follow_symlinks=False)
    if member.isdir():
        times.append((path, member.mtime))
    else:
        with suppress(OSError):
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _clear(directory: str, made: set[str]) -> None:
    """Take away what a directory has of the layers below, at any depth."""
    for entry in os.listdir(directory):
        path = os.path.join(directory, entry)
        if path not in made:
            _remove(path)
        elif stat.S_ISDIR(os.lstat(path).st_mode):
            _clear(path, made)


def _make_room(path: str, *, directory: bool) -> None:
    """Take away what stands at a path, unless it is a directory and one is to come."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not (directory and stat.S_ISDIR(mode)):
        _remove(path)


def _remove(path: str) -> None:
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


def read_inside(root: str, name: str, most: int = 1 << 20) -> str:
    """A text file of an image, such as /etc/passwd, its links followed inside the root; empty when there is none."""
    parts = [part for part in posixpath.normpath(name).split("/") if part]
    try:
        with open(within(root, parts), encoding="utf-8", errors="replace") as file:
            return file.read(most)
    except (OSError, ImageError):
        return ""
