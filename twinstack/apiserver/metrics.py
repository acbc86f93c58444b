"""What the server counts of itself, under upstream's names; a scrape reads it, a request only adds.

Counting stands in the way of every request, so it is two additions in a row found by one look-up; the Prometheus
library sees the rows only when it is scraped.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from twinstack.apiserver.cache import Cache
from twinstack.apiserver.requests import Request

BUCKETS: Final = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0)
_LABELS: Final = ("verb", "group", "version", "resource", "subresource", "scope", "component")
_VERBS: Final = {"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
_OTHER: Final = ("other", "", "", "", "", "", "apiserver")


class _Row:
    __slots__ = ("buckets", "codes", "seconds")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0


class RequestMetrics(Collector):
    """Counts requests; reads the cache's sizes when scraped."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._rows: dict[tuple[str, ...], _Row] = {}
        self._keys: dict[tuple[object, ...], tuple[str, ...]] = {}
        self.long_running = 0

    def observe(self, request: Request | None, code: int, seconds: float) -> None:
        """Count one request that is over."""
        labels = _OTHER if request is None else self._labels(request)
        row = self._rows.get(labels)
        if row is None:
            row = self._rows[labels] = _Row()
        row.codes[code] = row.codes.get(code, 0) + 1
        row.buckets[bisect_left(BUCKETS, seconds)] += 1
        row.seconds += seconds

    def _labels(self, request: Request) -> tuple[str, ...]:
        resource = request.resource
        key = (request.verb, id(resource), request.sub, bool(request.name), bool(request.namespace))
        labels = self._keys.get(key)
        if labels is None:
            connects = request.subresource is not None and request.subresource.stream
            verb = "CONNECT" if connects else _VERBS.get(request.verb, request.verb.upper())
            labels = (verb, resource.group, resource.version, resource.plural, request.sub, request.scope, "apiserver")
            self._keys[key] = labels
        return labels

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        total = CounterMetricFamily("apiserver_request", "Requests by verb, resource and HTTP code.", labels=(*_LABELS, "code"))
        duration = HistogramMetricFamily("apiserver_request_duration_seconds", "How long requests took.", labels=_LABELS)
        for labels, row in self._rows.items():
            for code, count in sorted(row.codes.items()):
                total.add_metric((*labels, str(code)), count)
            running, buckets = 0, []
            for bound, count in zip((*BUCKETS, float("inf")), row.buckets, strict=True):
                running += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), float(running)))
            duration.add_metric(labels, buckets, row.seconds)
        yield total
        yield duration
        objects_ = GaugeMetricFamily("apiserver_storage_objects", "Stored objects by resource.", labels=("resource",))
        watchers = GaugeMetricFamily("apiserver_registered_watchers", "Open watches by kind.", labels=("group", "version", "kind"))
        cuts = CounterMetricFamily("apiserver_terminated_watchers", "Watches cut off because their client was too slow.", labels=("resource",))
        history = GaugeMetricFamily("twinstack_apiserver_watch_history_events", "Changes kept for watches that come late.", labels=("resource",))
        for resource, collection in self._cache.collections.items():
            objects_.add_metric((resource.qualified,), len(collection.items))
            watchers.add_metric((resource.group, resource.version, resource.kind), collection.broadcast.watchers)
            cuts.add_metric((resource.qualified,), collection.broadcast.cuts)
            history.add_metric((resource.qualified,), len(collection.broadcast))
        yield from (objects_, watchers, cuts, history)
        yield GaugeMetricFamily("apiserver_longrunning_requests", "Watches, followed logs and streams under way.", value=self.long_running)
        yield GaugeMetricFamily("twinstack_apiserver_store_revision", "The newest durable revision.", value=self._cache.revision)
