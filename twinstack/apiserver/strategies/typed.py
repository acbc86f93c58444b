"""What the strategies of all kinds have in common: documents of the right types, names, status and generation."""

from __future__ import annotations

import msgspec

from twinstack.api import kinds
from twinstack.api.errors import BadRequest
from twinstack.api.objects import Document, view_of
from twinstack.apiserver.strategies.base import Strategy, Transaction
from twinstack.rules.names import subdomain_problem
from twinstack.rules.shape import drop_nulls, drop_zeros

_METADATA = ("labels", "annotations", "ownerReferences", "finalizers", "generateName", "namespace", "name", "selfLink", "deletionGracePeriodSeconds")


class Typed(Strategy):
    """A kind whose documents are looked at through its view.

    ``status_first`` are the fields of a fresh status; None leaves a kind without status alone.
    """

    fresh_status: Document | None = None

    def default(self, document: Document) -> None:
        """Nulls go, types are checked (BadRequest names the first field that does not fit), then the kind's defaults come."""
        drop_nulls(document)
        metadata = document.get("metadata")
        if isinstance(metadata, dict):
            drop_zeros(metadata, [field for field in _METADATA if field != "deletionGracePeriodSeconds"])
        try:
            view_of(self.resource.view, document)
        except msgspec.ValidationError as error:
            raise BadRequest(f"{self.resource.kind} in version {self.resource.version!r} cannot be handled as a {self.resource.kind}: {error}") from None
        self.fill(document)

    def fill(self, document: Document) -> None:
        """The version's static defaults, in place."""

    def name_problem(self, name: str) -> str | None:
        return subdomain_problem(name)

    def begin_create(self, document: Document, transaction: Transaction) -> None:
        if self.fresh_status is not None:
            document["status"] = _copy(self.fresh_status)

    def begin_update(self, after: Document, before: Document, subresource: str, transaction: Transaction) -> None:
        if self.has_status:
            keep_half(after, before, subresource)


def keep_half(after: Document, before: Document, subresource: str) -> None:
    """Through the main door the status stays as it was; through the status door everything else but metadata does."""
    if subresource == "status":
        for field in [field for field in after if field not in ("apiVersion", "kind", "metadata", "status")]:
            del after[field]
        for field, value in before.items():
            if field not in ("apiVersion", "kind", "metadata", "status"):
                after[field] = _copy(value)
    elif "status" in before:
        after["status"] = _copy(before["status"])
    else:
        after.pop("status", None)


def _copy(value: object) -> object:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value)) if isinstance(value, (dict, list)) else value


def metadata_of(document: Document) -> kinds.ObjectMeta:
    """A look at the metadata."""
    return view_of(kinds.ObjectMeta, document.get("metadata") or {})
