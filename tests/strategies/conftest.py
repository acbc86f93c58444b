"""A server without its HTTP door: the real cache, changes, deletions and strategies over a store in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from twinstack.api.errors import APIError
from twinstack.api.objects import Document, Key, decode, encode
from twinstack.api.patches import merge_patch
from twinstack.api.resources import RESOURCES, Resource
from twinstack.apiserver.allocators import IP_ADDRESSES, SERVICES, Context
from twinstack.apiserver.bootstrap import Bootstrap
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.changes import Changes
from twinstack.apiserver.deletions import Deletions
from twinstack.apiserver.strategies.table import strategies
from twinstack.rules.cidrs import parse_service_ranges
from twinstack.store.memory import MemoryStore

BY_PLURAL = {resource.plural: resource for resource in RESOURCES if not resource.kept_as}
OBSERVED = ("services", "servicecidrs", "ipaddresses", "nodes")


class Settings:
    """What the bootstrap is told."""

    def __init__(self, advertise_address: str = "192.0.2.1", kubernetes_service_node_port: int = 0) -> None:
        self.kubernetes_service_node_port = kubernetes_service_node_port
        self.advertise_address = advertise_address
        self.secure_port = 6443
        self.endpoint_reconciler_type = "lease"
        self.sockets = ()


class Server:
    """Requests as methods; a refusal is the APIError that the door would tell."""

    def __init__(self, ranges: str, *, store: MemoryStore | None = None, node_ports: tuple[int, int] = (30000, 32767), seed: int = 1) -> None:
        self.store = store or MemoryStore()
        self.cache = Cache()
        self.context = Context(parse_service_ranges(ranges), node_ports=node_ports, chance=random.Random(seed))
        self.cache.install(strategies(self.context))
        self.cache.load(self.store)
        self.context.load(self.cache)
        self.cache.observe(self._observe)
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.changes = Changes(self.cache, self.store, lambda: self.now, random.Random(seed))
        self.deletions = Deletions(self.changes)
        self.warnings: list[str] = []

    def _observe(self, resource: Resource, before: Any, after: Any) -> None:
        if resource.plural in OBSERVED:
            self.context.observe(resource, before.raw_document() if before else None, after.raw_document() if after else None)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def post(self, plural: str | Resource, document: Document, *, namespace: str = "default", dry_run: bool = False) -> Document:
        resource = BY_PLURAL[plural] if isinstance(plural, str) else plural
        document = decode(encode({"apiVersion": resource.api_version, "kind": resource.kind, **document}))
        outcome = await self.changes.create(resource, document, namespace if resource.namespaced else "", dry_run=dry_run)
        self.warnings = list(outcome.warnings)
        return decode(outcome.data)

    async def put(self, plural: str, document: Document, *, sub: str = "", dry_run: bool = False) -> Document:
        return await self._change(plural, document["metadata"]["name"], lambda _: decode(encode(document)), sub=sub, dry_run=dry_run, create=True)

    async def patch(self, plural: str, name: str, patch: Document, *, sub: str = "", dry_run: bool = False) -> Document:
        return await self._change(plural, name, lambda stored: merge_patch(stored, decode(encode(patch))), sub=sub, dry_run=dry_run)

    async def _change(self, plural: str, name: str, change: Callable[[Document], Document], *, sub: str, dry_run: bool, create: bool = False) -> Document:
        resource = BY_PLURAL[plural]
        key = Key("default" if resource.namespaced else "", name)
        outcome = await self.changes.update(resource, key, change, subresource=sub, dry_run=dry_run, create=create)
        self.warnings = list(outcome.warnings)
        return decode(outcome.data)

    async def delete(self, plural: str, name: str, *, namespace: str = "default") -> None:
        resource = BY_PLURAL[plural]
        await self.deletions.delete(resource, Key(namespace if resource.namespaced else "", name))

    @staticmethod
    def key(name: str) -> Key:
        return Key("default", name)

    @staticmethod
    def resource(plural: str) -> Resource:
        return BY_PLURAL[plural]

    def get(self, plural: str, name: str, *, namespace: str = "default") -> Document | None:
        resource = BY_PLURAL[plural]
        return self.cache.get(resource, Key(namespace if resource.namespaced else "", name))

    def names(self, plural: str) -> list[str]:
        return [document["metadata"]["name"] for document in self.cache.list(BY_PLURAL[plural])]

    async def service(self, name: str = "web", **spec: Any) -> Document:
        """Create a Service with a port and a selector, unless *spec* says otherwise."""
        whole = {"selector": {"app": "web"}, "ports": [{"port": 80}], **spec}
        return await self.post("services", {"metadata": {"name": name}, "spec": {key: value for key, value in whole.items() if value is not None}})

    async def refusal(self, request: Any) -> APIError:
        """The error of a request that must be refused."""
        try:
            answer = await request
        except APIError as error:
            return error
        raise AssertionError(f"it was accepted: {answer}")

    async def causes(self, request: Any) -> list[tuple[str, str]]:
        """The fields and reasons of a refusal."""
        error = await self.refusal(request)
        return sorted({(cause["field"], cause["reason"]) for cause in error.causes})

    # ---- the hand of the bootstrap (strategies.base.API)

    @property
    def reader(self) -> Cache:
        return self.cache

    def bootstrap(self, **settings: Any) -> Bootstrap:
        return Bootstrap(Hand(self), self.context, Settings(**settings), lambda: self.now)

    async def store_directly(self, plural: str, document: Document) -> None:
        """Write an object as somebody would who does not ask this server."""
        collection = self.cache.collections[BY_PLURAL[plural]]
        await self.store.commit([collection.write(document, None)])

    def leaks(self) -> list[str]:
        """What is taken and by nobody held, or held and not recorded; empty when all agrees."""
        held, ports = set(), set()
        for service in self.cache.list(SERVICES):
            spec = service["spec"]
            held |= {ip for ip in spec.get("clusterIPs") or () if ip != "None"}
            ports |= {port["nodePort"] for port in spec.get("ports") or () if port.get("nodePort")} | {spec.get("healthCheckNodePort", 0)}
        ports -= {0}
        recorded = {document["metadata"]["name"] for document in self.cache.list(IP_ADDRESSES)}
        taken = {str(family.address(number)) for family in self.context.families for number in self.context.addresses._taken[family]}
        found = [f"{ip} is held and not recorded" for ip in held - recorded] + [f"{ip} is recorded and not held" for ip in recorded - held]
        found += [f"{ip} is taken and not recorded" for ip in taken - recorded] + [f"{ip} is recorded and not taken" for ip in recorded - taken]
        taken_ports = set(self.context.ports._pool.taken)
        return found + [f"port {port} differs" for port in ports ^ taken_ports]


class Hand:
    """The server's own hand on itself."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def reader(self) -> Cache:
        return self._server.cache

    async def create(self, resource: Resource, document: Document) -> Document:
        return await self._server.post(resource, document, namespace=document["metadata"].get("namespace", ""))

    async def update(self, resource: Resource, document: Document, subresource: str = "") -> Document:
        return await self._server.put(resource.plural, document, sub=subresource)

    async def delete(self, resource: Resource, key: Key) -> None:
        await self._server.delete(resource.plural, key.name, namespace=key.namespace)


RANGES = {
    "v4": "10.96.0.0/16",
    "v6": "fd00:10:96::/112",
    "v4v6": "10.96.0.0/16,fd00:10:96::/112",
    "v6v4": "fd00:10:96::/112,10.96.0.0/16",
}


@pytest.fixture
def new_server():
    """Make a server with its system namespaces and default range; ``bare`` leaves the kubernetes Service out."""

    async def make(ranges: str = "v4v6", *, bare: bool = True, **options: Any) -> Server:
        server = Server(RANGES.get(ranges, ranges), **options)
        bootstrap = server.bootstrap()
        if bare:
            await bootstrap._keep_namespaces()
            await bootstrap._keep_default_cidr()
        else:
            assert await bootstrap.first_pass()
        return server

    return make


# ---- one good object of each kind that is served

CONTAINER = {"name": "c", "image": "example.com/c:1"}
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [CONTAINER]}}
WORKLOAD = {"selector": {"matchLabels": {"app": "x"}}, "template": TEMPLATE}
SAMPLES = {
    "namespaces": {"metadata": {"name": "a"}},
    "nodes": {"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}, "status": {"capacity": {"cpu": "2000m"}}},
    "pods": {
        "metadata": {"name": "a"},
        "spec": {
            "containers": [{**CONTAINER, "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}}, "env": [{"name": "A", "value": "1"}],
                            "volumeMounts": [{"name": "v", "mountPath": "/v"}], "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v", "configMap": {"name": "x"}}],
            "tolerations": [{"operator": "Exists"}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}},
        },
    },
    "services": {
        "metadata": {"name": "a"},
        "spec": {"ports": [{"port": 80}], "type": "LoadBalancer", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"]},
    },
    "endpoints": {"metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": "10.1.0.1"}], "ports": [{"port": 80}]}]},
    "configmaps": {"metadata": {"name": "a"}, "data": {"k": "v"}, "binaryData": {"b": "AAE="}},
    "secrets": {"metadata": {"name": "a"}, "stringData": {"k": "v"}, "data": {"l": "dg=="}},
    "serviceaccounts": {"metadata": {"name": "a"}},
    "events": {"metadata": {"name": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "source": {"component": "c"}},
    "deployments": {"metadata": {"name": "a"}, "spec": {**WORKLOAD, "strategy": {"rollingUpdate": {"maxSurge": 1}}}},
    "replicasets": {"metadata": {"name": "a"}, "spec": WORKLOAD},
    "statefulsets": {"metadata": {"name": "a"}, "spec": {**WORKLOAD, "serviceName": "a"}},
    "jobs": {"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}, "completions": 2}},
    "cronjobs": {
        "metadata": {"name": "a"},
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": {"containers": [CONTAINER], "restartPolicy": "Never"}}}}},
    },
    "priorityclasses": {"metadata": {"name": "a"}, "value": 1000},
    "poddisruptionbudgets": {"metadata": {"name": "a"}, "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "x"}}}},
    "controllerrevisions": {"metadata": {"name": "a"}, "data": {"spec": {}}, "revision": 3},
    "replicationcontrollers": {"metadata": {"name": "a"}, "spec": {"template": TEMPLATE}},
    "daemonsets": {"metadata": {"name": "a"}, "spec": {"selector": WORKLOAD["selector"], "template": WORKLOAD["template"], "minReadySeconds": 1}},
    "leases": {"metadata": {"name": "a"}, "spec": {"holderIdentity": "h", "leaseDurationSeconds": 15}},
    "endpointslices": {
        "metadata": {"name": "a"}, "addressType": "IPv6", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["fd00:1::1"], "hints": {"forZones": [{"name": "z"}]}}],
    },
    "roles": {"metadata": {"name": "a"}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": []}]},
    "clusterroles": {"metadata": {"name": "system:a"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]},
    "rolebindings": {"metadata": {"name": "a"}, "subjects": [{"kind": "User", "name": "u"}], "roleRef": {"kind": "Role", "name": "a"}},
    "clusterrolebindings": {
        "metadata": {"name": "system:a"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "s"}],
        "roleRef": {"kind": "ClusterRole", "name": "system:a"},
    },
    "networkpolicies": {
        "metadata": {"name": "a"},
        "spec": {
            "podSelector": {"matchLabels": {"a": "b"}},
            "ingress": [{"from": [{"ipBlock": {"cidr": "fd00::/8", "except": ["fd00:1::/64"]}}, {"namespaceSelector": {}}],
                         "ports": [{"port": 80, "endPort": 90}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "http"}]}],
        },
    },
    "servicecidrs": {"metadata": {"name": "a"}, "spec": {"cidrs": ["10.1.0.0/24"]}},
    "ipaddresses": {"metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "a"}}},
}  # fmt: skip


@pytest.fixture(scope="session")
def samples():
    """One good object of each kind, by plural; nobody changes them."""
    return SAMPLES


@pytest.fixture(scope="session", params=SAMPLES)
def plural(request):
    """Each kind in turn, by its plural."""
    return request.param
