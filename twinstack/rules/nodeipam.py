"""Which blocks of the cluster CIDRs the nodes get, and what the flags about it may say.

Rule of this file: texts and numbers in, ranges or problems out; whose block is whose is told by the nodes alone.

Theory. Each cluster CIDR divides into blocks of its family's node mask; a node has one block of each, in the order of
the CIDRs. A block that a service range touches is nobody's. Blocks are given next-fit: the search begins behind the
highest block in use and wraps around, so that one that was just given back is not handed out at once, while old routes
to it may still stand. (spec: kube-controller-manager's node IPAM, KEP-563.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twinstack.net.cidr import block, block_number, overlap, parse_cidr
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Family, Network
from twinstack.net.pool import Intervals


class Problem(NamedTuple):
    """What is wrong with a flag: its name without dashes, its value, why, and a value that would do, if one is known."""

    flag: str
    value: str
    detail: str
    suggestion: str = ""

    def __str__(self) -> str:
        hint = f"; {self.suggestion} would do" if self.suggestion else ""
        return f'--{self.flag}: "{self.value}": {self.detail}{hint}'


@dataclass(frozen=True, slots=True)
class BlockRange:
    """One cluster CIDR, divided into blocks of this prefix length."""

    cluster: Network
    prefix: int

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return 1 << (self.prefix - self.cluster.prefixlen)

    def block(self, number: int) -> Network:
        """The block with this number."""
        return block(self.cluster, self.prefix, number)

    def numbers_of(self, inner: Network) -> range:
        """The numbers of the blocks that the network touches; none when it lies elsewhere."""
        if not overlap(self.cluster, inner):
            return range(0)
        if inner.prefixlen <= self.cluster.prefixlen:
            return range(self.blocks)
        first = block_number(self.cluster, self.prefix, inner)
        last = block_number(self.cluster, self.prefix, inner.broadcast_address)
        return range(first, last + 1)


def mask_flag(family: Family) -> str:
    """The flag that sets the family's node mask."""
    return f"node-cidr-mask-size-{family.value.lower()}"


# ---- What the flags say


def parse_networks(flag: str, text: str) -> tuple[tuple[Network, ...], list[Problem]]:
    """The networks of a comma-separated flag, host bits cut off as upstream does, and what is wrong with it."""
    networks: list[Network] = []
    problems: list[Problem] = []
    for part in text.strip().split(",") if text.strip() else ():
        try:
            networks.append(parse_cidr(part.strip(), masked=True))
        except AddressError as error:
            problems.append(Problem(flag, part.strip(), str(error), error.suggestion or ""))
    return tuple(networks), problems


def plan_ranges(
    cluster_cidrs: Sequence[Network],
    *,
    mask_size: int = 0,
    mask_sizes: Mapping[Family, int] | None = None,
    flag: str = "cluster-cidr",
) -> tuple[BlockRange, ...] | list[Problem]:
    """How each cluster CIDR is divided, in order, or everything that forbids it.

    A mask size of 0 counts as not set. *mask_size* is ``--node-cidr-mask-size``, *mask_sizes* those of the families.
    """
    sizes = {family: size for family, size in (mask_sizes or {}).items() if size}
    if problems := [*_problems_with_list(cluster_cidrs, flag), *_problems_with_flags(cluster_cidrs, mask_size, sizes)]:
        return problems
    ranges = []
    for cidr in cluster_cidrs:
        family = Family.of(cidr)
        given = sizes.get(family) or mask_size
        size = given or family.facts.node_mask_size
        name = "node-cidr-mask-size" if mask_size and not sizes.get(family) else mask_flag(family)
        problems += _problems_with_size(cidr, size, name, flag, is_default=not given)
        ranges.append(BlockRange(cidr, size))
    return problems or tuple(ranges)


def _shown(cidrs: Iterable[Network]) -> str:
    return ",".join(str(cidr) for cidr in cidrs)


def _problems_with_list(cidrs: Sequence[Network], flag: str) -> Iterable[Problem]:
    families = [Family.of(cidr) for cidr in cidrs]
    if not cidrs:
        yield Problem(flag, "", "a CIDR is needed", ",".join(family.facts.default_pod_cidr for family in FAMILIES))
    elif len(cidrs) > 1 and len(set(families)) == 1:
        other = families[0].other.facts.default_pod_cidr
        yield Problem(flag, _shown(cidrs), f"{len(cidrs)} CIDRs of {families[0]}, but two must be one of each family", f"{cidrs[0]},{other}")
    elif len(cidrs) > 2:
        second = next(cidr for cidr in cidrs if Family.of(cidr) is not families[0])
        yield Problem(flag, _shown(cidrs), f"{len(cidrs)} CIDRs, but there may be at most one of each family", f"{cidrs[0]},{second}")


def _problems_with_flags(cidrs: Sequence[Network], mask_size: int, sizes: Mapping[Family, int]) -> Iterable[Problem]:
    families = {Family.of(cidr) for cidr in cidrs}
    if mask_size and len(families) > 1:
        flags = " and ".join(f"--{mask_flag(family)}" for family in FAMILIES)
        yield Problem("node-cidr-mask-size", str(mask_size), f"is for clusters of one family; this one has two, for which there are {flags}", "leaving it out")
    elif mask_size and sizes:
        named = ", ".join(f"--{mask_flag(family)}" for family in sizes)
        yield Problem("node-cidr-mask-size", str(mask_size), f"may not stand beside {named}", "leaving it out")
    if len(families) == 1:
        for family, size in sizes.items():
            if family not in families:
                yield Problem(mask_flag(family), str(size), f"the cluster has no {family} CIDR", "leaving it out")


def _problems_with_size(cidr: Network, size: int, name: str, flag: str, *, is_default: bool) -> Iterable[Problem]:
    family = Family.of(cidr)
    default = " (the default)" if is_default else ""
    distance = family.facts.node_mask_distance
    if size > family.bits:
        yield Problem(name, str(size), f"an {family} address has {family.bits} bits only", str(min(family.bits, cidr.prefixlen + 8)))
    elif size < cidr.prefixlen:
        suggestion = min(family.bits, cidr.prefixlen + 8)
        yield Problem(name, str(size), f"a block of /{size}{default} does not fit into {cidr} of --{flag}", str(suggestion))
    elif size - cidr.prefixlen > distance:
        detail = f"{cidr} of --{flag} would divide into more than {1 << distance} blocks of /{size}{default}"
        yield Problem(name, str(size), detail, str(cidr.prefixlen + distance))


# ---- What the nodes have


class Blocks:
    """The blocks of some ranges: which are nobody's, and which is next.

    A value but for a memory of parsed texts, which spares work and never changes an answer.
    """

    def __init__(self, ranges: Sequence[BlockRange], service_cidrs: Iterable[Network] = ()) -> None:
        self.ranges = tuple(ranges)
        services = tuple(service_cidrs)
        self._excluded = [[one.numbers_of(cidr) for cidr in services] for one in self.ranges]
        self._parsed: dict[str, tuple[range, ...]] = {}

    def numbers_of(self, text: str) -> tuple[range, ...]:
        """The numbers that a node's CIDR takes of each range; empty ones when it lies elsewhere or is no CIDR."""
        numbers = self._parsed.get(text)
        if numbers is None:
            try:
                network = parse_cidr(text, masked=True)
                numbers = tuple(one.numbers_of(network) for one in self.ranges)
            except AddressError:
                numbers = tuple(range(0) for _ in self.ranges)
            self._parsed[text] = numbers
        return numbers

    def next_blocks(self, texts: Iterable[str]) -> tuple[Network, ...] | BlockRange:
        """A free block of every range, given the CIDRs in use; or the first range in which none is left."""
        return next(self.each_free(texts))

    def each_free(self, texts: Iterable[str]) -> Iterator[tuple[Network, ...] | BlockRange]:
        """One free block of every range after the other, given the CIDRs in use; at last, for ever, the first range in which none is left."""
        places = [_Place(one, excluded) for one, excluded in zip(self.ranges, self._excluded, strict=True)]
        for text in texts:
            for place, numbers in zip(places, self.numbers_of(text), strict=True):
                place.take(numbers)
        while True:
            numbers_ = [place.free() for place in places]
            full = next((place.range for place, number in zip(places, numbers_, strict=True) if number is None), None)
            if full is not None:
                yield full
                continue
            given = []
            for place, number in zip(places, numbers_, strict=True):
                assert number is not None
                place.take(range(number, number + 1))
                given.append(place.range.block(number))
            yield tuple(given)


class _Place:
    """What is taken of one range."""

    def __init__(self, one: BlockRange, excluded: Iterable[range]) -> None:
        self.range = one
        self._taken = Intervals()
        for numbers in excluded:
            self._taken.add_range(numbers.start, numbers.stop)
        self._highest = 0

    def take(self, numbers: range) -> None:
        if numbers:
            self._taken.add_range(numbers.start, numbers.stop)
            self._highest = max(self._highest, numbers.stop)

    def free(self) -> int | None:
        """The first free number behind the highest taken one, or else at all."""
        start, count = self._highest % self.range.blocks, self.range.blocks
        found = self._taken.first_absent(start, count)
        return self._taken.first_absent(0, start) if found is None else found
