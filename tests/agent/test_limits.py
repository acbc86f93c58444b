"""What containers may use: as numbers, as control groups, and on a whole node."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from twinstack.agent import amounts
from twinstack.agent.containers.base import Record
from twinstack.agent.environment import ConfigError, Facts, Sources, environment_of
from twinstack.agent.limits import Limiter, limits_of, oom_score_of
from twinstack.agent.settings import Settings
from twinstack.api.kinds import Container, Pod
from twinstack.api.objects import view_of
from twinstack.kernel import cgroups
from twinstack.kernel.cgroups import Groups, Limits, Tree


def container(name="c", *, limits=None, requests=None, **more):
    return {"name": name, "resources": {"limits": limits or {}, "requests": requests or {}}, **more}


def pod(*containers, uid="u", **spec):
    return view_of(Pod, {"metadata": {"name": "p", "namespace": "ns", "uid": uid}, "spec": {"containers": list(containers), **spec}})


def test_a_limit_is_a_request_as_well():
    found = amounts.amounts_of(view_of(Container, container(limits={"cpu": "1500m", "memory": "1Gi"}, requests={"memory": "512Mi"})))
    assert found.requests == {"cpu": Fraction(3, 2), "memory": 1 << 29} and found.limits == {"cpu": Fraction(3, 2), "memory": 1 << 30}
    assert limits_of(found, pids=7) == Limits(memory=1 << 30, cpu_quota=150_000, cpu_shares=1536, cpu_weight=59, pids=7)


def test_a_pod_is_held_to_a_sum_only_where_each_container_is_held():
    one, two = container("a", limits={"cpu": "1", "memory": "1Gi"}), container("b", limits={"cpu": "500m"}, requests={"memory": "1Gi"})
    found = amounts.pod_amounts(pod(one, two, initContainers=[container("i", limits={"cpu": "2"})]))
    assert found.limits == {"cpu": 2} and found.requests == {"cpu": 2, "memory": 2 << 30}


@pytest.mark.parametrize(
    ("request_", "shares", "weight"), [(Fraction(0), 2, 1), (Fraction(1, 10), 102, 4), (Fraction(1), 1024, 39), (Fraction(1000), 262_144, 10_000)]
)
def test_shares_of_a_processor(request_, shares, weight):
    assert (amounts.cpu_shares(request_), amounts.cpu_weight(request_)) == (shares, weight)


@pytest.mark.parametrize(
    ("resources", "priority", "score"),
    [
        pytest.param({}, None, 1000, id="who has asked for nothing goes first"),
        pytest.param({"limits": {"cpu": "1", "memory": "1Gi"}}, None, -997, id="who has all that it may use goes last"),
        pytest.param({}, 2_000_001_000, -997, id="so does what the node cannot do without"),
        pytest.param({"requests": {"memory": "1Gi"}}, None, 750, id="a quarter of the memory asked for"),
        pytest.param({"requests": {"cpu": "1"}}, None, 999, id="no memory asked for, but processor"),
        pytest.param({"requests": {"memory": "9Gi"}}, None, 3, id="more asked for than there is"),
    ],
)
def test_how_soon_the_kernel_ends_a_container_where_the_node_lacks_memory(resources, priority, score):
    one = pod(container(**resources), priority=priority)
    assert oom_score_of(one, one.spec.containers[0], 4 << 30) == score


def test_amounts_are_told_in_variables():
    def variable(name, resource, **more):
        return {"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, **more}}}

    env = [variable("A", "limits.cpu"), variable("B", "requests.memory", divisor="1Mi"), variable("C", "limits.memory"), variable("D", "requests.cpu")]
    one = container(limits={"cpu": "1500m"}, requests={"memory": "100M"}, env=env)
    whole = pod(one)
    facts = Facts(allocatable={"memory": "1Ki"})
    found = environment_of(whole.spec.containers[0], whole, facts, services={}, sources=Sources(), hostname="h")
    assert [found[name] for name in "ABCD"] == ["2", "96", "1024", "2"]
    for wrong in (
        {"resource": "limits.gpu"},
        {"resource": "cpu"},
        {"resource": "limits.cpu", "containerName": "x"},
        {"resource": "limits.cpu", "divisor": "?"},
    ):
        broken = pod(container(env=[{"name": "A", "valueFrom": {"resourceFieldRef": wrong}}]))
        with pytest.raises(ConfigError, match="env A"):
            environment_of(broken.spec.containers[0], broken, facts, services={}, sources=Sources(), hostname="h")


async def test_a_group_for_each_pod_and_container_that_names_amounts(tmp_path):
    limiter = Limiter(Groups([Tree(2, cgroups.CONTROLLERS, tmp_path, tmp_path / "ours")]))
    quiet, held = pod(container(), uid="q"), pod(container(limits={"memory": "64Mi"}))
    assert limiter.join(quiet, quiet.spec.containers[0], "id0") == [str(tmp_path / "ours/besteffort/podq/id0/cgroup.procs")]
    assert (tmp_path / "ours/besteffort/cpu.weight").read_text() == "1"
    assert limiter.join(held, held.spec.containers[0], "id1") == [str(tmp_path / "ours/podu/id1/cgroup.procs")]
    assert (tmp_path / "ours/podu/memory.max").read_text() == "67108864"
    ended = Record(id="id1", pod="u", labels={}, running=False, exit_code=137)
    assert limiter.judged(ended).reason == ""
    (tmp_path / "ours/podu/id1/memory.events").write_text("oom 1\noom_kill 1\n")
    assert limiter.judged(ended).reason == "OOMKilled"
    for path in sorted(tmp_path.rglob("*"), reverse=True):  # the kernel's files go with their directory
        if path.is_file():
            path.unlink()
    limiter.adopt(["u"])
    assert (tmp_path / "ours/podu/id1").exists() and not (tmp_path / "ours/besteffort/podq").exists()
    await limiter.remove("u", "id1")
    assert (tmp_path / "ours/podu").exists() and not (tmp_path / "ours/podu/id1").exists()
    limiter.adopt([])
    assert not (tmp_path / "ours/podu").exists()
    limiter.close()
    assert not (tmp_path / "ours").exists()


async def test_where_groups_cannot_be_written_pods_run_without_and_it_is_said(tmp_path, caplog):
    (tmp_path / "file").touch()
    limiter = Limiter(Groups([Tree(1, cgroups.CONTROLLERS, tmp_path, tmp_path / "file" / "ours")]))
    assert "Limits of resources are not all kept" in caplog.text
    held = pod(container(limits={"memory": "64Mi"}))
    assert limiter.join(held, held.spec.containers[0], "id1") == []
    await limiter.forget("u")


@pytest.mark.kernel
@pytest.mark.slow
def test_a_node_holds_containers_to_their_limits_and_tells_what_the_kernel_has_ended(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        name = Settings(root_dir=w.root).control_group
        usable = cgroups.of_process(name).usable
        greedy = "import time\nprint('here', flush=True)\nx = b'x' * (256 << 20)\ntime.sleep(1000)"
        limits = {"limits": {"memory": "48Mi", "cpu": "500m"}}
        await w.create("greedy", restartPolicy="Never", container={"command": ["/usr/bin/python3", "-IS", "-c", greedy], "resources": limits})
        if "memory" not in usable:  # a machine without: the pod runs
            await w.until_pod("greedy", lambda status: status.get("phase") == "Running")
            return
        pod = await w.until_pod("greedy", lambda status: status.get("phase") == "Failed")
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
        assert pod["status"]["qosClass"] == "Guaranteed"
        # an agent that is started anew tells the same
        await w.stop_agent()
        await w.start_agent()
        await w.create("held", container={"resources": {"limits": {"cpu": "250m", "memory": "64Mi"}}})
        pod = await w.until_pod("held", lambda status: status.get("phase") == "Running")
        assert (await w.pod("greedy"))["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"
        groups = [Path(folder) for root in cgroups.find() for folder in root.rglob(f"{name}/pod{pod['metadata']['uid']}/*") if folder.is_dir()]
        texts = {one.name: one.read_text().strip() for group in groups for one in group.iterdir() if one.name in ("memory.limit_in_bytes", "cpu.cfs_quota_us")}
        assert texts in ({"memory.limit_in_bytes": str(64 << 20), "cpu.cfs_quota_us": "25000"}, {})
        assert all((group / "cgroup.procs").read_text().split() for group in groups)
        for one in ("greedy", "held"):
            await w.delete(one)
        for one in ("greedy", "held"):
            await w.until_gone(one)
        await w.nothing_is_left()

        async def no_group_is_left():
            return not [folder for root in cgroups.find() for folder in root.rglob(f"{name}/pod*")]

        await w.until(no_group_is_left)

    world(story)


@pytest.mark.kernel
@pytest.mark.slow
def test_containers_may_share_a_pids_namespace_or_the_hosts(world):
    async def story(w) -> None:
        await w.give_pod_cidrs()
        beside = {"name": "beside", "image": "twinstack.dev/host", "command": ["sh", "-c", "sleep 12345 & sleep 1000"]}
        looking = {
            "name": "c",
            "image": "twinstack.dev/host",
            "command": ["sh", "-c", "while sleep 0.05; do cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; done"],
        }
        await w.create("together", shareProcessNamespace=True, containers=[looking, beside], terminationGracePeriodSeconds=1)

        async def said(name: str, text: str) -> bool:
            return text in (await w.logs(name))[1]

        await w.until(lambda: said("together", "sleep 12345"))
        pod = await w.pod("together")
        assert [one["restartCount"] for one in pod["status"]["containerStatuses"]] == [0, 0]
        script = "readlink /proc/self/ns/pid /proc/self/ns/ipc; sleep 54321 & exec sleep 1000"
        await w.create("host", hostPID=True, hostIPC=True, init="", container={"command": ["sh", "-c", script]}, terminationGracePeriodSeconds=1)
        ours = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "ipc")]
        await w.until(lambda: said("host", "\n".join(ours)))
        for name in ("together", "host"):
            await w.delete(name)
        for name in ("together", "host"):
            await w.until_gone(name)
        await w.nothing_is_left()

        async def all_have_ended():
            running = b"".join(_read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
            return b"54321" not in running and b"12345" not in running

        await w.until(all_have_ended)

    world(story)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended meanwhile
        return b""
