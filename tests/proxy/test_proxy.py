"""The whole proxy against the real API server, with a kernel in memory: what it watches, tells and answers."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import AsyncExitStack, suppress

import aiohttp
import msgspec
import pytest

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.apiserver import app
from twinstack.apiserver.settings import Settings as ServerSettings
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection
from twinstack.dataplane.ruleset import Goto
from twinstack.kernel.errors import KernelError
from twinstack.kernel.fake import FakeNftables
from twinstack.net.cidr import host_port
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy import proxy, winkernel
from twinstack.proxy.ruleset import TABLE
from twinstack.proxy.settings import Settings, SettingsError

pytestmark = pytest.mark.slow

SERVICES, SLICES, NODES, EVENTS = (resource_of(view) for view in (kinds.Service, kinds.EndpointSlice, kinds.Node, kinds.Event))
LOOPBACKS = [family.facts.loopback for family in FAMILIES]


class Told(FakeNftables):
    """Tells the event loop of each change."""

    def __init__(self) -> None:
        super().__init__()
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()

    def run(self, script: str, *, check: bool = False) -> str:
        answer = super().run(script, check=check)
        self._loop.call_soon_threadsafe(self._changed.set)
        return answer

    def elements(self, family: Family, name: str):
        table = self.tables.get((family, TABLE))
        return dict(table.elements.get(name, {})) if table else {}

    async def until(self, holds) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._changed.clear()
                await self._changed.wait()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def service(name: str, **spec) -> dict:
    given = {"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80, "targetPort": 8080}], **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": given}


def endpoint_slice(name: str, family: Family, *numbers: int) -> dict:
    base = {Family.IPV4: "10.244.0.{}", Family.IPV6: "fd00:244::{}"}[family]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family.value, "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "metadata": {"name": f"{name}-{family.value.lower()}", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [base.format(number)], "nodeName": "node1"} for number in numbers],
    }  # fmt: skip


@pytest.fixture
async def client(tmp_path):
    """The API server of a dual-stack cluster with a node, as its administrator."""
    tokens = tmp_path / "tokens"
    tokens.write_text('secret,admin,1,"system:masters"\n')
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    settings = ServerSettings(
        data_dir=str(tmp_path / "data"), secure_port=0, sockets=(listening,), token_auth_file=str(tokens),
        service_cluster_ip_range="10.96.0.0/16,fd00:96::/112", advertise_address="192.0.2.1",
    )  # fmt: skip
    ready = asyncio.Event()
    connection = Connection(server=f"https://127.0.0.1:{listening.getsockname()[1]}", token="secret", verify=False)
    (tmp_path / "kubeconfig").write_text(msgspec.yaml.encode({
        "apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": connection.server, "insecure-skip-tls-verify": True}}],
        "users": [{"name": "x", "user": {"token": "secret"}}],
    }).decode())  # fmt: skip
    async with asyncio.TaskGroup() as group, Client(connection) as one:
        running = group.create_task(app.run(settings, ready=ready.set))
        await ready.wait()
        await one.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}})
        addresses = [{"type": "InternalIP", "address": address} for address in ("198.51.100.7", "2001:db8::7")]
        await one.patch(NODES, Key("", "node1"), {"status": {"addresses": addresses}}, subresource="status")
        yield one
        running.cancel()


@pytest.fixture
async def start(client, tmp_path):
    """Starts proxies; each gets a kernel, and ports of its own."""
    async with AsyncExitStack() as stack:

        async def begin(kernel: FakeNftables | None = None, **given):
            settings = Settings(
                kubeconfig=str(tmp_path / "kubeconfig"), hostname_override="node1", min_sync_period_seconds=0.0, **{
                    "healthz_bind_address": f"127.0.0.1:{free_port()}", "metrics_bind_address": f"127.0.0.1:{free_port()}", **given,
                },
            )  # fmt: skip
            ready, kernel = asyncio.Event(), kernel or Told()
            task = asyncio.ensure_future(proxy.run(settings, ready=ready.set, ruleset=kernel))

            async def stop() -> None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)
            waiting = asyncio.ensure_future(ready.wait())
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                waiting.cancel()
                await task
            return kernel, settings, stop

        yield begin


async def got(address: str, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session:
        for _ in range(100):
            try:
                async with session.get(f"http://{address}{path}") as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)
    raise AssertionError(f"nobody answers at {address}")


async def test_services_and_slices_come_into_both_families_and_go(client, start):
    await client.create(SERVICES, service("web", type="NodePort"))
    kernel, settings, _ = await start()
    for family in FAMILIES:
        await client.create(SLICES, endpoint_slice("web", family, 1, 2))
    await kernel.until(lambda: all(Goto("pick-2") in kernel.elements(family, "services").values() for family in FAMILIES))
    for family, own in zip(FAMILIES, ("198.51.100.7", "2001:db8::7"), strict=True):
        assert set(kernel.elements(family, "node-services").values()) == {Goto("mark-node-pick-2")}
        assert set(kernel.elements(family, "node-addresses")) == {(own,)}
        assert len(kernel.elements(family, "service-ranges")) == 1
    await client.delete(SERVICES, Key("default", "web"))
    await kernel.until(lambda: not any(kernel.elements(family, "node-services") for family in FAMILIES))

    code, body = await got(settings.healthz_bind_address, "/healthz")
    assert code == 200 and msgspec.json.decode(body)["status"].keys() == {"IPv4", "IPv6"}
    assert (await got(settings.metrics_bind_address, "/proxyMode")) == (200, "nftables")
    metrics = (await got(settings.metrics_bind_address, "/metrics"))[1]
    assert 'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv6"} 0.0' in metrics
    assert (await got(settings.metrics_bind_address, "/tables"))[1].count("table ") == 2
    configuration = msgspec.json.decode((await got(settings.metrics_bind_address, "/configz"))[1])["kubeproxy.config.k8s.io"]
    assert configuration["kind"] == "KubeProxyConfiguration" and configuration["hostnameOverride"] == "node1"


async def test_a_restart_replaces_the_table_in_one_transaction(client, start):
    await client.create(SERVICES, service("web"))
    kernel, _, stop = await start()
    before = dict(kernel.tables)
    await stop()
    assert kernel.tables == before, "it leaves everything as it is"
    kernel.scripts.clear()
    await start(kernel)
    assert kernel.tables == before
    assert [script.count("delete table") for script in kernel.scripts if "element" in script] == [1, 1]


async def test_what_is_ignored_for_its_family_is_told_to_the_service(client, start):
    await start()
    single = {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "externalIPs": ["203.0.113.1", "2001:db8::1"]}
    await client.create(SERVICES, service("single", **single))
    async with asyncio.timeout(10):
        async for event in client.watch(EVENTS, "default", resource_version="0", send_initial_events=False):
            if event.kind != "BOOKMARK" and event.view(kinds.Event).reason == "KubeProxyIncorrectIPVersion":
                assert event.view(kinds.Event).involvedObject.name == "single"
                assert "IPv4 only: spec.externalIPs[1] '2001:db8::1'" in (event.view(kinds.Event).message or "")
                break


class Hashless(Told):
    """A kernel without nft_hash."""

    def run(self, script: str, *, check: bool = False) -> str:
        if "jhash" in script:
            raise KernelError(errno.ENOENT, "nft")
        return super().run(script, check=check)


@pytest.mark.parametrize("kernel, chain", [(Told, "sticky-pick-2"), (Hashless, "pick-2")], ids=["a kernel that can", "one that cannot hash"])
async def test_affinity_is_left_out_where_the_kernel_cannot_keep_it_and_all_else_is_served(client, start, kernel, chain):
    await client.create(SERVICES, service("web", sessionAffinity="ClientIP"))
    held, _, _ = await start(kernel())
    for family in FAMILIES:
        await client.create(SLICES, endpoint_slice("web", family, 1, 2))
    await held.until(lambda: all(Goto(chain) in held.elements(family, "services").values() for family in FAMILIES))


async def test_another_proxys_services_are_left_to_it(client, start):
    document = service("theirs", externalIPs=["203.0.113.1"])
    document["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    await client.create(SERVICES, document)
    kernel, _, _ = await start()
    assert not any(key[0] == "203.0.113.1" for key in kernel.elements(Family.IPV4, "no-endpoints"))
    await client.patch(SERVICES, Key("default", "theirs"), {"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": None}}})
    await kernel.until(lambda: ("203.0.113.1", "tcp", 80) in kernel.elements(Family.IPV4, "no-endpoints"))


async def test_health_check_node_ports_tell_local_endpoints_of_their_family(client, start):
    addresses = [{"type": "InternalIP", "address": address} for address in LOOPBACKS]
    await client.patch(NODES, Key("", "node1"), {"status": {"addresses": addresses}}, subresource="status")
    created = await client.create(SERVICES, service("lb", type="LoadBalancer", externalTrafficPolicy="Local"))
    port = created["spec"]["healthCheckNodePort"]
    kernel, _, _ = await start()
    await client.create(SLICES, endpoint_slice("lb", Family.IPV6, 1, 2))
    await kernel.until(lambda: len(kernel.elements(Family.IPV6, "hairpin")) == 2)
    first, second = [await got(host_port(address, port), "/anything") for address in LOOPBACKS]
    assert (first[0], msgspec.json.decode(first[1])["localEndpoints"]) == (503, 0)
    assert (second[0], msgspec.json.decode(second[1])) == (
        200,
        {"service": {"namespace": "default", "name": "lb"}, "localEndpoints": 2, "serviceProxyHealthy": True},
    )


async def test_a_dry_run_prints_the_tables_and_touches_nothing(client, tmp_path, capsys):
    await client.create(SERVICES, service("web"))
    kernel = FakeNftables()
    settings = Settings(kubeconfig=str(tmp_path / "kubeconfig"), hostname_override="node1", dry_run=True)
    async with asyncio.timeout(10):
        await proxy.run(settings, ruleset=kernel)
    assert kernel.tables == {}
    assert capsys.readouterr().out.count("table ") == 2


async def test_a_windows_nodes_dry_run_prints_documents(client, tmp_path, capsys):
    await client.create(SERVICES, service("web"))
    for family in FAMILIES:
        await client.create(SLICES, endpoint_slice("web", family, 1, 2))
    settings = Settings(kubeconfig=str(tmp_path / "kubeconfig"), hostname_override="node1", proxy_mode="kernelspace", dry_run=True)
    await winkernel.run(settings)
    documents = [msgspec.json.decode(line) for line in capsys.readouterr().out.splitlines()]
    fronts = [(document["Flags"], document["PortMappings"][0]["ExternalPort"]) for document in documents if "FrontendVIPs" in document]
    assert sorted(fronts) == [(0, 80), (0, 443), (2, 80)], "the API's own Service among them"
    with pytest.raises(KernelError, match="this is not Windows; --dry-run prints"):
        await winkernel.run(msgspec.structs.replace(settings, dry_run=False, network_name="cbr0"))
    with pytest.raises(SettingsError, match="--network-name"):
        await winkernel.run(msgspec.structs.replace(settings, dry_run=False))


class FakeHns:
    """Holds what it is given."""

    def __init__(self) -> None:
        self.id, self.type, self.held, self.old, self.changed = "net", "L2Bridge", {}, ["old"], asyncio.Event()

    def make_endpoint(self, document) -> None:
        self.held[document["ID"]] = document
        self.changed.set()

    make_balancer = make_endpoint

    def delete_endpoint(self, id_) -> None:
        (self.old.remove if id_ in self.old else self.held.pop)(id_)
        self.changed.set()

    delete_balancer = delete_endpoint

    def balancers(self) -> list[str]:
        return list(self.old)


async def test_a_windows_node_follows_changes(client, tmp_path):
    hns, ready = FakeHns(), asyncio.Event()
    settings = Settings(kubeconfig=str(tmp_path / "kubeconfig"), hostname_override="node1", proxy_mode="kernelspace", min_sync_period_seconds=0.0)
    task = asyncio.ensure_future(winkernel.run(settings, ready=ready.set, hns=hns))
    try:
        await ready.wait()
        own = len(hns.held)  # the API's own Service
        assert hns.old == []

        async def until(count: int) -> None:
            async with asyncio.timeout(10):
                while len(hns.held) != own + count:
                    hns.changed.clear()
                    await hns.changed.wait()

        await client.create(SERVICES, service("web"))
        await client.create(SLICES, endpoint_slice("web", Family.IPV6, 1))
        await until(1)
        await client.delete(SERVICES, Key("default", "web"))
        await until(0)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_taken_address_ends_it_only_where_asked(client, start, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        kernel, settings, _ = await start(healthz_bind_address=address)
        assert kernel.tables
        assert (await got(settings.metrics_bind_address, "/proxyMode"))[0] == 200, "the other one is served all the same"
        async with asyncio.timeout(10):
            async for event in client.watch(EVENTS, "default", resource_version="0"):
                if event.kind != "BOOKMARK" and event.view(kinds.Event).reason == "FailedToStartProxierHealthcheck":
                    assert event.view(kinds.Event).involvedObject.name == "node1"
                    break
        settings = Settings(
            kubeconfig=str(tmp_path / "kubeconfig"),
            hostname_override="node1",
            healthz_bind_address=address,
            metrics_bind_address="",
            bind_address_hard_fail=True,
        )
        with pytest.raises(ExceptionGroup) as ended:
            async with asyncio.timeout(10):
                await proxy.run(settings, ruleset=FakeNftables())
        error: BaseException = ended.value
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        assert "cannot serve health" in str(error)


async def test_bad_settings_are_refused_before_anything_is_touched():
    with pytest.raises(SettingsError):
        await proxy.run(Settings(proxy_mode="ipvs"))


UPSTREAM = {  # of nftables mode in 1.36, without what only iptables mode counts: name → labels
    "kubeproxy_sync_proxy_rules_duration_seconds": {"ip_family"}, "kubeproxy_sync_full_proxy_rules_duration_seconds": {"ip_family"},
    "kubeproxy_sync_partial_proxy_rules_duration_seconds": {"ip_family"}, "kubeproxy_network_programming_duration_seconds": {"ip_family"},
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds": {"ip_family"}, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": {"ip_family"},
    "kubeproxy_sync_proxy_rules_endpoint_changes_total": {"ip_family"}, "kubeproxy_sync_proxy_rules_endpoint_changes_pending": {"ip_family"},
    "kubeproxy_sync_proxy_rules_service_changes_total": {"ip_family"}, "kubeproxy_sync_proxy_rules_service_changes_pending": {"ip_family"},
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total": {"ip_family"}, "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total": {"ip_family"},
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total": {"ip_family", "traffic_policy"},
    "kubeproxy_conntrack_reconciler_deleted_entries_total": {"ip_family"}, "kubeproxy_conntrack_reconciler_sync_duration_seconds": {"ip_family"},
    "kubeproxy_proxy_healthz_total": {"code"}, "kubeproxy_proxy_livez_total": {"code"},
}  # fmt: skip


async def test_the_metrics_are_upstreams_by_name_and_label(client, start):
    await client.create(SERVICES, service("web", internalTrafficPolicy="Local"))
    kernel, settings, _ = await start()
    for family in FAMILIES:
        await client.create(SLICES, endpoint_slice("web", family, 1))
    await kernel.until(lambda: all(kernel.elements(family, "endpoints") for family in FAMILIES))
    for path in ("/healthz", "/livez", "/livez"):
        assert (await got(settings.healthz_bind_address, path))[0] == 200
    found: dict[str, set[str]] = {}
    values: dict[str, float] = {}
    for line in (await got(settings.metrics_bind_address, "/metrics"))[1].splitlines():
        if line.startswith("# TYPE "):
            found[line.split()[2]] = set()
        elif line.startswith("kubeproxy_"):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.rstrip("}").partition("{")
            base = next((one for one in (name, name.rsplit("_", 1)[0]) if one in found), name)
            found.setdefault(base, set()).update(label.split("=")[0] for label in labels.split(",") if label and not label.startswith("le="))
            values[series] = float(value)
    sampled = {name for name, labels in found.items() if labels}
    unsampled = {"kubeproxy_network_programming_duration_seconds", "kubeproxy_conntrack_reconciler_sync_duration_seconds"}  # nothing dated, no flows
    for name, labels in UPSTREAM.items():
        assert name in found, name
        assert (name in sampled and found[name] == labels) or name in unsampled, (name, found[name])
    assert values['kubeproxy_proxy_livez_total{code="200"}'] == 2 and values['kubeproxy_proxy_healthz_total{code="503"}'] == 0
    for family in FAMILIES:
        label = f'{{ip_family="{family.value}"}}'
        assert values[f"kubeproxy_sync_proxy_rules_endpoint_changes_total{label}"] >= 1
        assert values[f"kubeproxy_sync_proxy_rules_service_changes_pending{label}"] == 0
