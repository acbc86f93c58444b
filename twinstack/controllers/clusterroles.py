"""A ClusterRole that gathers others holds what they hold.

The invariant: where a ClusterRole has an ``aggregationRule``, its rules are those of all other ClusterRoles that one of the
selectors matches, by name, each rule once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twinstack.api.kinds import ClusterRole
from twinstack.api.objects import Key, document_of
from twinstack.api.resources import resource_of
from twinstack.api.selectors import of_selector
from twinstack.api.world import Action, Patch, Watch, World

_ROLES = resource_of(ClusterRole)


class ClusterRoles:
    """ClusterRoles made of others."""

    name = "clusterrole-aggregation-controller"

    def __init__(self) -> None:
        self.watches: Sequence[Watch] = (Watch(ClusterRole, _keys),)

    def decide(self, key: Key, world: World) -> list[Action]:
        role = world.get(ClusterRole, key)
        if role is None or role.aggregationRule is None or role.metadata.deletionTimestamp:
            return []
        selectors = [of_selector(one) for one in role.aggregationRule.clusterRoleSelectors or ()]
        rules: list[dict[str, Any]] = []
        for other in world.list(ClusterRole):
            if other.metadata.name != role.metadata.name and any(one is not None and one.matches(other.labels) for one in selectors):
                rules += [rule for rule in map(document_of, other.rules or ()) if rule not in rules]
        if rules == [document_of(rule) for rule in role.rules or ()]:
            return []
        return [Patch(_ROLES, key, {"rules": rules or None}, uid=role.metadata.uid)]


def _keys(before: ClusterRole | None, after: ClusterRole | None, world: World) -> Iterable[Key]:
    """The role itself, and every one that gathers others: there are few."""
    one = after or before
    if one is not None and one.aggregationRule is not None:
        yield Key("", one.metadata.name)
    for role in world.list(ClusterRole):
        if role.aggregationRule is not None and one is not None and role.metadata.name != one.metadata.name:
            yield Key("", role.metadata.name)
