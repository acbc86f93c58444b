"""When a registry is asked for a container's image, how often, and what people are told of it.

Rule of this file: policy and patience; ``containers.pulling`` does it.

Theory. ``Always`` asks before each start, ``IfNotPresent`` when the image is not here, ``Never`` not at all. A few images are brought at
a time, and those who want the same one share it. A failure is told as ``ErrImagePull``; until the next attempt,
10 seconds later and twice as long after each, as ``ImagePullBackOff``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from twinstack.agent.containers.archives import ImageError
from twinstack.agent.containers.images import Image, Images
from twinstack.agent.containers.pulling import credentials_of, pull, puller_problem
from twinstack.agent.environment import ConfigError
from twinstack.api.kinds import Container, Pod, Secret

HOST_IMAGE = "twinstack.dev/host"
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 10.0, 300.0
MOST_AT_ONCE = 4
SHOWN_SECONDS = 2.0  # how long ErrImagePull stands before it is told that we wait
# the event that a reason to wait has besides Failed
ALSO_TOLD = {"ErrImageNeverPull": "ErrImageNeverPull", "InvalidImageName": "InspectFailed"}
Tell = Callable[[Pod, str, str, str, Container | None], None]


class ImageRefused(ConfigError):
    """The container's image cannot be run on this node; ``retry_seconds`` from now it may be, where that is known."""

    def __init__(self, message: str, reason: str = "ErrImagePull", retry_seconds: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_seconds = retry_seconds


class _Failure(NamedTuple):
    message: str
    seconds: float
    until: float


def is_host(reference: str) -> bool:
    """Whether a container runs from the host's file system."""
    name = reference.partition("@")[0]
    head, _, tag = name.rpartition(":")
    return (head if head and "/" not in tag else name) == HOST_IMAGE


class Puller:
    """Brings the images of one node's containers."""

    def __init__(self, images: Images, secret: Callable[[str, str], Awaitable[Secret | None]], tell: Tell) -> None:
        self._images, self._secret, self._tell = images, secret, tell
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self._pulling: dict[tuple[str, bytes], tuple[asyncio.Task[Image], int]] = {}  # and how many wait for it
        self._failures: dict[tuple[str, str], _Failure] = {}  # by the pod's uid and the image

    def wants(self, container: Container) -> bool:
        """Whether a registry is to be asked before this container is started."""
        if is_host(container.image) or container.imagePullPolicy == "Never" or puller_problem():
            return False
        try:
            return self._images.find(container.image) is None or container.imagePullPolicy == "Always"
        except ImageError:  # which is told when it is to be started
            return False

    async def bring(self, pod: Pod, container: Container) -> None:
        """Bring the container's image; ImageRefused when it does not come, or its next attempt is not due."""
        key, image = (pod.metadata.uid, container.image), container.image
        now, before = time.monotonic(), self._failures.get(key)
        if before is not None and now < before.until:
            self._tell(pod, "Normal", "BackOff", f'Back-off pulling image "{image}"', container)
            raise ImageRefused(f'back-off pulling image "{image}": {before.message}', "ImagePullBackOff", before.until - now)
        self._tell(pod, "Normal", "Pulling", f'Pulling image "{image}"', container)
        try:
            found = await self._shared(image, await self._auths(pod))
        except ImageError as error:
            seconds = FIRST_BACKOFF_SECONDS if before is None else min(LONGEST_BACKOFF_SECONDS, before.seconds * 2)
            self._failures[key] = _Failure(str(error), seconds, time.monotonic() + seconds)
            self._tell(pod, "Warning", "Failed", f'Failed to pull image "{image}": {error}', container)
            raise ImageRefused(str(error), "ErrImagePull", SHOWN_SECONDS) from error
        self._failures.pop(key, None)
        self._tell(pod, "Normal", "Pulled", f'Successfully pulled image "{image}" in {time.monotonic() - now:.3f}s, {found.size} bytes unpacked', container)

    def forget(self, uid: str) -> None:
        """Forget a pod's failures."""
        for key in [key for key in self._failures if key[0] == uid]:
            del self._failures[key]

    async def _auths(self, pod: Pod) -> dict[str, Any]:
        secrets, missing = [], []
        for entry in pod.spec.imagePullSecrets or ():
            name = str(entry.get("name") or "")
            found = await self._secret(pod.metadata.namespace, name)
            if found is None:
                missing.append(name)
            else:
                secrets.append(found)
        if missing:  # the registry may not ask for it
            self._tell(pod, "Warning", "FailedToRetrieveImagePullSecret", f"There is no secret {', '.join(missing)}; the image is pulled without", None)
        return credentials_of(secrets)

    async def _shared(self, image: str, auths: dict[str, Any]) -> Image:
        """Pull, or wait for the pull of another container of the same image with the same credentials; given up with the last who waits."""
        key = (image, msgspec.json.encode(auths, order="sorted"))
        task, waiting = self._pulling.get(key) or (asyncio.ensure_future(self._in_turn(image, auths)), 0)
        self._pulling[key] = task, waiting + 1
        try:
            return await asyncio.shield(task)
        finally:
            _, waiting = self._pulling[key]
            self._pulling[key] = task, waiting - 1
            if waiting == 1:
                del self._pulling[key]
                task.cancel()

    async def _in_turn(self, image: str, auths: dict[str, Any]) -> Image:
        async with self._turns:
            return await pull(self._images, image, auths=auths)
