"""Bootstrap tokens, and the signatures by which who knows one trusts ``kube-public/cluster-info``.

Rule of this file: a Secret in, a token out; a token and a text in, a signature out.

Theory. A token is a Secret of its own type in kube-system. A machine that joins knows a token and not yet the cluster's certificate
authority: it reads cluster-info from whoever answers, and believes it if it is signed with the token's secret, which only the cluster and the
machine know. The signature is a JWS (RFC 7515) by HMAC-SHA256 whose payload is left out, as that stands beside it (appendix F).

Source: the Kubernetes documentation, "Authenticating with Bootstrap Tokens", section "ConfigMap Signing".
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from datetime import UTC, datetime
from typing import Final, NamedTuple

from twinstack.api.kinds import Secret
from twinstack.api.times import parse_time

TYPE: Final = "bootstrap.kubernetes.io/token"
PREFIX: Final = "bootstrap-token-"
NAMESPACE: Final = "kube-system"


class Token(NamedTuple):
    """What a Secret of a token tells. *ends* is None for one that does not end; one whose end nobody can read has ended."""

    id: str
    secret: str
    ends: datetime | None
    signs: bool


def token_of(one: Secret) -> Token | None:
    """The token of a Secret; None when it is none, or not under the name that its id has."""
    data = {name: text_of(value) for name, value in (one.data or {}).items()}
    id, secret = data.get("token-id", ""), data.get("token-secret", "")
    if not is_token(one) or not id or not secret or one.metadata.name != PREFIX + id:
        return None
    return Token(id, secret, end_of(one), data.get("usage-bootstrap-signing") == "true")


def is_token(one: Secret) -> bool:
    """Whether the Secret stands where tokens stand, and says that it is one."""
    return one.type == TYPE and one.metadata.namespace == NAMESPACE


def end_of(one: Secret) -> datetime | None:
    """When the Secret's token ends; None for never, long ago for an end that is no time."""
    text = text_of((one.data or {}).get("expiration", ""))
    return (parse_time(text) or datetime.min.replace(tzinfo=UTC)) if text else None


def text_of(value: object) -> str:
    """A value of a Secret in words; what is none is empty."""
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def signature(token: Token, content: str) -> str:
    """The detached JWS of the content, in its compact form with nothing between the two points."""
    head = _encoded(json.dumps({"alg": "HS256", "kid": token.id}, separators=(",", ":")).encode())
    digest = hmac.digest(token.secret.encode(), f"{head}.{_encoded(content.encode())}".encode(), "sha256")
    return f"{head}..{_encoded(digest)}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
