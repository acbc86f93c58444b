from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api import cni
from twinstack.cni.plugin import respond
from twinstack.net.family import FAMILIES, Family

V4, V6 = {"subnet": "10.7.1.0/24"}, {"subnet": "fd07:1::/64"}


def config(**more: Any) -> bytes:
    return json.dumps({"cniVersion": "1.1.0", "name": "net", "type": "twinstack-cni", **more}).encode()


def test_the_list_we_write_is_a_configuration_we_read() -> None:
    whole = cni.network_config("net", ["10.7.1.0/24", "fd07:1::/64"], mtu=1400, data_dir="/data")
    read = cni.parse_config(json.dumps({**whole["plugins"][0], "name": whole["name"], "cniVersion": whole["cniVersion"]}).encode())
    assert (read.network, read.mtu, read.data_dir, read.version) == ("net", 1400, "/data", "1.0.0")
    assert [str(ranges[0].subnet) for ranges in read.range_sets] == ["10.7.1.0/24", "fd07:1::/64"]


def test_a_range_leaves_out_what_a_subnet_reserves() -> None:
    ((four,), (six,)) = cni.parse_config(config(ipam={"ranges": [[V4], [V6]]})).range_sets
    assert (str(four.first), str(four.last)) == ("10.7.1.1", "10.7.1.254")
    assert (str(six.first), str(six.last)) == ("fd07:1::1", "fd07:1::ffff:ffff:ffff:ffff")


def test_ranges_of_the_runtime_come_first_and_the_older_form_is_a_set_of_its_own() -> None:
    read = cni.parse_config(config(ipam={"subnet": "10.7.2.0/24", "ranges": [[V4]]}, runtimeConfig={"ipRanges": [[V6]]}))
    assert [str(ranges[0].subnet) for ranges in read.range_sets] == ["10.7.2.0/24", "fd07:1::/64", "10.7.1.0/24"]


def test_addresses_are_asked_for_in_three_places() -> None:
    data = config(ipam={"ranges": [[V4], [V6]]}, args={"cni": {"ips": ["10.7.1.9"]}}, runtimeConfig={"ips": ["fd07:1::9/64"]})
    asked = cni.parse_config(data, "IgnoreUnknown=1;IP=10.7.1.8;K8S_POD_NAME=x").requested
    assert list(map(str, asked)) == ["10.7.1.8", "10.7.1.9", "fd07:1::9"]


@pytest.mark.parametrize(
    "data, code, words",
    [
        pytest.param(b"{", cni.UNDECODABLE, "not JSON", id="cut short"),
        pytest.param(b"[]", cni.UNDECODABLE, "not a JSON object", id="not an object"),
        pytest.param(config(cniVersion="0.3.1"), cni.INCOMPATIBLE_VERSION, "'0.3.1'", id="an old version"),
        pytest.param(config(cniVersion="9.0.0"), cni.INCOMPATIBLE_VERSION, "'9.0.0'", id="a future version"),
        pytest.param(b'{"name":"net"}', cni.INCOMPATIBLE_VERSION, "'0.1.0'", id="no version means 0.1.0"),
        pytest.param(config(name="a/b"), cni.BAD_CONFIG, "'a/b'", id="a name that is a path"),
        pytest.param(config(name=""), cni.BAD_CONFIG, "name", id="no name"),
        pytest.param(config(mtu=576), cni.BAD_CONFIG, "576", id="an MTU that IPv6 does not go over"),
        pytest.param(config(ipam={"type": "../host-local"}), cni.BAD_CONFIG, "../host-local", id="an IPAM that is a path"),
        pytest.param(config(ipam=[1]), cni.BAD_CONFIG, "ipam", id="ipam is not an object"),
        pytest.param(config(ipam={"ranges": [V4]}), cni.BAD_CONFIG, "ranges[0]", id="a range where a set belongs"),
        pytest.param(config(ipam={"ranges": [[V4, V6]]}), cni.BAD_CONFIG, "mixes families", id="both families in one set"),
        pytest.param(config(ipam={"ranges": [[{}]]}), cni.BAD_CONFIG, "no subnet", id="a range without a subnet"),
        pytest.param(config(ipam={"ranges": [[{"subnet": "10.7.1.1/24"}]]}), cni.BAD_CONFIG, "10.7.1.0/24", id="host bits"),
        pytest.param(config(ipam={"ranges": [[{"subnet": "10.7.1.0/31"}]]}), cni.BAD_CONFIG, "too small", id="a subnet without room"),
        pytest.param(config(ipam={"ranges": [[V6], [{"subnet": "fd07:1::/32"}]]}), cni.BAD_CONFIG, "overlap", id="sets that overlap"),
        pytest.param(config(ipam={"ranges": [[{**V4, "rangeStart": "10.7.2.1"}]]}), cni.BAD_CONFIG, "rangeStart", id="a start outside"),
        pytest.param(config(ipam={"ranges": [[{**V4, "rangeStart": "10.7.1.9", "rangeEnd": "10.7.1.8"}]]}), cni.BAD_CONFIG, "after its end", id="backwards"),
        pytest.param(config(runtimeConfig={"ips": ["x"]}), cni.BAD_CONFIG, "'x'", id="an address that is none"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_code_and_the_culprit(data: bytes, code: int, words: str) -> None:
    with pytest.raises(cni.CNIError) as caught:
        cni.parse_config(data)
    assert caught.value.code == code
    assert words in str(caught.value)
    assert caught.value.document()["msg"]


def result(version: str) -> dict[str, Any]:
    pairs = [("10.7.1.5", "10.7.1.0/24"), ("fd07:1::5", "fd07:1::/64")]
    given = [cni.Given(ipaddress.ip_address(address), ipaddress.ip_network(subnet)) for address, subnet in pairs]
    return cni.result(version, host_link="tsx", host_mac="02:00:00:00:00:01", link="eth0", mac="02:00:00:00:00:02", netns="/n", mtu=1500, given=given)


@pytest.mark.parametrize("version", cni.VERSIONS)
def test_a_result_is_written_in_the_version_asked_for(version: str) -> None:
    told = result(version)
    assert told["cniVersion"] == version
    assert [ip.get("version") for ip in told["ips"]] == (["4", "6"] if version == "0.4.0" else [None, None])
    assert [end.get("mtu") for end in told["interfaces"]] == ([1500, 1500] if version == "1.1.0" else [None, None])
    assert told["interfaces"][1]["sandbox"] == "/n"


def test_a_result_has_an_address_and_a_default_route_of_each_family() -> None:
    told = result("1.1.0")
    assert [(ip["address"], ip["gateway"], ip["interface"]) for ip in told["ips"]] == [("10.7.1.5/32", "169.254.1.1", 1), ("fd07:1::5/128", "fe80::1", 1)]
    assert told["routes"] == [{"dst": family.facts.everything, "gw": family.facts.pod_gateway} for family in FAMILIES]
    assert tuple(map(Family.of, cni.addresses_of(told))) == FAMILIES


@pytest.mark.parametrize(
    "environment, words",
    [
        pytest.param({}, "CNI_COMMAND", id="no command"),
        pytest.param({"CNI_COMMAND": "FIX"}, "'FIX'", id="an unknown command"),
        pytest.param({"CNI_COMMAND": "ADD", "CNI_IFNAME": "eth0", "CNI_NETNS": "/n"}, "CNI_CONTAINERID", id="no container"),
        pytest.param({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "../x", "CNI_IFNAME": "eth0", "CNI_NETNS": "/n"}, "'../x'", id="a container that is a path"),
        pytest.param({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "a/b"}, "'a/b'", id="a link that is a path"),
        pytest.param({"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "a" * 16}, "aaaa", id="a link with a long name"),
        pytest.param({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_IFNAME": "eth0"}, "CNI_NETNS", id="ADD without a namespace"),
    ],
)
def test_a_wrong_environment_is_refused_with_code_4(environment: dict[str, str], words: str) -> None:
    status, out = respond(environment, config())
    assert status == 1
    assert json.loads(out)["code"] == cni.BAD_ENVIRONMENT
    assert words in json.loads(out)["msg"]


def test_the_versions_are_told_whatever_the_version_asked() -> None:
    status, out = respond({"CNI_COMMAND": "VERSION"}, b'{"cniVersion":"0.2.0"}')
    assert (status, json.loads(out)) == (0, {"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]})


KEYS = ["cniVersion", "name", "ipam", "ranges", "subnet", "runtimeConfig", "ips", "mtu", "prevResult", "args", "cni", "dataDir", "cni.dev/valid-attachments"]
LEAVES = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner))


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_configuration_or_our_own_error(data: bytes) -> None:
    for change in (lambda document: document, lambda document: {"cniVersion": "1.1.0", "name": "net", **document}):
        try:
            document = json.loads(data)
            data = json.dumps(change(document)).encode() if isinstance(document, dict) else data
        except ValueError:
            pass
        try:
            assert isinstance(cni.parse_config(data), cni.Config)
        except cni.CNIError as error:
            assert error.code in (cni.UNDECODABLE, cni.INCOMPATIBLE_VERSION, cni.BAD_CONFIG)
