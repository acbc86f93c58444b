"""The proxy's metrics, under upstream's names, each with the label ``ip_family``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SYNC_BUCKETS = tuple(0.001 * 2**power for power in range(15))
_PROGRAMMING_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 121, 5), *range(150, 301, 30))
_FAMILY = ("ip_family",)


class Metrics:
    """What is counted; one value for all families."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, text: str) -> Histogram:
            return Histogram(f"kubeproxy_{name}_seconds", text, _FAMILY, buckets=_SYNC_BUCKETS, registry=registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = _FAMILY) -> Gauge:
            return Gauge(f"kubeproxy_{name}", text, labels, registry=registry)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"kubeproxy_{name}", text, _FAMILY, registry=registry)

        self.sync = seconds("sync_proxy_rules_duration", "How long it took to bring the kernel up to date.")
        self.sync_full = seconds("sync_full_proxy_rules_duration", "The same, when the whole table was written.")
        self.sync_partial = seconds("sync_partial_proxy_rules_duration", "The same, when only differences were.")
        self.programming = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "From the change of a pod or Service to the kernel.",
            _FAMILY,
            buckets=_PROGRAMMING_BUCKETS,
            registry=registry,
        )
        self.last_sync = gauge("sync_proxy_rules_last_timestamp_seconds", "When the kernel was last brought up to date.")
        self.last_queued = gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a change last came in.")
        self.endpoint_changes = counter("sync_proxy_rules_endpoint_changes_total", "Changes of endpoints that came in.")
        self.service_changes = counter("sync_proxy_rules_service_changes_total", "Changes of Services that came in.")
        self.service_pending = gauge("sync_proxy_rules_service_changes_pending", "Changes of Services that no sync has taken up yet.")
        self.endpoint_pending = gauge("sync_proxy_rules_endpoint_changes_pending", "Changes of endpoints that no sync has taken up yet.")
        self.failures = counter("sync_proxy_rules_nftables_sync_failures_total", "Transactions that the kernel refused; the whole table was written then.")
        self.cleanup_failures = counter("sync_proxy_rules_nftables_cleanup_failures_total", "Removals of stale objects that the kernel refused.")
        self.no_local_endpoints = gauge(
            "sync_proxy_rules_no_local_endpoints_total", "Service ports with a Local policy and no local endpoint.", ("traffic_policy", *_FAMILY)
        )
        self.conntrack_failures = counter("conntrack_reconciler_failures_total", "Removals of stale UDP and SCTP flows that failed.")
        self.conntrack_sync = seconds("conntrack_reconciler_sync_duration", "How long it took to find and remove stale UDP and SCTP flows.")
        self.conntrack_deleted = counter("conntrack_reconciler_deleted_entries_total", "Stale UDP and SCTP flows that were removed.")
        self.healthz, self.livez = (
            Counter(f"kubeproxy_proxy_{name}_total", f"Answers to /{name}, by HTTP status.", ("code",), registry=registry) for name in ("healthz", "livez")
        )
        for answers in (self.healthz, self.livez):
            for code in ("200", "503"):
                answers.labels(code)
