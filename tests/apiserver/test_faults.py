"""What goes wrong around the server: full disks, sudden ends, flags that will not do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from twinstack.apiserver import serving
from twinstack.apiserver.settings import Settings, SettingsError
from twinstack.cli.main import main
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family
from twinstack.store.sqlite import SQLiteStore

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
SERVICES = "/api/v1/namespaces/default/services"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many bytes; called again, it gets that size."""
    place = tmp_path / "disk"

    def mount(size: int) -> Path:
        options = f"size={size}" + (",remount" if place.exists() else "")
        place.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tst-apiserver", str(place)], check=True)
        return place

    yield mount
    if place.exists():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.kernel
@pytest.mark.slow
async def test_a_full_disk_refuses_writes_and_keeps_serving_reads(small_disk: Callable[[int], Path], serve: Any, tmp_path: Path) -> None:
    disk = small_disk(2 << 20)
    api = await serve(data_dir=str(disk / "data"), cert_dir=str(tmp_path / "data" / "pki"))
    made = 0
    while True:
        got = await api.post(CONFIGMAPS, {"metadata": {"name": f"c{made}"}, "data": {"k": os.urandom(20_000).hex()}})
        if got.code != 201:
            break
        made += 1
    assert (got.code, got.reason) == (503, "ServiceUnavailable") and "could not be stored" in got.message
    assert int(got.headers["Retry-After"]) > 0
    # An address that a refused Service took is free again.
    spec = {"clusterIP": "10.96.3.3", "ports": [{"port": 80}]}
    assert (await api.post(SERVICES, {"metadata": {"name": "big", "annotations": {"x": "y" * 200_000}}, "spec": spec})).code == 503
    assert len((await api.get(CONFIGMAPS)).document["items"]) == made
    assert (await api.get(f"{CONFIGMAPS}/c0")).code == 200
    small_disk(64 << 20)
    await api.made(CONFIGMAPS, {"metadata": {"name": "again"}})
    await api.made(SERVICES, {"metadata": {"name": "web"}, "spec": spec})


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_write_and_leaks_no_address(tmp_path: Path) -> None:
    (tmp_path / "tokens.csv").write_text("token,admin,1\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "twinstack.cli.main", "kube-apiserver", f"--data-dir={tmp_path / 'data'}", "--bind-address=127.0.0.1"]
    argv += [f"--secure-port={port}", f"--token-auth-file={tmp_path / 'tokens.csv'}", "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112"]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE

    def ask(path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Authorization": "Bearer token", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"https://127.0.0.1:{port}{path}", data, headers), context=tls, timeout=5) as got:
            text = got.read()
            return json.loads(text) if path.startswith("/api") else text

    def ready(process: subprocess.Popen[bytes]) -> None:
        for _ in range(500):
            try:
                if ask("/readyz") == b"ok":
                    return
            except OSError:
                assert process.poll() is None
            time.sleep(0.02)
        raise AssertionError("the server did not become ready")

    acknowledged: dict[str, list[str]] = {}
    for life in range(3):
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
            try:
                ready(process)
                services = {one["metadata"]["name"]: one["spec"]["clusterIPs"] for one in ask("/api/v1/services")["items"]}
                assert acknowledged.items() <= services.items()
                for number in range(30 + 20 * life):
                    name = f"s{life}-{number}"
                    spec = {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}
                    acknowledged[name] = ask(SERVICES, {"metadata": {"name": name}, "spec": spec})["spec"]["clusterIPs"]
                records = {one["metadata"]["name"] for one in ask("/apis/networking.k8s.io/v1/ipaddresses")["items"]}
                assert records == {address for addresses in acknowledged.values() for address in addresses} | {"10.96.0.1"}
            finally:
                process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        pytest.param(["--authorization-mode=Webhook"], "Node,RBAC would do", id="an authorization mode that is not served"),
        pytest.param(["--etcd-servers=http://127.0.0.1:2379"], "--etcd-servers", id="etcd"),
        pytest.param(["--bind-address=nonsense"], "--bind-address: 'nonsense' is not an IP address", id="an address that is none"),
        pytest.param(["--advertise-address=10.0.0"], "--advertise-address", id="an address to advertise that is none"),
        pytest.param(["--advertise-address=2001:db8::1"], "an IPv4 address would do", id="an address to advertise of the other family"),
        pytest.param(["--secure-port=70000"], "--secure-port=70000 is not a port", id="a port that is none"),
        pytest.param(["--token-auth-file=/does/not/exist"], "--token-auth-file=/does/not/exist cannot be read", id="no token file"),
        pytest.param(["--client-ca-file=/does/not/exist"], "--client-ca-file=/does/not/exist cannot be read", id="no authority file"),
        pytest.param(["--tls-cert-file=/a"], "go together", id="a certificate without its key"),
        pytest.param(["--tls-cert-file=/dev/null", "--tls-private-key-file=/dev/null"], "cannot be used", id="a certificate that is none"),
        pytest.param(["--service-cluster-ip-range=10.0.0.0/16,10.1.0.0/16"], "IPv4", id="two ranges of one family"),
        pytest.param(["--service-cluster-ip-range=10.0.0.0/16,fd00::/112,fd01::/112"], "", id="three ranges"),
        pytest.param(["--service-cluster-ip-range=nonsense"], "nonsense", id="a range that is none"),
        pytest.param(["--service-node-port-range=9-1"], "9-1", id="a port range that is none"),
        pytest.param(["--service-cluster-ip-range=10.0.0.0/30"], "/2 to /29 would do", id="a primary range of four addresses"),
        pytest.param(["--service-cluster-ip-range=fd00::/126"], "/2 to /125 would do", id="likewise of the other family"),
        pytest.param(
            ["--service-cluster-ip-range=fd00::/112", "--advertise-address=192.0.2.1"], "an IPv6 address would do", id="an address to advertise, the twin"
        ),
        pytest.param(["--service-cluster-ip-range=fd00::/112", "--bind-address=192.0.2.1"], "--advertise-address", id="an address to bind of the other family"),
        pytest.param(["--kubernetes-service-node-port=8080"], "30000 would do", id="a node port out of the range"),
        pytest.param(["--kubernetes-service-node-port=-1"], "30000 would do", id="a node port that is none"),
        pytest.param(["--apiserver-count=0"], "1 would do", id="no servers at all"),
        pytest.param(["--endpoint-reconciler-type=magic"], "magic", id="an unknown reconciler"),
        pytest.param(["--event-ttl=0s"], "--event-ttl", id="no time to live"),
        pytest.param(["--data-dir=/dev/null/x"], "data directory /dev/null/x cannot be used", id="a directory that cannot be"),
        pytest.param(["--kubelet-client-key=/x"], "go together", id="a kubelet client key alone"),
    ],
)
def test_a_flag_that_will_not_do_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str) -> None:
    argv = ["kube-apiserver", f"--data-dir={tmp_path}", "--bind-address=127.0.0.1", "--secure-port=0", "--service-cluster-ip-range=10.96.0.0/16", *flags]
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert words in lines[0]


def test_a_busy_port_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy, pytest.raises(SystemExit) as caught:
        main(["kube-apiserver", f"--data-dir={tmp_path}", "--bind-address=127.0.0.1", f"--secure-port={busy.getsockname()[1]}"])
    assert caught.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "is in use" in line


def test_a_second_server_over_the_same_data_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = SQLiteStore(tmp_path)
    try:
        with pytest.raises(SystemExit) as caught:
            main(["kube-apiserver", f"--data-dir={tmp_path}", "--bind-address=127.0.0.1", "--secure-port=0"])
    finally:
        asyncio.run(first.close())
    assert caught.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "in use by another server" in line


def test_an_unspecified_address_listens_in_every_family() -> None:
    sockets = serving.open_sockets(Settings(data_dir="", secure_port=0))
    try:
        ports = {one.getsockname()[1] for one in sockets}
        assert {one.family for one in sockets} <= {family.facts.socket_family for family in FAMILIES} and len(ports) == 1
        for one, family in zip(sockets, FAMILIES, strict=False):
            with socket.create_connection((family.facts.loopback, one.getsockname()[1]), timeout=1):
                pass
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize(
    ("advertise", "bind", "found"),
    [("192.0.2.9", "0.0.0.0", "192.0.2.9"), ("", "192.0.2.8", "192.0.2.8"), ("", "2001:db8::1", "2001:db8::1"), ("2001:db8::2", "127.0.0.1", "2001:db8::2")],
)
def test_what_is_advertised_is_what_was_said_or_what_is_bound(advertise: str, bind: str, found: str) -> None:
    settings = Settings(data_dir="", advertise_address=advertise, bind_address=bind)
    assert serving.advertise_address(settings, Family.of(parse_address(found))) == found


def test_a_certificate_of_ones_own_is_kept_until_an_address_is_missing(tmp_path: Path) -> None:
    def made(advertise: str) -> bytes:
        serving.tls_context(Settings(data_dir=str(tmp_path), advertise_address=advertise), ())
        return (tmp_path / "pki" / "apiserver.crt").read_bytes()

    first = made("192.0.2.1")
    assert made("192.0.2.1") == first
    assert made("2001:db8::1") != first
    assert (tmp_path / "pki" / "apiserver.key").stat().st_mode & 0o777 == 0o600


def test_a_certificate_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="--cert-dir"):
        serving.tls_context(Settings(data_dir=str(tmp_path), cert_dir=str(tmp_path / "file" / "pki")), ())
