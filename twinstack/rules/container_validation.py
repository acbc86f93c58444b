"""What can be wrong with the details of a container: where its variables come from, what it may use, as whom it runs.

Rule of this file: a part of a container in, field problems at the paths that Kubernetes names out. Names, ports, probes and mounts are judged
in ``pod_validation``; here stands what most containers do not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.rules.names import config_key_problem, environment_name_problem, qualified_problem, subdomain_problem
from twinstack.rules.problems import forbidden, required, unsupported, wrong
from twinstack.rules.quantities import parse_quantity

_OF_THE_POD = frozenset(
    f"{part}.{name}"
    for part, names in (
        ("metadata", ("name", "namespace", "uid")),
        ("spec", ("nodeName", "serviceAccountName")),
        ("status", ("hostIP", "hostIPs", "podIP", "podIPs")),
    )
    for name in names
)
OF_ITS_METADATA = frozenset(("metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"))
_READABLE = _OF_THE_POD | OF_ITS_METADATA | {"spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"}
_SUBSCRIPTED = re.compile(r"(metadata\.(?:labels|annotations))\['(.*)'\]\Z")
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_PLAIN_RESOURCES = frozenset(("cpu", "memory", "ephemeral-storage"))
_HUGE = "hugepages-"
_HIGHEST_ID = 2**31 - 1


def problems_with_variables(variables: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    """Names, and sources of values."""
    for i, variable in enumerate(variables):
        name, source = variable.get("name", ""), variable.get("valueFrom")
        if not name:
            yield required(f"{path}[{i}].name")
        elif problem := environment_name_problem(name):
            yield wrong(f"{path}[{i}].name", name, problem)
        if source is not None:
            yield from _problems_with_source(source, variable.get("value", ""), f"{path}[{i}].valueFrom")


def _problems_with_source(source: Mapping[str, Any], value: str, path: str) -> Iterator[FieldProblem]:
    given = [name for name in _SOURCES if source.get(name) is not None]
    if (reference := source.get("fieldRef")) is not None:
        yield from problems_with_field_reference(reference, f"{path}.fieldRef", _OF_THE_POD)
    for name in ("configMapKeyRef", "secretKeyRef"):
        if (reference := source.get(name)) is None:
            continue
        if problem := subdomain_problem(reference.get("name", "")):
            yield wrong(f"{path}.{name}.name", reference.get("name", ""), problem)
        if not reference.get("key"):
            yield required(f"{path}.{name}.key")
        elif problem := config_key_problem(reference["key"]):
            yield wrong(f"{path}.{name}.key", reference["key"], problem)
    if not given:
        yield wrong(path, "", f"one of {', '.join(_SOURCES)} is needed")
    if value and given:
        yield wrong(path, "", "must be left out where value is given")
    elif len(given) > 1:
        yield wrong(path, "", "may have only one source")


def problems_with_field_reference(reference: Mapping[str, Any], path: str, allowed: frozenset[str]) -> Iterator[FieldProblem]:
    """A field of the pod is named by a path that is known and, here, *allowed*."""
    field = reference.get("fieldPath", "")
    if not field:
        yield required(f"{path}.fieldPath")
    elif found := _SUBSCRIPTED.match(field):
        key = found.group(2).lower() if found.group(1) == "metadata.annotations" else found.group(2)
        if problem := qualified_problem(key):
            yield wrong(path, found.group(2), problem)
    elif field not in _READABLE:
        yield wrong(f"{path}.fieldPath", field, "is no field of a pod that can be read so")
    elif field not in allowed:
        yield unsupported(f"{path}.fieldPath", field, allowed)


def problems_with_variable_sources(sources: Sequence[Mapping[str, Any]], path: str) -> Iterator[FieldProblem]:
    """Whole ConfigMaps and Secrets as variables."""
    for i, source in enumerate(sources):
        if source.get("prefix") and (problem := environment_name_problem(source["prefix"])):
            yield wrong(f"{path}[{i}].prefix", source["prefix"], problem)
        given = [name for name in ("configMapRef", "secretRef") if source.get(name) is not None]
        for name in given:
            target = source[name].get("name", "")
            if not target:
                yield required(f"{path}[{i}].{name}.name")
            elif problem := subdomain_problem(target):
                yield wrong(f"{path}[{i}].{name}.name", target, problem)
        if len(given) != 1:
            yield wrong(path, "", "each needs one of configMapRef and secretRef")


def problems_with_resources(resources: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """Amounts of what exists, and no more asked for than allowed. Amounts are read already."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, text in amounts.items():
            here, amount = f"{path}.{field}[{name}]", parse_quantity(text)
            yield from _problems_with_resource_name(name, here)
            if amount < 0:
                yield wrong(here, text, "must be greater than or equal to 0")
            elif not _is_native(name) and amount.denominator != 1:
                yield wrong(here, text, "must be an integer")
    for name, text in requests.items():
        overcommitted = _is_native(name) and not name.startswith(_HUGE)
        limit = parse_quantity(limits[name]) if name in limits else None
        if limit is None:
            if not overcommitted:
                yield required(f"{path}.limits", f"a limit of {name} is needed, for it cannot be promised twice")
        elif not overcommitted and parse_quantity(text) != limit:
            yield wrong(f"{path}.requests", text, f"must be equal to the limit of {name}")
        elif parse_quantity(text) > limit:
            yield wrong(f"{path}.requests", text, f"must be at most the limit of {name}")
    names = {*limits, *requests}
    if any(name.startswith(_HUGE) for name in names) and not names & {"cpu", "memory"}:
        yield forbidden(path, "huge pages need cpu or memory besides")


def _problems_with_resource_name(name: str, path: str) -> Iterator[FieldProblem]:
    if problem := qualified_problem(name):
        yield wrong(path, name, problem)
    elif "/" not in name and name not in _PLAIN_RESOURCES and not name.startswith(_HUGE):
        yield wrong(path, name, "must be a resource of containers, or have a domain")
    elif not _is_native(name) and name.startswith("requests."):
        yield wrong(path, name, "must not begin with 'requests.'")


def _is_native(name: str) -> bool:
    return "/" not in name or "kubernetes.io/" in name


def fractions_of_bytes(resources: Mapping[str, Any], path: str) -> Iterator[str]:
    """Warnings about amounts of bytes that are not whole."""
    for field in ("limits", "requests"):
        for name in ("memory", "ephemeral-storage"):
            text = (resources.get(field) or {}).get(name)
            if text is not None and parse_quantity(text).denominator != 1:
                yield f"{path}.{field}[{name}]: half a byte does not exist, so {text} should be a whole number"


def problems_with_identity(context: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """As whom a pod or a container runs."""
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        number = context.get(field)
        if number is not None and not 0 <= number <= _HIGHEST_ID:
            yield wrong(f"{path}.{field}", number, f"must be between 0 and {_HIGHEST_ID}")
    for i, number in enumerate(context.get("supplementalGroups") or ()):
        if not 0 <= number <= _HIGHEST_ID:
            yield wrong(f"{path}.supplementalGroups[{i}]", number, f"must be between 0 and {_HIGHEST_ID}")
    if context.get("fsGroupChangePolicy") not in (None, "OnRootMismatch", "Always"):
        yield unsupported(f"{path}.fsGroupChangePolicy", context["fsGroupChangePolicy"], ("OnRootMismatch", "Always"))
    profile = context.get("seccompProfile")
    if profile is not None:
        kinds, kind = ("Localhost", "RuntimeDefault", "Unconfined"), profile.get("type", "")
        if not kind:
            yield required(f"{path}.seccompProfile.type")
        elif kind not in kinds:
            yield unsupported(f"{path}.seccompProfile.type", kind, kinds)
        if kind == "Localhost" and profile.get("localhostProfile") is None:
            yield required(f"{path}.seccompProfile.localhostProfile", "is needed where type is Localhost")
        elif kind != "Localhost" and profile.get("localhostProfile") is not None:
            yield wrong(f"{path}.seccompProfile.localhostProfile", profile["localhostProfile"], "may be given only where type is Localhost")


def problems_with_container_security(context: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """As whom a container runs, and what it may gain."""
    yield from problems_with_identity(context, path)
    if context.get("procMount") not in (None, "Default", "Unmasked"):
        yield unsupported(f"{path}.procMount", context["procMount"], ("Default", "Unmasked"))
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            yield wrong(path, context, "cannot be privileged and not escalate")
        if any(name in ("CAP_SYS_ADMIN", "SYS_ADMIN") for name in (context.get("capabilities") or {}).get("add") or ()):
            yield wrong(path, context, "cannot have CAP_SYS_ADMIN and not escalate")


def problems_with_recursion(mount: Mapping[str, Any], path: str) -> Iterator[FieldProblem]:
    """What is wrong with what a mount says of mounts below it (KEP-3857)."""
    asked = mount.get("recursiveReadOnly")
    if asked in (None, "Disabled"):
        return
    if asked not in ("Enabled", "IfPossible"):
        yield unsupported(f"{path}.recursiveReadOnly", asked, ("Disabled", "Enabled", "IfPossible"))
        return
    if not mount.get("readOnly"):
        yield forbidden(f"{path}.recursiveReadOnly", "may only be specified when readOnly is true")
    if mount.get("mountPropagation") not in (None, "None"):
        yield forbidden(f"{path}.recursiveReadOnly", "may only be specified when mountPropagation is None or not specified")
