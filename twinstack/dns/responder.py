"""From a message's bytes to the answer's bytes.

Rule of this file: any bytes give an answer, silence, or a question that somebody else must be asked; never an error.

Theory. Nearly every query asks for something that was asked for before, in the same form: one question, perhaps an OPT record.
For these the answer lies ready at its name, and only the number, the flags and the question as it was spelled are put
before it. Whatever is unusual about a query sends it the long way, with the same result.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

from twinstack.dns import wire
from twinstack.dns.zone import Elsewhere, Zone

_OPT_HEAD = b"\0\0\x29"
_PLAIN, _WITH_OPT = b"\0\1\0\0\0\0\0\0", b"\0\1\0\0\0\0\0\1"  # counts: a question, and nothing or one additional record


class Abroad(NamedTuple):
    """A query that our zones do not answer, or not wholly: ``target`` is to be asked for, ``answers`` are what leads there."""

    query: wire.Query
    target: bytes
    answers: tuple[bytes, ...] = ()
    limit: int = 0  # of the answer, in bytes


class Responder:
    """Answers queries from a zone."""

    def __init__(self, zone: Zone, *, udp_bytes: int = 1232, recursion: bool = False, serves: Callable[[], bool] = lambda: True) -> None:
        self._zone, self._nodes = zone, zone.nodes
        self._udp_bytes, self._recursion, self._serves = udp_bytes, recursion, serves
        self._second = 0x80 if recursion else 0
        self._opts = {flags: wire.opt(udp_bytes, dnssec_ok=bool(flags)) for flags in (0, 0x8000)}

    def answer(self, data: bytes, *, stream: bool = False) -> bytes | Abroad | None:
        """The answer; None for silence. Over a *stream* nothing is truncated."""
        end = data.find(0, wire.QUESTION_AT) + 1  # a label that holds a zero byte misleads only to the long way
        node = self._nodes.get(data[wire.QUESTION_AT : end].lower())
        if node is not None and not data[2] & 0xFE:
            answer, after = node.answers.get(data[end : end + 4]), end + 4
            if answer is not None and not answer.code:
                counts = data[4:12]
                if counts == _PLAIN and len(data) == after:
                    limit, opt, sections = wire.PLAIN_UDP_BYTES, b"", answer.counts
                elif counts == _WITH_OPT and data[after : after + 3] == _OPT_HEAD and len(data) >= after + 11 and not data[after + 6]:
                    if len(data) != after + 11 + (data[after + 9] << 8) + data[after + 10]:
                        return self._long(data, stream)
                    limit = min(max((data[after + 3] << 8) + data[after + 4], wire.PLAIN_UDP_BYTES), self._udp_bytes)
                    opt, sections = self._opts[(data[after + 7] & 0x80) << 8], answer.counts_with_opt
                else:
                    return self._long(data, stream)
                if stream:
                    limit = wire.STREAM_BYTES
                if after + len(answer.whole) + len(opt) > limit:
                    return self._long(data, stream)
                flags = bytes((0x84 | data[2], self._second | (data[3] & 0x10)))
                return b"".join((data[:2], flags, b"\0\1", sections, data[wire.QUESTION_AT : after], answer.body(), opt))
        return self._long(data, stream)

    def _long(self, data: bytes, stream: bool) -> bytes | Abroad | None:
        query = wire.read(data)
        if query is None:
            return None
        if isinstance(query, wire.Refusal):
            head = wire.head_of(query.head, code=query.code, authoritative=False, recursion=self._recursion)
            return head + (b"\0\1" if query.question else b"\0\0") + bytes(6) + query.question
        limit = wire.STREAM_BYTES if stream else min(query.limit, max(self._udp_bytes, wire.PLAIN_UDP_BYTES))
        if query.version:
            return self.reply(query, wire.Answer(wire.BADVERS), limit, authoritative=False)
        if query.klass != wire.IN:
            return self.reply(query, wire.Answer(wire.REFUSED), limit, authoritative=False)
        if not self._serves() and self._zone.apex_of(query.name) is not None:
            return self.reply(query, wire.Answer(wire.SERVFAIL), limit, authoritative=False)
        found = self._zone.look(query.name, query.type)
        match found:
            case None:
                return Abroad(query, query.question[:-4], (), limit)
            case Elsewhere(answers, target):
                return Abroad(query, target, answers, limit)
            case _:
                return self.reply(query, found, limit)

    def reply(self, query: wire.Query, answer: wire.Answer, limit: int, *, authoritative: bool = True) -> bytes:
        """The message that tells an answer, in at most *limit* bytes.

        What does not fit is left out, whole records only: additional ones silently (RFC 2181 9), others with the mark that the
        answer is truncated.
        """
        opt = b""
        if query.edns >= 0:
            opt = wire.opt(self._udp_bytes, dnssec_ok=query.dnssec_ok, extended=answer.code >> 4)
        room = limit - wire.QUESTION_AT - len(query.question) - len(opt)
        truncated = False
        if len(answer.whole) <= room:
            body, counts = answer.body(), answer.counts_with_opt if opt else answer.counts
        else:
            kept, fits = _fitting(itertools.chain(answer.turned(), answer.authority), room)
            truncated = not fits
            extra, _ = _fitting(answer.additional, room - sum(map(len, kept))) if fits else ([], True)
            counts = struct.pack("!HHH", min(len(kept), len(answer.answers)), max(0, len(kept) - len(answer.answers)), len(extra) + bool(opt))
            body = b"".join((*kept, *extra))
        head = wire.head_of(query.head, code=answer.code, authoritative=authoritative, recursion=self._recursion, truncated=truncated)
        return b"".join((head, b"\0\1", counts, query.question, body, opt))


def _fitting(records: Iterable[bytes], room: int) -> tuple[list[bytes], bool]:
    """The first records that fit, and whether all do."""
    kept: list[bytes] = []
    for one in records:
        room -= len(one)
        if room < 0:
            return kept, False
        kept.append(one)
    return kept, True
