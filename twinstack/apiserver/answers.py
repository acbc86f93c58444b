"""The last touch on an answer: what everybody is told who comes through a door, and YAML for those who want it."""

from __future__ import annotations

import yaml

from twinstack.api import objects
from twinstack.apiserver.calls import JSON, Answer, Reaction
from twinstack.apiserver.replies import accepted
from twinstack.apiserver.requests import Request
from twinstack.apiserver.tables import YAML


def wants_yaml(accept: str) -> bool:
    """Whether YAML is the client's first choice."""
    return "yaml" in accept and accepted(accept)[0][0] == YAML


def finished(reaction: Reaction, request: Request | None, accept: str, audit_id: str) -> Reaction:
    """The reaction with its id and the door's own warning, as YAML where that is wanted."""
    headers = [("Audit-Id", audit_id), *reaction.headers]
    if request is not None and request.resource.deprecation:
        headers.insert(1, ("Warning", f'299 - "{request.resource.deprecation}"'))
    if not isinstance(reaction, Answer):
        return reaction._replace(headers=headers)
    if reaction.content_type == JSON and reaction.body and wants_yaml(accept):
        text = yaml.dump(objects.decode(reaction.whole()), Dumper=yaml.CSafeDumper, default_flow_style=False, allow_unicode=True)
        return Answer(reaction.status, text.encode(), YAML, headers)
    return Answer(reaction.status, reaction.body, reaction.content_type, headers, reaction.version, reaction.rest)
