"""Evictions that a disruption budget lets through, or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

PODS = "/api/v1/namespaces/default/pods"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
LABELS = {"app": "x"}


async def make_pod(api: Any, name: str, *, ready: bool = True, phase: str = "Running") -> None:
    spec = {"containers": [{"name": "c", "image": "example.com/c:1"}], "nodeName": "n"}
    await api.made(PODS, {"metadata": {"name": name, "labels": LABELS}, "spec": spec})
    status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
    assert (await patched(api, f"{PODS}/{name}/status", {"status": status})).code == 200


async def make_budget(api: Any, *, name: str = "b", allowed: int, healthy: int = 2, desired: int = 1, observed: int = 1, **spec: Any) -> None:
    await api.made(BUDGETS, {"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": {"matchLabels": LABELS}, **spec}})
    status = {"observedGeneration": observed, "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": 2}
    assert (await patched(api, f"{BUDGETS}/{name}/status", {"status": status})).code == 200


async def patched(api: Any, path: str, patch: Any) -> Any:
    return await api.ask("PATCH", path, patch, headers={"Content-Type": "application/merge-patch+json"})


async def evicted(api: Any, name: str, query: str = "") -> Any:
    return await api.post(f"{PODS}/{name}/eviction{query}", {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}})


async def status(api: Any) -> Any:
    return (await api.get(f"{BUDGETS}/b")).document["status"]


async def test_an_eviction_takes_one_from_the_budget_and_no_two_take_the_same(api: Any) -> None:
    for name in ("p", "q"):
        await make_pod(api, name)
    await make_budget(api, allowed=1)
    assert (await evicted(api, "p", "?dryRun=All")).code == 201
    assert (await status(api))["disruptionsAllowed"] == 1
    codes = [got.code for got in await asyncio.gather(evicted(api, "p"), evicted(api, "q"))]
    assert sorted(codes) == [201, 429]
    found = await status(api)
    assert found["disruptionsAllowed"] == 0 and list(found["disruptedPods"]) == [("p", "q")[codes.index(201)]]


async def test_a_refusal_says_why(api: Any) -> None:
    await make_pod(api, "p")
    await make_budget(api, allowed=0, healthy=1)
    got = await evicted(api, "p")
    assert (got.code, got.reason, got.document["details"]["causes"][0]["reason"]) == (429, "TooManyRequests", "DisruptionBudget")
    assert "needs 1 healthy pods and has 1" in got.message
    assert "deletionTimestamp" not in (await api.get(f"{PODS}/p")).document["metadata"]


async def test_a_budget_that_nobody_has_counted_yet_lets_nothing_through(api: Any) -> None:
    await make_pod(api, "p")
    await make_budget(api, allowed=1, observed=0)
    got = await evicted(api, "p")
    assert (got.code, got.document["details"]["retryAfterSeconds"]) == (429, 10)


@pytest.mark.parametrize(
    "facts, spec, code",
    [
        pytest.param({"phase": "Pending", "ready": False}, {}, 201, id="a pod that does not run yet is no loss"),
        pytest.param({"phase": "Succeeded", "ready": False}, {}, 201, id="nor is one that has ended"),
        pytest.param({"ready": False}, {}, 429, id="one that is not ready is, while there are too few"),
        pytest.param({"ready": False}, {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, 201, id="unless the budget says that it is not"),
        pytest.param({}, {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, 429, id="which does not hold for one that is ready"),
        pytest.param({}, {"selector": {"matchLabels": {"app": "y"}}}, 201, id="a budget of others does not matter"),
    ],
)
async def test_who_asks_the_budget(api: Any, facts: Any, spec: Any, code: int) -> None:
    await make_pod(api, "p", **facts)
    await make_budget(api, allowed=0, healthy=0, **spec)
    assert (await evicted(api, "p")).code == code


async def test_a_pod_that_is_not_ready_is_no_loss_while_enough_others_are(api: Any) -> None:
    await make_pod(api, "p", ready=False)
    await make_budget(api, allowed=0, healthy=1, desired=1)
    assert (await evicted(api, "p")).code == 201


async def test_two_budgets_of_one_pod_are_one_too_many(api: Any) -> None:
    await make_pod(api, "p")
    await make_budget(api, allowed=1)
    await make_budget(api, name="c", allowed=1)
    assert (await evicted(api, "p")).code == 500
