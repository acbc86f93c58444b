"""Every node has one block of each cluster CIDR, and no two nodes share one.

The invariant: a node without ``podCIDRs`` gets the next free block of every range at once, or none of any. What a node
has is never changed.

Which blocks are free is read from all nodes of the world, so that nothing is remembered and nothing can leak. Two nodes
that were decided from the same world would get the same block: this controller must be run by one worker, which takes
the answer to each of its writes into the world before it decides the next node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from twinstack.api.kinds import Node
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, After, Patch, Tell, Watch, World
from twinstack.net.errors import Error
from twinstack.net.family import Family, Network
from twinstack.rules.nodeipam import BlockRange, Blocks, Problem, plan_ranges

_RESOURCE = resource_of(Node)
_RETRY_SECONDS = 30.0


class BadRanges(Error):
    """The cluster CIDRs and node masks do not go together; every problem names its flag."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class NodeIPAM:
    """Blocks of *cluster_cidrs* for nodes, of which *service_cidrs* are left out.

    BadRanges when these do not go together.
    """

    name = "node-ipam-controller"
    workers = 1  # two nodes must not be decided from the same world

    def __init__(
        self,
        cluster_cidrs: Sequence[Network],
        *,
        service_cidrs: Sequence[Network] = (),
        mask_size: int = 0,
        mask_sizes: Mapping[Family, int] | None = None,
    ) -> None:
        ranges = plan_ranges(cluster_cidrs, mask_size=mask_size, mask_sizes=mask_sizes)
        if isinstance(ranges, list):
            raise BadRanges(ranges)
        self._blocks = Blocks(ranges, service_cidrs)
        self.watches: Sequence[Watch] = (Watch(Node, _keys_of_node),)

    def decide(self, key: Key, world: World) -> list[Action]:
        node = world.get(Node, key)
        if node is None or node.metadata.deletionTimestamp is not None or _cidrs_of(node):
            return []
        found = self._blocks.next_blocks(text for other in world.list(Node) for text in _cidrs_of(other))
        if isinstance(found, BlockRange):
            message = f"{node.metadata.name} gets no pod CIDRs, because all {found.blocks} blocks of /{found.prefix} in {found.cluster} are taken"
            return [Tell(node, "Normal", "CIDRNotAvailable", message), After(_RETRY_SECONDS)]
        texts = [str(one) for one in found]
        return [Patch(_RESOURCE, key, {"spec": {"podCIDR": texts[0], "podCIDRs": texts}}, uid=node.metadata.uid)]

    def strangers(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, str]]:
        """The nodes with a pod CIDR outside of all ranges, as after the cluster CIDRs were changed, and that CIDR."""
        for node in nodes:
            for text in _cidrs_of(node):
                if not any(self._blocks.numbers_of(text)):
                    yield node, text


def _cidrs_of(node: Node) -> Sequence[str]:
    return node.spec.podCIDRs or ([node.spec.podCIDR] if node.spec.podCIDR else ())


def _keys_of_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    if after is None:  # its blocks may be what another node waits for
        yield from (Key("", node.metadata.name) for node in world.list(Node) if not _cidrs_of(node))
    elif not _cidrs_of(after) and (before is None or before.spec != after.spec):
        yield Key("", after.metadata.name)
