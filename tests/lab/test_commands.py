"""The command line of a cluster, and what a machine must have, without one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from twinstack.cli.cluster_output import age
from twinstack.cli.main import group, main
from twinstack.cli.waiting import Line
from twinstack.lab import preflight, record
from twinstack.lab.errors import LabError
from twinstack.lab.places import Places
from twinstack.lab.topology import Request, Topology, plan


@pytest.fixture
def runner(tmp_path: Path) -> CliRunner:
    return CliRunner(env={"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "config"), "NO_COLOR": None})


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(runner: CliRunner, shell: str) -> None:
    said = runner.invoke(group, ["completion", shell], prog_name="twinstack")
    assert said.exit_code == 0
    assert "_TWINSTACK_COMPLETE" in said.stdout


def test_commands_and_flags_are_completed(runner: CliRunner) -> None:
    words = {"_TWINSTACK_COMPLETE": "bash_complete", "COMP_WORDS": "twinstack up --fam", "COMP_CWORD": "2"}
    assert "--families" in runner.invoke(group, [], prog_name="twinstack", env=words).stdout


def test_a_word_that_is_no_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for word, near in (("upp", " Did you mean 'up'?"), ("kube-prxy", " Did you mean 'kube-proxy'?"), ("help", " Did you mean '--help'?"), ("xyzzy", "")):
        with pytest.raises(SystemExit) as ended:
            main([word])
        assert ended.value.code == 2
        assert capsys.readouterr().err.endswith(f"No such command '{word}'.{near}\n")


def test_the_status_of_a_flag_that_is_none_is_2_and_of_help_0(capsys: pytest.CaptureFixture[str]) -> None:
    for words, status in ((["up", "--node", "3"], 2), (["up", "--nodes", "x"], 2), (["down", "--help"], 0), (["--version"], 0), (["up", "--nodes", "0"], 1)):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == status, words
    assert "Did you mean" in capsys.readouterr().err


def test_the_clusters_name_may_stand_in_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("TWINSTACK_NAME", "tst-nobody")
    for words, name in (([], "tst-nobody"), (["--name", "tst-other"], "tst-other")):
        with pytest.raises(SystemExit):
            main(["status", *words])
        assert capsys.readouterr().err.startswith(f"error: there is no cluster {name}")


def test_what_a_cluster_has_is_completed(runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    topology = plan(Request(name="tst-complete", nodes=2))
    assert isinstance(topology, Topology)
    places = Places.of("tst-complete")
    os.makedirs(places.state)
    record.write(places.record, record.Record.of(topology, created=0.0, version="0", kubeconfig="", verbosity=0))

    def completed(line: str) -> list[str]:
        words = {"_TWINSTACK_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        said = runner.invoke(group, [], prog_name="twinstack", env={**words, "XDG_STATE_HOME": str(tmp_path)}).stdout
        return [one.removeprefix("plain,") for one in said.splitlines()]

    assert completed("twinstack status --name tst-c") == ["tst-complete"]
    assert completed("twinstack shell --name tst-complete ") == ["node1", "node2", "control-plane", "outside", "fabric"]
    assert completed("twinstack node remove --name tst-complete n") == ["node1", "node2"]
    assert completed("twinstack restart --name tst-complete kube-a") == ["kube-apiserver"]
    assert completed("twinstack logs --name tst-complete node2/k") == ["node2/kube-proxy", "node2/kubelet"]
    assert completed("twinstack logs --name tst-nobody n") == [""]


def test_lists_are_documents_for_programs(runner: CliRunner) -> None:
    found = json.loads(runner.invoke(group, ["list", "-o", "json"]).stdout)
    assert found == yaml.safe_load(runner.invoke(group, ["list", "-o", "yaml"]).stdout)


def test_a_cluster_that_is_not_there_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for words in (["status"], ["logs"], ["shell", "node1"], ["restart", "node1"]):
        with pytest.raises(SystemExit) as ended:
            main([words[0], "--name", "tst-nobody", *words[1:]])
        assert ended.value.code == 1
        assert capsys.readouterr().err.startswith("error: there is no cluster tst-nobody")


def test_every_problem_with_flags_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["up", "--nodes", "0", "--families", "IPX", "--pod-cidr", "x"])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["--nodes", "--families", "--pod-cidr"]
    assert all(line.startswith("error: ") for line in lines)


def test_a_dry_run_prints_what_would_be_made(runner: CliRunner) -> None:
    said = runner.invoke(group, ["up", "--dry-run", "--families", "IPv6,IPv4", "--nodes", "2", "-o", "json"])
    assert said.exit_code == 0
    document = json.loads(said.stdout)
    assert (document["families"], len(document["nodes"])) == (["IPv6", "IPv4"], 2)
    assert "node2" in runner.invoke(group, ["up", "--dry-run"]).stdout


def test_flags_win_over_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("apiVersion: twinstack.dev/v1alpha1\nkind: Cluster\nspec: {nodes: 0, families: [IPX]}\n")
    with pytest.raises(SystemExit):
        main(["up", "--config", str(file), "--families", "IPv4"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --nodes")


@pytest.mark.parametrize("text", ["{", "- a", "kind: Pod", "\x00", "apiVersion: twinstack.dev/v1alpha1\nkind: Cluster\nspec: {nodez: 1}"])
def test_a_file_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(["up", "--config", str(file)])
    assert ended.value.code == 1
    assert all(line.startswith("error: --config") for line in capsys.readouterr().err.splitlines())


def test_a_network_configuration_is_printed_or_refused(runner: CliRunner, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(runner.invoke(group, ["cni", "config", "10.1.0.0/24", "fd01::/64"]).stdout)
    assert document["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd01::/64"}]]
    with pytest.raises(SystemExit):
        main(["cni", "config", "10.1.0.1/24"])
    assert "10.1.0.0/24" in capsys.readouterr().err


def test_the_plugin_is_installed_where_a_runtime_looks(runner: CliRunner, tmp_path: Path) -> None:
    said = runner.invoke(group, ["cni", "install", "--bin-dir", str(tmp_path / "bin")])
    assert said.stdout.strip() == str(tmp_path / "bin" / "twinstack-cni")
    assert os.access(said.stdout.strip(), os.X_OK)


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (3600, "60m"), (4 * 3600, "4h"), (47 * 3600, "47h"), (3 * 86400, "3d")]
)
def test_an_age_reads_as_kubectls(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_what_a_machine_lacks_is_told_with_what_would_help(tmp_path: Path) -> None:
    everything = (1 << 41) - 1
    preflight.check_rights(0, everything)
    with pytest.raises(LabError, match="sudo"):
        preflight.check_rights(1000, everything)
    with pytest.raises(LabError, match=r"CAP_SYS_ADMIN.*--privileged"):
        preflight.check_rights(0, everything & ~(1 << 21))
    for release in ("5.13.0", "6.1.0-13-amd64", "10.0", "strange"):
        preflight.check_kernel(release)
    with pytest.raises(LabError, match=r"kernel 4\.19\.0 is too old.*5\.13"):
        preflight.check_kernel("4.19.0")
    (tmp_path / "net" / "ipv4").mkdir(parents=True)
    (tmp_path / "net" / "ipv4" / "ip_forward").write_text("1")
    with pytest.raises(LabError, match="no IPv6"):
        preflight.check_families(str(tmp_path))


def test_what_is_waited_for_is_told_on_a_terminal_alone(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Line("unpacking web.tar …"):
        pass
    assert capfd.readouterr().err == ""
    reader, writer = os.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal, os.fdopen(reader, "rb", buffering=0) as screen:
        monkeypatch.setattr("sys.stderr", terminal)
        with Line("unpacking web.tar …") as line:
            line.hide()
            line.show("3 of 50")
        wanted = "\r\x1b[2Kunpacking web.tar …\r\x1b[2K\r\x1b[2K3 of 50\r\x1b[2K".encode()
        shown = b""
        while len(shown) < len(wanted):  # a terminal gives what has come so far
            shown += screen.read(1000)
        assert shown == wanted
