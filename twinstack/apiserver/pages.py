"""Pages that are passed back by ``proxy``: their absolute links lead through us, too, as upstream has it.

Rule of this file: bytes of HTML in and out as they come; everything but the links is left as it is, byte by byte.

Theory. A page is passed on tag by tag. Comments, and what stands in ``script`` and ``style``, are no tags, whatever they look like. A tag that is
not there whole waits for the rest; one longer than any honest tag is passed on unread.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Final

MEDIA_TYPE: Final = "text/html"
ENCODINGS: Final = ("", "identity", "gzip", "deflate")
_LONGEST_TAG: Final = 64 << 10
# Attributes that hold a URL (HTML 4 and 5), by element.
_LINKS: Final = {
    b"a": b"href", b"applet": b"codebase", b"area": b"href", b"audio": b"src", b"base": b"href", b"blockquote": b"cite", b"body": b"background",
    b"button": b"formaction", b"command": b"icon", b"del": b"cite", b"embed": b"src", b"form": b"action", b"frame": b"longdesc src", b"head": b"profile",
    b"html": b"manifest", b"iframe": b"longdesc src", b"img": b"longdesc src usemap", b"input": b"src usemap formaction", b"ins": b"cite", b"link": b"href",
    b"object": b"archive classid codebase data usemap", b"q": b"cite", b"script": b"src", b"source": b"src", b"video": b"poster src",
}  # fmt: skip
_BY_ELEMENT: Final = {element: frozenset(names.split()) for element, names in _LINKS.items()}
_TAG = re.compile(rb"""<([a-zA-Z][^\s/>]*)((?:[^>"']|"[^"]*"|'[^']*')*)>""")
_ATTRIBUTE = re.compile(rb"""(\s)([^\s=>"'/]+)(\s*=\s*)("[^"]*"|'[^']*'|[^\s>"']+)""")
_OPAQUE: Final = {b"script": re.compile(rb"</script[\s/>]", re.I), b"style": re.compile(rb"</style[\s/>]", re.I)}


class Page:
    """One page on its way; *link* says where a link leads instead. *encoding* is one of :data:`ENCODINGS`, and what comes out has none."""

    def __init__(self, link: Callable[[str], str], encoding: str = "") -> None:
        self._link = link
        self._unpack = {"gzip": zlib.decompressobj(31), "deflate": zlib.decompressobj()}.get(encoding)
        self._held = b""
        self._until: re.Pattern[bytes] | None = None  # the end of what is no HTML

    def feed(self, data: bytes) -> bytes:
        """What of the page can go on. zlib.error when it is not packed as it says."""
        self._held += self._unpack.decompress(data) if self._unpack is not None else data
        return self._taken(last=False)

    def end(self) -> bytes:
        """The rest."""
        if self._unpack is not None:
            self._held += self._unpack.flush()
        return self._taken(last=True)

    def _taken(self, *, last: bool) -> bytes:
        done: list[bytes] = []
        held, at = self._held, 0
        while at < len(held):
            if self._until is not None:
                found = self._until.search(held, at)
                if found is None:
                    break
                done.append(held[at : found.start()])
                at, self._until = found.start(), None
            mark = held.find(b"<", at)
            if mark < 0:
                done.append(held[at:])
                at = len(held)
                break
            done.append(held[at:mark])
            at = mark
            if held.startswith(b"<!--", at):
                end = held.find(b"-->", at + 4)
                size = end + 3 - at if end >= 0 else 0
            elif (tag := _TAG.match(held, at)) is not None:
                done.append(self._changed(tag))
                at = tag.end()
                self._until = _OPAQUE.get(tag[1].lower())
                continue
            else:
                is_tag = held[at + 1 : at + 2].isalpha() or held[at:] in (b"<", b"<!", b"<!-")
                size = 0 if is_tag and len(held) - at < _LONGEST_TAG else 1
            if not size:
                break
            done.append(held[at : at + size])
            at += size
        self._held = held[at:]
        if last or len(self._held) > _LONGEST_TAG:
            done.append(self._held)
            self._held = b""
        return b"".join(done)

    def _changed(self, tag: re.Match[bytes]) -> bytes:
        names = _BY_ELEMENT.get(tag[1].lower())
        if names is None:
            return tag[0]

        def changed(attribute: re.Match[bytes]) -> bytes:
            space, name, equals, value = attribute.groups()
            if name.lower() not in names:
                return attribute[0]
            quote = value[:1] if value[:1] in (b'"', b"'") else b""
            url = value[1:-1] if quote else value
            try:
                text = url.decode()
            except UnicodeDecodeError:
                return attribute[0]
            return b"".join((space, name, equals, quote, self._link(text).encode(), quote))

        return b"<" + tag[1] + _ATTRIBUTE.sub(changed, tag[2]) + b">"
