"""Leader election: one works, the others wait, and never two at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from twinstack.api import errors, kinds
from twinstack.api.objects import Key
from twinstack.loops.clock import SteppingClock
from twinstack.loops.leader import LEASES, Election, identity
from twinstack.loops.metrics import LeaderMetrics
from twinstack.loops.supervisor import GivenUp

KEY = Key("kube-system", "kube-scheduler")


class Candidate:
    """One instance, and whether it works."""

    def __init__(self, door: Any, clock: SteppingClock, name: str, **more: Any) -> None:
        self.works = False
        self.election = Election(door, KEY, identity=name, clock=clock, **more)
        self.task = asyncio.create_task(self.election.run(self._work))

    async def _work(self) -> None:
        self.works = True
        try:
            await asyncio.Event().wait()
        finally:
            self.works = False

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def test_the_first_leads_and_the_second_takes_over_when_it_leaves(world: Any, door: Any, clock: SteppingClock) -> None:
    registry = CollectorRegistry()
    one = Candidate(door, clock, "one", metrics=LeaderMetrics(registry))
    await clock.step(0)
    two = Candidate(door, clock, "two")
    await clock.step(60)
    assert (one.works, two.works) == (True, False)
    assert registry.get_sample_value("leader_election_master_status", {"name": "kube-scheduler"}) == 1
    lease = world.get(kinds.Lease, KEY).spec
    assert (lease.holderIdentity, lease.leaseDurationSeconds, lease.leaseTransitions) == ("one", 15, 0)
    assert (lease.acquireTime, lease.renewTime) == ("2026-01-02T03:04:05.000000Z", "2026-01-02T03:05:05.000000Z")
    await one.end()
    assert world.get(kinds.Lease, KEY).spec.holderIdentity is None or world.get(kinds.Lease, KEY).spec.holderIdentity == ""
    await clock.step(3)
    assert two.works and world.get(kinds.Lease, KEY).spec.leaseTransitions == 1
    assert registry.get_sample_value("leader_election_master_status", {"name": "kube-scheduler"}) == 0
    await two.end()


async def test_a_leader_that_is_gone_without_a_word_is_followed_after_its_lease(world: Any, door: Any, clock: SteppingClock) -> None:
    # The lease's own times are of another clock and years away: they must not matter.
    spec = {"holderIdentity": "gone", "leaseDurationSeconds": 15, "renewTime": "2030-01-01T00:00:00.000000Z", "leaseTransitions": 4}
    world.put(LEASES, {"metadata": {"namespace": KEY.namespace, "name": KEY.name, "labels": {"a": "b"}}, "spec": spec})
    two = Candidate(door, clock, "two")
    await clock.step(14)
    assert not two.works
    await clock.step(4)
    assert two.works and world.get(kinds.Lease, KEY).spec.leaseTransitions == 5
    assert world.get(kinds.Lease, KEY).labels == {"a": "b"}
    await two.end()


async def test_a_leader_that_cannot_renew_stops_before_another_may_begin(world: Any, door: Any, clock: SteppingClock) -> None:
    one = Candidate(door, clock, "one")
    await clock.step(1)
    world.failures = [errors.ServiceUnavailable("away")] * 100
    await clock.step(8)
    assert one.works
    await clock.step(3)
    assert not one.works
    with pytest.raises(ExceptionGroup) as told:
        await one.task
    assert told.group_contains(GivenUp)


async def test_a_leader_whose_lease_was_taken_stops_at_once(world: Any, door: Any, clock: SteppingClock) -> None:
    one = Candidate(door, clock, "one")
    await clock.step(1)
    document = await door.get(LEASES, KEY)
    document["spec"]["holderIdentity"] = "two"
    world.put(LEASES, document)
    await clock.step(2)
    assert not one.works and world.get(kinds.Lease, KEY).spec.holderIdentity == "two"
    with pytest.raises(ExceptionGroup):
        await one.task


async def test_a_short_absence_of_the_server_is_lived_through(world: Any, door: Any, clock: SteppingClock) -> None:
    one = Candidate(door, clock, "one")
    await clock.step(1)
    world.failures = [errors.ServiceUnavailable("away")] * 3
    await clock.step(60)
    assert one.works
    await one.end()


def test_each_instance_has_a_name_of_its_own() -> None:
    assert identity() != identity()
