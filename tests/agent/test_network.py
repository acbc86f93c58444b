"""Network plugins as a runtime calls them, with plugins made of a shell script."""

from __future__ import annotations

import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from twinstack.agent.network import Attachment, Network, addresses_of, parse_configuration
from twinstack.api import cni
from twinstack.api.kinds import Node
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/32"}, {"address": "fd00::5/128"}]}


@pytest.fixture
def network(tmp_path: Path):
    """A network of two plugins; each call is noted, and a file named after plugin and command decides the answer."""
    for name in ("main", "chained"):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"#!/bin/sh\nread -r config\n"
            f'printf \'%s\\n\' "{{\\"plugin\\":\\"{name}\\",\\"command\\":\\"$CNI_COMMAND\\",\\"netns\\":\\"$CNI_NETNS\\",\\"id\\":\\"$CNI_CONTAINERID\\",'
            f'\\"ifname\\":\\"$CNI_IFNAME\\",\\"args\\":\\"$CNI_ARGS\\",\\"config\\":$config}}" >> {tmp_path}/calls\n'
            f"if [ -e {tmp_path}/{name}-$CNI_COMMAND ]; then cat {tmp_path}/{name}-$CNI_COMMAND; exit 1; fi\n"
            f"if [ $CNI_COMMAND = ADD ]; then printf '%s' '{json.dumps(RESULT)}'; fi\n"
        )
        path.chmod(0o755)
    conf = tmp_path / "conf"
    conf.mkdir()
    plugins = [{"type": "main", "ipam": {"x": 1}}, {"type": "chained", "capabilities": {"portMappings": True}}]
    (conf / "20-b.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": plugins}))
    return Network(conf, [tmp_path / "bin"])


def calls(tmp_path: Path):
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


HERE = Attachment("id-1", "/run/netns/x", {"K8S_POD_NAME": "p"})


async def test_add_goes_through_the_chain_and_hands_results_on(network, tmp_path):
    result = await network.add(HERE, network.configuration())
    assert list(map(str, addresses_of(result))) == ["10.0.0.5", "fd00::5"]
    first, second = calls(tmp_path)
    assert (first["plugin"], first["command"], first["netns"], first["id"], first["ifname"]) == ("main", "ADD", "/run/netns/x", "id-1", "eth0")
    assert first["args"] == "IgnoreUnknown=1;K8S_POD_NAME=p"
    assert first["config"] == {"type": "main", "ipam": {"x": 1}, "cniVersion": "1.0.0", "name": "net"}
    assert second["config"]["prevResult"] == RESULT
    assert second["config"]["runtimeConfig"] == {} and "capabilities" not in second["config"]


async def test_del_goes_backwards_and_to_the_end(network, tmp_path):
    (tmp_path / "chained-DEL").write_text('{"code": 101, "msg": "no", "details": "not now"}')
    with pytest.raises(cni.CNIError, match="chained: no: not now"):
        await network.delete(HERE, network.configuration(), RESULT)
    assert [call["plugin"] for call in calls(tmp_path)] == ["chained", "main"]
    assert all(call["config"]["prevResult"] == RESULT for call in calls(tmp_path))


async def test_a_failed_add_is_undone(network, tmp_path):
    (tmp_path / "chained-ADD").write_text("not json")
    with pytest.raises(cni.CNIError, match="chained ended with status 1: not json"):
        await network.add(HERE, network.configuration())
    assert [(call["plugin"], call["command"]) for call in calls(tmp_path)] == [("main", "ADD"), ("chained", "ADD"), ("chained", "DEL"), ("main", "DEL")]


async def test_check_asks_every_plugin(network, tmp_path):
    await network.check(HERE, network.configuration(), RESULT)
    assert [(call["plugin"], call["command"]) for call in calls(tmp_path)] == [("main", "CHECK"), ("chained", "CHECK")]


async def test_host_ports_are_told_to_plugins_that_map_them(network, tmp_path):
    here = HERE._replace(runtime={"portMappings": [{"hostPort": 80, "containerPort": 80}]})
    await network.add(here, network.configuration())
    assert [call["config"].get("runtimeConfig") for call in calls(tmp_path)] == [None, here.runtime]
    without = network.configuration()._replace(plugins=({"type": "main", "capabilities": {"ips": True}},))
    with pytest.raises(cni.CNIError, match="declares the capability portMappings"):
        await network.add(here, without)


def test_the_lexically_first_configuration_counts(network, tmp_path):
    assert network.problem() is None
    (tmp_path / "conf" / "10-a.conf").write_text('{"name": "other", "type": "missing"}')
    assert network.problem().startswith("plugin missing is not in ")
    (tmp_path / "conf" / "05-a.conflist").write_text("{")
    assert "not JSON" in network.problem()


def test_without_a_configuration_no_pod_can_be_attached(tmp_path):
    assert Network(tmp_path / "none", []).problem() == f"no network configuration in {tmp_path}/none"


def test_our_own_configuration_is_written_once(tmp_path):
    network = Network(tmp_path / "conf", [])
    assert network.write("net", ["10.0.0.0/24", "fd00::/64"], data_dir=tmp_path)
    assert not network.write("net", ["10.0.0.0/24", "fd00::/64"], data_dir=tmp_path)
    found = parse_configuration((tmp_path / "conf" / "10-twinstack.conflist").read_bytes())
    assert (found.name, found.plugins[0]["type"], found.version) == ("net", "twinstack-cni", "1.1.0")


async def test_the_nodes_ranges_are_told_to_a_plugin_that_asks_for_them_and_has_none(network, tmp_path):
    network.pod_cidrs = ("10.1.0.0/24", "fd00:1::/64")
    assert network.ranges_for(network.configuration()) == []
    capability = {"capabilities": {"ipRanges": True}}
    asks = {"type": "main", "ipam": {"type": "host-local"}, **capability}
    has = {"type": "chained", "ipam": {"ranges": [[{"subnet": "10.9.0.0/24"}]]}, **capability}
    configuration = network.configuration()._replace(plugins=(asks, has))
    ranges = network.ranges_for(configuration)
    assert ranges == [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]
    await network.add(HERE._replace(runtime={"ipRanges": ranges}), configuration)
    assert [call["config"]["runtimeConfig"] for call in calls(tmp_path)] == [{"ipRanges": ranges}, {}]
    assert network.ranges_for(configuration._replace(plugins=(has,))) == []


@pytest.mark.kernel
@pytest.mark.slow
def test_debians_bridge_gives_pods_addresses_of_the_nodes_ranges(world):
    async def story(w):
        for name in ("bridge", "host-local"):
            os.symlink(f"/usr/lib/cni/{name}", w.folder / "bin" / name)
        plugin = {"type": "bridge", "bridge": "cni0", "isGateway": True, "capabilities": {"ipRanges": True}}
        plugin["ipam"] = {"type": "host-local", "dataDir": str(w.folder / "leases")}
        document = {"cniVersion": "1.0.0", "name": "foreign", "plugins": [plugin]}
        await w.give_pod_cidrs()
        (w.folder / "cni" / "00-foreign.conflist").write_text(json.dumps(document))
        await w.create("pod")
        pod = await w.until_pod("pod", lambda status: status.get("phase") == "Running")
        node = await w.client.get(resource_of(Node), Key("", "node1"))
        told = [ip_network(cidr) for cidr in node["spec"]["podCIDRs"]]
        assert [any(ip_address(one["ip"]) in cidr for cidr in told) for one in pod["status"]["podIPs"]] == [True] * len(told)
        await w.delete("pod", grace_period_seconds=0)
        await w.until_gone("pod")

        async def given_back():
            return not [entry for entry in os.listdir(w.folder / "leases" / "foreign") if not entry.startswith(("lock", "last"))]

        await w.until(given_back)
        await w.nothing_is_left()

    world(story)
