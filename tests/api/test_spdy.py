"""SPDY's frames: recorded, there and back, and broken on purpose."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinstack.api import channels, spdy
from twinstack.api.spdy import Data, GoAway, Open, Ping, Reader, Reset, SPDYError, Writer

HEADERS = {"streamtype": "error", "port": "8080", "requestid": "0"}


def read(*parts: bytes) -> list[spdy.Frame]:
    reader = Reader()
    return [frame for part in parts for frame in reader.feed(part)]


def test_the_dictionary_is_that_of_version_3() -> None:
    assert (len(spdy.DICTIONARY), zlib.adler32(spdy.DICTIONARY)) == (1423, 0xE3C6A7C2)


def test_frames_have_the_bytes_of_the_draft() -> None:
    assert spdy.data(5, b"abc", fin=True) == b"\0\0\0\5\1\0\0\3abc"
    assert spdy.ping(7) == b"\x80\3\0\6\0\0\0\4\0\0\0\7"
    assert spdy.reset(3, spdy.REFUSED_STREAM) == b"\x80\3\0\3\0\0\0\x08\0\0\0\3\0\0\0\3"
    assert spdy.go_away(9) == b"\x80\3\0\7\0\0\0\x08\0\0\0\x09\0\0\0\0"
    assert Writer().reply(1)[:12] == b"\x80\3\0\2\0\0" + (len(Writer().reply(1)) - 8).to_bytes(2, "big") + b"\0\0\0\1"


def test_what_a_client_writes_is_read() -> None:
    writer = Writer()
    stream = writer.open(1, HEADERS) + spdy.data(1, b"", fin=True) + writer.open(3, {**HEADERS, "streamtype": "data"}, fin=True)
    stream += spdy.data(3, b"x" * 70000) + spdy.ping(9) + spdy.reset(3, spdy.CANCEL) + writer.reply(5, {"a": "b"}) + spdy.go_away(3)
    wanted = [Open(1, HEADERS, False), Data(1, b"", True), Open(3, {**HEADERS, "streamtype": "data"}, True)]
    wanted += [Data(3, b"x" * 70000, False), Ping(9), Reset(3), GoAway()]
    assert read(stream) == wanted
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == wanted


def test_frames_of_no_interest_are_skipped() -> None:
    settings_frame, window = b"\x80\3\0\4\0\0\0\4\0\0\0\0", b"\x80\3\0\x09\0\0\0\x08\0\0\0\1\0\0\1\0"
    assert read(settings_frame + window + spdy.ping(1)) == [Ping(1)]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        pytest.param(b"\x80\2\0\1\0\0\0\0", "version 2", id="another version"),
        pytest.param(b"\x80\3\0\1\0\xff\xff\xff", "too long", id="a control frame without an end"),
        pytest.param(b"\x80\3\0\1\0\0\0\2ab", "too short", id="a stream without a number"),
        pytest.param(b"\x80\3\0\1\0\0\0\x0c" + bytes(10) + b"ab", "decompressed", id="headers that are no zlib"),
        pytest.param(Writer().open(1, {"a": "b" * 70000}), "too long", id="headers that swell"),
        pytest.param(b"GET / HTTP/1.1\r\n", None, id="HTTP, which waits for a frame of 2 MB"),
    ],
)
def test_what_is_no_spdy_is_refused_in_words(data: bytes, complaint: str | None) -> None:
    if complaint is None:
        assert read(data) == []
        return
    with pytest.raises(SPDYError, match=complaint):
        read(data)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_any_bytes_are_frames_or_an_error_of_ours(parts: list[bytes], control: bool) -> None:
    try:
        read(*(b"\x80\3\0" + part if control else part for part in parts))
    except SPDYError:
        return


@pytest.mark.parametrize(
    ("offered", "spoken", "chosen"),
    [
        (["v5.channel.k8s.io"], channels.COMMAND_PROTOCOLS, "v5.channel.k8s.io"),
        (
            ["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"],
            channels.COMMAND_PROTOCOLS,
            "v5.channel.k8s.io",
        ),
        (["v4.channel.k8s.io"], channels.COMMAND_PROTOCOLS, "v4.channel.k8s.io"),
        (["base64.channel.k8s.io", "v4.channel.k8s.io"], channels.COMMAND_PROTOCOLS, "v4.channel.k8s.io"),
        (["channel.k8s.io"], channels.COMMAND_PROTOCOLS, ""),
        ([], channels.COMMAND_PROTOCOLS, ""),
        (["SPDY/3.1+portforward.k8s.io"], channels.FORWARD_PROTOCOLS, "SPDY/3.1+portforward.k8s.io"),
        (["v4.channel.k8s.io"], channels.FORWARD_PROTOCOLS, "v4.channel.k8s.io"),
        (["v5.channel.k8s.io"], channels.FORWARD_PROTOCOLS, ""),
    ],
)
def test_the_first_protocol_that_both_speak_is_chosen(offered: list[str], spoken: tuple[str, ...], chosen: str) -> None:
    assert channels.chosen(offered, spoken) == chosen


def test_the_status_at_the_end_tells_the_exit_code() -> None:
    assert channels.status_of_exit(0) == {"metadata": {}, "status": "Success"}
    failed = channels.status_of_exit(137)
    assert (failed["status"], failed["reason"]) == ("Failure", "NonZeroExitCode")
    assert failed["details"] == {"causes": [{"reason": "ExitCode", "message": "137"}]}
