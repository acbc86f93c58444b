"""What the DNS server counts, under CoreDNS' names.

Rule of this file: counting a query costs a fraction of a microsecond, so numbers are kept in plain dictionaries and lists and
become metrics when somebody reads them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterator

import dns.rcode
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from twinstack import __version__
from twinstack.dns import wire
from twinstack.net.family import FAMILIES, Family

SECONDS = tuple(0.00025 * 2**i for i in range(16))
BYTES = (0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8191.0, 16000.0, 32000.0, 48000.0, 64000.0)
_OTHERS = ("SRV", "PTR", "CNAME", "NS", "SOA", "TXT", "MX", "ANY", "DS", "DNSKEY", "HTTPS")
_KNOWN = {wire.type_of(name) for name in (*(family.facts.dns_type for family in FAMILIES), *_OTHERS)}


class _Histogram:
    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        return list(zip([*map(str, self.bounds), "+Inf"], itertools.accumulate(self.counts), strict=True))


class Metrics(Collector):
    """The figures of one server."""

    def __init__(self, registry: CollectorRegistry, server: str) -> None:
        self._server = server
        self._requests: dict[tuple[str, int, int], int] = {}
        self._responses: dict[int, int] = {}
        self._seconds = _Histogram(SECONDS)
        self._request_bytes = {protocol: _Histogram(BYTES) for protocol in ("udp", "tcp")}
        self._response_bytes = {protocol: _Histogram(BYTES) for protocol in ("udp", "tcp")}
        self.forwarded: dict[str, int] = {}  # by upstream
        self.forward_failures: dict[str, int] = {}
        self.cache_hits = self.cache_misses = 0
        self.refused_over_limit = 0
        self.programmed = 0.0  # when the last change of an object was taken in, seconds since 1970
        registry.register(self)

    def count(self, protocol: str, family: Family, query: bytes, reply: bytes, seconds: float) -> None:
        """A query that was answered."""
        end = query.find(0, wire.QUESTION_AT) + 1
        key = (protocol, family.facts.version, int.from_bytes(query[end : end + 2], "big"))
        try:
            self._requests[key] += 1
        except KeyError:
            if key[2] not in _KNOWN:  # the types that are counted by name are few, whatever is asked
                key = (*key[:2], -1)
            self._requests[key] = self._requests.get(key, 0) + 1
        code = reply[3] & 0xF
        self._responses[code] = self._responses.get(code, 0) + 1
        self._seconds.add(seconds)
        self._request_bytes[protocol].add(len(query))
        self._response_bytes[protocol].add(len(reply))

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """The figures of now."""
        place, values = ["server", "zone", "view"], [self._server, ".", ""]
        built = GaugeMetricFamily("coredns_build_info", "The version of this program.", labels=["version"])
        built.add_metric([f"twinstack-{__version__}"], 1)
        yield built
        requests = CounterMetricFamily("coredns_dns_requests", "Queries.", labels=[*place, "proto", "family", "type"])
        for (protocol, version, number), count in list(self._requests.items()):
            family = next(str(i + 1) for i, one in enumerate(FAMILIES) if one.facts.version == version)
            requests.add_metric([*values, protocol, family, wire.type_text(number) if number >= 0 else "other"], count)
        yield requests
        responses = CounterMetricFamily("coredns_dns_responses", "Answers by their code.", labels=[*place, "rcode", "plugin"])
        for code, count in list(self._responses.items()):
            responses.add_metric([*values, dns.rcode.to_text(dns.rcode.Rcode(code)), "kubernetes"], count)
        yield responses
        seconds = HistogramMetricFamily("coredns_dns_request_duration_seconds", "How long a query took.", labels=place)
        seconds.add_metric(values, self._seconds.buckets(), self._seconds.sum)
        yield seconds
        for name, text, of in (("request", "A query's bytes.", self._request_bytes), ("response", "An answer's bytes.", self._response_bytes)):
            sizes = HistogramMetricFamily(f"coredns_dns_{name}_size_bytes", text, labels=[*place, "proto"])
            for protocol, histogram in of.items():
                sizes.add_metric([*values, protocol], histogram.buckets(), histogram.sum)
            yield sizes
        for name, text, by in (
            ("coredns_forward_requests", "Queries asked of an upstream resolver.", self.forwarded),
            ("coredns_forward_failures", "Queries that an upstream resolver did not answer.", self.forward_failures),
        ):
            asked = CounterMetricFamily(name, text, labels=["to"])
            for upstream, count in list(by.items()):
                asked.add_metric([upstream], count)
            yield asked
        yield CounterMetricFamily("coredns_forward_max_concurrent_rejects", "Queries refused because too many were under way.", self.refused_over_limit)
        for name, text, count in (
            ("coredns_cache_hits", "Answers of upstream resolvers that were still known.", self.cache_hits),
            ("coredns_cache_misses", "Those that were not.", self.cache_misses),
        ):
            cached = CounterMetricFamily(name, text, labels=["server"])
            cached.add_metric([self._server], count)
            yield cached
        yield GaugeMetricFamily("coredns_kubernetes_last_programmed_timestamp_seconds", "When the last change of an object was taken in.", self.programmed)
