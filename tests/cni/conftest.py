"""A node and its pods as namespaces of a test's own, and the plugin executed as a runtime does it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from twinstack.api.cni import Attachment, network_config
from twinstack.cni.executable import native_client, write_executable
from twinstack.cni.plugin import ends_of
from twinstack.kernel import namespaces
from twinstack.net.family import FAMILIES


class Answer(NamedTuple):
    status: int
    document: Any


class Node:
    """A node's namespace; ``plugin(command, …)`` executes the plugin in it."""

    def __init__(self, path: str, place: Path, make: Callable[[str], str], *, native: bool = False) -> None:
        self.path = path
        self.make = make
        self.data_dir = place / "networks"
        self.executable = write_executable(str(place / "bin"), native=native)

    def config(self, *, version: str = "1.1.0", cidrs: tuple[str, ...] = ("10.7.1.0/24", "fd07:1::/64"), **more: Any) -> dict[str, Any]:
        whole = network_config("tst", cidrs, data_dir=str(self.data_dir))
        return {"cniVersion": version, "name": whole["name"], **whole["plugins"][0], **more}

    def plugin(self, command: str, netns: str = "", *, container: str = "c1", interface: str = "eth0", stdin: bytes | None = None, **config: Any) -> Answer:
        data = json.dumps(self.config(**config)).encode() if stdin is None else stdin
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns, "CNI_IFNAME": interface, "CNI_PATH": "/nowhere"}
        with namespaces.entered(self.path):
            process = subprocess.Popen([self.executable], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(data)
        assert err == b"", err.decode()
        if command == "DEL":
            self.until_unwired(container, interface)
        return Answer(process.returncode, json.loads(out) if out else None)

    def until_unwired(self, container: str, interface: str) -> None:
        """DEL answers before the kernel has let go of the link."""
        name = ends_of(Attachment(container, interface)).host_link
        for _ in range(500):
            if name not in self.links():
                return
            time.sleep(0.002)

    def kept(self) -> set[str]:
        """The addresses that are kept as given out."""
        place = self.data_dir / "tst"
        return {name for name in os.listdir(place) if name[0] != "." and name != "lock" and not name.startswith("last")} if place.is_dir() else set()

    def links(self) -> set[str]:
        from twinstack.kernel.netlink import Netlink

        with Netlink(self.path) as kernel:
            return {link.name for link in kernel.links()}


@pytest.fixture
def netns() -> Iterator[Callable[[str], str]]:
    made: list[str] = []

    def make(name: str) -> str:
        path = f"/run/netns/tst-{os.getpid()}-{name}"
        namespaces.create(path, [pair for family in FAMILIES for pair in family.facts.route_default_sysctls] if name.startswith("node") else ())
        made.append(path)
        return path

    yield make
    for path in made:
        namespaces.remove(path)


@pytest.fixture
def native() -> bool:
    """Whether the executable is the compiled client; a test's module parametrizes this to run with both."""
    return native_client() is not None


@pytest.fixture
def node(netns: Callable[[str], str], tmp_path: Path, native: bool) -> Node:
    return Node(netns("node"), tmp_path, netns, native=native)
