"""What a request pays for the question whether it may: RBAC with many bindings, asked anew and asked again.

The baseline is the same question where every request is allowed.
"""

from __future__ import annotations

import asyncio
import time

from bench.results import Result
from twinstack.api.objects import Key
from twinstack.apiserver import first_roles
from twinstack.apiserver.app import Application
from twinstack.apiserver.authorization import asked_by
from twinstack.apiserver.calls import User
from twinstack.apiserver.requests import Request, parse
from twinstack.apiserver.settings import Settings
from twinstack.apiserver.tokens import ACCOUNTS
from twinstack.store.memory import MemoryStore

BENCH = "access"
RANGES = "10.96.0.0/16,fd00:96::/112"
JANE = User("jane", "", ("developers", "system:authenticated"))


def run(scale: float) -> list[Result]:
    return asyncio.run(_run(max(20, int(2000 * scale)), max(2000, int(50_000 * scale))))


async def _run(bindings: int, count: int) -> list[Result]:
    open_, guarded = _application("AlwaysAllow"), _application("Node,RBAC")
    await first_roles.make(guarded.handlers.changes)
    policy = guarded.authorizer.policy
    for number in range(bindings):
        subjects = [{"kind": "User", "name": f"user{number}"}, {"kind": "Group", "name": "developers"}]
        metadata = {"name": "edit", "namespace": f"team{number}"}
        policy.take_binding(f"team{number}", "edit", {"metadata": metadata, "subjects": subjects, "roleRef": {"kind": "ClusterRole", "name": "edit"}})
    requests = [parse("GET", f"/api/v1/namespaces/team{number % 20}/services/web{number}") for number in range(200)]
    free = _microseconds(open_, requests, count)
    again = _microseconds(guarded, requests, count)
    start = time.perf_counter()
    for _ in range(20):
        policy.take_role("", "unrelated", {"rules": []})  # everything that was found is forgotten
        guarded.authorizer.check(JANE, *asked_by(requests[0]))
    anew = (time.perf_counter() - start) / 20 * 1e6
    tokens = guarded.tokens
    document = {"metadata": {"name": "robot", "namespace": "default", "uid": "u"}}
    collection = guarded.cache.collections[ACCOUNTS]
    await guarded.store.commit([collection.write(document, 0)])
    token = tokens.request(Key("default", "robot"), {"spec": {}}, None)["status"]["token"]
    start = time.perf_counter()
    tokens.user(token)
    first = (time.perf_counter() - start) * 1e6
    start = time.perf_counter()
    for _ in range(count):
        tokens.user(token)
    known = (time.perf_counter() - start) / count * 1e6
    return [
        Result(bench=BENCH, name=f"authorize a request, {bindings} bindings", value=again, unit="µs", baseline="AlwaysAllow", baseline_value=free, target=15.0),
        Result(bench=BENCH, name="authorize the first one after a change", value=anew, unit="µs"),
        Result(bench=BENCH, name="take a token that is known", value=known, unit="µs", baseline="its first time, with the signature", baseline_value=first),
    ]


def _application(modes: str) -> Application:
    return Application(Settings(data_dir="", service_cluster_ip_range=RANGES, store="memory", authorization_mode=modes), MemoryStore())


def _microseconds(application: Application, requests: list[Request], count: int) -> float:
    authorizer, done = application.authorizer, 0
    start = time.perf_counter()
    while done < count:
        for request in requests:
            authorizer.check(JANE, *asked_by(request))
        done += len(requests)
    return (time.perf_counter() - start) / done * 1e6
