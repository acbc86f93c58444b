"""KubeletConfiguration files: obeyed, left out with a reason, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twinstack.agent import configuration
from twinstack.agent.settings import Settings, Taint, checked
from twinstack.net.errors import Error

# as kubeadm 1.36 writes it: what nobody has set is zero
KUBEADM = """\
apiVersion: kubelet.config.k8s.io/v1beta1
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
kind: KubeletConfiguration
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"""


@pytest.fixture
def read(tmp_path):
    """Reads a text as a file."""

    def parse(text: str) -> configuration.Read:
        file = tmp_path / "kubelet.yaml"
        file.write_text(text)
        return configuration.parse(str(file))

    return parse


def test_the_file_that_kubeadm_writes_is_taken_as_it_is(read):
    values, warnings = read(KUBEADM)
    settings, usual = checked(Settings(**values)), Settings()
    assert (settings.client_ca_file, settings.static_pods) == (Path("/etc/kubernetes/pki/ca.crt"), Path("/etc/kubernetes/manifests"))
    assert (settings.authorization, settings.token_webhook, settings.anonymous) == ("Webhook", True, False)
    for name in ("file_check_seconds", "sync_seconds", "status_seconds", "report_seconds", "pressure_seconds", "token_seconds", "allowed_seconds"):
        assert getattr(settings, name) == getattr(usual, name), name
    assert [warning.split(" ")[0] for warning in warnings] == ["cgroupDriver", "containerRuntimeEndpoint", "logging", "rotateCertificates"]


def test_what_is_obeyed_becomes_settings(read):
    values, warnings = read(
        "clusterDNS: [fd00::a]\nmaxPods: 7\nnodeStatusUpdateFrequency: 5s\nregisterWithTaints: [{key: k, effect: NoExecute}]\nsyncFrequency: 2m\n"
        "podPidsLimit: 9\n"
        "evictionHard: {memory.available: 5%}\nkubeReserved: {cpu: 1}\ncgroupRoot: /mine\ncontainerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 3\nhealthzPort: 0\n"
        "resolvConf: ''\nregisterNode: false\nenableDebuggingHandlers: false\nevictionSoft: {memory.available: 1Gi}\nauthorization: {mode: AlwaysAllow}\n"
        "evictionSoftGracePeriod: {memory.available: 1m30s}\ncrashLoopBackOff: {maxContainerRestartPeriod: 2s}\nauthentication: {anonymous: {enabled: true}}\n"
    )
    settings = checked(Settings(**values))
    assert (settings.max_pods, settings.status_seconds, settings.sync_seconds, settings.pod_pids, settings.healthz_port) == (7, 5, 120, 9, 0)
    assert (settings.taints, settings.control_group, settings.resolv_conf) == ((Taint("k", "", "NoExecute"),), "mine", None)
    assert (settings.eviction_hard, settings.kube_reserved) == ((("memory.available", "5%"),), (("cpu", "1"),))
    assert (settings.log_size, settings.log_files, settings.register_node, settings.debugging_handlers) == (1 << 20, 3, False, False)
    assert (settings.eviction_soft_graces, settings.longest_backoff_seconds) == ((("memory.available", 90),), 2)
    assert (settings.authorization, settings.anonymous, warnings) == ("AlwaysAllow", True, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind: Pod", "is not a KubeletConfiguration"),
        ("- 1", "is not a KubeletConfiguration"),
        ("{", "cannot be read"),
        ("apiVersion: kubelet.config.k8s.io/v1", "reads kubelet.config.k8s.io/v1beta1"),
        ("maxPods: 1\nmaxPods: 2", "key 'maxPods' is already set"),
        ("maxPodz: 1", 'strict decoding error: unknown field "maxPodz"'),
        ("authentication: {x508: {}}", 'strict decoding error: unknown field "authentication.x508"'),
        ("maxPods: many", "maxPods cannot be 'many'"),
        ("clusterDNS: [nonsense]", "clusterDNS"),
        ("nodeStatusUpdateFrequency: soon", "nodeStatusUpdateFrequency cannot be 'soon'"),
        ("authentication: {x509: 7}", "authentication.x509"),
        ("registerWithTaints: [{}]", "registerWithTaints"),
        ("evictionHard: {memory: 1Gi}", "'memory' is no signal"),
        ("evictionHard: 7", "evictionHard"),
        ("kubeReserved: {cpu: lots}", "kubeReserved has cpu"),
        ("podPidsLimit: few", "podPidsLimit"),
        ("registerNode: maybe", "registerNode cannot be 'maybe'"),
        ("authorization: {mode: RBAC}", "'RBAC' is none of AlwaysAllow, Webhook"),
        ("containerLogMaxFiles: 1", "must be greater than 1"),
        ("readOnlyPort: 10255", "readOnlyPort cannot be 10255: nothing is told to those"),
        ("cpuManagerPolicy: static", "cpuManagerPolicy cannot be 'static'"),
        ("shutdownGracePeriod: 30s", "the machine's shutdown is not watched"),
        ("memorySwap: {swapBehavior: LimitedSwap}", "no swap is given to pods"),
        ("staticPodURL: http://x", "staticPodPath names them"),
    ],
)
def test_what_cannot_be_is_refused(read, text, reason):
    with pytest.raises(Error, match=reason):
        read(text)


def test_a_soft_threshold_says_how_long_it_may_be():
    with pytest.raises(Error, match="--eviction-soft has"):
        checked(Settings(eviction_soft=(("memory.available", "1Gi"),)))


def test_every_field_is_in_one_table_only():
    tables = (configuration.OBEYED, configuration.WORDS, configuration.LEFT_OUT, configuration.REFUSED)
    fields = [field for table in tables for field in table]
    assert len(fields) == len(set(fields)) and len(fields) > 115
    usual = Settings()
    assert all(hasattr(usual, name) for table in tables[:2] for name, _ in table.values())


def test_what_is_told_of_the_settings_reads_back_as_they_are(tmp_path):
    settings = Settings(
        max_pods=7, status_seconds=90, taints=(Taint("k", "v", "NoSchedule"),), static_pods=Path("/s"), eviction_soft=(("memory.available", "1Gi"),),
        eviction_soft_graces=(("memory.available", 60.0),), authorization="Webhook", kube_reserved=(("cpu", "1"),),
    )  # fmt: skip
    file = tmp_path / "told.yaml"
    file.write_text(yaml.safe_dump(configuration.document_of(settings), sort_keys=False))
    values, warnings = configuration.parse(str(file))
    assert (Settings(**values), warnings) == (settings, [])
