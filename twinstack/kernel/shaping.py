"""How fast a link may send: a token bucket (``tbf``) as its root queue.

Rule of this file: the part of rtnetlink that only shaping needs, beside ``kernel.tunnels``.

Facts: include/uapi/linux/pkt_sched.h (TCA_TBF_*). A rate is told in bytes a second. A bucket lets a burst of so many bytes pass at once;
what comes faster than the rate waits, up to ``limit`` bytes, and what comes then is dropped.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from twinstack.kernel import rtnetlink as rt
from twinstack.kernel.tunnels import TunnelNetlink

NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
_ROOT = 0xFFFFFFFF
_KIND, _OPTIONS = 1, 2
_PARAMETERS, _RATE_64, _BURST = 1, 4, 6
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: no table of times is needed
_HANDLE = 1 << 16  # 1:
_LATENCY_SECONDS = 0.025  # how long what is above the rate may wait
_MOST = 0xFFFFFFFF


class Bucket(NamedTuple):
    """A token bucket: bytes a second, and bytes at once."""

    rate: int
    burst: int

    @property
    def limit(self) -> int:
        """How many bytes may wait."""
        return min(_MOST, self.burst + int(self.rate * _LATENCY_SECONDS))


class ShapingNetlink(TunnelNetlink):
    """Netlink that knows token buckets, too."""

    def add_bucket(self, link: str, bucket: Bucket) -> None:
        """Let a link send through a bucket, in the place of an earlier one."""
        rate = struct.pack("=BBHhHI", 0, _ETHERNET, 0, -1, 0, min(bucket.rate, _MOST))
        # struct tc_tbf_qopt: rate, no peak rate, limit, buffer (told as bytes below), MTU (of the peak rate)
        parameters = rate + bytes(12) + struct.pack("=III", bucket.limit, 0, 0)
        options = rt.attribute(_PARAMETERS, parameters) + rt.u32(_BURST, min(bucket.burst, _MOST))
        if bucket.rate > _MOST:
            options += rt.attribute(_RATE_64, struct.pack("=Q", bucket.rate))
        body = struct.pack("=BxHiIII", 0, 0, self.number(link), _HANDLE, _ROOT, 0) + rt.text(_KIND, "tbf") + rt.attribute(_OPTIONS, options)
        self._ask(NEWQDISC, rt.CREATE | rt.REPLACE, body, f"shape {link} rate {bucket.rate} burst {bucket.burst}")

    def remove_bucket(self, link: str) -> None:
        """Let a link send as fast as it can."""
        body = struct.pack("=BxHiIII", 0, 0, self.number(link), 0, _ROOT, 0)
        self._ask(DELQDISC, 0, body, f"unshape {link}", {errno.ENOENT})

    def rate(self, link: str) -> int:
        """The bytes a second that a link's bucket lets pass; 0 when it has none."""
        number = self.number(link)
        for body in self._dump(GETQDISC, struct.pack("=BxHiIII", 0, 0, 0, 0, 0, 0)):
            _, _, index, _, parent, _ = struct.unpack_from("=BxHiIII", body)
            found = dict(rt.attributes(body, 20))
            if index == number and parent == _ROOT and found.get(_KIND) == b"tbf\0":
                options = dict(rt.attributes(found[_OPTIONS]))
                if _RATE_64 in options:
                    return int.from_bytes(options[_RATE_64], "little")
                return int(struct.unpack_from("=I", options[_PARAMETERS], 8)[0])
        return 0
