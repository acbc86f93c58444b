"""The node agent: registers the node and runs its pods.

Rule of this file: composition. Every loop is a task of one group; what fails is begun again, and only a wrong
setting ends the program. Pods outlive it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from twinstack.agent import eviction, overlay, pressure, usage
from twinstack.agent.access import Access
from twinstack.agent.containers import seccomp
from twinstack.agent.containers.base import Record, Runtime
from twinstack.agent.containers.images import Images
from twinstack.agent.containers.process import ProcessRuntime
from twinstack.agent.leftovers import end_orphan
from twinstack.agent.limits import Limiter
from twinstack.agent.making import Maker
from twinstack.agent.network import Network
from twinstack.agent.node import NodeAddressError, host_ips_of, machine
from twinstack.agent.pods import everything
from twinstack.agent.probes import Prober
from twinstack.agent.registration import Registration
from twinstack.agent.routes import Router
from twinstack.agent.sandboxes import Sandboxes
from twinstack.agent.server import Server, serving_pair
from twinstack.agent.settings import Settings, preferred_family
from twinstack.agent.static import StaticPods
from twinstack.agent.status import waiting_reason
from twinstack.agent.workers import PODS, Worker
from twinstack.api import errors
from twinstack.api.kinds import Container, Node, Pod, Service
from twinstack.api.objects import Document, Key, document_of
from twinstack.client import kubeconfig
from twinstack.client.client import Client
from twinstack.client.informer import Informer
from twinstack.kernel import cgroups, forwarding
from twinstack.kernel.errors import KernelError
from twinstack.kernel.tunnels import Tunnel
from twinstack.loops.events import Recorder
from twinstack.loops.metrics import new_registry
from twinstack.loops.supervisor import supervise
from twinstack.net.family import FAMILIES, Family
from twinstack.rules.node_access import MIRROR
from twinstack.rules.node_admission import Refusal, refusal, shortage

log = logging.getLogger(__name__)
MOST_WRITES = 16
MOST_REQUESTS = 8  # at once: each needs a connection, which costs more memory than a pod
PATIENCE_SECONDS = 0.1


class _Log(NamedTuple):
    """A container's log file, and whether the container has ended."""

    path: Path
    ended: Callable[[], bool]

    def is_over(self) -> bool:
        return self.ended()


class Agent:
    """What the workers of a node's pods share; implements ``workers.Surroundings`` and ``server.Pods``."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        client: Client,
        runtime: ProcessRuntime,
        prober: Prober,
        registry: CollectorRegistry,
        routes: Client | None = None,
    ) -> None:
        self.settings, self.node_name, self.longest_backoff = settings, name, settings.longest_backoff_seconds
        self.limiter = Limiter(cgroups.of_process(settings.control_group, runtime.spawner_pid), pids=settings.pod_pids)
        self.runtime: Runtime = runtime
        self.prober = prober
        self.network = Network(settings.cni_conf_dir, settings.cni_bin_dirs)
        self.sandboxes = Sandboxes(settings, self.network)
        self.pods = Informer(client, Pod, field_selector=f"spec.nodeName={name}")
        self.nodes = Informer(client, Node, field_selector=f"metadata.name={name}" if routes is not None else "")
        self.neighbours = Informer(routes, Node) if routes is not None else self.nodes
        self.services = Informer(client, Service)
        self.maker = Maker(
            client,
            self.sandboxes,
            self.services,
            self.limiter,
            name,
            images=Images(settings.image_dir),
            tell=self.event,
            profiles=seccomp.Profiles(settings.root_dir / "seccomp", "RuntimeDefault" if settings.seccomp_default else "Unconfined"),
            allocatable=lambda: self.registration.allocatable,
            refresh_seconds=settings.sync_seconds,
            log_size=settings.log_size,
            log_files=settings.log_files,
        )
        self.recorder = Recorder(client.perform, component="kubelet", host=name)
        self.registration = Registration(settings, name, client, self.nodes, self.network, machine(settings.root_dir), self.recorder, self.maker.images)
        self.router = Router(self.neighbours.list, name, self._tunnel if settings.network == overlay.VXLAN else None)
        self._client = client
        self._workers: dict[str, Worker] = {}
        self.static = StaticPods(settings.static_pods, name, client, seconds=settings.file_check_seconds, node_uid=self.registration.uid)
        self._static_tasks: dict[Key, asyncio.Task[None]] = {}
        self._writes = asyncio.Semaphore(MOST_WRITES)
        self._running = Gauge("kubelet_running_pods", "Pods that this node keeps.", registry=registry)
        self._ends = Counter("kubelet_container_exits_total", "Containers that have ended.", registry=registry)
        self._evictions = Counter("kubelet_evictions_total", "Pods that were evicted, by what the node was short of.", ["eviction_signal"], registry=registry)
        self._refusals = Counter("kubelet_admission_rejections_total", "Pods that the node has not taken, by why.", ["reason"], registry=registry)
        name_metric = Gauge("kubelet_node_name", "The node's name, as a label.", ["node"], registry=registry)
        name_metric.labels(name).set(1)
        containers = Gauge("kubelet_running_containers", "Containers that are kept, by what they do.", ["container_state"], registry=registry)
        for state, runs in (("running", True), ("exited", False)):
            containers.labels(state).set_function(lambda runs=runs: sum(record.running is runs for record in self.runtime.records()))  # type: ignore[misc]
        self._start_seconds = Histogram("kubelet_pod_start_duration_seconds", "From first sight of a pod until it runs.", registry=registry)
        runtime.on_exit = self._container_ended

    def _tunnel(self) -> Tunnel:
        return overlay.ensure_tunnel(self.node_name, self.settings.vxlan_underlay, self.registration.addresses)

    # ---- for the workers

    def host_ips(self) -> tuple[str, ...]:
        """The node's own addresses, as its object tells them, or as they will be told."""
        return host_ips_of(self.nodes.get(Key("", self.node_name))) or tuple(map(str, self.registration.addresses))

    def shortage(self, pod: Pod, *, alone: bool) -> Refusal | None:
        """What the node has too little of for the pod, beside its other pods, or if it were *alone*."""
        node = self.nodes.get(Key("", self.node_name))
        others = (worker.pod for uid, worker in self._workers.items() if uid != pod.metadata.uid and worker.holds_place)
        return shortage(pod, node, [] if alone else list(others)) if node is not None else None

    def event(self, pod: Pod, type_: str, reason: str, message: str, container: Container | None = None) -> None:
        """Tell people about a pod."""
        lists = (("initContainers", pod.spec.initContainers or ()), ("ephemeralContainers", pod.spec.ephemeralContainers or ()))
        field = next((name for name, ones in lists if container in ones), "containers")
        path = f"spec.{field}{{{container.name}}}" if container is not None else ""
        tell = partial(self.recorder.tell, pod, type_, reason, message, field_path=path)
        if type_ == "Normal":  # what goes well is written after what people wait for
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, tell)
        else:
            tell()

    async def patch_status(self, key: Key, patch: Document) -> None:
        """Write a pod's status, and know the answer at once."""
        async with self._writes:
            if self.static.uid(key) == patch["metadata"]["uid"]:
                self.pods.take(await self.static.patch_status(key, patch))
            else:
                self.pods.take(await self._client.patch(PODS, key, patch, subresource="status", kind="strategic"))

    async def delete(self, key: Key, uid: str) -> None:
        """Let a pod's object go."""
        async with self._writes:
            await self._client.delete(PODS, key, uid=uid, grace_period_seconds=0)

    # ---- for the server

    def _worker(self, namespace: str, pod: str) -> Worker:
        key = Key(namespace, pod)
        found = self.pods.get(key)
        uid = self.static.uid(key) or (found.metadata.uid if found is not None else "")
        worker = self._workers.get(uid)
        if worker is None:
            raise errors.NotFound(f'pod "{pod}" in namespace "{namespace}" is not on this node')
        return worker

    def running(self, namespace: str, pod: str, container: str) -> str:
        """The runtime's name of a container that runs; NotFound or BadRequest when there is none."""
        one = self._worker(namespace, pod).seen.get(container)
        if one is None:
            raise errors.NotFound(f'container "{container}" is not valid for pod "{pod}"')
        if one.record is None or not one.running:
            raise errors.BadRequest(f'container "{container}" in pod "{pod}" does not run')
        return one.record.id

    def reads_once(self, namespace: str, pod: str, container: str) -> bool:
        """Whether a container's input ends when the first who is attached ends his."""
        return any(one.stdinOnce for one in everything(self._worker(namespace, pod).pod) if one.name == container)

    def network_of(self, namespace: str, pod: str) -> str:
        """The path of a pod's network namespace, empty for the node's own; NotFound or BadRequest when there is none."""
        sandbox = self._worker(namespace, pod).sandbox
        if sandbox is None or not sandbox.ready:
            raise errors.BadRequest(f'pod "{pod}" has no network yet')
        return sandbox.netns

    def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> _Log:
        """The log of a container; NotFound or BadRequest when there is none."""
        worker = self._worker(namespace, pod)
        one = worker.seen.get(container)
        if one is None:
            raise errors.NotFound(f'container "{container}" is not valid for pod "{pod}"')
        attempt = one.attempt - 1 if previous else one.attempt
        path = self.sandboxes.path(worker.pod.metadata.uid, "logs", container, f"{attempt}.log")
        if previous and not path.exists():
            raise errors.BadRequest(f'previous terminated container "{container}" in pod "{pod}" not found')
        if not path.exists():
            raise errors.BadRequest(f'container "{container}" in pod "{pod}" is waiting to start: {one.waiting or waiting_reason(worker.pod)}')
        return _Log(path, lambda: worker.seen[container].attempt != attempt or not worker.seen[container].running)

    def pod_list(self, *, running: bool = False) -> dict[str, object]:
        """The PodList of this node, or of those pods of it that have a container that runs."""
        alive = {record.pod for record in self.runtime.records() if record.running}
        chosen = [worker.pod for worker in self._workers.values() if not running or worker.pod.metadata.uid in alive]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [document_of(pod) for pod in chosen]}

    def used_by(self) -> list[usage.PodUsage]:
        """The node's pods and what of them runs."""
        return [
            usage.PodUsage(
                pod.metadata.namespace,
                pod.metadata.name,
                pod.metadata.uid,
                pod.status.startTime or "",
                [(name, one.record) for name, one in worker.seen.items() if one.record is not None and one.running],
                pod.spec.hostNetwork,
            )
            for worker in self._workers.values()
            for pod in (worker.pod,)
        ]

    # ---- keeping pods

    def _container_ended(self, record: Record) -> None:
        self._ends.inc()
        if (worker := self._workers.get(record.pod)) is not None:
            worker.ended(self.limiter.judged(record))

    async def keep_pods(self) -> None:
        """Give each of the node's pods a worker, and end what is left of pods that are no more."""
        await asyncio.gather(self.pods.synced(), self.nodes.synced(), self.services.synced(), self.static.were_read.wait())
        self.limiter.adopt(self.sandboxes.known())
        async with asyncio.TaskGroup() as tasks:

            def changed(before: Pod | None, after: Pod | None) -> None:
                if MIRROR in (after or before or Pod()).annotations:
                    tasks.create_task(supervise("mirror", partial(self._mirror_changed, before, after)))
                    return
                replaced = before is not None and (after is None or after.metadata.uid != before.metadata.uid)
                if before is not None and replaced and (old := self._workers.get(before.metadata.uid)) is not None:
                    old.remove()
                if after is None:
                    return
                uid = after.metadata.uid
                if uid in self._workers:
                    self._workers[uid].update(after)
                elif before is None or replaced:
                    tasks.create_task(self._keep(self._admitted(after)), name=f"pod {after.metadata.namespace}/{after.metadata.name}")

            unsubscribe = self.pods.subscribe(changed)
            try:
                for uid in {*self.sandboxes.known(), *(record.pod for record in self.runtime.records())} - self._workers.keys():
                    log.info("A pod is gone, and what is left of it is removed", extra={"uid": uid})
                    tasks.create_task(supervise(f"orphan {uid}", partial(end_orphan, self, uid)))
                await asyncio.Event().wait()
            finally:
                unsubscribe()

    def _admitted(self, pod: Pod) -> Worker:
        """A worker for a pod that was bound to this node, and what the node says to it; what was taken once stays so."""
        node = self.nodes.get(Key("", self.node_name))
        why: Refusal | None = None
        if node is not None and pod.status.startTime is None and pod.metadata.deletionTimestamp is None:
            here = [worker.pod for worker in self._workers.values() if worker.holds_place]
            # an agent that begins hears of its pods in any order
            running = (one for one in self.pods.list() if one.status.startTime is not None and one.status.phase not in ("Succeeded", "Failed"))
            why = refusal(pod, node, [*here, *(one for one in running if one.metadata.uid not in self._workers and MIRROR not in one.annotations)])
        worker = self._new_worker(pod)
        if why is not None:
            self._refusals.labels(why.reason).inc()
            worker.refuse(why)
        return worker

    def _new_worker(self, pod: Pod) -> Worker:
        worker = self._workers[pod.metadata.uid] = Worker(pod, self)
        self._running.set(len(self._workers))
        return worker

    async def keep_balance(self) -> None:
        """Evict one pod after the other while the node is short of something."""
        settings = self.settings
        thresholds = eviction.Thresholds(
            settings.eviction_hard, settings.eviction_soft, dict(settings.eviction_soft_graces), longest_grace=settings.eviction_grace_seconds
        )
        while settings.eviction_hard or settings.eviction_soft:
            await asyncio.sleep(settings.eviction_look_seconds)
            met = thresholds.met(pressure.read(settings.root_dir), time.monotonic())
            if met is None:
                continue
            workers = {worker.pod.metadata.uid: worker for worker in self._workers.values() if any(one.running for one in worker.seen.values())}
            used = await asyncio.to_thread(usage.of_pods, self.runtime.records(), {uid: self.sandboxes.path(uid) for uid in workers})
            pod = eviction.first_to_go([(worker.pod, used[uid]) for uid, worker in workers.items()], met)
            if pod is None:
                log.warning("The node is short of something, and no pod may be evicted", extra={"signal": met.signal, "left": met.left})
                continue
            uid = pod.metadata.uid
            log.warning("A pod is evicted", extra={"pod": f"{pod.metadata.namespace}/{pod.metadata.name}", "signal": met.signal, "left": met.left})
            self._evictions.labels(met.signal).inc()
            workers[uid].evict(eviction.message_of(pod, used[uid], met), met.grace_seconds)
            await workers[uid].stopped()
        await asyncio.Event().wait()

    async def keep_static_pods(self) -> None:
        """Give each static pod a worker; one that takes another's place waits for its end."""
        async with asyncio.TaskGroup() as tasks:

            async def keep(worker: Worker, before: asyncio.Task[None] | None) -> None:
                if before is not None:
                    await asyncio.wait([before])
                await self._keep(worker)
                if mirror := self.pods.get(Key(worker.pod.metadata.namespace, worker.pod.metadata.name)):
                    await supervise("mirror", partial(self._mirror_changed, None, mirror))

            def begin(pod: Pod) -> None:
                key = Key(pod.metadata.namespace, pod.metadata.name)
                self._static_tasks[key] = tasks.create_task(keep(self._new_worker(pod), self._static_tasks.get(key)), name=f"static pod {key.name}")

            await self.static.run(begin, lambda uid: self._workers[uid].remove() if uid in self._workers else None)
            await asyncio.Event().wait()

    async def _mirror_changed(self, before: Pod | None, after: Pod | None) -> None:
        """A mirror that is not right goes; one that has gone is made again with the next writing of the status."""
        await self.static.were_read.wait()
        one = after or before or Pod()
        if (after is None or not await self.static.judge(after)) and (uid := self.static.uid(Key(one.metadata.namespace, one.metadata.name))) in self._workers:
            self._workers[str(uid)].tell_again()

    async def _keep(self, worker: Worker) -> None:
        uid, key = worker.pod.metadata.uid, f"{worker.pod.metadata.namespace}/{worker.pod.metadata.name}"
        if worker.pod.status.startTime is None:
            worker.on_running = self._start_seconds.observe
        try:
            await supervise(f"pod {key}", worker.run)
        finally:
            del self._workers[uid]
            self._running.set(len(self._workers))

    def node_changed(self, before: Node | None, after: Node | None) -> None:
        """A node has come, changed or gone."""
        if before is None or after is None or any(of(before) != of(after) for of in _ROUTING):
            self.router.change()
        if (after or before or Node()).metadata.name == self.node_name:
            self.registration.change()
            if host_ips_of(before) != host_ips_of(after):
                for worker in self._workers.values():
                    worker.wake()


# what other nodes' routes depend on
_ROUTING: tuple[Callable[[Node], object], ...] = (
    lambda node: node.spec.podCIDRs,
    lambda node: node.status.addresses,
    lambda node: node.annotations.get(overlay.ANNOTATION),
)


def _prepare_host(settings: Settings) -> None:
    """Make the node forward in its families, and take away what an earlier setting has left."""
    for family in [Family.of(address) for address in settings.node_ips if not address.is_unspecified] or list(FAMILIES):
        try:
            for link in forwarding.switch_on([family]):
                log.info("This node forwards, and goes on listening to routers", extra={"link": link})
        except KernelError as error:
            if not error.missing:  # a kernel without the family has no such parameter
                raise
    if settings.network != overlay.VXLAN:
        overlay.remove_tunnel()


async def run(settings: Settings, *, ready: Callable[[], None] = lambda: None) -> None:
    """Keep the node until cancelled; its pods run on afterwards."""
    connection = kubeconfig.load(settings.kubeconfig)
    registry = new_registry(process=False)
    settings.root_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    name = settings.node_name or machine(settings.root_dir).hostname
    async with (
        AsyncExitStack() as undo,
        Client(connection, user_agent="kubelet/twinstack", at_once=MOST_REQUESTS) as client,
        ProcessRuntime(settings.root_dir) as runtime,
        Prober(runtime) as prober,
    ):
        routes = None
        if settings.routes_kubeconfig is not None:
            routes = await undo.enter_async_context(Client(kubeconfig.load(settings.routes_kubeconfig), user_agent="node-router/twinstack"))
        agent = Agent(settings, name, client, runtime, prober, registry, routes)
        try:
            await agent.registration.find_addresses()
        except NodeAddressError as error:  # as upstream has it: an address may come; until then the status is not written
            log.error("The node has no usable address yet", extra={"node": name, "error": str(error)})
        checks = {"ping": lambda: None, "syncloop": lambda: None, "node": agent.registration.health}
        server = Server(settings, agent, Access(settings, client, name), name, checks=checks, registry=registry)
        await server.start(serving_pair(settings, name, agent.registration.addresses))
        try:
            _prepare_host(settings)  # only now that nothing else can refuse
            for informer in {agent.nodes, agent.neighbours}:
                informer.subscribe(agent.node_changed)
            log.info(
                "The node agent starts",
                extra={"node": name, "addresses": " ".join(map(str, agent.registration.addresses)), "family": preferred_family(settings.node_ips)},
            )
            async with asyncio.TaskGroup() as tasks:
                for title, work in (
                    ("spawner", runtime.watch),
                    ("events", agent.recorder.run),
                    ("pod informer", agent.pods.run),
                    ("node informer", agent.nodes.run),
                    *((("neighbour informer", agent.neighbours.run),) if agent.neighbours is not agent.nodes else ()),
                    ("service informer", agent.services.run),
                    ("status", agent.registration.keep_status),
                    ("lease", agent.registration.keep_lease),
                    ("routes", agent.router.run),
                    ("pods", agent.keep_pods),
                    ("static pods", agent.keep_static_pods),
                    ("eviction", agent.keep_balance),
                ):
                    tasks.create_task(supervise(title, work), name=title)
                await agent.registration.registered()
                ready()
        finally:
            await server.close()
            agent.limiter.close()
