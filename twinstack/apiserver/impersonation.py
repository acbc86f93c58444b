"""Calling as somebody else: the ``Impersonate-…`` headers, for those who may (Kubernetes documentation, "User impersonation")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from twinstack.api.errors import BadRequest
from twinstack.apiserver.authorization import Authorizer
from twinstack.apiserver.calls import User
from twinstack.rules.rbac import SERVICE_ACCOUNT_PREFIX, Attributes

HEADER: Final = "Impersonate-User"
_UID, _GROUP, _EXTRA = "Impersonate-Uid", "Impersonate-Group", "impersonate-extra-"
_AUTHENTICATED, _UNAUTHENTICATED, _ANONYMOUS = "system:authenticated", "system:unauthenticated", "system:anonymous"


def _all(headers: Mapping[str, str], name: str) -> Sequence[str]:
    getall = getattr(headers, "getall", None)
    if getall is not None:
        found: Sequence[str] = getall(name, ())
        return found
    return (headers[name],) if name in headers else ()


def impersonated(user: User, headers: Mapping[str, str], authorizer: Authorizer) -> User:
    """Who the caller wants to be; Forbidden when it may not, BadRequest when it does not say who."""
    name = headers.get(HEADER, "")
    groups = tuple(_all(headers, _GROUP))
    uid = headers.get(_UID, "")
    extra: dict[str, list[str]] = {}
    for header in dict.fromkeys(one.lower() for one in headers):
        if header.startswith(_EXTRA):
            extra[unquote(header.removeprefix(_EXTRA))] = list(_all(headers, header))
    if not name:
        raise BadRequest(f"requested {[*groups, uid, *extra]} impersonation without impersonating a user: {HEADER} says who")
    for asked in _permissions(name, groups, uid, extra):
        authorizer.check(user, asked)
    if name.startswith(SERVICE_ACCOUNT_PREFIX) and not groups:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{name.split(':')[2]}")
    if name != _ANONYMOUS and not {_AUTHENTICATED, _UNAUTHENTICATED}.intersection(groups):
        groups = (*groups, _AUTHENTICATED)
    elif name == _ANONYMOUS and _UNAUTHENTICATED not in groups:
        groups = (*groups, _UNAUTHENTICATED)
    return User(name, uid, groups, tuple((key, tuple(values)) for key, values in extra.items()))


def is_asked(headers: Mapping[str, str]) -> bool:
    """Whether the caller wants to be somebody else; extras alone say nothing, and are not looked for in every request."""
    return HEADER in headers or _GROUP in headers or _UID in headers


def _permissions(name: str, groups: Sequence[str], uid: str, extra: Mapping[str, Sequence[str]]) -> list[Attributes]:
    """What one needs to be allowed."""
    parts = name.removeprefix(SERVICE_ACCOUNT_PREFIX).split(":")
    if name.startswith(SERVICE_ACCOUNT_PREFIX) and len(parts) == 2 and all(parts):
        asked = [Attributes("impersonate", resource="serviceaccounts", namespace=parts[0], name=parts[1])]
    else:
        asked = [Attributes("impersonate", resource="users", name=name)]
    asked += [Attributes("impersonate", resource="groups", name=group) for group in groups]
    group = "authentication.k8s.io"
    if uid:
        asked.append(Attributes("impersonate", group, "uids", name=uid))
    asked += [Attributes("impersonate", group, "userextras", key, name=value) for key, values in extra.items() for value in values]
    return asked
