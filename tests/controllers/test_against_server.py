"""The controllers and the scheduler at work against the real API server; only the kubelets are played."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from twinstack.api import errors
from twinstack.api.kinds import (
    ClusterRole,
    ConfigMap,
    CronJob,
    DaemonSet,
    Deployment,
    Endpoints,
    EndpointSlice,
    IPAddress,
    Job,
    Lease,
    Namespace,
    Node,
    Pod,
    PodDisruptionBudget,
    ReplicaSet,
    Service,
    ServiceAccount,
    ServiceCIDR,
    StatefulSet,
    condition_of,
)
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_KIND, RESOURCES, resource_of
from twinstack.api.times import text_of_micro_time, text_of_time
from twinstack.apiserver import app
from twinstack.apiserver.settings import Settings
from twinstack.client import kube_controller_manager, kube_scheduler
from twinstack.client.cache import Cache
from twinstack.client.client import Client
from twinstack.client.kubeconfig import Connection
from twinstack.rules.workloads import ready

pytestmark = pytest.mark.slow

WEB = Key("default", "web")
_PODS, _NODES, _LEASES = resource_of(Pod), resource_of(Node), resource_of(Lease)
SECONDS = 20


class Cluster:
    """A running control plane, looked at through a cache of our own, with kubelets that do what they are told at once."""

    def __init__(self, client: Client, cache: Cache) -> None:
        self.client, self.cache = client, cache
        self.changed = asyncio.Event()
        self.addresses = iter(range(2, 10_000))
        for resource in RESOURCES:
            if resource.plural != "events":
                cache.subscribe(resource.view, lambda before, after: self.changed.set())

    async def until(self, what: Callable[[], Any]) -> Any:
        """Wait until this holds in the cache."""
        async with asyncio.timeout(SECONDS):
            while not (found := what()):
                self.changed.clear()
                await self.changed.wait()
        return found

    async def put(self, document: Document) -> Document:
        return await self.client.create(BY_KIND[document["apiVersion"], document["kind"]], document)

    async def change(self, view: Any, key: Key, patch: Document, *, subresource: str = "", kind: str = "merge") -> Document:
        return await self.client.patch(resource_of(view), key, patch, subresource=subresource, kind=kind)

    async def delete(self, view: Any, key: Key, policy: str = "") -> None:
        await self.client.delete(resource_of(view), key, propagation_policy=policy)

    def pods(self, **labels: str) -> list[Pod]:
        return [pod for pod in self.cache.list(Pod, "default") if labels.items() <= pod.labels.items()]

    def ready_pods(self, **labels: str) -> list[Pod]:
        return [pod for pod in self.pods(**labels) if ready(pod) and pod.metadata.deletionTimestamp is None]

    def endpoints(self, name: str = "web") -> dict[str, set[str]]:
        """Ready addresses by address type."""
        result: dict[str, set[str]] = {}
        for one in self.cache.labelled(EndpointSlice, "default", "kubernetes.io/service-name", name):
            found = result.setdefault(one.addressType, set())
            found |= {text for endpoint in one.endpoints or () if endpoint.conditions.ready for text in endpoint.addresses}
        return result

    # ---- the kubelets

    async def register(self, name: str) -> None:
        await self.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
        now = datetime.now(UTC)
        condition = {"type": "Ready", "status": "True", "reason": "Played", "lastHeartbeatTime": text_of_time(now), "lastTransitionTime": text_of_time(now)}
        await self.change(Node, Key("", name), {"status": {"conditions": [condition]}}, subresource="status", kind="strategic")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": text_of_micro_time(now)}
        metadata = {"name": name, "namespace": "kube-node-lease"}
        await self.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})

    async def kubelets(self) -> None:
        """Run pods that are bound, unless their image is broken; end those that are being deleted."""
        while True:
            self.woken.clear()
            for pod in self.cache.list(Pod):
                key = Key(pod.metadata.namespace, pod.metadata.name)
                try:
                    if not pod.spec.nodeName:
                        continue
                    if pod.metadata.deletionTimestamp:
                        await self.client.delete(_PODS, key, uid=pod.metadata.uid, grace_period_seconds=0)
                    elif not ready(pod) and not pod.status.podIPs and pod.spec.containers[0].image != "broken":
                        number = next(self.addresses)
                        ips = [f"10.244.9.{number}", f"fd00:10:244:9::{number:x}"]
                        condition = {"type": "Ready", "status": "True", "lastTransitionTime": text_of_time(datetime.now(UTC))}
                        status = {"phase": "Running", "podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips], "conditions": [condition]}
                        self.cache.take(await self.client.patch(_PODS, key, {"status": status}, subresource="status", kind="strategic"))
                except (errors.NotFound, errors.Conflict):
                    continue
            await self.woken.wait()

    def start_kubelets(self, group: asyncio.TaskGroup) -> asyncio.Task[None]:
        self.woken = asyncio.Event()
        self.cache.subscribe(Pod, lambda before, after: self.woken.set())
        return group.create_task(self.kubelets())


class Refusals(logging.Handler):
    """What somebody was forbidden, as it is told in the log; what a namespace that goes does not take is none."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.getMessage()} {getattr(record, 'controller', '')} {getattr(record, 'because', '')} {getattr(record, 'err', '')}"
        if "orbidden" in text:
            self.told.append(text)


@asynccontextmanager
async def running(tmp_path: Any, **manager: Any) -> AsyncIterator[Cluster]:
    """The whole control plane in this event loop; each of its parts may only what its role gives it, and is never refused anything."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    (tmp_path / "tokens").write_text('secret,admin,1,"system:masters"\nmanager,system:kube-controller-manager,2\nscheduler,system:kube-scheduler,3\n')
    services = "10.96.0.0/16,fd00:10:96::/112"
    settings = Settings(
        data_dir=str(tmp_path / "data"),
        secure_port=0,
        sockets=(listener,),
        store="memory",
        token_auth_file=str(tmp_path / "tokens"),
        authorization_mode="Node,RBAC",
        service_cluster_ip_range=services,
        advertise_address="192.0.2.1",
    )
    connection = Connection(server=f"https://127.0.0.1:{port}", verify=False, token="secret")
    common = {"leader_elect": False, "secure_port": 0}
    manager_settings = kube_controller_manager.Settings(
        **common,
        connection=msgspec.structs.replace(connection, token="manager"),
        use_service_account_credentials=True,
        allocate_node_cidrs=True,
        cluster_cidr="10.244.0.0/16,fd00:10:244::/56",
        service_cluster_ip_range=services,
        **manager,
    )
    scheduler_settings = kube_scheduler.Settings(**common, connection=msgspec.structs.replace(connection, token="scheduler"))
    refusals = Refusals()
    logging.getLogger("twinstack").addHandler(refusals)
    served, managed, scheduled = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        group = await stack.enter_async_context(asyncio.TaskGroup())
        tasks = [group.create_task(app.run(settings, ready=served.set))]
        await served.wait()
        client = await stack.enter_async_context(Client(connection, user_agent="test"))
        cache = Cache(client)
        cache.watch_all(resource.view for resource in RESOURCES)
        cluster = Cluster(client, cache)
        tasks.append(group.create_task(kube_controller_manager.run(manager_settings, ready=managed.set)))
        tasks.append(group.create_task(kube_scheduler.run(scheduler_settings, ready=scheduled.set)))
        tasks.append(group.create_task(cache.run()))
        await cache.synced()
        await managed.wait()
        await scheduled.wait()
        tasks.append(cluster.start_kubelets(group))
        try:
            yield cluster
        finally:
            for task in reversed(tasks):
                task.cancel()
            logging.getLogger("twinstack").removeHandler(refusals)
    assert refusals.told == []


def deployment(replicas: int, *, image: str = "twinstack.dev/host", **spec: Any) -> Document:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]}}
    body = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template} | spec
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": body}


def service(**spec: Any) -> Document:
    body = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], "ipFamilyPolicy": "PreferDualStack"} | spec
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": body}


def image(name: str) -> Document:
    return {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": name}]}}}}


async def test_a_deployment_behind_a_service_lives_through_its_whole_life(tmp_path):
    async with running(tmp_path) as cluster:
        cache = cluster.cache
        for name in ("node1", "node2", "node3"):
            await cluster.register(name)
        nodes = await cluster.until(lambda: [one for one in cache.list(Node) if len(one.spec.podCIDRs or ()) == 2][2:] and cache.list(Node))
        blocks = [text for one in nodes for text in one.spec.podCIDRs]
        assert len(set(blocks)) == 6 and all(":" in text for text in blocks[1::2])

        await cluster.put(service())
        await cluster.put(deployment(3))
        await cluster.until(lambda: len(cluster.ready_pods(app="web")) == 3)
        assert {pod.spec.nodeName for pod in cluster.pods(app="web")} == {"node1", "node2", "node3"}

        def agree() -> bool:
            """The slices of both families hold exactly the ready pods."""
            ips = [{one.ip for one in pod.status.podIPs or ()} for pod in cluster.ready_pods(app="web")]
            found = cluster.endpoints()
            together = set().union(*ips) if ips else set()
            return set(found) == {"IPv4", "IPv6"} and found["IPv4"] | found["IPv6"] == together and len(found["IPv4"]) == len(found["IPv6"]) == len(ips)

        def rolled(replicas: int) -> bool:
            one = cache.get(Deployment, WEB)
            assert one is not None
            status, progress = one.status, condition_of(one.status.conditions, "Progressing")
            return (
                status.observedGeneration == one.metadata.generation
                and status.replicas == status.updatedReplicas == status.availableReplicas == replicas
                and progress is not None
                and progress.reason == "NewReplicaSetAvailable"
                and agree()
            )

        await cluster.until(lambda: rolled(3))
        primary = await cluster.until(lambda: cache.get(Endpoints, WEB))
        assert [len(subset.addresses or ()) for subset in primary.subsets or ()] == [3]

        await cluster.change(Deployment, WEB, {"spec": {"replicas": 5}}, subresource="scale")
        await cluster.until(lambda: rolled(5))
        await cluster.change(Deployment, WEB, image("twinstack.dev/host:two"))
        await cluster.until(lambda: rolled(5) and {pod.spec.containers[0].image for pod in cluster.ready_pods(app="web")} == {"twinstack.dev/host:two"})
        assert sorted(one.annotations["deployment.kubernetes.io/revision"] for one in cache.list(ReplicaSet)) == ["1", "2"]
        await cluster.change(Deployment, WEB, {"spec": {"replicas": 2}}, subresource="scale")
        await cluster.until(lambda: rolled(2))

        victim = cluster.pods(app="web")[0]
        await cluster.delete(Pod, Key("default", victim.metadata.name))
        await cluster.until(lambda: rolled(2) and victim.metadata.name not in {pod.metadata.name for pod in cluster.pods()})

        await cluster.change(Service, WEB, {"spec": {"ipFamilyPolicy": "SingleStack"}})
        await cluster.until(lambda: set(cluster.endpoints()) == {"IPv4"})
        await cluster.change(Service, WEB, {"spec": {"ipFamilyPolicy": "RequireDualStack"}})
        await cluster.until(agree)

        await cluster.delete(Deployment, WEB, "Foreground")
        await cluster.until(lambda: not cache.list(Deployment) and not cache.list(ReplicaSet) and not cluster.pods())
        await cluster.until(lambda: cluster.endpoints() == {"IPv4": set(), "IPv6": set()})
        await cluster.delete(Service, WEB)
        await cluster.until(lambda: not cluster.endpoints() and cache.get(Endpoints, WEB) is None)
        await cluster.until(lambda: all(one.spec.parentRef and one.spec.parentRef.name != "web" for one in cache.list(IPAddress)))


async def test_a_namespace_goes_with_all_that_is_in_it(tmp_path):
    async with running(tmp_path, root_ca_file=str(pem(tmp_path))) as cluster:
        cache = cluster.cache
        await cluster.register("node1")
        await cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short"}})
        await cluster.until(lambda: cache.get(ServiceAccount, Key("short", "default")) and cache.get(ConfigMap, Key("short", "kube-root-ca.crt")))
        inside = deployment(2)
        inside["metadata"]["namespace"] = "short"
        await cluster.put(inside)
        front = service()
        front["metadata"]["namespace"] = "short"
        await cluster.put(front)
        await cluster.until(lambda: len(cache.list(Pod, "short")) == 2 and len(cache.list(EndpointSlice, "short")) == 2)
        await cluster.delete(Namespace, Key("", "short"))
        await cluster.until(lambda: cache.get(Namespace, Key("", "short")) is None)
        left = [(resource.plural, len(cache.list(resource.view, "short"))) for resource in RESOURCES if resource.namespaced and resource.plural != "events"]
        assert [name for name, count in left if count] == []
        assert cache.get(Namespace, Key("", "default")) is not None


async def test_a_pod_without_a_node_is_told_why_and_goes_when_one_comes(tmp_path):
    async with running(tmp_path) as cluster:
        await cluster.put(deployment(1))

        def reason() -> str:
            found = [condition_of(pod.status.conditions, "PodScheduled") for pod in cluster.pods(app="web")]
            return found[0].reason if found and found[0] else ""

        await cluster.until(lambda: reason() == "Unschedulable")
        await cluster.register("node1")
        await cluster.until(lambda: len(cluster.ready_pods(app="web")) == 1)
        events = await cluster.client.list(BY_KIND["v1", "Event"], "default")
        assert {"FailedScheduling", "Scheduled"} <= {event["reason"] for event in events["items"]}


async def test_a_service_cidr_in_use_stays_until_the_service_is_gone(tmp_path):
    async with running(tmp_path) as cluster:
        cache, extra = cluster.cache, Key("", "extra")
        spec = {"cidrs": ["10.99.0.0/24", "fd00:99::/120"]}
        await cluster.put({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "extra"}, "spec": spec})
        await cluster.until(lambda: (one := cache.get(ServiceCIDR, extra)) and one.metadata.finalizers and condition_of(one.status.conditions, "Ready"))
        await cluster.put(service(clusterIP="10.99.0.7", ipFamilyPolicy="SingleStack"))
        await cluster.until(lambda: cache.get(IPAddress, Key("", "10.99.0.7")))
        await cluster.delete(ServiceCIDR, extra)
        held = await cluster.until(
            lambda: (one := cache.get(ServiceCIDR, extra)) and (c := condition_of(one.status.conditions, "Ready")) and c.status == "False" and c
        )
        assert held.reason == "Terminating" and "10.99.0.7" in held.message


async def test_kubectl_follows_a_rollout_and_takes_it_back(tmp_path):
    async with running(tmp_path) as cluster:
        await cluster.register("node1")

        async def kubectl(*words: str, code: int = 0) -> str:
            flags = (f"--server={cluster.client.config.server}", "--insecure-skip-tls-verify", "--token=secret", f"--cache-dir={tmp_path}/cache")
            process = await asyncio.create_subprocess_exec(
                "kubectl", *flags, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"KUBECONFIG": "/dev/null"}
            )
            output, _ = await process.communicate()
            assert process.returncode == code, output.decode()
            return output.decode()

        await cluster.put(deployment(2))
        assert "successfully rolled out" in await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        assert "condition met" in await kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=20s")
        await kubectl("set", "image", "deployment/web", "main=twinstack.dev/host:two")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        history = await kubectl("rollout", "history", "deployment/web")
        assert [line.split()[0] for line in history.splitlines() if line[:1].isdigit()] == ["1", "2"]
        await kubectl("rollout", "undo", "deployment/web")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        assert {pod.spec.containers[0].image for pod in cluster.ready_pods(app="web")} == {"twinstack.dev/host"}
        await kubectl("rollout", "restart", "deployment/web")
        await kubectl("rollout", "status", "deployment/web", "--timeout=20s")
        assert len(cluster.cache.list(ReplicaSet)) == 3
        await kubectl("rollout", "pause", "deployment/web")
        await kubectl("set", "image", "deployment/web", "main=broken")
        await kubectl("rollout", "resume", "deployment/web")
        assert "timed out" in await kubectl("rollout", "status", "deployment/web", "--timeout=1s", code=1)
        assert len(cluster.ready_pods(app="web")) == 2
        described = await kubectl("describe", "deployment", "web")
        assert "NewReplicaSet:" in described and "ScalingReplicaSet" in described
        await kubectl("delete", "deployment", "web", "--wait", "--cascade=foreground", "--timeout=20s")
        assert cluster.pods() == []


def pods_of(name: str, **spec: Any) -> Document:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "twinstack.dev/host"}], **spec}}
    return {"selector": {"matchLabels": {"app": name}}, "template": template}


async def test_every_controller_does_its_work_with_what_its_own_role_gives_it(tmp_path):
    """Each object here is one that another controller acts upon; ``running`` says when one of them was refused anything."""
    async with running(tmp_path, node_monitor_grace_period_seconds=5.0) as cluster:
        cache = cluster.cache
        await cluster.register("node1")

        def meta(name: str) -> Document:
            return {"name": name, "namespace": "default"}

        for document in (
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta("ds"), "spec": pods_of("ds")},
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta("ss"), "spec": {**pods_of("ss"), "serviceName": "ss", "replicas": 2}},
            {"apiVersion": "v1", "kind": "ReplicationController", "metadata": meta("rc"), "spec": {**pods_of("rc"), "selector": {"app": "rc"}, "replicas": 1}},
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": meta("ss"),
                "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "ss"}}},
            },
            {"apiVersion": "v1", "kind": "Service", "metadata": meta("by-hand"), "spec": {"ports": [{"port": 80}]}},
            {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta("by-hand"), "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]},
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": meta("job"),
                "spec": {"template": pods_of("job", restartPolicy="Never")["template"], "ttlSecondsAfterFinished": 0},
            },
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "more-view", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
                "rules": [{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["things"]}],
            },
        ):
            await cluster.put(document)
        await cluster.until(
            lambda: len(cluster.ready_pods(app="ds")) == 1 and len(cluster.ready_pods(app="ss")) == 2 and len(cluster.ready_pods(app="rc")) == 1
        )
        await cluster.until(lambda: (budget := cache.get(PodDisruptionBudget, Key("default", "ss"))) and budget.status.disruptionsAllowed == 1)
        await cluster.until(lambda: cluster.endpoints("by-hand") == {"IPv4": {"192.0.2.7"}})
        await cluster.until(lambda: any("things" in (rule.resources or ()) for rule in cache.get(ClusterRole, Key("", "view")).rules or ()))
        done = await cluster.until(lambda: cluster.ready_pods(app="job"))
        await cluster.change(Pod, Key("default", done[0].metadata.name), {"status": {"phase": "Succeeded"}}, subresource="status", kind="strategic")
        await cluster.until(lambda: cache.get(Job, Key("default", "job")) is None and not cluster.pods(app="job"))
        await cluster.change(StatefulSet, Key("default", "ss"), {"spec": {"template": {"metadata": {"annotations": {"a": "b"}}}}})
        await cluster.until(lambda: len([one for one in cluster.ready_pods(app="ss") if one.annotations.get("a")]) == 2)
        await cluster.delete(DaemonSet, Key("default", "ds"), "Foreground")
        await cluster.until(lambda: cache.get(DaemonSet, Key("default", "ds")) is None and not cluster.pods(app="ds"))
        # The node falls silent: it is tainted, and its pods are told.
        await cluster.until(lambda: any(taint.key.endswith("unreachable") for taint in cache.get(Node, Key("", "node1")).spec.taints or ()))


def pem(tmp_path: Any) -> Any:
    path = tmp_path / "ca.crt"
    path.write_text("-----BEGIN CERTIFICATE-----\nplayed\n-----END CERTIFICATE-----\n")
    return path


@pytest.mark.parametrize("policy", ["Background", "Foreground", "Orphan"])
async def test_what_becomes_of_dependents_is_said_by_whoever_deletes_their_owner(tmp_path, policy):
    async with running(tmp_path) as cluster:
        await cluster.register("node1")
        await cluster.put(deployment(2))
        await cluster.until(lambda: len(cluster.ready_pods(app="web")) == 2)
        gone: list[str] = []
        for view in (Deployment, ReplicaSet, Pod):
            cluster.cache.subscribe(view, lambda before, after: gone.append(type(before).__name__) if before is not None and after is None else None)
        await cluster.delete(Deployment, Key("default", "web"), policy)
        if policy == "Orphan":
            await cluster.until(lambda: not cluster.cache.list(Deployment))
            (left,) = await cluster.until(lambda: [one for one in cluster.cache.list(ReplicaSet) if not one.metadata.ownerReferences])
            assert len(cluster.ready_pods(app="web")) == 2 and left.metadata.deletionTimestamp is None and gone == ["Deployment"]
            await cluster.delete(ReplicaSet, Key("default", left.metadata.name), "Background")
        await cluster.until(lambda: not cluster.cache.list(Deployment) and not cluster.cache.list(ReplicaSet) and not cluster.pods(app="web"))
        order = list(dict.fromkeys(gone))
        assert order == (["Pod", "ReplicaSet", "Deployment"] if policy == "Foreground" else ["Deployment", "ReplicaSet", "Pod"])


async def test_a_cron_job_makes_jobs_and_an_important_pod_gets_the_place_of_another(tmp_path):
    asks = [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}]
    async with running(tmp_path) as cluster:
        await cluster.register("node1")
        await cluster.change(Node, Key("", "node1"), {"status": {"allocatable": {"cpu": "1"}}}, subresource="status")
        await cluster.until(lambda: cluster.cache.get(Node, Key("", "node1")).status.allocatable)
        await cluster.put({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 100})
        for name, labels, spec in (("low", {"is": "low"}, {}), ("high", {"is": "high"}, {"priorityClassName": "high"})):
            metadata = {"name": name, "namespace": "default", "labels": labels}
            await cluster.put(
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": asks, "terminationGracePeriodSeconds": 0} | spec}
            )
            await cluster.until(lambda labels=labels: cluster.ready_pods(**labels))
        assert not cluster.pods(**{"is": "low"})
        await cluster.delete(Pod, Key("default", "high"))
        job = {"template": {"metadata": {"labels": {"is": "tick"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}
        spec = {"schedule": "@every 1s", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job}}
        await cluster.put({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": "default"}, "spec": spec})
        (pod,) = await cluster.until(lambda: cluster.ready_pods(**{"is": "tick"}))
        (one,) = cluster.cache.list(Job)

        def status() -> Any:
            return cluster.cache.get(CronJob, Key("default", "tick")).status

        await cluster.until(lambda: status().lastScheduleTime and [active.name for active in status().active or ()] == [one.metadata.name])
        await cluster.change(CronJob, Key("default", "tick"), {"spec": {"suspend": True}})
        await cluster.change(Pod, Key("default", pod.metadata.name), {"status": {"phase": "Succeeded"}}, subresource="status", kind="strategic")
        await cluster.until(lambda: not status().active and status().lastSuccessfulTime)
