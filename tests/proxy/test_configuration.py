"""The configuration file: what kubeadm writes is taken unchanged, types are checked, and what is written is read alike."""

from __future__ import annotations

import asyncio

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from twinstack.cli import kube_proxy
from twinstack.cli.main import main
from twinstack.client.throttle import Throttle
from twinstack.proxy.configuration import _FIELDS, from_configuration, to_configuration
from twinstack.proxy.settings import LOCAL_MODES, OF_THE_NODE, Settings, SettingsError, checked

HEAD = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration"}

# The ConfigMap that kubeadm makes for `kubeadm init --pod-network-cidr 10.244.0.0/16,fd00:10:244::/56`: zeros and nulls stand for defaults.
KUBEADM = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""


def test_what_kubeadm_writes_is_taken_unchanged_and_means_the_defaults():
    found, unknown = from_configuration(yaml.safe_load(KUBEADM))
    assert unknown == []
    assert checked(Settings(**{**OF_THE_NODE, **found})) == Settings(
        **OF_THE_NODE, kubeconfig="/var/lib/kube-proxy/kubeconfig.conf", cluster_cidr="10.244.0.0/16,fd00:10:244::/56"
    )


def test_a_file_says_the_same_as_flags_and_what_nobody_knows_is_told():
    document = {
        **HEAD, "mode": "nftables", "clusterCIDR": "10.244.0.0/16", "clientConnection": {"kubeconfig": "/x", "qps": 7, "burst": 9},
        "nodePortAddresses": ["primary"], "hostnameOverride": "", "bindAddress": "",
        "nftables": {"masqueradeAll": True, "masqueradeBit": 3, "minSyncPeriod": "500ms", "syncPeriod": "1m0s"}, "detectLocal": {"bridgeInterface": "br"},
        "conntrack": {"min": None, "maxPerCore": 0, "tcpBeLiberal": True, "udpTimeout": "30s", "tcpEstablishedTimeout": "0s"}, "oomScoreAdj": -5,
        "iptables": {"masqueradeBit": 9}, "configSyncPeriod": "1h", "logging": {"format": "json", "verbosity": 3, "flushFrequency": "5s"},
        "detectLocle": {}, "nftables2": 1, "ipvs": {"wings": 2}, "showHiddenMetricsForVersion": "1.35",
    }  # fmt: skip
    found, unknown = from_configuration(document)
    assert checked(Settings(**{**OF_THE_NODE, **found})) == Settings(
        **{
            **OF_THE_NODE, "kubeconfig": "/x", "proxy_mode": "nftables", "cluster_cidr": "10.244.0.0/16", "masquerade_all": True, "masquerade_bit": 3,
            "min_sync_period_seconds": 0.5, "sync_period_seconds": 60.0, "pod_bridge_interface": "br", "kube_api_qps": 7.0, "kube_api_burst": 9,
            "conntrack_max_per_core": 0, "conntrack_tcp_be_liberal": True, "conntrack_udp_timeout_seconds": 30.0, "oom_score_adj": -5,
            "conntrack_tcp_timeout_established_seconds": 0.0, "config_sync_period_seconds": 3600.0, "logging_format": "json", "verbosity": 3,
            "show_hidden_metrics_for_version": "1.35",
        }
    )  # fmt: skip
    assert unknown == ["detectLocle", "nftables2", "ipvs.wings"]


REFUSED = [
    pytest.param(None, "is not a KubeProxyConfiguration", id="nothing"),
    pytest.param([], "is not a KubeProxyConfiguration", id="a list"),
    pytest.param({"kind": "KubeProxyConfiguration"}, "is not a KubeProxyConfiguration", id="no version"),
    pytest.param({**HEAD, "apiVersion": "kubeproxy.config.k8s.io/v1"}, "is not a KubeProxyConfiguration", id="another version"),
    pytest.param({**HEAD, "nftables": {"syncPeriod": "soon"}}, "nftables.syncPeriod: 'soon' is not a duration", id="a period that is none"),
    pytest.param({**HEAD, "nftables": {"masqueradeBit": "14"}}, "nftables.masqueradeBit: '14' is not a whole number", id="a number in quotes"),
    pytest.param({**HEAD, "bindAddressHardFail": "true"}, "bindAddressHardFail: 'true' is neither true nor false", id="a truth in quotes"),
    pytest.param({**HEAD, "clusterCIDR": ["10.0.0.0/8"]}, "clusterCIDR: ['10.0.0.0/8'] is not a text", id="a list for a text"),
    pytest.param({**HEAD, "nodePortAddresses": "primary"}, "nodePortAddresses: 'primary' is not a list", id="a text for a list"),
    pytest.param({**HEAD, "oomScoreAdj": True}, "oomScoreAdj: True is not a whole number", id="a truth for a number"),
    pytest.param({**HEAD, "conntrack": 1}, "conntrack: 1 is not a mapping", id="a number for a section"),
    pytest.param({**HEAD, "ipvs": {"excludeCIDRs": [1]}}, "ipvs.excludeCIDRs: 1 is not a text", id="a wrong value without effect"),
    pytest.param({**HEAD, "featureGates": {"A": "yes"}}, "featureGates: 'yes' is neither", id="a gate half open"),
]  # fmt: skip


@pytest.mark.parametrize("document, why", REFUSED)
def test_another_document_is_refused(document, why):
    with pytest.raises(SettingsError) as refused:
        from_configuration(document)
    assert why in str(refused.value)


seconds = st.integers(1, 100_000).map(float)
settings = st.builds(
    Settings, kubeconfig=st.text("a/", min_size=1), cluster_cidr=st.sampled_from(["10.0.0.0/8", "fd00::/8,10.0.0.0/8"]),
    detect_local_mode=st.sampled_from(LOCAL_MODES), nodeport_addresses=st.sampled_from([("primary",), ("10.0.0.0/8", "fd00::/8")]),
    masquerade_all=st.booleans(), masquerade_bit=st.integers(0, 31), min_sync_period_seconds=seconds, sync_period_seconds=seconds,
    conntrack_min=st.integers(0, 10), conntrack_udp_timeout_seconds=seconds | st.just(0.0), conntrack_tcp_timeout_close_wait_seconds=seconds | st.just(0.0),
    oom_score_adj=st.none() | st.integers(-1000, 1000), kube_api_qps=st.floats(0.5, 99), kube_api_burst=st.integers(1, 99), config_sync_period_seconds=seconds,
    healthz_bind_address=st.none() | st.just("[::]:10256"), verbosity=st.integers(0, 9), profiling=st.booleans(), enable_dsr=st.booleans(),
)  # fmt: skip


@given(settings)
def test_what_is_written_is_read_alike(given_):
    found, unknown = from_configuration(to_configuration(given_))
    assert (Settings(**found), unknown) == (given_, [])


def test_every_setting_has_a_field():
    without = {"master", "dry_run"}  # flags alone, upstream's as well
    assert {field.setting for field in _FIELDS.values() if field.setting} == set(Settings.__struct_fields__) - without


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(KUBEADM)
    return path


def test_the_file_can_be_written_from_flags_and_a_file(file, tmp_path, capsys):
    written = tmp_path / "written.yaml"
    flags = [
        "--config-sync-period=10m", "--kube-api-qps=50", "--kube-api-burst=100", "--kube-api-content-type=application/json", "--iptables-sync-period=1m",
        "--iptables-localhost-nodeports=false", "--ipvs-scheduler=rr", "--feature-gates=NFTablesProxyMode=true", "--profiling",
        "--nodeport-addresses=10.0.0.0/8",
        "--nodeport-addresses=fd00::/8,192.0.2.0/24", "--v=4", "--logging-format=json", "--show-hidden-metrics-for-version=1.35", "--bind-address-hard-fail",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["kube-proxy", f"--config={file}", f"--write-config-to={written}", *flags])
    assert ended.value.code == 0
    assert capsys.readouterr().err == "warning: --profiling: there is no /debug/pprof here\nwarning: --feature-gates: NFTablesProxyMode changes nothing here\n"
    document = yaml.safe_load(written.read_text())
    assert document["clusterCIDR"] == "10.244.0.0/16,fd00:10:244::/56"
    assert document["nodePortAddresses"] == ["10.0.0.0/8", "fd00::/8", "192.0.2.0/24"]
    assert document["nftables"]["syncPeriod"] == "1m0s" and document["configSyncPeriod"] == "10m0s"
    assert document["clientConnection"] == {
        "kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf", "contentType": "application/json", "qps": 50.0, "burst": 100,
    }  # fmt: skip
    assert document["logging"] == {"format": "json", "verbosity": 4}
    assert document["conntrack"]["maxPerCore"] == 32768 and document["oomScoreAdj"] == -999


@pytest.mark.parametrize("gates", ["A", "A=maybe", "=true"])
def test_a_gate_is_open_or_shut(gates, file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["kube-proxy", f"--config={file}", f"--feature-gates={gates}"])
    assert ended.value.code == 1 and "is not of the form Gate=true" in capsys.readouterr().err


async def test_another_file_ends_the_program(file):
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.ensure_future(kube_proxy._while_unchanged(str(file), work(), look_seconds=0.005))
    await began.wait()
    other = file.with_suffix(".new")
    other.write_text(KUBEADM.replace("10.244", "10.245"))
    file.unlink()
    other.rename(file)
    with pytest.raises(SettingsError, match="has changed; start again"):
        async with asyncio.timeout(10):
            await running
    assert ended.is_set()


async def test_requests_come_in_a_burst_and_then_at_their_pace():
    now = 0.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    throttle = Throttle(4, 8, now=lambda: now, sleep=sleep)
    for _ in range(18):
        await throttle.turn()
    assert slept == [0.25] * 10
    now += 100
    slept.clear()
    for _ in range(9):
        await throttle.turn()
    assert slept == [0.25], "a burst has gathered again, and not more"
    unbound = Throttle(-1, 0, now=lambda: now, sleep=sleep)
    slept.clear()
    for _ in range(1000):
        await unbound.turn()
    assert slept == []
