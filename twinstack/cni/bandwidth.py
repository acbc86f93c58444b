"""How fast a container may receive and send (the capability ``bandwidth``).

Rule of this file: two token buckets, one on each end of the pod's link, and nothing to be taken back: they go with the link.

Theory. A link can be slowed only where it sends. What the container receives is sent by the node's end, what it sends by
its own; so each end has a bucket, and no further device is needed, as the ``bandwidth`` plugin has to make one that knows the
node's end alone. A container that may administer its network (CAP_NET_ADMIN) can take its own end's bucket away.
"""

from __future__ import annotations

from twinstack.api import cni
from twinstack.api.cni import Bandwidth, CNIError
from twinstack.kernel.shaping import Bucket, ShapingNetlink

_LEAST_BURST = 65536 + 4096  # bytes: a bucket smaller than the largest segment of a link would drop it


def _buckets(wanted: Bandwidth) -> tuple[Bucket | None, Bucket | None]:
    """The buckets of the node's end and of the container's, in bytes where the words are bits."""
    pairs = ((wanted.ingress_rate, wanted.ingress_burst), (wanted.egress_rate, wanted.egress_burst))
    node, pod = (Bucket(max(1, rate // 8), max(_LEAST_BURST, burst // 8)) if rate else None for rate, burst in pairs)
    return node, pod


def shape(wanted: Bandwidth, netns: int, interface: str, host_link: str) -> None:
    """Let both ends of a container's link send no faster than is wanted."""
    with ShapingNetlink() as node, ShapingNetlink(netns) as pod:
        for kernel, link, bucket in zip((node, pod), (host_link, interface), _buckets(wanted), strict=True):
            if bucket is not None:
                kernel.add_bucket(link, bucket)
                kernel.commit()


def check(wanted: Bandwidth, netns: int, interface: str, host_link: str) -> None:
    """CNIError 101 when an end of the link is not held to what is wanted."""
    with ShapingNetlink() as node, ShapingNetlink(netns) as pod:
        for kernel, link, bucket in zip((node, pod), (host_link, interface), _buckets(wanted), strict=True):
            rate = bucket.rate if bucket is not None else 0
            if (found := kernel.rate(link)) != rate:
                raise CNIError(cni.NOT_AS_TOLD, f"{link} sends {found} bytes a second instead of {rate}", "0 is as fast as it can")
