"""An answer that is known as a whole, as the discovery and OpenAPI documents are."""

from __future__ import annotations

from typing import NamedTuple

JSON = "application/json"


class Reply(NamedTuple):
    """An HTTP answer. ``etag`` is empty where there is none."""

    status: int
    content_type: str
    body: bytes
    etag: str = ""


def accepted(accept: str) -> list[tuple[str, dict[str, str]]]:
    """The media types of an ``Accept`` header with their parameters, in the client's order; ``*/*`` when it says nothing.

    Quality values are not weighed: Kubernetes' clients write their first choice first.
    """
    result: list[tuple[str, dict[str, str]]] = []
    for part in accept.split(","):
        media_type, *rest = part.split(";")
        media_type = media_type.strip().lower()
        if not media_type:
            continue
        parameters = {}
        for one in rest:
            name, _, value = one.partition("=")
            parameters[name.strip()] = value.strip()
        if parameters.get("q") not in ("0", "0.0"):
            result.append((media_type, parameters))
    return result or [("*/*", {})]
