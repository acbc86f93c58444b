"""A Windows node that cannot serve what it registered with says so.

The invariant: a node that runs Windows has a condition ``WindowsNetworkProblem``, True with the reason when it registered with IPv6 alone,
or with both families on an overlay, or names a network mode that nobody knows; False when all is well. Each time it becomes True, or for another
reason, a warning event tells it. Nodes of other systems have no such condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twinstack.api.kinds import Node, condition_of
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.times import text_of_time
from twinstack.api.world import Action, Patch, Tell, Watch, World
from twinstack.rules.windows import facts_of, problems_with_windows_node

CONDITION = "WindowsNetworkProblem"
_NODES = resource_of(Node)
_SERVED = ("Served", "The node serves every family that it registered with.")


class WindowsNodes:
    """Conditions and events of Windows nodes."""

    name = "windows-node-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(Node, _keys_of_node),)

    def decide(self, key: Key, world: World) -> list[Action]:
        node = world.get(Node, key)
        facts = facts_of(node) if node is not None and node.metadata.deletionTimestamp is None else None
        if node is None or facts is None or not facts.families:
            return []
        problem = next(problems_with_windows_node(facts), None)
        status, (reason, message) = ("False", _SERVED) if problem is None else ("True", problem)
        before = condition_of(node.status.conditions, CONDITION)
        if before is not None and (before.status, before.reason, before.message) == (status, reason, message):
            return []
        moved = before is None or before.status != status
        since = text_of_time(world.now) if moved or before is None else before.lastTransitionTime
        condition: Document = {"type": CONDITION, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
        actions: list[Action] = [
            Patch(_NODES, key, {"status": {"conditions": [condition]}}, subresource="status", strategic=True, uid=node.metadata.uid),
        ]
        if problem is not None and (before is None or before.reason != reason):
            actions.append(Tell(node, "Warning", reason, message))
        return actions


def _keys_of_node(before: Node | None, after: Node | None, world: World) -> Iterable[Key]:
    if after is not None and (before is None or facts_of(before) != facts_of(after) or _told(before) != _told(after)):
        yield Key("", after.metadata.name)


def _told(node: Node) -> object:
    condition = condition_of(node.status.conditions, CONDITION)
    return condition and (condition.status, condition.reason, condition.message)
