"""Which addresses are given out on this node: a directory of files, one per address.

Rule of this file: one address of every range set or none at all, and whatever a crash leaves behind belongs
to a container that can still be released.

Theory. The store has host-local's form (``<data dir>/<network>/<address>``, its content the container and the
interface, ``last_reserved_ip.N`` where the next search starts), so that a node can change over from it with
its pods running. A file appears with its content at once, by a link to a finished one; a process that is
killed between two families leaves an address that DEL or GC of that very container gives back. One lock file
keeps two plugins apart. Freed addresses rest while others are free: the search goes on after the last one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twinstack.api.cni import DUPLICATE, IO_FAILURE, NO_ADDRESS, Attachment, CNIError, Config, Given, Range
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError, translate
from twinstack.net.family import Address, Family
from twinstack.net.pool import Pool

_SEPARATOR = "\r\n"
_FAILURES: Mapping[type[BaseException], Callable[[Any], BaseException]] = {
    OSError: lambda error: CNIError(IO_FAILURE, "the address store cannot be used", str(error))
}


class Store:
    """The addresses of one network. Every method takes the lock for its own time."""

    def __init__(self, config: Config) -> None:
        self._directory = os.path.join(config.data_dir, config.network)
        self._sets = config.range_sets
        self._requested = config.requested

    def take(self, who: Attachment) -> list[Given]:
        """Take one address of every range set; CNIError 102 when a set is used up, and then nothing is taken."""
        with translate(_FAILURES), self._locked():
            records = self._records()
            if who in records.values():
                raise CNIError(DUPLICATE, f"container {who.container} has addresses for {who.interface} already", "DEL comes before another ADD")
            given: list[Given] = []
            wishes = list(self._requested)
            try:
                for number, ranges in enumerate(self._sets):
                    given.append(self._take_of(number, ranges, records, wishes, who))
                if wishes:
                    raise CNIError(NO_ADDRESS, f"{wishes[0]} was asked for, which is in no range of network {os.path.basename(self._directory)}")
            except BaseException:
                for one in given:
                    self._forget(one.address)
                raise
            return given

    def give(self, who: Attachment) -> None:
        """Give back all that the attachment has; nothing is a success."""
        nameless = who._replace(interface="")  # an older host-local wrote the container only
        self.keep_only(lambda one: one not in (who, nameless))

    def keep_only(self, keep: Callable[[Attachment], bool]) -> list[Attachment]:
        """Give back what belongs to attachments that *keep* is false of, and return those."""
        if not os.path.isdir(self._directory):
            return []
        with translate(_FAILURES), self._locked():
            gone = {address: who for address, who in self._records().items() if not keep(who)}
            for address in gone:
                self._forget(address)
            return list(dict.fromkeys(gone.values()))

    def has(self, who: Attachment) -> set[Address]:
        """The addresses that the attachment has."""
        if not os.path.isdir(self._directory):
            return set()
        with translate(_FAILURES), self._locked():
            return {address for address, owner in self._records().items() if owner == who}

    def check_usable(self) -> None:
        """CNIError 5 when addresses could not be given out: the directory cannot be made or locked."""
        with translate(_FAILURES), self._locked():
            pass

    def _take_of(self, number: int, ranges: tuple[Range, ...], records: dict[Address, Attachment], wishes: list[Address], who: Attachment) -> Given:
        for wish in wishes:
            for one in ranges:
                if one.subnet.version == wish.version and int(one.first) <= int(wish) <= int(one.last):
                    if wish in records or wish == one.skipped:
                        raise CNIError(NO_ADDRESS, f"{wish} was asked for, which is in use")
                    wishes.remove(wish)
                    return self._record(number, one, wish, who)
        last = self._last(number)
        # begin in the range of the last address, just after it, then try the others in order
        start = next((i for i, one in enumerate(ranges) if last is not None and last in one.subnet), 0)
        for one in (*ranges[start:], *ranges[:start]):
            family = Family.of(one.subnet)
            taken = [int(address) for address in records if address.version == one.subnet.version and int(one.first) <= int(address) <= int(one.last)]
            if one.skipped is not None:
                taken.append(int(one.skipped))
            pool = Pool(int(one.first), int(one.last), taken=taken)
            begin = int(last) + 1 - pool.first if last is not None and last in one.subnet else 0
            free = pool.take_next(max(0, begin))
            if free is not None:
                return self._record(number, one, family.address(free), who)
        raise CNIError(NO_ADDRESS, f"no address is free in {', '.join(f'{one.first}-{one.last}' for one in ranges)}")

    def _record(self, number: int, one: Range, address: Address, who: Attachment) -> Given:
        self._write(str(address), f"{who.container}{_SEPARATOR}{who.interface}")
        self._note_last(number, address)
        return Given(address, one.subnet, one.skipped)

    def _write(self, name: str, text: str) -> None:
        """Let a file appear with its content, never without."""
        path, draft = os.path.join(self._directory, name), os.path.join(self._directory, ".draft")
        with open(draft, "w", encoding="ascii", errors="surrogateescape") as file:
            file.write(text)
        os.link(draft, path)
        os.unlink(draft)

    def _note_last(self, number: int, address: Address) -> None:
        """Write down where the next search starts, in place: half of it is as good as none, and ext4 flushes what is renamed over a file (3 ms)."""
        text = str(address).encode()
        descriptor = os.open(os.path.join(self._directory, f"last_reserved_ip.{number}"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, text)
            os.ftruncate(descriptor, len(text))
        finally:
            os.close(descriptor)

    def _forget(self, address: Address) -> None:
        os.unlink(os.path.join(self._directory, str(address)))

    def _last(self, number: int) -> Address | None:
        try:
            with open(os.path.join(self._directory, f"last_reserved_ip.{number}"), encoding="ascii") as file:
                return parse_address(file.read().strip())
        except (FileNotFoundError, AddressError):  # nothing given out yet, or not by us
            return None

    def _records(self) -> dict[Address, Attachment]:
        """Every address in use, and by whom."""
        found = {}
        for name in os.listdir(self._directory):
            if name[0] == "." or name == "lock" or name.startswith("last_reserved_ip"):
                continue
            try:
                address = parse_address(name)
            except AddressError:  # somebody else's file
                continue
            with open(os.path.join(self._directory, name), encoding="utf-8", errors="surrogateescape") as file:
                container, _, interface = file.read().strip().replace(_SEPARATOR, "\n").partition("\n")
            found[address] = Attachment(container, interface)
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        descriptor = os.open(os.path.join(self._directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
