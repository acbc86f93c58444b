"""Kubernetes' failures: one class for each reason, and the way to and from a Status document.

The server raises them and the client raises the same ones, so a controller writes
``except errors.NotFound`` and never compares a number (Kubernetes API conventions, "Response Status Kind").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from twinstack.net.errors import Error


class ProblemType(Enum):
    """The reason of a cause, and the words that begin its message (spec/api.md 0.2)."""

    INVALID = ("FieldValueInvalid", "Invalid value")
    REQUIRED = ("FieldValueRequired", "Required value")
    FORBIDDEN = ("FieldValueForbidden", "Forbidden")
    NOT_SUPPORTED = ("FieldValueNotSupported", "Unsupported value")
    DUPLICATE = ("FieldValueDuplicate", "Duplicate value")
    NOT_FOUND = ("FieldValueNotFound", "Not found")
    TOO_LONG = ("FieldValueTooLong", "Too long")
    TOO_MANY = ("FieldValueTooMany", "Too many")
    TYPE_INVALID = ("FieldValueTypeInvalid", "Invalid value")
    INTERNAL = ("InternalError", "Internal error")

    @property
    def reason(self) -> str:
        return self.value[0]

    @property
    def words(self) -> str:
        return self.value[1]


_WITHOUT_VALUE = {ProblemType.REQUIRED, ProblemType.FORBIDDEN, ProblemType.TOO_LONG, ProblemType.INTERNAL}


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """What is wrong with one field: ``path`` as Kubernetes writes it, e.g. ``spec.ipFamilies[1]``."""

    path: str
    type: ProblemType
    value: Any = None
    detail: str = ""

    @property
    def message(self) -> str:
        parts = [self.type.words]
        if self.type not in _WITHOUT_VALUE:
            parts.append(_shown(self.value))
        if self.detail:
            parts.append(self.detail)
        return ": ".join(parts)

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ",".join(f'"{key}":{_shown(item)}' for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(_shown(item) for item in value) + "]"
    return str(value)


class APIError(Error):
    """A failure as Kubernetes tells it: an HTTP code, a reason, details."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(
        self,
        message: str,
        *,
        group: str = "",
        kind: str = "",
        name: str = "",
        uid: str = "",
        causes: Iterable[Mapping[str, str]] = (),
        retry_after_seconds: int | None = None,
        code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.group, self.kind, self.name, self.uid = group, kind, name, uid
        self.causes = tuple(dict(cause) for cause in causes)
        self.retry_after_seconds = retry_after_seconds
        self.http_code = self.code if code is None else code

    def status(self) -> dict[str, Any]:
        """The Status document of this failure."""
        named = (("name", self.name), ("group", self.group), ("kind", self.kind), ("uid", self.uid))
        details: dict[str, Any] = {key: value for key, value in named if value}
        if self.causes:
            details["causes"] = [dict(cause) for cause in self.causes]
        if self.retry_after_seconds is not None:
            details["retryAfterSeconds"] = self.retry_after_seconds
        document: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            document["reason"] = self.reason
        if details:
            document["details"] = details
        document["code"] = self.http_code
        return document


class BadRequest(APIError):
    code, reason = 400, "BadRequest"


class Unauthorized(APIError):
    code, reason = 401, "Unauthorized"


class Forbidden(APIError):
    code, reason = 403, "Forbidden"


class NotFound(APIError):
    code, reason = 404, "NotFound"


class MethodNotAllowed(APIError):
    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(APIError):
    code, reason = 406, "NotAcceptable"


class AlreadyExists(APIError):
    code, reason = 409, "AlreadyExists"


class Conflict(APIError):
    code, reason = 409, "Conflict"


class Gone(APIError):
    code, reason = 410, "Gone"


class Expired(Gone):
    """The resourceVersion asked for is older than anything still kept. ``continue_`` goes on with a list, in the state of now."""

    code, reason = 410, "Expired"
    continue_ = ""

    def status(self) -> dict[str, Any]:
        document = super().status()
        if self.continue_:
            document["metadata"] = {"continue": self.continue_}
        return document


class RequestEntityTooLarge(APIError):
    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(APIError):
    code, reason = 415, "UnsupportedMediaType"


class Invalid(APIError):
    """The document breaks rules of its kind; all of them are told at once."""

    code, reason = 422, "Invalid"

    def __init__(self, message: str, *, problems: Sequence[FieldProblem] = (), **details: Any) -> None:
        if problems and "causes" not in details:
            details["causes"] = [{"reason": p.type.reason, "message": p.message, "field": p.path} for p in problems]
        super().__init__(message, **details)
        self.problems = tuple(problems)


class TooManyRequests(APIError):
    code, reason = 429, "TooManyRequests"


class InternalError(APIError):
    code, reason = 500, "InternalError"


class ServiceUnavailable(APIError):
    code, reason = 503, "ServiceUnavailable"


class Timeout(APIError):
    code, reason = 504, "Timeout"


_CLASSES: tuple[type[APIError], ...] = (
    BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable, AlreadyExists, Conflict, Gone, Expired,
    RequestEntityTooLarge, UnsupportedMediaType, Invalid, TooManyRequests, InternalError, ServiceUnavailable, Timeout,
)  # fmt: skip
_BY_REASON = {cls.reason: cls for cls in _CLASSES}
_BY_CODE = {cls.code: cls for cls in reversed(_CLASSES)} | {409: Conflict, 410: Expired}


def from_status(document: Mapping[str, Any], *, http_code: int | None = None) -> APIError:
    """The failure that a Status document tells, as the class that the server raised."""
    code = int(document.get("code") or http_code or 500)
    cls = _BY_REASON.get(str(document.get("reason", ""))) or _BY_CODE.get(code, APIError)
    details = document.get("details") or {}
    return cls(
        str(document.get("message") or f"the server answered {code}"),
        group=details.get("group", ""),
        kind=details.get("kind", ""),
        name=details.get("name", ""),
        uid=details.get("uid", ""),
        causes=details.get("causes", ()),
        retry_after_seconds=details.get("retryAfterSeconds"),
        code=code,
    )


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, name: str, *, group: str = "") -> NotFound:
    """``services "web" not found``"""
    return NotFound(f'{_qualified(plural, group)} "{name}" not found', group=group, kind=plural, name=name)


def already_exists(plural: str, name: str, *, group: str = "") -> AlreadyExists:
    return AlreadyExists(f'{_qualified(plural, group)} "{name}" already exists', group=group, kind=plural, name=name)


def conflict(plural: str, name: str, detail: str, *, group: str = "") -> Conflict:
    return Conflict(f'Operation cannot be fulfilled on {_qualified(plural, group)} "{name}": {detail}', group=group, kind=plural, name=name)


def invalid(kind: str, name: str, problems: Sequence[FieldProblem], *, group: str = "") -> Invalid:
    """``Service "web" is invalid: spec.ipFamilies[1]: Invalid value: "IPv6": …``"""
    texts = list(dict.fromkeys(str(problem) for problem in problems))
    body = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    return Invalid(f'{_qualified(kind, group)} "{name}" is invalid: {body}', problems=problems, group=group, kind=kind, name=name)
