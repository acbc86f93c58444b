"""The audit log: who did what, as far as its policy wants to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from twinstack.apiserver.audit import check, log_of, read_policy
from twinstack.apiserver.settings import Settings, SettingsError

HEAD = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n"
POLICY = (
    HEAD
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
