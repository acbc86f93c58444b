"""ClusterRoles that are made of others."""

from __future__ import annotations

from typing import Any

from twinstack.api.kinds import ClusterRole
from twinstack.api.objects import Key, view_of
from twinstack.api.world import Patch
from twinstack.controllers.clusterroles import ClusterRoles
from twinstack.rules.bootstrap_roles import bootstrap_objects


class Roles:
    """A world of ClusterRoles only."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self.roles = {one["metadata"]["name"]: view_of(ClusterRole, one) for one in documents}

    def get(self, view: type, key: Key) -> ClusterRole | None:
        return self.roles.get(key.name)

    def list(self, view: type, namespace: str = "") -> list[ClusterRole]:
        return [self.roles[name] for name in sorted(self.roles)]


def role(name: str, *verbs: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "rules": [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]} for verb in verbs]}


def gathering(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": "u"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": labels}]}}


def test_a_role_gathers_each_rule_of_those_that_match_once() -> None:
    world: Any = Roles(role("a", "get", "list", mark="x"), role("b", "list", "watch", mark="x"), role("c", "delete", mark="y"), gathering("all", mark="x"))
    (action,) = ClusterRoles().decide(Key("", "all"), world)
    assert isinstance(action, Patch)
    assert [rule["verbs"][0] for rule in action.patch["rules"]] == ["get", "list", "watch"]
    world.roles["all"] = view_of(ClusterRole, {**gathering("all", mark="x"), "rules": action.patch["rules"]})
    assert ClusterRoles().decide(Key("", "all"), world) == []


def test_who_matches_nobody_has_nothing_and_who_gathers_nobody_is_left_alone() -> None:
    world: Any = Roles({**gathering("all", mark="x"), "rules": role("r", "get")["rules"]}, role("plain", "get"))
    (action,) = ClusterRoles().decide(Key("", "all"), world)
    assert isinstance(action, Patch) and action.patch == {"rules": None}
    assert ClusterRoles().decide(Key("", "plain"), world) == []
    assert ClusterRoles().decide(Key("", "gone"), world) == []


def test_a_change_wakes_those_who_gather() -> None:
    world: Any = Roles(role("a", "get", mark="x"), gathering("one"), gathering("two"))
    keys = ClusterRoles().watches[0].keys
    assert {key.name for key in keys(None, world.roles["a"], world)} == {"one", "two"}
    assert {key.name for key in keys(world.roles["one"], None, world)} == {"one", "two"}


def test_the_first_roles_are_gathered_already() -> None:
    """So they work before any controller does, and a controller that starts has nothing to write."""
    documents = [one for one in bootstrap_objects() if one["kind"] == "ClusterRole"]
    world: Any = Roles(*documents)
    for name in ("admin", "edit", "view"):
        assert ClusterRoles().decide(Key("", name), world) == []
