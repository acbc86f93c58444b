"""The file that a runtime executes: a script of a few lines that starts the interpreter as bare as it goes."""

from __future__ import annotations

import os
import sys

import twinstack
from twinstack.api.cni import PLUGIN
from twinstack.kernel.errors import translated
from twinstack.net.errors import Error

_LONGEST_FIRST_LINE = 255  # the kernel cuts there (BINPRM_BUF_SIZE)


def write_executable(directory: str) -> str:
    """Write ``twinstack-cni`` into a directory, replacing an older one, and return its path.

    It names the real interpreter, not a shim or a link of a virtual environment, and runs it isolated and
    without site-packages (``-IS``); the package's own place is the only one added.
    """
    interpreter, place = os.path.realpath(sys.executable), os.path.dirname(os.path.dirname(os.path.realpath(twinstack.__file__)))
    first = f"#!{interpreter} -IS"
    if " " in interpreter or len(first) > _LONGEST_FIRST_LINE:
        raise Error(f"the interpreter {interpreter} cannot start a script: its path has a space or is longer than {_LONGEST_FIRST_LINE - 6} characters")
    text = f"{first}\nimport sys\n\nsys.path.insert(0, {place!r})\nfrom twinstack.cni.thin import main\n\nmain()\n"
    path, draft = os.path.join(directory, PLUGIN), os.path.join(directory, f".{PLUGIN}.{os.getpid()}")
    with translated(f"write {path}"):
        os.makedirs(directory, mode=0o755, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(draft, path)
    return path
