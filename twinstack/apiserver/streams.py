"""A pod's log, passed on from the kubelet of its node as it comes."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from twinstack.api import errors
from twinstack.api.errors import BadRequest, FieldProblem, ProblemType
from twinstack.api.objects import Document, Key
from twinstack.api.resources import BY_PATH
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.calls import Reaction
from twinstack.apiserver.http import Kubelets
from twinstack.apiserver.requests import Request
from twinstack.apiserver.settings import Settings
from twinstack.net.cidr import host_port

NODES: Final = BY_PATH["", "v1", "nodes"]
_OPTIONS: Final = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_COUNTS: Final = ("sinceSeconds", "tailLines", "limitBytes")


class KubeletLogs:
    """Finds a pod's kubelet and hands its answer through."""

    def __init__(self, cache: Cache, settings: Settings) -> None:
        self._cache = cache
        self._kubelets = Kubelets(settings.kubelet_client_certificate, settings.kubelet_client_key, settings.kubelet_certificate_authority)

    async def react(self, request: Request, pod: Document) -> Reaction:
        """The log of one of the pod's containers; BadRequest, Invalid, NotFound or ServiceUnavailable when there is none to be had."""
        name = request.name
        query = request.query
        container = _container(pod, query.text("container"))
        for option in _COUNTS:
            number = query.number(option)
            if number is not None and number < (1 if option != "tailLines" else 0):
                raise errors.invalid("PodLogOptions", name, [FieldProblem(option, ProblemType.INVALID, number, "must be greater than 0")])
        node_name = (pod.get("spec") or {}).get("nodeName", "")
        if not node_name:
            raise BadRequest(f'container "{container}" in pod "{name}" is waiting to start: the pod has no node yet')
        host, port = self._kubelet(node_name)
        options = urlencode({option: query.text(option) for option in _OPTIONS if query.text(option)})
        url = f"https://{host_port(host, port)}/containerLogs/{request.namespace}/{name}/{container}"
        return await self._kubelets.get(url, options, follow=query.flag("follow"))

    def _kubelet(self, node_name: str) -> tuple[str, int]:
        """Where a node's kubelet listens: its first internal address, of whichever family comes first for the node."""
        node = self._cache.get(NODES, Key("", node_name))
        if node is None:
            raise errors.ServiceUnavailable(f'the pod\'s node "{node_name}" does not exist')
        status = node.get("status") or {}
        address = next((one.get("address") for one in status.get("addresses") or () if one.get("type") == "InternalIP"), None)
        if not address:
            raise errors.ServiceUnavailable(f'node "{node_name}" has no internal address')
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        return address, int(endpoint.get("Port") or 10250)


def _container(pod: Document, asked: str) -> str:
    """The container meant: the one asked for, or the only one."""
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    names = [one.get("name", "") for one in spec.get("containers") or ()]
    if not asked:
        if len(names) == 1:
            return str(names[0])
        raise BadRequest(f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]")
    everyone = names + [one.get("name", "") for kind in ("initContainers", "ephemeralContainers") for one in spec.get(kind) or ()]
    if asked not in everyone:
        raise BadRequest(f"container {asked} is not valid for pod {name}")
    return asked
