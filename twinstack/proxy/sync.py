"""One family's table, brought to the kernel and kept there.

Rule of this file: wanted minus applied, in one transaction. The kernel is never read back; whenever it refuses, the
whole table is written anew, atomically, and a metric says so.

Theory. A change marks its Service; the next sync makes that Service's part anew, and the assembly knows which
elements differ. While one sync runs, changes gather for the next, so a burst is one or two transactions. The
first sync, one after a refusal, and one each hour (somebody may have flushed the tables) write everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from twinstack.api.objects import Key
from twinstack.dataplane.assembly import Assembly
from twinstack.dataplane.ruleset import Learned, Steps, Table
from twinstack.kernel import nftables
from twinstack.kernel.conntrack import Conntrack, Stale
from twinstack.kernel.errors import KernelError
from twinstack.net.family import Family
from twinstack.proxy.affinity import StickyLists, forgetting, joined, poorer, remembering, sticky_lists, true, untrue
from twinstack.proxy.catalog import Catalog
from twinstack.proxy.healthcheck import FamilyHealth
from twinstack.proxy.metrics import Metrics
from twinstack.proxy.recalling import AFFINITY, AFFINITY_PORTS
from twinstack.proxy.ruleset import TABLE, Options, Shape, service_of
from twinstack.proxy.services import DATED, FlowFronts, Place, ServicePort, flow_fronts, gone_answers, service_ports

FULL_SYNC_SECONDS = 3600.0
FIRST_RETRY_SECONDS = 1.0
_NONE: Counter[str] = Counter()
_AT_A_TIME = 200  # Services between two looks at the event loop
_MANY = 50_000  # elements whose table is not looked through for garbage any more

log = logging.getLogger(__name__)


class Before(NamedTuple):
    """What a Service was before its part was made anew: what of it lives on in the kernel by itself."""

    flows: FlowFronts
    sticky: StickyLists


class NodeState:
    """What the proxy knows of its node and cluster beside Services; replaced as it changes."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.addresses: dict[Family, tuple[str, ...]] = {}
        self.service_cidrs: dict[Family, tuple[str, ...]] = {}
        self.making = asyncio.Lock()  # one family makes everything while the other's is on its way to the kernel, not beside it


class FamilySync:
    """Brings one family's table to the kernel. *now* is seconds since the epoch."""

    def __init__(
        self,
        family: Family,
        shape: Shape,
        *,
        ruleset: nftables.Ruleset,
        conntrack: Conntrack | None,
        catalog: Catalog,
        node: NodeState,
        metrics: Metrics,
        health: FamilyHealth,
        now: Callable[[], float],
        min_sync_seconds: float,
        sync_seconds: float,
    ) -> None:
        self.family = family
        self.health = health
        self._shape = shape
        self._options = shape.options  # those wanted; the shape follows with the next sync
        self._ruleset = ruleset
        self._conntrack = conntrack
        self._catalog = catalog
        self._node = node
        self._metrics = metrics
        self._now = now
        self._began = now()
        self._min_sync_seconds = min_sync_seconds
        self._sync_seconds = sync_seconds
        self._assembly: Assembly = shape.assembly()
        self._assembly.unsettle()
        self._marked: set[Key] = set()
        self._everything = True  # all Services' parts are to be made anew
        self._node_marked = True  # the node's own part is
        self._whole = True  # the whole table is to be written
        self._wake = asyncio.Event()
        self._flows: dict[Key, FlowFronts] = {}
        self._sticky: dict[Key, StickyLists] = {}
        self._without_local: dict[Key, Counter[str]] = {}
        self._label = family.value
        self.synced = asyncio.Event()
        for counter in (metrics.failures, metrics.cleanup_failures, metrics.conntrack_failures, metrics.conntrack_deleted):
            counter.labels(self._label)  # a series that is there from the start can be watched

    def table(self) -> Table:
        """The wanted table as it was last made."""
        return self._assembly.table()

    def mark(self, key: Key, *, endpoints: bool = False) -> None:
        """A Service, or its endpoints, changed."""
        self._marked.add(key)
        (self._metrics.endpoint_pending if endpoints else self._metrics.service_pending).labels(self._label).inc()
        self._queue()

    def mark_node(self) -> None:
        """The cluster's service ranges changed."""
        self._node_marked = True
        self._queue()

    def mark_everything(self) -> None:
        """The node changed in a way that concerns every Service."""
        self._everything = self._node_marked = True
        self._queue()

    def set_options(self, options: Options) -> None:
        """The node changed in a way that concerns the rules."""
        self._options = options
        self.mark_everything()

    def _queue(self) -> None:
        self.health.queued()
        self._metrics.last_queued.labels(self._label).set(self._now())
        self._wake.set()

    async def run(self) -> None:
        """Sync whenever there is something to do, until cancelled."""
        retry = FIRST_RETRY_SECONDS
        self._wake.set()
        while True:
            try:
                async with asyncio.timeout(FULL_SYNC_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._whole = True
            self._wake.clear()
            try:
                await self.sync()
            except KernelError as error:
                log.error("The kernel refuses the whole table", extra={"family": self._label, "error": str(error), "retry_seconds": retry})
                self._wake.set()
                await asyncio.sleep(retry)
                retry = min(2 * retry, self._sync_seconds)
                continue
            retry = FIRST_RETRY_SECONDS
            await asyncio.sleep(self._min_sync_seconds)

    async def make(self) -> dict[Key, Before]:
        """Make the marked Services' parts anew; what those were before of which something lives on, or whose flows matter now."""
        if self._options != self._shape.options:
            self._shape = self._shape.with_options(self._options)
            self._assembly, self._whole, self._everything, self._node_marked = self._shape.assembly(), True, True, True
            self._assembly.unsettle()
        marked: Iterable[Key] = self._marked
        if everything := self._everything:
            marked = {*self._catalog.keys(), *(Key.parse(service_of(owner)) for owner in self._assembly.owners() if owner)}
        if self._node_marked:
            cidrs = self._node.service_cidrs.get(self.family, ())
            self._assembly.put("", self._shape.node_part(self._node.addresses.get(self.family, ()), cidrs))
        self._marked, self._everything, self._node_marked = set(), False, False
        for gauge in (self._metrics.service_pending, self._metrics.endpoint_pending):
            gauge.labels(self._label).set(0)
        before: dict[Key, Before] = {}
        async with self._node.making if everything else contextlib.nullcontext():
            with _without_collections() if everything else contextlib.nullcontext():
                for number, key in enumerate(marked):
                    if number % _AT_A_TIME == _AT_A_TIME - 1:
                        await asyncio.sleep(0)
                    was = Before(self._flows.get(key, {}), self._sticky.get(key, {}))
                    self._make_one(key)
                    if was.flows or was.sticky or key in self._flows:
                        before[key] = was
        return before

    def _grow(self, shape: Shape) -> None:
        """Make room for what the shape has not: other rules, the same parts, and the whole table written."""
        self._shape = shape
        grown = shape.assembly()
        grown.unsettle()
        for owner in self._assembly.owners():
            grown.put(owner, self._assembly.part(owner))
        self._assembly, self._whole = grown, True

    def _make_one(self, key: Key) -> None:
        service = self._catalog.services.get(key)
        ports = service_ports(service, self._catalog.slices(key), self.family, self._node.place) if service else []
        if not self._options.affinity:
            ports = [port._replace(affinity_seconds=0) for port in ports]
        if (fitting := self._shape.fitting(ports)) is not self._shape:
            self._grow(fitting)
        addresses = self._node.addresses.get(self.family, ())
        for owner, part in self._shape.parts(str(key), ports, addresses):
            self._assembly.put(owner, part)
        if fronts := flow_fronts(ports):
            self._flows[key] = fronts
        else:
            self._flows.pop(key, None)
        if sticky := sticky_lists(ports, self._shape.ids):
            self._sticky[key] = sticky
        else:
            self._sticky.pop(key, None)
        if without := _without_local(ports):
            self._without_local[key] = without
        else:
            self._without_local.pop(key, None)

    async def sync(self) -> None:
        """Bring the kernel up to date; KernelError when it refuses even the whole table."""
        began = self._now()
        pending = set(self._marked)
        before = await self.make()
        whole = self._whole or self._assembly.outgrown()  # making may have asked for it
        lost = {one: left for key, was in before.items() if was.sticky for one, left in poorer(was.sticky, self._sticky.get(key, {})).items()}
        self._whole = True  # until it has worked
        with _without_collections() if whole else contextlib.nullcontext():
            steps = await self._whole_steps() if whole else await self._difference(lost)
            applied = not steps or await self._apply(steps, last=whole)
        if not applied:
            whole = True
            await self._apply(await self._whole_steps(), last=True)
        if lost and (late := untrue(await self._learned(), lost)):  # learned by connections that were on their way meanwhile
            await self._apply(Steps(self.family, TABLE, forgetting(late)), last=True)
        self._whole = False
        took = self._now() - began
        self._metrics.sync.labels(self._label).observe(took)
        (self._metrics.sync_full if whole else self._metrics.sync_partial).labels(self._label).observe(took)
        self._metrics.last_sync.labels(self._label).set(self._now())
        for policy in ("internal", "external"):
            self._metrics.no_local_endpoints.labels(policy, self._label).set(sum(one[policy] for one in self._without_local.values()))
        self._observe_programming(pending)
        self.health.synced(began)
        await self._forget_flows(before, everything=whole)
        told = {"family": self._label, "steps": len(steps.steps), "seconds": round(took, 4)}
        if whole:
            elements = self._assembly.table().size()
            log.info("The whole Service table was written", extra={**told, "elements": elements})
            del steps
            nftables.give_back()
            if elements >= _MANY:
                gc.freeze()  # else a look for garbage among all that stays halts everything for a second
        elif steps:
            log.debug("The Service table was changed", extra=told)
        self.synced.set()

    async def _whole_steps(self) -> Steps:
        """The steps of a whole write, what was learned of clients and is still true included."""
        lists = {number: backends for one in self._sticky.values() for number, backends in one.items()}
        kept = true(await self._learned(), lists) if lists else []
        steps = self._assembly.whole()
        return Steps(steps.family, steps.table, (*steps.steps, *remembering(kept)))

    async def _difference(self, lost: StickyLists) -> Steps:
        """The steps to what is wanted, and those that forget who was with an endpoint that its list has lost."""
        stale = untrue(await self._learned(), lost) if lost else []
        steps = self._assembly.steps()
        return Steps(steps.family, steps.table, (*steps.steps, *forgetting(stale)))

    async def _learned(self) -> list[Learned]:
        try:
            addresses, ports = [await asyncio.to_thread(self._ruleset.learned, self.family, TABLE, one) for one in (AFFINITY, AFFINITY_PORTS)]
            return joined(addresses, ports)
        except KernelError as error:
            if not error.missing:  # else there is no table yet, or one without affinity
                log.warning("What was learned of clients cannot be read", extra={"family": self._label, "error": str(error)})
            return []

    async def _apply(self, steps: Steps, *, last: bool) -> bool:
        """Make the steps in one transaction; False when the kernel refuses and this was not the *last* means."""
        try:
            await asyncio.to_thread(nftables.apply, self._ruleset, steps)
        except KernelError as error:
            self._metrics.failures.labels(self._label).inc()
            if last:
                raise
            log.warning("The kernel refuses a change; the whole table is written", extra={"family": self._label, "error": str(error)})
            return False
        return True

    def _observe_programming(self, keys: Iterable[Key]) -> None:
        """How long the changes of endpoints took that the controller dated, since we look."""
        for key in keys:
            for one in self._catalog.slices(key):
                if one.addressType != self._label or not (notes := one.metadata.annotations):
                    continue
                text = notes.get(DATED)
                if text and (moment := _moment(text)) is not None and moment >= self._began:
                    self._metrics.programming.labels(self._label).observe(max(0.0, self._now() - moment))

    async def _forget_flows(self, before: dict[Key, Before], *, everything: bool) -> None:
        """Remove the UDP and SCTP flows that this sync made stale; after a whole write all of them are looked at."""
        if self._conntrack is None or not (self._flows if everything else any(was.flows or key in self._flows for key, was in before.items())):
            return
        began = self._now()
        try:
            if everything:
                fronts = {front: serving for one in self._flows.values() for front, serving in one.items()}
                count = await asyncio.to_thread(_forget_all_stale, self._conntrack, self.family, fronts)
            else:
                gone = [Stale(*one) for key, was in before.items() for one in gone_answers(was.flows, self._flows.get(key, {}))]
                count = await asyncio.to_thread(self._conntrack.forget, self.family, gone) if gone else 0
            self._metrics.conntrack_deleted.labels(self._label).inc(count)
            self._metrics.conntrack_sync.labels(self._label).observe(self._now() - began)
        except KernelError as error:
            self._metrics.conntrack_failures.labels(self._label).inc()
            log.warning("Stale flows were not removed", extra={"family": self._label, "error": str(error)})


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Let Python not look for garbage while a million things are made that all stay."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _forget_all_stale(conntrack: Conntrack, family: Family, fronts: FlowFronts) -> int:
    """Remove all flows to these front ends that one answers who may not; how many they were."""
    stale = [
        flow
        for protocol in {protocol for _, protocol, _ in fronts}
        for flow in conntrack.flows(family, protocol)
        for serving in (fronts.get((flow.destination, protocol, flow.port)) or fronts.get(("", protocol, flow.port)),)
        if serving and (flow.answers, flow.answers_port) not in serving
    ]
    conntrack.forget_flows(family, stale)
    return len(stale)


def _without_local(ports: Sequence[ServicePort]) -> Counter[str]:
    policies = [
        policy
        for port in ports
        if (port.internal_local or port.external_local) and port.exists and not port.local
        for policy, local in (("internal", port.internal_local), ("external", port.external_local))
        if local
    ]
    return Counter(policies) if policies else _NONE


def _moment(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() if text.endswith("Z") else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
