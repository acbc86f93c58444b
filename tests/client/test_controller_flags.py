"""The command lines of kube-controller-manager and kube-scheduler: upstream's are taken, or refused flag by flag."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from twinstack.cli.kube_controller_manager import command as manager
from twinstack.cli.kube_scheduler import command as scheduler

# As kubeadm writes it.
KUBEADM = (
    *("--allocate-node-cidrs=true", "--authentication-kubeconfig=/none", "--authorization-kubeconfig=/none", "--bind-address=127.0.0.1"),
    *("--client-ca-file=/none", "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56", "--cluster-name=kubernetes", "--kubeconfig=/none"),
    *("--cluster-signing-cert-file=/none", "--cluster-signing-key-file=/none", "--controllers=*,bootstrapsigner,tokencleaner"),
    *("--leader-elect=true", "--requestheader-client-ca-file=/none", "--service-account-private-key-file=/none"),
    *("--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112", "--use-service-account-credentials=true", "--profiling=false"),
)


def test_a_command_line_as_kubeadm_writes_it_is_taken_up_to_what_it_names() -> None:
    answer = CliRunner().invoke(manager, [*KUBEADM])
    assert answer.exit_code == 1 and "/none" in answer.output and "No such option" not in answer.output
    answer = CliRunner().invoke(scheduler, [*KUBEADM[1:4], "--kubeconfig=/none", "--leader-elect=true"])
    assert answer.exit_code == 1 and "/none" in answer.output


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--cloud-provider=aws", "there is no cloud here"),
        ("--enable-garbage-collector=false", "-garbage-collector-controller leaves it out"),
        ("--endpointslice-updates-batch-period=1s", "0s would do"),
        ("--cidr-allocator-type=CloudAllocator", "RangeAllocator would do"),
        ("--feature-gates=X=true", "there are none here"),
    ],
)
def test_what_asks_for_something_else_is_refused_with_what_would_do(flag: str, words: str) -> None:
    answer = CliRunner().invoke(manager, [flag])
    assert answer.exit_code == 2 and words in answer.output


@pytest.mark.parametrize("address, refused", [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("::", True), ("192.0.2.1", True)])
def test_who_may_look_is_not_asked_so_the_door_must_be_this_machines_own(address: str, refused: bool) -> None:
    answer = CliRunner().invoke(scheduler, [f"--bind-address={address}", "--client-ca-file=/none", "--kubeconfig=/none"])
    assert ("whoever reaches the door may look" in answer.output) is refused and answer.exit_code == (2 if refused else 1)
