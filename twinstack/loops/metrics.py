"""Metrics of what is the same in every program, under the names that Kubernetes' own programs give them.

Each program makes a registry of its own and hands it to what counts: several programs may share a process.
"""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from twinstack import __version__

_SECONDS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)


def new_registry(*, process: bool = True) -> CollectorRegistry:
    """A registry with what every program tells about itself: its version and, unless it shares the process, the process's figures."""
    registry = CollectorRegistry()
    if process:
        prometheus_client.ProcessCollector(registry=registry)
    built = Gauge("kubernetes_build_info", "The version of this program.", ["git_version", "platform"], registry=registry)
    built.labels(f"twinstack-{__version__}", "linux").set(1)
    return registry


class QueueMetrics:
    """The figures of work queues; one value of ``name`` for each queue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        label = ["name"]
        self.depth = Gauge("workqueue_depth", "How many keys wait.", label, registry=registry)
        self.adds = Counter("workqueue_adds", "How many keys were added.", label, registry=registry)
        self.retries = Counter("workqueue_retries", "How many keys were added again after a failure.", label, registry=registry)
        self.waited = Histogram("workqueue_queue_duration_seconds", "How long a key waited.", label, buckets=_SECONDS, registry=registry)
        self.worked = Histogram("workqueue_work_duration_seconds", "How long a key was worked on.", label, buckets=_SECONDS, registry=registry)
        self.unfinished = Gauge("workqueue_unfinished_work_seconds", "How long the keys now worked on have been so, together.", label, registry=registry)
        self.longest = Gauge("workqueue_longest_running_processor_seconds", "How long the oldest of them has.", label, registry=registry)


class LeaderMetrics:
    """Whether this instance leads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.leading = Gauge("leader_election_master_status", "1 while this instance leads.", ["name"], registry=registry)
