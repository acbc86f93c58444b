"""kube-controller-manager and kube-scheduler: their flags, and their controllers at work against the real API server."""

from __future__ import annotations

import asyncio
import importlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from twinstack.api import errors, kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.apiserver import app as apiserver
from twinstack.apiserver.settings import Settings as ServerSettings
from twinstack.client import kube_controller_manager as kcm
from twinstack.client import kube_scheduler as scheduler
from twinstack.client.client import Client
from twinstack.client.controllers import SettingsError, check
from twinstack.client.informer import Informer
from twinstack.client.kubeconfig import Connection
from twinstack.controllers.nodeipam import BadRanges

PODS, NODES, SERVICES = resource_of(kinds.Pod), resource_of(kinds.Node), resource_of(kinds.Service)
CIDRS, RANGES = "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/16,fd00:10:96::/112"
NAMED = ["token-cleaner-controller", "bootstrap-signer-controller"]


def test_every_controller_of_the_table_is_there_under_the_name_it_has() -> None:
    for name, row in kcm.CONTROLLERS.items():
        cls = getattr(importlib.import_module(f"twinstack.controllers.{row.module}"), row.cls)
        assert cls.name == name
    words = ("*", "bootstrapsigner", "tokencleaner")
    made = kcm.controllers_of(kcm.Settings(allocate_node_cidrs=True, cluster_cidr=CIDRS, controllers=words))
    assert [controller.name for controller in made] == list(kcm.CONTROLLERS)


@pytest.mark.parametrize(
    "words, without, only",
    [
        pytest.param(["*"], NAMED, [], id="all"),
        pytest.param(["*", "bootstrapsigner", "tokencleaner"], [], [], id="all, and those that have to be named, as kubeadm has it"),
        pytest.param(["*", "-persistentvolume-binder-controller", "-pv-protection"], NAMED, [], id="all, without what is not here anyway"),
        pytest.param(["*", "-nodeipam"], ["node-ipam-controller", *NAMED], [], id="all but one, by its old name"),
        pytest.param(["-deployment-controller", "*"], ["deployment-controller", *NAMED], [], id="the order does not matter"),
        pytest.param(["endpointslice-controller"], [], ["endpointslice-controller"], id="one alone"),
        pytest.param(["endpointslice", "-endpointslice"], [], ["endpointslice-controller"], id="the first word about one counts"),
    ],
)
def test_controllers_are_chosen_by_name(words: Sequence[str], without: list[str], only: list[str]) -> None:
    assert kcm.chosen(tuple(words)) == (only or [name for name in kcm.CONTROLLERS if name not in without])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"controllers": ("nonsense",)}, "'nonsense' is not a controller here"),
        ({"controllers": ("*", "horizontal-pod-autoscaler-controller")}, "horizontal-pod-autoscaler-controller is upstream's and not served here"),
        ({"allocate_node_cidrs": True}, "--allocate-node-cidrs needs --cluster-cidr"),
        ({"allocate_node_cidrs": True, "cluster_cidr": "10.244.0.1/16"}, "10.244.0.0/16 would do"),
        ({"service_cluster_ip_range": "10.0.0.0/24,10.1.0.0/24"}, "is not one CIDR, or one of each family"),
        ({"max_endpoints_per_slice": 0}, "--max-endpoints-per-slice=0 is not within"),
        ({"mirroring_max_endpoints_per_subset": 1001}, "--mirroring-max-endpoints-per-subset=1001 is not within"),
        ({"concurrent_gc_syncs": 0}, "--concurrent-gc-syncs=0 lets nobody work"),
        ({"node_monitor_grace_period_seconds": 0.0}, "--node-monitor-grace-period=0s is not positive"),
        ({"root_ca_file": "/none"}, "--root-ca-file=/none cannot be read"),
        ({"node_monitor_period_seconds": 0.0}, "--node-monitor-period=0s is not positive"),
        ({"node_eviction_rate": -1.0}, "--node-eviction-rate=-1 is negative"),
        ({"unhealthy_zone_threshold": 1.5}, "--unhealthy-zone-threshold=1.5 is no share"),
        ({"concurrent_daemonset_syncs": 0}, "--concurrent-daemonset-syncs=0 lets nobody work"),
    ],
)
def test_a_flag_that_will_not_do_is_told_with_one_that_would(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        kcm.controllers_of(kcm.Settings(**fields))


def test_three_cluster_cidrs_are_refused_by_the_one_who_knows() -> None:
    with pytest.raises(BadRanges, match="--cluster-cidr"):
        kcm.controllers_of(kcm.Settings(allocate_node_cidrs=True, cluster_cidr=f"{CIDRS},10.0.0.0/16"))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"leader_elect_renew_deadline_seconds": 15.0}, "must last longer"),
        ({"leader_elect_retry_period_seconds": 0.0}, "--leader-elect-retry-period=0s is not positive"),
        ({"secure_port": 70000}, "is no port"),
        ({"leader_elect_resource_lock": "configmaps"}, "--leader-elect-resource-lock=configmaps is no kind of lock here; leases is"),
        ({"kube_api_burst": -1}, "--kube-api-burst=-1 is negative"),
        ({"tls_cert_file": "x"}, "go together"),
    ],
)
def test_shared_flags_are_checked_too(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check(scheduler.Settings(**fields))


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A real API server of both families."""
    (tmp_path / "tokens").write_text("secret,admin,1,system:masters\n")
    listening, serving = socket.create_server(("127.0.0.1", 0)), asyncio.Event()
    port = listening.getsockname()[1]
    settings = ServerSettings(
        data_dir=str(tmp_path),
        store="memory",
        secure_port=0,
        sockets=(listening,),
        token_auth_file=str(tmp_path / "tokens"),
        authorization_mode="RBAC",
        advertise_address="192.0.2.1",
        service_cluster_ip_range=RANGES,
    )
    task = asyncio.create_task(apiserver.run(settings, ready=serving.set))
    try:
        async with asyncio.timeout(10):
            await serving.wait()
        yield Connection(server=f"https://127.0.0.1:{port}", token="secret", verify=False)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def admin(connection: Connection) -> AsyncIterator[Client]:
    async with Client(connection) as client:
        yield client


async def until(found: Any) -> Any:
    """The first true answer, within five seconds."""
    async with asyncio.timeout(5):
        while not (answer := await found()):  # noqa: ASYNC110 - the server is asked, there is no event
            await asyncio.sleep(0.005)
        return answer


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@pytest.mark.slow
async def test_a_deployment_becomes_pods_on_nodes_with_endpoints_of_both_families(connection: Connection, admin: Client) -> None:
    ready = [asyncio.Event(), asyncio.Event()]
    port = free_port()
    settings = kcm.Settings(
        connection=connection, leader_elect=True, secure_port=port, allocate_node_cidrs=True, cluster_cidr=CIDRS, service_cluster_ip_range=RANGES
    )
    tasks = [
        asyncio.create_task(kcm.run(settings, ready=ready[0].set)),
        asyncio.create_task(scheduler.run(scheduler.Settings(connection=connection, leader_elect=False, secure_port=0), ready=ready[1].set)),
    ]
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(*(one.wait() for one in ready))
        for i in (1, 2, 3):
            await admin.create(NODES, {"metadata": {"name": f"node{i}"}})
            size = {"cpu": "2", "memory": "4Gi", "pods": "110"}
            status = {"conditions": [{"type": "Ready", "status": "True"}], "capacity": size, "allocatable": size}
            await admin.patch(NODES, Key("", f"node{i}"), {"status": status}, subresource="status")
        await admin.create(resource_of(kinds.Namespace), {"metadata": {"name": "demo"}})
        template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "twinstack.dev/host"}]}}
        spec = {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        await admin.create(resource_of(kinds.Deployment), {"metadata": {"name": "web", "namespace": "demo"}, "spec": spec})
        service = {"ipFamilyPolicy": "RequireDualStack", "selector": {"app": "web"}, "ports": [{"port": 80}]}
        await admin.create(SERVICES, {"metadata": {"name": "web", "namespace": "demo"}, "spec": service})

        async def bound() -> list[Any]:
            pods = (await admin.list(PODS, "demo"))["items"]
            return pods if len(pods) == 4 and all(pod["spec"].get("nodeName") for pod in pods) else []

        pods = await until(bound)
        assert {pod["spec"]["nodeName"] for pod in pods} == {"node1", "node2", "node3"}
        for i, pod in enumerate(pods, 1):
            ips = [{"ip": f"10.244.0.{i}"}, {"ip": f"fd00:10:244::{i}"}]
            status = {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]}
            await admin.patch(PODS, Key("demo", pod["metadata"]["name"]), {"status": status}, subresource="status")

        async def endpoints() -> dict[str, int]:
            slices = (await admin.list(resource_of(kinds.EndpointSlice), "demo"))["items"]
            found = {one["addressType"]: len(one.get("endpoints") or []) for one in slices}
            return found if found == {"IPv4": 4, "IPv6": 4} else {}

        await until(endpoints)

        async def available() -> bool:
            return (await admin.get(resource_of(kinds.Deployment), Key("demo", "web")))["status"].get("availableReplicas") == 4  # type: ignore[no-any-return]

        await until(available)
        nodes = (await admin.list(NODES))["items"]
        blocks = [cidr for node in nodes for cidr in node["spec"]["podCIDRs"]]
        assert len(set(blocks)) == 6 and all(len(node["spec"]["podCIDRs"]) == 2 for node in nodes)
        lease = await admin.get(resource_of(kinds.Lease), Key("kube-system", "kube-controller-manager"))
        assert lease["spec"]["holderIdentity"]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                text = await answer.text()
        assert 'workqueue_adds_total{name="endpointslice-controller"}' in text
        assert 'leader_election_master_status{name="kube-controller-manager"} 1.0' in text
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (await admin.get(resource_of(kinds.Lease), Key("kube-system", "kube-controller-manager")))["spec"].get("holderIdentity", "") == ""


@pytest.mark.slow
async def test_as_kubeadm_starts_it_cluster_info_is_signed_and_an_ended_token_goes(connection: Connection, admin: Client) -> None:
    ready = asyncio.Event()
    settings = kcm.Settings(
        connection=connection,
        leader_elect=False,
        secure_port=0,
        controllers=("*", "bootstrapsigner", "tokencleaner"),
        use_service_account_credentials=True,
        without_effect=("--cluster-signing-cert-file",),
    )
    data = {"token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}
    for name, ends in (("aaaaaa", "2999-01-01T00:00:00Z"), ("bbbbbb", "2020-01-01T00:00:00Z")):
        metadata = {"name": f"bootstrap-token-{name}", "namespace": "kube-system"}
        secret = {"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "stringData": data | {"token-id": name, "expiration": ends}}
        await admin.create(resource_of(kinds.Secret), secret)
    info = {"metadata": {"name": "cluster-info", "namespace": "kube-public"}, "data": {"kubeconfig": "apiVersion: v1\n"}}
    await admin.create(resource_of(kinds.ConfigMap), info)
    task = asyncio.create_task(kcm.run(settings, ready=ready.set))

    async def done() -> bool:
        found = await admin.get(resource_of(kinds.ConfigMap), Key("kube-public", "cluster-info"))
        tokens = {one["metadata"]["name"] for one in (await admin.list(resource_of(kinds.Secret), "kube-system"))["items"]}
        return set(found["data"]) == {"kubeconfig", "jws-kubeconfig-aaaaaa"} and "bootstrap-token-bbbbbb" not in tokens

    try:
        async with asyncio.timeout(30):
            await ready.wait()
        await until(done)
        assert (await admin.get(resource_of(kinds.Secret), Key("kube-system", "bootstrap-token-aaaaaa")))["type"] == "bootstrap.kubernetes.io/token"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_where_it_is_asked_for_the_door_speaks_https_with_a_certificate_of_its_own(connection: Connection) -> None:
    ready, port = asyncio.Event(), free_port()
    settings = scheduler.Settings(connection=connection, leader_elect=False, secure_port=port, self_signed=True)
    task = asyncio.create_task(scheduler.run(settings, ready=ready.set))
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        async with aiohttp.ClientSession() as session, session.get(f"https://127.0.0.1:{port}/readyz", ssl=False) as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_port_that_is_taken_is_told(connection: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = scheduler.Settings(connection=connection, leader_elect=False, secure_port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match="cannot listen there"):
            await scheduler.run(settings)


async def test_the_real_server_tells_a_deletion_and_a_refusal(connection: Connection, admin: Client) -> None:
    configmaps = resource_of(kinds.ConfigMap)
    made = await admin.create(configmaps, {"metadata": {"name": "a", "namespace": "default"}})
    seen: list[tuple[str, str]] = []
    events = admin.watch(configmaps, "default", resource_version=made["metadata"]["resourceVersion"])
    await admin.patch(configmaps, Key("default", "a"), {"data": {"x": "1"}})
    await admin.delete(configmaps, Key("default", "a"))
    async with asyncio.timeout(2):
        async for event in events:
            one = event.view(kinds.ConfigMap)
            seen.append((event.kind, one.metadata.resourceVersion))
            if event.kind == "DELETED":
                break
    await events.aclose()
    assert [kind for kind, _ in seen] == ["MODIFIED", "DELETED"]
    revisions = [int(revision) for _, revision in seen]
    assert int(made["metadata"]["resourceVersion"]) < revisions[0] < revisions[1], "a deletion has a revision of its own"
    with pytest.raises(errors.Invalid, match="ipFamilies"):
        await admin.create(SERVICES, {"metadata": {"name": "x", "namespace": "default"}, "spec": {"ipFamilies": ["nonsense"], "ports": [{"port": 80}]}})


async def test_an_informer_streams_the_state_of_the_real_server(connection: Connection, admin: Client) -> None:
    informer = Informer(admin, kinds.Namespace)
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(2):
            await informer.synced()
        assert {one.metadata.name for one in informer.list()} >= {"default", "kube-system"}
        assert informer.revision > 0
        made = await admin.create(resource_of(kinds.Namespace), {"metadata": {"name": "demo"}})
        informer.take(made)
        assert informer.get(Key("", "demo")) is not None
        await admin.delete(resource_of(kinds.Namespace), Key("", "demo"))

        async def terminating() -> bool:
            one = informer.get(Key("", "demo"))
            return one is None or one.metadata.deletionTimestamp is not None

        await until(terminating)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
