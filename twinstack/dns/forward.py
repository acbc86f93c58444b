"""Asking others: what our zones do not have is asked of upstream resolvers, and what they say is kept for a while.

Rule of this file: it always comes back with an answer, be it SERVFAIL, and in bounded time.

Theory. Resolvers are asked one after the other, the one that answered last first. Each question goes out from a port of its
own with a number of its own, and an answer that does not fit it is not looked at (RFC 5452), which dnspython sees to; what
does not fit into a datagram is asked again over TCP. Answers live as long as their records, negative ones as long as the
SOA in them says (RFC 2308), but no longer than the setting.

A resolver that asks us in turn would have a question go round until everybody is busy with it. So each resolver is asked for a name that
nobody else can know, at the start and from time to time; one whose question comes back to us is not asked for anything else until it does so no more.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from twinstack.dns import wire
from twinstack.dns.metrics import Metrics
from twinstack.dns.responder import Abroad, Responder
from twinstack.net.cidr import host_port
from twinstack.net.family import FAMILIES, Address, Family

log = logging.getLogger(__name__)

MOST_AT_ONCE = 1000
MOST_KEPT = 10_000
LOOP_SECONDS, LOOP_FOUND_SECONDS = 300.0, 10.0  # between two looks for circles; while there is one
_PROBE_TYPE = int(dns.rdatatype.HINFO)


class _Record(NamedTuple):
    owner: bytes
    type: int
    ttl: int
    data: bytes

    def wire(self, age: int, most: int, question: bytes) -> bytes:
        owner = wire.OWNER_IS_QUESTION if self.owner.lower() == question else self.owner
        return wire.record(owner, self.type, max(0, min(self.ttl, most) - age), self.data)


class _Reply(NamedTuple):
    """What an upstream said."""

    code: int
    answers: tuple[_Record, ...] = ()
    authority: tuple[_Record, ...] = ()
    at: float = 0.0  # by the monotonic clock

    def seconds(self, most: int) -> int:
        """How long it may be kept; 0 for what says nothing about the name."""
        if self.code not in (wire.NOERROR, wire.NXDOMAIN):
            return 0
        if self.answers:
            return min(most, *(one.ttl for one in self.answers))
        soa = next((one for one in self.authority if one.type == dns.rdatatype.SOA), None)
        return min(most, soa.ttl, int.from_bytes(soa.data[-4:], "big")) if soa else 0


class Forwarder:
    """Asks upstream resolvers; without any, answers *without_upstream* at once."""

    def __init__(
        self,
        responder: Responder,
        upstreams: Sequence[tuple[Address, int]],
        metrics: Metrics,
        *,
        seconds: float = 2.0,
        keep_seconds: int = 30,
        without_upstream: int = wire.REFUSED,
        circle_seconds: float = LOOP_FOUND_SECONDS,
        answered: Sequence[Family] = FAMILIES,
    ) -> None:
        self._responder, self._upstreams, self._metrics = responder, list(upstreams), metrics
        self._seconds, self._keep, self._without = seconds, keep_seconds, without_upstream
        self._circle_seconds = circle_seconds
        self._withheld = {wire.type_of(family.facts.dns_type) for family in FAMILIES if family not in answered}
        self._kept: OrderedDict[tuple[bytes, int, bool], _Reply] = OrderedDict()
        self._under_way = 0
        self._probes: dict[bytes, tuple[Address, int]] = {}  # names that only the resolver knows that we have just asked
        self.circles: set[tuple[Address, int]] = set()  # resolvers that ask us

    async def watch_for_circles(self) -> None:
        """Look for resolvers that ask us in turn, until cancelled."""
        while self._upstreams:
            for upstream in list(self._upstreams):
                await self._probe(upstream)
            await asyncio.sleep(self._circle_seconds if self.circles else LOOP_SECONDS)

    async def _probe(self, upstream: tuple[Address, int]) -> None:
        address, port = upstream
        name = dns.name.from_text(f"{secrets.token_hex(16)}.{secrets.token_hex(16)}.")
        target, was = name.to_wire() or b"", upstream in self.circles
        self._probes[target] = upstream
        self.circles.discard(upstream)
        try:
            await dns.asyncquery.udp(dns.message.make_query(name, dns.rdatatype.HINFO), str(address), self._seconds, port, ignore_unexpected=True)
        except Exception as error:  # whatever it says or does not say: only what comes back to us counts
            log.debug("A resolver did not answer a probe", extra={"upstream": host_port(address, port), "error": str(error)})
        finally:
            del self._probes[target]
        if upstream in self.circles and not was:
            log.error("A resolver asks us what we ask it; it is asked no more", extra={"upstream": host_port(address, port)})
        elif was and upstream not in self.circles:
            log.info("A resolver no longer asks us what we ask it", extra={"upstream": host_port(address, port)})

    def at_once(self, abroad: Abroad) -> bytes | None:
        """The answer, where nobody needs to be asked."""
        query = abroad.query
        if query.type == _PROBE_TYPE and (circle := self._probes.get(abroad.target.lower())) is not None:
            self.circles.add(circle)
            return self._responder.reply(query, wire.Answer(wire.SERVFAIL), abroad.limit, authoritative=False)
        if query.type in self._withheld:  # nobody is asked for what is not to be found
            return self._responder.reply(query, wire.Answer(wire.NOERROR, abroad.answers), abroad.limit, authoritative=bool(abroad.answers))
        if not self._upstreams:
            code = wire.NOERROR if abroad.answers else self._without
            return self._responder.reply(query, wire.Answer(code, abroad.answers), abroad.limit, authoritative=bool(abroad.answers))
        key = (abroad.target.lower(), query.type, query.dnssec_ok)
        known = self._kept.get(key)
        if known is not None:
            if time.monotonic() - known.at < known.seconds(self._keep):
                self._metrics.cache_hits += 1
                return self._tell(abroad, known)
            del self._kept[key]
        self._metrics.cache_misses += 1
        if self._under_way >= MOST_AT_ONCE:
            self._metrics.refused_over_limit += 1
            return self._responder.reply(query, wire.Answer(wire.REFUSED), abroad.limit, authoritative=False)
        return None

    async def ask(self, abroad: Abroad) -> bytes:
        """The answer that an upstream resolver gives."""
        query = abroad.query
        self._under_way += 1
        try:
            reply = await self._ask(abroad.target, query.type, query.dnssec_ok)
        finally:
            self._under_way -= 1
        if reply.seconds(self._keep) > 0:
            self._kept[abroad.target.lower(), query.type, query.dnssec_ok] = reply
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return self._tell(abroad, reply)

    def _tell(self, abroad: Abroad, reply: _Reply) -> bytes:
        age, question = int(time.monotonic() - reply.at), abroad.query.name
        most = self._keep or 0x7FFFFFFF
        sections = ([one.wire(age, most, question) for one in records] for records in (reply.answers, reply.authority))
        answers, authority = sections
        answer = wire.Answer(reply.code, (*abroad.answers, *answers), authority)
        return self._responder.reply(abroad.query, answer, abroad.limit, authoritative=bool(abroad.answers))

    async def _ask(self, target: bytes, type_: int, dnssec_ok: bool) -> _Reply:
        name = dns.name.from_wire(target, 0)[0]
        last = _Reply(wire.SERVFAIL)
        for upstream in [one for one in self._upstreams if one not in self.circles]:
            address, port = upstream
            text = host_port(address, port)
            message = dns.message.make_query(name, dns.rdatatype.RdataType.make(type_), use_edns=0, payload=1232, want_dnssec=dnssec_ok)
            self._metrics.forwarded[text] = self._metrics.forwarded.get(text, 0) + 1
            try:
                reply, _ = await dns.asyncquery.udp_with_fallback(message, str(address), self._seconds, port, ignore_unexpected=True, ignore_errors=True)
            except Exception as error:  # whatever a resolver sends, and whatever that does to a parser: the server lives on
                if not isinstance(error, (TimeoutError, dns.exception.DNSException, OSError, EOFError)):
                    log.exception("An upstream resolver's answer could not be read", extra={"upstream": text})
                self._metrics.forward_failures[text] = self._metrics.forward_failures.get(text, 0) + 1
                continue
            code = int(reply.rcode())
            if code in (wire.NOERROR, wire.NXDOMAIN):
                if self._upstreams[0] != upstream:
                    self._upstreams.remove(upstream)
                    self._upstreams.insert(0, upstream)
                return _Reply(code, _records(reply.answer), _records(reply.authority), time.monotonic())
            last = _Reply(code, at=time.monotonic())
        return last


def _records(sets: Sequence[dns.rrset.RRset]) -> tuple[_Record, ...]:
    found = []
    for one in sets:
        if one.rdclass == dns.rdataclass.IN:
            owner = one.name.to_wire()
            found += [_Record(owner or b"\0", int(one.rdtype), one.ttl, data.to_wire() or b"") for data in one]
    return tuple(found)
