"""Numbers for lists of endpoints, by which affinity knows them whatever address of their Service a client came by.

Rule of this file: a name has one number in a process, no two names share one, and after a restart they mostly have the
same again: a number is a hash of the name, and the next free one where that is taken. What was learned under a number that
then means another list names endpoints that are not in it, and is dropped by the first write.
"""

from __future__ import annotations

from hashlib import blake2s

_PARTS = 0xFFFE  # of each half: neither none nor all bits, which nft writes otherwise


class Ids:
    """Gives numbers out, as nft writes a packet's priority: ``1a2b:3c4d``."""

    def __init__(self) -> None:
        self._by_name: dict[str, str] = {}
        self._taken: set[str] = set()

    def of(self, name: str) -> str:
        """The number of this name, which it keeps."""
        if name not in self._by_name:
            number = int.from_bytes(blake2s(name.encode(), digest_size=8).digest())
            while (text := f"{1 + number // _PARTS % _PARTS:x}:{1 + number % _PARTS:x}") in self._taken:
                number += 1
            self._by_name[name] = text
            self._taken.add(text)
        return self._by_name[name]
