"""Role-based access control: which rules reach whom, what they allow, and which rules cover others.

Pure. A :class:`Policy` is told of roles and bindings as they change, and answers questions. What a user may do is looked up
by name and groups, kept per verb and resource until anything changes, so that asking again is one lookup.

Source: the Kubernetes documentation, "Using RBAC Authorization".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

from twinstack.net.errors import Error

GROUP: Final = "rbac.authorization.k8s.io"
ALL: Final = "*"
MASTERS: Final = "system:masters"  # may do everything, whatever the roles say
SERVICE_ACCOUNT_PREFIX: Final = "system:serviceaccount:"
MOST_USERS, MOST_VERDICTS, MOST_PARTS = 4096, 8192, 50_000


class Attributes(NamedTuple):
    """What is asked for: an object or a kind of object, or a ``path`` that is none."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def plural(self) -> str:
        """``pods`` or ``pods/log``"""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Rule(NamedTuple):
    """One PolicyRule; empty ``names`` are any name."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    def document(self) -> dict[str, Any]:
        """The rule as a review shows it."""
        named = (
            ("verbs", self.verbs), ("apiGroups", self.groups), ("resources", self.resources),
            ("resourceNames", self.names), ("nonResourceURLs", self.urls),
        )  # fmt: skip
        return {field: sorted(values) for field, values in named if values or field == "verbs"}


def rule_of(document: Mapping[str, Any]) -> Rule:
    """The rule that a PolicyRule document means."""
    fields = ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")
    return Rule(*(frozenset(document.get(field) or ()) for field in fields))


def rules_of(document: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The rules of a Role or ClusterRole."""
    return tuple(rule_of(rule) for rule in document.get("rules") or ())


# ---- one rule


def allows(rule: Rule, asked: Attributes) -> bool:
    """Whether this rule alone allows it."""
    if asked.path:
        return _has(rule.verbs, asked.verb) and any(_path_covers(url, asked.path) for url in rule.urls)
    return _reaches(rule, asked) and (not rule.names or asked.name in rule.names)


def _reaches(rule: Rule, asked: Attributes) -> bool:
    """Whether verb, group and resource fit, whatever the name."""
    return _has(rule.verbs, asked.verb) and _has(rule.groups, asked.group) and _has_resource(rule.resources, asked.plural)


def _has(values: frozenset[str], value: str) -> bool:
    return value in values or ALL in values


def _has_resource(resources: frozenset[str], plural: str) -> bool:
    if plural in resources or ALL in resources:
        return True
    _, slash, sub = plural.partition("/")
    return bool(slash) and f"{ALL}/{sub}" in resources


def _path_covers(owned: str, path: str) -> bool:
    return owned == path or (owned.endswith(ALL) and path.startswith(owned.rstrip(ALL)))


# ---- rules that cover rules


class TooManyParts(Error):
    """A rule means so many single permissions that they cannot be compared one by one."""


def uncovered(owned: Sequence[Rule], wanted: Iterable[Rule]) -> list[Rule]:
    """The single permissions among *wanted* that nobody gets from *owned*; TooManyParts when a rule means too many."""
    missing: list[Rule] = []
    for rule in wanted:
        if any(_covers(one, rule) for one in owned):
            continue
        missing += [part for part in _parts(rule) if not any(_covers(one, part) for one in owned)]
    return missing


def _parts(rule: Rule) -> Iterator[Rule]:
    count = len(rule.verbs) * (len(rule.groups) * len(rule.resources) * max(1, len(rule.names)) + len(rule.urls))
    if count > MOST_PARTS:
        raise TooManyParts(f"a rule means {count} single permissions, and only {MOST_PARTS} are compared; split it into several roles")
    for verb, group, resource in product(sorted(rule.verbs), sorted(rule.groups), sorted(rule.resources)):
        for names in [frozenset((name,)) for name in sorted(rule.names)] or [frozenset[str]()]:
            yield Rule(frozenset((verb,)), frozenset((group,)), frozenset((resource,)), names)
    for verb, url in product(sorted(rule.verbs), sorted(rule.urls)):
        yield Rule(frozenset((verb,)), urls=frozenset((url,)))


def _covers(owned: Rule, wanted: Rule) -> bool:
    """Whether one rule holds all that another does; a rule that means nothing is held by any."""
    if not (ALL in owned.verbs or wanted.verbs <= owned.verbs):
        return False
    if wanted.urls and not all(any(_path_covers(one, url) for one in owned.urls) for url in wanted.urls):
        return False
    if not wanted.groups or not wanted.resources:
        return True
    if not (ALL in owned.groups or wanted.groups <= owned.groups) or not all(_has_resource(owned.resources, one) for one in wanted.resources):
        return False
    return not owned.names or (bool(wanted.names) and wanted.names <= owned.names)


# ---- who has which rules


class Binding(NamedTuple):
    """A RoleBinding or, without a namespace, a ClusterRoleBinding."""

    namespace: str
    name: str
    role: tuple[str, str]  # namespace and name; a ClusterRole has no namespace
    subjects: tuple[tuple[str, str], ...]  # ("user", name) or ("group", name)


class Grant(NamedTuple):
    """A rule, and how somebody came to it."""

    rule: Rule
    binding: Binding
    subject: tuple[str, str]

    @property
    def why(self) -> str:
        """One sentence for people."""
        binding, (kind, name) = self.binding, self.subject
        bound = f'RoleBinding "{binding.name}/{binding.namespace}"' if binding.namespace else f'ClusterRoleBinding "{binding.name}"'
        role = f'Role "{binding.role[1]}"' if binding.role[0] else f'ClusterRole "{binding.role[1]}"'
        return f'RBAC: {bound} gives {role} to {kind.capitalize()} "{name}"'


def subject_of(document: Mapping[str, Any], namespace: str) -> tuple[str, str] | None:
    """The user or group that a subject means; None for a kind that is not known."""
    kind, name = document.get("kind"), str(document.get("name", ""))
    if kind == "User":
        return "user", name
    if kind == "Group":
        return "group", name
    if kind == "ServiceAccount":
        return "user", f"{SERVICE_ACCOUNT_PREFIX}{document.get('namespace') or namespace}:{name}"
    return None


def binding_of(document: Mapping[str, Any]) -> Binding:
    """What a RoleBinding or ClusterRoleBinding document means."""
    metadata, reference = document.get("metadata") or {}, document.get("roleRef") or {}
    namespace = metadata.get("namespace", "")
    subjects = [subject_of(subject, namespace) for subject in document.get("subjects") or ()]
    role = (namespace if reference.get("kind") == "Role" else "", str(reference.get("name", "")))
    return Binding(namespace, metadata.get("name", ""), role, tuple(dict.fromkeys(one for one in subjects if one is not None)))


class Verdict(NamedTuple):
    """Whether something is allowed, and why."""

    allowed: bool
    why: str = ""


NOT_ALLOWED: Final = Verdict(False)


class _Rights:
    """What one user may do: grants by namespace, and verdicts that were found."""

    def __init__(self, policy: Policy, name: str, groups: tuple[str, ...]) -> None:
        self._policy = policy
        self._subjects = (("user", name), *(("group", group) for group in groups))
        self._grants: dict[str, list[Grant]] = {}
        self._found: dict[tuple[str, str, str, str, str], tuple[Verdict | None, Mapping[str, Verdict]]] = {}

    def grants(self, namespace: str) -> list[Grant]:
        found = self._grants.get(namespace)
        if found is None:
            found = self._grants[namespace] = list(self._policy.grants_of(self._subjects, namespace))
        return found

    def verdict(self, asked: Attributes) -> Verdict:
        key = (asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace)
        found = self._found.get(key)
        if found is None:
            if len(self._found) >= MOST_VERDICTS:
                self._found.clear()
                self._grants.clear()
            found = self._found[key] = self._look(asked)
        any_name, by_name = found
        if any_name is not None:
            return any_name
        return by_name.get(asked.name, NOT_ALLOWED) if by_name else NOT_ALLOWED

    def _look(self, asked: Attributes) -> tuple[Verdict | None, Mapping[str, Verdict]]:
        by_name: dict[str, Verdict] = {}
        for grant in self.grants(asked.namespace):
            if _reaches(grant.rule, asked):
                if not grant.rule.names:
                    return Verdict(True, grant.why), {}
                for name in grant.rule.names:
                    by_name.setdefault(name, Verdict(True, grant.why))
        return None, by_name


class Policy:
    """All roles and bindings of a cluster."""

    def __init__(self) -> None:
        self._roles: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._by_subject: dict[tuple[str, str], dict[tuple[str, str], Binding]] = {}
        self._rights: dict[tuple[str, tuple[str, ...]], _Rights] = {}

    # ---- in

    def take_role(self, namespace: str, name: str, document: Mapping[str, Any] | None) -> None:
        """A Role, or without a namespace a ClusterRole, is now so; None when it is gone."""
        self._rights.clear()
        if document is None:
            self._roles.pop((namespace, name), None)
        else:
            self._roles[namespace, name] = rules_of(document)

    def take_binding(self, namespace: str, name: str, document: Mapping[str, Any] | None) -> None:
        """A RoleBinding, or without a namespace a ClusterRoleBinding, is now so; None when it is gone."""
        self._rights.clear()
        key = (namespace, name)
        before = self._bindings.pop(key, None)
        for subject in before.subjects if before else ():
            self._by_subject[subject].pop(key, None)
            if not self._by_subject[subject]:
                del self._by_subject[subject]
        if document is not None:
            binding = self._bindings[key] = binding_of(document)
            for subject in binding.subjects:
                self._by_subject.setdefault(subject, {})[key] = binding

    # ---- out

    def grants_of(self, subjects: Iterable[tuple[str, str]], namespace: str) -> Iterator[Grant]:
        """Every rule that reaches one of these subjects in a namespace; those for all namespaces first."""
        own: list[Grant] = []
        for subject in subjects:
            for binding in self._by_subject.get(subject, {}).values():
                if binding.namespace and binding.namespace != namespace:
                    continue
                for rule in self._roles.get(binding.role, ()):
                    grant = Grant(rule, binding, subject)
                    if binding.namespace:
                        own.append(grant)
                    else:
                        yield grant
        yield from own

    def role(self, namespace: str, name: str) -> tuple[Rule, ...] | None:
        """The rules of a role; None when there is no such role."""
        return self._roles.get((namespace, name))

    def _of(self, name: str, groups: tuple[str, ...]) -> _Rights:
        rights = self._rights.get((name, groups))
        if rights is None:
            if len(self._rights) >= MOST_USERS:
                self._rights.clear()
            rights = self._rights[name, groups] = _Rights(self, name, groups)
        return rights

    def verdict(self, name: str, groups: tuple[str, ...], asked: Attributes) -> Verdict:
        """Whether this user may do this."""
        rights = self._of(name, groups)
        if not asked.path:
            return rights.verdict(asked)
        for grant in rights.grants(""):
            if allows(grant.rule, asked):
                return Verdict(True, grant.why)
        return NOT_ALLOWED

    def rules(self, name: str, groups: tuple[str, ...], namespace: str) -> list[Rule]:
        """All rules that a user has in a namespace."""
        return [grant.rule for grant in self._of(name, groups).grants(namespace)]
