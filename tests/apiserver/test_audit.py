"""The audit log: who did what, as far as its policy wants to know."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from twinstack.apiserver.audit import check, log_of, read_policy
from twinstack.apiserver.audit_files import RotatedFile
from twinstack.apiserver.settings import Settings, SettingsError

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
POLICY = (
    HEAD.replace("rules:", "omitStages: [RequestReceived]\nrules:")
    + """
- {level: None, users: ["system:kube-proxy"]}
- {level: None, nonResourceURLs: ["/readyz*"]}
- {level: Request, verbs: [create], resources: [{group: "", resources: [configmaps]}]}
- {level: None, resources: [{group: "", resources: [secrets]}], namespaces: [quiet]}
- level: Metadata
"""
)


async def test_each_request_is_told_once_as_much_as_the_policy_says(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    path = tmp_path / "audit.log"
    api = await serve(audit_log_path=str(path), audit_policy_file=str(tmp_path / "policy.yaml"), authorization_mode="RBAC")
    got = await api.ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "a"}, "data": {"k": "v"}}, headers={"User-Agent": "test/1"})
    await api.get("/api/v1/namespaces/default/configmaps/none")
    await api.get("/readyz")
    await api.get("/version")
    await api.get("/api/v1/namespaces/quiet/secrets")
    await api.ask("GET", "/api/v1/nodes", headers={"Impersonate-User": "jane"})
    async with api.watch("/api/v1/namespaces?timeoutSeconds=1"):
        pass
    await api.stop()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    told = [(one["verb"], one["level"], one.get("responseStatus", {}).get("code"), one["stage"]) for one in events]
    assert told[:4] == [
        ("create", "Request", 201, "ResponseComplete"),
        ("get", "Metadata", 404, "ResponseComplete"),
        ("get", "Metadata", 200, "ResponseComplete"),
        ("list", "Metadata", 403, "ResponseComplete"),
    ]
    assert told[4] == ("watch", "Metadata", 200, "ResponseStarted")
    first = events[0]
    assert first["requestObject"]["data"] == {"k": "v"} and first["userAgent"] == "test/1" and first["sourceIPs"] == ["127.0.0.1"]
    assert first["objectRef"] == {"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}
    assert first["user"]["username"] == "admin" and first["auditID"] == got.headers["Audit-Id"]
    assert first["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert events[3]["impersonatedUser"]["username"] == "jane" and events[3]["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert len({one["auditID"] for one in events[:4]}) == 4 and "requestObject" not in events[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- nonsense", "is not an audit policy"),
        ("apiVersion: v1\nkind: Policy\nrules: [{level: None}]", "would do"),
        (HEAD.replace("rules:\n", "rules: []"), "has no rule"),
        (HEAD + "- level: RequestResponse", "what is answered is not kept"),
        (HEAD + "- level: Everything", "one of None, Metadata, Request would do"),
        (HEAD + "- {level: None, users: 5}", "is not an audit policy"),
        (HEAD + "- {level: Metadata, omitStages: [Received]}", "there is no stage Received"),
    ],
)
def test_a_policy_that_will_not_do_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        read_policy(str(path))


def test_a_log_without_a_policy_or_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--audit-policy-file"):
        check(Settings(data_dir="", audit_log_path=str(tmp_path / "audit.log")))
    (tmp_path / "policy.yaml").write_text(POLICY)
    with pytest.raises(SettingsError, match="cannot be written"):
        log_of(Settings(data_dir="", audit_log_path=str(tmp_path / "none" / "audit.log"), audit_policy_file=str(tmp_path / "policy.yaml")))


async def test_a_request_is_told_when_it_comes_and_when_it_is_answered_and_a_watch_when_it_begins_and_ends(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(HEAD + "- {level: None, verbs: [list], omitStages: []}\n- {level: Request, omitManagedFields: true}\n")
    path = tmp_path / "audit.log"
    api = await serve(audit_log_path=str(path), audit_policy_file=str(tmp_path / "policy.yaml"))
    await api.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "a", "managedFields": [{"manager": "x"}]}})
    await api.get("/version")
    async with api.watch("/api/v1/namespaces?timeoutSeconds=1") as watch:
        await watch.rest()
    await api.stop()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(one["verb"], one["stage"], one.get("responseStatus", {}).get("code")) for one in events] == [
        ("create", "RequestReceived", None),
        ("create", "ResponseComplete", 201),
        ("get", "RequestReceived", None),
        ("get", "ResponseComplete", 200),
        ("watch", "RequestReceived", None),
        ("watch", "ResponseStarted", 200),
        ("watch", "ResponseComplete", 200),
    ]
    assert len({one["auditID"] for one in events}) == 3 and "annotations" not in events[0] and "annotations" in events[1]
    assert events[1]["requestObject"]["metadata"] == {"name": "a"}


class Calendar:
    """A clock for file names."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


def test_a_full_file_is_put_aside_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    clock = Calendar()
    (tmp_path / "audit-notes.log").write_text("somebody else's")
    file = RotatedFile(str(tmp_path / "audit.log"), megabytes=1, days=2, backups=3, now=clock)
    line = b"x" * (700 << 10) + b"\n"
    for _ in range(2):
        file.append(line)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit-2026-01-02T03-04-05.000.log", "audit-notes.log", "audit.log"]
    file.append(line)  # within the same millisecond
    assert (tmp_path / "audit-2026-01-02T03-04-05.001.log").read_bytes() == line
    for _ in range(3):
        file.append(line)
    assert len(list(tmp_path.glob("audit-2026*.log"))) == 3, "no more than three are kept"
    clock.moment += timedelta(days=3)
    file.append(line)
    assert [one.name for one in tmp_path.glob("audit-2026*.log")] == ["audit-2026-01-05T03-04-05.000.log"], "none is kept for longer than two days"
    assert (tmp_path / "audit-notes.log").exists() and (tmp_path / "audit.log").read_bytes() == line


def test_nothing_is_lost_between_two_files(tmp_path: Path) -> None:
    file = RotatedFile(str(tmp_path / "audit.log"), megabytes=1)
    lines = [b"%06d %b\n" % (number, b"y" * 40_000) for number in range(100)]
    for line in lines:
        file.append(line)
    kept = b"".join(one.read_bytes() for one in (*sorted(tmp_path.glob("audit-*.log")), tmp_path / "audit.log"))
    assert kept == b"".join(lines) and len(list(tmp_path.iterdir())) > 2


def test_a_bound_below_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    with pytest.raises(SettingsError, match="--audit-log-maxage=-1"):
        check(Settings(data_dir="", audit_log_path="-", audit_policy_file=str(tmp_path / "policy.yaml"), audit_log_maxage=-1))
