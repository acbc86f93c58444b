"""What a controller sees, what wakes it, and what it wants done.

Controllers decide, they do not act: ``decide(key, world)`` returns actions, and ``loops.reconciler``
performs them, retries and feeds the answers back. An action is a value: it prints itself, and a dry run
is printing instead of performing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from twinstack.api import kinds
from twinstack.api.objects import Document, Key
from twinstack.api.resources import Resource

V = TypeVar("V", bound=kinds.Object)

Index = Callable[[Any], Iterable[Hashable]]
"""The values by which an object of one kind is to be found. A function of a module, that depends on the object alone."""


class World(Protocol):
    """A consistent look at the objects that the controller watches. Nothing in it may be changed."""

    @property
    def now(self) -> datetime:
        """The time of this decision, in UTC."""

    def get(self, view: type[V], key: Key) -> V | None:
        """One object."""

    def list(self, view: type[V], namespace: str = "") -> Sequence[V]:
        """All objects, or those of one namespace, by key."""

    def owned(self, view: type[V], uid: str) -> Sequence[V]:
        """The objects that name this uid among their ownerReferences, by key."""

    def labelled(self, view: type[V], namespace: str, label: str, value: str) -> Sequence[V]:
        """The objects of a namespace with this very label value, by key."""

    def indexed(self, view: type[V], index: Index, value: Hashable) -> Sequence[V]:
        """The objects for which the index gives this value, by key."""


class Watch(NamedTuple):
    """A kind that wakes a controller.

    ``keys(before, after, world)`` gives the keys to decide anew; before is None when the object is new,
    after when it is gone. ``world`` already holds *after*.
    """

    view: type[kinds.Object]
    keys: Callable[[Any, Any, World], Iterable[Key]]


def own_key(before: kinds.Object | None, after: kinds.Object | None, world: World) -> Iterable[Key]:
    """Wake for the object itself."""
    one = after or before
    return (Key(one.metadata.namespace, one.metadata.name),) if one else ()


def controller_key(kind: str) -> Callable[[Any, Any, World], Iterable[Key]]:
    """Wake for the controlling owner of this kind, before and after."""

    def keys(before: kinds.Object | None, after: kinds.Object | None, world: World) -> Iterable[Key]:
        for one in (before, after):
            owner = one.metadata.controller if one else None
            if one and owner and owner.kind == kind:
                yield Key(one.metadata.namespace, owner.name)

    return keys


class Create(NamedTuple):
    """Make an object. ``AlreadyExists`` is an answer like another: the key is decided anew."""

    resource: Resource
    document: Document


class Patch(NamedTuple):
    """Change an object by a JSON merge patch (RFC 7396), or a strategic one.

    ``uid`` and ``resource_version``, where given, are preconditions.
    """

    resource: Resource
    key: Key
    patch: Document
    subresource: str = ""
    strategic: bool = False
    uid: str = ""
    resource_version: str = ""


class Replace(NamedTuple):
    """Write a whole object back, with the resourceVersion it was read at."""

    resource: Resource
    document: Document
    subresource: str = ""


class Delete(NamedTuple):
    """Delete an object; one that is gone already is a success."""

    resource: Resource
    key: Key
    uid: str = ""
    grace_period_seconds: int | None = None
    propagation_policy: str = ""


class DeleteCollection(NamedTuple):
    """Delete every object of a resource in a namespace; that there is none is a success."""

    resource: Resource
    namespace: str


class Bind(NamedTuple):
    """Give a pod its node, by creating a Binding; Conflict when it has one already."""

    key: Key
    node: str
    uid: str = ""


class Absent(NamedTuple):
    """Go on with what follows only if the API server itself has no such object, or one with another uid.

    A cache may be behind: one stream of events can run ahead of another. What cannot be taken back is
    therefore asked for once more. When the object is there, performing raises Conflict, and the key is decided anew.
    """

    resource: Resource
    key: Key
    uid: str = ""


class Tell(NamedTuple):
    """Record an event about an object."""

    about: kinds.Object
    type: str  # Normal or Warning
    reason: str
    message: str


class After(NamedTuple):
    """Decide this key anew after so many seconds."""

    seconds: float


Action = Create | Patch | Replace | Delete | DeleteCollection | Bind | Absent | Tell | After


class Controller(Protocol):
    """One invariant over the objects. Its docstring states it.

    ``name`` is upstream's (``--controllers``); ``decide`` on its own result returns nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def watches(self) -> Sequence[Watch]: ...

    def decide(self, key: Key, world: World) -> list[Action]: ...
