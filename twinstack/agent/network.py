"""The runtime's side of the Container Network Interface: which network there is, and its plugins called in turn.

Facts: CNI specification 1.1.0, sections 2 to 4. The lexically first configuration counts; ADD runs the chain in
order, each plugin given the result before it; DEL runs it backwards with the result that ADD ended with.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from twinstack.api import cni
from twinstack.kernel import processes
from twinstack.kernel.errors import KernelError
from twinstack.net.family import Address

log = logging.getLogger(__name__)

Document = dict[str, Any]
OWN_FILE = "10-twinstack.conflist"
INTERFACE = "eth0"
RANGES = "ipRanges"
TIMEOUT_SECONDS = 60.0
MOST_AT_ONCE = 8
RETRIES, RETRY_SECONDS = 3, 0.2


class Configuration(NamedTuple):
    """A network configuration list."""

    name: str
    version: str
    plugins: tuple[Document, ...]
    disable_check: bool = False

    def document(self) -> Document:
        return {"cniVersion": self.version, "name": self.name, "disableCheck": self.disable_check, "plugins": list(self.plugins)}


class Attachment(NamedTuple):
    """A container to attach: its identity for the plugins, its network namespace, and what they may want to know."""

    container: str
    netns: str
    arguments: Mapping[str, str] = {}
    runtime: Mapping[str, Any] = {}  # what plugins are told that declare the capability, such as portMappings


def parse_configuration(data: bytes) -> Configuration:
    """A ``.conflist``, or a single plugin's ``.conf`` as a list of one; CNIError 7 when it is none."""
    document = cni.decode(data)
    plugins = document.get("plugins")
    if plugins is None and document.get("type"):
        plugins = [document]
    if not isinstance(plugins, list) or not plugins or not all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in plugins):
        raise cni.CNIError(cni.BAD_CONFIG, "a network configuration has a list of plugins, each with a type")
    name, version = document.get("name"), document.get("cniVersion", "0.1.0")
    if not isinstance(name, str) or not cni.is_identifier(name):
        raise cni.CNIError(cni.BAD_CONFIG, f"name {name!r} is not a network's name")
    spoken = document.get("cniVersions")
    if isinstance(spoken, list):
        version = max([version, *(one for one in spoken if one in cni.VERSIONS)], key=lambda one: cni.VERSIONS.index(one) if one in cni.VERSIONS else -1)
    return Configuration(name, str(version), tuple(plugins), bool(document.get("disableCheck")))


class Network:
    """The node's network, as the configuration directory has it at the moment."""

    def __init__(self, conf_dir: Path, bin_dirs: Sequence[Path]) -> None:
        self._conf_dir, self._bin_dirs = conf_dir, tuple(bin_dirs)
        self._permits = asyncio.Semaphore(MOST_AT_ONCE)
        self.pod_cidrs: Sequence[str] = ()  # the node's, once it has some

    def configuration(self) -> Configuration:
        """The lexically first configuration; CNIError 50 when there is none, 7 when it cannot be used."""
        try:
            names = sorted(entry for entry in os.listdir(self._conf_dir) if entry.endswith((".conflist", ".conf", ".json")))
        except FileNotFoundError:
            names = []
        if not names:
            raise cni.CNIError(cni.NOT_AVAILABLE, f"no network configuration in {self._conf_dir}")
        found = parse_configuration((self._conf_dir / names[0]).read_bytes())
        for plugin in found.plugins:
            self._executable(plugin["type"])
        return found

    def ranges_for(self, configuration: Configuration) -> list[list[Document]]:
        """The node's pod CIDRs as the capability ``ipRanges`` has them, if a plugin declares it and has no ranges of its own."""
        wants = any((plugin.get("capabilities") or {}).get(RANGES) and not _has_ranges(plugin) for plugin in configuration.plugins)
        return [[{"subnet": cidr}] for cidr in self.pod_cidrs] if wants else []

    def problem(self) -> str | None:
        """Why no pod can be attached now."""
        try:
            self.configuration()
        except (cni.CNIError, OSError) as error:
            return str(error)
        return None

    def write(self, name: str, pod_cidrs: Sequence[str], *, data_dir: Path | None, mtu: int = 0) -> bool:
        """Write our configuration for these pod CIDRs, if it is another than there is; atomically."""
        wanted = cni.encode(cni.network_config(name, pod_cidrs, mtu=mtu, data_dir=str(data_dir or "")))
        path = self._conf_dir / OWN_FILE
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == wanted:
                return False
        self._conf_dir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(wanted)
        temporary.replace(path)
        return True

    async def add(self, attachment: Attachment, configuration: Configuration) -> Document:
        """Attach; the last plugin's result. After a failure nothing stays: DEL is run before CNIError is raised."""
        result: Document | None = None
        for name, value in attachment.runtime.items():
            if value and not any((plugin.get("capabilities") or {}).get(name) for plugin in configuration.plugins):
                raise cni.CNIError(cni.UNSUPPORTED_FIELD, f"no plugin of network {configuration.name} declares the capability {name}")
        try:
            for plugin in configuration.plugins:
                result = await self._again_later("ADD", attachment, configuration, plugin, result)
        except (cni.CNIError, asyncio.CancelledError):
            with contextlib.suppress(cni.CNIError):
                await self.delete(attachment, configuration, result)
            raise
        return result or {}

    async def delete(self, attachment: Attachment, configuration: Configuration, result: Document | None) -> None:
        """Detach: every plugin is called, whatever those before it say; the first failure is raised at the end."""
        failure: cni.CNIError | None = None
        for plugin in reversed(configuration.plugins):
            try:
                await self._again_later("DEL", attachment, configuration, plugin, result)
            except cni.CNIError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def check(self, attachment: Attachment, configuration: Configuration, result: Document) -> None:
        """CNIError when the attachment is not what ADD has made."""
        if configuration.disable_check or configuration.version == "0.1.0":
            return
        for plugin in configuration.plugins:
            await self._call("CHECK", attachment, configuration, plugin, result)

    async def _again_later(self, command: str, attachment: Attachment, configuration: Configuration, plugin: Document, result: Document | None) -> Document:
        for attempt in range(RETRIES):
            try:
                return await self._call(command, attachment, configuration, plugin, result)
            except cni.CNIError as error:
                if error.code != cni.TRY_AGAIN or attempt == RETRIES - 1:
                    raise
            await asyncio.sleep(RETRY_SECONDS)
        return {}

    async def _call(self, command: str, attachment: Attachment, configuration: Configuration, plugin: Document, result: Document | None) -> Document:
        given = {**plugin, "cniVersion": configuration.version, "name": configuration.name}
        capabilities = given.pop("capabilities", None)
        if capabilities:
            told = {name: value for name, value in attachment.runtime.items() if capabilities.get(name)}
            if _has_ranges(plugin):
                told.pop(RANGES, None)
            given["runtimeConfig"] = told
        if result is not None:
            given["prevResult"] = result
        arguments = {"IgnoreUnknown": "1", **attachment.arguments}
        env = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
            "CNI_PATH": ":".join(map(str, self._bin_dirs)),
        }
        executable = self._executable(plugin["type"])
        async with self._permits:
            try:
                done = await processes.run([executable], env=env, stdin=cni.encode(given), timeout=TIMEOUT_SECONDS)
            except TimeoutError:
                raise cni.CNIError(cni.IO_FAILURE, f"{plugin['type']} did not end within {TIMEOUT_SECONDS:.0f} s") from None
            except KernelError as error:
                raise cni.CNIError(cni.IO_FAILURE, f"{executable} cannot be run", str(error)) from error
        if done.returncode != 0:
            raise _failure(plugin["type"], done)
        return cni.decode(done.stdout) if command == "ADD" else {}

    def _executable(self, kind: str) -> str:
        if "/" in kind:
            raise cni.CNIError(cni.BAD_CONFIG, f"plugin type {kind!r} is not a file name")
        for folder in self._bin_dirs:
            if os.access(folder / kind, os.X_OK):
                return str(folder / kind)
        raise cni.CNIError(cni.NOT_AVAILABLE, f"plugin {kind} is not in {':'.join(map(str, self._bin_dirs))}")


def _has_ranges(plugin: Document) -> bool:
    ipam = plugin.get("ipam")
    return isinstance(ipam, dict) and bool(ipam.get("ranges") or ipam.get("subnet"))


def _failure(kind: str, done: processes.Completed) -> cni.CNIError:
    """What a plugin has told of its failure, in the specification's form or in whatever it had."""
    try:
        told = cni.decode(done.stdout)
        return cni.CNIError(int(told["code"]), f"{kind}: {told['msg']}", str(told.get("details") or ""))
    except (cni.CNIError, KeyError, TypeError, ValueError):
        text = (done.stdout + done.stderr).decode(errors="replace").strip()
        return cni.CNIError(cni.IO_FAILURE, f"{kind} ended with status {done.returncode}", text[-500:])


def addresses_of(result: Document) -> tuple[Address, ...]:
    """The addresses that a container has got; CNIError when there is none."""
    addresses = cni.addresses_of(result)
    if not addresses:
        raise cni.CNIError(cni.UNDECODABLE, "the plugin has told no address")
    return addresses
