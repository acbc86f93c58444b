"""The files that a runtime executes: a small native client where one was compiled, and a script that starts the interpreter as bare as it goes."""

from __future__ import annotations

import importlib.util
import os
import sys

import twinstack
from twinstack.api.cni import IPAM, PLUGIN
from twinstack.kernel.errors import translated
from twinstack.net.errors import Error

_LONGEST_FIRST_LINE = 255  # the kernel cuts there (BINPRM_BUF_SIZE)


def native_client() -> str | None:
    """The client that set-up has compiled from ``native/twinstack-cni.c``; None where there was no compiler."""
    path = os.path.join(sys.prefix, "libexec", PLUGIN)
    return path if os.access(path, os.X_OK) else None


def write_executable(directory: str, *, native: bool = True) -> str:
    """Write ``twinstack-cni`` and ``twinstack-ipam`` into a directory, replacing older ones, and return the first one's path.

    Each is the native client, if there is one and *native* is not false, with a script beside it (``NAME.py``) that it becomes
    where no daemon listens; else the script itself. The script names the real interpreter, not a shim or a link of a virtual
    environment, and runs it isolated and without site-packages (``-IS``); the package's own place is added, and last the one of
    the libraries, which only host ports ask for.
    """
    interpreter, place = os.path.realpath(sys.executable), os.path.dirname(os.path.dirname(os.path.realpath(twinstack.__file__)))
    first = f"#!{interpreter} -IS"
    if " " in interpreter or len(first) > _LONGEST_FIRST_LINE:
        raise Error(f"the interpreter {interpreter} cannot start a script: its path has a space or is longer than {_LONGEST_FIRST_LINE - 6} characters")
    library = importlib.util.find_spec("msgspec")
    libraries = [] if library is None or library.origin is None else [os.path.dirname(os.path.dirname(library.origin))]
    paths = f"sys.path[:] = [{place!r}, *sys.path, *{libraries!r}]"
    client = native_client() if native else None
    for name in (IPAM, PLUGIN):
        script = f"{first}\nimport sys\n\n{paths}\nfrom twinstack.cni.thin import main\n\nmain({name!r})\n".encode()
        _write(directory, f"{name}.py", script)
        path = _write(directory, name, script if client is None else _content_of(client))
    return path


def _content_of(path: str) -> bytes:
    with translated(f"read {path}"), open(path, "rb") as file:
        return file.read()


def _write(directory: str, name: str, content: bytes) -> str:
    path, draft = os.path.join(directory, name), os.path.join(directory, f".{name}.{os.getpid()}")
    with translated(f"write {path}"):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    return path
