"""A container's log: written in CRI's form, read as kubectl asks."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.agent.containers import crilog
from twinstack.agent.containers.crilog import Log, parse
from twinstack.agent.logfiles import Options, files_of, parse_options, read
from twinstack.api.errors import BadRequest

T0 = 1_767_322_845_000_000_001  # 2026-01-02T03:00:45.000000001Z


def test_a_line_has_its_moment_its_stream_and_its_text(tmp_path):
    log = Log(str(tmp_path / "0.log"))
    log.feed("stdout", b"one\ntw", now=T0)
    log.feed("stderr", b"oops\n", now=T0)
    log.feed("stdout", b"o\nend", now=T0 + 10**9)
    log.end("stdout", now=T0 + 2 * 10**9)
    log.close()
    assert (tmp_path / "0.log").read_bytes() == (
        b"2026-01-02T03:00:45.000000001Z stdout F one\n"
        b"2026-01-02T03:00:45.000000001Z stderr F oops\n"
        b"2026-01-02T03:00:46.000000001Z stdout F two\n"
        b"2026-01-02T03:00:47.000000001Z stdout F end\n"
    )


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_what_is_fed_in_any_pieces_is_what_is_read(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("log") / "0.log"
    log = Log(str(path))
    for piece in pieces:
        log.feed("stdout", piece)
    log.close()
    texts = [parse(entry).text for entry in path.read_bytes().split(b"\n")[:-1]]
    whole = b"".join(pieces)
    assert texts == (whole.removesuffix(b"\n").split(b"\n") if whole else [])


def test_a_long_line_is_told_in_parts(tmp_path):
    log = Log(str(tmp_path / "0.log"))
    log.feed("stdout", b"x" * (crilog.LONGEST_LINE * 2 + 5))
    log.feed("stdout", b"y\n")
    log.close()
    lines = [parse(entry) for entry in (tmp_path / "0.log").read_bytes().splitlines()]
    assert [(line.partial, len(line.text)) for line in lines] == [(True, crilog.LONGEST_LINE), (True, crilog.LONGEST_LINE), (False, 6)]


async def collected(path, **options):
    return b"".join([data async for data in read(path, Options(**options), is_over=lambda: True)])


async def test_a_log_is_rotated_and_read_whole(tmp_path):
    path = tmp_path / "0.log"
    log = Log(str(path), largest=400)
    for i in range(20):
        log.feed("stdout", f"line {i}\n".encode())
    log.close()
    assert len(files_of(path)) == 3
    assert (await collected(path)).decode().splitlines() == [f"line {i}" for i in range(20)]
    assert await collected(path, tail=2) == b"line 18\nline 19\n"


async def test_the_options_choose(tmp_path):
    path = tmp_path / "0.log"
    log = Log(str(path))
    for i in range(4):
        log.feed("stdout" if i % 2 == 0 else "stderr", f"{i}\n".encode(), now=T0 + i * 10**9)
    log.close()
    assert await collected(path, stream="stderr") == b"1\n3\n"
    assert await collected(path, timestamps=True, tail=1) == b"2026-01-02T03:00:48.000000001Z 3\n"
    assert await collected(path, limit=3) == b"0\n1"
    now = datetime(2026, 1, 2, 3, 0, 49, tzinfo=UTC)
    assert await collected(path, since=parse_options({"sinceSeconds": "2"}, now).since) == b"2\n3\n"
    assert await collected(path, since=parse_options({"sinceTime": "2026-01-02T03:00:48Z"}, now).since) == b"3\n"
    assert await collected(path, tail=0) == b""


@pytest.mark.parametrize("query", [{"tailLines": "-1"}, {"tailLines": "x"}, {"sinceSeconds": "0"}, {"limitBytes": "0"}, {"sinceTime": "yesterday"}])
def test_options_that_cannot_be_are_refused(query):
    with pytest.raises(BadRequest):
        parse_options(query, datetime.now(UTC))


async def test_a_follower_hears_what_comes_even_across_a_rotation_and_ends_with_the_container(tmp_path):
    path = tmp_path / "0.log"
    log = Log(str(path), largest=200)
    over = False
    heard = bytearray()

    async def follow():
        async for data in read(path, Options(follow=True), is_over=lambda: over):
            heard.extend(data)

    log.feed("stdout", b"first\n")
    task = asyncio.ensure_future(follow())
    for i in range(6):
        log.feed("stdout", f"more {i}\n".encode())
        await asyncio.sleep(0.03)
    over = True
    log.close()
    async with asyncio.timeout(5):
        await task
    assert bytes(heard).decode().splitlines() == ["first", *(f"more {i}" for i in range(6))]


async def test_a_follower_hears_the_last_words_of_a_pod_whose_files_are_gone(tmp_path):
    """Who deletes a pod and follows its log sees how it ends, however soon its directory goes."""
    path = tmp_path / "pod" / "0.log"
    path.parent.mkdir()
    log = Log(str(path))
    log.feed("stdout", b"first\n")
    over = False
    pieces = read(path, Options(follow=True), is_over=lambda: over)
    assert await anext(pieces) == b"first\n"
    log.feed("stdout", b"bye\n")
    log.close()
    shutil.rmtree(path.parent)
    over = True
    assert [data async for data in pieces] == [b"bye\n"]
