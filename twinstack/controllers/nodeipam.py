"""Every node has one block of each cluster CIDR, and no two nodes share one.

The invariant: a node without ``podCIDRs`` gets the next free block of every range at once, or none of any. What a node
has is never changed, as the API does not let it; when that is not one block of every range, an event and the condition
``twinstack.dev/PodCIDRs`` say so, and what to do.

Which blocks are free is read from all nodes of the world, so that nothing is remembered and nothing can leak. Two nodes
that were decided from the same world apart would get the same block: this controller must be run by one worker, which takes
the answer to each of its writes into the world before it decides again. As reading all nodes costs, one decision serves the
node and those that wait behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from twinstack.api.kinds import Node, condition_of
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Action, After, Patch, Tell, Watch, World
from twinstack.net.errors import Error
from twinstack.net.family import Family, Network
from twinstack.rules.nodeipam import BlockRange, Blocks, Problem, plan_ranges

_RESOURCE = resource_of(Node)
_RETRY_SECONDS = 30.0
_TOGETHER = 64
CONDITION = "twinstack.dev/PodCIDRs"
_ASSIGNED, _NOT_AVAILABLE, _FAMILY_MISSING, _OUTSIDE = "CIDRAssigned", "CIDRNotAvailable", "CIDRFamilyMissing", "CIDROutsideCluster"


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
    independent = True

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
        if node is None or node.metadata.deletionTimestamp is not None:
            return []
        if _cidrs_of(node):
            return list(self._verdict(node, *self._found(node), world))
        nodes = world.list(Node)
        free = self._blocks.each_free(text for other in nodes for text in _cidrs_of(other))
        actions: list[Action] = []
        for one in self._served(node, nodes):
            found = next(free)
            if isinstance(found, BlockRange):
                message = f"all {found.blocks} blocks of /{found.prefix} in {found.cluster} are taken"
                return actions or [*self._verdict(node, _NOT_AVAILABLE, f"{key.name} gets no pod CIDRs, because {message}", world), After(_RETRY_SECONDS)]
            texts = [str(block) for block in found]
            actions.append(Patch(_RESOURCE, Key("", one.metadata.name), {"spec": {"podCIDR": texts[0], "podCIDRs": texts}}, uid=one.metadata.uid))
        return actions

    @staticmethod
    def _served(node: Node, nodes: Sequence[Node]) -> Iterable[Node]:
        """The node itself, and those that wait behind it."""
        behind = (one for one in nodes if one.metadata.name > node.metadata.name and one.metadata.deletionTimestamp is None and not _cidrs_of(one))
        return (node, *islice(behind, _TOGETHER - 1))

    def _found(self, node: Node) -> tuple[str, str]:
        """What is wrong with the CIDRs that a node has, as a reason and a message. They can never be changed."""
        cidrs = _cidrs_of(node)
        again = "a node's CIDRs cannot be changed: delete the Node, and restart its kubelet to have it register anew"
        for text in cidrs:
            if not any(self._blocks.numbers_of(text)):
                return _OUTSIDE, f"{text} lies in no cluster CIDR; {again}"
        having = [self._blocks.numbers_of(text) for text in cidrs]
        lacking = [one for place, one in enumerate(self._blocks.ranges) if not any(numbers[place] for numbers in having)]
        if lacking:
            return _FAMILY_MISSING, f"the node has {','.join(cidrs)}, and nothing of {lacking[0].cluster}; {again}"
        return _ASSIGNED, ""

    @staticmethod
    def _verdict(node: Node, reason: str, message: str, world: World) -> Iterable[Action]:
        """Tell, and keep as a condition, what is wrong; a node with which nothing was ever wrong has no such condition."""
        status = "True" if reason == _ASSIGNED else "False"
        before = condition_of(node.status.conditions, CONDITION)
        if (before is None and status == "True") or (before is not None and (before.status, before.reason, before.message) == (status, reason, message)):
            return
        since = before.lastTransitionTime if before is not None and before.status == status else text_of_time(world.now)
        condition = {"type": CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
        patch = {"status": {"conditions": [condition]}}
        yield Patch(_RESOURCE, Key("", node.metadata.name), patch, subresource="status", strategic=True, uid=node.metadata.uid)
        if status == "False":
            yield Tell(node, "Normal" if reason == _NOT_AVAILABLE else "Warning", reason, message)


def _cidrs_of(node: Node) -> Sequence[str]:
    return node.spec.podCIDRs or ([node.spec.podCIDR] if node.spec.podCIDR else ())


def _keys_of_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    if after is None:  # its blocks may be what another node waits for
        yield from (Key("", node.metadata.name) for node in world.indexed(Node, _by_waiting, True))
    elif before is None or before.spec != after.spec:
        yield Key("", after.metadata.name)


def _by_waiting(node: Node) -> Iterable[bool]:
    """Index: nodes that have no block."""
    return () if _cidrs_of(node) else (True,)
