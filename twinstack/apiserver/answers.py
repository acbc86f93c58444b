"""The last touch on an answer: what everybody is told who comes through a door, YAML for those who want it, and lines for those who read it."""

from __future__ import annotations

from urllib.parse import parse_qs

import msgspec
import yaml

from twinstack.api import objects
from twinstack.apiserver.calls import JSON, Answer, Call, Reaction
from twinstack.apiserver.replies import accepted
from twinstack.apiserver.requests import Request
from twinstack.apiserver.tables import YAML


def wants_yaml(accept: str) -> bool:
    """Whether YAML is the client's first choice."""
    return "yaml" in accept and accepted(accept)[0][0] == YAML


def wants_lines(call: Call) -> bool:
    """Whether JSON is for a person: the query says so, or it does not say and the client is one that people read from."""
    if "pretty=" in call.query and (asked := parse_qs(call.query).get("pretty")):
        return asked[0] in _TRUE
    return call.headers.get("User-Agent", "").startswith(_READ_BY_PEOPLE)


_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_READ_BY_PEOPLE = ("curl", "Wget", "Mozilla/5.0")


def finished(reaction: Reaction, request: Request | None, call: Call, audit_id: str) -> Reaction:
    """The reaction with its id and the door's own warning, as YAML where that is wanted."""
    headers = [("Audit-Id", audit_id), *reaction.headers]
    if request is not None and request.resource.deprecation:
        headers.insert(1, ("Warning", f'299 - "{request.resource.deprecation}"'))
    if not isinstance(reaction, Answer):
        return reaction._replace(headers=headers)
    if reaction.content_type == JSON and reaction.body:
        if wants_yaml(call.headers.get("Accept", "")):
            text = yaml.dump(objects.decode(reaction.whole()), Dumper=yaml.CSafeDumper, default_flow_style=False, allow_unicode=True)
            return Answer(reaction.status, text.encode(), YAML, headers)
        if wants_lines(call):
            return Answer(reaction.status, msgspec.json.format(reaction.whole()) + b"\n", JSON, headers)
    return Answer(reaction.status, reaction.body, reaction.content_type, headers, reaction.version, reaction.rest)
