"""How much at once, and who first."""

from __future__ import annotations

import asyncio
import ssl
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from twinstack.api.errors import TooManyRequests
from twinstack.apiserver.app import check
from twinstack.apiserver.fairness import ACTIVE_SECONDS, BATCH, LONGEST_LINE, SHARE, TURN_SECONDS, Seats, Turns
from twinstack.apiserver.serving import minimum_tls
from twinstack.apiserver.settings import Settings, SettingsError


def test_one_user_leaves_a_place_for_another() -> None:
    seats = Seats(8)
    for _ in range(6):
        seats.take("noisy")
    with pytest.raises(TooManyRequests) as refused:
        seats.take("noisy")
    assert refused.value.retry_after_seconds == 1
    seats.take("quiet")
    seats.take("quiet")
    with pytest.raises(TooManyRequests):
        seats.take("third")
    seats.leave("noisy")
    seats.take("third")
    assert seats.taken == 8


def test_no_limit_is_no_limit() -> None:
    seats = Seats(0)
    for _ in range(1000):
        seats.take("a")
    assert seats.taken == 1000


async def test_a_user_alone_never_waits() -> None:
    turns = Turns(lambda: 0.001)
    assert [turns.admit("a") for _ in range(10 * SHARE)] == [None] * (10 * SHARE)


async def test_whoever_asks_for_much_waits_in_a_line_of_its_own_and_others_do_not() -> None:
    turns = Turns(lambda: 0.001)
    assert turns.admit("quiet") is None
    places = [turns.admit("noisy") for _ in range(SHARE + 50)]
    assert places[:SHARE] == [None] * SHARE
    waiting = [place for place in places if place is not None]
    assert len(waiting) == 50
    assert turns.admit("quiet") is None
    await asyncio.sleep(0)
    assert sum(place.done() for place in waiting) == BATCH, "a few at a time, and in between the loop looks at everybody else"
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting)


async def test_lines_are_served_in_rotation() -> None:
    turns, order, last = Turns(lambda: 0.001), [], []
    turns.admit("somebody")
    for user in ("a", "b"):
        for _ in range(SHARE):
            turns.admit(user)
    for user, count in (("a", 20), ("b", 4)):
        for _ in range(count):
            place = turns.admit(user)
            assert place is not None
            place.add_done_callback(lambda _, user=user: order.append(user))
            last.append(place)
    async with asyncio.timeout(1):
        await asyncio.gather(*last)
    assert order[:8] == ["a", "b"] * 4, "b is through after eight, though a was there first with twenty"


async def test_in_a_turn_that_is_old_each_has_its_first_request_only() -> None:
    now = [1.0]
    turns = Turns(lambda: now[0])
    turns.admit("quiet")
    assert turns.admit("noisy") is None
    now[0] += 2 * TURN_SECONDS  # what a large list takes
    place = turns.admit("noisy")
    assert place is not None and turns.admit("third") is None
    async with asyncio.timeout(1):
        await place
    await asyncio.sleep(0)
    assert turns.admit("noisy") is None, "another turn has begun"
    now[0] += 2 * ACTIVE_SECONDS
    assert [turns.admit("noisy") for _ in range(100)] == [None] * 100, "the others have long gone"


async def test_fewer_are_let_through_where_each_takes_long() -> None:
    now = [1.0]
    turns = Turns(lambda: now[0])
    turns.admit("quiet")
    places = [place for place in (turns.admit("noisy") for _ in range(SHARE + 100)) if place is not None]
    counts = []
    for _ in range(4):
        await asyncio.sleep(0)
        counts.append(sum(place.done() for place in places))
        now[0] += 0.05
    assert [after - before for before, after in pairwise(counts)] == [4, 2, 1]
    for place in places:
        place.cancel()
    for _ in range(110):
        await asyncio.sleep(0)


async def test_a_line_does_not_grow_for_ever_and_who_leaves_it_is_skipped() -> None:
    turns = Turns(lambda: 0.001)
    turns.admit("quiet")
    places = [turns.admit("noisy") for _ in range(SHARE + LONGEST_LINE)]
    with pytest.raises(TooManyRequests):
        turns.admit("noisy")
    for place in places[SHARE:]:
        assert place is not None
        place.cancel()
    last = None
    for _ in range(200):
        await asyncio.sleep(0)
    last = turns.admit("noisy")
    if last is not None:
        async with asyncio.timeout(1):
            await last


async def test_too_many_at_once_are_told_to_come_again(serve: Any, tmp_path: Path) -> None:
    tokens = tmp_path / "two.csv"
    tokens.write_text('a-token-for-tests,noisy,1\nmaster-token,admin,2,"system:masters"\n')
    api = await serve(token_auth_file=str(tokens), max_mutating_requests_inflight=4)
    path, master = "/api/v1/namespaces/default/configmaps", {"Authorization": "Bearer master-token"}
    answers = await asyncio.gather(*(api.post(path, {"metadata": {"name": f"c{i}"}}) for i in range(40)))
    assert {answer.code for answer in answers} == {201, 429}
    refused = next(answer for answer in answers if answer.code == 429)
    assert refused.headers["Retry-After"] == "1" and refused.reason == "TooManyRequests"
    assert (await api.post(path, {"metadata": {"name": "later"}})).code == 201
    answers = await asyncio.gather(*(api.ask("POST", path, {"metadata": {"name": f"m{i}"}}, headers=master) for i in range(40)))
    assert {answer.code for answer in answers} == {201}, "who may do everything is not refused"


@pytest.mark.slow
async def test_a_quiet_user_is_answered_soon_while_another_floods_the_server(serve: Any, tmp_path: Path) -> None:
    tokens = tmp_path / "two.csv"
    tokens.write_text("a-token-for-tests,noisy,1\nquiet-token,quiet,2\n")
    api = await serve(token_auth_file=str(tokens))
    path, over = "/api/v1/namespaces/default/configmaps", asyncio.Event()

    async def flood() -> int:
        count = 0
        while not over.is_set():
            count += (await api.get(path)).code in (200, 429)
        return count

    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        floods = [tasks.create_task(flood()) for _ in range(60)]
        await asyncio.sleep(0.2)
        waits = []
        for _ in range(20):
            start = loop.time()
            assert (await api.ask("GET", path, headers={"Authorization": "Bearer quiet-token"})).code == 200
            waits.append(loop.time() - start)
        over.set()
    assert sum(task.result() for task in floods) > 100, "the flood was one"
    assert sorted(waits)[10] < 0.5


async def test_the_oldest_tls_is_what_the_flag_says(serve: Any) -> None:
    api = await serve(tls_min_version="VersionTLS13")
    host, _, port = api.url.removeprefix("https://").partition(":")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=old)
    assert (await api.get("/readyz")).code == 200
    with pytest.raises(SettingsError, match="VersionTLS12 or VersionTLS13"):
        minimum_tls("VersionTLS10")


async def test_only_the_cipher_suites_of_the_flag_are_spoken(serve: Any) -> None:
    api = await serve(tls_cipher_suites=("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"))
    host, _, port = api.url.removeprefix("https://").partition(":")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection(host, int(port), ssl=client)
    assert writer.get_extra_info("cipher")[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"
    writer.transport.abort()
    client.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=client)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"tls_cipher_suites": ("TLS_RSA_WITH_RC4_128_SHA",)}, "TLS_RSA_WITH_RC4_128_SHA is not served"),
        ({"tls_cipher_suites": ("TLS_AES_128_GCM_SHA256",)}, "--tls-min-version=VersionTLS13 would say so"),
        ({"request_timeout_seconds": 0.0}, "1m0s would do"),
        ({"min_request_timeout_seconds": 0}, "1800 would do"),
        ({"goaway_chance": 0.01}, "HTTP/2 is not spoken here"),
        ({"max_requests_inflight": -1}, "0 for no limit"),
    ],
)
def test_a_flag_that_will_not_do_is_told_with_one_that_would(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check(Settings(data_dir="", **flags))


@pytest.mark.slow
async def test_a_watch_that_names_no_end_lasts_as_long_as_the_flag_says(serve: Any) -> None:
    api = await serve(min_request_timeout_seconds=1)
    start = asyncio.get_running_loop().time()
    async with api.watch("/api/v1/namespaces") as watch:
        await watch.rest()
    assert 0.9 <= asyncio.get_running_loop().time() - start < 5


@pytest.mark.slow
async def test_a_body_that_does_not_come_in_time_is_504(serve: Any) -> None:
    api = await serve(request_timeout_seconds=0.3)
    host, _, port = api.url.removeprefix("https://").partition(":")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, int(port), ssl=client)
    writer.write(b"POST /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-token-for-tests\r\nContent-Length: 10\r\n\r\n{")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 504 ")
    writer.transport.abort()


# Asks for the same list from 64 connections until it is told to stop, as the noisy user; prints how many answers there were, and what
# half of them waited at most.
FLOOD = """
import asyncio, ssl, sys, time
import aiohttp

async def main():
    url, over, took = sys.argv[1], asyncio.Event(), []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls, limit=0), headers={"Authorization": "Bearer a-token-for-tests"}) as session:
        async def ask():
            while not over.is_set():
                start = time.monotonic()
                async with session.get(url) as got:
                    await got.read()
                    if got.status == 200:
                        took.append(time.monotonic() - start)
        tasks = [asyncio.ensure_future(ask()) for _ in range(64)]
        while len(took) < 64:
            await asyncio.sleep(0.01)
        print("up", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        over.set()
        await asyncio.gather(*tasks)
    print(len(took), sorted(took)[len(took) // 2])

asyncio.run(main())
"""


@pytest.mark.slow
async def test_who_asks_little_waits_a_fraction_of_what_the_noisy_one_waits(serve: Any, tmp_path: Path) -> None:
    tokens = tmp_path / "two.csv"
    tokens.write_text('a-token-for-tests,noisy,1\nquiet-token,quiet,2\nmaster,admin,3,"system:masters"\n')
    api = await serve(token_auth_file=str(tokens))
    path = "/api/v1/namespaces/default/configmaps"
    for number in range(100):
        got = await api.ask("POST", path, {"metadata": {"name": f"c{number}"}, "data": {"k": "v" * 100}}, headers={"Authorization": "Bearer master"})
        assert got.code == 201
    flood = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, api.url + path, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    quiet, loop, waits = {"Authorization": "Bearer quiet-token"}, asyncio.get_running_loop(), []
    async with asyncio.timeout(60):
        assert flood.stdin is not None and flood.stdout is not None
        await flood.stdout.readline()  # it has been answered once
        for number in range(60):
            start = loop.time()
            got = await api.ask("GET", f"{path}/c{number}", headers=quiet)
            assert got.code == 200, "it is never refused"
            waits.append(loop.time() - start)
        flood.stdin.write(b"\n")
        count, half = (await flood.stdout.read()).split()
        await flood.wait()
    mine, theirs = sorted(waits)[30], float(half)
    print(f"noisy: {int(count)} lists, p50 {theirs * 1e3:.1f} ms; quiet: p50 {mine * 1e3:.1f} ms, p90 {sorted(waits)[54] * 1e3:.1f} ms")
    assert int(count) >= 128 and mine < theirs / 2
