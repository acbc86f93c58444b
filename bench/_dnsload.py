"""A generator of DNS queries, and the bare echo that it is compared with. Each is run as a process of its own.

It keeps a fixed number of queries under way on one socket, tells answers by their numbers, and takes the time of each. With
a *rate* it sends at that pace instead, whatever comes back, so that the times are those of a server that is not swamped.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

QUESTION_AT = 12


def echo(address: str) -> None:
    """Send back what comes, as a server would that had nothing to do: the cost of the sockets and of Python alone."""
    import asyncio

    import uvloop

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            one.bind((address, 0))

            def read() -> None:
                for _ in range(64):
                    try:
                        data, peer = one.recvfrom(4096)
                        one.sendto(data, peer)
                    except OSError:
                        return

            loop.add_reader(one.fileno(), read)
            print(json.dumps({"port": one.getsockname()[1]}), flush=True)
            await asyncio.Event().wait()

    uvloop.run(main())


def generate(job: dict[str, Any]) -> dict[str, Any]:
    """Ask *count* questions, in order and over again; returns seconds, latencies in seconds, and how many failed or were lost."""
    questions = [bytes.fromhex(text) for text in job["questions"]]
    count, window, gap = job["count"], job["window"], (1 / job["rate"] if job.get("rate") else 0.0)
    sent_at = [0.0] * 65536
    latencies: list[float] = []
    wrong = lost = sent = answered = 0
    clock = time.perf_counter
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        one.connect((job["address"], job["port"]))
        one.settimeout(1.0)
        began = clock()
        waiting = 0
        while answered + lost < count:
            now = clock()
            while sent < count and waiting < window and (not gap or now >= began + sent * gap):
                number = sent & 0xFFFF
                sent_at[number] = clock()
                one.send(number.to_bytes(2, "big") + questions[sent % len(questions)])
                sent += 1
                waiting += 1
                now = clock()
            try:
                if gap and sent < count:
                    one.settimeout(max(1e-5, began + sent * gap - clock()))
                elif gap:
                    one.settimeout(1.0)
                data = one.recv(4096)
            except TimeoutError:
                if not gap or sent >= count:
                    lost += waiting
                    waiting = 0
                continue
            latencies.append(clock() - sent_at[int.from_bytes(data[:2], "big")])
            wrong += (data[3] & 0xF) != 0 or (job["answers"] and not data[7])
            answered += 1
            waiting -= 1
        seconds = clock() - began
    return {"seconds": seconds, "latencies": latencies, "wrong": wrong, "lost": lost}


if __name__ == "__main__":
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        print(json.dumps(generate(json.load(sys.stdin))))
