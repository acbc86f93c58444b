"""What the load balancer is told, and what it refuses; and what a dry run says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twinstack.api.kinds import ConfigMap, Lease, Node, Service
from twinstack.api.objects import Key, view_of
from twinstack.controllers.loadbalancers import CONFIG, ENTRY, LoadBalancers
from twinstack.lb.lb import report
from twinstack.lb.settings import Settings, SettingsError, checked, configuration_of_file
from twinstack.rules.balancer_pools import Configuration, parse_pools

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"renew_seconds": 0.01}, "--renew-interval=0.01s is less than 0.1s; 0.6s would do"),
        ({"lease_seconds": 1.0}, "--lease-duration=1s is less than 2.5 times --renew-interval; 1.5s would do"),
        ({"config": "/nowhere/pools.yaml"}, "--config=/nowhere/pools.yaml cannot be read: No such file"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_do(flags, words) -> None:
    with pytest.raises(SettingsError, match=words):
        checked(Settings(**flags))


def test_a_file_of_pools_is_read_whole_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text("pools: [{name: a, addresses: [192.0.2.0/33]}]")
    with pytest.raises(SettingsError, match=r"pools.yaml: pools\[0\].addresses\[0\]"):
        configuration_of_file(Settings(config=str(path)))
    path.write_text("pools: [{name: a, addresses: [192.0.2.0/30]}]")
    assert [pool.name for pool in configuration_of_file(Settings(config=str(path))).pools] == ["a"]
    assert configuration_of_file(Settings()) == Configuration()


def test_the_example_of_pools_is_one() -> None:
    document = yaml.safe_load((EXAMPLES / "loadbalancer" / "pools.yaml").read_text())
    assert Key(document["metadata"]["namespace"], document["metadata"]["name"]) == CONFIG
    assert [(pool.name, pool.automatic) for pool in parse_pools(document["data"][ENTRY])] == [("default", True), ("named", False)]


class World:
    """The objects of a dry run."""

    def __init__(self, *objects) -> None:
        self._objects = objects

    def list(self, view):
        return [one for one in self._objects if isinstance(one, view)]

    def labelled(self, view, namespace, label, value):
        return []

    def get(self, view, key):
        return next((one for one in self.list(view) if Key(one.metadata.namespace, one.metadata.name) == key), None)


def test_a_dry_run_says_who_has_what_and_who_would_answer() -> None:
    spec = {"type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}
    services = [
        view_of(
            Service,
            {"metadata": {"namespace": "n", "name": "a"}, "spec": spec, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.0", "ipMode": "VIP"}]}}},
        ),
        view_of(Service, {"metadata": {"namespace": "n", "name": "b"}, "spec": spec}),
    ]
    node = view_of(Node, {"metadata": {"name": "node1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    metadata = {"namespace": "kube-system", "name": "twinstack-lb-node1", "labels": {"twinstack.dev/load-balancer-node": "node1"}}
    lease = view_of(Lease, {"metadata": metadata, "spec": {"holderIdentity": "node1"}})
    pools = view_of(
        ConfigMap, {"metadata": {"namespace": CONFIG.namespace, "name": CONFIG.name}, "data": {ENTRY: "pools: [{name: p, addresses: [192.0.2.0]}]"}}
    )
    assert report(LoadBalancers(), World(*services, node, lease, pools)) == [
        "n/a: 192.0.2.0; no IPv6 address is in pool p",
        "n/b: waits; no IPv4 address is left in pool p (all 1 are taken); no IPv6 address is in pool p",
        "192.0.2.0: answered by node1",
    ]
