"""Static pods: manifests in a file or directory of the node, run without an API server, and shown there by mirrors.

Rule of this file: a static pod's truth is its file. Its uid is made of what the file says and of the node's name, so
another content is another pod. The API server is shown a *mirror*, an object of the same name that says whose mirror
it is; its status is written as any pod's is, a mirror that somebody deletes is made anew, and one whose file is gone
is deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import yaml

from twinstack.api import errors
from twinstack.api.kinds import Pod
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.client.client import Client
from twinstack.net.errors import Error
from twinstack.rules.node_access import MIRROR, references

log = logging.getLogger(__name__)
PODS = resource_of(Pod)
HASH, SOURCE, SEEN = "kubernetes.io/config.hash", "kubernetes.io/config.source", "kubernetes.io/config.seen"
_SUFFIXES = (".yaml", ".yml", ".json", ".manifest")


class ManifestError(Error):
    """A file is no manifest of a pod that can be static."""


def files_of(path: Path) -> list[Path]:
    """The manifests of a file or directory; hidden files are none."""
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES and not one.name.startswith(".") and one.is_file())
    return [path] if path.is_file() else []


def static_pod(text: bytes, node: str) -> Document:
    """The document of a static pod; ManifestError when it cannot be one."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ManifestError(f"it is neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or document.get("kind") != "Pod" or document.get("apiVersion") != "v1":
        raise ManifestError("it is no v1 Pod")
    document = copy.deepcopy(document)
    metadata, spec = document.setdefault("metadata", {}), document.get("spec")
    if not isinstance(metadata, dict) or not metadata.get("name") or not isinstance(spec, dict) or not spec.get("containers"):
        raise ManifestError("it has no name, or no containers")
    if spec.get("serviceAccountName") or any(kind != "serviceaccounts" for kind, _ in references(document)):
        raise ManifestError("a static pod refers to no ServiceAccount, Secret or ConfigMap: it runs without an API server")
    uid = hashlib.sha256(node.encode() + b"\0" + text).hexdigest()[:32]
    metadata |= {"name": f"{metadata['name']}-{node}", "namespace": metadata.get("namespace") or "default", "uid": uid}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), HASH: uid, SOURCE: "file", SEEN: text_of_time(datetime.now(UTC))}
    spec["nodeName"] = node
    spec["tolerations"] = [*(spec.get("tolerations") or ()), {"operator": "Exists", "effect": "NoExecute"}]
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        container.setdefault("terminationMessagePath", "/dev/termination-log")
    document.pop("status", None)
    return document


def mirror_of(document: Document, node_uid: str) -> Document:
    """What the API server is shown of a static pod, which goes with its node."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "uid"}
    metadata["annotations"] = {**metadata["annotations"], MIRROR: document["metadata"]["uid"]}
    owner = {"apiVersion": "v1", "kind": "Node", "name": document["spec"]["nodeName"], "uid": node_uid, "controller": True}
    return {**document, "metadata": {**metadata, "ownerReferences": [owner]}}


class StaticPods:
    """The static pods of a node; *path* None: there are none."""

    def __init__(self, path: Path | None, node: str, client: Client, *, seconds: float, node_uid: Callable[[], Awaitable[str]]) -> None:
        self.were_read = asyncio.Event()
        self._node_uid = node_uid
        self._path, self._node, self._client, self._seconds = path, node, client, seconds
        self._documents: dict[Key, Document] = {}
        self._told: set[str] = set()  # what was said of files that are no manifests

    def uid(self, key: Key) -> str | None:
        """The uid of the static pod of this name."""
        document = self._documents.get(key)
        return None if document is None else str(document["metadata"]["uid"])

    async def run(self, begin: Callable[[Pod], Any], end: Callable[[str], Any]) -> None:
        """Look at the files until cancelled; *begin* and *end* hear of pods that come, and of uids that go."""
        while True:
            self._look(begin, end)
            self.were_read.set()
            if self._path is None:
                return
            await asyncio.sleep(self._seconds)

    def _look(self, begin: Callable[[Pod], Any], end: Callable[[str], Any]) -> None:
        found = dict(self._read())
        for key, document in list(self._documents.items()):
            if key not in found or found[key]["metadata"]["uid"] != document["metadata"]["uid"]:
                del self._documents[key]
                end(document["metadata"]["uid"])
        for key, document in found.items():
            if key not in self._documents:
                self._documents[key] = document
                begin(view_of(Pod, document))

    def _read(self) -> Iterator[tuple[Key, Document]]:
        for file in files_of(self._path) if self._path is not None else ():
            try:
                document = static_pod(file.read_bytes(), self._node)
                view_of(Pod, document)
            except (ManifestError, OSError, msgspec.MsgspecError) as error:
                if (text := f"{file}: {error}") not in self._told:
                    self._told.add(text)
                    log.error("A static pod's manifest cannot be used", extra={"file": str(file), "error": str(error)})
                continue
            yield Key(document["metadata"]["namespace"], document["metadata"]["name"]), document

    # ---- mirrors

    async def patch_status(self, key: Key, patch: Document) -> Document:
        """Write a static pod's status to its mirror, which is made when there is none."""
        status = {"status": patch["status"]}
        try:
            return await self._client.patch(PODS, key, status, subresource="status", kind="strategic")
        except errors.NotFound:
            await self._client.create(PODS, mirror_of(self._documents[key], await self._node_uid()))
            return await self._client.patch(PODS, key, status, subresource="status", kind="strategic")

    async def judge(self, mirror: Pod) -> bool:
        """Delete a mirror that shows nothing of ours, or that somebody wants deleted; whether it is still right."""
        key = Key(mirror.metadata.namespace, mirror.metadata.name)
        if mirror.metadata.deletionTimestamp is None and self.uid(key) == mirror.annotations.get(MIRROR):
            return True
        with contextlib.suppress(errors.NotFound, errors.Conflict):
            await self._client.delete(PODS, key, uid=mirror.metadata.uid, grace_period_seconds=0)
        return False
