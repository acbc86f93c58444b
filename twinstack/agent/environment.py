"""A container's environment: values, the downward API, Services, and ``$(VAR)`` in what it runs.

Values in, values out. What is taken from ConfigMaps and Secrets is read before and given as mappings.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from twinstack.agent import amounts
from twinstack.api.kinds import Container, Pod, Service
from twinstack.net.cidr import host_port
from twinstack.net.errors import Error

_REFERENCE = re.compile(r"\$(?:\$|\(([^()]*)\))")
_INDEXED = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]\Z")
_SHORT = {"\\": "\\\\", '"': '\\"', "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ConfigError(Error):
    """A container cannot be made from what its pod says; retried, for what is missing may come."""


class Facts(NamedTuple):
    """What the downward API tells besides the pod's own document; fixed when a container is made."""

    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    node_name: str = ""
    allocatable: Mapping[str, str] = {}  # what the node has, for limits that are not set


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; an unknown name stays as it is, and ``$$`` means a dollar sign."""

    def value(found: re.Match[str]) -> str:
        if found.group(1) is None:
            return "$"
        return variables.get(found.group(1), found.group(0))

    return _REFERENCE.sub(value, text)


def field_value(path: str, pod: Pod, facts: Facts) -> str:
    """The downward API's value of a fieldPath; ConfigError when it has none."""
    simple: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: pod.metadata.name,
        "metadata.namespace": lambda: pod.metadata.namespace,
        "metadata.uid": lambda: pod.metadata.uid,
        "metadata.labels": lambda: _lines(pod.labels),
        "metadata.annotations": lambda: _lines(pod.annotations),
        "spec.nodeName": lambda: facts.node_name,
        "spec.serviceAccountName": lambda: pod.spec.serviceAccountName or "default",
        "status.podIP": lambda: facts.pod_ips[0] if facts.pod_ips else "",
        "status.podIPs": lambda: ",".join(facts.pod_ips),
        "status.hostIP": lambda: facts.host_ips[0] if facts.host_ips else "",
        "status.hostIPs": lambda: ",".join(facts.host_ips),
    }
    if path in simple:
        return simple[path]()
    if found := _INDEXED.match(path):
        return (pod.labels if found.group(1) == "labels" else pod.annotations).get(found.group(2), "")
    raise ConfigError(f"fieldPath {path!r} is not supported")


def _lines(values: Mapping[str, str]) -> str:
    """``key="value"`` a line, as files of the downward API have it."""
    return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(values.items()))


def _escaped(text: str) -> str:
    return "".join(map(_escaped_character, text))


def _escaped_character(one: str) -> str:
    """As Go's ``%q`` has it."""
    if (short := _SHORT.get(one)) is not None:
        return short
    code = ord(one)
    return one if one.isprintable() else f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def service_variables(services: Iterable[Service]) -> dict[str, str]:
    """The variables that tell where Services are: of the primary family only, as upstream has it."""
    variables: dict[str, str] = {}
    for service in services:
        address = service.spec.clusterIP
        if address in ("", "None") or not service.spec.ports:
            continue
        prefix = service.metadata.name.upper().replace("-", "_")
        first = service.spec.ports[0]
        variables[f"{prefix}_SERVICE_HOST"] = address
        variables[f"{prefix}_SERVICE_PORT"] = str(first.port)
        variables[f"{prefix}_PORT"] = f"{first.protocol.lower()}://{host_port(address, first.port)}"
        for port in service.spec.ports:
            if port.name:
                variables[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
            name = f"{prefix}_PORT_{port.port}_{port.protocol.upper()}"
            variables[name] = f"{port.protocol.lower()}://{host_port(address, port.port)}"
            variables |= {f"{name}_PROTO": port.protocol.lower(), f"{name}_PORT": str(port.port), f"{name}_ADDR": address}
    return variables


class Sources(NamedTuple):
    """The data of the ConfigMaps and Secrets that a container names, by (kind, name); None for one that is absent."""

    data: Mapping[tuple[str, str], Mapping[str, str] | None] = {}

    def key(self, kind: str, reference: Mapping[str, Any]) -> str | None:
        """One value; None when it is absent and may be."""
        name, key = reference.get("name", ""), reference.get("key", "")
        found = self.data.get((kind, name))
        if found is not None and key in found:
            return found[key]
        if reference.get("optional"):
            return None
        raise ConfigError(f'{kind} "{name}" not found' if found is None else f"couldn't find key {key} in {kind} {name}")

    def all(self, kind: str, reference: Mapping[str, Any]) -> Mapping[str, str]:
        """All values; none when it is absent and may be."""
        found = self.data.get((kind, reference.get("name", "")))
        if found is None and not reference.get("optional"):
            raise ConfigError(f'{kind} "{reference.get("name", "")}" not found')
        return found or {}


def sources_named(container: Container) -> set[tuple[str, str]]:
    """The ConfigMaps and Secrets that a container's environment is made of, as (kind, name)."""
    named = set()
    for variable in container.env or ():
        if variable.valueFrom and variable.valueFrom.configMapKeyRef:
            named.add(("configmap", variable.valueFrom.configMapKeyRef.name))
        if variable.valueFrom and variable.valueFrom.secretKeyRef:
            named.add(("secret", variable.valueFrom.secretKeyRef.name))
    for source in container.envFrom or ():
        for field, kind in (("configMapRef", "configmap"), ("secretRef", "secret")):
            if source.get(field):
                named.add((kind, source[field].get("name", "")))
    return named


def decoded_secret(data: Mapping[str, str] | None) -> dict[str, bytes]:
    """A Secret's values as bytes."""
    try:
        return {key: base64.b64decode(value) for key, value in (data or {}).items()}
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"a secret's value is not base64: {error}") from error


def environment_of(container: Container, pod: Pod, facts: Facts, *, services: Mapping[str, str], sources: Sources, hostname: str) -> dict[str, str]:
    """All variables of a container; later ones may refer to earlier ones by ``$(NAME)``."""
    result = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": "/root", **services}
    for source in container.envFrom or ():
        prefix = source.get("prefix") or ""
        for field, kind in (("configMapRef", "configmap"), ("secretRef", "secret")):
            if source.get(field):
                result |= {prefix + key: value for key, value in sources.all(kind, source[field]).items()}
    for variable in container.env or ():
        value: str | None = None
        origin = variable.valueFrom
        if origin is None:
            value = expand(variable.value, result)
        elif origin.fieldRef is not None:
            value = field_value(origin.fieldRef.fieldPath, pod, facts)
        elif origin.configMapKeyRef is not None:
            value = sources.key("configmap", _reference(origin.configMapKeyRef))
        elif origin.secretKeyRef is not None:
            value = sources.key("secret", _reference(origin.secretKeyRef))
        elif origin.resourceFieldRef is not None:
            value = _resource(variable.name, origin.resourceFieldRef, container, pod, facts)
        else:
            raise ConfigError(f"env {variable.name}: valueFrom names none of fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef")
        if value is not None:
            result[variable.name] = value
    if (name := next((name for name, value in result.items() if "\0" in value), None)) is not None:
        raise ConfigError(f"env {name} has a NUL byte")
    return result


def _resource(variable: str, reference: Mapping[str, Any], container: Container, pod: Pod, facts: Facts) -> str:
    name = reference.get("containerName") or container.name
    found = next((one for one in (*pod.spec.containers, *(pod.spec.initContainers or ())) if one.name == name), None)
    if found is None:
        raise ConfigError(f"env {variable}: resourceFieldRef names container {name!r}, which the pod does not have")
    try:
        return amounts.field_value(reference, found, facts.allocatable)
    except ValueError as error:
        raise ConfigError(f"env {variable}: {error}") from error


def _reference(selector: Any) -> dict[str, Any]:
    return {"name": selector.name, "key": selector.key, "optional": selector.optional}


def command_of(container: Container, variables: Mapping[str, str]) -> list[str]:
    """What a container runs; ConfigError when that is nothing, for a host process has no image to say it."""
    words: Sequence[str] = [*(container.command or ()), *(container.args or ())]
    if not words:
        raise ConfigError(f'container "{container.name}" names neither command nor args, and its image is the host, which has no default')
    if any("\0" in word for word in words):
        raise ConfigError(f'container "{container.name}" has a NUL byte in its command or args')
    return [expand(word, variables) for word in words]
