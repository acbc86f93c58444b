"""From a container of a pod's document to what a runtime is told to launch.

What cannot be done is refused here, by name, before anything is started.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from twinstack.agent import environment, volumes
from twinstack.agent.containers.base import Launch
from twinstack.agent.environment import ConfigError, Facts, Sources
from twinstack.agent.pods import everything, is_sidecar
from twinstack.agent.sandboxes import Sandbox, Sandboxes
from twinstack.api import errors, kinds
from twinstack.api.kinds import ConfigMap, Container, Pod, Secret
from twinstack.api.objects import Key, view_of
from twinstack.api.resources import resource_of
from twinstack.client.client import Client
from twinstack.client.informer import Informer

HOST_IMAGE = "twinstack.dev/host"
INIT_ANNOTATION = "twinstack.dev/init"
TINI = "/usr/bin/tini"


class ImageRefused(ConfigError):
    """The container's image cannot be run on this node."""


def check_image(container: Container) -> None:
    """ImageRefused unless the container runs from the host's file system."""
    name = container.image.partition("@")[0]
    head, _, tag = name.rpartition(":")
    if (head if head and "/" not in tag else name) != HOST_IMAGE:
        raise ImageRefused(f'image "{container.image}" cannot be run: only {HOST_IMAGE} is, which runs command and args from the host\'s file system')


def problems_with(pod: Pod) -> Iterator[str]:
    """What the pod asks for and this node cannot give."""
    spec = pod.spec
    for field in ("hostPID", "hostIPC", "shareProcessNamespace"):
        if getattr(spec, field):
            yield f"{field} is not supported: each container has a PID namespace of its own, each pod an IPC namespace"
    for container in everything(pod):
        where = f'container "{container.name}"'
        if (container.lifecycle or {}).get("postStart"):
            yield f"{where}: lifecycle.postStart is not supported yet"
        for name, hook in (container.lifecycle or {}).items():
            if name == "preStop" and not (hook or {}).get("exec") and not (hook or {}).get("sleep"):
                yield f"{where}: a preStop hook is run by exec or sleep only"
        for probe in (container.startupProbe, container.livenessProbe, container.readinessProbe):
            if probe is not None and probe.grpc is not None:
                yield f"{where}: gRPC probes are not supported yet; use exec, httpGet or tcpSocket"
    for volume in spec.volumes or ():
        try:
            volumes.kind_of(volume)
        except ConfigError as error:
            yield str(error)


def identity_of(pod: Pod, container: Container) -> tuple[int | None, int | None, tuple[int, ...]]:
    """User, group and supplementary groups; ConfigError when runAsNonRoot cannot be kept."""
    shared: Mapping[str, Any] = pod.spec.securityContext or {}
    own: Mapping[str, Any] = container.securityContext or {}

    def value(field: str) -> Any:
        return own[field] if own.get(field) is not None else shared.get(field)

    uid, gid = value("runAsUser"), value("runAsGroup")
    if value("runAsNonRoot") and not uid:
        raise ConfigError("container has runAsNonRoot and would run as root: name a runAsUser, for the host as image has none")
    groups = [*(shared.get("supplementalGroups") or ()), *([shared["fsGroup"]] if shared.get("fsGroup") is not None else [])]
    return uid, gid, tuple(groups)


class Maker:
    """Makes launches for this node's pods; reads the ConfigMaps and Secrets that they name."""

    def __init__(self, client: Client, sandboxes: Sandboxes, services: Informer[kinds.Service], node_name: str) -> None:
        self._client, self._sandboxes, self._services, self._node_name = client, sandboxes, services, node_name
        self._last: dict[tuple[str, str, str], ConfigMap | Secret] = {}  # what was read before serves while the API does not answer

    async def launch(self, pod: Pod, container: Container, attempt: int, sandbox: Sandbox, host_ips: tuple[str, ...]) -> Launch:
        """Everything that this container is started with; ConfigError when it cannot be."""
        check_image(container)
        for problem in problems_with(pod):
            raise ConfigError(problem)
        facts = Facts(sandbox.addresses or host_ips, host_ips, self._node_name)
        objects = {named: await self._read(pod.metadata.namespace, *named) for named in environment.sources_named(container) | volumes.sources_named(pod)}
        texts = {
            named: None if found is None else {key: value.decode(errors="replace") for key, value in volumes.contents_of(found).items()}
            for named, found in objects.items()
        }
        variables = environment.environment_of(container, pod, facts, services=self._service_variables(pod), sources=Sources(texts), hostname=sandbox.hostname)
        made = volumes.prepare(pod, self._sandboxes.path(pod.metadata.uid, "volumes"), objects, facts)
        mounts = [*self._sandboxes.mounts(sandbox), *volumes.mounts_of(container, made, variables)]
        replaced = {mount.target.rstrip("/") for mount in mounts[3:]}
        log = self._sandboxes.path(pod.metadata.uid, "logs", container.name, f"{attempt}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        uid, gid, groups = identity_of(pod, container)
        return Launch(
            id=secrets.token_hex(16),
            pod=pod.metadata.uid,
            labels={"namespace": pod.metadata.namespace, "pod": pod.metadata.name, "container": container.name, "attempt": str(attempt)},
            argv=environment.command_of(container, variables),
            env=variables,
            hostname=sandbox.hostname,
            log=str(log),
            cwd=container.workingDir or "/",
            mounts=[mount for i, mount in enumerate(mounts) if i >= 3 or (mount.target not in replaced and os.path.exists(mount.target))],
            init=self._init(pod),
            uid=uid,
            gid=gid,
            groups=groups,
        )

    @staticmethod
    def _init(pod: Pod) -> str:
        asked = pod.annotations.get(INIT_ANNOTATION, "")
        if asked not in ("", "tini"):
            raise ConfigError(f"annotation {INIT_ANNOTATION} is {asked!r}; it can be tini")
        if asked and not os.path.exists(TINI):
            raise ConfigError(f"annotation {INIT_ANNOTATION} asks for tini, which is not installed at {TINI}")
        return TINI if asked else ""

    def _service_variables(self, pod: Pod) -> dict[str, str]:
        chosen: dict[str, kinds.Service] = {}
        if (api := self._services.get(Key("default", "kubernetes"))) is not None:
            chosen["kubernetes"] = api
        if pod.spec.enableServiceLinks is not False:
            chosen |= {service.metadata.name: service for service in self._services.list(pod.metadata.namespace)}
        return environment.service_variables(chosen.values())

    async def _read(self, namespace: str, kind: str, name: str) -> ConfigMap | Secret | None:
        view: type[ConfigMap] | type[Secret] = ConfigMap if kind == "configmap" else Secret
        try:
            found = view_of(view, await self._client.get(resource_of(view), Key(namespace, name)))
        except errors.NotFound:
            self._last.pop((namespace, kind, name), None)
            return None
        except errors.ServiceUnavailable:
            if (known := self._last.get((namespace, kind, name))) is not None:
                return known
            raise
        self._last[namespace, kind, name] = found
        return found


def probed(container: Container, *, init: bool) -> bool:
    """Whether a container's probes are made: an init container's only when it runs beside the others."""
    return not init or is_sidecar(container)
