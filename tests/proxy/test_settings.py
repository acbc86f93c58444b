"""What the proxy is told, and what it refuses to be told."""

from __future__ import annotations

import pytest

from twinstack.net.cidr import parse_cidr
from twinstack.net.family import FAMILIES, Family
from twinstack.proxy.ruleset import Options
from twinstack.proxy.settings import Settings, SettingsError, checked, doubts_about, listen_addresses, options_for, problems_with

REFUSED = [
    pytest.param({"proxy_mode": "iptables"}, "nftables is, and kernelspace", id="another mode"),
    pytest.param({"cluster_cidr": "10.0.0.0/8,fd00::/8,10.1.0.0/16"}, "one of each family", id="three cluster CIDRs"),
    pytest.param({"cluster_cidr": "10.0.0.0/8,10.1.0.0/16"}, "one of each family", id="two cluster CIDRs of a family"),
    pytest.param({"cluster_cidr": "10.0.0.0"}, "--cluster-cidr: '10.0.0.0' is not a CIDR", id="a cluster address"),
    pytest.param({"detect_local_mode": "Guess"}, "none of ClusterCIDR", id="an unknown mode to detect pods"),
    pytest.param({"detect_local_mode": "BridgeInterface"}, "--pod-bridge-interface", id="a bridge without its name"),
    pytest.param({"detect_local_mode": "InterfaceNamePrefix", "pod_interface_name_prefix": 'x"; drop'}, "interface name", id="a name that is none"),
    pytest.param({"masquerade_bit": 32}, "within 0 and 31", id="a bit that does not exist"),
    pytest.param({"sync_period_seconds": 0.0}, "greater than zero", id="no sync period"),
    pytest.param({"min_sync_period_seconds": 31.0}, "--min-sync-period", id="a least period above the greatest"),
    pytest.param({"nodeport_addresses": ("primary", "10.0.0.0/8")}, "stands alone", id="primary beside CIDRs"),
    pytest.param({"nodeport_addresses": ("10.0.0.0/33",)}, "--nodeport-addresses", id="a prefix that is too long"),
    pytest.param({"healthz_bind_address": "localhost:1"}, "--healthz-bind-address", id="a name to listen on"),
    pytest.param({"metrics_bind_address": "::1:99999"}, "--metrics-bind-address", id="a port that does not exist"),
    pytest.param({"conntrack_udp_timeout_stream_seconds": -1.0}, "--conntrack-udp-timeout-stream must not", id="a timeout below zero"),
    pytest.param({"conntrack_max_per_core": -1}, "--conntrack-max-per-core must not", id="fewer than no connections"),
    pytest.param({"oom_score_adj": 1001}, "--oom-score-adj 1001", id="a score that does not exist"),
    pytest.param({"source_vip": "10.0.0.1,x"}, "--source-vip", id="a source that is no address"),
    pytest.param({"config_sync_period_seconds": 0.0}, "--config-sync-period must be greater", id="no period of configuration"),
    pytest.param({"kube_api_burst": -1}, "--kube-api-burst -1", id="a burst below zero"),
    pytest.param({"kube_api_content_type": "text/plain"}, "none of application/json", id="a content type that nobody speaks"),
    pytest.param({"show_hidden_metrics_for_version": "1.20"}, "can only be 1.35", id="metrics of long ago"),
    pytest.param({"logging_format": "xml"}, "neither text nor json", id="another format of logs"),
    pytest.param({"windows_service": True}, "service wrapper", id="a Windows service"),
    pytest.param({"bind_address": "nowhere"}, "--bind-address", id="an address that is none"),
]


@pytest.mark.parametrize("given, why", REFUSED)
def test_refused(given, why):
    with pytest.raises(SettingsError) as refused:
        checked(Settings(**given))
    assert why in str(refused.value)


def test_all_that_is_wrong_is_told_at_once():
    assert len(problems_with(Settings(proxy_mode="ipvs", masquerade_bit=-1, cluster_cidr="x"))) == 3
    assert problems_with(Settings()) == []


@pytest.mark.parametrize(
    "given, where",
    [
        ({}, (("0.0.0.0", 10256), ("127.0.0.1", 10249))),
        ({"bind_address": "2001:db8::1"}, (("::", 10256), ("::1", 10249))),
        ({"healthz_bind_address": "[::]:1", "metrics_bind_address": ""}, (("::", 1), None)),
        ({"healthz_bind_address": "::1", "metrics_bind_address": "10.0.0.1:0"}, (("::1", 10256), ("10.0.0.1", 0))),
    ],
    ids=["by default", "by the family of the bind address", "everywhere, and not at all", "the port added"],
)
def test_servers_listen(given, where):
    assert listen_addresses(Settings(**given)) == where


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_options_are_the_familys_own(family):
    cidrs = {Family.IPV4: "10.244.0.0/16", Family.IPV6: "fd00:10:244::/56"}
    both = Settings(cluster_cidr=",".join(cidrs.values()))
    assert options_for(both, family) == Options(pods=("saddr", cidrs[family]))
    assert options_for(Settings(cluster_cidr=cidrs[family.other]), family).pods is None
    assert options_for(Settings(detect_local_mode="NodeCIDR"), family, tuple(map(parse_cidr, cidrs.values()))).pods == ("saddr", cidrs[family])
    assert options_for(Settings(detect_local_mode="BridgeInterface", pod_bridge_interface="cni0"), family).pods == ("iifname", '"cni0"')
    assert options_for(Settings(detect_local_mode="InterfaceNamePrefix", pod_interface_name_prefix="ve"), family).pods == ("iifname", '"ve*"')
    assert options_for(Settings(masquerade_all=True, masquerade_bit=3), family)[1:3] == (True, 8)
    assert options_for(Settings(nodeport_addresses=(cidrs[family],)), family).node_ports == (cidrs[family],)
    assert options_for(Settings(nodeport_addresses=(cidrs[family.other],)), family).node_ports == (family.facts.everything,), "upstream's way"


V4, V6 = "10.0.0.0/8", "fd00::/8"
DOUBTS = [
    pytest.param({}, Family.IPV4, [], id="nothing said, nothing doubted"),
    pytest.param({"cluster_cidr": f"{V6},{V4}", "nodeport_addresses": (V4, V6)}, Family.IPV6, [], id="both of both"),
    pytest.param({"cluster_cidr": V6}, Family.IPV4, ["--cluster-cidr is IPv6 only"], id="pods of the other family alone"),
    pytest.param({"cluster_cidr": V6}, Family.IPV6, [], id="pods of the primary family alone"),
    pytest.param({"nodeport_addresses": (V4,)}, Family.IPV6, ["--nodeport-addresses is IPv4 only, and this node is IPv6"], id="node ports of the other"),
    pytest.param({"nodeport_addresses": (V4,)}, Family.IPV4, [], id="node ports of the primary family of a single-stack cluster"),
    pytest.param({"nodeport_addresses": (V4,), "cluster_cidr": f"{V4},{V6}"}, Family.IPV4, ["--nodeport-addresses is IPv4 only, and the cluster"],
                 id="node ports of one family in a cluster of both"),
]  # fmt: skip


@pytest.mark.parametrize("given, primary, doubts", DOUBTS)
def test_what_is_mostly_a_mistake_is_doubted(given, primary, doubts):
    found = doubts_about(checked(Settings(**given)), primary=primary, families=FAMILIES)
    assert len(found) == len(doubts) and all(one.startswith(start) for one, start in zip(found, doubts, strict=True))
