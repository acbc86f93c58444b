"""Addresses that another plugin gives out in our place (``ipam.type``), found on CNI_PATH and executed with what we were given.

Facts: CNI specification 1.1.0, section 4: the same environment and the whole configuration on stdin; a result without
interfaces comes back.
"""

from __future__ import annotations

import os

from twinstack.api import cni
from twinstack.api.cni import CNIError, Document
from twinstack.kernel.errors import KernelError

_TIMEOUT_SECONDS = 60.0
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def call(kind: str, command: str, environment: dict[str, str], data: bytes) -> Document:
    """What the plugin *kind* answers to a command; its failure is a CNIError with its code."""
    from twinstack.kernel.executing import execute

    path = find(kind, environment.get("CNI_PATH", ""))
    variables = {name: value for name, value in environment.items() if name.startswith("CNI_")}
    try:
        done = execute([path], env={"PATH": _SEARCH_PATH, **variables, "CNI_COMMAND": command}, stdin=data, timeout_seconds=_TIMEOUT_SECONDS)
    except TimeoutError as error:
        raise CNIError(cni.IO_FAILURE, f"ipam.type {kind} did not answer", str(error)) from error
    except KernelError as error:
        raise CNIError(cni.IO_FAILURE, f"ipam.type {kind} cannot be run", str(error)) from error
    if done.returncode == 0:
        return cni.decode(done.stdout) if done.stdout.strip() else {}
    try:
        told = cni.decode(done.stdout)
        raise CNIError(int(told["code"]), f"{kind}: {told['msg']}", str(told.get("details") or ""))
    except (KeyError, TypeError, ValueError):
        text = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise CNIError(cni.IO_FAILURE, f"{kind} ended with status {done.returncode}", text[-500:]) from None


def find(kind: str, search: str) -> str:
    """The plugin's executable; CNIError 7 when it is nowhere on the path."""
    for folder in filter(None, search.split(":")):
        path = os.path.join(folder, kind)
        if os.access(path, os.X_OK):
            return path
    raise CNIError(cni.BAD_CONFIG, f"ipam.type {kind} is not on CNI_PATH", search or "CNI_PATH is empty")
