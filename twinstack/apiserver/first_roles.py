"""The roles and bindings that a cluster begins with, written at once; what an upgrade brings or somebody took away is put back.

Source: the Kubernetes documentation, "Using RBAC Authorization", section "Auto-reconciliation".
"""

from __future__ import annotations

from twinstack.api.objects import Document, key_of
from twinstack.api.resources import BY_KIND
from twinstack.apiserver.changes import Changes
from twinstack.apiserver.strategies.base import Transaction
from twinstack.rules.bootstrap_roles import AUTOUPDATE, bootstrap_objects
from twinstack.rules.rbac import rules_of, uncovered
from twinstack.store.base import Write


async def make(changes: Changes) -> int:
    """See to it that every first role and binding is there, in one commit; how many were written."""
    transaction = Transaction(changes.cache, now=changes.now())
    writes: list[Write] = []
    with transaction.undo:
        for document in bootstrap_objects():
            resource = BY_KIND[document["apiVersion"], document["kind"]]
            collection = changes.cache.collections[resource]
            stored = collection.items.get(key_of(document))
            if stored is None:
                transaction.create(resource, document)
            elif (after := _completed(stored.raw_document(), document)) is not None:
                collection.strategy.default(after)
                writes.append(collection.write(after, stored.revision))
        writes += changes.beside(transaction)
        if writes:
            await changes.commit(writes, transaction)
    return len(writes)


def _completed(stored: Document, wanted: Document) -> Document | None:
    """A stored object with what it lacks; None when it lacks nothing, or when somebody said that it is to be left alone."""
    if ((stored["metadata"].get("annotations") or {}).get(AUTOUPDATE)) == "false":
        return None
    if "rules" in wanted:
        if "aggregationRule" in wanted:
            return None  # gathered from others
        missing = uncovered(rules_of(stored), rules_of(wanted))
        if not missing:
            return None
        stored["rules"] = [*(stored.get("rules") or ()), *(rule.document() for rule in missing)]
        return stored
    present = [(one.get("kind"), one.get("name")) for one in stored.get("subjects") or ()]
    absent = [one for one in wanted.get("subjects") or () if (one["kind"], one["name"]) not in present]
    if not absent or stored.get("roleRef") != wanted["roleRef"]:
        return None
    stored["subjects"] = [*(stored.get("subjects") or ()), *absent]
    return stored
