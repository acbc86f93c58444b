"""Who calls: client certificates, bearer tokens, or nobody in particular.

A certificate says more than a token beside it, as upstream has it. Every known user is in the group
``system:authenticated``. Unknown credentials are 401, never anonymous. Nobody in particular gets no further than the health and
the version of the server, whatever the roles say.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from twinstack.api.errors import Unauthorized
from twinstack.apiserver.bootstrap_tokens import BootstrapTokens
from twinstack.apiserver.calls import Call, Subject, User
from twinstack.apiserver.settings import SettingsError
from twinstack.apiserver.tokens import ServiceAccountTokens

AUTHENTICATED = "system:authenticated"
ANONYMOUS = User("system:anonymous", "", ("system:unauthenticated",))
HIDDEN_TOKEN = "base64url.bearer.authorization.k8s.io."
_OPEN_TO_ALL = ("/livez", "/readyz", "/healthz", "/version")


def read_token_file(path: Path) -> dict[str, User]:
    """Upstream's static token file: ``token,user,uid,"group1,group2"`` a line, groups optional."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, skipinitialspace=True))
    except OSError as error:
        raise SettingsError(f"--token-auth-file={path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"--token-auth-file={path} is not a CSV file: {error}") from error
    users: dict[str, User] = {}
    for number, row in enumerate(rows, 1):
        if not row or row[0].startswith("#"):
            continue
        if len(row) < 3 or not row[0].strip() or not row[1].strip():
            raise SettingsError(f'--token-auth-file={path}: line {number} is not token,user,uid or token,user,uid,"group1,group2"')
        groups = tuple(group.strip() for group in row[3].split(",") if group.strip()) if len(row) > 3 else ()
        users[row[0].strip()] = User(row[1].strip(), row[2].strip(), groups)
    return users


class Authenticator:
    """Finds a call's user."""

    def __init__(
        self,
        tokens: Mapping[str, User],
        *,
        anonymous: bool,
        service_accounts: ServiceAccountTokens | None = None,
        bootstrap: BootstrapTokens | None = None,
    ) -> None:
        self._tokens = {token: user._replace(groups=(*user.groups, AUTHENTICATED)) for token, user in tokens.items()}
        self._anonymous = anonymous
        self._service_accounts = service_accounts
        self._bootstrap = bootstrap

    def review(self, token: str, audiences: Sequence[str]) -> tuple[User, list[str]]:
        """Whose token this is, and for whom of *audiences* it is meant, all of them for a static one; Unauthorized when it is nobody's."""
        user = self._tokens.get(token)
        if user is not None:
            return user, list(audiences)
        if self._service_accounts is not None and self._service_accounts.is_ours(token):
            return self._service_accounts.user(token, audiences)
        if self._bootstrap is not None and (user := self._bootstrap.user(token)) is not None:
            return user, list(audiences)
        raise Unauthorized("Unauthorized")

    def user_of(self, call: Call) -> User:
        """The user, or Unauthorized."""
        if call.subject and (user := user_of_subject(call.subject)) is not None:
            return user
        token = _bearer(call.headers)
        if token is None:
            if self._anonymous and is_open(call.path) and "Authorization" not in call.headers:
                return ANONYMOUS
            raise Unauthorized("Unauthorized")
        user = self._tokens.get(token)
        if user is not None:
            return user
        if self._service_accounts is not None and self._service_accounts.is_ours(token):
            return self._service_accounts.user(token)[0]
        if self._bootstrap is not None and (user := self._bootstrap.user(token)) is not None:
            return user
        raise Unauthorized("Unauthorized")


def _bearer(headers: Mapping[str, str]) -> str | None:
    """The token of a request; one who opens a WebSocket and can set no header, as in a browser, hides it among the protocols that it offers."""
    header = headers.get("Authorization", "")
    if header:
        scheme, _, token = header.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None
    if "Upgrade" in headers:
        for protocol in headers.get("Sec-WebSocket-Protocol", "").split(","):
            hidden = protocol.strip()
            if hidden.startswith(HIDDEN_TOKEN):
                with suppress(ValueError):
                    return _unpadded(hidden.removeprefix(HIDDEN_TOKEN))
    return None


def _unpadded(text: str) -> str:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()


def is_open(path: str) -> bool:
    """Whether anybody may ask for this."""
    return path in _OPEN_TO_ALL or path.startswith(tuple(one + "/" for one in _OPEN_TO_ALL))


@lru_cache(maxsize=1024)
def user_of_subject(subject: Subject) -> User | None:
    """The user of a client certificate: the common name; the organizations are the groups."""
    name, groups = "", []
    for part in subject:
        for field, value in part:
            if field == "commonName":
                name = value
            elif field == "organizationName":
                groups.append(value)
    return User(name, "", (*groups, AUTHENTICATED)) if name else None
