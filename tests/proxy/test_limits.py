"""What the proxy sets of connection tracking: the kernel is asked and written in a namespace of the test's own."""

from __future__ import annotations

import pytest

from twinstack.kernel import namespaces
from twinstack.proxy import limits
from twinstack.proxy.settings import OF_THE_NODE, Settings

MAX, BUCKETS = "net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_buckets"


@pytest.mark.parametrize("per_core, least, cpus, limit", [
    pytest.param(0, 131072, 8, 0, id="zero leaves it alone"),
    pytest.param(32768, 131072, 2, 131072, id="the least counts for a small node"),
    pytest.param(32768, 131072, 8, 262144, id="each processor counts"),
    pytest.param(32768, 131072, 64, 1048576, id="the most counts for a large node"),
    pytest.param(1048577, 2097152, 1, 1048576, id="above the most, the least does not count"),
    pytest.param(1048576, 2097152, 1, 2097152, id="at the most, it does"),
])  # fmt: skip
def test_the_limit(per_core, least, cpus, limit):
    assert limits.conntrack_max(Settings(conntrack_max_per_core=per_core, conntrack_min=least), cpus) == limit


@pytest.mark.parametrize("now, written", [
    pytest.param((131072, 131072), [], id="what is right stays"),
    pytest.param((262144, 262144), [(MAX, 131072)], id="a limit may shrink, its table not"),
    pytest.param((65536, 1024), [(MAX, 131072), (BUCKETS, 32768)], id="a table that is too small grows"),
])  # fmt: skip
def test_what_is_written(now, written):
    settings = Settings(**{**OF_THE_NODE, "conntrack_tcp_timeout_established_seconds": 0, "conntrack_tcp_timeout_close_wait_seconds": 0})
    assert list(limits.wanted_sysctls(settings, cpus=1, read=dict(zip((MAX, BUCKETS), now, strict=True)).__getitem__)) == written


def test_settings_without_limits_ask_and_write_nothing():
    assert list(limits.wanted_sysctls(Settings(), cpus=4, read={}.__getitem__)) == []


@pytest.mark.kernel
def test_timeouts_are_set_and_a_limit_that_cannot_be_is_refused(lab):
    with namespaces.entered(lab.paths["b"]):
        limits.apply(Settings(conntrack_udp_timeout_seconds=17.0, conntrack_tcp_timeout_established_seconds=3600.0, conntrack_tcp_be_liberal=True))
        names = ("udp_timeout", "tcp_timeout_established", "tcp_be_liberal")
        assert [namespaces.read_sysctl(f"net/netfilter/nf_conntrack_{name}") for name in names] == ["17", "3600", "1"]
        with pytest.raises(limits.LimitsError, match="--conntrack-max-per-core=0"):
            limits.apply(Settings(conntrack_max_per_core=12345))
