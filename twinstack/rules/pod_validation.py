"""Everything that can be wrong with a pod's spec, in a Pod and in a template alike, and with a pod's reported addresses.

Rule of this file: documents in, field problems out. It judges what the node side acts upon (containers, ports, probes, volumes,
names, policies, tolerations, addresses); fields that nobody here acts upon are kept and not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from twinstack.api.errors import FieldProblem, ProblemType
from twinstack.api.objects import Document
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Family
from twinstack.rules.addresses import address_problem, problems_with_pair
from twinstack.rules.container_validation import (
    fractions_of_bytes,
    problems_with_container_security,
    problems_with_identity,
    problems_with_recursion,
    problems_with_resources,
    problems_with_variable_sources,
    problems_with_variables,
)
from twinstack.rules.metadata import problems_with_labels
from twinstack.rules.names import (
    label_problem,
    label_value_problem,
    port_name_problem,
    port_number_problem,
    qualified_problem,
    subdomain_problem,
)
from twinstack.rules.nodes import EFFECTS
from twinstack.rules.placement_validation import problems_with_affinity, problems_with_gates, problems_with_spreading
from twinstack.rules.pods import quality_of
from twinstack.rules.problems import duplicate, forbidden, required, unsupported, wrong
from twinstack.rules.resizing import problems_with_policies
from twinstack.rules.service_validation import PROTOCOLS
from twinstack.rules.services import spelling_warnings
from twinstack.rules.volume_validation import problems_with_place_below, problems_with_volumes

RESTARTS = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_LONGEST_SECONDS = 2**31 - 1
_LONGEST_SEARCHES = 2048


def problems_with_pod_spec(spec: Mapping[str, Any], path: str = "spec") -> list[FieldProblem]:
    """What is wrong with a pod's spec."""
    return [
        *problems_with_volumes(spec.get("volumes") or (), f"{path}.volumes"),
        *_problems_with_containers(spec, path),
        *_problems_with_policies(spec, path),
        *_problems_with_names(spec, path),
        *_problems_with_placement(spec, path),
        *_problems_with_security(spec, f"{path}.securityContext"),
    ]


def _problems_with_security(spec: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    context = spec.get("securityContext") or {}
    yield from problems_with_identity(context, path)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        yield wrong(f"{path}.shareProcessNamespace", True, "cannot be together with hostPID")


def _problems_with_containers(spec: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    if not spec.get("containers"):
        yield required(f"{path}.containers", "a pod has at least one container")
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    names: set[str] = set()
    host_ports: set[tuple[str, str, int]] = set()
    for field in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(field) or ()):
            here = f"{path}.{field}[{i}]"
            name = container.get("name", "")
            if not name:
                yield required(f"{here}.name")
            elif problem := label_problem(name):
                yield wrong(f"{here}.name", name, problem)
            elif name in names:
                yield duplicate(f"{here}.name", name)
            names.add(name)
            yield from _problems_with_container(container, here, volumes, first=field == "initContainers")
            yield from problems_with_policies(container, here, spec.get("restartPolicy", ""))
            yield from _problems_with_ports(container.get("ports") or (), f"{here}.ports", host_ports, on_host=bool(spec.get("hostNetwork")))


def _problems_with_container(container: Mapping[str, Any], path: str, volumes: set[Any], *, first: bool) -> Iterator[FieldProblem]:
    image = container.get("image", "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield wrong(f"{path}.image", image, "must not begin or end with a space")
    if container.get("imagePullPolicy") not in PULL_POLICIES:
        yield unsupported(f"{path}.imagePullPolicy", container.get("imagePullPolicy", ""), PULL_POLICIES)
    restart = container.get("restartPolicy")
    if restart is not None and restart not in (("Always",) if first else RESTARTS):
        yield unsupported(f"{path}.restartPolicy", restart, ("Always",) if first else RESTARTS)
    if container.get("terminationMessagePolicy", "File") not in MESSAGE_POLICIES:
        yield unsupported(f"{path}.terminationMessagePolicy", container["terminationMessagePolicy"], MESSAGE_POLICIES)
    yield from problems_with_variables(container.get("env") or (), f"{path}.env")
    yield from problems_with_variable_sources(container.get("envFrom") or (), f"{path}.envFrom")
    yield from problems_with_resources(container.get("resources") or {}, f"{path}.resources")
    if container.get("securityContext"):
        yield from problems_with_container_security(container["securityContext"], f"{path}.securityContext")
    mounts: set[str] = set()
    for i, mount in enumerate(container.get("volumeMounts") or ()):
        here = f"{path}.volumeMounts[{i}]"
        if not mount.get("name"):
            yield required(f"{here}.name")
        elif mount["name"] not in volumes:
            yield FieldProblem(f"{here}.name", ProblemType.NOT_FOUND, mount["name"])
        if not mount.get("mountPath"):
            yield required(f"{here}.mountPath")
        elif mount["mountPath"] in mounts:
            yield wrong(f"{here}.mountPath", mount["mountPath"], "must be unique")
        mounts.add(mount.get("mountPath", ""))
        yield from problems_with_recursion(mount, here)
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):  # where Kubernetes does not say which mount it is
                yield from problems_with_place_below(mount[field], f"{path}.volumeMounts.{field}")
        if mount.get("subPath") and mount.get("subPathExpr"):
            yield wrong(f"{path}.volumeMounts.subPathExpr", mount["subPathExpr"], "only one of it and subPath may be given")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is None:
            continue
        if first and restart != "Always":
            yield forbidden(f"{path}.{name}", "an init container that ends has no probes")
        else:
            yield from _problems_with_probe(container[name], f"{path}.{name}", once=name != "readinessProbe")
    for hook, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, Mapping):
            yield from _problems_with_handler(handler, f"{path}.lifecycle.{hook}")


def _problems_with_ports(ports: Sequence[Mapping[str, Any]], path: str, host_ports: set[tuple[str, str, int]], *, on_host: bool) -> Iterator[FieldProblem]:
    names: set[str] = set()
    for i, port in enumerate(ports):
        here, number, host, name = f"{path}[{i}]", port.get("containerPort", 0), port.get("hostPort", 0), port.get("name", "")
        if name:
            if problem := port_name_problem(name):
                yield wrong(f"{here}.name", name, problem)
            elif name in names:
                yield duplicate(f"{here}.name", name)
            names.add(name)
        if not number:
            yield required(f"{here}.containerPort")
        elif problem := port_number_problem(number):
            yield wrong(f"{here}.containerPort", number, problem)
        if host:
            if problem := port_number_problem(host):
                yield wrong(f"{here}.hostPort", host, problem)
            if on_host and host != number:
                yield wrong(f"{here}.hostPort", host, "must equal containerPort on the host's network")
            front = (port.get("protocol", ""), port.get("hostIP", ""), host)
            if front in host_ports:
                yield duplicate(f"{here}.hostPort", f"{host}/{front[0]}")
            host_ports.add(front)
        if port.get("protocol") not in PROTOCOLS:
            yield unsupported(f"{here}.protocol", port.get("protocol", ""), PROTOCOLS)


def _problems_with_probe(probe: Mapping[str, Any], path: str, *, once: bool) -> Iterator[FieldProblem]:
    yield from _problems_with_handler(probe, path)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(field, 0) < 0:
            yield wrong(f"{path}.{field}", probe[field], "must not be negative")
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and not once:
        yield wrong(f"{path}.terminationGracePeriodSeconds", grace, "must be left out of a readinessProbe")
    elif grace is not None and grace <= 0:
        yield wrong(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if once and probe.get("successThreshold", 1) != 1:
        yield wrong(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _problems_with_handler(handler: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    given = [name for name in HANDLERS if handler.get(name) is not None]
    if not given:
        yield required(path, f"one of {', '.join(HANDLERS)} is needed")
    for name in given[1:]:
        yield forbidden(f"{path}.{name}", f"it is an {given[0]} already")
    if "exec" in given and not handler["exec"].get("command"):
        yield required(f"{path}.exec.command")
    for name in ("httpGet", "tcpSocket"):
        if name in given:
            port = handler[name].get("port", 0)
            if problem := port_name_problem(port) if isinstance(port, str) else port_number_problem(port):
                yield wrong(f"{path}.{name}.port", port, problem)
    if "grpc" in given and (problem := port_number_problem(handler["grpc"].get("port", 0))):
        yield wrong(f"{path}.grpc.port", handler["grpc"].get("port", 0), problem)
    if "sleep" in given and handler["sleep"].get("seconds", 0) < 0:
        yield wrong(f"{path}.sleep", handler["sleep"]["seconds"], "must not be negative")
    if "httpGet" in given and handler["httpGet"].get("scheme", "HTTP") not in ("HTTP", "HTTPS"):
        yield unsupported(f"{path}.httpGet.scheme", handler["httpGet"]["scheme"], ("HTTP", "HTTPS"))


def _problems_with_policies(spec: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    for field, allowed in (("restartPolicy", RESTARTS), ("dnsPolicy", DNS_POLICIES)):
        if not spec.get(field):
            yield required(f"{path}.{field}")
        elif spec[field] not in allowed:
            yield unsupported(f"{path}.{field}", spec[field], allowed)
    config = spec.get("dnsConfig") or {}
    if spec.get("dnsPolicy") == "None" and spec.get("dnsConfig") is None:
        yield required(f"{path}.dnsConfig", "where dnsPolicy is None, at least one nameserver is needed")
    elif spec.get("dnsPolicy") == "None" and not config.get("nameservers"):
        yield required(f"{path}.dnsConfig.nameservers", "where dnsPolicy is None, at least one is needed")
    for field, most in (("nameservers", 3), ("searches", 32)):
        if len(config.get(field) or ()) > most:
            yield wrong(f"{path}.dnsConfig.{field}", config[field], f"must not be more than {most}")
    searches = config.get("searches") or ()
    if len(" ".join(searches)) > _LONGEST_SEARCHES:
        yield wrong(f"{path}.dnsConfig.searches", list(searches), f"must not have more than {_LONGEST_SEARCHES} characters in all")
    for i, domain in enumerate(searches):
        if domain != "." and (problem := subdomain_problem(domain.removesuffix(".").replace("_", "-"))):
            yield wrong(f"{path}.dnsConfig.searches[{i}]", domain, problem)
    for i, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            yield required(f"{path}.dnsConfig.options[{i}]", "needs a name")
    for i, server in enumerate(config.get("nameservers") or ()):
        if problem := address_problem(server):
            yield wrong(f"{path}.dnsConfig.nameservers[{i}]", server, problem)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _LONGEST_SECONDS:
        yield wrong(f"{path}.activeDeadlineSeconds", deadline, f"must be between 1 and {_LONGEST_SECONDS}")


def _problems_with_names(spec: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    checks: tuple[tuple[str, Callable[[str], str | None]], ...] = (
        ("hostname", label_problem),
        ("subdomain", label_problem),
        ("nodeName", subdomain_problem),
        ("serviceAccountName", subdomain_problem),
    )
    for field, check in checks:
        if spec.get(field) and (problem := check(spec[field])):
            yield wrong(f"{path}.{field}", spec[field], problem)
    for i, alias in enumerate(spec.get("hostAliases") or ()):
        if problem := address_problem(alias.get("ip", "")):
            yield wrong(f"{path}.hostAliases[{i}].ip", alias.get("ip", ""), problem)
        for j, name in enumerate(alias.get("hostnames") or ()):
            if problem := subdomain_problem(name):
                yield wrong(f"{path}.hostAliases[{i}].hostnames[{j}]", name, problem)


def _problems_with_placement(spec: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    yield from problems_with_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        yield forbidden(f"{path}.nodeName", "must be left out while schedulingGates hold the pod back")
    for i, toleration in enumerate(spec.get("tolerations") or ()):
        here, key, operator = f"{path}.tolerations[{i}]", toleration.get("key", ""), toleration.get("operator", "")
        if key and (problem := qualified_problem(key)):
            yield wrong(f"{here}.key", key, problem)
        if not key and operator != "Exists":
            yield wrong(f"{here}.operator", operator, "must be Exists where key is empty")
        if operator not in ("", "Equal", "Exists"):
            yield unsupported(f"{here}.operator", operator, ("Equal", "Exists"))
        if operator == "Exists" and toleration.get("value"):
            yield wrong(f"{here}.operator", toleration["value"], "value must be empty where operator is Exists")
        elif problem := label_value_problem(toleration.get("value", "")):
            yield wrong(f"{here}.operator", toleration["value"], problem)
        if toleration.get("effect", "") not in ("", *EFFECTS):
            yield unsupported(f"{here}.effect", toleration["effect"], EFFECTS)
        if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
            yield wrong(f"{here}.effect", toleration.get("effect", ""), "must be NoExecute where tolerationSeconds is given")
    yield from problems_with_affinity(spec.get("affinity") or {}, f"{path}.affinity")
    yield from problems_with_spreading(spec.get("topologySpreadConstraints") or (), f"{path}.topologySpreadConstraints")
    yield from problems_with_gates(spec.get("schedulingGates") or (), f"{path}.schedulingGates")
    for i, gate in enumerate(spec.get("readinessGates") or ()):
        if problem := qualified_problem(gate.get("conditionType", "")):
            yield wrong(f"{path}.readinessGates[{i}].conditionType", gate.get("conditionType", ""), problem)


def problems_with_pod_update(after: Document, before: Document) -> list[FieldProblem]:
    """A pod's spec never changes, but for its images, a nearer deadline, more tolerations, fewer scheduling gates."""
    new, old = dict(after.get("spec") or {}), before.get("spec") or {}
    problems = problems_with_pod_spec(new)
    for field in ("containers", "initContainers"):
        if len(new.get(field) or ()) != len(old.get(field) or ()):
            return [*problems, forbidden(f"spec.{field}", "may be neither added nor removed")]
    deadline, was = new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    if deadline is not None and not 0 <= deadline <= _LONGEST_SECONDS:
        return [*problems, wrong("spec.activeDeadlineSeconds", deadline, f"must be between 0 and {_LONGEST_SECONDS}")]
    if was is not None and (deadline is None or deadline > was):
        problems.append(wrong("spec.activeDeadlineSeconds", deadline, f"must be at most {was}, which it was"))
        if deadline is not None:
            return problems
    kept = [_but_seconds(one) for one in new.get("tolerations") or ()]
    if any(_but_seconds(one) not in kept for one in old.get("tolerations") or ()):
        problems.append(forbidden("spec.tolerations", "may only be added to; of one that stands, tolerationSeconds may change"))
    gates = [one.get("name") for one in old.get("schedulingGates") or ()]
    for i, gate in enumerate(new.get("schedulingGates") or ()):
        if gate.get("name") not in gates:
            problems.append(forbidden(f"spec.schedulingGates[{i}].name", "gates may only be removed"))
    if new == old:
        return problems
    quality = (before.get("status") or {}).get("qosClass") or quality_of(old)
    if quality != quality_of(new):
        problems.append(wrong("metadata", quality, "the quality of service may not change"))
    for field in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        _take_from(new, old, field)
    if old.get("terminationGracePeriodSeconds", 0) < 0 and new.get("terminationGracePeriodSeconds") == 1:
        _take_from(new, old, "terminationGracePeriodSeconds")
    if gates:  # a pod that is held back may still be told more precisely where to go
        wanted = new.get("nodeSelector") or {}
        if any(wanted.get(key) != value for key, value in (old.get("nodeSelector") or {}).items()):
            problems.append(wrong("spec.nodeSelector", wanted, "may only be added to"))
        _take_from(new, old, "nodeSelector")
    for field in ("containers", "initContainers"):
        _take_images(new, old, field)
    if new != old:
        changed = sorted(field for field in new.keys() | old.keys() if new.get(field) != old.get(field))
        problems.append(forbidden("spec", f"may not change but for images, activeDeadlineSeconds, tolerations and gates; changed: {', '.join(changed)}"))
    return problems


def _but_seconds(toleration: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in toleration.items() if name != "tolerationSeconds"}


_NOT_EPHEMERAL = ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules")


def problems_with_ephemeral_containers(after: Document, before: Document) -> list[FieldProblem]:
    """What is wrong with the containers that look into a running pod: they are added, never changed or taken away (KEP-277)."""
    spec = after.get("spec") or {}
    here, problems = "spec.ephemeralContainers", []
    added: list[Mapping[str, Any]] = spec.get("ephemeralContainers") or []
    kept = (before.get("spec") or {}).get("ephemeralContainers") or []
    problems += [forbidden(here, f"existing ephemeral container {one.get('name')!r} may not be changed or removed") for one in kept if one not in added]
    others = [str(one.get("name", "")) for field in ("initContainers", "containers") for one in spec.get(field) or ()]
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    names = set(others)
    for i, container in enumerate(added):
        path, name = f"{here}[{i}]", str(container.get("name", ""))
        if not name:
            problems.append(required(f"{path}.name"))
        elif problem := label_problem(name):
            problems.append(wrong(f"{path}.name", name, problem))
        elif name in names:
            problems.append(duplicate(f"{path}.name", name))
        names.add(name)
        problems += _problems_with_container(container, path, volumes, first=False)
        problems += [forbidden(f"{path}.{field}", "cannot be set for an ephemeral container") for field in _NOT_EPHEMERAL if container.get(field)]
        problems += [
            forbidden(f"{path}.volumeMounts[{j}].{field}", "cannot be set for an ephemeral container")
            for j, mount in enumerate(container.get("volumeMounts") or ())
            for field in ("subPath", "subPathExpr")
            if mount.get(field)
        ]
        target = container.get("targetContainerName")
        if target and target not in others:
            problems.append(FieldProblem(f"{path}.targetContainerName", ProblemType.NOT_FOUND, target))
    return problems


def _take_from(new: dict[str, Any], old: Mapping[str, Any], field: str) -> None:
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


def _take_images(new: dict[str, Any], old: Mapping[str, Any], field: str) -> None:
    mine, theirs = new.get(field) or [], old.get(field) or []
    if len(mine) == len(theirs) and mine:
        new[field] = [{**one, "image": other.get("image", "")} for one, other in zip(mine, theirs, strict=True)]


def problems_with_pod_status(after: Document, before: Document) -> list[FieldProblem]:
    """What is wrong with what a node reports: addresses (spec/api.md 8.3), and what may not change."""
    new, old, spec = after.get("status") or {}, before.get("status") or {}, before.get("spec") or {}
    problems = list(_problems_with_changed_status(new, old, spec))
    problems += list(_problems_with_addresses(new.get("podIPs") or (), old.get("podIPs") or (), "status.podIPs"))
    hosts = new.get("hostIPs") or ()
    if hosts and new.get("hostIP", "") != hosts[0].get("ip", ""):
        problems.append(wrong("status.hostIPs[0].ip", hosts[0].get("ip", ""), "must equal status.hostIP"))
    return [*problems, *_problems_with_addresses(hosts, old.get("hostIPs") or (), "status.hostIPs")]


def _problems_with_changed_status(new: Mapping[str, Any], old: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[FieldProblem]:
    restarts = spec.get("restartPolicy", "Always")
    for i, condition in enumerate(new.get("conditions") or ()):
        if problem := qualified_problem(condition.get("type", "")):
            yield wrong(f"metadata.conditions[{i}].Type", condition.get("type", ""), problem)  # which is where Kubernetes looks for them
    nominated = new.get("nominatedNodeName", "")
    if nominated and nominated != old.get("nominatedNodeName", "") and (problem := subdomain_problem(nominated)):
        yield wrong("status.nominatedNodeName", nominated, problem)
    if new.get("qosClass") != old.get("qosClass"):
        yield wrong("status.qosClass", new.get("qosClass"), "may not change")
    for field, containers in (("initContainerStatuses", "initContainers"), ("containerStatuses", "containers")):
        now = {one.get("name"): one.get("state") or {} for one in new.get(field) or ()}
        policies = {one["name"]: "Always" if one.get("restartPolicyRules") else one.get("restartPolicy") or restarts for one in spec.get(containers) or ()}
        for i, was in enumerate(old.get(field) or ()):
            policy, ended = policies.get(was.get("name"), restarts), (was.get("state") or {}).get("terminated")
            if ended is None or policy == "Always" or (policy == "OnFailure" and ended.get("exitCode")):
                continue
            again = now.get(was.get("name"))
            if again is not None and again.get("terminated") is None:
                yield forbidden(f"status.{field}[{i}].state", "what has ended does not run again")


def _problems_with_addresses(after: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    texts, stood = [one.get("ip", "") for one in after], {one.get("ip", "") for one in before}
    families: list[Family | None] = []
    for i, text in enumerate(texts):
        try:
            families.append(Family.of(parse_address(text)))
        except AddressError as error:
            families.append(None)
            if text not in stood or not text:
                yield wrong(f"{path}[{i}]", text, str(error))
    yield from problems_with_pair(texts, path, what="address", families=families)


def warnings_about_pod(document: Document) -> list[str]:
    """Odd spellings of reported addresses, and what a spec says without effect."""
    status, spec = document.get("status") or {}, document.get("spec") or {}
    return [
        *_warnings_about_spec(spec),
        *(
            warning
            for field in ("podIPs", "hostIPs")
            for i, one in enumerate(status.get(field) or ())
            for warning in spelling_warnings(f"status.{field}[{i}].ip", one.get("ip", ""))
        ),
    ]


def _warnings_about_spec(spec: Mapping[str, Any]) -> Iterator[str]:
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        yield "spec.terminationGracePeriodSeconds: should not be negative; it counts as 1"
    for i, secret in enumerate(spec.get("imagePullSecrets") or ()):
        if not secret.get("name"):
            yield f'spec.imagePullSecrets[{i}].name: invalid empty name ""'
    for field in ("initContainers", "containers"):
        for i, container in enumerate(spec.get(field) or ()):
            path = f"spec.{field}[{i}]"
            yield from fractions_of_bytes(container.get("resources") or {}, f"{path}.resources")
            seen: dict[str, int] = {}
            for j, variable in enumerate(container.get("env") or ()):
                name = variable.get("name", "")
                if name in seen and f"$({name})" not in variable.get("value", ""):
                    yield f'{path}.env[{j}]: hides "{name}" of {path}.env[{seen[name]}], which an apply may drop'
                seen.setdefault(name, j)
            ports: dict[tuple[Any, ...], int] = {}
            for j, port in enumerate(container.get("ports") or ()):
                front = (port.get("containerPort"), port.get("protocol"), port.get("hostIP"), port.get("hostPort"))
                if front in ports:
                    yield f"{path}.ports[{j}]: says again what {path}.ports[{ports[front]}] says"
                ports.setdefault(front, j)
