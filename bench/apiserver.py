"""The API server, as its own process and with everything on, against bare parts of itself.

The generator is a process of its own. Server and generator share the machine, so the figures are of both; the
baselines of the same run are the same HTTP library over TLS that answers with ready bytes, and SQLite alone.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.results import Result, percentile

BENCH = "apiserver"
TOKEN = "bench"
MASTER = "master"
SERVICES = "/api/v1/namespaces/default/services"


def run(scale: float) -> list[Result]:
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as place, echo() as bare, server(Path(place)) as (port, pid, seconds):
        results.append(Result(bench=BENCH, name="ready after start", value=seconds, unit="s", target=0.7))
        results.append(Result(bench=BENCH, name="resident memory, empty", value=resident(pid), unit="MB", target=100.0))
        results += writes(port, pid, Path(place), scale)
        results += reads(port, pid, bare, scale)
        total = int(10_000 * scale)
        post(port, "/api/v1/namespaces", {"metadata": {"name": "fill"}})
        missing = total - int(metric(port, 'apiserver_storage_objects{resource="services"}'))
        if missing > 0:
            load(port, kind="create", clients=16, count=missing, path="/api/v1/namespaces/fill/services", prefix="f")
        results.append(Result(bench=BENCH, name=f"resident memory, {total:,} dual-stack Services", value=resident(pid), unit="MB"))
        slices = "/apis/discovery.k8s.io/v1/namespaces/fill/endpointslices"
        load(port, kind="create", what="slice", clients=16, count=2 * total, path=slices, prefix="f")
        value = resident(pid)
        results.append(Result(bench=BENCH, name=f"resident memory, {total:,} Services and {2 * total:,} slices", value=value, unit="MB", target=200.0))
        results += lists(port, bare, scale)
        results += events(port, bare, scale)
        results += idle(port, pid, scale)
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as (port, pid, _):
        results += flat(port, pid, scale)
    return results


def flat(port: int, pid: int, scale: float) -> Iterator[Result]:
    """Dual-stack Services created beside none, 2,000 and 10,000 others: what one costs must not grow with their number."""
    count = max(64, int(500 * scale))
    each: list[float] = []
    present = 0
    for size in (0, int(2000 * scale), int(10_000 * scale)):
        if size > present:
            load(port, kind="create", clients=16, count=size - present, path=SERVICES, prefix=f"fill{size}")
            present = size
        before = cpu_seconds(pid)
        found = load(port, kind="create", clients=16, count=count, path=SERVICES, prefix=f"at{size}")
        each.append((cpu_seconds(pid) - before) / count)
        present += count
        yield rate(f"dual-stack Services created beside {size:,}, 16 clients", found, 1500.0 * min(1.0, scale * 2))
    yield Result(bench=BENCH, name="CPU of the server, a dual-stack Service beside the most others", value=each[-1] / each[0], unit="× the first", target=1.3)


def writes(port: int, pid: int, place: Path, scale: float) -> Iterator[Result]:
    """Creates with and without addresses, and patches; then creates once more, now that there are many."""
    durable = sqlite_rate(place, commits=max(50, int(1000 * scale)))
    counts = {1: 500, 16: 3000, 64: 3000}
    targets = {
        "service": ("dual-stack Services created", "c", {1: 400.0, 16: 1500.0, 64: 2000.0}),
        "headless": ("headless Services created", "h", {1: 600.0, 16: 2500.0, 64: 3500.0}),
    }
    spent: dict[str, float] = {}
    for what, (name, prefix, wanted) in targets.items():
        for clients, count in counts.items():
            count = max(clients * 4, int(count * scale))
            before = cpu_seconds(pid)
            found = load(port, kind="create", what=what, clients=clients, count=count, path=SERVICES, prefix=f"{prefix}{clients}")
            spent[name] = (cpu_seconds(pid) - before) / count
            yield rate(f"{name}, {clients} clients", found, wanted[clients], "bare SQLite, one durable commit of three rows at a time", durable)
    for clients, target in {1: 600.0, 16: 2500.0, 64: 3000.0}.items():
        count = max(clients * 4, int(counts[clients] * scale))
        objects = max(16 * 4, int(3000 * scale))
        before = cpu_seconds(pid)
        found = load(port, kind="patch", clients=clients, count=count, objects=objects, path=f"{SERVICES}/c16", turn=f"t{clients}")
        spent["merge patches"] = (cpu_seconds(pid) - before) / count
        yield rate(f"merge patches, {clients} clients", found, target, "bare SQLite, one durable commit of three rows at a time", durable)
    for name, seconds in spent.items():
        yield Result(bench=BENCH, name=f"CPU of the server, {name}, each", value=seconds * 1e6, unit="µs", target=300.0)


def reads(port: int, pid: int, bare: int, scale: float) -> Iterator[Result]:
    for clients, target in {1: 3000.0, 16: 9000.0, 64: 10_000.0}.items():
        count = max(clients * 10, int(8000 * scale))
        before = cpu_seconds(pid)
        found = load(port, kind="get", clients=clients, count=count, path=f"{SERVICES}/c16-0")
        spent = (cpu_seconds(pid) - before) / count
        base = load(bare, kind="get", clients=clients, count=count, path=f"/bytes/{found['bytes']}")
        yield rate(f"GET, {clients} clients", found, target, "bare aiohttp, same bytes", len(base["took"]) / base["seconds"])
    yield Result(bench=BENCH, name="CPU of the server, GET, each", value=spent * 1e6, unit="µs", target=90.0)


def rate(name: str, found: dict[str, Any], target: float, baseline: str = "", baseline_value: float | None = None) -> Result:
    return Result(
        bench=BENCH,
        name=name,
        value=len(found["took"]) / found["seconds"],
        unit="/s",
        better="higher",
        baseline=baseline,
        baseline_value=baseline_value,
        target=target,
        detail=milliseconds(found["took"]),
    )


def lists(port: int, bare: int, scale: float) -> Iterator[Result]:
    """LIST of 1,000 and of 10,000 Services, in namespaces of their own."""
    for size in (1000, 10_000):
        size = max(100, int(size * scale))
        namespace = f"list-{size}"
        post(port, "/api/v1/namespaces", {"metadata": {"name": namespace}})
        path = f"/api/v1/namespaces/{namespace}/services"
        load(port, kind="create", clients=16, count=size, path=path, prefix="s")
        found = load(port, kind="list", clients=1, count=20, path=path)
        base = load(bare, kind="list", clients=1, count=20, path=f"/bytes/{found['bytes']}")
        yield Result(
            bench=BENCH,
            name=f"LIST {size:,} Services ({found['bytes'] / 1e6:.1f} MB)",
            value=percentile(found["took"], 0.5) * 1000,
            unit="ms",
            baseline="bare aiohttp, same bytes",
            baseline_value=percentile(base["took"], 0.5) * 1000,
            target=40.0 if size >= 10_000 else None,
            detail=milliseconds(found["took"]),
        )


def events(port: int, bare: int, scale: float) -> Iterator[Result]:
    """From sending a patch to a watcher's event. Watches start from now, in a namespace of their own."""
    post(port, "/api/v1/namespaces", {"metadata": {"name": "watched"}})
    path = "/api/v1/namespaces/watched/services"
    load(port, kind="create", clients=1, count=1, path=path, prefix="s")
    for watchers, target in {1: 2.5, 100: 4.0, 1000: 14.0}.items():
        watchers = max(1, int(watchers * min(1.0, scale * 2)))
        count = 20
        watch = f"{path}?watch=true&resourceVersion={revision(port, path)}"
        found = load(port, kind="events", watchers=watchers, count=count, path=path, object=f"{path}/s-0", watch=watch, prefix=f"w{watchers}")
        base = load(bare, kind="events", watchers=watchers, count=count, path="/tell", watch="/watch", prefix=f"w{watchers}")
        yield Result(
            bench=BENCH,
            name=f"patch to event, {watchers:,} watchers",
            value=percentile(found["took"], 0.5) * 1000,
            unit="ms",
            baseline="bare aiohttp telling all at once",
            baseline_value=percentile(base["took"], 0.5) * 1000,
            target=target,
            detail=milliseconds(found["took"]),
        )


def idle(port: int, pid: int, scale: float) -> Iterator[Result]:
    """Ten thousand watchers of what does not change: what they take, and whether others notice."""
    watchers = max(100, int(10_000 * min(1.0, scale)))
    path = "/api/v1/namespaces/watched/services"
    count = max(50, int(1000 * scale))
    alone = load(port, kind="get", clients=1, count=count, path=f"{path}/s-0")
    before = resident(pid)
    job = json.dumps({"port": port, "token": TOKEN, "kind": "idle", "watchers": watchers, "watch": "/api/v1/namespaces/warm/services?watch=1"})
    with subprocess.Popen([sys.executable, "-m", "bench._load", job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        if process.stdout.readline().strip() != str(watchers):
            raise RuntimeError("not every watcher was let in")
        value = (resident(pid) - before) * 1024 / watchers
        yield Result(bench=BENCH, name=f"resident memory, each of {watchers:,} idle watchers", value=value, unit="kB")
        found = load(port, kind="get", clients=1, count=count, path=f"{path}/s-0")
        yield Result(
            bench=BENCH,
            name=f"GET beside {watchers:,} idle watchers, p50",
            value=percentile(found["took"], 0.5) * 1000,
            unit="ms",
            baseline="without them",
            baseline_value=percentile(alone["took"], 0.5) * 1000,
            detail=milliseconds(found["took"]),
        )
        process.communicate("\n")


# ---- the parts


@contextmanager
def server(place: Path) -> Iterator[tuple[int, int, float]]:
    """The real server on a fresh data directory: its port, its process id, and in how many seconds it was ready.

    Whoever asks is held against RBAC as everybody is: by one role, and not as one of the masters, who are let through.
    """
    port = free_port()
    (place / "tokens.csv").write_text(f"{TOKEN},bench,bench\n{MASTER},root,root,system:masters\n")
    argv = [
        *(sys.executable, "-m", "twinstack.cli.main", "kube-apiserver"),
        *(f"--data-dir={place / 'data'}", "--bind-address=127.0.0.1", f"--secure-port={port}", f"--token-auth-file={place / 'tokens.csv'}"),
        *("--service-cluster-ip-range=10.96.0.0/12,fd00:96::/108", "--endpoint-reconciler-type=none", "--authorization-mode=Node,RBAC"),
    ]
    start = time.perf_counter()
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(1500):
                try:
                    if get(port, "/readyz", token=MASTER) == b"ok":
                        break
                except OSError:
                    if process.poll() is not None:
                        raise RuntimeError("the server did not start") from None
                time.sleep(0.01)
            seconds = time.perf_counter() - start
            roles = "/apis/rbac.authorization.k8s.io/v1"
            rules = [{"apiGroups": ["", "discovery.k8s.io"], "resources": ["services", "endpointslices", "namespaces"], "verbs": ["*"]}]
            rules.append({"nonResourceURLs": ["/metrics"], "verbs": ["get"]})
            post(port, f"{roles}/clusterroles", {"metadata": {"name": "bench"}, "rules": rules}, token=MASTER)
            binding = {"metadata": {"name": "bench"}, "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bench"}]}
            binding["roleRef"] = {"kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io", "name": "bench"}
            post(port, f"{roles}/clusterrolebindings", binding, token=MASTER)
            # The first write reads the schemas; they belong to a server that is at work.
            post(port, "/api/v1/namespaces", {"metadata": {"name": "warm"}})
            yield port, process.pid, seconds
        finally:
            process.terminate()


@contextmanager
def echo() -> Iterator[int]:
    """The bare server."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-m", "bench._echo", str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield port
        finally:
            process.kill()


def load(port: int, **job: Any) -> dict[str, Any]:
    """Run the generator."""
    argument = json.dumps({"port": port, "token": TOKEN, **job})
    done = subprocess.run([sys.executable, "-m", "bench._load", argument], check=True, capture_output=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def sqlite_rate(place: Path, *, commits: int) -> float:
    """Durable commits a second of three rows such as a Service and its two addresses, one after the other."""
    connection = sqlite3.connect(place / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE kv (rev INTEGER PRIMARY KEY, key TEXT, value BLOB)")
    start = time.perf_counter()
    for number in range(commits):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO kv (key, value) VALUES (?, ?)", [(f"/{number}/{part}", b"x" * size) for part, size in enumerate((1100, 350, 350))])
        connection.execute("COMMIT")
    rate = commits / (time.perf_counter() - start)
    connection.close()
    return rate


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def resident(pid: int) -> float:
    """Megabytes that a process holds in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid: int) -> float:
    """What a process has used of the processors; unlike the clock's time, hardly a matter of what else runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(port: int, path: str, body: bytes | None = None, *, token: str = TOKEN) -> bytes:
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}{path}", data=body, headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, context=tls, timeout=10) as answer:
            data: bytes = answer.read()
            return data
    except urllib.error.HTTPError as error:
        return error.read()


def post(port: int, path: str, document: dict[str, Any], *, token: str = TOKEN) -> None:
    answer = json.loads(get(port, path, json.dumps(document).encode(), token=token))
    if answer.get("status") == "Failure":
        raise RuntimeError(str(answer))


def revision(port: int, path: str) -> str:
    return str(json.loads(get(port, path + "?limit=1"))["metadata"]["resourceVersion"])


def metric(port: int, name: str) -> float:
    lines = get(port, "/metrics").decode().splitlines()
    return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])


def milliseconds(took: list[float]) -> dict[str, float]:
    return {f"p{part}": round(percentile(took, part / 100) * 1000, 3) for part in (50, 90, 99)}
