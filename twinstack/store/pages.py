"""SQLite's file format, read page by page: what is left of a file that SQLite itself does not open, or does not read any further.

Rule of this file: bytes in, records out; nothing is believed about a page but what the page itself says, and nothing is written. A page that makes no sense is
passed by and counted.

Theory. A file is pages of one size. Each leaf page of a table says by itself which records it holds, so the tree above it is not
needed to find them; a long record goes on in a chain of overflow pages. With auto-vacuum, every so many pages a page tells the kind of the others, free
ones among them: what stands in those was given up, and would come back to life. The log beside the file (WAL) holds newer pages, in frames with a running
checksum; those up to the last frame that ends a transaction count.

Source: sqlite.org, "Database File Format".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

SMALLEST, DEFAULT_SIZE, LARGEST = 512, 4096, 65536
TABLE_LEAF, INDEX_LEAF, INDEX_INNER, TABLE_INNER = 0x0D, 0x0A, 0x02, 0x05
_FREE: Final = 2  # in a page of the pointer map
_HEADER: Final = 100
_WAL_HEADER, _WAL_FRAME = 32, 24
_WIDTHS: Final = (0, 1, 2, 3, 4, 6, 8)  # of integers, by serial type
_MOST_PAYLOAD: Final = 64 << 20

Value = int | float | bytes | str | None


class Record(NamedTuple):
    """One record: its row id, 0 in an index, and its columns."""

    rowid: int
    values: tuple[Value, ...]


class Unreadable(Exception):
    """These bytes are not what they should be."""


class Pages:
    """The pages of a file and of its log."""

    def __init__(self, data: bytes, log: bytes = b"") -> None:
        self.size = _page_size(data)
        self._data, self._newer = data, _log_pages(log)
        if self._newer and (sizes := {len(page) for page in self._newer.values()}) != {self.size}:
            self.size = sizes.pop()  # the log says so, whatever has become of the file's own header
        first = self.page(1)
        self._usable = self.size - (first[20] if len(first) > 20 and first[:15] == b"SQLite format 3" and first[20] < 32 else 0)
        self._is_mapped = len(first) >= 56 and int.from_bytes(first[52:56], "big") > 0
        self.count = max(len(data) // self.size, *self._newer, 0) if self._newer else len(data) // self.size
        self._damaged: set[int] = set()
        self.missing = max(0, int.from_bytes(first[28:32], "big") - self.count) if first[:15] == b"SQLite format 3" else 0  # the file was cut

    def page(self, number: int) -> bytes:
        """A page, the first is 1; empty beyond the end."""
        return self._newer.get(number) or self._data[(number - 1) * self.size : number * self.size]

    def records(self, *kinds: int) -> Iterator[Record]:
        """The records of every page of one of these kinds that is in use."""
        for number in range(1, self.count + 1):
            page = self.page(number)
            start = _HEADER if number == 1 else 0
            if len(page) < self.size or self._is_free(number) or self._is_map(number):
                continue
            kind = page[start]
            if kind not in kinds:
                if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INNER, TABLE_INNER) and not self._is_overflow(number):
                    self._damaged.add(number)
                continue
            for place in self._cells(number, page, start, kind):
                try:
                    yield self._record(page, place, kind)
                except (Unreadable, IndexError, struct.error, UnicodeDecodeError):
                    self._damaged.add(number)

    @property
    def damaged(self) -> int:
        """How many pages made no sense."""
        return len(self._damaged)

    # ---- the pointer map

    def _map_of(self, number: int) -> int:
        each = self._usable // 5 + 1
        return (number - 2) // each * each + 2

    def _is_map(self, number: int) -> bool:
        return self._is_mapped and number >= 2 and self._map_of(number) == number

    def _kind_of(self, number: int) -> int:
        if not self._is_mapped or number < 2 or self._is_map(number):
            return 0
        place = 5 * (number - self._map_of(number) - 1)
        return (self.page(self._map_of(number))[place : place + 1] or b"\0")[0]

    def _is_free(self, number: int) -> bool:
        return self._kind_of(number) == _FREE

    def _is_overflow(self, number: int) -> bool:
        return self._kind_of(number) in (3, 4) or not self._is_mapped

    # ---- one page

    def _cells(self, number: int, page: bytes, start: int, kind: int) -> Iterator[int]:
        count = int.from_bytes(page[start + 3 : start + 5], "big")
        array = start + (12 if kind in (INDEX_INNER, TABLE_INNER) else 8)
        for i in range(min(count, (self.size - array) // 2)):
            place = int.from_bytes(page[array + 2 * i : array + 2 * i + 2], "big")
            if array < place < self.size:
                yield place
            else:
                self._damaged.add(number)

    def _record(self, page: bytes, place: int, kind: int) -> Record:
        if kind == INDEX_INNER:
            place += 4  # the child page
        length, place = _varint(page, place)
        rowid = 0
        if kind == TABLE_LEAF:
            rowid, place = _varint(page, place)
        if not 0 < length <= _MOST_PAYLOAD:
            raise Unreadable
        return Record(rowid, _values(self._payload(page, place, length, kind)))

    def _payload(self, page: bytes, place: int, length: int, kind: int) -> bytes:
        usable = self._usable
        most = usable - 35 if kind == TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        if length <= most:
            return _exactly(page[place : place + length], length)
        least = (usable - 12) * 32 // 255 - 23
        here = least + (length - least) % (usable - 4)
        here = here if here <= most else least
        parts, left = [_exactly(page[place : place + here], here)], length - here
        following = int.from_bytes(page[place + here : place + here + 4], "big")
        while left:
            overflow = self.page(following)
            if following < 2 or len(overflow) < self.size:
                raise Unreadable
            parts.append(overflow[4 : 4 + min(left, usable - 4)])
            left -= len(parts[-1])
            following = int.from_bytes(overflow[:4], "big")
        return b"".join(parts)


def _page_size(data: bytes) -> int:
    said = int.from_bytes(data[16:18], "big")
    said = LARGEST if said == 1 else said
    return said if SMALLEST <= said <= LARGEST and said & (said - 1) == 0 else DEFAULT_SIZE


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise Unreadable
    return data


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for i in range(9):
        byte = data[place + i]
        if i == 8:
            return (value << 8) | byte, place + 9
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, place + i + 1
    raise Unreadable


def _values(payload: bytes) -> tuple[Value, ...]:
    end, place = _varint(payload, 0)
    body = end
    found: list[Value] = []
    while place < end:
        serial, place = _varint(payload, place)
        width = _WIDTHS[serial] if serial < len(_WIDTHS) else 8 if serial == 7 else (serial - 12) // 2 if serial >= 12 else 0
        piece = _exactly(payload[body : body + width], width)
        body += width
        if serial == 0:
            found.append(None)
        elif serial < len(_WIDTHS):
            found.append(int.from_bytes(piece, "big", signed=True))
        elif serial == 7:
            found.append(struct.unpack(">d", piece)[0])
        elif serial in (8, 9):
            found.append(serial - 8)
        elif serial >= 12:
            found.append(piece.decode() if serial % 2 else piece)
        else:
            raise Unreadable
    return tuple(found)


def _log_pages(log: bytes) -> dict[int, bytes]:
    """The newest copy of each page in a log, up to the last transaction that ended."""
    if len(log) < _WAL_HEADER:
        return {}
    magic, _, size = struct.unpack(">III", log[:12])
    if magic not in (0x377F0682, 0x377F0683) or not SMALLEST <= size <= LARGEST:
        return {}
    order = ">" if magic & 1 else "<"
    salt = log[16:24]
    one, two = _sums(log[:24], 0, 0, order)
    if struct.unpack(">II", log[24:32]) != (one, two):
        return {}
    pages: dict[int, bytes] = {}
    pending: dict[int, bytes] = {}
    for start in range(_WAL_HEADER, len(log) - _WAL_FRAME - size + 1, _WAL_FRAME + size):
        head, page = log[start : start + _WAL_FRAME], log[start + _WAL_FRAME : start + _WAL_FRAME + size]
        if head[8:16] != salt:
            break
        one, two = _sums(page, *_sums(head[:8], one, two, order), order)
        if struct.unpack(">II", head[16:24]) != (one, two):
            break
        number, commit = struct.unpack(">II", head[:8])
        pending[number] = page
        if commit:
            pages |= pending
            pending = {}
    return pages


def _sums(data: bytes, one: int, two: int, order: str) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for i in range(0, len(words), 2):
        one = (one + words[i] + two) & 0xFFFFFFFF
        two = (two + words[i + 1] + one) & 0xFFFFFFFF
    return one, two
