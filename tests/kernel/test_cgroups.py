"""Control groups: where they are found, what is written into them, and that they hold what they say."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from twinstack.kernel import cgroups
from twinstack.kernel.cgroups import Groups, Limits, Tree, trees

V1 = (
    "31 23 0:28 / {0} rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / {0}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / {0}/memory rw - cgroup cgroup rw,memory\n"
)
V2 = "40 31 0:40 / {0}/unified rw - cgroup2 cgroup2 rw\n"
OWN = "4:memory:/slice/one\n1:cpu,cpuacct:/\n0::/user\n"
LIMITS = Limits(memory=1 << 26, cpu_quota=50_000, cpu_shares=512, cpu_weight=20, pids=99)


def test_a_machine_of_both_versions_has_each_controller_where_it_is(tmp_path):
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").write_text("hugetlb pids\n")
    found = trees("ours", mounts=(V1 + V2).format(tmp_path), own=OWN)
    assert found == [
        Tree(1, ("cpu",), tmp_path / "cpu,cpuacct", tmp_path / "cpu,cpuacct" / "ours"),
        Tree(1, ("memory",), tmp_path / "memory", tmp_path / "memory" / "slice" / "one" / "ours"),
        Tree(2, ("pids",), tmp_path / "unified", tmp_path / "unified" / "ours"),
    ]


def test_a_group_elsewhere_than_what_is_mounted_begins_at_the_mount(tmp_path):
    (found,) = trees("ours", mounts=f"33 31 0:30 /container {tmp_path} rw - cgroup cgroup rw,memory\n", own="4:memory:/elsewhere\n")
    assert found.base == tmp_path / "ours"


@pytest.mark.parametrize(
    ("version", "files"),
    [
        (
            1,
            {
                "memory.limit_in_bytes": "67108864",
                "cpu.cfs_period_us": "100000",
                "cpu.cfs_quota_us": "50000",
                "cpu.shares": "512",
                "pids.max": "99",
            },
        ),
        (2, {"memory.max": "67108864", "memory.oom.group": "1", "cpu.max": "50000 100000", "cpu.weight": "20", "pids.max": "99"}),
    ],
)
def test_each_version_has_its_words(tmp_path, version, files):
    groups = Groups([Tree(version, cgroups.CONTROLLERS, tmp_path, tmp_path / "ours")])
    joined = tmp_path / "ours/pod/one" / ("tasks" if version == 1 else "cgroup.procs")
    assert groups.make("pod/one", LIMITS) == [str(joined)] and not groups.problems
    group = tmp_path / "ours/pod/one"
    assert {path.name: path.read_text() for path in group.iterdir()} == files
    control = [tmp_path / place / "cgroup.subtree_control" for place in (".", "ours", "ours/pod")]
    assert [path.read_text() for path in control if path.exists()] == ([] if version == 1 else ["+cpu +memory +pids"] * 3)
    (group / ("memory.oom_control", "memory.events")[version - 1]).write_text("under_oom 0\noom_kill 2\n")
    assert groups.oom_kills("pod/one") == 2 and groups.oom_kills("pod") == 0
    assert groups.make("pod/none", Limits()) == [] and not (tmp_path / "ours/pod/none").exists()


def test_a_tree_that_cannot_be_written_is_told_and_left_out(tmp_path):
    (tmp_path / "file").write_text("")
    groups = Groups([Tree(1, ("cpu",), tmp_path, tmp_path / "file" / "ours"), Tree(1, ("memory",), tmp_path, tmp_path / "ours")])
    assert groups.usable == {"memory"}
    assert groups.problems == [f"cpu: {tmp_path}/file/ours: Not a directory", "pids: this machine has no such control group"]
    assert groups.make("one", Limits(cpu_quota=1000)) == []


@pytest.mark.kernel
@pytest.mark.slow
def test_the_kernel_ends_who_takes_too_much_memory_and_the_group_is_removed():
    name = f"tst-{secrets.token_hex(4)}"
    groups = cgroups.of_process(name)
    try:
        if "memory" not in groups.usable:
            assert groups.problems  # a machine that gives no such group says so
            return
        joined = groups.make("pod/one", Limits(memory=32 << 20, cpu_shares=512, cpu_weight=20, pids=20))
        program = "import sys\nfor path in sys.argv[1:]: open(path, 'w').write('0')\nb'x' * (64 << 20)"
        done = subprocess.run([sys.executable, "-IS", "-c", program, *joined], check=False)
        assert done.returncode == -9
        assert groups.oom_kills("pod/one") == 1
        assert groups.listed() == {"pod"}
    finally:
        assert cgroups.remove_named(name) == []
    assert not [root for root in cgroups.find() for path, _, _ in os.walk(root) if Path(path).name == name]
