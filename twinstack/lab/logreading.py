"""Reading the logs of a cluster's components, to the end or for ever."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from io import BufferedReader

from twinstack.lab.places import Places

_PAUSE_SECONDS = 0.1
_SUFFIX = ".log"


def logs_of(places: Places, component: str) -> dict[str, str]:
    """The logs of a component by name; ``kubelet`` means that of every node, nothing means all."""
    found = {}
    for directory, _, names in os.walk(places.logs):
        for name in names:
            if name.endswith(_SUFFIX):
                path = os.path.join(directory, name)
                found[os.path.relpath(path, places.logs).removesuffix(_SUFFIX)] = path
    chosen = {name: path for name, path in sorted(found.items()) if component in ("", name)}
    return chosen or {name: path for name, path in sorted(found.items()) if name.rpartition("/")[2] == component}


def lines(logs: Mapping[str, str], *, tail: int | None = None, follow: bool = False) -> Iterator[str]:
    """The lines of logs, each after its log's name where there are several; with *follow* what is added, for ever."""
    width = max(map(len, logs), default=0)
    files: dict[str, BufferedReader] = {}
    before = {name: _kept(path) for name, path in logs.items()}
    try:
        for name, path in logs.items():
            file = files[name] = open(path, "rb")  # noqa: SIM115 - closed below, with the others
            read = deque(file, maxlen=tail) if tail is not None else file
            yield from (_shown(name, line, width, len(logs)) for line in read)
        rests = dict.fromkeys(files, b"")
        while follow:
            quiet = True
            for name, file in files.items():
                if (kept := _kept(logs[name])) != before[name]:  # it was begun anew
                    before[name] = kept
                    file.seek(0)
                if data := file.read():
                    quiet = False
                    *whole, rests[name] = (rests[name] + data).split(b"\n")
                    yield from (_shown(name, line, width, len(logs)) for line in whole)
            if quiet:
                time.sleep(_PAUSE_SECONDS)
    finally:
        for file in files.values():
            file.close()


def _kept(path: str) -> int:
    """Which file has a log's beginning that was cut off; 0 for none."""
    try:
        return os.stat(f"{path}.1").st_ino
    except FileNotFoundError:
        return 0


def _shown(name: str, line: bytes, width: int, logs: int) -> str:
    text = line.decode(errors="replace").rstrip("\n")
    return f"{name:<{width}}  {text}" if logs > 1 else text
