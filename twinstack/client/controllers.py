"""Controllers at work against an API server: what kube-controller-manager and kube-scheduler have in common.

One client, one cache of every kind that any of the controllers looks at, one reconciler for each, a recorder of
events, a door for health and metrics, and, when asked, an election before the work.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from twinstack.api import kinds
from twinstack.api.objects import Key
from twinstack.api.world import Controller
from twinstack.client import certificates, kubeconfig
from twinstack.client.cache import Cache
from twinstack.client.client import Client
from twinstack.client.identities import Identity
from twinstack.client.kubeconfig import Connection
from twinstack.client.throttle import Throttle
from twinstack.loops import leader
from twinstack.loops.clock import SystemClock
from twinstack.loops.events import Recorder
from twinstack.loops.health import HealthServer
from twinstack.loops.metrics import LeaderMetrics, QueueMetrics, new_registry
from twinstack.loops.reconciler import Reconciler
from twinstack.net.errors import Error
from twinstack.net.family import Family

log = logging.getLogger(__name__)


class SettingsError(Error):
    """A flag's value will not do; the message names the flag, the value and a value that would do."""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """The flags that both programs share. ``connection`` replaces the kubeconfig when it is given."""

    kubeconfig: str = ""
    master: str = ""
    connection: Connection | None = None
    leader_elect: bool = True
    leader_elect_lease_duration_seconds: float = 15.0
    leader_elect_renew_deadline_seconds: float = 10.0
    leader_elect_retry_period_seconds: float = 2.0
    leader_elect_resource_name: str = ""  # the program's name
    leader_elect_resource_namespace: str = "kube-system"
    leader_elect_resource_lock: str = "leases"
    kube_api_qps: float = 0.0  # requests a second; 0: as many as the server answers
    kube_api_burst: int = 0  # requests at once; 0: as many as in a second
    bind_address: str = Family.IPV4.facts.loopback
    secure_port: int = 0  # 0: no door for health and metrics
    tls_cert_file: str = ""  # without it the door speaks plain HTTP
    tls_private_key_file: str = ""
    self_signed: bool = False  # without a certificate the door makes one of its own


def check(settings: Common) -> None:
    """SettingsError for what is refused before anything is touched."""
    lease, renew, retry = (
        settings.leader_elect_lease_duration_seconds,
        settings.leader_elect_renew_deadline_seconds,
        settings.leader_elect_retry_period_seconds,
    )
    if retry <= 0:
        raise SettingsError(f"--leader-elect-retry-period={retry:g}s is not positive; 2s would do")
    if not retry * 1.2 < renew < lease:
        wanted = "the lease must last longer than the renew deadline, and that longer than 1.2 retry periods"
        raise SettingsError(f"--leader-elect-lease-duration={lease:g}s, --leader-elect-renew-deadline={renew:g}s: {wanted}; 15s and 10s would do")
    if settings.leader_elect_resource_lock != "leases":
        raise SettingsError(f"--leader-elect-resource-lock={settings.leader_elect_resource_lock} is no kind of lock here; leases is")
    if settings.kube_api_burst < 0:
        raise SettingsError(f"--kube-api-burst={settings.kube_api_burst} is negative; 0 allows as many requests at once as in a second")
    if not 0 <= settings.secure_port <= 65535:
        raise SettingsError(f"--secure-port={settings.secure_port} is no port; 0 serves none")
    if bool(settings.tls_cert_file) != bool(settings.tls_private_key_file):
        raise SettingsError("--tls-cert-file and --tls-private-key-file go together: both or none would do")


async def run_controllers(
    component: str,
    controllers: Sequence[Controller],
    settings: Common,
    *,
    workers: Mapping[str, int] | None = None,
    lean: Mapping[type[kinds.Object], Callable[[Any], Any]] | None = None,
    accounts: Mapping[str, str] | None = None,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Run the controllers until cancelled; *ready* is called once all of them are at work.

    *workers* are by a controller's name; a controller that has a ``workers`` of its own insists on that number. *lean* says
    what is kept of kinds of which there are very many. With *accounts*, each controller writes as the ServiceAccount of that name.
    """
    check(settings)
    connection = settings.connection or kubeconfig.load(settings.kubeconfig or None, server=settings.master)
    clock, registry = SystemClock(), new_registry()
    qps = settings.kube_api_qps
    throttle = Throttle(qps, settings.kube_api_burst or math.ceil(qps)) if qps > 0 else None
    async with AsyncExitStack() as undo:
        client = await undo.enter_async_context(Client(connection, user_agent=component, throttle=throttle))
        cache = Cache(client, now=clock.now)
        for view in dict.fromkeys(watch.view for controller in controllers for watch in controller.watches):
            cache.watch(view, lean=(lean or {}).get(view))
        recorder = Recorder(cache.perform, component=component, clock=clock)
        metrics = QueueMetrics(registry)
        identities: dict[str, Identity] = {}
        if accounts is not None:
            shared = await undo.enter_async_context(
                Client(msgspec.structs.replace(connection, token="", token_file="", pair=None), user_agent=component, throttle=throttle)
            )
            identities = {name: Identity(name, client, shared, clock) for name in dict.fromkeys(accounts[one.name] for one in controllers)}
        reconcilers = [
            Reconciler(
                controller,
                cache,
                partial(cache.perform, by=identities[accounts[controller.name]].perform) if accounts is not None else cache.perform,
                recorder=recorder,
                clock=clock,
                metrics=metrics,
                workers=getattr(controller, "workers", (workers or {}).get(controller.name, 1)),
            )
            for controller in controllers
        ]
        election = _election(component, client, clock, settings, registry_metrics=LeaderMetrics(registry)) if settings.leader_elect else None

        async def work() -> None:
            await cache.synced()
            await asyncio.gather(*(identity.begin() for identity in identities.values()))
            async with asyncio.TaskGroup() as group:
                for identity in identities.values():
                    group.create_task(identity.keep(), name=f"token of {identity.name}")
                for reconciler in reconcilers:
                    group.create_task(reconciler.run(), name=reconciler.controller.name)
                log.info("Controllers are at work", extra={"component": component, "controllers": len(reconcilers)})
                ready()

        if settings.secure_port:
            door = HealthServer(ready={"informer-sync": lambda: None if cache.is_synced else "the API server has not been read yet"}, registry=registry)
            await _open(door, settings)
            undo.push_async_callback(door.close)
        async with asyncio.TaskGroup() as group:
            group.create_task(cache.run(), name="cache")
            group.create_task(recorder.run(), name="events")
            group.create_task(election.run(work) if election is not None else work(), name=component)


def read_file(flag: str, path: str) -> bytes:
    """What the file of a flag holds; SettingsError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"--{flag}={path} cannot be read: {error.strerror}") from error


def _election(component: str, client: Client, clock: SystemClock, settings: Common, *, registry_metrics: LeaderMetrics) -> leader.Election:
    return leader.Election(
        client,
        Key(settings.leader_elect_resource_namespace, settings.leader_elect_resource_name or component),
        identity=leader.identity(),
        clock=clock,
        lease_seconds=settings.leader_elect_lease_duration_seconds,
        renew_seconds=settings.leader_elect_renew_deadline_seconds,
        retry_seconds=settings.leader_elect_retry_period_seconds,
        metrics=registry_metrics,
    )


async def _open(door: HealthServer, settings: Common) -> None:
    tls = None
    if settings.tls_cert_file:
        pair = certificates.Pair(read_file("tls-cert-file", settings.tls_cert_file), read_file("tls-private-key-file", settings.tls_private_key_file))
        tls = certificates.server_context(pair)
    elif settings.self_signed:
        tls = certificates.server_context(certificates.self_signed("localhost", dns_names=("localhost",), addresses=(settings.bind_address,)))
    try:
        await door.start(settings.bind_address, settings.secure_port, tls=tls)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"--bind-address={settings.bind_address}, --secure-port={settings.secure_port}: cannot listen there: {reason}") from error
