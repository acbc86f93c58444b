"""Where a ``proxy`` subresource leads: from a node's, pod's or Service's name to an address and a port.

Rule of this file: objects in, a target or a failure out; nothing is connected to.

Theory. The name in the path may carry more than a name: ``NAME``, ``NAME:PORT``, ``SCHEME:NAME:PORT``. A node's own port leads to its kubelet, to which the
API server shows its client certificate; everything else is reached as anybody would reach it. A Service's ports go by their names, and one of its
ready endpoints is chosen at random. Addresses that mean the machine of the API server itself, or its link, are refused: nobody is to
reach by the API server what only the API server can reach (CVE-2020-8562).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from twinstack.api import errors
from twinstack.api.errors import BadRequest, ServiceUnavailable
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_PATH, Resource
from twinstack.apiserver.cache import Cache
from twinstack.net.cidr import host_port, parse_address
from twinstack.net.errors import AddressError

NODES: Final = BY_PATH["", "v1", "nodes"]
PODS: Final = BY_PATH["", "v1", "pods"]
SERVICES: Final = BY_PATH["", "v1", "services"]
ENDPOINTS: Final = BY_PATH["", "v1", "endpoints"]
_KUBELET_PORT: Final = 10250
_PORTS: Final = {"http": 80, "https": 443}


class Target(NamedTuple):
    """Whom to ask; a kubelet's own door wants to know who we are."""

    scheme: str
    address: str
    port: int
    is_kubelet: bool = False

    @property
    def origin(self) -> str:
        """``https://[fd00::1]:8443``"""
        return f"{self.scheme}://{host_port(self.address, self.port)}"


def target_of(cache: Cache, resource: Resource, namespace: str, words: str) -> Target:
    """Where the proxy of an object leads; BadRequest, NotFound or ServiceUnavailable when it leads nowhere."""
    scheme, name, port = _split(resource, words)
    if resource is NODES:
        return _of_node(cache, scheme, name, port)
    if resource is PODS:
        return _of_pod(_found(cache, PODS, Key(namespace, name)), scheme, port)
    return _of_service(cache, namespace, scheme, name, port, words)


def _split(resource: Resource, words: str) -> tuple[str, str, str]:
    """Scheme, name and port, each empty where nothing is said of it."""
    parts = words.split(":")
    scheme, name, port = ("", *parts, "")[:3] if len(parts) < 3 else (parts[0], parts[1], parts[2])
    if len(parts) > 3 or not name or scheme not in ("", *_PORTS):
        raise BadRequest(f'invalid {resource.singular} request "{words}"')
    return scheme or "http", name, port


def kubelet_of(node: Document) -> tuple[str, int]:
    """Where a node's kubelet listens: its first internal address, of whichever family comes first for the node; ServiceUnavailable when it has none."""
    status = node.get("status") or {}
    address = next((one.get("address") for one in status.get("addresses") or () if one.get("type") == "InternalIP"), None)
    if not address:
        raise ServiceUnavailable(f'node "{node["metadata"]["name"]}" has no internal address')
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    return address, int(endpoint.get("Port") or _KUBELET_PORT)


def _of_node(cache: Cache, scheme: str, name: str, port: str) -> Target:
    address, own = kubelet_of(_found(cache, NODES, Key("", name)))
    if port in ("", str(own)):
        return Target("https", address, own, is_kubelet=True)
    return Target(scheme, _allowed(address), _number(port))


def _of_pod(pod: Document, scheme: str, port: str) -> Target:
    """The port that is asked for, or the first that the pod tells of."""
    addresses = _addresses(pod)
    address = _allowed(next(addresses, ""))
    if port:
        return Target(scheme, address, _number(port))
    told = (one["containerPort"] for container in pod["spec"]["containers"] for one in container.get("ports") or ())
    return Target(scheme, address, next(told, _PORTS[scheme]))


def _of_service(cache: Cache, namespace: str, scheme: str, name: str, port: str, words: str) -> Target:
    if port.isdecimal():
        ports = (_found(cache, SERVICES, Key(namespace, name)).get("spec") or {}).get("ports") or ()
        named = next((one.get("name", "") for one in ports if one.get("port") == int(port)), None)
        if named is None:
            raise ServiceUnavailable(f'no service port {port} found for service "{name}"')
        port = named
    if cache.get(ENDPOINTS, Key(namespace, name)) is None:
        _found(cache, SERVICES, Key(namespace, name))  # a Service whose endpoints nobody has looked for yet has none
    subsets = (cache.get(ENDPOINTS, Key(namespace, name)) or {}).get("subsets") or ()
    if not subsets:
        raise ServiceUnavailable(f'no endpoints available for service "{name}"')
    for subset in random.sample(subsets, len(subsets)):
        addresses = subset.get("addresses") or ()
        for number in [int(one["port"]) for one in subset.get("ports") or () if one.get("name", "") == port][:1]:
            for one in random.sample(addresses, len(addresses)):
                if _is_pods_own(cache, namespace, one):
                    return Target(scheme, _allowed(one["ip"]), number)
    raise ServiceUnavailable(f'no endpoints available for service "{words}"')


def _is_pods_own(cache: Cache, namespace: str, endpoint: Mapping[str, Any]) -> bool:
    """Whether an endpoint is a pod of the Service's namespace: whoever may write Endpoints must not choose whom the API server calls."""
    reference = endpoint.get("targetRef") or {}
    if reference.get("kind") != "Pod" or reference.get("namespace") != namespace:
        return False
    pod = cache.get(PODS, Key(namespace, reference.get("name", "")))
    return pod is not None and endpoint.get("ip") in list(_addresses(pod))


def _addresses(pod: Document) -> Iterator[str]:
    status = pod.get("status") or {}
    listed = [one["ip"] for one in status.get("podIPs") or () if one.get("ip")]
    return iter(listed or filter(None, [status.get("podIP")]))


def _found(cache: Cache, resource: Resource, key: Key) -> Document:
    found = cache.get(resource, key)
    if found is None:
        raise errors.not_found(resource.plural, key.name, group=resource.group)
    return found


def _allowed(text: str) -> str:
    """The address; BadRequest when it is none, or one that no pod has for others."""
    try:
        address = parse_address(text)
    except AddressError as error:
        raise BadRequest("address not allowed") from error
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        raise BadRequest("address not allowed")
    return str(address)


def _number(port: str) -> int:
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadRequest(f"{port[:40]!r} is no number of a port")
    return int(port)
