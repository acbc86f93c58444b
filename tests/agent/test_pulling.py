"""Images from a registry on a loopback address, made here: by the command line, and by a kubelet for its pods."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import platform
import socket
import ssl
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from twinstack.agent.containers.archives import ImageError
from twinstack.agent.containers.images import Images
from twinstack.agent.containers.pulling import credentials_of, is_local
from twinstack.api.kinds import Event, Secret
from twinstack.api.objects import view_of
from twinstack.api.resources import resource_of
from twinstack.cli.image import image as command
from twinstack.client import certificates

pytestmark = [pytest.mark.slow]
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
INDEX, MANIFEST = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
LAYER, CONFIG = "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.config.v1+json"
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, "+gzip": gzip.compress, "+zstd": lambda data: zstandard.compress(data)}


class Registry:
    """The reading half of the OCI distribution specification 1.1: manifests by tag and digest, blobs, Basic authentication, TLS."""

    def __init__(self, user: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[tuple[str, str], str] = {}
        self.kinds: dict[str, str] = {}
        self.asked: list[str] = []
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.asked.append(self.path)
                if user and self.headers.get("Authorization") != f"Basic {base64.b64encode(user.encode()).decode()}":
                    return self._answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="here"'})
                if self.path == "/v2/":
                    return self._answer(200, b"{}", {})
                name, kind, reference = self.path.removeprefix("/v2/").rsplit("/", 2)
                digest = registry.tags.get((name, reference), reference) if kind == "manifests" else reference
                if digest not in registry.blobs:
                    return self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}', {})
                self._answer(200, registry.blobs[digest], {"Content-Type": registry.kinds[digest], "Docker-Content-Digest": digest})

            do_HEAD = do_GET

            def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is written."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest], self.kinds[digest] = data, kind
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def put(self, name: str, tag: str, files: dict[str, bytes], *, packing: str = "+gzip", words: dict[str, Any] | None = None) -> str:
        """An image for this machine and one for another, behind an index; returns the index's digest."""
        manifests = []
        for architecture in ("mips", MACHINE):
            data = io.BytesIO()
            with tarfile.open(fileobj=data, mode="w") as tar:
                for path, content in {**files, "arch": architecture.encode()}.items():
                    member = tarfile.TarInfo(path)
                    member.size, member.mode = len(content), 0o755
                    tar.addfile(member, io.BytesIO(content))
            diff = f"sha256:{hashlib.sha256(data.getvalue()).hexdigest()}"
            config = {"architecture": architecture, "os": "linux", "config": words or {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
            layer = self.blob(PACKED[packing](data.getvalue()), LAYER + packing)
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.blob(json.dumps(config).encode(), CONFIG), "layers": [layer]}
            manifests.append({**self.blob(json.dumps(manifest).encode(), MANIFEST), "platform": {"os": "linux", "architecture": architecture}})
        index = self.blob(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode(), INDEX)
        self.tags[name, tag] = index["digest"]
        return str(index["digest"])


@pytest.fixture
def registry_of() -> Iterator[Callable[..., Registry]]:
    made: list[Registry] = []

    def make(**words: Any) -> Registry:
        made.append(Registry(**words))
        return made[-1]

    yield make
    for one in made:
        one.close()


def twinstack_image(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, words)
    return done.exit_code, done.output if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)


@pytest.mark.parametrize("packing", PACKED, ids=lambda packing: packing or "not packed")
def test_an_image_is_pulled_for_this_machine_by_tag_and_by_digest(registry_of, tmp_path: Path, packing: str) -> None:
    registry = registry_of()
    digest = registry.put("team/app", "v1", {"hello": b"world"}, packing=packing)
    images = Images(tmp_path / "images")
    status, said = twinstack_image("pull", "--image-dir", str(images.directory), f"{registry.host}/team/app:v1")
    assert (status, f"{registry.host}/team/app:v1" in said) == (0, True), said
    (kept,) = images.all()
    assert (Path(kept.rootfs) / "arch").read_text() == MACHINE
    assert (Path(kept.rootfs) / "hello").read_text() == "world"
    fetched = sum("/blobs/" in path for path in registry.asked)
    assert twinstack_image("pull", "--image-dir", str(images.directory), f"{registry.host}/team/app@{digest}")[0] == 0
    assert sum("/blobs/" in path for path in registry.asked) == fetched + 1, "only the configuration is asked for again"
    (again,) = images.all()
    assert again.id == kept.id
    assert again.names == (f"{registry.host}/team/app:v1", f"{registry.host}/team/app@{digest}")
    assert (found := images.find(f"{registry.host}/team/app@{digest}")) and found.id == kept.id


def test_a_tag_that_moves_is_pulled_anew_and_the_old_image_loses_it(registry_of, tmp_path: Path) -> None:
    registry = registry_of()
    for content in (b"1", b"2"):
        registry.put("app", "latest", {"version": content})
        assert twinstack_image("pull", "--image-dir", str(tmp_path), f"{registry.host}/app")[0] == 0
    images = Images(tmp_path)
    assert sorted(image.names for image in images.all()) == [(), (f"{registry.host}/app:latest",)]
    assert (found := images.find(f"{registry.host}/app")) and (Path(found.rootfs) / "version").read_text() == "2"


def test_what_a_registry_has_not_or_does_not_give_is_told_in_its_words(registry_of, tmp_path: Path) -> None:
    registry, guarded = registry_of(), registry_of(user="me:secret")
    guarded.put("app", "v1", {"a": b"1"})
    status, said = twinstack_image("pull", "--image-dir", str(tmp_path), f"{registry.host}/none:v1")
    assert (status, "manifest unknown" in said) == (1, True), said
    status, said = twinstack_image("pull", "--image-dir", str(tmp_path), f"{guarded.host}/app:v1")
    assert (status, "authentication required" in said or "unauthorized" in said) == (1, True), said
    auths = {"auths": {guarded.host: {"auth": base64.b64encode(b"me:secret").decode()}}}
    (tmp_path / "auth.json").write_text(json.dumps(auths))
    assert twinstack_image("pull", "--image-dir", str(tmp_path / "i"), "--authfile", str(tmp_path / "auth.json"), f"{guarded.host}/app:v1")[0] == 0
    registry.put("app", "v1", {"a": b"1"})
    (blob,) = [digest for digest, kind in registry.kinds.items() if kind == LAYER + "+gzip" and MACHINE.encode() in gzip.decompress(registry.blobs[digest])]
    registry.blobs[blob] = gzip.compress(b"something else")
    assert twinstack_image("pull", "--image-dir", str(tmp_path / "j"), f"{registry.host}/app:v1")[0] == 1
    assert Images(tmp_path / "j").all() == []


def test_a_certificate_that_nobody_knows_is_refused_where_it_is_to_be_checked(registry_of, tmp_path: Path) -> None:
    pair = certificates.self_signed("registry", addresses=["127.0.0.1"])
    (tmp_path / "c.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem")
    registry = registry_of(tls=context)
    registry.put("app", "v1", {"a": b"1"})
    name, place = f"{registry.host}/app:v1", str(tmp_path / "images")
    status, said = twinstack_image("pull", "--image-dir", place, "--tls-verify", name)
    assert (status, "certificate" in said) == (1, True), said
    assert twinstack_image("pull", "--image-dir", place, "--no-tls-verify", name)[0] == 0


@pytest.mark.parametrize(
    "reference, local",
    [("localhost:5000/a", True), ("127.0.0.1/a", True), ("[::1]:5000/a", True), ("[fd00::1]:5000/a", False), ("10.0.0.1:5000/a", False), ("busybox", False)],
)
def test_only_a_registry_on_a_loopback_address_needs_no_tls(reference: str, local: bool) -> None:
    assert is_local(reference) is local


def test_credentials_are_read_of_both_kinds_of_secrets_and_the_first_word_counts() -> None:
    def secret(key: str, document: Any) -> Secret:
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        return view_of(Secret, {"metadata": {"name": "s"}, "data": {key: base64.b64encode(text).decode()}})

    first = secret(".dockerconfigjson", {"auths": {"a": {"auth": "1"}}})
    second = secret(".dockercfg", {"a": {"auth": "2"}, "b": {"auth": "3"}})
    assert credentials_of([first, second]) == {"a": {"auth": "1"}, "b": {"auth": "3"}}
    assert credentials_of([secret("other", b"")]) == {}
    for bad in (secret(".dockerconfigjson", b"nonsense"), secret(".dockerconfigjson", [1]), secret(".dockercfg", b"5")):
        with pytest.raises(ImageError, match='secret "s"'):
            credentials_of([bad])


def busybox(script: str) -> tuple[dict[str, bytes], dict[str, Any]]:
    return {"busybox": Path("/bin/busybox").read_bytes()}, {"Entrypoint": ["/busybox", "sh", "-c", script]}


def waits(reason: str) -> Callable[[dict], bool]:
    return lambda status: any(one["state"].get("waiting", {}).get("reason") == reason for one in status.get("containerStatuses", ()))


def ended(status: dict) -> bool:
    return status.get("phase") == "Succeeded"


@pytest.mark.kernel
def test_a_kubelet_pulls_as_the_policy_says_and_tells_what_comes_of_it(world, registry_of) -> None:
    async def story(w) -> None:
        registry, guarded = registry_of(), registry_of(user="me:secret")  # in the node's namespace
        await w.give_pod_cidrs()
        files, words = busybox("echo first")
        registry.put("app", "v1", files, words=words)
        guarded.put("app", "v1", files, words=words)
        once = {"restartPolicy": "Never", "init": ""}

        def container(image: str, policy: str) -> dict:
            return {"image": image, "imagePullPolicy": policy, "command": None}

        await w.create("absent", container=container(f"{registry.host}/app:v1", "Never"), **once)
        await w.until_pod("absent", waits("ErrImageNeverPull"))
        assert registry.asked == []
        await w.create("first", container=container(f"{registry.host}/app:v1", "IfNotPresent"), **once)
        await w.until_pod("first", ended)
        asked = len(registry.asked)
        await w.create("again", container=container(f"{registry.host}/app:v1", "IfNotPresent"), **once)
        await w.until_pod("again", ended)
        assert len(registry.asked) == asked, "it is here already"
        files, words = busybox("echo second")
        registry.put("app", "v1", files, words=words)
        await w.create("always", container=container(f"{registry.host}/app:v1", "Always"), **once)
        await w.until_pod("always", ended)
        assert [(await w.logs(name))[1] for name in ("first", "again", "always")] == ["first\n", "first\n", "second\n"]
        # a registry that wants to know who asks
        await w.create("stranger", container=container(f"{guarded.host}/app:v1", "Always"), imagePullSecrets=[{"name": "none"}], **once)
        await w.until_pod("stranger", waits("ErrImagePull"))
        data = base64.b64encode(json.dumps({"auths": {guarded.host: {"auth": base64.b64encode(b"me:secret").decode()}}}).encode()).decode()
        secret = {"metadata": {"name": "pull", "namespace": "default"}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}
        await w.client.create(resource_of(Secret), {"apiVersion": "v1", "kind": "Secret", **secret})
        await w.create("known", container=container(f"{guarded.host}/app:v1", "Always"), imagePullSecrets=[{"name": "pull"}], **once)
        await w.until_pod("known", ended)
        await w.until_pod("stranger", waits("ImagePullBackOff"))
        for name, policy in (("wrong", "IfNotPresent"), ("wrong-always", "Always")):
            await w.create(name, container=container("Not A Name", policy), **once)
            await w.until_pod(name, waits("InvalidImageName"))

        async def told() -> bool:
            events = (await w.client.list(resource_of(Event), "default"))["items"]
            found = {(one["involvedObject"]["name"], one["reason"]) for one in events}
            return found >= {
                ("first", "Pulling"), ("first", "Pulled"), ("again", "Pulled"), ("always", "Pulling"), ("stranger", "Failed"), ("stranger", "BackOff"),
                ("stranger", "FailedToRetrieveImagePullSecret"), ("absent", "ErrImageNeverPull"), ("wrong", "InspectFailed"),
            }  # fmt: skip

        await w.until(told)
        for name in ("absent", "first", "again", "always", "stranger", "known", "wrong", "wrong-always"):
            await w.delete(name, grace_period_seconds=0)
        for name in ("absent", "first", "again", "always", "stranger", "known", "wrong", "wrong-always"):
            await w.until_gone(name)
        await w.nothing_is_left()

    world(story)


@pytest.mark.kernel
def test_a_pod_that_is_deleted_does_not_wait_for_a_registry_that_does_not_answer(world) -> None:
    async def story(w) -> None:
        await w.give_pod_cidrs()
        with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and says nothing
            image = f"127.0.0.1:{silent.getsockname()[1]}/app:v1"
            await w.create("waits", container={"image": image, "imagePullPolicy": "Always", "command": None})

            async def asked() -> bool:
                return any(b"skopeo" in line and image.encode() in line for line in commands())

            await w.until(asked)
            await w.delete("waits")
            await w.until_gone("waits")
            await w.nothing_is_left()

    world(story)


def commands() -> Iterator[bytes]:
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield place.read_bytes()
