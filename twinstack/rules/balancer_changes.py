"""What changed of a Service that its load balancer has to follow, as Kubernetes' service controller tells it.

Rule of this file: two states in, reasons and words of events out. The reasons are upstream's; a difference that is told under none is
followed without a word, as upstream does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twinstack.api.kinds import Service
from twinstack.rules.loadbalancers import is_ours


def changes(before: Service, after: Service) -> Iterator[tuple[str, str]]:
    """The reason and the message of each difference that matters; none of a Service that was not ours and is not."""
    was, now = is_ours(before), is_ours(after)
    old, new = before.spec, after.spec
    if before.metadata.uid != after.metadata.uid:
        if was and now:
            yield "UID", f"{before.metadata.uid} -> {after.metadata.uid}"
        return
    if was != now:
        if old.type != new.type:
            yield "Type", f"{old.type} -> {new.type}"
        return
    if not now:
        return
    if old.loadBalancerSourceRanges != new.loadBalancerSourceRanges:
        yield "LoadBalancerSourceRanges", f"{_list(old.loadBalancerSourceRanges)} -> {_list(new.loadBalancerSourceRanges)}"
    if old.loadBalancerIP != new.loadBalancerIP:
        yield "LoadbalancerIP", f"{old.loadBalancerIP or 'none'} -> {new.loadBalancerIP or 'none'}"
    if old.externalIPs != new.externalIPs:
        yield "ExternalIP", f"{_list(old.externalIPs)} -> {_list(new.externalIPs)}"
    if old.externalTrafficPolicy != new.externalTrafficPolicy:
        yield "ExternalTrafficPolicy", f"{old.externalTrafficPolicy} -> {new.externalTrafficPolicy}"
    if old.healthCheckNodePort != new.healthCheckNodePort:
        yield "HealthCheckNodePort", f"{old.healthCheckNodePort or 0} -> {new.healthCheckNodePort or 0}"


def _list(texts: Sequence[str] | None) -> str:
    return f"[{', '.join(texts or ())}]"
