"""Who may do what, asked of a whole server that decides by Node and RBAC."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from twinstack.client.certificates import issue, new_authority

RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLES, BINDINGS = f"{RBAC}/namespaces/default/roles", f"{RBAC}/namespaces/default/rolebindings"
CLUSTER_ROLES, CLUSTER_BINDINGS = f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings"
SELF = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
CONTAINER = {"name": "c", "image": "twinstack.dev/host:1"}
USERS = {
    "jane-token": 'jane,2,"dev"',
    "node-token": 'system:node:node1,3,"system:nodes"',
    "proxy-token": "system:kube-proxy,4",
}


class As:
    """Somebody at the door."""

    def __init__(self, api: Any, token: str) -> None:
        self._api, self._token = api, token

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        kind = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {}
        return await self._api.ask(method, path, body, headers={"Authorization": f"Bearer {self._token}", **kind, **headers})

    async def code(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        return int((await self(method, path, body, **headers)).code)


@pytest.fixture
async def guarded(serve: Any, tmp_path: Path) -> Any:
    """A server of modes Node,RBAC; the admin, jane, a node and the proxy have tokens."""
    api = await serve(authorization_mode="Node,RBAC", token_auth_file=str(_tokens(tmp_path)))
    for account in ("default", "robot"):
        await api.made("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": account}})
    return api


def _tokens(tmp_path: Path) -> Path:
    path = tmp_path / "users.csv"
    path.write_text('a-token-for-tests,admin,1,"system:masters"\n' + "".join(f"{token},{user}\n" for token, user in USERS.items()))
    return path


def role(name: str, *rules: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "rules": [{"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split(), **more} for verbs, group, resources in rules],
    }


def binding(name: str, kind: str, role_name: str, *users: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "subjects": [{"kind": "User", "name": user} for user in users], "roleRef": {"kind": kind, "name": role_name}}


async def test_nobody_may_anything_until_a_binding_says_so_and_not_after_it_has_gone(guarded: Any) -> None:
    jane, pods = As(guarded, "jane-token"), "/api/v1/namespaces/default/pods"
    got = await jane("GET", pods)
    assert (got.code, got.reason) == (403, "Forbidden")
    assert got.message == 'pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default"'
    assert got.document["details"] == {"kind": "pods"}
    await guarded.made(BINDINGS, binding("jane", "ClusterRole", "view", "jane"))
    assert await jane.code("GET", pods) == 200
    assert await jane.code("GET", "/api/v1/pods") == 403
    assert await jane.code("GET", "/api/v1/namespaces/default") == 200, "a namespace is in itself"
    assert await jane.code("GET", "/api/v1/namespaces/kube-system") == 403
    assert await jane.code("GET", "/api/v1/namespaces/default/secrets") == 403
    assert await jane.code("POST", pods, {"metadata": {"name": "a"}, "spec": {"containers": [CONTAINER]}}) == 403
    assert (await guarded.delete(f"{BINDINGS}/jane")).code == 200
    assert await jane.code("GET", pods) == 403


async def test_what_is_no_object_is_asked_for_too(guarded: Any) -> None:
    jane = As(guarded, "jane-token")
    assert [await jane.code("GET", path) for path in ("/version", "/api", "/apis/apps/v1", "/openapi/v3", "/readyz")] == [200] * 5
    got = await jane("GET", "/metrics")
    assert (got.code, got.message) == (403, 'forbidden: User "jane" cannot get path "/metrics"')
    for path, code in (("/version", 200), ("/livez", 200), ("/readyz/ping", 200), ("/api", 401), ("/metrics", 401), ("/api/v1/pods", 401)):
        assert (await guarded.ask("GET", path, headers={"Authorization": ""})).code == code


async def test_nobody_gives_by_a_role_or_a_binding_what_he_does_not_have(guarded: Any) -> None:
    jane = As(guarded, "jane-token")
    await guarded.made(BINDINGS, binding("jane", "ClusterRole", "admin", "jane"))
    assert await jane.code("POST", ROLES, role("readers", ("get list", "", "pods"))) == 201
    got = await jane("POST", ROLES, role("widest", ("*", "*", "*")))
    assert got.code == 403 and "lacks" in got.message
    assert await jane.code("POST", ROLES, role("nodes", ("delete", "", "nodes"))) == 403
    assert await jane.code("PATCH", f"{ROLES}/readers", {"rules": role("x", ("*", "", "pods"))["rules"]}) == 403
    assert await jane.code("PATCH", f"{ROLES}/readers", {"metadata": {"labels": {"a": "b"}}}) == 200
    assert await jane.code("PUT", f"{ROLES}/other", role("other", ("*", "*", "*"))) == 403
    assert await jane.code("POST", BINDINGS, binding("joe", "Role", "readers", "joe")) == 201
    assert await jane.code("POST", BINDINGS, binding("joes", "ClusterRole", "edit", "joe")) == 201
    assert await jane.code("POST", BINDINGS, binding("all", "ClusterRole", "cluster-admin", "jane")) == 403
    assert await jane.code("POST", BINDINGS, binding("none", "ClusterRole", "does-not-exist", "jane")) == 404
    assert await jane.code("POST", CLUSTER_BINDINGS, binding("all", "ClusterRole", "view", "jane")) == 403


async def test_escalate_and_bind_are_verbs_of_their_own(guarded: Any) -> None:
    jane = As(guarded, "jane-token")
    group = "rbac.authorization.k8s.io"
    await guarded.made(ROLES, role("may", ("create update", group, "roles rolebindings"), ("escalate", group, "roles")))
    await guarded.made(BINDINGS, binding("may", "Role", "may", "jane"))
    await guarded.made(CLUSTER_ROLES, role("binder", ("bind", group, "clusterroles"), resourceNames=["edit"]))
    await guarded.made(BINDINGS, binding("binder", "ClusterRole", "binder", "jane"))
    assert await jane.code("POST", ROLES, role("widest", ("*", "*", "*"))) == 201
    assert await jane.code("POST", BINDINGS, binding("wide", "Role", "widest", "joe")) == 403
    assert await jane.code("POST", BINDINGS, binding("edit", "ClusterRole", "edit", "joe")) == 201
    assert await jane.code("POST", BINDINGS, binding("admin", "ClusterRole", "admin", "joe")) == 403


async def test_an_aggregating_role_takes_everything_to_write(guarded: Any) -> None:
    jane = As(guarded, "jane-token")
    await guarded.made(CLUSTER_ROLES, role("roles", ("create", "rbac.authorization.k8s.io", "clusterroles")))
    await guarded.made(CLUSTER_BINDINGS, binding("roles", "ClusterRole", "roles", "jane"))
    gathering = {"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors": [{}]}}
    assert await jane.code("POST", CLUSTER_ROLES, gathering) == 403
    assert (await guarded.post(CLUSTER_ROLES, gathering)).code == 201


@pytest.mark.parametrize(
    ("path", "document", "field"),
    [
        (ROLES, {"metadata": {"name": "a"}, "rules": [{"apiGroups": [""], "resources": ["pods"]}]}, "rules[0].verbs"),
        (ROLES, {"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "resources": ["pods"]}]}, "rules[0].apiGroups"),
        (ROLES, {"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "apiGroups": [""]}]}, "rules[0].resources"),
        (ROLES, {"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}, "rules[0].nonResourceURLs"),
        (CLUSTER_ROLES, {"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/*/x"]}]}, "rules[0].nonResourceURLs[0]"),
        (CLUSTER_ROLES, {"metadata": {"name": "a"}, "aggregationRule": {}}, "aggregationRule.clusterRoleSelectors"),
        (ROLES, {"metadata": {"name": "a%b"}, "rules": []}, "metadata.name"),
        (BINDINGS, {"metadata": {"name": "a"}, "roleRef": {"kind": "Robot", "name": "r"}}, "roleRef.kind"),
        (BINDINGS, {"metadata": {"name": "a"}, "roleRef": {"kind": "Role"}}, "roleRef.name"),
        (CLUSTER_BINDINGS, {"metadata": {"name": "a"}, "roleRef": {"kind": "Role", "name": "r"}}, "roleRef.kind"),
        (BINDINGS, {**binding("a", "Role", "r"), "subjects": [{"kind": "Robot", "name": "x"}]}, "subjects[0].kind"),
        (BINDINGS, {**binding("a", "Role", "r"), "subjects": [{"kind": "User"}]}, "subjects[0].name"),
        (BINDINGS, {**binding("a", "Role", "r"), "subjects": [{"kind": "User", "name": "x", "apiGroup": "y"}]}, "subjects[0].apiGroup"),
        (CLUSTER_BINDINGS, {**binding("a", "ClusterRole", "r"), "subjects": [{"kind": "ServiceAccount", "name": "x"}]}, "subjects[0].namespace"),
    ],
)
async def test_what_is_wrong_with_a_role_or_a_binding_is_told_by_its_field(api: Any, path: str, document: dict[str, Any], field: str) -> None:
    got = await api.post(path, document)
    assert got.code == 422 and [cause["field"] for cause in got.document["details"]["causes"]] == [field]


async def test_the_role_of_a_binding_does_not_change(api: Any) -> None:
    await api.made(BINDINGS, binding("a", "Role", "r", "jane"))
    got = await api.patch(f"{BINDINGS}/a", {"roleRef": {"name": "other"}})
    assert got.code == 422 and got.document["details"]["causes"][0]["field"] == "roleRef"


async def test_a_node_reaches_its_own_and_nothing_of_another_node(guarded: Any) -> None:
    node = As(guarded, "node-token")
    assert await node.code("POST", "/api/v1/nodes", {"metadata": {"name": "node2"}}) == 403
    assert await node.code("POST", "/api/v1/nodes", {"metadata": {"name": "node1"}}) == 201
    await guarded.made("/api/v1/nodes", {"metadata": {"name": "node2"}})
    assert await node.code("GET", "/api/v1/nodes/node1") == 200
    assert await node.code("GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dnode1") == 200
    assert await node.code("GET", "/api/v1/nodes/node2") == await node.code("GET", "/api/v1/nodes") == 403
    assert await node.code("PATCH", "/api/v1/nodes/node1", {"metadata": {"labels": {"node-role.kubernetes.io/x": "y"}}}) == 403
    assert await node.code("PATCH", "/api/v1/nodes/node1/status", {"status": {"phase": ""}}) == 200
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    assert await node.code("POST", leases, {"metadata": {"name": "node2"}, "spec": {}}) == 403
    assert await node.code("POST", leases, {"metadata": {"name": "node1"}, "spec": {}}) == 201

    pods, secrets = "/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/secrets"
    for number in ("1", "2"):
        await guarded.made(secrets, {"metadata": {"name": f"secret{number}"}})
        volumes = [{"name": "v", "secret": {"secretName": f"secret{number}"}}]
        spec = {"nodeName": f"node{number}", "containers": [CONTAINER], "volumes": volumes, "serviceAccountName": "robot"}
        await guarded.made(pods, {"metadata": {"name": f"pod{number}"}, "spec": spec})
    assert await node.code("GET", f"{secrets}/secret1") == 200
    assert await node.code("GET", f"{secrets}/secret2") == await node.code("GET", secrets) == 403
    assert await node.code("GET", f"{pods}?fieldSelector=spec.nodeName%3Dnode1") == 200
    assert await node.code("GET", f"{pods}/pod1") == 200
    assert await node.code("GET", f"{pods}/pod2") == await node.code("GET", pods) == 403
    assert await node.code("PATCH", f"{pods}/pod1/status", {"status": {"message": "x"}}) == 200
    assert await node.code("PATCH", f"{pods}/pod2/status", {"status": {"message": "x"}}) == 403
    assert await node.code("POST", pods, {"metadata": {"name": "new"}, "spec": {"nodeName": "node1", "containers": [CONTAINER]}}) == 403

    uid = (await guarded.get(f"{pods}/pod1")).document["metadata"]["uid"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "pod1", "uid": uid}
    tokens = "/api/v1/namespaces/default/serviceaccounts/robot/token"
    assert await node.code("POST", tokens, {"spec": {"boundObjectRef": bound}}) == 201
    assert await node.code("POST", tokens, {"spec": {}}) == 403
    assert await node.code("POST", tokens, {"spec": {"boundObjectRef": {**bound, "name": "pod2", "uid": "x"}}}) in (403, 409)
    assert await node.code("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", {"spec": {}}) == 403
    assert (await guarded.delete(f"{pods}/pod1", {"gracePeriodSeconds": 0})).code == 200
    assert await node.code("GET", f"{secrets}/secret1") == 403, "no pod of the node refers to it any more"


async def test_reviews_answer_what_the_server_would_do(guarded: Any) -> None:
    jane = As(guarded, "jane-token")

    async def may(**wanted: str) -> bool:
        got = await jane("POST", SELF, {"spec": {"resourceAttributes": wanted}})
        assert got.code == 201
        return bool(got.document["status"]["allowed"])

    assert not await may(verb="list", resource="pods", namespace="default")
    await guarded.made(BINDINGS, binding("jane", "ClusterRole", "view", "jane"))
    assert await may(verb="list", resource="pods", namespace="default")
    assert not await may(verb="list", resource="pods")
    reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    wanted = {"verb": "list", "resource": "pods", "namespace": "default"}
    assert await jane.code("POST", reviews, {"spec": {"user": "jane", "resourceAttributes": wanted}}) == 403
    got = await guarded.post(reviews, {"spec": {"user": "jane", "resourceAttributes": wanted}})
    assert got.document["status"]["allowed"] and 'RoleBinding "jane/default"' in got.document["status"]["reason"]
    local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews"
    assert (await guarded.post(local, {"spec": {"user": "joe", "resourceAttributes": wanted}})).document["status"] == {"allowed": False}
    assert (await guarded.post(local, {"spec": {"user": "joe", "resourceAttributes": {**wanted, "namespace": "x"}}})).code == 400
    assert (await guarded.post(SELF, {"spec": {}})).code == 422
    paths = {"nonResourceAttributes": {"path": "/metrics", "verb": "get"}}
    assert (await jane("POST", SELF, {"spec": paths})).document["status"]["allowed"] is False
    rules = await jane("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", {"spec": {"namespace": "default"}})
    assert any("pods" in rule["resources"] and "list" in rule["verbs"] for rule in rules.document["status"]["resourceRules"])
    me = await jane("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert me.document["status"]["userInfo"] == {"username": "jane", "uid": "2", "groups": ["dev", "system:authenticated"]}


async def test_who_may_calls_as_somebody_else(guarded: Any) -> None:
    jane, pods = As(guarded, "jane-token"), "/api/v1/namespaces/default/pods"
    as_joe = {"Impersonate-User": "joe"}
    assert await jane.code("GET", pods, **as_joe) == 403
    await guarded.made(BINDINGS, binding("joe", "ClusterRole", "view", "joe"))
    await guarded.made(CLUSTER_ROLES, role("impersonator", ("impersonate", "", "users"), resourceNames=["joe"]))
    await guarded.made(CLUSTER_BINDINGS, binding("jane", "ClusterRole", "impersonator", "jane"))
    assert await jane.code("GET", pods, **as_joe) == 200
    assert await jane.code("GET", pods, **as_joe, **{"Impersonate-Group": "system:masters"}) == 403
    assert await jane.code("GET", pods, **{"Impersonate-User": "kate"}) == 403
    assert await jane.code("GET", pods, **{"Impersonate-Group": "dev"}) == 400
    who = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    headers = {"Impersonate-User": "system:serviceaccount:default:robot", "Impersonate-Extra-scopes": "view"}
    got = await guarded.ask("POST", who, {}, headers=headers)
    assert got.document["status"]["userInfo"] == {
        "username": "system:serviceaccount:default:robot",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
        "extra": {"scopes": ["view"]},
    }


@pytest.mark.parametrize(("mode", "code"), [("AlwaysAllow", 200), ("AlwaysDeny", 403), ("AlwaysDeny,AlwaysAllow", 200), ("RBAC", 403), ("Node", 403)])
async def test_modes_are_asked_in_order(serve: Any, tmp_path: Path, mode: str, code: int) -> None:
    api = await serve(authorization_mode=mode, token_auth_file=str(_tokens(tmp_path)))
    assert await As(api, "jane-token").code("GET", "/api/v1/nodes") == code


async def test_a_bad_token_beside_a_good_certificate_does_no_harm(serve: Any, tmp_path: Path) -> None:
    authority = new_authority("clients")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    pair = issue(authority, common_name="jane", client=True)
    (tmp_path / "client.crt").write_bytes(pair.certificate)
    (tmp_path / "client.key").write_bytes(pair.key)
    api = await serve(client_ca_file=str(tmp_path / "ca.crt"))
    api.show(tmp_path / "client.crt", tmp_path / "client.key")
    who = await As(api, "a.b.c")("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
    assert who.document["status"]["userInfo"]["username"] == "jane"


async def test_what_somebody_took_from_the_first_roles_comes_back_with_the_next_start(serve: Any) -> None:
    api = await serve(authorization_mode="RBAC")
    names = {one["metadata"]["name"] for one in (await api.get(CLUSTER_ROLES)).document["items"]}
    assert {"cluster-admin", "admin", "edit", "view", "system:node", "system:discovery", "system:kube-scheduler"} <= names
    await api.patch(f"{CLUSTER_ROLES}/system:discovery", {"rules": None})
    await api.patch(
        f"{CLUSTER_ROLES}/system:basic-user", {"rules": None, "metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}}
    )
    await api.patch(f"{CLUSTER_BINDINGS}/system:discovery", {"subjects": None})
    await api.delete(f"{CLUSTER_ROLES}/view")
    await api.stop()
    again = await serve(authorization_mode="RBAC")
    assert "/api" in str((await again.get(f"{CLUSTER_ROLES}/system:discovery")).document["rules"])
    assert (await again.get(f"{CLUSTER_ROLES}/system:basic-user")).document["rules"] is None
    assert (await again.get(f"{CLUSTER_BINDINGS}/system:discovery")).document["subjects"][0]["name"] == "system:authenticated"
    assert (await again.get(f"{CLUSTER_ROLES}/view")).code == 200


@pytest.mark.slow
async def test_kubectl_asks_who_may_and_who_it_is(guarded: Any, tmp_path: Path, kubectl_minor: int) -> None:
    async def kubectl(*words: str, token: str = "a-token-for-tests") -> tuple[int, str]:
        argv = ["kubectl", "--kubeconfig=/dev/null", f"--cache-dir={tmp_path}", f"--server={guarded.url}", f"--token={token}", "--insecure-skip-tls-verify"]
        process = await asyncio.create_subprocess_exec(*argv, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    assert await kubectl("auth", "can-i", "delete", "pods") == (0, "yes\n")
    assert (await kubectl("auth", "can-i", "list", "pods", token="jane-token"))[1].startswith("no")
    assert (await kubectl("create", "role", "readers", "--verb=get,list", "--resource=pods"))[0] == 0
    assert (await kubectl("create", "rolebinding", "jane", "--role=readers", "--user=jane"))[0] == 0
    assert await kubectl("auth", "can-i", "list", "pods", token="jane-token") == (0, "yes\n")
    listed = (await kubectl("auth", "can-i", "--list", token="jane-token"))[1]
    assert any(line.split()[0] == "pods" and "[get list]" in line for line in listed.splitlines() if line.split())
    shown = (await kubectl("get", "rolebindings", "-o", "wide"))[1].splitlines()
    assert shown[0].split() == ["NAME", "ROLE", "AGE", "USERS", "GROUPS", "SERVICEACCOUNTS"] and "Role/readers" in shown[1]
    if kubectl_minor >= 28:  # older ones have neither command
        who = (await kubectl("auth", "whoami", "-o", "json", token="jane-token"))[1]
        assert json.loads(who)["status"]["userInfo"]["username"] == "jane"
        code, token = await kubectl("create", "token", "robot")
        assert code == 0
        who = (await kubectl("auth", "whoami", "-o", "json", token=token.strip()))[1]
        assert json.loads(who)["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
    (tmp_path / "review.json").write_text(
        json.dumps({**review, "spec": {"user": "jane", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}})
    )
    assert json.loads((await kubectl("create", "-f", str(tmp_path / "review.json"), "-o", "json"))[1])["status"]["allowed"] is True
    assert "reconciled" in (await kubectl("auth", "reconcile", "-f", str(_reconciled(tmp_path))))[1]


def _reconciled(tmp_path: Path) -> Path:
    path = tmp_path / "role.json"
    path.write_text(json.dumps({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", **role("more", ("get", "", "pods"))}))
    return path


async def test_what_is_passed_on_is_allowed_by_the_method_and_the_subresource(guarded: Any) -> None:
    jane, there = As(guarded, "jane-token"), "/api/v1/namespaces/default/pods/none/proxy/x"
    await guarded.made(ROLES, role("looking", ("get", "", "pods/proxy")))
    assert await jane.code("GET", there) == 403
    await guarded.made(BINDINGS, binding("looking", "Role", "looking", "jane"))
    assert [await jane.code(method, there) for method in ("GET", "HEAD")] == [404, 404]
    assert [await jane.code(method, there) for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")] == [403] * 5
    assert await jane.code("GET", "/api/v1/namespaces/default/services/none/proxy/x") == 403
