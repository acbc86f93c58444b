"""PolicyRules in one line each, for the roles that a cluster begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

RuleDocument = Mapping[str, Any]
READ: Final = ("get", "list", "watch")
WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")
_EVENTS: Final = ("create", "patch", "update")


def rule(verbs: Sequence[str], group: str, *resources: str, names: Sequence[str] = ()) -> RuleDocument:
    """What may be done with resources of a group, or with those of them that have one of these names."""
    made: dict[str, Any] = {"verbs": list(verbs), "apiGroups": [group], "resources": list(resources)}
    return made | {"resourceNames": list(names)} if names else made


def reading(*urls: str) -> RuleDocument:
    """Paths that are no objects, to be read."""
    return {"verbs": ["get"], "nonResourceURLs": list(urls)}


TELL_EVENTS: Final = (rule(_EVENTS, "", "events"), rule(_EVENTS, "events.k8s.io", "events"))
ASK: Final = (rule(("create",), "authentication.k8s.io", "tokenreviews"), rule(("create",), "authorization.k8s.io", "subjectaccessreviews"))


def lock(name: str) -> tuple[RuleDocument, ...]:
    """What an election for this lease needs."""
    return rule(("create",), "coordination.k8s.io", "leases"), rule(("get", "update"), "coordination.k8s.io", "leases", names=(name,))
