"""The file of ``kube-scheduler --config``: a KubeSchedulerConfiguration, strictly.

What is obeyed: clientConnection, leaderElection, and the profiles' names. Whatever else upstream knows may stand there with the value by which it
changes nothing, and is refused by its name otherwise; what nobody knows is refused too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from twinstack.client.controllers import SettingsError, read_file
from twinstack.loops.durations import parse_duration

API_VERSION, KIND = "kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration"
# Field → the values that change nothing.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "parallelism": (16,),
    "percentageOfNodesToScore": (0, 100, None),
    "podInitialBackoffSeconds": (1,),
    "podMaxBackoffSeconds": (10,),
    "extenders": ([], None),
    "delayCacheUntilActive": (False,),
    "enableProfiling": (False, True),
    "enableContentionProfiling": (False, True),
}
_OF_PROFILE: Mapping[str, tuple[Any, ...]] = {"percentageOfNodesToScore": (0, 100, None), "plugins": ({}, None), "pluginConfig": ([], None)}


class _Strict(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class _ClientConnection(_Strict, frozen=True):
    kubeconfig: str = ""
    acceptContentTypes: str = ""
    contentType: str = ""
    qps: float = 0.0
    burst: int = 0


class _LeaderElection(_Strict, frozen=True):
    leaderElect: bool = True
    leaseDuration: str = "15s"
    renewDeadline: str = "10s"
    retryPeriod: str = "2s"
    resourceLock: str = "leases"
    resourceName: str = "kube-scheduler"
    resourceNamespace: str = "kube-system"


def read_configuration(path: str) -> dict[str, Any]:
    """The settings that the file says, by their names; SettingsError names the file and the field."""
    try:
        document = yaml.safe_load(read_file("config", path))
    except yaml.YAMLError as error:
        raise SettingsError(f"--config={path} is no YAML: {error}") from error
    try:
        return _settings(document)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(f"--config={path}: {error}") from error


def _settings(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise ValueError(f"is not a {KIND} of {API_VERSION}")
    known = {"apiVersion", "kind", "clientConnection", "leaderElection", "profiles"}
    _refuse(document, known, _WITHOUT_EFFECT, "")
    client = msgspec.convert(document.get("clientConnection") or {}, _ClientConnection)
    election = msgspec.convert(document.get("leaderElection") or {}, _LeaderElection)
    for name in ("acceptContentTypes", "contentType"):
        if getattr(client, name) not in ("", "application/json"):
            raise ValueError(f"clientConnection.{name}: {getattr(client, name)!r} is not spoken here; application/json is")
    return {
        "kubeconfig": os.path.expanduser(client.kubeconfig),
        "kube_api_qps": max(0.0, client.qps),
        "kube_api_burst": client.burst,
        "leader_elect": election.leaderElect,
        "leader_elect_lease_duration_seconds": parse_duration(election.leaseDuration),
        "leader_elect_renew_deadline_seconds": parse_duration(election.renewDeadline),
        "leader_elect_retry_period_seconds": parse_duration(election.retryPeriod),
        "leader_elect_resource_lock": election.resourceLock,
        "leader_elect_resource_name": election.resourceName,
        "leader_elect_resource_namespace": election.resourceNamespace,
        "scheduler_names": _profiles(document.get("profiles") or [{}]),
    }


def _profiles(profiles: Any) -> tuple[str, ...]:
    if not isinstance(profiles, list) or not all(isinstance(one, dict) for one in profiles):
        raise ValueError("profiles: is not a list of profiles")
    for number, one in enumerate(profiles):
        _refuse(one, {"schedulerName"}, _OF_PROFILE, f"profiles[{number}].")
    names = [str(one.get("schedulerName") or "default-scheduler") for one in profiles]
    if len(set(names)) < len(names):
        raise ValueError(f"profiles: {', '.join(names)}: each must have a schedulerName of its own")
    return tuple(names)


def _refuse(given: Mapping[str, Any], obeyed: set[str], without_effect: Mapping[str, tuple[Any, ...]], path: str) -> None:
    for name, value in given.items():
        if name in obeyed:
            continue
        if name not in without_effect:
            raise ValueError(f"{path}{name}: there is no such field")
        if value not in without_effect[name]:
            example = next((f"; {one!r} would do" for one in without_effect[name] if one is not None), "")
            raise ValueError(f"{path}{name}: {value!r} is not obeyed here{example}, or leaving it out")
