"""From a container of a pod's document to what a runtime is told to launch.

What cannot be done is refused here, by name, before anything is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from twinstack.agent import amounts, environment, hooks, volumes
from twinstack.agent.containers import oci, seccomp, shared
from twinstack.agent.containers.archives import ImageError
from twinstack.agent.containers.base import USER, Launch, Mount, Record, label_of_user
from twinstack.agent.containers.images import Image, Images
from twinstack.agent.containers.pulling import puller_problem
from twinstack.agent.environment import ConfigError, Facts, Sources
from twinstack.agent.limits import Limiter, oom_score_of
from twinstack.agent.pods import everything, is_sidecar
from twinstack.agent.pulls import HOST_IMAGE, ImageRefused, Puller, Tell, is_host
from twinstack.agent.sandboxes import Sandbox, Sandboxes
from twinstack.agent.tokens import Tokens
from twinstack.api import errors, kinds
from twinstack.api.kinds import ConfigMap, Container, Pod, Secret
from twinstack.api.objects import Key, view_of
from twinstack.api.resources import resource_of
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.kernel.seccomp import compiled

log = logging.getLogger(__name__)

STOP = "stop"  # label of a record: the number of the signal that asks it to end
INIT_ANNOTATION = "twinstack.dev/init"
TINI = "/usr/bin/tini"
MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
ROOT_CA, ROOT_CA_SECONDS = "kube-root-ca.crt", 20.0
AHEAD_SECONDS = 2.0  # how long what was read ahead may serve
USAGE_SECONDS = 10.0  # how often the size of an emptyDir with a sizeLimit is looked at


def find_image(container: Container, images: Images) -> Image | None:
    """The image that the container runs from, None for the host's file system; ImageRefused when it is not here, or cannot be run."""
    if is_host(container.image):
        return None
    try:
        found = images.find(container.image)
    except ImageError as error:
        raise ImageRefused(str(error), "InvalidImageName") from error
    what = f'image "{container.image}"'
    if found is None and container.imagePullPolicy == "Never":
        raise ImageRefused(f"{what} is not on this node, and its pull policy is Never: load it (twinstack image load)", "ErrImageNeverPull")
    if (found is None or container.imagePullPolicy == "Always") and (problem := puller_problem()):
        words = "load it (twinstack image load)" if found is None else "say imagePullPolicy: IfNotPresent"
        raise ImageRefused(f"{what} cannot be pulled: {problem}; or {words}, or use {HOST_IMAGE}, which runs command and args from the host's file system")
    if found is None:
        raise ImageRefused(f"{what} is not on this node any more", retry_seconds=1.0)
    if problem := oci.runtime_problem():
        raise ImageRefused(f"{what} cannot be run: {problem}", "CreateContainerError")
    return found


def problems_with(pod: Pod) -> Iterator[str]:
    """What the pod asks for and this node cannot give."""
    spec = pod.spec
    yield from amounts.problems_with(pod)
    for volume in spec.volumes or ():
        try:
            volumes.kind_of(volume)
        except ConfigError as error:
            yield str(error)


def pids_of(pod: Pod) -> str:
    """In whose PID namespace a pod's containers are: empty for each in its own, ``pod``, ``host``."""
    return "host" if pod.spec.hostPID else "pod" if pod.spec.shareProcessNamespace else ""


def identity_of(pod: Pod, container: Container, image: Image | None = None) -> tuple[int | None, int | None, tuple[int, ...]]:
    """User, group and supplementary groups; ConfigError when runAsNonRoot cannot be kept."""
    shared: Mapping[str, Any] = pod.spec.securityContext or {}
    own: Mapping[str, Any] = container.securityContext or {}

    def value(field: str) -> Any:
        return own[field] if own.get(field) is not None else shared.get(field)

    uid, gid = value("runAsUser"), value("runAsGroup")
    if value("runAsNonRoot") and not (uid if uid is not None or image is None else oci.user_of(image, None, None, ()).uid):
        raise ConfigError(
            "container has runAsNonRoot and would run as root: name a runAsUser, for " + ("the host as" if image is None else "its") + " image has none"
        )
    groups = [*(shared.get("supplementalGroups") or ()), *([shared["fsGroup"]] if shared.get("fsGroup") is not None else [])]
    return uid, gid, tuple(groups)


class Maker:
    """Makes launches for this node's pods; reads the ConfigMaps and Secrets that they name."""

    def __init__(
        self,
        client: Client,
        sandboxes: Sandboxes,
        services: Informer[kinds.Service],
        limiter: Limiter,
        node_name: str,
        *,
        images: Images,
        tell: Tell,
        profiles: seccomp.Profiles,
        allocatable: Callable[[], Mapping[str, str]] = dict,
        refresh_seconds: float = 60.0,
        log_size: int = 0,
        log_files: int = 0,
    ) -> None:
        self._log_size, self._log_files = log_size, log_files
        self._client, self._sandboxes, self._services, self._node_name = client, sandboxes, services, node_name
        self._allocatable, self._refresh_seconds = allocatable, refresh_seconds
        self._limiter, self.images = limiter, images
        self._profiles = profiles
        self.puller = Puller(images, self._pull_secret, tell)
        self._tokens = Tokens(client)
        self._ahead: dict[str, asyncio.Task[volumes.Given]] = {}  # by the pod's uid
        self._root_ca_read: dict[str, float] = {}  # by namespace, when
        self._reading: dict[tuple[str, str, str], asyncio.Task[ConfigMap | Secret | None]] = {}
        self._last: dict[tuple[str, str, str], ConfigMap | Secret] = {}  # what was read before serves while the API does not answer

    async def launch(
        self, pod: Pod, container: Container, attempt: int, sandbox: Sandbox, host_ips: tuple[str, ...], *, target: Record | None = None
    ) -> Launch:
        """Everything that this container is started with; *target*: in whose PID namespace. ConfigError when it cannot be."""
        image = find_image(container, self.images)
        for problem in problems_with(pod):
            raise ConfigError(problem)
        facts = self._facts(sandbox, host_ips)
        given = await self._known(pod, environment.sources_named(container) | volumes.sources_named(pod))
        texts = {named: None if found is None else volumes.texts_of(found) for named, found in given.objects.items()}
        variables = environment.environment_of(container, pod, facts, services=self._service_variables(pod), sources=Sources(texts), hostname=sandbox.hostname)
        made = volumes.prepare(pod, self._sandboxes.path(pod.metadata.uid, "volumes"), given, facts)
        mounts = [*self._sandboxes.mounts(sandbox), *volumes.mounts_of(container, made, variables, volumes.from_the_api(pod))]
        replaced = {mount.target.rstrip("/") for mount in mounts[3:]}
        log = self._sandboxes.path(pod.metadata.uid, "logs", container.name, f"{attempt}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        if message := container.terminationMessagePath:
            mounts.append(Mount(self._sandboxes.prepare_message(pod.metadata.uid, container.name, attempt), message))
        uid, gid, groups = identity_of(pod, container, image)
        identifier = secrets.token_hex(16)
        security, own = pod.spec.securityContext or {}, container.securityContext or {}
        profile = seccomp.profile_of(security, own, oci.names_of(oci.bounding_set()), self._profiles) if image is None else None
        pids = pids_of(pod)
        if container.targetContainerName and not pids:
            if target is None or not target.running:
                raise ConfigError(f'target container "{container.targetContainerName}" does not run')
            pids = "container"
        if pids:
            variables = {**variables, shared.MARK: identifier}
        launch = Launch(
            id=identifier,
            pod=pod.metadata.uid,
            labels={
                "namespace": pod.metadata.namespace,
                "pod": pod.metadata.name,
                "container": container.name,
                "attempt": str(attempt),
                USER: label_of_user(uid, gid, groups),
                **_stop(container, image),
            },
            argv=environment.command_of(container, variables) if image is None else (),
            env=variables,
            hostname=sandbox.hostname,
            log=str(log),
            log_size=self._log_size,
            log_files=self._log_files,
            cwd=container.workingDir or "/",
            mounts=[
                mount for i, mount in enumerate(mounts) if i >= 3 or (mount.target not in replaced and (image is not None or os.path.exists(mount.target)))
            ],
            init=self._init(pod, TINI if image is None else oci.TINI),
            uid=uid,
            gid=gid,
            groups=groups,
            stdin=container.stdin,
            tty=container.tty,
            cgroups=self._limiter.join(pod, container, identifier),
            oom_score=oom_score_of(pod, container, MEMORY_BYTES),
            pids=pids,
            beside=target.id if target is not None and pids == "container" else "",
            host_ipc=pod.spec.hostIPC,
            readonly=image is None and bool((container.securityContext or {}).get("readOnlyRootFilesystem")),
            no_new_privileges=own.get("allowPrivilegeEscalation") is False,
            seccomp=compiled(profile) if profile is not None else b"",
        )
        if image is None:
            return launch
        place = self._sandboxes.path(pod.metadata.uid, oci.FOLDER, identifier)
        return oci.prepared(launch, image, container, self.images, place, pod=security, profiles=self._profiles, target=target)

    async def refresh(self, pod: Pod, sandbox: Sandbox, host_ips: tuple[str, ...]) -> None:
        """Bring the volumes that the API fills up to date; what cannot be is logged, and keeps what it has."""
        if not volumes.from_the_api(pod):
            return
        try:
            given = await self._given(pod, volumes.sources_named(pod))
            problems = volumes.refresh(pod, self._sandboxes.path(pod.metadata.uid, "volumes"), given, self._facts(sandbox, host_ips))
        except (ConfigError, errors.APIError, OSError, msgspec.MsgspecError) as error:
            problems = [str(error)]
        for problem in problems:
            log.warning("A volume keeps what it has", extra={"pod": f"{pod.metadata.namespace}/{pod.metadata.name}", "error": problem})

    def refresh_in(self, pod: Pod) -> float | None:
        """In how many seconds a pod's volumes want to be looked at; None for never."""
        try:
            if not volumes.from_the_api(pod):
                return USAGE_SECONDS if volumes.has_limits(pod) else None
            renewal = self._tokens.renewal(pod, volumes.tokens_named(pod))
        except ConfigError:  # which is told when a container is started
            return None
        period = min(self._refresh_seconds, USAGE_SECONDS) if volumes.has_limits(pod) else self._refresh_seconds * random.uniform(0.9, 1.1)
        return period if renewal is None else max(1.0, min(period, renewal - time.time()))

    async def over_limit(self, pod: Pod) -> str | None:
        """Which emptyDir holds more than it may."""
        if not volumes.has_limits(pod):
            return None
        return await asyncio.to_thread(volumes.over_limit, pod, self._sandboxes.path(pod.metadata.uid, "volumes"))

    def forget(self, uid: str) -> None:
        """Forget what was kept for a pod."""
        self._tokens.forget(uid)
        self.puller.forget(uid)

    def _facts(self, sandbox: Sandbox, host_ips: tuple[str, ...]) -> Facts:
        return Facts(sandbox.addresses or host_ips, host_ips, self._node_name, self._allocatable())

    def read_ahead(self, pod: Pod) -> None:
        """Begin to read what the pod's containers will be made of, while its sandbox is being made."""
        uid = pod.metadata.uid
        try:
            named = volumes.sources_named(pod).union(*(environment.sources_named(container) for container in everything(pod)))
            if uid in self._ahead or not (named or volumes.tokens_named(pod)):
                return
        except ConfigError:  # which is told when a container is started
            return
        task = self._ahead[uid] = asyncio.ensure_future(self._given(pod, named))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # what fails is read again, and told then
        asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._ahead.pop, uid, None)

    async def _known(self, pod: Pod, named: set[tuple[str, str]]) -> volumes.Given:
        """What was read ahead, or is read now."""
        if (task := self._ahead.get(pod.metadata.uid)) is not None:
            with contextlib.suppress(ConfigError, errors.APIError, msgspec.MsgspecError):
                given = await asyncio.shield(task)
                if named <= given.objects.keys() and None not in given.objects.values():
                    return given
        return await self._given(pod, named)

    async def _given(self, pod: Pod, named: Iterable[tuple[str, str]]) -> volumes.Given:
        """Read ConfigMaps, Secrets and tokens, all at the same time."""
        names, tokens = list(named), list(volumes.tokens_named(pod))
        read = asyncio.gather(*(self._read(pod.metadata.namespace, *one) for one in names))
        issued = asyncio.gather(*(self._tokens.get(pod, one) for one in tokens))
        found, texts = await asyncio.gather(read, issued)
        return volumes.Given(dict(zip(names, found, strict=True)), dict(zip(tokens, texts, strict=True)))

    @staticmethod
    def _init(pod: Pod, tini: str) -> str:
        asked = pod.annotations.get(INIT_ANNOTATION, "")
        if asked not in ("", "tini"):
            raise ConfigError(f"annotation {INIT_ANNOTATION} is {asked!r}; it can be tini")
        if asked and not os.path.exists(tini):
            raise ConfigError(f"annotation {INIT_ANNOTATION} asks for tini, which is not installed at {tini}")
        return tini if asked else ""

    def _service_variables(self, pod: Pod) -> dict[str, str]:
        chosen: dict[str, kinds.Service] = {}
        if (api := self._services.get(Key("default", "kubernetes"))) is not None:
            chosen["kubernetes"] = api
        if pod.spec.enableServiceLinks is not False:
            chosen |= {service.metadata.name: service for service in self._services.list(pod.metadata.namespace)}
        return environment.service_variables(chosen.values())

    async def _read(self, namespace: str, kind: str, name: str) -> ConfigMap | Secret | None:
        """Read an object; those who want the same one at the same time share the answer."""
        key = (namespace, kind, name)
        if name == ROOT_CA and (known := self._last.get(key)) is not None and time.monotonic() - self._root_ca_read.get(namespace, 0.0) < ROOT_CA_SECONDS:
            return known  # every pod has it, and it hardly ever changes
        if (task := self._reading.get(key)) is None:
            task = self._reading[key] = asyncio.ensure_future(self._read_now(namespace, kind, name))
            task.add_done_callback(lambda done: self._reading.pop(key, None))
        return await asyncio.shield(task)

    async def _pull_secret(self, namespace: str, name: str) -> Secret | None:
        found = await self._read(namespace, "secret", name)
        return found if isinstance(found, Secret) else None

    async def _read_now(self, namespace: str, kind: str, name: str) -> ConfigMap | Secret | None:
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
        if name == ROOT_CA:
            self._root_ca_read[namespace] = time.monotonic()
        return found


def _stop(container: Container, image: Image | None) -> dict[str, str]:
    """The signal that asks the container to end, where the pod or the image names one."""
    named = str((container.lifecycle or {}).get("stopSignal") or (image.config.get("StopSignal") if image is not None else None) or "")
    return {STOP: str(hooks.stop_signal(named))} if named else {}


def probed(container: Container, *, init: bool) -> bool:
    """Whether a container's probes are made: an init container's only when it runs beside the others."""
    return not init or is_sidecar(container)
