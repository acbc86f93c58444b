"""Cluster DNS: queries a second on one core, and how long an answer takes.

The server is a process pinned to one core, the generator another on another; where we may, both go before all else on the machine (SCHED_FIFO),
since it is the server's own pauses that are looked for, not those of a machine that is busy with others. Baseline in the same run: the same generator
against a bare UDP echo, that is what Python's sockets cost when there is nothing to answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.results import Result, percentile
from twinstack.dns.wire import name_of, type_of
from twinstack.net.family import FAMILIES

ADDRESS = "127.0.0.1"
SERVICES, QUERIES, RATE = 10_000, 200_000, 15_000
WINDOW = 32


def run(scale: float) -> list[Result]:
    """All figures; *scale* 1.0 asks for A and AAAA of 10,000 Services."""
    size, count = max(100, int(SERVICES * scale)), max(5_000, int(QUERIES * scale))
    types = [type_of(family.facts.dns_type) for family in FAMILIES]
    good = [_question(f"svc-{number}.bench.svc.cluster.local.", type_) for number in range(size) for type_ in types]
    bad = [_question(f"svc-{number}.bench.svc.cluster.local.bench.svc.cluster.local.", type_) for number in range(size) for type_ in types]
    with _process("bench._dnsserver", ADDRESS, str(size)) as server, _process("bench._dnsload", "echo", ADDRESS) as echo:
        first = _ask(server["port"], good, len(good))
        warm, bare = _ask(server["port"], good, count), _ask(echo["port"], good, count, answers=False)
        paced, paced_bare = _ask(server["port"], good, count // 4, rate=RATE), _ask(echo["port"], good, count // 4, answers=False, rate=RATE)
        absent = _ask(server["port"], bad, len(bad), answers=False, negative=True)
    what = f"A and AAAA of {size:,} Services"
    return [
        _rate(f"{what}, each for the first time", first, bare),
        _rate(f"{what}", warm, bare, target=15_000.0),
        Result(
            bench="dns",
            name=f"p99 of an answer at {RATE:,} queries a second, {what}",
            value=percentile(paced["latencies"], 0.99) * 1000,
            unit="ms",
            baseline="bare UDP echo",
            baseline_value=percentile(paced_bare["latencies"], 0.99) * 1000,
            target=3.0,
            detail={"p50": percentile(paced["latencies"], 0.5) * 1000, "max": max(paced["latencies"]) * 1000, "lost": paced["lost"]},
        ),
        Result(
            bench="dns",
            name=f"p99 of an answer with {WINDOW} queries always under way, {what}",
            value=percentile(warm["latencies"], 0.99) * 1000,
            unit="ms",
            baseline="bare UDP echo",
            baseline_value=percentile(bare["latencies"], 0.99) * 1000,
            target=3.0,
            detail={"p50": percentile(warm["latencies"], 0.5) * 1000},
        ),
        _rate("names that do not exist, as a search path asks for them", absent, bare),
        Result(
            bench="dns", name=f"{size:,} dual-stack Services taken in", value=server["seconds"], unit="s", detail={"resident_megabytes": server["megabytes"]}
        ),
    ]


def _rate(name: str, found: dict[str, Any], bare: dict[str, Any], *, target: float | None = None) -> Result:
    return Result(
        bench="dns",
        name=f"queries a second on one core: {name}",
        value=len(found["latencies"]) / found["seconds"],
        unit="/s",
        better="higher",
        baseline="bare UDP echo",
        baseline_value=len(bare["latencies"]) / bare["seconds"],
        target=target,
        detail={"lost": found["lost"]},
    )


def _question(name: str, type_: int) -> str:
    """A query without its number: flags, counts, the question, and an OPT record as resolvers send it."""
    return (bytes.fromhex("0100 0001 0000 0000 0001") + name_of(name) + struct.pack("!HH", type_, 1) + bytes.fromhex("00 0029 04d0 00000000 0000")).hex()


def _ask(port: int, questions: list[str], count: int, *, answers: bool = True, rate: int = 0, negative: bool = False) -> dict[str, Any]:
    job = {"address": ADDRESS, "port": port, "questions": questions, "count": count, "window": WINDOW, "rate": rate, "answers": answers}
    command = [*_pinned(1), sys.executable, "-m", "bench._dnsload", "generate"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["wrong"] and not negative:
        raise RuntimeError(f"{found['wrong']} of {count} answers are wrong")
    return found


@contextlib.contextmanager
def _process(module: str, *words: str) -> Iterator[dict[str, Any]]:
    """A server, pinned to the first core, and what it says when it is ready."""
    with subprocess.Popen([*_pinned(0), sys.executable, "-m", module, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()


def _pinned(number: int) -> list[str]:
    cores = sorted(os.sched_getaffinity(0))
    first = ["chrt", "--fifo", "1"] if os.geteuid() == 0 else []
    return [*first, "taskset", "--cpu-list", str(cores[number % len(cores)])]
