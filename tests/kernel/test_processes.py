from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from twinstack.kernel import namespaces, processes
from twinstack.kernel.errors import KernelError


async def test_a_program_is_fed_and_its_output_and_end_are_told() -> None:
    done = await processes.run(["/bin/sh", "-c", "cat; echo no >&2; exit 3"], env={}, stdin=b"yes")
    assert done == processes.Completed(3, b"yes", b"no\n")


async def test_a_program_gets_the_environment_given_and_no_other() -> None:
    done = await processes.run(["/usr/bin/env"], env={"A": "1"})
    assert done.stdout == b"A=1\n"


async def test_a_program_that_takes_too_long_is_killed() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        await processes.run(["/bin/sleep", "60"], env={}, timeout=0.05)
    assert time.monotonic() - start < 5


async def test_a_program_that_is_missing_is_an_error_that_says_so() -> None:
    with pytest.raises(KernelError) as caught:
        await processes.run(["/no/such/program"], env={})
    assert caught.value.missing
    assert "/no/such/program" in str(caught.value)


@pytest.mark.kernel
async def test_a_program_runs_in_the_namespace_asked_for(netns: Callable[[str], str]) -> None:
    path = netns("a")
    done = await processes.run(["/bin/readlink", "/proc/self/ns/net"], env={}, netns=path)
    assert done.stdout.decode().strip() == f"net:[{namespaces.identity(path)}]"


def test_a_detached_program_has_its_own_session_and_writes_where_it_was_told(tmp_path: os.PathLike[str]) -> None:
    log = os.path.join(tmp_path, "log")
    fd = os.open(log, os.O_CREAT | os.O_WRONLY)
    reader, writer = os.pipe()
    pid = processes.start_detached(
        ["/bin/sh", "-c", f"echo out; echo err >&2; echo passed > /proc/self/fd/{writer}; ps -o sid= -p $$ > /proc/self/fd/{writer}"],
        env={"PATH": "/bin:/usr/bin"},
        stdout_fd=fd,
        stderr_fd=fd,
        pass_fds=[writer],
    )
    os.close(fd)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader) as pipe, open(log) as file:
        assert pipe.read().split() == ["passed", str(pid)]
        assert file.read() == "out\nerr\n"


def test_a_program_is_found_by_its_mark_and_so_are_its_children() -> None:
    name = f"TWINSTACK_TEST_{os.getpid()}"
    code = "import os, time; os.fork(); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-ISc", code], env={name: "x", "OTHER": "y"}, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(4)
            assert len(processes.marked(name, "x")) == len(processes.marked(name)) == 2
            assert processes.marked(name, "y") == []
            assert processes.variable(process.pid, "OTHER") == "y"
            assert processes.variable(process.pid, "NONE") is None
        finally:
            assert processes.end_all(processes.marked(name), 5) == []
    assert processes.marked(name) == []


def test_a_program_that_listens_is_not_killed_and_one_that_does_not_is() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as polite:
        assert processes.alive(polite.pid)
        assert processes.end(polite.pid, 5) is False
    assert polite.pid not in (0, None)
    with subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; echo; while :; do read x; done"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.read(1)
        assert processes.end(deaf.pid, 0.05) is True
    assert not processes.alive(deaf.pid)


def test_ending_what_is_gone_is_a_success() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert processes.end(process.pid, 1) is False
    assert processes.started_at(process.pid) is None


async def test_the_end_of_a_process_is_waited_for() -> None:
    with open(os.devnull, "w") as null:
        pid = processes.start_detached(["/bin/sleep", "60"], env={}, stdout_fd=null.fileno(), stderr_fd=null.fileno())
    start = processes.started_at(pid)
    assert start is not None and abs(start - time.time()) < 2
    waiting = asyncio.ensure_future(processes.ended(pid))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGTERM)
    await waiting
    processes.reap(pid)
    await processes.ended(pid)
