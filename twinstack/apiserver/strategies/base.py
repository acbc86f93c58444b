"""What a kind adds to the general way of a request, and what it may use on that way.

The handlers own the way (spec/api.md 0.3 and 0.4): decode, default, begin, validate, commit. A strategy
fills in what is particular to its kind, synchronously and without I/O: everything it reads is in memory, everything
it writes beside the object itself goes into the request's :class:`Transaction`, so that all of it is
committed at once or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Protocol

from twinstack.api.errors import FieldProblem
from twinstack.api.objects import Document, Key, View
from twinstack.api.resources import Resource


class Reader(Protocol):
    """The present state of the store, in memory. Documents are the caller's own copies."""

    def get(self, resource: Resource, key: Key) -> Document | None: ...

    def list(self, resource: Resource, namespace: str = "") -> Sequence[Document]: ...

    def each(self, resource: Resource, having: bytes = b"") -> Iterator[Document]:
        """All objects of now whose bytes have these, one at a time; those that change meanwhile are told as they were."""

    def keys(self, resource: Resource) -> Sequence[Key]:
        """The keys of all objects of now."""

    def views(self, resource: Resource, view: type[View]) -> Iterator[tuple[Key, View]]:
        """All objects of now looked at through a view, made of the bytes without a document between."""


class Undo:
    """What to take back, in reverse, when what it is entered for ends before :meth:`forget`. Most never have to."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def callback(self, step: Callable[..., object], *arguments: Any) -> None:
        """Call this, too, to take back what was done."""
        self._steps.append((step, arguments))

    def forget(self) -> None:
        """Take nothing back: all that was done stands."""
        self._steps.clear()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, *_: object) -> None:
        if self._steps:
            with ExitStack() as stack:  # every step is taken, whatever becomes of another
                for step, arguments in self._steps:
                    stack.callback(step, *arguments)
            self._steps.clear()


class Transaction:
    """One request's side writes, and what to undo when it fails.

    ``undo`` runs when anything after it fails, in reverse; ``after_commit`` runs once the writes are durable.
    In a dry run nothing is committed and ``undo`` always runs.
    """

    def __init__(self, reader: Reader, *, now: datetime, dry_run: bool = False) -> None:
        self.reader = reader
        self.now = now
        self.dry_run = dry_run
        self.undo = Undo()
        self.after_commit: list[Callable[[], None]] = []
        self.creates: list[tuple[Resource, Document]] = []
        self.deletes: list[tuple[Resource, Key]] = []
        self.warnings: list[str] = []

    def create(self, resource: Resource, document: Document) -> None:
        """Create another object in the same transaction; an existing one of that key fails the request."""
        self.creates.append((resource, document))

    def delete(self, resource: Resource, key: Key) -> None:
        """Delete another object in the same transaction, if it exists."""
        self.deletes.append((resource, key))


class Strategy:
    """The plain way; a kind overrides what differs. ``document``, ``after`` may be changed in place, ``before`` never."""

    # Whether metadata.generation starts at 1 and counts the changes of anything but metadata and status.
    counts_generation = False
    # Whether PUT to a name that does not exist creates the object.
    creates_on_update = False
    # Whether an update without a resourceVersion is allowed.
    unconditional_update = True
    # Whether a creation takes what another writer of the store may take at the same moment, and is then begun anew.
    allocates = False
    # Whether the status written through the main resource is dropped (create) or kept as it was (update).
    has_status = False
    # Fields that a selector may name, and that are empty whatever stands there.
    empty_fields: frozenset[str] = frozenset()
    # Whether a deletion may wait for, or be hidden from, what the object owns; else propagation policies mean nothing to it.
    owns = True
    # Whether a deletion that names no propagation policy leaves what the object owns behind.
    orphans_by_default = False

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def default(self, document: Document) -> None:
        """Fill in the version's static defaults; runs on every decoded document."""

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        """Decide and allocate, before validation; any APIError stops the request."""

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        """Carry over, decide, allocate and plan releases, before validation."""

    def problems_with_create(self, document: Document) -> list[FieldProblem]:
        """Everything that is wrong with a new object, but for its metadata."""
        return []

    def problems_with_sent(self, sent: Document, before: Document, subresource: str) -> list[FieldProblem]:
        """What is wrong with a changed object as it was sent, before its door puts back what it does not open."""
        return []

    def problems_with_update(self, after: Document, before: Document, subresource: str) -> list[FieldProblem]:
        """Everything that is wrong with a change, but for its metadata."""
        return []

    def generated_name(self, prefix: str, suffix: str) -> str:
        """The name that a ``generateName`` becomes, with five characters of chance."""
        return prefix[:58] + suffix

    def name_problem(self, name: str) -> str | None:
        """Why the name will not do; None when it will."""
        return None

    def warnings(self, after: Document, before: Document | None) -> list[str]:
        """What to tell the client besides, in Warning headers."""
        return []

    def is_shown(self, document: Document) -> bool:
        """Whether :meth:`on_read` would change nothing; it need not know."""
        return False

    def on_read(self, document: Document) -> None:
        """Read-time defaulting, of answers and of the old object of an update."""

    def fields(self, document: Document) -> Mapping[str, str]:
        """The selectable fields besides metadata.name and metadata.namespace."""
        return {}

    def kept(self, document: Document) -> Document:
        """Where the objects are another resource's in another form: such a one in the form in which it is kept."""
        return document

    def shown(self, document: Document) -> Document:
        """The inverse: a kept one in the form that is shown here."""
        return document

    def deletion_warnings(self) -> list[str]:
        """What to tell whoever deletes without a propagation policy."""
        return []

    def grace_period_seconds(self, document: Document, asked: int | None) -> int:
        """How long a deletion waits for the object's agent; 0 deletes at once."""
        return 0

    def after_delete(self, document: Document, transaction: Transaction) -> None:
        """What goes with the object when it is really gone."""


class API(Protocol):
    """The API server's own hand on itself, for its bootstrap loops; errors are those of ``api.errors``."""

    @property
    def reader(self) -> Reader: ...

    async def create(self, resource: Resource, document: Document) -> Document: ...

    async def update(self, resource: Resource, document: Document, subresource: str = "") -> Document: ...

    async def delete(self, resource: Resource, key: Key) -> None: ...
