"""What goes on between a client and a pod: its log, commands in it, its ports; handed through to the kubelet of its node and back.

Streams are WebSockets. What can be wrong with a request is said before the connection is upgraded, so that any client can read it;
what goes wrong in the pod comes from the kubelet through the stream.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from twinstack.api import channels, errors
from twinstack.api.errors import BadRequest, FieldProblem, ProblemType
from twinstack.api.objects import Document, Key
from twinstack.apiserver.cache import Cache
from twinstack.apiserver.calls import Call, Reaction
from twinstack.apiserver.requests import Request
from twinstack.apiserver.settings import Settings
from twinstack.apiserver.targets import NODES, kubelet_of
from twinstack.net.cidr import host_port

if TYPE_CHECKING:
    from twinstack.apiserver.kubelets import Kubelets

_OPTIONS: Final = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream")
_DOORS: Final = {"exec": "exec", "attach": "attach", "portforward": "portForward"}  # subresource → the kubelet's path
_COUNTS: Final = ("sinceSeconds", "tailLines", "limitBytes")


class Kubelet:
    """Finds a pod's kubelet and hands its answers through."""

    def __init__(self, cache: Cache, settings: Settings) -> None:
        self._cache = cache
        self._files = (settings.kubelet_client_certificate, settings.kubelet_client_key, settings.kubelet_certificate_authority)

    @cached_property
    def _kubelets(self) -> Kubelets:
        """Made when the first log or stream is asked for: its library takes a third of a second to import, and 10 MB."""
        from twinstack.apiserver.kubelets import Kubelets

        return Kubelets(*self._files)

    async def logs(self, request: Request, pod: Document) -> Reaction:
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

    async def stream(self, request: Request, call: Call, pod: Document) -> Reaction:
        """Exec, attach or port-forward; BadRequest or ServiceUnavailable when it cannot be.

        A client that asks for SPDY is told so last of all, for it asks again in this way when a WebSocket was refused.
        """
        query, name = request.query, request.name
        spoken = channels.FORWARD_PROTOCOLS if request.sub == "portforward" else channels.COMMAND_PROTOCOLS
        if request.sub == "portforward":
            container, options = "", urlencode([("ports", one) for one in query.texts("ports")])
        else:
            container = _container(pod, query.text("container"))
            options = _command_options(request)
        node_name = (pod.get("spec") or {}).get("nodeName", "")
        if not node_name:
            raise BadRequest(f"pod {name} does not have a host assigned")
        base = f"https://{host_port(*self._kubelet(node_name))}"
        if "websocket" not in call.headers.get("Upgrade", "").lower():
            await self._kubelets.reach(base)
            if call.headers.get("Upgrade"):
                raise BadRequest(channels.SPDY_REFUSAL)
            raise BadRequest(f"{request.sub} is a stream: upgrade to a WebSocket of {', '.join(spoken)}")
        offers = channels.offered(call.headers.get("Sec-WebSocket-Protocol", ""))
        if not channels.chosen(offers, spoken):
            raise BadRequest(f"none of the offered protocols ({', '.join(offers)}) is spoken here; these are: {', '.join(spoken)}")
        path = f"/{_DOORS[request.sub]}/{request.namespace}/{name}" + (f"/{container}" if container else "")
        return await self._kubelets.talk(base + path, options, [one for one in offers if one in spoken])

    def _kubelet(self, node_name: str) -> tuple[str, int]:
        """Where a node's kubelet listens."""
        node = self._cache.get(NODES, Key("", node_name))
        if node is None:
            raise errors.ServiceUnavailable(f'the pod\'s node "{node_name}" does not exist')
        return kubelet_of(node)


def _command_options(request: Request) -> str:
    """What a kubelet is told about a command's streams; BadRequest when they make no sense."""
    query = request.query
    stdin, stdout, stderr, tty = (query.flag(option) for option in ("stdin", "stdout", "stderr", "tty"))
    if not (stdin or stdout or stderr):
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    if tty and stderr:
        raise BadRequest("tty and stderr cannot both be true: a terminal has one output")
    commands = query.texts("command")
    if request.sub == "exec" and not commands:
        raise BadRequest("you must specify at least 1 command")
    flags = [(name, "1") for name, is_set in (("input", stdin), ("output", stdout), ("error", stderr), ("tty", tty)) if is_set]
    return urlencode([*flags, *(("command", one) for one in commands)])


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
