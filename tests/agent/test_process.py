"""The spawner and its containers, with the real kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from twinstack.agent.containers import crilog
from twinstack.agent.containers.base import ContainerError, Mount
from twinstack.agent.containers.process import ProcessRuntime
from twinstack.kernel import namespaces, processes

pytestmark = pytest.mark.kernel


async def ended(runtime, identifier):
    """The record of a container once it has ended."""
    event = asyncio.Event()
    before = runtime.on_exit
    runtime.on_exit = lambda record: (before(record), event.set())
    while True:
        found = next((record for record in runtime.records() if record.id == identifier and not record.running), None)
        if found:
            return found
        event.clear()
        async with asyncio.timeout(10):
            await event.wait()


def said(path: str) -> list[str]:
    return [line.text.decode() for entry in Path(path).read_bytes().splitlines() if (line := crilog.parse(entry))]


def mounts() -> list[str]:
    """The host's mount points, but for the namespaces that anybody may bind meanwhile."""
    return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - nsfs " not in line]


async def children_of(pid: int, count: int) -> list[int]:
    """The children of a process once there are so many."""
    for _ in range(1000):
        if len(pids := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) >= count:
            return [int(pid) for pid in pids]
        await asyncio.sleep(0.005)
    raise AssertionError("the children do not come")


async def output_of(runtime, launch, script, *, netns=None, **changed):
    wanted = launch(script, **changed)
    await runtime.start(wanted, netns=netns)
    record = await ended(runtime, wanted.id)
    return record, said(wanted.log)


async def test_a_container_ends_with_its_code_and_its_lines_are_logged(runtime, launch):
    record, lines = await output_of(runtime, launch, "echo one; echo two >&2; printf three; exit 7")
    assert (record.exit_code, record.signal, record.labels) == (7, 0, {"name": "c"})
    assert sorted(lines) == ["one", "three", "two"]
    assert record.finished_at >= record.started_at


async def test_a_container_is_pid_1_in_namespaces_of_its_own(runtime, launch, netns):
    record, lines = await output_of(
        runtime, launch, "echo $$; hostname; for n in net mnt pid uts ipc; do readlink /proc/self/ns/$n; done; ls /sys/class/net; ls /tmp /dev/shm", netns=netns
    )
    assert record.exit_code == 0
    assert lines[:2] == ["1", "web-0"]
    here = [os.readlink(f"/proc/self/ns/{name}") for name in ("net", "mnt", "pid", "uts", "ipc")]
    assert not set(lines[2:7]) & set(here)
    assert lines[2] == f"net:[{namespaces.identity(netns)}]"
    assert lines[7:] == ["lo", "/dev/shm:", "", "/tmp:"]


async def test_the_containers_of_a_pod_share_ipc_and_host_name_but_not_processes(runtime, launch):
    script = "readlink /proc/self/ns/ipc /proc/self/ns/uts; readlink /proc/self/ns/pid"
    _, one = await output_of(runtime, launch, script)
    _, two = await output_of(runtime, launch, script)
    _, other = await output_of(runtime, launch, script, pod="pod-2")
    assert one[:2] == two[:2]
    assert one[2] != two[2]
    assert not set(other) & set(one)


async def test_without_a_network_namespace_a_container_stands_in_the_nodes(runtime, launch):
    _, lines = await output_of(runtime, launch, "readlink /proc/self/ns/net")
    assert lines == [os.readlink("/proc/self/ns/net")]


async def test_files_and_directories_are_mounted_and_nothing_reaches_the_host(runtime, launch, tmp_path):
    mounts_before = mounts()
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.1 me\n")
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "key").write_text("value\n")
    record, lines = await output_of(
        runtime,
        launch,
        "cat /etc/hosts /nowhere/to/be/found/key; echo x > /nowhere/to/be/found/new || echo readonly; "
        "echo y > /etc/deep/dir/new; ls /etc/passwd /usr/bin/env; ls -A /",
        mounts=[Mount(str(hosts), "/etc/hosts"), Mount(str(volume), "/nowhere/to/be/found", True), Mount(str(volume), "/etc/deep/dir")],
    )
    assert record.exit_code == 0
    assert lines[:2] == ["192.0.2.1 me", "value"]
    assert "readonly" in lines
    assert (volume / "new").read_text() == "y\n"
    listed = [line for line in lines if not line.startswith("/bin/sh:")]  # which comes through another pipe, at any time
    assert {"nowhere", *os.listdir("/")} == set(listed[listed.index("/usr/bin/env") + 1 :])
    assert not Path("/nowhere").exists() and not Path("/etc/deep").exists()
    assert mounts() == mounts_before


async def test_a_command_that_is_missing_is_told_with_its_name(runtime, launch):
    with pytest.raises(ContainerError, match="execute '/no/such/program': No such file"):
        await runtime.start(launch("", argv=["/no/such/program"]), netns=None)
    with pytest.raises(ContainerError, match="working directory '/no/such/dir'"):
        await runtime.start(launch("true", cwd="/no/such/dir"), netns=None)
    assert runtime.records() == []


async def test_a_user_and_a_group_can_be_asked_for(runtime, launch):
    _, lines = await output_of(runtime, launch, "id -u; id -g; id -G; ulimit -n", uid=65534, gid=1234, groups=[7])
    assert lines[:3] == ["65534", "1234", "1234 7"]


async def test_a_container_and_its_commands_have_a_place_among_those_that_the_kernel_ends(runtime, launch):
    wanted = launch("exec sleep 60", oom_score=750, uid=65534)
    await runtime.start(wanted, netns=None)
    assert (await runtime.execute(wanted.id, ["cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"], timeout_seconds=5)).text == b"750\n750\n"


async def test_pid_1_without_a_handler_survives_sigterm_and_tini_passes_it_on(runtime, launch):
    deaf, meek = launch("", argv=["/bin/sleep", "60"]), launch("", argv=["/bin/sleep", "60"], init="/usr/bin/tini")
    records = [await runtime.start(one, netns=None) for one in (deaf, meek)]
    await children_of(records[1].pid, 1)  # only then does tini listen to signals
    for one in (meek, deaf):
        await runtime.signal(one.id, signal.SIGTERM)
    assert (await ended(runtime, meek.id)).exit_code == 143
    assert next(record for record in runtime.records() if record.id == deaf.id).running
    await runtime.signal(deaf.id, signal.SIGKILL)
    record = await ended(runtime, deaf.id)
    assert (record.exit_code, record.signal) == (137, 9)
    await runtime.signal(deaf.id, signal.SIGKILL)  # gone already: a success


async def test_the_end_of_pid_1_ends_everything_it_started(runtime, launch):
    wanted = launch("sleep 61 & sleep 62 & echo started; wait")
    record = await runtime.start(wanted, netns=None)
    pids = await children_of(record.pid, 2)
    await runtime.signal(wanted.id, signal.SIGKILL)
    await ended(runtime, wanted.id)
    assert not any(processes.alive(pid) for pid in pids)


async def test_a_command_runs_inside_a_container(runtime, launch, netns):
    wanted = launch("sleep 60", env={"PATH": "/bin:/usr/bin", "NAME": "inside"})
    await runtime.start(wanted, netns=netns)
    result = await runtime.execute(wanted.id, ["sh", "-c", "readlink /proc/self/ns/net; hostname; echo $NAME; cat /proc/1/comm; exit 3"], timeout_seconds=5)
    assert result.exit_code == 3
    assert result.text.decode().splitlines() == [f"net:[{namespaces.identity(netns)}]", "web-0", "inside", "sh"]
    late = await runtime.execute(wanted.id, ["sh", "-c", "echo early; sleep 30"], timeout_seconds=0.2)
    assert late.exit_code is None and late.text == b"early\n"
    with pytest.raises(ContainerError, match="execute 'nonsense'"):
        await runtime.execute(wanted.id, ["nonsense"], timeout_seconds=5)


async def test_containers_outlive_the_agent_and_the_next_one_finds_them(runtime, launch, tmp_path):
    running, over = launch("echo here; trap 'exit 9' TERM; while :; do sleep 0.02; done", id="a"), launch("exit 4", id="b")
    for one in (running, over):
        await runtime.start(one, netns=None)
    await ended(runtime, "b")
    before = {record.id: record for record in runtime.records()}
    await runtime.__aexit__()
    async with ProcessRuntime(tmp_path / "root") as second:
        assert {record.id: record for record in second.records()} == before
        await second.signal("a", signal.SIGTERM)
        assert (await ended(second, "a")).exit_code == 9
        for identifier in ("a", "b"):
            await second.remove(identifier)
        assert second.records() == []
        pid = second._spawner_pid
    async with asyncio.timeout(5):
        await processes.ended(pid)  # with nothing to keep and nobody to serve


async def test_a_spawner_that_ends_as_an_agent_comes_is_replaced(launch, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    folder = os.open(root, os.O_RDONLY)
    leaving = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    leaving.bind(f"/proc/self/fd/{folder}/spawner.sock")
    os.close(folder)
    leaving.listen()

    def leave() -> None:
        connection, _ = leaving.accept()
        leaving.close()
        connection.close()

    gone = asyncio.ensure_future(asyncio.to_thread(leave))
    async with ProcessRuntime(root) as made:
        try:
            await gone
            one = await made.start(launch("exit 3"), netns=None)
            assert (await ended(made, one.id)).exit_code == 3
        finally:
            os.kill(made.spawner_pid, signal.SIGKILL)
            await processes.ended(made.spawner_pid)
            processes.reap(made.spawner_pid)


async def test_one_root_directory_serves_one_agent(runtime, tmp_path):
    with pytest.raises(ContainerError, match="in use by another kubelet"):
        async with ProcessRuntime(tmp_path / "root"):
            pass


async def test_when_the_spawner_dies_its_containers_do_and_another_takes_over(runtime, launch):
    wanted = launch("sleep 60")
    record = await runtime.start(wanted, netns=None)
    watching = asyncio.ensure_future(runtime.watch())
    try:
        os.kill(runtime._spawner_pid, signal.SIGKILL)
        lost = await ended(runtime, wanted.id)
        assert (lost.exit_code, lost.lost) == (137, True)
        async with asyncio.timeout(5):
            await processes.ended(record.pid)
        again = launch("exit 5")
        await runtime.start(again, netns=None)
        assert (await ended(runtime, again.id)).exit_code == 5
        await runtime.remove(wanted.id)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_long_description_reaches_the_spawner(runtime, launch):
    env = {"PATH": "/bin:/usr/bin"} | {f"V{i}": "x" * 1000 for i in range(500)}
    _, lines = await output_of(runtime, launch, "echo ${#V499}", env=env)
    assert lines == ["1000"]


@pytest.mark.slow
async def test_a_hundred_containers_come_and_go_and_leave_nothing(runtime, launch):
    descriptors = len(os.listdir(f"/proc/{runtime._spawner_pid}/fd"))
    many = [launch("echo hi; exit 1", id=f"c{i}", pod=f"p{i}") for i in range(100)]
    await asyncio.gather(*(runtime.start(one, netns=None) for one in many))
    for one in many:
        assert (await ended(runtime, one.id)).exit_code == 1
        assert said(one.log) == ["hi"]
        await runtime.remove(one.id)
        await runtime.forget(one.pod)
    assert len(os.listdir(f"/proc/{runtime._spawner_pid}/fd")) == descriptors
