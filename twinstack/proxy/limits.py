"""What the proxy sets of its node's connection tracking, and of its own standing when memory runs out (``--conntrack-*``).

Theory. A node that serves Services tracks every connection, so the kernel's own limit may be too small. The limit is
so much for each processor; a product above 1,048,576 is exactly that, and one below ``--conntrack-min`` is the
latter. Zero leaves a value alone. The hash table has a quarter of the limit at least. In a network namespace
other than the first the limit cannot be written; a program there must be told zero.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError, translated
from twinstack.net.errors import Error
from twinstack.proxy.settings import Settings

MOST = 1 << 20
_AT = "net/netfilter/nf_conntrack_"


class LimitsError(Error):
    """The node does not let its connection tracking be set as asked."""


def conntrack_max(settings: Settings, cpus: int) -> int:
    """The limit of tracked connections; 0 to leave it alone."""
    product = settings.conntrack_max_per_core * cpus
    if product <= 0:
        return 0
    return MOST if product > MOST else max(product, settings.conntrack_min)


def wanted_sysctls(settings: Settings, *, cpus: int, read: Callable[[str], int]) -> Iterator[tuple[str, int]]:
    """What is to be written, in order: (key, value). *read* gives a present value, and is asked only where it matters."""
    limit = conntrack_max(settings, cpus)
    if limit:
        if read(f"{_AT}max") != limit:
            yield f"{_AT}max", limit
        if read(f"{_AT}buckets") < limit // 4:
            yield f"{_AT}buckets", limit // 4
    for name, seconds in (
        ("tcp_timeout_established", settings.conntrack_tcp_timeout_established_seconds),
        ("tcp_timeout_close_wait", settings.conntrack_tcp_timeout_close_wait_seconds),
        ("udp_timeout", settings.conntrack_udp_timeout_seconds),
        ("udp_timeout_stream", settings.conntrack_udp_timeout_stream_seconds),
    ):
        if seconds >= 1:
            yield f"{_AT}{name}", int(seconds)
    if settings.conntrack_tcp_be_liberal:
        yield f"{_AT}tcp_be_liberal", 1


def apply(settings: Settings) -> None:
    """Set this network namespace's connection tracking; LimitsError when the kernel refuses."""
    cpus = len(os.sched_getaffinity(0))
    try:
        for key, value in wanted_sysctls(settings, cpus=cpus, read=lambda key: int(namespaces.read_sysctl(key))):
            namespaces.write_sysctl(key, str(value))
    except KernelError as error:
        raise LimitsError(f"{error}; --conntrack-max-per-core=0 and timeouts of 0 leave the kernel's values alone") from error


def set_oom_score(score: int) -> None:
    """Say how soon the kernel may end this process when memory runs out, -1000 (never) to 1000; KernelError when it refuses."""
    with translated(f"set oom_score_adj to {score}"):
        Path("/proc/self/oom_score_adj").write_text(str(score), encoding="ascii")
