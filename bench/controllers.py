"""The controller manager and the scheduler as processes of their own against the real API server: 5,000 nodes, 10,000 Services, 150,000 pods.

The objects are laid into the server's store before it starts, as nobody waits for a cluster that has grown over months;
what is measured from then on goes through the API. Nodes and pods are simulated: no kubelet reports, so the node
lifecycle controller is off, and a pod becomes ready by a patch of its status.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bench.apiserver import MASTER, cpu_seconds, free_port, resident, server
from bench.results import Result, percentile
from twinstack.api import kinds
from twinstack.api.objects import Document, Key, encode
from twinstack.api.resources import resource_of
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection
from twinstack.net.cidr import block, nth, parse_cidr
from twinstack.net.family import FAMILIES, Network
from twinstack.store.base import Write
from twinstack.store.sqlite import SQLiteStore

T = TypeVar("T")

BENCH = "controllers"
NODES, SERVICES, PODS_EACH, NAMESPACES, LARGE = 5_000, 10_000, 15, 10, 5_000
CLUSTER = ("10.0.0.0/10", "fd00:10::/48")
PODS = tuple(parse_cidr(text) for text in ("10.128.0.0/9", "fd00:99::/64"))
SERVICE_RANGES = tuple(parse_cidr(text) for text in ("10.96.0.0/12", "fd00:96::/108"))
STAMP = "2026-01-02T03:04:05Z"
SERVICE_NAME = "kubernetes.io/service-name"
_SLICES, _PODS, _NODES = resource_of(kinds.EndpointSlice), resource_of(kinds.Pod), resource_of(kinds.Node)


def run(scale: float) -> list[Result]:
    return [*node_blocks(scale), *scheduling(scale), *endpoints(scale)]


def node_blocks(scale: float) -> Iterator[Result]:
    """Blocks of both families for nodes that have none."""
    count = max(50, int(NODES * scale))
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(seed(Path(place), (node(number) for number in range(count))))
        with server(Path(place)) as (port, pid, _):

            async def wait(client: Client) -> None:
                waiting = {f"node{number}" for number in range(count)}
                listed = await client.list(_NODES)
                found = client.watch(_NODES, resource_version=listed["metadata"]["resourceVersion"])
                waiting -= {one["metadata"]["name"] for one in listed["items"] if one["spec"].get("podCIDRs")}
                async with aclosing(found) as events:
                    while waiting:
                        one = (await anext(events)).view(kinds.Node)
                        if len(one.spec.podCIDRs or ()) == len(FAMILIES):
                            waiting.discard(one.metadata.name)

            began = time.perf_counter()
            with manager(Path(place), port, "node-ipam-controller") as own:
                asyncio.run(as_client(port, wait))
                seconds = time.perf_counter() - began
                detail = {"server CPU s": cpu_seconds(pid), "manager CPU s": cpu_seconds(own)}
                yield Result(bench=BENCH, name=f"{count:,} nodes given CIDRs of both families", value=seconds, unit="s", target=20.0, detail=detail)


def scheduling(scale: float) -> Iterator[Result]:
    """Nodes for pods that wait, in a cluster that has ten pods on each of its nodes."""
    nodes, waiting = max(20, int(1000 * scale)), max(50, int(500 * scale))
    standing = nodes * 10

    def documents() -> Iterator[Document]:
        yield from (node(number, ready=True) for number in range(nodes))
        yield from (pod(f"there{number}", "default", f"a{number // 15}", node=f"node{number % nodes}", number=number + 1) for number in range(standing))
        for number in range(waiting):
            one = pod(f"new{number}", "default", f"new{number // 15}", node="", number=1)
            yield one | {"spec": {name: value for name, value in one["spec"].items() if name != "nodeName"}, "status": {"phase": "Pending"}}

    with tempfile.TemporaryDirectory() as place:
        asyncio.run(seed(Path(place), documents()))
        with server(Path(place)) as (port, _, _):

            async def wait(client: Client) -> None:
                left = {f"new{number}" for number in range(waiting)}
                async with aclosing(client.watch(_PODS, "default", send_initial_events=True)) as events:
                    while left:
                        event = await anext(events)
                        one = event.view(kinds.Pod)
                        if event.kind != "BOOKMARK" and one.spec.nodeName:
                            left.discard(one.metadata.name)

            began = time.perf_counter()
            with manager(Path(place), port, "", program="kube-scheduler") as own:
                asyncio.run(as_client(port, wait))
                rate = waiting / (time.perf_counter() - began)
                detail = {"scheduler CPU ms a pod": round(cpu_seconds(own) / waiting * 1000, 2)}
                name = f"pods given a node, {nodes:,} nodes and {standing:,} pods, start of the scheduler included"
                yield Result(bench=BENCH, name=name, value=rate, unit="/s", better="higher", detail=detail)


def endpoints(scale: float) -> Iterator[Result]:
    """Slices for everything that there is; then one pod at a time."""
    services, large = max(NAMESPACES, int(SERVICES * scale)), max(150, int(LARGE * scale))
    pods = services * PODS_EACH
    with tempfile.TemporaryDirectory() as place:
        asyncio.run(seed(Path(place), cluster(services, large, max(10, int(NODES * scale)))))
        with server(Path(place)) as (port, pid, _):
            began = time.perf_counter()
            spent = cpu_seconds(pid)
            with manager(Path(place), port, "*,-node-lifecycle-controller") as own:
                wanted = {Key("large", "large"): large} | {Key(f"ns{number % NAMESPACES}", f"s{number}"): PODS_EACH for number in range(services)}
                asyncio.run(as_client(port, lambda client: complete(client, wanted)))
                seconds = time.perf_counter() - began
                detail = {"server CPU s": cpu_seconds(pid) - spent, "manager CPU s": cpu_seconds(own)}
                name = f"{services:,} Services of {pods:,} pods to complete slices of both families"
                yield Result(bench=BENCH, name=name, value=seconds, unit="s", target=120.0, detail=detail)
                memory = {"server MB": resident(pid), "manager MB": resident(own)}
                yield Result(bench=BENCH, name="resident memory of both processes then", value=sum(memory.values()), unit="MB", detail=memory)
                took = asyncio.run(as_client(port, lambda client: readiness(client, services, tries=max(10, int(100 * scale)))))
                detail = {f"p{part}": round(percentile(took, part / 100) * 1000, 2) for part in (50, 90, 99)}
                name = "a pod becoming ready to its slices written, p50"
                yield Result(bench=BENCH, name=name, value=detail["p50"], unit="ms", target=50.0, detail=detail)
                writes = asyncio.run(as_client(port, lambda client: flaps(client, services, flips=6)))
                name = f"slices written in a family by a pod that flaps among {large:,}, each time"
                yield Result(bench=BENCH, name=name, value=writes, unit="writes", target=1.0)
                with manager(Path(place), port, "", program="kube-scheduler") as third:
                    asyncio.run(as_client(port, one_more))
                    memory = {"server MB": resident(pid), "manager MB": resident(own), "scheduler MB": resident(third)}
                    name = "resident memory of all processes once a scheduler runs, too"
                    yield Result(bench=BENCH, name=name, value=sum(memory.values()), unit="MB", target=1500.0, detail=memory)


async def one_more(client: Client) -> None:
    """Wait until a pod that is made has a node: then its scheduler has read all others."""
    waiting = pod("one-more", "default", "one-more", node="", number=1)
    await client.create(_PODS, {**waiting, "spec": {"containers": waiting["spec"]["containers"]}})
    async with aclosing(client.watch(_PODS, "default", send_initial_events=True)) as events:
        while not (event := await anext(events)).view(kinds.Pod).spec.nodeName or event.kind == "BOOKMARK":
            pass


# ---- what there is


def node(number: int, *, ready: bool = False) -> Document:
    condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": STAMP, "lastTransitionTime": STAMP}
    labels = {"kubernetes.io/hostname": f"node{number}", "topology.kubernetes.io/zone": f"zone{number % 3}"}
    document = typed("v1", "Node", f"node{number}", labels=labels)
    document["spec"] = {"podCIDR": blocks_of(number)[0], "podCIDRs": blocks_of(number)} if ready else {}
    allocatable = {"cpu": "64", "memory": "256Gi", "pods": "500"}
    return document | {"status": {"conditions": [condition], "capacity": allocatable, "allocatable": allocatable}}


def blocks_of(number: int) -> list[str]:
    return [str(block(parse_cidr(text), family.facts.node_mask_size, number)) for family, text in zip(FAMILIES, CLUSTER, strict=True)]


def cluster(services: int, large: int, nodes: int) -> Iterator[Document]:
    yield from (node(number, ready=True) for number in range(nodes))
    count = 0
    for place in ("large", *(f"ns{number}" for number in range(NAMESPACES))):
        yield typed("v1", "Namespace", place, labels={"kubernetes.io/metadata.name": place}) | {
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }
    for number in range(-1, services):
        place, name, pods = ("large", "large", large) if number < 0 else (f"ns{number % NAMESPACES}", f"s{number}", PODS_EACH)
        addresses = [text_at(network, number + 20) for network in SERVICE_RANGES]
        port = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
        yield typed("v1", "Service", name, place, labels={"app": name}) | {
            "spec": {
                "type": "ClusterIP",
                "clusterIP": addresses[0],
                "clusterIPs": addresses,
                "ipFamilies": [family.value for family in FAMILIES],
                "ipFamilyPolicy": "RequireDualStack",
                "selector": {"app": name},
                "ports": [port],
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
            },
            "status": {"loadBalancer": {}},
        }
        for family, text in zip(FAMILIES, addresses, strict=True):
            labels = {"ipaddress.kubernetes.io/ip-family": family.value, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}
            parent = {"group": "", "resource": "services", "namespace": place, "name": name}
            yield typed("networking.k8s.io/v1", "IPAddress", text, labels=labels) | {"spec": {"parentRef": parent}}
        for ordinal in range(pods):
            count += 1
            yield pod(f"{name}-{ordinal}", place, name, node=f"node{count % nodes}", number=count)


def pod(name: str, namespace: str, app: str, *, node: str, number: int) -> Document:
    """A pod as one of a Deployment looks that has been running for a while, but that nobody owns it."""
    stamp, ips = (
        f"2026-01-{number // 86400 + 1:02}T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
        [text_at(network, number) for network in PODS],
    )
    resources = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}
    probe = {
        "httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    container = {
        "name": "main",
        "image": "registry.example/app:1.2.3",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": resources,
        "env": [{"name": "MODE", "value": "production"}],
        "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300} for key in ("not-ready", "unreachable")
    ]
    state = {
        "name": "main",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "image": "registry.example/app:1.2.3",
        "state": {"running": {"startedAt": stamp}},
    }
    return typed("v1", "Pod", name, namespace, labels={"app": app, "tier": "backend"}) | {
        "spec": {
            "containers": [container],
            "nodeName": node,
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default",
            "schedulerName": "default-scheduler",
            "tolerations": tolerations,
            "enableServiceLinks": True,
            "priority": 0,
        },
        "status": {
            "phase": "Running",
            "podIP": ips[0],
            "podIPs": [{"ip": ip} for ip in ips],
            "hostIP": "172.30.0.11",
            "startTime": stamp,
            "qosClass": "Burstable",
            "conditions": [
                {"type": type_, "status": "True", "lastTransitionTime": stamp} for type_ in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ],
            "containerStatuses": [state],
        },
    }


def typed(api_version: str, kind: str, name: str, namespace: str = "", *, labels: dict[str, str]) -> Document:
    metadata: Document = {"name": name, "uid": f"{kind}-{namespace}-{name}", "creationTimestamp": STAMP, "generation": 1, "labels": labels}
    return {"kind": kind, "apiVersion": api_version, "metadata": {"name": name, **({"namespace": namespace} if namespace else {}), **metadata}}


def text_at(network: Network, number: int) -> str:
    return str(nth(network, number))


async def seed(place: Path, documents: Iterable[Document]) -> None:
    """Lay the documents into a new server's store."""
    from twinstack.api.resources import BY_KIND

    directory = place / "data"
    directory.mkdir()
    store = SQLiteStore(directory)
    tuple(store.load())
    writes: list[Write] = []
    for document in documents:
        resource = BY_KIND[document["apiVersion"], document["kind"]]
        metadata = document["metadata"]
        name = f"{metadata['namespace']}/{metadata['name']}" if resource.namespaced else metadata["name"]
        writes.append(Write(f"/registry/{resource.group or 'core'}/{resource.plural}/{name}", encode(document)))
        if len(writes) == 1000:
            await store.commit(writes)
            writes.clear()
    if writes:
        await store.commit(writes)
    await store.close()


# ---- who acts


@contextmanager
def manager(place: Path, port: int, controllers: str, *, program: str = "kube-controller-manager") -> Iterator[int]:
    """The controller manager, or the scheduler: its process id."""
    user, cluster = {"name": "root", "user": {"token": MASTER}}, {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    config = {
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [user],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "root"}}],
    }
    (place / "kubeconfig").write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "bench", **config}))
    argv = [sys.executable, "-m", "twinstack.cli.main", program, f"--kubeconfig={place / 'kubeconfig'}", "--leader-elect=false", f"--secure-port={free_port()}"]
    if controllers:
        argv += [f"--controllers={controllers}", "--allocate-node-cidrs", f"--cluster-cidr={','.join(CLUSTER)}"]
    with subprocess.Popen(argv, stderr=(place / "manager.log").open("wb")) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


async def as_client(port: int, do: Callable[[Client], Awaitable[T]]) -> T:
    async with Client(Connection(server=f"https://127.0.0.1:{port}", token=MASTER, verify=False)) as client:
        return await asyncio.wait_for(do(client), 600)


async def complete(client: Client, wanted: dict[Key, int]) -> None:
    """Wait until every Service has its endpoints in each family."""
    missing = {(family.value, key): count for key, count in wanted.items() for family in FAMILIES}
    having: Counter[tuple[str, Key]] = Counter()
    sizes: dict[Key, int] = {}
    events = client.watch(_SLICES, send_initial_events=True)
    async with aclosing(events):
        while missing:
            event = await anext(events)
            if event.kind == "BOOKMARK":
                continue
            one = event.view(kinds.EndpointSlice)
            name = Key(one.metadata.namespace, one.metadata.name)
            what = (one.addressType, Key(one.metadata.namespace, one.labels.get(SERVICE_NAME, "")))
            count = len(one.endpoints or ()) if event.kind != "DELETED" else 0
            having[what] += count - sizes.get(name, 0)
            sizes[name] = count
            if having[what] == missing.get(what):
                del missing[what]


async def readiness(client: Client, services: int, *, tries: int) -> list[float]:
    """Seconds from the patch of a pod's readiness until a slice of each family tells it, one pod at a time."""
    took = []
    for number in range(tries):
        place, name = f"ns{number % NAMESPACES}", f"s{number % services}"
        for ready in (False, True):
            seconds, _ = await flip(client, place, name, f"{name}-{number % PODS_EACH}", ready=ready)
        took.append(seconds)
    return took


async def flaps(client: Client, services: int, *, flips: int) -> float:
    """How many slices of a family are written when one pod of very many loses or gains readiness."""
    written = 0
    for number in range(flips):
        _, count = await flip(client, "large", "large", "large-77", ready=number % 2 == 1, linger=1.0)
        written += count
    return written / flips / len(FAMILIES)


async def flip(client: Client, namespace: str, service: str, pod: str, *, ready: bool, linger: float = 0.0) -> tuple[float, int]:
    """Change a pod's readiness: in how many seconds every family tells it, and how many slices were written."""
    listed = await client.raw("GET", _SLICES.path(namespace), query={"limit": "1"})
    revision = json.loads(listed.body)["metadata"]["resourceVersion"]
    waiting, written, seconds = {family.value for family in FAMILIES}, 0, 0.0
    events = client.watch(_SLICES, namespace, resource_version=revision, label_selector=f"{SERVICE_NAME}={service}")
    async with aclosing(events):
        reading = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.05)  # the watch is open before anything happens
        began = time.perf_counter()
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": STAMP}
        await client.patch(_PODS, Key(namespace, pod), {"status": {"conditions": [condition]}}, subresource="status", kind="strategic")
        while True:
            done, _ = await asyncio.wait([reading], timeout=None if waiting else linger)
            if not done:
                break
            event = reading.result()
            reading = asyncio.ensure_future(anext(events))
            if event.kind == "BOOKMARK":
                continue
            written += 1
            one = event.view(kinds.EndpointSlice)
            if any(told(endpoint, pod) is ready for endpoint in one.endpoints or ()):
                waiting.discard(one.addressType)
                if not waiting and not seconds:
                    seconds = time.perf_counter() - began
                    if not linger:
                        break
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return seconds, written


def told(endpoint: kinds.Endpoint, pod: str) -> Any:
    """What an endpoint says of the pod's readiness; None when it is of another."""
    of_pod = endpoint.targetRef is not None and endpoint.targetRef.name == pod
    return endpoint.conditions.ready if of_pod and endpoint.conditions else None
