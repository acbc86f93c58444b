"""Templates as they were: the ControllerRevisions of StatefulSets and DaemonSets, which ``kubectl rollout`` reads and takes back.

Rule of this file: an owner and the revisions that it has in, writes out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from twinstack.api.kinds import ControllerRevision, DaemonSet, StatefulSet
from twinstack.api.objects import Document, Key
from twinstack.api.resources import resource_of
from twinstack.api.world import Action, Create, Delete, Patch, World
from twinstack.rules.workloads import controlled_by, owner_reference, references, template_metadata

REVISION = "controller-revision-hash"
_KEPT = 10
_RESOURCE = resource_of(ControllerRevision)

Owner = StatefulSet | DaemonSet


def revisions_of(one: Owner, world: World) -> list[ControllerRevision]:
    """The revisions that the owner controls."""
    return [each for each in world.owned(ControllerRevision, one.metadata.uid) if controlled_by(each, one.metadata.uid)]


def newest_kept(one: Owner, name: str, label: str, kept: Sequence[ControllerRevision]) -> Iterator[Action]:
    """The newest template is kept under this name, with the highest number: also when it was there before."""
    highest = max((each.revision for each in kept), default=0)
    present = next((each for each in kept if each.metadata.name == name), None)
    if present is None:
        metadata = {
            "name": name,
            "namespace": one.metadata.namespace,
            "labels": {**(one.spec.template.metadata.labels or {}), REVISION: label},
            "ownerReferences": references([owner_reference(one)]),
        }
        template = {"metadata": template_metadata(one.spec.template), "spec": one.spec.template.spec, "$patch": "replace"}
        document: Document = {"metadata": metadata, "data": {"spec": {"template": template}}, "revision": highest + 1}
        yield Create(_RESOURCE, {"apiVersion": _RESOURCE.api_version, "kind": _RESOURCE.kind, **document})
    elif present.revision < highest:
        yield Patch(_RESOURCE, Key(one.metadata.namespace, name), {"revision": highest + 1}, uid=present.metadata.uid)


def forgotten(one: Owner, kept: Sequence[ControllerRevision], alive: Collection[str]) -> Iterator[Action]:
    """Templates that nobody has any more (whose names are not among the living), but for the latest few."""
    idle = sorted((each for each in kept if each.metadata.name not in alive), key=lambda each: each.revision)
    most = _KEPT if one.spec.revisionHistoryLimit is None else one.spec.revisionHistoryLimit
    for each in idle[: max(0, len(idle) - most)]:
        yield Delete(_RESOURCE, Key(each.metadata.namespace, each.metadata.name), uid=each.metadata.uid)
