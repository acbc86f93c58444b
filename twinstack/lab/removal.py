"""Finding what belongs to a cluster, and removing exactly that.

Rule of this file: everything is found by its mark (``lab.places``), nothing by a record; so removal works after
a crash or a reboot, and a second time.

Order: the supervisor first, which would start again what ends; then every process that bears the cluster's mark
or lives in one of its namespaces, those of its pods among them; then namespaces, mounts, files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from twinstack.client import kubeconfig
from twinstack.kernel import cgroups, namespaces, processes
from twinstack.kernel.errors import translated
from twinstack.kernel.mounts import unmount_below
from twinstack.lab.errors import LabError
from twinstack.lab.places import MARK, NETNS_DIR, RUNTIME_DIR, Places, cluster_of_netns, state_home
from twinstack.lab.record import read_components, read_record
from twinstack.lab.topology import context_of

_ROUNDS = 20  # of looking for processes; each round ends all that were found


def names() -> list[str]:
    """The clusters of this machine, or what is left of them, by name."""
    found = set()
    for directory in (state_home(), RUNTIME_DIR):
        if os.path.isdir(directory):
            found |= {entry.name for entry in os.scandir(directory) if entry.is_dir()}
    found |= {told[0] for entry in _entries(NETNS_DIR) if (told := cluster_of_netns(entry))}
    found |= {name for pid in processes.marked(MARK) if (name := processes.variable(pid, MARK))}
    return sorted(found)


def find(name: str) -> Places:
    """The places of a cluster, also when it was made under another HOME or XDG_STATE_HOME and still has its link."""
    places = Places.of(name)
    try:
        state = os.readlink(places.link)
    except OSError:  # there is none
        return places
    return places._replace(state=state) if os.path.isabs(state) and os.path.basename(state) == name else places


def exists(places: Places) -> bool:
    """Whether anything of the cluster is left on this machine."""
    return bool(os.path.isdir(places.state) or os.path.isdir(places.runtime) or namespaces_of(places) or processes.marked(MARK, places.name))


def namespaces_of(places: Places) -> list[str]:
    """The files of the cluster's namespaces and its pods', living or stale."""
    own = [f"{NETNS_DIR}/{entry}" for entry in _entries(NETNS_DIR) if (told := cluster_of_netns(entry)) and told[0] == places.name]
    nodes = [entry.path for entry in os.scandir(places.runtime) if entry.is_dir()] if os.path.isdir(places.runtime) else []
    return own + [f"{node}/netns/{entry}" for node in nodes for entry in _entries(f"{node}/netns")]


def processes_of(places: Places) -> list[int]:
    """The processes that bear the cluster's mark or live in one of its namespaces; never ourselves."""
    found = {*processes.marked(MARK, places.name), *namespaces.processes_in_any(namespaces_of(places))}
    return sorted(found - {os.getpid()})


def remove(places: Places) -> bool:
    """Remove everything of a cluster; False when there was nothing."""
    there = exists(places)
    record = read_record(places)
    _end_processes(places)
    for path in namespaces_of(places):
        namespaces.remove(path)
    cgroups.remove_named(places.control_group())
    with translated(f"remove the files of cluster {places.name}"):
        for directory in (places.runtime, places.state):
            unmount_below(directory)
            if os.path.isdir(directory):
                shutil.rmtree(directory)
    _tidy()
    files = {record.kubeconfig} if record and record.kubeconfig else set()
    for path in files | {str(kubeconfig.file_to_write())}:
        there = kubeconfig.remove(path, context_of(places.name)) or there
    return there


def _end_processes(places: Places) -> None:
    """End all processes; the supervisor before those that it would start again."""
    known = read_components(places)
    if known is not None and processes.variable(known.supervisor, MARK) == places.name and known.supervisor != os.getpid():
        processes.end(known.supervisor, 0)
    for _ in range(_ROUNDS):
        found = processes_of(places)
        if not found:
            return
        processes.end_all(found, 0)
    raise LabError(f"processes of cluster {places.name} do not end: {', '.join(map(str, found))}")


def _tidy() -> None:
    """Remove the directories that all clusters share when the last one is gone; a directory in use stays."""
    for directory in (RUNTIME_DIR, state_home()):
        try:
            os.rmdir(directory)
        except OSError:  # not empty, or not there
            continue


def _entries(directory: str) -> Iterable[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
