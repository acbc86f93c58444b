"""Services: families and addresses are resolved and allocated before anything else is judged (spec/api.md 0.3 and 0.4)."""

from __future__ import annotations

from collections.abc import Mapping

from twinstack.api import kinds
from twinstack.api.errors import FieldProblem, invalid
from twinstack.api.objects import Document, Key, view_of
from twinstack.api.resources import Resource, resource_of
from twinstack.apiserver.allocators import Context, PortRequest
from twinstack.apiserver.strategies.base import Transaction
from twinstack.apiserver.strategies.typed import Typed
from twinstack.net.family import Family
from twinstack.rules import nodeports, services
from twinstack.rules.families import CLUSTER_TYPES, NONE, Resolution, is_settled, resolve
from twinstack.rules.names import label_problem
from twinstack.rules.service_validation import problems_with_balancer_status, problems_with_service
from twinstack.rules.windows import problems_with_windows_service


class Services(Typed):
    """Resolve, allocate, then judge; what was allocated goes back when anything after it fails."""

    has_status = True
    creates_on_update = True
    allocates = True

    def __init__(self, resource: Resource, context: Context) -> None:
        super().__init__(resource)
        self._context = context

    def fill(self, document: Document) -> None:
        services.default_service(document)

    def name_problem(self, name: str) -> str | None:
        return label_problem(name)

    def is_shown(self, document: Document) -> bool:
        return services.is_shown(document)

    def on_read(self, document: Document) -> None:
        if not services.is_shown(document):
            services.show(document, cluster=self._context.families)

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        document["status"] = {"loadBalancer": {}}
        spec = document["spec"]
        services.reconcile(spec, None)
        resolution = self._resolve(document, None)
        if _needs_addresses(spec):
            families = [Family(name) for name in resolution.families]
            _write_addresses(spec, self._context.allocate(document, families, spec.get("clusterIPs") or (), transaction))
        ports = PortRequest(self._context.ports, transaction)
        name = document["metadata"].get("name", "")
        if spec["type"] in ("NodePort", "LoadBalancer"):
            _stop_at(nodeports.plan_create(spec, ports, name=name), name)
        _stop_at(nodeports.plan_health_check(spec, None, ports, name=name), name)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if subresource:
            return
        if not services.is_shown(before):
            before = {**before, "spec": dict(before.get("spec") or {})}
            services.show(before, cluster=self._context.families)
        spec, old, name = after["spec"], before["spec"], after["metadata"].get("name", "")
        if spec["type"] != "LoadBalancer":
            after["status"] = {**(after.get("status") or {}), "loadBalancer": {}}
        if spec == old and is_settled(spec, cluster=self._context.families):
            return
        services.carry_over(spec, old)
        services.reconcile(spec, old)
        resolution = self._resolve(after, before)
        self._change_addresses(after, before, resolution, transaction)
        ports = PortRequest(self._context.ports, transaction)
        if spec["type"] in ("NodePort", "LoadBalancer"):
            _stop_at(nodeports.plan_update(spec, old, ports, name=name), name)
        _stop_at(nodeports.plan_health_check(spec, old, ports, name=name), name)
        services.wipe(spec, old)

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        return problems_with_service(view_of(kinds.Service, document))

    def problems_with_sent(self, sent: Document, before: Document, subresource: str) -> list[FieldProblem]:
        is_balancer = subresource == "status" and (before.get("spec") or {}).get("type") == "LoadBalancer"
        return services.problems_with_modes_sent(sent) if is_balancer else []

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        if not subresource and after["spec"] == before.get("spec") and after["metadata"].get("annotations") == before["metadata"].get("annotations"):
            return []  # what is judged here was judged when it was written
        new, old = view_of(kinds.Service, after), view_of(kinds.Service, before)
        if subresource == "status":
            return list(problems_with_balancer_status(new.status.loadBalancer, old.status.loadBalancer, type_=new.spec.type))
        return problems_with_service(new, old)

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        spec, annotations = view_of(kinds.ServiceSpec, after["spec"]), after["metadata"].get("annotations") or {}
        windows = problems_with_windows_service(spec, tuple(self._context.windows_nodes.values()))
        return [*services.warnings_about(spec, annotations), *services.status_warnings(after), *windows]

    def fields(self, document: Document) -> Mapping[str, str]:
        spec = document.get("spec") or {}
        return {"spec.clusterIP": spec.get("clusterIP", ""), "spec.type": spec.get("type", "")}

    def after_delete(self, document: Document, transaction: Transaction) -> None:
        spec = document.get("spec") or {}
        self._context.release(document, _addresses(spec), transaction)
        transaction.delete(resource_of(kinds.Endpoints), Key(document["metadata"].get("namespace", ""), document["metadata"]["name"]))

    def _resolve(self, after: Document, before: Document | None) -> Resolution:
        spec = after["spec"]
        found = resolve(
            view_of(kinds.ServiceSpec, spec),
            view_of(kinds.ServiceSpec, before["spec"]) if before else None,
            cluster=self._context.families,
        )
        if isinstance(found, list):
            raise invalid("Service", after["metadata"].get("name", ""), found)
        if spec["type"] != "ExternalName":
            if found.policy is not None:
                spec["ipFamilyPolicy"] = found.policy
            spec["ipFamilies"] = list(found.families)
            _write_addresses(spec, list(found.cluster_ips))
        return found

    def _change_addresses(self, after: Document, before: Document, resolution: Resolution, transaction: Transaction) -> None:
        """Take what the new families lack, and give back what the new Service no longer names."""
        spec, old = after["spec"], before["spec"]
        if old.get("type") == "ExternalName":
            if _needs_addresses(spec):
                families = [Family(name) for name in resolution.families]
                _write_addresses(spec, self._context.allocate(after, families, spec.get("clusterIPs") or (), transaction))
        elif spec["type"] == "ExternalName":
            self._context.release(before, _addresses(old), transaction)
        elif not resolution.settled and _needs_addresses(spec) and _addresses(old):
            had, has = len(old.get("ipFamilies") or ()), len(resolution.families)
            texts = spec.get("clusterIPs") or []
            if had == 1 and has == 2:
                second = self._context.allocate(after, [Family(resolution.families[1])], texts[1:2], transaction)
                _write_addresses(spec, [*texts[:1], *second])
            elif had == 2 and has == 1:
                self._context.release(before, _addresses(old)[1:], transaction)


def _needs_addresses(spec: Document) -> bool:
    return spec.get("type") in CLUSTER_TYPES and spec.get("clusterIP") != NONE


def _addresses(spec: Document) -> list[str]:
    single = spec.get("clusterIP")
    return [text for text in spec.get("clusterIPs") or ([single] if single else ()) if text != NONE]


def _write_addresses(spec: Document, texts: list[str]) -> None:
    if texts:
        spec["clusterIP"], spec["clusterIPs"] = texts[0], texts
    else:
        spec.pop("clusterIPs", None)


def _stop_at(problems: list[FieldProblem], name: str) -> None:
    if problems:
        raise invalid("Service", name, problems)
