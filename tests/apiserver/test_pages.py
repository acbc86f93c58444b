"""Links of pages that are passed back."""

from __future__ import annotations

import gzip
import zlib

import pytest

from twinstack.apiserver.pages import Page


def passed(data: bytes, *, step: int = 1 << 20, encoding: str = "") -> bytes:
    """The page with ``/p`` before its absolute paths, fed in steps."""
    page = Page(lambda url: f"/p{url}" if url.startswith("/") else url, encoding)
    return b"".join([*(page.feed(data[at : at + step]) for at in range(0, len(data), step)), page.end()])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b'<a href="/x">x</a>', b'<a href="/p/x">x</a>', id="a link"),
        pytest.param(b"<A  CLASS=b HREF='/x' id=c>", b"<A  CLASS=b HREF='/p/x' id=c>", id="capitals, other attributes and other quotes"),
        pytest.param(b"<img src=/x.png alt=/y>", b"<img src=/p/x.png alt=/y>", id="no quotes"),
        pytest.param(b'<img src="/a"\n longdesc = "/b"/>', b'<img src="/p/a"\n longdesc = "/p/b"/>', id="two of one tag, and its end"),
        pytest.param(b'<a href="x?a=/b">', b'<a href="x?a=/b">', id="a relative link"),
        pytest.param(b'<div href="/x" title="<a href=/y>">', b'<div href="/x" title="<a href=/y>">', id="an element without links, with a tag in a text"),
        pytest.param(b'<!-- <a href="/x"> --><a href="/x">', b'<!-- <a href="/x"> --><a href="/p/x">', id="a comment"),
        pytest.param(
            b'<script src="/s.js">"<a href=\'/x\'>"; 1 < 2</SCRIPT><a href="/x">',
            b'<script src="/p/s.js">"<a href=\'/x\'>"; 1 < 2</SCRIPT><a href="/p/x">',
            id="a script's own text",
        ),
        pytest.param(b"1 < 2 <3 <<a href='/x'>", b"1 < 2 <3 <<a href='/p/x'>", id="signs that begin no tag"),
        pytest.param(b'\xff<a href="/\xff">\xff', b'\xff<a href="/\xff">\xff', id="bytes that are no text"),
        pytest.param(b'<a href="/x', b'<a href="/x', id="a tag that never ends"),
        pytest.param(b"<!-- never", b"<!-- never", id="a comment that never ends"),
        pytest.param(b"<", b"<", id="a sign alone"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_absolute_links_lead_through_us_and_nothing_else_is_touched(before: bytes, after: bytes) -> None:
    assert passed(before) == after
    assert passed(before, step=1) == after


def test_what_is_there_whole_does_not_wait_for_the_rest() -> None:
    page = Page(lambda url: url)
    assert page.feed(b"text <a href=") == b"text "
    assert page.feed(b"'/x'> more") == b"<a href='/x'> more"


def test_a_tag_longer_than_any_honest_one_is_passed_on() -> None:
    page = Page(lambda url: url)
    data = b'<a href="' + b"x" * 100_000
    assert len(page.feed(data)) == len(data)


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_packed_page_is_unpacked(encoding: str, packed: object) -> None:
    assert passed(packed(b'<a href="/x">'), step=3, encoding=encoding) == b'<a href="/p/x">'  # type: ignore[operator]
