"""Subresources that show another document than the object's own: scale, binding, eviction, finalize."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twinstack.api import apply, errors, objects
from twinstack.api.errors import BadRequest, FieldProblem, ProblemType
from twinstack.api.kinds import Object, Pod, PodDisruptionBudget
from twinstack.api.objects import Document, Key
from twinstack.api.resources import Resource, resource_of
from twinstack.apiserver.bodies import check_kind, delete_options_of, value_of
from twinstack.apiserver.calls import Call
from twinstack.apiserver.changes import Changes, Outcome, timestamp
from twinstack.apiserver.deletions import Deletions
from twinstack.rules import disruptions
from twinstack.rules.metadata import problems_with_finalizers

SCALE_VERSION, SCALE_KIND = "autoscaling/v1", "Scale"
SCALES = Resource("autoscaling", "v1", "scales", "scale", SCALE_KIND, True, Object)  # which are only ever seen through a workload's door
EVICTION_VERSION, EVICTION_KIND = "policy/v1", "Eviction"
_EVICTION_BEFORE = "policy/v1beta1"
_BUDGETS = resource_of(PodDisruptionBudget)
_REPLICAS = ("spec", "replicas")
_MAX_REPLICAS = 2**31 - 1


def scale_of(document: Document) -> Document:
    """How many replicas an object wants and has, as a Scale."""
    metadata = document["metadata"]
    named = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    spec, status = document.get("spec") or {}, document.get("status") or {}
    shown: Document = {"replicas": status.get("replicas", 0)}
    selects = spec.get("selector") or {}
    if selector := _selector_text({"matchLabels": selects} if document.get("kind") == "ReplicationController" else selects):
        shown["selector"] = selector
    replicas = spec.get("replicas", 1)
    return {
        "kind": SCALE_KIND,
        "apiVersion": SCALE_VERSION,
        "metadata": {name: metadata[name] for name in named if name in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": shown,
    }


def owned_scale_of(document: Document) -> Document:
    """The Scale with the entries of those who own the replicas."""
    scale = scale_of(document)
    if entries := apply.scale_entries(document["metadata"].get("managedFields") or [], _REPLICAS, SCALE_VERSION):
        scale["metadata"]["managedFields"] = entries
    return scale


def _selector_text(selector: Mapping[str, Any]) -> str:
    """A workload's selector in the form that ``labelSelector`` takes."""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one.get("key", ""), one.get("operator", ""), ",".join(sorted(one.get("values") or ()))
        parts.append({"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}.get(operator, key))
    return ",".join(parts)


def scaled(document: Document, scale: Document, writer: apply.Writer, door: apply.Door | None, *, applied: bool = False) -> Document:
    """The object with the replicas that a Scale wants; the Scale's resourceVersion, if any, is the one that is changed.

    The replicas become the writer's, as far as anybody is known to own them. An *applied* Scale has the entries already.
    """
    spec, metadata = scale.get("spec") or {}, scale.get("metadata") or {}
    if not isinstance(spec, dict) or not isinstance(metadata, dict):
        raise BadRequest("Scale: spec and metadata are objects")
    name = document["metadata"]["name"]
    replicas = spec.get("replicas", 0)
    if type(replicas) is not int:
        raise BadRequest("Scale: spec.replicas is a whole number")
    if not 0 <= replicas <= _MAX_REPLICAS:
        problem = FieldProblem("spec.replicas", ProblemType.INVALID, replicas, f"must be between 0 and {_MAX_REPLICAS}")
        raise errors.invalid(SCALE_KIND, name, [problem], group="autoscaling")
    if metadata.get("name") != name:
        raise BadRequest(f"the name of the object ({metadata.get('name', '')}) does not match the name on the URL ({name})")
    if metadata.get("namespace") not in (None, "", document["metadata"].get("namespace")):
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    if metadata.get("uid"):
        document["metadata"]["uid"] = metadata["uid"]
    if metadata.get("resourceVersion"):
        document["metadata"]["resourceVersion"] = metadata["resourceVersion"]
    if door is not None:
        before = owned_scale_of(document)
        entries = metadata.get("managedFields") or [] if applied else apply.updated(before, {**scale, "metadata": before["metadata"]}, None, writer, door)
        owners = apply.with_scale_entries(document["metadata"].get("managedFields") or [], entries, _REPLICAS, document["apiVersion"])
        document["metadata"]["managedFields"] = owners
    objects.write(document, _REPLICAS, replicas)
    return document


def eviction_of(call: Call) -> Document:
    """The Eviction in a request's body; its version before means the same."""
    value = value_of(call, EVICTION_VERSION, EVICTION_KIND)
    if isinstance(value, dict) and value.get("apiVersion") == _EVICTION_BEFORE:
        value["apiVersion"] = EVICTION_VERSION
    if not isinstance(value, dict):
        raise BadRequest("the body is not an Eviction: a JSON object was expected")
    check_kind(value, EVICTION_VERSION, EVICTION_KIND)
    return value


async def evict(changes: Changes, deletions: Deletions, resource: Resource, key: Key, eviction: Document, *, dry_run: bool) -> Outcome:
    """Delete a pod in good order, and say in its status why; TooManyRequests when its disruption budget needs it."""
    name = eviction["metadata"].get("name", "")
    if name != key.name:
        raise BadRequest(f"the name of the Eviction ({name}) does not match the pod's on the URL ({key.name})")
    changes.check_namespace(resource, key.namespace, key.name)
    options = delete_options_of(eviction.get("deleteOptions") or {})
    dry_run = dry_run or "All" in options.dryRun

    def disrupted(pod: Document) -> Document:
        status = pod.setdefault("status", {})
        conditions = [one for one in status.get("conditions") or () if one.get("type") != "DisruptionTarget"]
        why = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
        status["conditions"] = [*conditions, {**why, "lastProbeTime": None, "lastTransitionTime": timestamp(changes.now())}]
        return pod

    stored = changes.cache.collections[resource].items.get(key)
    if stored is not None:
        await _take_from_budget(changes, objects.view_of(Pod, stored.document()), dry_run=dry_run)
    if stored is not None and b'"deletionTimestamp":"' not in stored.data:
        await changes.update(resource, key, disrupted, subresource="status", dry_run=dry_run)
    await deletions.delete(resource, key, options, dry_run=dry_run)
    return Outcome(objects.encode({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}), (), True)


async def _take_from_budget(changes: Changes, pod: Pod, *, dry_run: bool) -> None:
    """Let the pod's budget, if it has one, know that it goes; raise when it may not."""
    collection = changes.cache.collections.get(_BUDGETS)
    if collection is None or disruptions.is_no_loss(pod):
        return
    stored = [collection.items[key] for key in collection.keys(pod.metadata.namespace)]
    found = [one for one in (objects.view_of(PodDisruptionBudget, each.document()) for each in stored) if disruptions.protects(one, pod)]
    if len(found) > 1:
        names = ", ".join(one.metadata.name for one in found)
        raise errors.InternalError(f"pod {pod.metadata.name} has more than one disruption budget ({names}), and an eviction can ask only one")
    if not found or not disruptions.verdict_of(found[0], pod).takes:
        if found:
            _insist(disruptions.verdict_of(found[0], pod), pod)
        return

    def taken(budget: Document) -> Document:
        verdict = disruptions.verdict_of(objects.view_of(PodDisruptionBudget, budget), pod)
        _insist(verdict, pod)
        if verdict.takes:
            status = budget["status"]
            status["disruptionsAllowed"] -= 1
            status["disruptedPods"] = {**(status.get("disruptedPods") or {}), pod.metadata.name: timestamp(changes.now())}
        return budget

    await changes.update(_BUDGETS, Key(pod.metadata.namespace, found[0].metadata.name), taken, subresource="status", dry_run=dry_run)


def _insist(verdict: disruptions.Verdict, pod: Pod) -> None:
    if not verdict.goes:
        cause = {"reason": "DisruptionBudget", "message": verdict.why}
        told = f"cannot evict pod {pod.metadata.name}, for its disruption budget needs it: {verdict.why}"
        raise errors.TooManyRequests(told, causes=[cause], retry_after_seconds=verdict.retry_after_seconds)


async def bind(changes: Changes, resource: Resource, key: Key, binding: Document, *, dry_run: bool) -> Outcome:
    """Give a pod its node: Conflict when it has one, or when it is going away."""
    target = binding.get("target") or {}
    node = target.get("name") if isinstance(target, dict) else None
    if not isinstance(node, str) or not node:
        raise errors.invalid("Binding", key.name, [FieldProblem("target.name", ProblemType.REQUIRED)])
    if target.get("kind", "Node") not in ("", "Node"):
        raise errors.invalid("Binding", key.name, [FieldProblem("target.kind", ProblemType.NOT_SUPPORTED, target["kind"], 'supported values: "Node"')])
    metadata = binding["metadata"]
    if metadata.get("name", key.name) != key.name:
        raise BadRequest(f"the name of the Binding ({metadata['name']}) does not match the pod's on the URL ({key.name})")
    changes.check_namespace(resource, key.namespace, key.name)

    def bound(pod: Document) -> Document:
        has = (pod.get("spec") or {}).get("nodeName")
        if pod["metadata"].get("deletionTimestamp"):
            raise errors.conflict("pods/binding", key.name, f"pod {key.name} is being deleted, cannot be assigned to a host")
        if has:
            raise errors.conflict("pods/binding", key.name, f'pod {key.name} is already assigned to node "{has}"')
        if (pod.get("spec") or {}).get("schedulingGates"):
            raise errors.conflict("pods/binding", key.name, f"pod {key.name} is held back by its schedulingGates")
        if metadata.get("uid"):
            pod["metadata"]["uid"] = metadata["uid"]
        objects.write(pod, ("spec", "nodeName"), node)
        if isinstance(metadata.get("annotations"), dict) and metadata["annotations"]:
            pod["metadata"]["annotations"] = {**(pod["metadata"].get("annotations") or {}), **metadata["annotations"]}
        status = pod.setdefault("status", {})
        conditions = [one for one in status.get("conditions") or () if one.get("type") != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(changes.now())})
        status["conditions"] = conditions
        return pod

    outcome = await changes.update(resource, key, bound, subresource="binding", dry_run=dry_run)
    success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
    return Outcome(objects.encode(success), outcome.warnings, True)


def finalized(namespace: Document, body: Document) -> Document:
    """The namespace with the finalizers in its spec that the body leaves it."""
    if body["metadata"].get("name") != namespace["metadata"]["name"]:
        raise BadRequest(f"the name of the object ({body['metadata'].get('name', '')}) does not match the name on the URL")
    spec = body.get("spec") or {}
    wanted = (spec.get("finalizers") or []) if isinstance(spec, dict) else None
    if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
        raise BadRequest("Namespace: spec.finalizers is a list of texts")
    if problems := list(problems_with_finalizers(wanted, "spec.finalizers", at_each=True)):
        raise errors.invalid("Namespace", namespace["metadata"]["name"], problems)
    version = body["metadata"].get("resourceVersion")
    if version:
        namespace["metadata"]["resourceVersion"] = version
    namespace["spec"] = {"finalizers": wanted} if wanted else {}
    return namespace
