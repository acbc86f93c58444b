"""What becomes of a Pod on its way: defaulted, given its first status, its one address and its list of addresses reconciled.

Rule of this file: documents in, the same documents changed. What is wrong with a pod is ``pod_validation.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from twinstack.api.objects import Document
from twinstack.rules.quantities import canonical, canonicalize
from twinstack.rules.shape import default, default_conditions, drop_zeros, part

GRACE_SECONDS = 30
FILE_MODE = 0o644
TOLERATION_SECONDS = 300
# What every pod puts up with for a while, so that a short outage of its node does not end it.
_TOLERATED = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")
_PLAIN = (
    "volumes", "initContainers", "ephemeralContainers", "nodeSelector", "nodeName", "hostNetwork", "hostPID", "hostIPC", "hostname", "subdomain",
    "imagePullSecrets", "tolerations", "hostAliases", "priorityClassName", "readinessGates", "topologySpreadConstraints", "serviceAccountName",
    "serviceAccount", "schedulingGates", "restartPolicy", "dnsPolicy", "schedulerName",
)  # fmt: skip
_PLAIN_CONTAINER = (
    "command", "args", "workingDir", "ports", "env", "envFrom", "volumeMounts", "volumeDevices", "stdin", "stdinOnce", "tty",
    "imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy",
)  # fmt: skip


def default_pod(document: Document) -> None:
    """The version's static defaults of a Pod itself, which go further than those of a template."""
    spec = part(document, "spec")
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    for container in containers_of(spec):
        for port in container.get("ports") or ():
            if spec.get("hostNetwork") and not port.get("hostPort"):
                port["hostPort"] = port.get("containerPort", 0)
        resources = container["resources"]
        for name, amount in (resources.get("limits") or {}).items():
            resources.setdefault("requests", {}).setdefault(name, amount)
    status = document.get("status")
    if isinstance(status, dict):
        reconcile_addresses(status)
        default_conditions(status, ("lastProbeTime", "lastTransitionTime"))


def default_pod_spec(spec: dict[str, Any]) -> None:
    """The version's static defaults of a pod's spec, in a Pod and in a template alike."""
    drop_zeros(spec, _PLAIN)
    default(spec, "restartPolicy", "Always")
    default(spec, "dnsPolicy", "ClusterFirst")
    default(spec, "schedulerName", "default-scheduler")
    spec.setdefault("terminationGracePeriodSeconds", GRACE_SECONDS)
    spec.setdefault("securityContext", {})
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for container in containers_of(spec):
        _default_container(container)
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def containers_of(spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every container, those that run first and those that were added later among them."""
    for field in _CONTAINER_LISTS:
        yield from spec.get(field) or ()


def _default_container(container: dict[str, Any]) -> None:
    drop_zeros(container, _PLAIN_CONTAINER)
    canonicalize(container.setdefault("resources", {}), ("limits", "requests"))
    default(container, "terminationMessagePath", "/dev/termination-log")
    default(container, "terminationMessagePolicy", "File")
    default(container, "imagePullPolicy", _pull_policy(container.get("image", "")))
    for port in container.get("ports") or ():
        drop_zeros(port, ("name", "hostPort", "hostIP"))
        default(port, "protocol", "TCP")
    for variable in container.get("env") or ():
        drop_zeros(variable, ("value",))
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            default(reference, "apiVersion", "v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(name) is not None:
            _default_probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_http(hook)


def _default_probe(probe: dict[str, Any]) -> None:
    drop_zeros(probe, ("initialDelaySeconds", "periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"))
    for field, value in (("periodSeconds", 10), ("timeoutSeconds", 1), ("successThreshold", 1), ("failureThreshold", 3)):
        probe.setdefault(field, value)
    _default_http(probe)
    if probe.get("grpc") is not None:
        probe["grpc"].setdefault("service", "")


def _default_http(handler: dict[str, Any]) -> None:
    request = handler.get("httpGet")
    if request is not None:
        default(request, "path", "/")
        default(request, "scheme", "HTTP")


def _default_volume(volume: dict[str, Any]) -> None:
    if not [source for source in volume if source != "name"]:
        volume["emptyDir"] = {}
    if (volume.get("emptyDir") or {}).get("sizeLimit") is not None:
        volume["emptyDir"]["sizeLimit"] = canonical(volume["emptyDir"]["sizeLimit"])
    for source in ("configMap", "secret", "projected", "downwardAPI"):
        if volume.get(source) is not None:
            volume[source].setdefault("defaultMode", FILE_MODE)
    if volume.get("hostPath") is not None:
        volume["hostPath"].setdefault("type", "")
    projected = (volume.get("projected") or {}).get("sources") or ()
    for downward in (volume.get("downwardAPI"), *(projection.get("downwardAPI") for projection in projected)):
        for item in (downward or {}).get("items") or ():
            if item.get("fieldRef") is not None:
                default(item["fieldRef"], "apiVersion", "v1")
    for projection in projected:
        if projection.get("serviceAccountToken") is not None:
            projection["serviceAccountToken"].setdefault("expirationSeconds", 3600)


def _pull_policy(image: str) -> str:
    last = image.rpartition("/")[2]
    tag = last.partition(":")[2] if "@" not in last else "digest"
    return "Always" if image and tag in ("", "latest") else "IfNotPresent"


def reconcile_addresses(status: dict[str, Any]) -> None:
    """One address and a list of them are one thing; where they disagree the single one wins (spec/api.md 8.1)."""
    drop_zeros(status, ("podIP", "podIPs", "hostIP", "hostIPs"))
    single, plural = status.get("podIP"), status.get("podIPs")
    if single and (not plural or plural[0].get("ip") != single):
        status["podIPs"] = [{"ip": single}]
    elif plural and plural[0].get("ip"):
        status["podIP"] = plural[0]["ip"]


def complete_new_pod(document: Document) -> None:
    """What a new pod gets besides defaults: priority, tolerations of short outages, its first status."""
    spec = document["spec"]
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerate_short_outages(spec)
    status = document["status"] = {"phase": "Pending", "qosClass": quality_of(spec)}
    if spec.get("schedulingGates"):
        why = {"reason": "SchedulingGated", "message": "The pod waits until its schedulingGates are taken away"}
        status["conditions"] = [{"type": "PodScheduled", "status": "False", "lastProbeTime": None, "lastTransitionTime": None, **why}]


def complete_changed_pod(after: Document, before: Document) -> None:
    """What a changed pod keeps that its writer left out, because no writer had said it."""
    spec, old = after["spec"], before["spec"]
    for field in ("priority", "preemptionPolicy"):
        if field in old:
            spec.setdefault(field, old[field])
    tolerate_short_outages(spec)


def complete_changed_status(after: Document, before: Document) -> None:
    """The quality of service stays when a report leaves it out."""
    quality = (before.get("status") or {}).get("qosClass")
    if quality:
        part(after, "status").setdefault("qosClass", quality)


def tolerate_short_outages(spec: dict[str, Any]) -> None:
    """A node may be away for a while, unless the pod says itself for how long."""
    tolerations = spec.setdefault("tolerations", [])
    for key in _TOLERATED:
        if not any(_tolerates_no_execute(toleration, key) for toleration in tolerations):
            tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS})


def _tolerates_no_execute(toleration: Mapping[str, Any], key: str) -> bool:
    return toleration.get("key", "") in ("", key) and toleration.get("effect", "") in ("", "NoExecute")


def quality_of(spec: Mapping[str, Any]) -> str:
    """The pod's quality of service class: Guaranteed, Burstable or BestEffort."""
    resources = [container.get("resources") or {} for field in ("initContainers", "containers") for container in spec.get(field) or ()]
    wanted = [amounts.get(name) for one in resources for amounts in (one.get("limits") or {}, one.get("requests") or {}) for name in ("cpu", "memory")]
    if not any(wanted):
        return "BestEffort"
    for one in resources:
        limits, requests = one.get("limits") or {}, one.get("requests") or {}
        if any(not limits.get(name) or requests.get(name, limits[name]) != limits[name] for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


def grace_period_seconds(document: Document, asked: int | None) -> int:
    """How long a deletion waits for the node: not at all where no node runs the pod, or nothing of it runs any more."""
    spec, status = document.get("spec") or {}, document.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Failed", "Succeeded"):
        return 0
    seconds = spec.get("terminationGracePeriodSeconds", GRACE_SECONDS) if asked is None else asked
    return max(seconds, 1) if seconds < 0 else int(seconds)
