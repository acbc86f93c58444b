"""``twinstack kube-proxy`` on the command line: what it says when it is told nonsense."""

from __future__ import annotations

import logging

import pytest

from twinstack.cli.main import main

CONFIG = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


@pytest.fixture(autouse=True)
def logs_as_before():
    """A program sends all logs of the process to its stderr, which is this test's alone."""
    root, ours = logging.getLogger(), logging.getLogger("twinstack")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


REFUSED = [
    pytest.param(["--proxy-mode=iptables"], "nftables is, and kernelspace", id="a mode that we have not"),
    pytest.param(["--cluster-cidr=10.0.0.0/8,10.1.0.0/16"], "one of each family", id="two CIDRs of one family"),
    pytest.param(["--kubeconfig=/nowhere/at/all"], "kubeconfig /nowhere/at/all does not exist", id="a kubeconfig that is not there"),
    pytest.param(["--config=/nowhere/at/all"], "cannot be read", id="a configuration file that is not there"),
]


@pytest.mark.kernel
@pytest.mark.parametrize("flags, why", REFUSED)
def test_it_ends_with_one_line(flags, why, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["kube-proxy", *flags])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert why in told and told.startswith("error: ") and told.count("\n") == 1


def test_a_configuration_file_speaks_and_a_flag_speaks_louder(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG + "mode: ipvs\nnftables: {masqueradeBit: 99}\niptables: {masqueradeBits: 1}\n")
    with pytest.raises(SystemExit):
        main(["kube-proxy", f"--config={path}", "--proxy-mode=nftables"])
    told = capsys.readouterr().err
    assert "iptables.masqueradeBits is not known" in told
    assert "99 is not within 0 and 31" in told and "ipvs" not in told


@pytest.mark.parametrize("program", ["kube-proxy", "ip-masq-agent"])
def test_help_is_there(program, capsys):
    with pytest.raises(SystemExit) as ended:
        main([program, "--help"])
    assert ended.value.code == 0
    assert "--dry-run" in capsys.readouterr().out


def test_the_masquerade_agent_refuses_nonsense(capsys):
    with pytest.raises(SystemExit):
        main(["ip-masq-agent", "--to-ports=9-1"])
    assert capsys.readouterr().err == "error: --to-ports: '9-1' is not an interval of ports such as 1024-29999\n"
