"""Where a cluster keeps its things on this machine, and the marks that its things are found by.

Rule of this file: names only; nothing is made or looked at.

Theory. Everything a cluster makes bears its name in a place that is known beforehand: its namespaces, its two
directories, an environment variable in its processes. So it can be removed without any record of it, after a
crash or a reboot, and nothing else is touched. Roles are a closed set, so that the namespaces of a cluster ``a`` are
never taken for those of ``a-b``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

MARK = "TWINSTACK_CLUSTER"  # environment variable of every process of a cluster
API_PORT = 6443
NETNS_DIR = "/run/netns"
RUNTIME_DIR = "/run/twinstack"
ROLES = r"fabric|outside|control-plane|node[1-9][0-9]*"
_NETNS = re.compile(rf"twinstack-(.+)-({ROLES})")


def state_home(environment: Mapping[str, str] | None = None) -> str:
    """The directory of all clusters' state: below XDG_STATE_HOME, else ~/.local/state."""
    environment = os.environ if environment is None else environment
    base = environment.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # the specification has relative ones ignored
        base = os.path.join(environment.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "twinstack")


class Files(NamedTuple):
    """A certificate and its key, as files."""

    certificate: str
    key: str


def cluster_of_netns(name: str) -> tuple[str, str] | None:
    """The cluster and role that a namespace's name tells; None for one that is not ours."""
    match = _NETNS.fullmatch(name)
    return (match[1], match[2]) if match else None


class Places(NamedTuple):
    """The paths of one cluster."""

    name: str
    state: str  # survives a reboot: record, keys, the API server's data, logs
    runtime: str  # does not: sockets, pods' namespaces

    @staticmethod
    def of(name: str, environment: Mapping[str, str] | None = None) -> Places:
        return Places(name, os.path.join(state_home(environment), name), os.path.join(RUNTIME_DIR, name))

    def netns(self, role: str) -> str:
        """The namespace of a role: ``fabric``, ``outside``, ``control-plane`` or a node."""
        return f"{NETNS_DIR}/twinstack-{self.name}-{role}"

    @property
    def record(self) -> str:
        """What was asked for, so that the rest can be computed again."""
        return f"{self.state}/cluster.json"

    @property
    def components(self) -> str:
        """What the supervisor knows of its processes, kept up to date."""
        return f"{self.runtime}/components.json"

    @property
    def control(self) -> str:
        """The supervisor's socket."""
        return f"{self.runtime}/control.sock"

    @property
    def pki(self) -> str:
        return f"{self.state}/pki"

    @property
    def logs(self) -> str:
        return f"{self.state}/logs"

    @property
    def apiserver_data(self) -> str:
        return f"{self.state}/apiserver"

    @property
    def images(self) -> str:
        """The images that all nodes share."""
        return f"{self.state}/images"

    @property
    def cni_bin(self) -> str:
        return f"{self.runtime}/cni/bin"

    @property
    def link(self) -> str:
        """Leads to the state of a cluster that somebody else's environment put elsewhere (sudo changes HOME)."""
        return f"{self.runtime}/state"

    def kubeconfig(self, who: str) -> str:
        """A component's own kubeconfig, or ``admin``'s."""
        return f"{self.state}/kubeconfigs/{who}.conf"

    def log(self, component: str) -> str:
        """A component's log; ``node1/kubelet`` has a directory for its node."""
        return f"{self.logs}/{component}.log"

    def control_group(self, node: str = "") -> str:
        """The name of the control group of a node's pods; without a node, what those of all of them begin with."""
        return f"twinstack-{self.name}.{node}"

    def node_runtime(self, node: str) -> str:
        return f"{self.runtime}/{node}"

    def pod_netns_dir(self, node: str) -> str:
        """Where the namespaces of a node's pods are, each named by its pod's uid."""
        return f"{self.runtime}/{node}/netns"

    def node_root(self, node: str) -> str:
        """A kubelet's own directory."""
        return f"{self.state}/nodes/{node}"

    def cni_conf(self, node: str) -> str:
        return f"{self.runtime}/{node}/cni/net.d"

    def cni_data(self, node: str) -> str:
        """Where the plugin keeps addresses: gone after a reboot, as the pods are."""
        return f"{self.runtime}/{node}/cni/networks"


def files_of(places: Places, name: str) -> Files:
    return Files(f"{places.pki}/{name}.crt", f"{places.pki}/{name}.key")
