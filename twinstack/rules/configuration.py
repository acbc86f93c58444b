"""ConfigMaps, Secrets, ServiceAccounts, Namespaces, Leases and Events: what they must look like, and their defaults."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from twinstack.api.errors import BadRequest, FieldProblem
from twinstack.api.objects import Document, decode
from twinstack.api.times import canonical_micro_time, canonical_time
from twinstack.rules.names import config_key_problem
from twinstack.rules.problems import forbidden, required, too_long, wrong
from twinstack.rules.shape import default, drop_zeros, part

MOST_BYTES = 1024 * 1024
NAME_LABEL = "kubernetes.io/metadata.name"
NAMESPACE_FINALIZER = "kubernetes"
# type → the keys that its data must have
_REQUIRED_KEYS: Mapping[str, tuple[str, ...]] = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}
_JSON_KEYS: Mapping[str, tuple[str, ...]] = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
}
_SERVICE_ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
_SERVICE_ACCOUNT_NAME = "kubernetes.io/service-account.name"


def default_config_map(document: Document) -> None:
    """Empty maps are left out. BadRequest when binary data is not base64."""
    drop_zeros(document, ("data", "binaryData"))
    _check_base64(document, "binaryData")


def problems_with_config_map(document: Document, before: Document | None = None) -> list[FieldProblem]:
    """Keys, size, and what is immutable."""
    data, binary = document.get("data") or {}, document.get("binaryData") or {}
    problems = [*_problems_with_keys(data, "data"), *_problems_with_keys(binary, "binaryData")]
    problems += [wrong(f"data[{key}]", key, "stands in binaryData too") for key in data if key in binary]
    size = sum(len(value.encode()) for value in data.values()) + sum(len(value) * 3 // 4 for value in binary.values())
    if size > MOST_BYTES:
        problems.append(too_long("", MOST_BYTES))
    return [*problems, *_problems_with_immutable(document, before, ("data", "binaryData"))]


def default_secret(document: Document) -> None:
    """``stringData`` joins ``data``; the type is Opaque unless it says otherwise. BadRequest when data is not base64."""
    default(document, "type", "Opaque")
    plain = document.pop("stringData", None)
    for key, value in (plain or {}).items():
        part(document, "data")[key] = base64.b64encode(str(value).encode()).decode()
    drop_zeros(document, ("data",))
    _check_base64(document, "data")


def problems_with_secret(document: Document, before: Document | None = None) -> list[FieldProblem]:
    """Keys, size, what its type needs, and what is immutable."""
    data, type_ = document.get("data") or {}, document.get("type", "")
    problems = list(_problems_with_keys(data, "data"))
    if sum(len(value) * 3 // 4 for value in data.values()) > MOST_BYTES:
        problems.append(too_long("data", MOST_BYTES))
    problems += [required(f"data[{key}]", f"a Secret of type {type_} needs it") for key in _REQUIRED_KEYS.get(type_, ()) if key not in data]
    if type_ == "kubernetes.io/ssh-auth" and data.get("ssh-privatekey") == "":
        problems.append(required("data[ssh-privatekey]", "must not be empty"))
    for key in _JSON_KEYS.get(type_, ()):
        if key in data and not _is_json_object(base64.b64decode(data[key])):
            problems.append(wrong(f"data[{key}]", "<secret contents redacted>", "must be a JSON object"))
    if type_ == "kubernetes.io/basic-auth" and not ("username" in data or "password" in data):
        problems += [required(f"data[{key}]", "one of username and password is needed") for key in ("username", "password")]
    if type_ == _SERVICE_ACCOUNT_TOKEN and not ((document.get("metadata") or {}).get("annotations") or {}).get(_SERVICE_ACCOUNT_NAME):
        problems.append(required(f"metadata.annotations[{_SERVICE_ACCOUNT_NAME}]"))
    if before is not None and type_ != before.get("type", ""):
        problems.append(wrong("type", type_, "may not change"))
    return [*problems, *_problems_with_immutable(document, before, ("data",))]


def _is_json_object(data: bytes) -> bool:
    try:
        return isinstance(decode(data), dict | None)
    except ValueError:
        return False


def _problems_with_keys(entries: Mapping[str, Any], field: str) -> Iterator[FieldProblem]:
    for key in entries:
        if problem := config_key_problem(key):
            yield wrong(f"{field}[{key}]", key, problem)


def _problems_with_immutable(document: Document, before: Document | None, fields: tuple[str, ...]) -> Iterator[FieldProblem]:
    if before is None or not before.get("immutable"):
        return
    if not document.get("immutable"):
        yield forbidden("immutable", "may not be unset once the object is immutable")
    for field in fields:
        if (document.get(field) or {}) != (before.get(field) or {}):
            yield forbidden(field, "may not change once the object is immutable")


def _check_base64(document: Document, field: str) -> None:
    for key, value in (document.get(field) or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise BadRequest(f"{document.get('kind', '')} cannot be handled: {field}[{key}] is not base64") from None


def default_namespace(document: Document) -> None:
    """A namespace carries its name as a label, for selectors; and has a phase."""
    name = (document.get("metadata") or {}).get("name")
    if name:
        part(part(document, "metadata"), "labels")[NAME_LABEL] = name
    part(document, "spec")
    default(part(document, "status"), "phase", "Active")


def problems_with_namespace_status(document: Document) -> list[FieldProblem]:
    """The phase says nothing but whether the namespace is being deleted."""
    phase = (document.get("status") or {}).get("phase", "")
    deleted = bool((document.get("metadata") or {}).get("deletionTimestamp"))
    if phase != ("Terminating" if deleted else "Active"):
        return [wrong("status.Phase", phase, "must be Terminating while the namespace is being deleted, and Active else")]
    return []


def default_lease(document: Document) -> None:
    """Times are kept in UTC. BadRequest when one is no time with microseconds."""
    spec = part(document, "spec")
    for field in ("acquireTime", "renewTime"):
        if field in spec:
            spec[field] = kept_time(spec[field], f"spec.{field}", micro=True)


def kept_time(text: str, path: str, *, micro: bool = False) -> str:
    """A time in the form in which it is kept. BadRequest when the text is no time."""
    try:
        return canonical_micro_time(text) if micro else canonical_time(text)
    except (TypeError, ValueError) as error:
        raise BadRequest(f"{path} cannot be read: {error}") from None


def problems_with_lease(document: Document) -> list[FieldProblem]:
    """Durations are positive, transitions are counted from zero."""
    spec = document.get("spec") or {}
    problems = []
    if spec.get("leaseDurationSeconds") is not None and spec["leaseDurationSeconds"] <= 0:
        problems.append(wrong("spec.leaseDurationSeconds", spec["leaseDurationSeconds"], "must be greater than 0"))
    if spec.get("leaseTransitions") is not None and spec["leaseTransitions"] < 0:
        problems.append(wrong("spec.leaseTransitions", spec["leaseTransitions"], "must not be negative"))
    return problems
