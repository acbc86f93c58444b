"""Whether a caller may do what it asks for: the authorizers of ``--authorization-mode``, asked in order.

Rule of this file: an authorizer allows or has no opinion; what nobody allows is forbidden. The cache tells of every change
of a role, a binding or a pod, so an answer follows from what is durable at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twinstack.api import kinds
from twinstack.api.errors import BadRequest, Forbidden
from twinstack.api.objects import Key
from twinstack.api.resources import Resource, resource_of
from twinstack.api.selectors import parse_fields
from twinstack.apiserver.cache import Cache, Stored
from twinstack.apiserver.calls import User
from twinstack.apiserver.requests import Request
from twinstack.apiserver.settings import SettingsError
from twinstack.rules import node_access
from twinstack.rules.rbac import GROUP, MASTERS, NOT_ALLOWED, Attributes, Policy, Verdict

MODES: Final = ("AlwaysAllow", "AlwaysDeny", "Node", "RBAC")
PODS: Final = resource_of(kinds.Pod)
_ROLES: Final = (resource_of(kinds.Role), resource_of(kinds.ClusterRole))
_BINDINGS: Final = (resource_of(kinds.RoleBinding), resource_of(kinds.ClusterRoleBinding))
_SELECTING: Final = frozenset(("list", "watch", "deletecollection"))
_ALLOWED: Final = Verdict(True, "AlwaysAllow")
_MASTERS_MAY: Final = Verdict(True, f'Group "{MASTERS}" may do everything')
_NOTHING: Final[Mapping[str, str]] = {}
_NON_RESOURCE_VERBS: Final = {"GET": "get", "HEAD": "head", "POST": "post", "PUT": "put", "PATCH": "patch", "DELETE": "delete"}

Authorize = Callable[[User, Attributes, Mapping[str, str]], Verdict]


def modes_of(text: str) -> tuple[str, ...]:
    """The modes of ``--authorization-mode``; SettingsError for one that is not known or named twice."""
    modes = tuple(mode.strip() for mode in text.split(",") if mode.strip())
    wrong = [mode for mode in modes if mode not in MODES]
    if not modes or wrong or len(set(modes)) < len(modes):
        raise SettingsError(f"--authorization-mode={text} is not a list of some of {', '.join(MODES)}; Node,RBAC would do")
    return modes


class NodePods:
    """Which pods are on which node, and what they refer to (``rules.node_access.NodeFacts``)."""

    def __init__(self, cache: Cache) -> None:
        self._items = cache.collections[PODS].items
        self._by_node: dict[str, set[Key]] = {}
        self._references: dict[Key, tuple[str, frozenset[tuple[str, str]]]] = {}
        for one in self._items.values():
            self.observe(None, one)

    def observe(self, before: Stored | None, after: Stored | None) -> None:
        """A pod has changed."""
        old = before.fields.get("spec.nodeName", "") if before else ""
        new = after.fields.get("spec.nodeName", "") if after else ""
        if before is not None and (after is None or before.uid != after.uid):
            self._references.pop(before.key, None)
        if old == new:
            return
        if old and before is not None and old in self._by_node:
            self._by_node[old].discard(before.key)
            if not self._by_node[old]:
                del self._by_node[old]
        if new and after is not None:
            self._by_node.setdefault(new, set()).add(after.key)

    def node_of(self, namespace: str, pod: str) -> str | None:
        one = self._items.get(Key(namespace, pod))
        return None if one is None else one.fields.get("spec.nodeName", "")

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        wanted = (resource, name)
        return any(key.namespace == namespace and wanted in self._referred(key) for key in self._by_node.get(node, ()))

    def _referred(self, key: Key) -> frozenset[tuple[str, str]]:
        one = self._items.get(key)
        if one is None:
            return frozenset()
        found = self._references.get(key)
        if found is None or found[0] != one.uid:
            found = self._references[key] = (one.uid, frozenset(node_access.references(one.document())))
        return found[1]


class Authorizer:
    """Asks the authorizers of the given modes."""

    def __init__(self, modes: Sequence[str], cache: Cache) -> None:
        self.modes = tuple(modes)
        self.policy = Policy()
        self._pods: NodePods | None = None
        table: dict[str, Authorize] = {
            "AlwaysAllow": lambda user, asked, selected: _ALLOWED,
            "AlwaysDeny": lambda user, asked, selected: NOT_ALLOWED,
            "Node": self._by_node,
            "RBAC": lambda user, asked, selected: self.policy.verdict(user.name, user.groups, asked),
        }
        self._chain = [table[mode] for mode in self.modes]
        if "Node" in self.modes:
            self._pods = NodePods(cache)
        if "RBAC" in self.modes:
            for resource in (*_ROLES, *_BINDINGS):
                for one in cache.collections[resource].items.values():
                    self._take(resource, one.key, one)
        cache.observe(self._observe)

    def _observe(self, resource: Resource, before: Stored | None, after: Stored | None) -> None:
        if resource is PODS:
            if self._pods is not None:
                self._pods.observe(before, after)
        elif resource.group == GROUP:
            one = after or before
            if one is not None:
                self._take(resource, one.key, after)

    def _take(self, resource: Resource, key: Key, after: Stored | None) -> None:
        take = self.policy.take_role if resource in _ROLES else self.policy.take_binding
        take(key.namespace, key.name, after.document() if after else None)

    def _by_node(self, user: User, asked: Attributes, selected: Mapping[str, str]) -> Verdict:
        node = node_access.node_name(user.name, user.groups)
        if not node or self._pods is None:
            return NOT_ALLOWED
        refused = node_access.refusal(node, asked, selected, self._pods)
        return Verdict(False, refused) if refused else Verdict(True, f"Node: it belongs to node {node}")

    # ---- questions

    def decide(self, user: User, asked: Attributes, selected: Mapping[str, str] = _NOTHING) -> Verdict:
        """Whether this user may do this; *selected* are the fields that a list or watch insists on."""
        if MASTERS in user.groups:
            return _MASTERS_MAY
        why = ""
        for authorize in self._chain:
            verdict = authorize(user, asked, selected)
            if verdict.allowed:
                return verdict
            why = why or verdict.why
        return Verdict(False, why)

    def check(self, user: User, asked: Attributes, selected: Mapping[str, str] = _NOTHING) -> Verdict:
        """The verdict that allows it, or Forbidden."""
        verdict = self.decide(user, asked, selected)
        if not verdict.allowed:
            raise forbidden(user, asked, verdict.why)
        return verdict

    def may(self, user: User, asked: Attributes) -> bool:
        return self.decide(user, asked).allowed


def asked_by(request: Request) -> tuple[Attributes, Mapping[str, str]]:
    """What a request for objects asks for, and the fields that it insists on."""
    resource, name, namespace = request.resource, request.name, request.namespace
    selected = _NOTHING
    if request.verb in _SELECTING and (text := request.query.text("fieldSelector")):
        selected = selected_by(text)
        name = name or selected.get("metadata.name", "")
    if resource.plural == "namespaces" and not resource.group:
        namespace = request.name  # a namespace is in itself: a Role in it may open it
    return Attributes(request.verb, resource.group, resource.plural, request.sub, namespace, name), selected


def selected_by(text: str) -> Mapping[str, str]:
    """The fields that a field selector wants to be equal to something; none when it cannot be read."""
    try:
        return {one.path: one.value for one in parse_fields(text) if one.equal}
    except BadRequest:
        return _NOTHING  # the request is refused for it later


def asked_of_path(method: str, path: str) -> Attributes:
    """What a request for something that is no object asks for."""
    return Attributes(_NON_RESOURCE_VERBS.get(method, method.lower()), path=path)


def forbidden(user: User, asked: Attributes, why: str = "") -> Forbidden:
    """``services "web" is forbidden: User "jane" cannot get resource "services" in API group "" in the namespace "default"``"""
    reason = f": {why}" if why else ""
    if asked.path:
        return Forbidden(f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"{reason}')
    what = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    if asked.name:
        what += f' "{asked.name}"'
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    return Forbidden(
        f'{what} is forbidden: User "{user.name}" cannot {asked.verb} resource "{asked.plural}" in API group "{asked.group}" {where}{reason}',
        group=asked.group,
        kind=asked.resource,
        name=asked.name,
    )
