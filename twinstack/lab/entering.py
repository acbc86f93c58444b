"""Standing where a part of a cluster stands: a shell or a command on a node, outside, or in a pod."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from twinstack.kernel import mounts, namespaces
from twinstack.kernel.errors import KernelError
from twinstack.lab.errors import LabError
from twinstack.lab.places import Places
from twinstack.lab.topology import Topology


def environment_of(topology: Topology, places: Places, where: str) -> dict[str, str]:
    """Our own environment, with the cluster's kubeconfig where the API server can be reached from."""
    environment = dict(os.environ, TWINSTACK_NODE=where)
    if where not in (topology.outside.name, "fabric"):
        environment["KUBECONFIG"] = places.kubeconfig("admin")
    return environment


def roles(topology: Topology) -> list[str]:
    """The places of a cluster that are namespaces of their own, beside its pods."""
    return [*(node.name for node in topology.nodes), topology.control_plane.name, topology.outside.name, "fabric"]


def enter_role(places: Places, role: str, command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Become a command in a role's network namespace."""
    _enter(places.netns(role), role)
    mounts.show_own_devices()
    _become(command, environment)


def enter_pod(places: Places, node: str, uid: str, name: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command in a pod's namespaces, and return its exit status; only the pod's network where no container runs."""
    path = f"{places.pod_netns_dir(node)}/{uid}"
    if not namespaces.exists(path):
        raise LabError(f"pod {name} has no network namespace on {node} yet")
    inside = sorted(namespaces.processes_in(path))
    if not inside:
        _enter(path, name)
        _become(command, environment)
    namespaces.join(inside[0])
    child = os.fork()  # process ids are those of the pod from the next process on
    if child == 0:
        _become(command, environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the child's to answer
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _enter(path: str, name: str) -> None:
    try:
        namespaces.enter(path)
    except KernelError as error:
        raise LabError(f"only root may enter {name}: run it with sudo" if error.denied else f"{name} is not there: {error}") from error


def _become(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(command[0], list(command), dict(environment))
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)
