"""Who did what and when: one JSON line for each request that the audit policy wants to see.

Rule of this file: a request only leaves its facts in a queue; encoding and writing happen in a thread, a few times a second.
What was not written when the machine stops is lost; what cannot be written is counted and told, and stops nobody.

Source: the Kubernetes documentation, "Auditing".
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from twinstack.api import objects
from twinstack.api.objects import Document
from twinstack.api.times import text_of_micro_time
from twinstack.apiserver.audit_files import RotatedFile
from twinstack.apiserver.calls import Call, User
from twinstack.apiserver.requests import Request
from twinstack.apiserver.settings import Settings, SettingsError
from twinstack.apiserver.visits import Visit

log = logging.getLogger(__name__)

LEVELS: Final = ("None", "Metadata", "Request")
STAGES: Final = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
API_VERSION: Final = "audit.k8s.io/v1"
WRITE_SECONDS: Final = 0.25
LONGEST_QUEUE: Final = 100_000
_WITH_BODY: Final = frozenset(("create", "update", "patch", "delete", "deletecollection"))


class GroupResources(msgspec.Struct, frozen=True, kw_only=True):
    """Resources of one group; none named are all of them."""

    group: str = ""
    resources: list[str] = []
    resourceNames: list[str] = []

    def matches(self, request: Request) -> bool:
        if request.resource.group != self.group:
            return False
        plural = f"{request.resource.plural}/{request.sub}" if request.sub else request.resource.plural
        named = not self.resources or plural in self.resources or "*" in self.resources
        named = named or (bool(request.sub) and (f"*/{request.sub}" in self.resources or f"{request.resource.plural}/*" in self.resources))
        return named and (not self.resourceNames or request.name in self.resourceNames)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a policy: what it is about, and how much is told of it."""

    level: str
    users: list[str] = []
    userGroups: list[str] = []
    verbs: list[str] = []
    resources: list[GroupResources] = []
    namespaces: list[str] = []
    nonResourceURLs: list[str] = []
    omitStages: list[str] = []
    omitManagedFields: bool | None = None

    def matches(self, user: User, request: Request | None, verb: str, path: str) -> bool:
        if self.users and user.name not in self.users:
            return False
        if self.userGroups and not set(self.userGroups).intersection(user.groups):
            return False
        if self.verbs and verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            if request is None:
                return False
            if self.namespaces and request.namespace not in self.namespaces:
                return False
            return not self.resources or any(one.matches(request) for one in self.resources)
        if self.nonResourceURLs:
            return request is None and any(url == path or (url.endswith("*") and path.startswith(url[:-1])) for url in self.nonResourceURLs)
        return True


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of ``--audit-policy-file``; the first that matches counts, and without one nothing is told."""

    apiVersion: str
    kind: str
    rules: list[Rule]
    metadata: dict[str, Any] = {}
    omitStages: list[str] = []
    omitManagedFields: bool | None = None

    def level(self, user: User, request: Request | None, verb: str, path: str) -> tuple[str, Sequence[str], bool]:
        """How much is told, at which stages nothing is, and whether managedFields are left out."""
        for rule in self.rules:
            if rule.matches(user, request, verb, path):
                lean = rule.omitManagedFields if rule.omitManagedFields is not None else bool(self.omitManagedFields)
                return rule.level, (*self.omitStages, *rule.omitStages), lean
        return "None", (), False


def read_policy(path: str) -> Policy:
    """The policy in a file; SettingsError when it is none, or wants a level that is not served."""
    flag = f"--audit-policy-file={path}"
    try:
        policy = msgspec.convert(yaml.safe_load(Path(path).read_text(encoding="utf-8")), Policy)
    except OSError as error:
        raise SettingsError(f"{flag} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise SettingsError(f"{flag} is not an audit policy: {error}") from error
    if (policy.apiVersion, policy.kind) != (API_VERSION, "Policy"):
        raise SettingsError(f"{flag} is of {policy.apiVersion} {policy.kind}; {API_VERSION} Policy would do")
    if not policy.rules:
        raise SettingsError(f"{flag} has no rule; one of level Metadata would do")
    for rule in policy.rules:
        if rule.level not in LEVELS:
            more = ": what is answered is not kept" if rule.level == "RequestResponse" else ""
            raise SettingsError(f"{flag}: level {rule.level} is not served{more}; one of {', '.join(LEVELS)} would do")
    for stage in (*policy.omitStages, *(stage for rule in policy.rules for stage in rule.omitStages)):
        if stage not in STAGES:
            raise SettingsError(f"{flag}: there is no stage {stage}; some of {', '.join(STAGES)} would do")
    return policy


class Entry(NamedTuple):
    """The facts of one event."""

    level: str
    stage: str
    id: str
    call: Call
    user: User
    impersonated: User | None
    request: Request | None
    verb: str
    code: int
    received: datetime
    told: datetime
    decision: str
    why: str
    lean: bool = False


def check(settings: Settings) -> None:
    """SettingsError for flags that do not go together, or a policy that will not do."""
    if settings.audit_log_path and not settings.audit_policy_file:
        raise SettingsError(f"--audit-log-path={settings.audit_log_path} needs --audit-policy-file, which says what is told")
    if settings.audit_policy_file:
        read_policy(settings.audit_policy_file)
    for flag, value in (("maxsize", settings.audit_log_maxsize), ("maxage", settings.audit_log_maxage), ("maxbackup", settings.audit_log_maxbackup)):
        if value < 0:
            raise SettingsError(f"--audit-log-{flag}={value} is below 0; 10 would do, or 0 for no bound")


def log_of(settings: Settings) -> AuditLog | None:
    """The audit log that the settings ask for."""
    if not settings.audit_log_path:
        return None
    file = RotatedFile(settings.audit_log_path, megabytes=settings.audit_log_maxsize, days=settings.audit_log_maxage, backups=settings.audit_log_maxbackup)
    return AuditLog(file, read_policy(settings.audit_policy_file))


class AuditLog:
    """Takes entries, and writes them to a file."""

    def __init__(self, file: RotatedFile, policy: Policy) -> None:
        self.policy = policy
        self.lost = 0
        self._file = file
        self._queue: deque[Entry] = deque()

    def take(self, entry: Entry) -> None:
        """Put an entry in the queue; when it is full the entry is lost."""
        if len(self._queue) >= LONGEST_QUEUE:
            self.lost += 1
        else:
            self._queue.append(entry)

    def tell(self, visit: Visit, stage: str, code: int) -> None:
        """Take down what happened, as far as the policy wants to know."""
        request, user = visit.request, visit.user
        verb = request.verb if request is not None else visit.call.method.lower()
        level, omitted, lean = self.policy.level(visit.caller, request, verb, visit.call.path)
        if level == "None" or stage in omitted:
            return
        decision = "" if visit.verdict is None and code != 403 else "allow" if visit.verdict is not None else "forbid"
        why = visit.verdict.why if visit.verdict is not None else ""
        impersonated = user if user is not visit.caller else None
        self.take(Entry(level, stage, visit.id, visit.call, visit.caller, impersonated, request, verb, code, visit.received, now(), decision, why, lean))

    async def run(self) -> None:
        """Write what comes, until cancelled; then write what is left."""
        try:
            while True:
                await asyncio.sleep(WRITE_SECONDS)
                if self._queue:
                    await asyncio.to_thread(self.write)
        finally:
            self.write()

    def write(self) -> None:
        """Write what is in the queue."""
        lines = []
        while self._queue:
            lines.append(objects.encode(event_of(self._queue.popleft())) + b"\n")
        if not lines:
            return
        try:
            self._file.append(b"".join(lines))
        except OSError as error:
            self.lost += len(lines)
            log.error("Audit events could not be written", extra={"path": self._file.path, "lost": self.lost, "err": str(error)})


def event_of(entry: Entry) -> Document:
    """The Event document of audit.k8s.io/v1."""
    call, request = entry.call, entry.request
    event: Document = {
        "kind": "Event",
        "apiVersion": API_VERSION,
        "level": entry.level,
        "auditID": entry.id,
        "stage": entry.stage,
        "requestURI": f"{call.path}?{call.query}" if call.query else call.path,
        "verb": entry.verb,
        "user": entry.user.document(),
    }
    if entry.impersonated is not None:
        event["impersonatedUser"] = entry.impersonated.document()
    if call.peer:
        event["sourceIPs"] = [call.peer]
    if agent := call.headers.get("User-Agent", ""):
        event["userAgent"] = agent
    if request is not None:
        event["objectRef"] = _reference(request)
    if entry.code:
        event["responseStatus"] = {"metadata": {}, "code": entry.code}
    if entry.level == "Request" and request is not None and entry.verb in _WITH_BODY and request.sub != "proxy" and call.body:
        event["requestObject"] = _body(call, lean=entry.lean)
    event["requestReceivedTimestamp"] = text_of_micro_time(entry.received)
    event["stageTimestamp"] = text_of_micro_time(entry.told)
    if entry.decision:
        event["annotations"] = {"authorization.k8s.io/decision": entry.decision, "authorization.k8s.io/reason": entry.why}
    return event


def _reference(request: Request) -> Mapping[str, str]:
    resource = request.resource
    named = (
        ("resource", resource.plural), ("namespace", request.namespace), ("name", request.name),
        ("apiGroup", resource.group), ("apiVersion", resource.version), ("subresource", request.sub),
    )  # fmt: skip
    return {field: value for field, value in named if value}


def _body(call: Call, *, lean: bool) -> Any:
    """What was sent, if it is JSON; else what it was."""
    try:
        body = objects.decode(call.body)
        if lean and isinstance(body, dict) and isinstance(metadata := body.get("metadata"), dict):
            metadata.pop("managedFields", None)
        return body
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return {"contentType": call.headers.get("Content-Type", ""), "bytes": len(call.body)}


def now() -> datetime:
    """The time of an event."""
    return datetime.now(UTC)
