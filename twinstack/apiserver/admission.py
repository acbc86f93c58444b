"""What may be written once it is known who writes: no role gives more than its writer has, no kubelet writes for another node.

Rule of this file: it looks at whole documents, after the caller was authorized for the kind and name. What the server writes
by itself has no caller and passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twinstack.api import errors, kinds
from twinstack.api.errors import Forbidden
from twinstack.api.objects import Document, Key
from twinstack.api.resources import Resource, resource_of
from twinstack.apiserver.authorization import Authorizer
from twinstack.apiserver.calls import CALLER, User
from twinstack.apiserver.service_accounts import ServiceAccountAdmission
from twinstack.apiserver.settings import Settings, SettingsError
from twinstack.rules import node_access
from twinstack.rules.rbac import ALL, GROUP, MASTERS, Attributes, Rule, TooManyParts, binding_of, rules_of, uncovered

_EVERYTHING: Final = (Rule(frozenset((ALL,)), frozenset((ALL,)), frozenset((ALL,))), Rule(frozenset((ALL,)), urls=frozenset((ALL,))))
_BINDING_KINDS: Final = ("RoleBinding", "ClusterRoleBinding")
_PODS: Final = resource_of(kinds.Pod)


PLUGINS: Final = {"ServiceAccount": False, "NodeRestriction": True, "NamespaceLifecycle": True}  # by name, whether it is on by itself
_ALWAYS_ON: Final = ("NodeRestriction", "NamespaceLifecycle")


def plugins_of(settings: Settings) -> frozenset[str]:
    """The admission plugins that are on; SettingsError for one that is not known, or that cannot be off."""
    for flag, names in (("enable", settings.enable_admission_plugins), ("disable", settings.disable_admission_plugins)):
        for name in names:
            if name not in PLUGINS:
                raise SettingsError(f"--{flag}-admission-plugins={name} is not served; some of {', '.join(PLUGINS)} would do")
    off = set(settings.disable_admission_plugins)
    for name in _ALWAYS_ON:
        if name in off:
            raise SettingsError(f"--disable-admission-plugins={name}: it cannot be switched off here")
    on = {name for name, by_itself in PLUGINS.items() if by_itself} | set(settings.enable_admission_plugins)
    return frozenset(on - off)


class Admission:
    """Looks at what is about to be written. ``service_accounts`` is None where pods are left as they are."""

    def __init__(self, authorizer: Authorizer, service_accounts: ServiceAccountAdmission | None = None) -> None:
        self._authorizer = authorizer
        self._service_accounts = service_accounts
        self._restricts_nodes = "Node" in authorizer.modes

    async def ready(self, resource: Resource, document: Document) -> None:
        """Wait a little where a new object needs what a controller is about to make."""
        if resource is _PODS and self._service_accounts is not None:
            await self._service_accounts.ready(document)

    def new(self, resource: Resource, document: Document) -> None:
        """A new object, before its defaults; Forbidden when the caller may not make it."""
        if resource is _PODS and self._service_accounts is not None:
            self._service_accounts.admit(document)
        caller = CALLER.get()
        if caller is not None:
            metadata = document["metadata"]
            # Who creates by PUT or by apply was asked for another verb than this.
            asked = Attributes("create", resource.group, resource.plural, "", metadata.get("namespace", ""), metadata.get("name", ""))
            self._authorizer.check(caller, asked)
            self._look(caller, resource, document, None, "")

    def changed(self, resource: Resource, after: Document, before: Document, subresource: str) -> None:
        """A changed object; Forbidden when the caller may not change it so."""
        caller = CALLER.get()
        if caller is not None:
            self._look(caller, resource, after, before, subresource)

    def _look(self, caller: User, resource: Resource, after: Document, before: Document | None, subresource: str) -> None:
        if resource.group == GROUP:
            if resource.kind in _BINDING_KINDS:
                self._look_at_binding(caller, resource, after, before)
            else:
                self._look_at_role(caller, resource, after, before)
        elif self._restricts_nodes and caller.name.startswith(node_access.PREFIX) and MASTERS not in caller.groups:
            node = node_access.node_name(caller.name, caller.groups)
            why = node_access.restriction(node, resource.plural, after, before, subresource) if node else None
            if why:
                raise _forbidden(resource, after, why)

    def _look_at_role(self, caller: User, resource: Resource, after: Document, before: Document | None) -> None:
        wanted = after.get("rules") or ()
        aggregated = after.get("aggregationRule") is not None and after.get("aggregationRule") != (before or {}).get("aggregationRule")
        if not aggregated and before is not None and wanted == (before.get("rules") or []):
            return
        metadata = after["metadata"]
        namespace = metadata.get("namespace", "")
        if self._authorizer.may(caller, Attributes("escalate", GROUP, resource.plural, namespace=namespace, name=metadata.get("name", ""))):
            return
        if aggregated:
            self._hold(caller, resource, after, namespace, _EVERYTHING, "what a ClusterRole gathers from others could be anything")
        self._hold(caller, resource, after, namespace, rules_of(after), "a role may not hold what its writer does not have")

    def _look_at_binding(self, caller: User, resource: Resource, after: Document, before: Document | None) -> None:
        if before is not None and (after.get("subjects"), after.get("roleRef")) == (before.get("subjects"), before.get("roleRef")):
            return
        binding = binding_of(after)
        role_namespace, role_name = binding.role
        plural = "roles" if role_namespace else "clusterroles"
        if self._authorizer.may(caller, Attributes("bind", GROUP, plural, namespace=binding.namespace, name=role_name)):
            return
        rules = self._authorizer.policy.role(role_namespace, role_name)
        if rules is None:
            raise errors.not_found(plural, role_name, group=GROUP)
        self._hold(caller, resource, after, binding.namespace, rules, "a binding may not give what its writer does not have")

    def _hold(self, caller: User, resource: Resource, document: Document, namespace: str, wanted: Sequence[Rule], why: str) -> None:
        """Forbidden unless the caller has all of these rules."""
        try:
            missing = uncovered(self._authorizer.policy.rules(caller.name, caller.groups, namespace), wanted)
        except TooManyParts as error:
            raise _forbidden(resource, document, str(error)) from error
        if missing:
            shown = "; ".join(str(rule.document()) for rule in missing[:5]) + ("; …" if len(missing) > 5 else "")
            raise _forbidden(resource, document, f'user "{caller.name}" (groups={list(caller.groups)}) lacks: {shown} ({why})')


def _forbidden(resource: Resource, document: Document, why: str) -> Forbidden:
    name = (document.get("metadata") or {}).get("name", "")
    return Forbidden(f'{resource.qualified} "{name}" is forbidden: {why}', group=resource.group, kind=resource.plural, name=name)


def token_refusal(caller: User, account: Key, document: Document, pod_node: str | None) -> str | None:
    """Why a kubelet may not have this token; None when it may, or when it is no kubelet. *pod_node* is the node of the pod that is named."""
    node = node_access.node_name(caller.name, caller.groups)
    if not node or MASTERS in caller.groups:
        return None
    reference = (document.get("spec") or {}).get("boundObjectRef") or {}
    if reference.get("kind") != "Pod" or not reference.get("uid"):
        return "a kubelet asks for tokens that are bound to a pod, by its uid"
    return None if pod_node == node else f"the pod does not belong to node {node}"
