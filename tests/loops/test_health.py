"""The health door of every program."""

from __future__ import annotations

import aiohttp
from prometheus_client import CollectorRegistry, Counter

from twinstack.loops.checks import answer
from twinstack.loops.health import HealthServer


def broken() -> str | None:
    raise RuntimeError("disk is full")


def test_checks_are_listed_excluded_and_failed():
    checks = {"ping": lambda: None, "store": broken, "sync": lambda: "informers are not synced"}
    code, body = answer(checks, "readyz", verbose=False, exclude=frozenset())
    assert code == 500 and "[+]ping ok" in body and "[-]store failed: disk is full" in body and "[-]sync failed: informers are not synced" in body
    assert answer(checks, "readyz", verbose=False, exclude=frozenset({"store", "sync"})) == (200, "ok")
    code, body = answer({"ping": lambda: None}, "livez", verbose=True, exclude=frozenset())
    assert code == 200 and body.endswith("livez check passed\n")


async def test_a_program_serves_its_health_and_metrics():
    registry = CollectorRegistry()
    Counter("syncs", "Syncs.", registry=registry).inc()
    ready = {"sync": lambda: None if done else "not yet"}
    done = False
    server = HealthServer(ready=ready, registry=registry)
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as response:
                    return response.status, await response.text()

            assert await get("/livez") == (200, "ok")
            assert (await get("/readyz"))[0] == 500
            done = True
            assert await get("/readyz") == (200, "ok")
            assert "syncs_total 1.0" in (await get("/metrics"))[1]
    finally:
        await server.close()
