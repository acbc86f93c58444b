"""Views of who may do what: roles, bindings, and the questions that are asked about them.

See ``api.kinds`` for what a view is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from twinstack.api.metadata import LabelSelector, Object, View


class PolicyRule(View, frozen=True):
    """What may be done: these verbs to these resources of these groups, or to these paths."""

    verbs: list[str] = []
    apiGroups: list[str] | None = None
    resources: list[str] | None = None
    resourceNames: list[str] | None = None
    nonResourceURLs: list[str] | None = None


class AggregationRule(View, frozen=True):
    """Which ClusterRoles' rules make up another's."""

    clusterRoleSelectors: list[LabelSelector] | None = None


class Role(Object, frozen=True):
    """What may be done in one namespace."""

    rules: list[PolicyRule] | None = None


class ClusterRole(Object, frozen=True):
    """What may be done, in one namespace or in all of them, as the binding says."""

    rules: list[PolicyRule] | None = None
    aggregationRule: AggregationRule | None = None


class Subject(View, frozen=True):
    """Who: a user, a group, or a ServiceAccount."""

    kind: str = ""
    apiGroup: str = ""
    name: str = ""
    namespace: str = ""


class RoleRef(View, frozen=True):
    """The role that a binding gives."""

    apiGroup: str = ""
    kind: str = ""
    name: str = ""


class RoleBinding(Object, frozen=True):
    """Who has a role in one namespace."""

    subjects: list[Subject] | None = None
    roleRef: RoleRef = RoleRef()


class ClusterRoleBinding(Object, frozen=True):
    """Who has a role everywhere."""

    subjects: list[Subject] | None = None
    roleRef: RoleRef = RoleRef()


class ResourceAttributes(View, frozen=True):
    """What somebody wants to do to an object."""

    namespace: str = ""
    verb: str = ""
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    fieldSelector: dict[str, Any] | None = None
    labelSelector: dict[str, Any] | None = None


class NonResourceAttributes(View, frozen=True):
    """What somebody wants to do to a path that is no object."""

    path: str = ""
    verb: str = ""


class AccessReviewSpec(View, frozen=True):
    """Who wants to do what; ``user``, ``groups``, ``uid`` and ``extra`` are only for questions about others."""

    resourceAttributes: ResourceAttributes | None = None
    nonResourceAttributes: NonResourceAttributes | None = None
    user: str = ""
    groups: list[str] | None = None
    uid: str = ""
    extra: dict[str, list[str]] | None = None


class SubjectAccessReview(Object, frozen=True):
    """May somebody do this?"""

    spec: AccessReviewSpec = AccessReviewSpec()


class LocalSubjectAccessReview(Object, frozen=True):
    """May somebody do this in this namespace?"""

    spec: AccessReviewSpec = AccessReviewSpec()


class SelfSubjectAccessReview(Object, frozen=True):
    """May I do this?"""

    spec: AccessReviewSpec = AccessReviewSpec()


class RulesReviewSpec(View, frozen=True):
    """The namespace that is asked about."""

    namespace: str = ""


class SelfSubjectRulesReview(Object, frozen=True):
    """What may I do in this namespace?"""

    spec: RulesReviewSpec = RulesReviewSpec()


class SelfSubjectReview(Object, frozen=True):
    """Who am I?"""


class TokenReviewSpec(View, frozen=True):
    """A token, and for whom it must be meant."""

    token: str = ""
    audiences: list[str] | None = None


class TokenReview(Object, frozen=True):
    """Whose token is this?"""

    spec: TokenReviewSpec = TokenReviewSpec()


class BoundObjectReference(View, frozen=True):
    """The object that a token lives and dies with."""

    kind: str = ""
    apiVersion: str = ""
    name: str = ""
    uid: str = ""


class TokenRequestSpec(View, frozen=True):
    """For whom a token is meant, for how long, and with which object it dies."""

    audiences: list[str] | None = None
    expirationSeconds: int | None = None
    boundObjectRef: BoundObjectReference | None = None


class TokenRequest(Object, frozen=True):
    """Give me a token of this ServiceAccount."""

    spec: TokenRequestSpec = TokenRequestSpec()
    status: dict[str, Any] = msgspec.field(default_factory=dict)
