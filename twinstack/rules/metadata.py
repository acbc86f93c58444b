"""What every object's metadata must look like, and what of it may never change.

Pure. The way to a new object fills in uid, creationTimestamp and generation before these checks run, and carries them
over from the old object on an update where the new one leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document
from twinstack.rules.names import NameProblem, label_problem, label_value_problem, qualified_problem
from twinstack.rules.problems import forbidden, required, too_long, wrong

ANNOTATIONS_SIZE = 256 * 1024
# Finalizers without a domain that Kubernetes itself uses.
STANDARD_FINALIZERS = frozenset({"kubernetes", "orphan", "foregroundDeletion"})
# Kinds that may not own anything.
_NO_OWNERS = frozenset({("v1", "Event")})
_IMMUTABLE = ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")


def problems_with_metadata(document: Document, *, name_problem: Callable[[str], NameProblem], namespaced: bool, path: str = "metadata") -> list[FieldProblem]:
    """Everything that is wrong with an object's metadata."""
    metadata = document.get("metadata") or {}
    problems = list(_problems_with_names(metadata, name_problem, namespaced, path))
    if labels := metadata.get("labels"):
        problems += problems_with_labels(labels, f"{path}.labels")
    if annotations := metadata.get("annotations"):
        problems += problems_with_annotations(annotations, f"{path}.annotations")
    if owners := metadata.get("ownerReferences"):
        problems += _problems_with_owners(owners, f"{path}.ownerReferences")
    if finalizers := metadata.get("finalizers"):
        problems += problems_with_finalizers(finalizers, f"{path}.finalizers")
    return problems


def problems_with_metadata_update(after: Document, before: Document, *, path: str = "metadata") -> list[FieldProblem]:
    """Everything that is wrong with a change of metadata."""
    new, old = after.get("metadata") or {}, before.get("metadata") or {}
    problems = [wrong(f"{path}.{field}", new.get(field), "may not change") for field in _IMMUTABLE if new.get(field) != old.get(field)]
    if new.get("generation", 0) < old.get("generation", 0):
        problems.append(wrong(f"{path}.generation", new.get("generation", 0), "may not grow smaller"))
    if old.get("deletionTimestamp"):
        added = [name for name in new.get("finalizers") or () if name not in (old.get("finalizers") or ())]
        if added:
            problems.append(forbidden(f"{path}.finalizers", f"no finalizer may be added while the object is being deleted, but {', '.join(added)} would be"))
    problems += problems_with_labels(new.get("labels"), f"{path}.labels")
    problems += problems_with_annotations(new.get("annotations"), f"{path}.annotations")
    problems += _problems_with_owners(new.get("ownerReferences") or (), f"{path}.ownerReferences")
    problems += problems_with_finalizers(new.get("finalizers") or (), f"{path}.finalizers")
    return problems


def problems_with_labels(labels: Mapping[str, str] | None, path: str) -> Iterator[FieldProblem]:
    """Bad keys and bad values; both are told at the map itself."""
    for key, value in (labels or {}).items():
        if problem := qualified_problem(key):
            yield wrong(path, key, problem)
        if problem := label_value_problem(value):
            yield wrong(path, value, problem)


def problems_with_annotations(annotations: Mapping[str, str] | None, path: str) -> Iterator[FieldProblem]:
    """Bad keys, judged in lower case, and too much text in all."""
    size = 0
    for key, value in (annotations or {}).items():
        if problem := qualified_problem(key.lower()):
            yield wrong(path, key, problem)
        size += len(key.encode()) + len(value.encode())
    if size > ANNOTATIONS_SIZE:
        yield too_long(path, ANNOTATIONS_SIZE)


def _problems_with_names(metadata: Mapping[str, Any], name_problem: Callable[[str], NameProblem], namespaced: bool, path: str) -> Iterator[FieldProblem]:
    generate = metadata.get("generateName")
    # A trailing hyphen is what a generated name goes on from.
    if generate and (problem := name_problem(generate[:-1] + "a" if generate.endswith("-") else generate)):
        yield wrong(f"{path}.generateName", generate, problem)
    name = metadata.get("name")
    if not name:
        yield required(f"{path}.name", "name or generateName is required")
    elif problem := name_problem(name):
        yield wrong(f"{path}.name", name, problem)
    namespace = metadata.get("namespace")
    if namespaced and not namespace:
        yield required(f"{path}.namespace")
    elif namespaced and (problem := label_problem(str(namespace))):
        yield wrong(f"{path}.namespace", namespace, problem)
    elif not namespaced and namespace:
        yield forbidden(f"{path}.namespace", "must be left out on a cluster-wide object")
    if metadata.get("generation", 0) < 0:
        yield wrong(f"{path}.generation", metadata["generation"], "must not be negative")


def _problems_with_owners(owners: Any, path: str) -> Iterator[FieldProblem]:
    controllers: list[str] = []
    for i, owner in enumerate(owners):
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                yield wrong(f"{path}[{i}].{field}", owner.get(field, ""), "must not be empty")
        version = owner.get("apiVersion", "")
        if not version or version.count("/") > 1:
            yield wrong(f"{path}[{i}].apiVersion", version, "must be a version, or a group and a version, such as 'apps/v1'")
        if (version, owner.get("kind")) in _NO_OWNERS:
            yield wrong(f"{path}[{i}]", owner, f"{owner.get('kind')} may not own an object")
        if owner.get("controller"):
            controllers.append(owner.get("name", ""))
    if len(controllers) > 1:
        yield wrong(path, owners, f"only one owner may be the controller, but {' and '.join(controllers)} are")


def problems_with_finalizers(finalizers: Any, path: str, *, at_each: bool = False) -> Iterator[FieldProblem]:
    """Names that are not qualified, told at the list or *at_each*, and names that Kubernetes itself does not use without a domain."""
    for i, name in enumerate(finalizers):
        if problem := qualified_problem(name):
            yield wrong(f"{path}[{i}]" if at_each else path, name, problem)
        elif "/" not in name and name not in STANDARD_FINALIZERS:
            yield wrong(f"{path}[{i}]", name, "must have a domain, such as 'example.com/name'")
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        yield wrong(path, finalizers, "'orphan' and 'foregroundDeletion' exclude each other")
