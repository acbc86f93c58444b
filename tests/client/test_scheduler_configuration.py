"""The file of kube-scheduler, and what of it is obeyed or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twinstack.client.controllers import SettingsError
from twinstack.client.scheduler_configuration import API_VERSION, KIND, read_configuration


def written(path: Path, **fields: object) -> str:
    file = path / "scheduler.yaml"
    file.write_text(yaml.safe_dump({"apiVersion": API_VERSION, "kind": KIND} | fields))
    return str(file)


def test_what_it_says_of_the_client_the_election_and_names_is_obeyed(tmp_path: Path) -> None:
    told = read_configuration(
        written(
            tmp_path,
            clientConnection={"kubeconfig": "/etc/scheduler.conf", "qps": 100, "burst": 200},
            leaderElection={"leaderElect": True, "leaseDuration": "30s", "renewDeadline": "20s", "retryPeriod": "4s", "resourceName": "mine"},
            profiles=[{"schedulerName": "default-scheduler"}, {"schedulerName": "other"}],
            parallelism=16,
            percentageOfNodesToScore=100,
        )
    )
    assert (told["kubeconfig"], told["kube_api_qps"], told["kube_api_burst"]) == ("/etc/scheduler.conf", 100.0, 200)
    assert (told["leader_elect_lease_duration_seconds"], told["leader_elect_resource_name"]) == (30.0, "mine")
    assert told["scheduler_names"] == ("default-scheduler", "other")


def test_an_empty_one_says_what_is_usual(tmp_path: Path) -> None:
    told = read_configuration(written(tmp_path))
    assert told["scheduler_names"] == ("default-scheduler",) and told["leader_elect"] is True and told["leader_elect_renew_deadline_seconds"] == 10.0


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"apiVersion": "kubescheduler.config.k8s.io/v1beta3"}, "is not a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1"),
        ({"paralelism": 16}, "paralelism: there is no such field"),
        ({"parallelism": 4}, "parallelism: 4 is not obeyed here; 16 would do"),
        ({"extenders": [{"urlPrefix": "http://x"}]}, "extenders: "),
        ({"profiles": [{"plugins": {"score": {"disabled": [{"name": "*"}]}}}]}, "profiles[0].plugins: "),
        ({"profiles": [{"schedulerName": "a"}, {"schedulerName": "a"}]}, "must have a schedulerName of its own"),
        ({"leaderElection": {"leaseDuraton": "1s"}}, "leaseDuraton"),
        ({"leaderElection": {"leaseDuration": "soon"}}, "soon"),
        ({"clientConnection": {"contentType": "application/vnd.kubernetes.protobuf"}}, "clientConnection.contentType"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_its_name(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_configuration(written(tmp_path, **fields))
    assert words in str(caught.value) and "--config=" in str(caught.value)


def test_what_is_no_file_or_no_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{a: [")
    for path, words in ((tmp_path / "none", "cannot be read"), (tmp_path / "x", "is no YAML")):
        with pytest.raises(SettingsError, match=words):
            read_configuration(str(path))
