"""How much of the machine the node and its pods use, as ``/stats/summary`` and ``/metrics/resource`` tell it.

Rule of this file: nothing is kept but the last sample of processor time, for its rate; everything else is read when it is
asked for. A container's share is the sum over the processes of its PID namespace, those that have ended included; of a
container without one of its own (``hostPID``, ``shareProcessNamespace``) the sum over its session. Memory is what
is resident, so a page that several processes share is counted by each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from twinstack.agent import pressure
from twinstack.agent.containers.base import Record
from twinstack.agent.eviction import Used
from twinstack.agent.volumes import disk_usage
from twinstack.api.objects import Document
from twinstack.api.times import text_of_time

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")  # nanoseconds
_PAGE = os.sysconf("SC_PAGE_SIZE")
LEAST_SECONDS = 1.0  # a rate is taken over so long at least


class Amount(NamedTuple):
    """Nanoseconds of processor time, bytes of memory, and how many processes."""

    cpu: int = 0
    memory: int = 0
    processes: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(self.cpu + other.cpu, self.memory + other.memory, self.processes + other.processes)


class _Process(NamedTuple):
    namespace: str
    session: int
    amount: Amount


def _processes() -> dict[int, _Process]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                found[int(entry)] = _Process(
                    os.readlink(f"/proc/{entry}/ns/pid"), int(fields[3]), Amount(sum(map(int, fields[11:15])) * _TICK, int(fields[21]) * _PAGE, 1)
                )
            except OSError:  # it has ended meanwhile
                continue
    return found


def of_containers(records: Iterable[Record]) -> dict[str, Amount]:
    """What each running container uses, by its id."""
    processes = _processes()
    ours = os.readlink("/proc/self/ns/pid")
    leaders = {record.id: processes[record.pid] for record in records if record.running and record.pid in processes}
    alone = [one.namespace for one in leaders.values()]
    amounts = {}
    for identifier, leader in leaders.items():
        own = leader.namespace != ours and alone.count(leader.namespace) == 1
        members = [one for one in processes.values() if (one.namespace == leader.namespace if own else one.session == leader.session)]
        total = Amount()
        for one in members:
            total = total.plus(one.amount)
        amounts[identifier] = total
    return amounts


def of_pods(records: Iterable[Record], folders: Mapping[str, Path]) -> dict[str, Used]:
    """What each of these pods (uid → directory) uses, its files included."""
    running = [record for record in records if record.running and record.pod in folders]
    amounts = of_containers(running)
    found = {}
    for uid, folder in folders.items():
        total = Amount()
        for record in running:
            if record.pod == uid:
                total = total.plus(amounts.get(record.id, Amount()))
        found[uid] = Used(total.memory, disk_usage(folder), total.processes)
    return found


def of_machine() -> Amount:
    """What the whole machine uses: processor time, and memory that is not free to be had."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    busy = sum(int(value) for position, value in enumerate(fields[:8]) if position not in (3, 4))  # all but idle and waiting for disks
    memory = pressure.read_memory()
    return Amount(busy * _TICK, memory.whole - memory.left, sum(entry.isdigit() for entry in os.listdir("/proc")))


class Rates:
    """Processor time a second, from one question to the next."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: dict[str, tuple[float, int, int]] = {}  # when, nanoseconds until then, the rate

    def rate(self, name: str, cpu: int) -> int:
        """Nanoseconds a second since the question before, 0 for the first."""
        now = self._now()
        when, before, rate = self._last.get(name, (now, cpu, 0))
        if now - when >= LEAST_SECONDS:
            when, before, rate = now, cpu, max(0, int((cpu - before) / (now - when)))
        self._last[name] = (when, before, rate)
        return rate

    def keep(self, names: set[str]) -> None:
        """Forget all but these."""
        self._last = {name: last for name, last in self._last.items() if name in names}


class PodUsage(NamedTuple):
    """A pod and what of it runs."""

    namespace: str
    name: str
    uid: str
    started: str
    containers: Sequence[tuple[str, Record]]
    host_network: bool


def summary(node_name: str, root: Path, started: float, pods: Sequence[PodUsage], rates: Rates) -> Document:
    """``/stats/summary``."""
    now = text_of_time(datetime.now(UTC))
    amounts = of_containers(record for pod in pods for _, record in pod.containers)
    machine = of_machine()
    readings = pressure.read(root)
    told = [_pod(pod, amounts, rates, now) for pod in pods]
    rates.keep({"", *(pod.uid for pod in pods), *amounts})
    space, inodes, memory = readings["nodefs.available"], readings.get("nodefs.inodesFree"), readings["memory.available"]
    disk: Document = {"time": now, "availableBytes": space.left, "capacityBytes": space.whole, "usedBytes": space.whole - space.left}
    if inodes is not None:
        disk |= {"inodesFree": inodes.left, "inodes": inodes.whole, "inodesUsed": inodes.whole - inodes.left}
    pids = readings["pid.available"]
    return {
        "node": {
            "nodeName": node_name,
            "startTime": text_of_time(datetime.fromtimestamp(started, UTC)),
            "cpu": _cpu("", machine, rates, now),
            "memory": {"time": now, "availableBytes": memory.left, "usageBytes": machine.memory, "workingSetBytes": machine.memory},
            "network": _network(0, now),
            "fs": disk,
            "runtime": {"imageFs": disk},
            "rlimit": {"time": now, "maxpid": pids.whole, "curproc": pids.whole - pids.left},
        },
        "pods": told,
    }


def _pod(pod: PodUsage, amounts: Mapping[str, Amount], rates: Rates, now: str) -> Document:
    total = Amount()
    containers = []
    for name, record in pod.containers:
        if (amount := amounts.get(record.id)) is not None:
            total = total.plus(amount)
            began = text_of_time(datetime.fromtimestamp(record.started_at, UTC))
            containers.append({"name": name, "startTime": began, "cpu": _cpu(record.id, amount, rates, now), "memory": _memory(amount, now)})
    told: Document = {
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started,
        "containers": containers,
        "cpu": _cpu(pod.uid, total, rates, now),
        "memory": _memory(total, now),
        "process_stats": {"process_count": total.processes},
    }
    leader = next((record.pid for _, record in pod.containers if record.running), 0)
    if leader and not pod.host_network:
        told["network"] = _network(leader, now)
    return told


def _cpu(name: str, amount: Amount, rates: Rates, now: str) -> Document:
    return {"time": now, "usageNanoCores": rates.rate(name, amount.cpu), "usageCoreNanoSeconds": amount.cpu}


def _memory(amount: Amount, now: str) -> Document:
    return {"time": now, "usageBytes": amount.memory, "workingSetBytes": amount.memory, "rssBytes": amount.memory}


def _network(pid: int, now: str) -> Document:
    """The counters of the links of a process's network namespace, 0 for our own; those of the first one stand above."""
    links = []
    try:
        lines = Path(f"/proc/{pid}/net/dev" if pid else "/proc/thread-self/net/dev").read_text().splitlines()[2:]
    except OSError:  # it has ended meanwhile
        lines = []
    for line in lines:
        name, _, rest = line.partition(":")
        fields = [int(field) for field in rest.split()]
        if name.strip() != "lo":
            links.append({"name": name.strip(), "rxBytes": fields[0], "rxErrors": fields[2], "txBytes": fields[8], "txErrors": fields[10]})
    first = next((link for link in links if link["name"] == "eth0"), links[0] if links else {})
    return {"time": now, **first, "interfaces": links}


def resource_metrics(pods: Sequence[PodUsage]) -> str:
    """``/metrics/resource``, in the text form of Prometheus."""
    amounts = of_containers(record for pod in pods for _, record in pod.containers)
    machine = of_machine()
    families: dict[str, tuple[str, str, list[str]]] = {
        "container_cpu_usage_seconds_total": ("counter", "Processor time that a container has used, in seconds.", []),
        "container_memory_working_set_bytes": ("gauge", "Memory that a container uses.", []),
        "container_start_time_seconds": ("gauge", "When a container was started, in seconds of the wall clock.", []),
        "node_cpu_usage_seconds_total": ("counter", "Processor time that the node has used, in seconds.", [f" {machine.cpu / 1e9:.9g}"]),
        "node_memory_working_set_bytes": ("gauge", "Memory that the node uses.", [f" {machine.memory}"]),
        "pod_cpu_usage_seconds_total": ("counter", "Processor time that a pod has used, in seconds.", []),
        "pod_memory_working_set_bytes": ("gauge", "Memory that a pod uses.", []),
        "resource_scrape_error": ("gauge", "1 if something of this could not be read.", [" 0"]),
    }
    for pod in pods:
        whole = f'namespace="{pod.namespace}",pod="{pod.name}"'
        total = Amount()
        for name, record in pod.containers:
            if (amount := amounts.get(record.id)) is not None:
                total = total.plus(amount)
                labels = f'{{container="{name}",{whole}}}'
                families["container_cpu_usage_seconds_total"][2].append(f"{labels} {amount.cpu / 1e9:.9g}")
                families["container_memory_working_set_bytes"][2].append(f"{labels} {amount.memory}")
                families["container_start_time_seconds"][2].append(f"{labels} {record.started_at:.3f}")
        families["pod_cpu_usage_seconds_total"][2].append(f"{{{whole}}} {total.cpu / 1e9:.9g}")
        families["pod_memory_working_set_bytes"][2].append(f"{{{whole}}} {total.memory}")
    lines = []
    for family, (kind, text, samples) in families.items():
        lines += [f"# HELP {family} {text}", f"# TYPE {family} {kind}", *(f"{family}{sample}" for sample in samples)]
    return "\n".join(lines) + "\n"
