"""Nobody comes to more than he has by writing roles and bindings, whatever he tries and in whatever order."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.api.errors import APIError
from twinstack.api.objects import Document, Key, decode, encode
from twinstack.api.resources import BY_PATH
from twinstack.apiserver.app import Application
from twinstack.apiserver.calls import CALLER, User
from twinstack.apiserver.settings import Settings
from twinstack.rules.rbac import GROUP, Attributes
from twinstack.store.memory import MemoryStore

JANE = User("jane", "", ("system:authenticated",))
ROLES, BINDINGS, CLUSTER_ROLES, CLUSTER_BINDINGS = (BY_PATH[GROUP, "v1", plural] for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings"))
VERBS, PLURALS, NAMES = ("get", "create", "*"), ("pods", "secrets", "pods/exec", "*"), ("a", "b")
WRITES = {"verbs": ["create", "update"], "apiGroups": [GROUP], "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"]}

RULES = st.lists(
    st.fixed_dictionaries(
        {
            "verbs": st.lists(st.sampled_from(VERBS), min_size=1, max_size=2),
            "apiGroups": st.just([""]),
            "resources": st.lists(st.sampled_from(PLURALS), min_size=1),
        },
        optional={"resourceNames": st.lists(st.sampled_from(NAMES), min_size=1, max_size=1)},
    ),
    max_size=2,
)
# A write of a role or a binding: what, its name, its rules or the role that it gives to jane.
STEPS = st.lists(
    st.tuples(st.sampled_from((ROLES, CLUSTER_ROLES)), st.sampled_from(NAMES), RULES)
    | st.tuples(
        st.sampled_from((BINDINGS, CLUSTER_BINDINGS)), st.sampled_from("xy"), st.sampled_from([("Role", "a"), ("ClusterRole", "a"), ("ClusterRole", "b")])
    ),
    max_size=8,
)
ASKED = [
    Attributes(verb, "", plural.partition("/")[0], plural.partition("/")[2], namespace, name)
    for verb in ("get", "create", "delete")
    for plural in ("pods", "pods/exec", "secrets", "nodes")
    for namespace in ("", "default")
    for name in ("", "a", "c")
]


def document_of(resource: Any, name: str, content: Any) -> Document:
    metadata = {"name": name} | ({"namespace": "default"} if resource.namespaced else {})
    document: Document = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}
    if resource in (ROLES, CLUSTER_ROLES):
        return document | {"rules": content}
    kind, role = content
    return document | {"subjects": [{"kind": "User", "name": "jane"}], "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}}


@settings(max_examples=60, deadline=None)
@given(RULES, RULES, STEPS)
def test_nobody_comes_to_more_by_writing_roles_and_bindings(owned: list[Document], here: list[Document], steps: list[Any]) -> None:
    asyncio.run(_try(owned, here, steps))


async def _try(owned: list[Document], here: list[Document], steps: list[Any]) -> None:
    app = Application(Settings(data_dir="", service_cluster_ip_range="10.96.0.0/16", store="memory", authorization_mode="RBAC"), MemoryStore())
    changes = app.handlers.changes
    namespaces = BY_PATH["", "v1", "namespaces"]
    await changes.create(namespaces, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}, "")

    async def write(resource: Any, document: Document) -> bool:
        """Make it, or change it if it is there; whether it was let through."""
        encoded = encode(document)
        namespace = document["metadata"].get("namespace", "")
        key = Key(namespace, document["metadata"]["name"])
        try:
            if key in app.cache.collections[resource].items:
                await changes.update(resource, key, lambda _: decode(encoded))
            else:
                await changes.create(resource, decode(encoded), namespace)
        except APIError:
            return False
        return True

    await write(CLUSTER_ROLES, document_of(CLUSTER_ROLES, "everywhere", [*owned, WRITES]))
    await write(ROLES, document_of(ROLES, "here", here))
    await write(CLUSTER_BINDINGS, document_of(CLUSTER_BINDINGS, "everywhere", ("ClusterRole", "everywhere")))
    await write(BINDINGS, document_of(BINDINGS, "here", ("Role", "here")))
    before = {asked for asked in ASKED if app.authorizer.may(JANE, asked)}
    CALLER.set(JANE)
    for resource, name, content in steps:
        await write(resource, document_of(resource, name, content))
        assert {asked for asked in ASKED if app.authorizer.may(JANE, asked)} <= before
