"""Who may do what: one rule, rules that cover rules, and a policy of roles and bindings."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.rules.bootstrap_roles import bootstrap_objects
from twinstack.rules.controller_roles import MANAGER
from twinstack.rules.rbac import Attributes, Policy, Rule, TooManyParts, allows, rule_of, rules_of, uncovered


def rule(verbs: str, groups: str = "", resources: str = "", names: str = "", urls: str = "") -> Rule:
    core = [""] if resources and not groups else []
    return rule_of({
        "verbs": verbs.split(), "apiGroups": core + groups.split(), "resources": resources.split(), "resourceNames": names.split(),
        "nonResourceURLs": urls.split(),
    })  # fmt: skip


POD = Attributes("get", "", "pods", "", "default", "web")


@pytest.mark.parametrize(
    ("one", "asked", "allowed"),
    [
        (rule("get list", resources="pods"), POD, True),
        (rule("list", resources="pods"), POD, False),
        (rule("*", "*", "*"), POD, True),
        (rule("*", "*", "*"), POD._replace(subresource="log"), True),
        (rule("get", resources="pods"), POD._replace(subresource="log"), False),
        (rule("get", resources="pods/log"), POD._replace(subresource="log"), True),
        (rule("get", resources="pods/log"), POD, False),
        (rule("get", resources="*/log"), POD._replace(subresource="log"), True),
        (rule("get", resources="pods/*"), POD._replace(subresource="log"), False),
        (rule("get", "apps", "pods"), POD, False),
        (rule("get", resources="pods", names="web"), POD, True),
        (rule("get", resources="pods", names="other"), POD, False),
        (rule("list", resources="pods", names="web"), Attributes("list", "", "pods", "", "default"), False),
        (rule("get", urls="/healthz /metrics"), Attributes("get", path="/metrics"), True),
        (rule("get", urls="/api/*"), Attributes("get", path="/api/v1"), True),
        (rule("get", urls="/api/*"), Attributes("get", path="/apis"), False),
        (rule("get", urls="*"), Attributes("get", path="/anything"), True),
        (rule("get", urls="*"), Attributes("post", path="/anything"), False),
        (rule("*", "*", "*"), Attributes("get", path="/metrics"), False),
        (rule("get", urls="*"), POD, False),
    ],
)
def test_a_rule_allows_what_all_its_parts_allow(one: Rule, asked: Attributes, allowed: bool) -> None:
    assert allows(one, asked) is allowed


@pytest.mark.parametrize(
    ("owned", "wanted", "missing"),
    [
        ([rule("get", resources="pods"), rule("list", resources="pods")], rule("get list", resources="pods"), 0),
        ([rule("get", resources="pods")], rule("get list", resources="pods"), 1),
        ([rule("get", resources="pods")], rule("get", resources="pods", names="a"), 0),
        ([rule("get", resources="pods", names="a")], rule("get", resources="pods"), 1),
        ([rule("get", resources="pods", names="a b")], rule("get", resources="pods", names="a b"), 0),
        ([rule("get", resources="pods", names="a"), rule("get", resources="pods", names="b")], rule("get", resources="pods", names="a b c"), 1),
        ([rule("get", resources="*")], rule("get", resources="pods pods/log"), 0),
        ([rule("get", resources="pods")], rule("get", resources="*"), 1),
        ([rule("get", resources="*/scale")], rule("get", resources="pods/scale"), 0),
        ([rule("*", "*", "*")], rule("*", "*", "*"), 0),
        ([rule("get list watch", "*", "*")], rule("*", "*", "*"), 1),
        ([rule("get", urls="/api/*")], rule("get", urls="/api/v1 /api/*"), 0),
        ([rule("get", urls="/api/v1")], rule("get", urls="/api/*"), 1),
        ([rule("*", "*", "*")], rule("get", urls="/metrics"), 1),
        ([], rule("get", resources="pods"), 1),
        ([], rule("", resources="pods"), 0),
    ],
)
def test_what_one_does_not_have_is_told_part_by_part(owned: list[Rule], wanted: Rule, missing: int) -> None:
    assert len(uncovered(owned, [wanted])) == missing


def test_a_rule_of_millions_of_parts_is_refused_rather_than_compared() -> None:
    names = " ".join(f"n{i}" for i in range(1000))
    with pytest.raises(TooManyParts, match="single permissions"):
        uncovered([rule("get", resources="pods")], [rule(names, resources=names)])


WORDS = st.sampled_from(["a", "b", "*"])
PLURALS = st.sampled_from(["x", "y", "x/s", "*/s", "*"])
SETS = st.frozensets(WORDS, max_size=2)
RULES = st.builds(Rule, SETS, SETS, st.frozensets(PLURALS, max_size=2), st.frozensets(st.sampled_from("nm"), max_size=1))
ASKED = st.builds(
    Attributes,
    st.sampled_from("abc"),
    st.sampled_from("abc"),
    st.sampled_from("xyz"),
    st.sampled_from(["", "s", "t"]),
    st.just("ns"),
    st.sampled_from(["", "n", "m", "o"]),
    path=st.just(""),  # what a binding in a namespace gives is never a path
)


@given(st.lists(RULES, max_size=3), st.lists(RULES, max_size=3), ASKED)
def test_who_writes_only_what_is_covered_gives_nothing_that_it_does_not_have(owned: list[Rule], wanted: list[Rule], asked: Attributes) -> None:
    if not uncovered(owned, wanted) and any(allows(one, asked) for one in wanted):
        assert any(allows(one, asked) for one in owned)


@given(st.lists(RULES, max_size=4), ASKED)
def test_a_policy_agrees_with_its_rules_one_by_one(rules: list[Rule], asked: Attributes) -> None:
    policy = Policy()
    policy.take_role("", "r", {"rules": [one.document() for one in rules]})
    policy.take_binding("ns", "b", binding("ns", "b", "ClusterRole", "r", "User:jane"))
    for _ in range(2):  # found, then remembered
        assert policy.verdict("jane", (), asked).allowed is any(allows(one, asked) for one in rules)
        assert not policy.verdict("jane", (), asked._replace(namespace="other")).allowed
        assert not policy.verdict("joe", (), asked).allowed


def binding(namespace: str, name: str, kind: str, role: str, *subjects: str) -> dict[str, Any]:
    parsed = [dict(zip(("kind", "name", "namespace"), one.split(":"), strict=False)) for one in subjects]
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"metadata": metadata, "subjects": parsed, "roleRef": {"kind": kind, "name": role}}


READ = {"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}


@pytest.mark.parametrize(
    ("namespace", "kind", "subject", "user", "groups", "where", "allowed"),
    [
        ("", "ClusterRole", "User:jane", "jane", (), "any", True),
        ("", "ClusterRole", "User:jane", "jane", (), "", True),
        ("", "ClusterRole", "Group:dev", "jane", ("dev",), "any", True),
        ("", "ClusterRole", "Group:dev", "dev", (), "any", False),
        ("", "ClusterRole", "ServiceAccount:sa:ns", "system:serviceaccount:ns:sa", (), "any", True),
        ("ns", "ClusterRole", "User:jane", "jane", (), "ns", True),
        ("ns", "ClusterRole", "User:jane", "jane", (), "other", False),
        ("ns", "ClusterRole", "User:jane", "jane", (), "", False),
        ("ns", "Role", "User:jane", "jane", (), "ns", True),
        ("ns", "Role", "ServiceAccount:sa", "system:serviceaccount:ns:sa", (), "ns", True),
        ("ns", "ClusterRole", "Robot:jane", "jane", (), "ns", False),
    ],
)
def test_a_binding_reaches_its_subjects_where_it_stands(
    namespace: str, kind: str, subject: str, user: str, groups: tuple[str, ...], where: str, allowed: bool
) -> None:
    policy = Policy()
    policy.take_role("", "r", READ)
    policy.take_role("ns", "r", READ)
    policy.take_binding(namespace, "b", binding(namespace, "b", kind, "r", subject))
    assert policy.verdict(user, groups, Attributes("get", "", "pods", "", where, "x")).allowed is allowed


def test_a_change_of_a_role_or_a_binding_counts_at_once() -> None:
    policy, asked = Policy(), Attributes("get", "", "pods", "", "ns", "x")
    steps = [
        (lambda: policy.take_binding("", "b", binding("", "b", "ClusterRole", "r", "User:jane")), False),
        (lambda: policy.take_role("", "r", READ), True),
        (lambda: policy.take_role("", "r", {"rules": None}), False),
        (lambda: policy.take_role("", "r", READ), True),
        (lambda: policy.take_binding("", "b", binding("", "b", "ClusterRole", "r", "User:joe")), False),
        (lambda: policy.take_binding("ns", "b", binding("ns", "b", "ClusterRole", "r", "User:jane")), True),
        (lambda: policy.take_binding("ns", "b", None), False),
    ]
    for step, allowed in steps:
        step()
        assert policy.verdict("jane", (), asked).allowed is allowed


def test_a_verdict_says_how_it_came_about() -> None:
    policy = Policy()
    policy.take_role("", "r", READ)
    policy.take_binding("", "b", binding("", "b", "ClusterRole", "r", "Group:dev"))
    assert policy.verdict("jane", ("dev",), POD).why == 'RBAC: ClusterRoleBinding "b" gives ClusterRole "r" to Group "dev"'


def first_policy() -> Policy:
    policy = Policy()
    for document in bootstrap_objects():
        take = policy.take_role if document["kind"] == "ClusterRole" else policy.take_binding
        take("", document["metadata"]["name"], document)
    return policy


FIRST = first_policy()
SOMEBODY = ("system:authenticated",)


def account(name: str) -> str:
    """The user that a controller is."""
    return f"system:serviceaccount:kube-system:{name}"


@pytest.mark.parametrize(
    ("user", "groups", "asked", "allowed"),
    [
        ("root", ("system:masters",), POD._replace(verb="delete"), True),
        ("root", ("system:masters",), Attributes("get", path="/metrics"), True),
        ("jane", SOMEBODY, Attributes("get", path="/apis/apps/v1"), True),
        ("jane", SOMEBODY, Attributes("get", path="/metrics"), False),
        ("jane", SOMEBODY, Attributes("create", "authorization.k8s.io", "selfsubjectaccessreviews"), True),
        ("jane", SOMEBODY, Attributes("create", "authorization.k8s.io", "subjectaccessreviews"), False),
        ("jane", SOMEBODY, POD, False),
        ("system:anonymous", ("system:unauthenticated",), Attributes("get", path="/version"), True),
        ("system:anonymous", ("system:unauthenticated",), Attributes("get", path="/api"), False),
        ("system:kube-proxy", SOMEBODY, Attributes("watch", "discovery.k8s.io", "endpointslices"), True),
        ("system:kube-proxy", SOMEBODY, Attributes("list", "", "secrets"), False),
        ("system:kube-proxy", SOMEBODY, Attributes("list", "", "pods"), False),
        ("system:kube-scheduler", SOMEBODY, Attributes("create", "", "pods", "binding", "ns", "p"), True),
        ("system:kube-scheduler", SOMEBODY, Attributes("create", "", "pods", "", "ns"), False),
        ("system:kube-scheduler", SOMEBODY, Attributes("get", "", "secrets", "", "ns", "s"), False),
        (MANAGER, SOMEBODY, Attributes("watch", "", "secrets"), True),
        (MANAGER, SOMEBODY, Attributes("create", "discovery.k8s.io", "endpointslices", "", "ns"), False),
        (MANAGER, SOMEBODY, Attributes("delete", "", "pods", "", "ns", "p"), False),
        (MANAGER, SOMEBODY, Attributes("update", "coordination.k8s.io", "leases", "", "kube-system", "kube-controller-manager"), True),
        (MANAGER, SOMEBODY, Attributes("create", "", "serviceaccounts", "token", "kube-system", "node-controller"), True),
        (MANAGER, SOMEBODY, Attributes("create", "", "serviceaccounts", "token", "kube-system", "kube-dns"), False),
        (account("endpointslice-controller"), SOMEBODY, Attributes("create", "discovery.k8s.io", "endpointslices", "", "ns"), True),
        (account("endpointslice-controller"), SOMEBODY, Attributes("delete", "", "pods", "", "ns", "p"), False),
        (account("replicaset-controller"), SOMEBODY, Attributes("delete", "", "pods", "", "ns", "p"), True),
        (account("replicaset-controller"), SOMEBODY, Attributes("get", "", "secrets", "", "ns", "s"), False),
        (account("replicaset-controller"), SOMEBODY, Attributes("update", "", "services", "", "ns", "s"), False),
        (account("clusterrole-aggregation-controller"), SOMEBODY, Attributes("escalate", "rbac.authorization.k8s.io", "clusterroles"), True),
        (account("clusterrole-aggregation-controller"), SOMEBODY, Attributes("bind", "rbac.authorization.k8s.io", "clusterroles", name="admin"), False),
        (account("pod-garbage-collector"), SOMEBODY, Attributes("get", "", "nodes", name="n"), True),
        (account("pod-garbage-collector"), SOMEBODY, Attributes("delete", "", "pods", "", "ns", "p"), True),
        (account("pod-garbage-collector"), SOMEBODY, Attributes("create", "", "pods", "", "ns"), False),
        (account("generic-garbage-collector"), SOMEBODY, Attributes("delete", "", "secrets", "", "ns", "s"), True),
        (account("generic-garbage-collector"), SOMEBODY, Attributes("create", "", "pods", "", "ns"), False),
        (account("generic-garbage-collector"), SOMEBODY, Attributes("escalate", "rbac.authorization.k8s.io", "clusterroles"), False),
        ("system:serviceaccount:default:replicaset-controller", SOMEBODY, Attributes("delete", "", "pods", "", "ns", "p"), False),
        ("system:kube-dns", SOMEBODY, Attributes("watch", "", "services"), True),
        ("system:kube-dns", SOMEBODY, Attributes("update", "", "services"), False),
        ("system:node:node1", ("system:nodes", *SOMEBODY), Attributes("get", "", "nodes", name="node1"), False),
        ("twinstack:node-router", SOMEBODY, Attributes("list", "", "nodes"), True),
        ("system:node-problem-detector", SOMEBODY, Attributes("patch", "", "nodes", "status", name="n"), True),
        ("system:node-problem-detector", SOMEBODY, Attributes("patch", "", "nodes", name="n"), False),
        ("system:serviceaccount:x:y", ("system:serviceaccounts",), Attributes("get", path="/openid/v1/jwks"), True),
    ],
)
def test_the_first_roles_give_each_component_its_work_and_no_more(user: str, groups: tuple[str, ...], asked: Attributes, allowed: bool) -> None:
    assert FIRST.verdict(user, groups, asked).allowed is allowed


@pytest.mark.parametrize(
    ("role", "asked", "allowed"),
    [
        ("view", POD, True),
        ("view", Attributes("get", "", "secrets", "", "default", "s"), False),
        ("view", Attributes("create", "", "pods", "exec", "default", "p"), False),
        ("view", Attributes("get", "rbac.authorization.k8s.io", "roles", "", "default", "r"), False),
        ("edit", Attributes("get", "", "secrets", "", "default", "s"), True),
        ("edit", Attributes("create", "apps", "deployments", "", "default"), True),
        ("edit", Attributes("create", "networking.k8s.io", "networkpolicies", "", "default"), True),
        ("edit", Attributes("create", "rbac.authorization.k8s.io", "rolebindings", "", "default"), False),
        ("edit", Attributes("update", "", "services", "status", "default", "s"), False),
        ("admin", Attributes("create", "rbac.authorization.k8s.io", "rolebindings", "", "default"), True),
        ("admin", Attributes("create", "authorization.k8s.io", "localsubjectaccessreviews", "", "default"), True),
        ("admin", Attributes("delete", "", "namespaces", "", "default", "default"), False),
        ("admin", Attributes("delete", "", "nodes", name="n"), False),
    ],
)
def test_view_edit_and_admin_are_what_everybody_knows(role: str, asked: Attributes, allowed: bool) -> None:
    policy = first_policy()
    policy.take_binding("default", "b", binding("default", "b", "ClusterRole", role, "User:jane"))
    assert policy.verdict("jane", (), asked).allowed is allowed


def test_each_of_view_edit_and_admin_holds_the_one_before() -> None:
    roles = {one["metadata"]["name"]: rules_of(one) for one in bootstrap_objects() if one["kind"] == "ClusterRole"}
    assert not uncovered(roles["edit"], roles["view"])
    assert not uncovered(roles["admin"], roles["edit"])
    assert uncovered(roles["view"], roles["edit"])
    assert not uncovered(roles["cluster-admin"], [one for rules in roles.values() for one in rules])


def test_a_verdict_that_was_found_before_takes_a_few_microseconds() -> None:
    policy = first_policy()
    for number in range(500):
        policy.take_binding(f"ns{number}", "b", binding(f"ns{number}", "b", "ClusterRole", "edit", f"User:u{number}", "Group:dev"))
    asked = [Attributes("get", "", "services", "", f"ns{number}", f"s{number}") for number in range(50)]
    for one in asked:
        assert policy.verdict("jane", ("dev", "system:authenticated"), one).allowed
    start = time.perf_counter()
    for _ in range(100):
        for one in asked:
            policy.verdict("jane", ("dev", "system:authenticated"), one)
    assert (time.perf_counter() - start) / 5000 < 15e-6
