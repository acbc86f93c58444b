"""``twinstack kubelet``: upstream's flags and configuration file become settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from twinstack.agent.settings import Settings, SettingsError, Taint
from twinstack.cli.kubelet import _from_flags, command
from twinstack.net.errors import Error


def test_flags_become_settings():
    values = _from_flags(
        {
            "node_ip": "2001:db8::1,192.0.2.1", "hostname_override": "Node1", "root_dir": "/r", "cni_bin_dir": "/a,/b", "cluster_dns": "10.96.0.10, fd00::a",
            "resolv_conf": "", "node_labels": "a=b", "register_with_taints": "k=v:NoSchedule", "node_status_update_frequency": "1m30s", "port": 1234,
        }
    )  # fmt: skip
    settings = Settings(**values)
    assert list(map(str, settings.node_ips)) == ["2001:db8::1", "192.0.2.1"]
    assert (settings.node_name, settings.root_dir, settings.cni_bin_dirs) == ("node1", Path("/r"), (Path("/a"), Path("/b")))
    assert list(map(str, settings.cluster_dns)) == ["10.96.0.10", "fd00::a"]
    assert (settings.resolv_conf, settings.labels, settings.taints) == (None, (("a", "b"),), (Taint("k", "v", "NoSchedule"),))
    assert (settings.status_seconds, settings.port, settings.max_pods) == (90, 1234, 110)


def test_flags_of_what_a_node_may_use():
    values = _from_flags(
        {
            "sync_frequency": "30s", "pod_max_pids": -1, "eviction_hard": "memory.available<1Gi,nodefs.available<5%", "kube_reserved": "cpu=100m,memory=1Gi",
            "system_reserved": "", "pod_manifest_path": "/m", "file_check_frequency": "1s", "cloud_provider": "external", "provider_id": "x://y",
        }
    )  # fmt: skip
    settings = Settings(**values)
    assert (settings.sync_seconds, settings.pod_pids, settings.static_pods, settings.file_check_seconds) == (30, None, Path("/m"), 1)
    assert settings.eviction_hard == (("memory.available", "1Gi"), ("nodefs.available", "5%"))
    assert (settings.kube_reserved, settings.system_reserved) == ((("cpu", "100m"), ("memory", "1Gi")), ())
    assert (settings.cloud_provider, settings.provider_id) == ("external", "x://y")
    for wrong in (
        {"eviction_hard": "memory.available=1Gi"},
        {"eviction_hard": "memory<1Gi"},
        {"eviction_hard": "pid.available<x%"},
        {"kube_reserved": "cpu=much"},
    ):
        with pytest.raises(Error):
            _from_flags(wrong)


def test_a_bad_pair_of_addresses_ends_the_program_with_a_reason():
    result = CliRunner().invoke(command, ["--node-ip=0.0.0.0,::"])
    assert isinstance(result.exception, SettingsError) and "a pair needs two real addresses" in str(result.exception)


def test_help_names_every_flag_of_a_dual_stack_node():
    text = CliRunner().invoke(command, ["--help"]).output
    for flag in (
        "--node-ip",
        "--hostname-override",
        "--root-dir",
        "--netns-dir",
        "--cni-conf-dir",
        "--cni-bin-dir",
        "--write-cni-config",
        "--cluster-dns",
        "--config",
    ):
        assert flag in text


def test_flags_that_change_nothing_are_named_and_do_not_stop_the_kubelet():
    words = ["--cgroup-driver=systemd", "--feature-gates=A=true", "--rotate-certificates", "--read-only-port=0", "--pod-cidr=10.0.0.0/24"]
    result = CliRunner().invoke(command, [*words, "--node-ip=0.0.0.0,::"])  # the last one stops it, once these are read
    assert "a pair needs two real addresses" in str(result.exception)
    for flag in ("cgroup-driver", "feature-gates", "rotate-certificates", "read-only-port", "pod-cidr"):
        assert f"warning: --{flag} is ignored: " in result.output
