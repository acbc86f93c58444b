"""Token buckets of the kernel, with tc as the second judge."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from twinstack.kernel import namespaces
from twinstack.kernel.errors import KernelError
from twinstack.kernel.shaping import Bucket, ShapingNetlink

pytestmark = pytest.mark.kernel


@pytest.fixture
def netns() -> Iterator[str]:
    path = f"/run/netns/tst-{os.getpid()}-shaping"
    namespaces.create(path)
    yield path
    namespaces.remove(path)


@pytest.mark.parametrize(
    ("bucket", "rate"),
    [
        pytest.param(Bucket(1_250_000, 200_000), "rate 10Mbit burst 200000b", id="ten megabits"),
        pytest.param(Bucket(125, 70_000), "rate 1Kbit burst", id="the least that a pod may ask for"),
        pytest.param(Bucket(12_500_000_000, 2**29 - 1), "rate 100Gbit burst", id="more than 32 bits of bytes a second"),
    ],
)
def test_a_bucket_is_what_tc_says_it_is(netns: str, bucket: Bucket, rate: str) -> None:
    with ShapingNetlink(netns) as kernel:
        kernel.add_veth("a", "b", up=True)
        kernel.add_bucket("a", Bucket(1000, 100_000))
        kernel.add_bucket("a", bucket)
        kernel.commit()
        assert (kernel.rate("a"), kernel.rate("b")) == (bucket.rate, 0)
        with namespaces.entered(netns):
            told = subprocess.run(["tc", "-r", "qdisc", "show", "dev", "a"], capture_output=True, text=True, check=True).stdout
        assert "qdisc tbf 1:" in told and rate in " ".join(told.split()).replace("/1 ", " "), told
        kernel.remove_bucket("a")
        kernel.commit()
        assert kernel.rate("a") == 0


def test_a_link_that_is_not_there_cannot_be_shaped(netns: str) -> None:
    with ShapingNetlink(netns) as kernel, pytest.raises(KernelError) as caught:
        kernel.add_bucket("nowhere", Bucket(1000, 100_000))
        kernel.commit()
    assert caught.value.missing
