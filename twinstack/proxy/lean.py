"""What the proxy keeps of each Service and EndpointSlice: what it looks at, and equal things once.

Theory. A cluster's slices repeat themselves: ports, conditions and node names are the same in thousands of them, and
what people read about an endpoint (its pod, its owner) no packet asks for. Without all that, 10,000 Services of three
endpoints in each family need a third of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from twinstack.api import kinds
from twinstack.api.objects import encode
from twinstack.proxy.services import DATED, PROXY_NAME, SERVICE_NAME, PackedSlice, pack
from twinstack.proxy.windows import PRESERVE_DESTINATION

_MOST_SHARED = 10_000  # different things remembered at most; then it begins anew


class Lean:
    """Makes lean copies; those of one value share their parts."""

    def __init__(self) -> None:
        self._shared: dict[Any, Any] = {}
        self._nothing: list[Any] = []  # a list of its own costs each object 72 bytes

    def service(self, one: kinds.Service) -> kinds.Service:
        """The Service without its selector, history and notes."""
        ips = one.spec.clusterIPs
        spec = replace(
            one.spec,
            selector=None,
            clusterIP=ips[0] if ips[:1] == [one.spec.clusterIP] else one.spec.clusterIP,
            ports=self._list(one.spec.ports),
            ipFamilies=self._list(one.spec.ipFamilies),
            externalIPs=one.spec.externalIPs or self._nothing,
            loadBalancerSourceRanges=one.spec.loadBalancerSourceRanges or self._nothing,
            externalTrafficPolicy=self._once(one.spec.externalTrafficPolicy),
            type=self._once(one.spec.type),
        )
        metadata = self._metadata(one, uid=one.metadata.uid, labels=_only(one.metadata.labels, PROXY_NAME))
        return replace(one, apiVersion="", kind="", metadata=metadata, spec=spec, status=self._once(one.status))

    def slice(self, one: kinds.EndpointSlice) -> kinds.EndpointSlice:
        """The slice without what its endpoints are of."""
        return PackedSlice(
            metadata=self._metadata(one, labels=None),
            service=(one.metadata.labels or {}).get(SERVICE_NAME, ""),
            addressType=self._once(one.addressType),
            ports=self._list(one.ports),
            packed=pack(one),
        )

    def _metadata(self, one: kinds.Service | kinds.EndpointSlice, *, labels: dict[str, str] | None, uid: str = "") -> kinds.ObjectMeta:
        metadata = one.metadata
        return kinds.ObjectMeta(
            name=metadata.name,
            namespace=self._once(metadata.namespace),
            uid=uid,
            resourceVersion=metadata.resourceVersion,
            labels=labels,
            annotations=_only(metadata.annotations, DATED, PRESERVE_DESTINATION),
            ownerReferences=self._nothing,
            finalizers=self._nothing,
        )

    def _list(self, values: list[Any] | None) -> list[Any] | None:
        """The same list for equal ones, of shared values. Views are never changed, so nobody can tell."""
        return None if values is None else self._once([self._once(value) for value in values])

    def _once(self, value: Any) -> Any:
        """The first value that was equal to this one."""
        if value is None:
            return None
        if len(self._shared) > _MOST_SHARED:
            self._shared.clear()
        key: Any = (type(value), tuple(value) if isinstance(value, list) else value)
        try:
            return self._shared.setdefault(key, value)
        except TypeError:  # it holds lists
            return self._shared.setdefault((type(value), encode(value)), value)


def _only(given: Mapping[str, str] | None, *names: str) -> dict[str, str] | None:
    """What is left of labels or annotations; None instead of nothing."""
    return {name: given[name] for name in names if name in given} or None if given else None
