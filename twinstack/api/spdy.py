"""The part of SPDY/3.1 that a forwarded port needs: frames in and out of bytes, as a server sees them.

A control frame is ``1 version:15 type:16 flags:8 length:24`` and its fields, a data frame ``0 stream:31 flags:8 length:24`` and its
data. Headers are name and value pairs behind 32-bit lengths, compressed with zlib and a dictionary; one compressor and one
decompressor live as long as the connection. There is no flow control: clients that forward ports (moby's spdystream) have none.
Source: the SPDY/3.1 draft, sections 2.2, 2.6 and 2.6.10. Pure; frames that are not needed are skipped.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from twinstack.net.errors import Error

VERSION: Final = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FIN: Final = 1
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 3, 5
LONGEST_CONTROL: Final = 64 << 10
LONGEST_DATA: Final = 16 << 20  # what the 24 bits of a length can say
_LONGEST_HEADERS: Final = 64 << 10

# what a compressor knows before the first byte: these words behind their lengths, then the text after them
_WORDS: Final = """options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|authorization
cache-control|connection|content-base|content-encoding|content-language|content-length|content-location|content-md5|content-range|content-type|date|etag
expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma
proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|user-agent|vary|via|warning
www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|keep-alive|origin""".replace("\n", "|").split("|")
_TEXT: Final = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content"
    "301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,public"
    "privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY: Final = b"".join(len(word).to_bytes(4, "big") + word.encode() for word in _WORDS) + _TEXT.encode()


class SPDYError(Error):
    """The other side does not speak SPDY/3.1."""


class Open(NamedTuple):
    """A stream that the client opens."""

    stream: int
    headers: Mapping[str, str]
    fin: bool


class Data(NamedTuple):
    """Data on a stream; *fin* when it is the last."""

    stream: int
    data: bytes
    fin: bool


class Reset(NamedTuple):
    """A stream that the client gives up."""

    stream: int


class Ping(NamedTuple):
    """A question to be answered with the same number."""

    number: int


class GoAway(NamedTuple):
    """The client opens no more streams."""


Frame = Open | Data | Reset | Ping | GoAway


class Reader:
    """Takes bytes as they come and gives the frames in them."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole by now; SPDYError when the bytes are none."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 8:
            control, length = buffer[0] & 128, int.from_bytes(buffer[5:8], "big")
            if control and length > LONGEST_CONTROL:
                raise SPDYError(f"a control frame of {length} bytes is too long")
            if len(buffer) < 8 + length:
                return
            first, flags, body = int.from_bytes(buffer[:4], "big"), buffer[4], bytes(buffer[8 : 8 + length])
            del buffer[: 8 + length]
            if not control:
                yield Data(first, body, bool(flags & FIN))
            elif (first >> 16) & 0x7FFF != VERSION:
                raise SPDYError(f"version {(first >> 16) & 0x7FFF} of SPDY is not spoken here, {VERSION} is")
            elif (frame := self._control(first & 0xFFFF, flags, body)) is not None:
                yield frame

    def _control(self, kind: int, flags: int, body: bytes) -> Frame | None:
        least = {SYN_STREAM: 10, SYN_REPLY: 4, RST_STREAM: 8, PING: 4, GOAWAY: 8, HEADERS: 4}.get(kind, 0)
        if len(body) < least:
            raise SPDYError(f"a frame of type {kind} is too short")
        stream = int.from_bytes(body[:4], "big") & 0x7FFF_FFFF
        if kind == SYN_STREAM:
            return Open(stream, self._headers(body[10:]), bool(flags & FIN))
        if kind == RST_STREAM:
            return Reset(stream)
        if kind == PING:
            return Ping(int.from_bytes(body[:4], "big"))
        if kind == GOAWAY:
            return GoAway()
        if kind in (SYN_REPLY, HEADERS):
            self._headers(body[4:])  # of no interest, but the decompressor must see them
        return None

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, _LONGEST_HEADERS)
        except zlib.error as error:
            raise SPDYError(f"headers cannot be decompressed: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SPDYError("headers are too long")
        headers: dict[str, str] = {}
        at = 4
        for _ in range(int.from_bytes(plain[:4], "big")):
            pair = []
            for _ in range(2):
                size = int.from_bytes(plain[at : at + 4], "big")
                at += 4 + size
                if at > len(plain):
                    raise SPDYError("headers end within a field")
                pair.append(plain[at - size : at].decode("latin-1"))
            headers[pair[0].lower()] = pair[1]
        return headers


class Writer:
    """Makes the bytes of frames."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def _headers(self, headers: Mapping[str, str]) -> bytes:
        texts = [text.encode("latin-1") for pair in headers.items() for text in pair]
        plain = len(headers).to_bytes(4, "big") + b"".join(len(text).to_bytes(4, "big") + text for text in texts)
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def open(self, stream: int, headers: Mapping[str, str], *, fin: bool = False) -> bytes:
        """A client's SYN_STREAM."""
        return _control(SYN_STREAM, stream.to_bytes(4, "big") + bytes(6) + self._headers(headers), FIN if fin else 0)

    def reply(self, stream: int, headers: Mapping[str, str] | None = None) -> bytes:
        """SYN_REPLY: the stream is accepted."""
        return _control(SYN_REPLY, stream.to_bytes(4, "big") + self._headers(headers or {}))


def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
    return (0x8000_0000 | VERSION << 16 | kind).to_bytes(4, "big") + bytes((flags,)) + len(body).to_bytes(3, "big") + body


def data(stream: int, body: bytes, *, fin: bool = False) -> bytes:
    """A data frame."""
    return stream.to_bytes(4, "big") + bytes((FIN if fin else 0,)) + len(body).to_bytes(3, "big") + body


def reset(stream: int, status: int) -> bytes:
    """RST_STREAM."""
    return _control(RST_STREAM, stream.to_bytes(4, "big") + status.to_bytes(4, "big"))


def ping(number: int) -> bytes:
    """PING, and its answer."""
    return _control(PING, number.to_bytes(4, "big"))


def go_away(last: int, status: int = 0) -> bytes:
    """GOAWAY."""
    return _control(GOAWAY, last.to_bytes(4, "big") + status.to_bytes(4, "big"))
