"""A KubeletConfiguration file (kubelet.config.k8s.io/v1beta1), read strictly: every field of upstream's is known here.

Rule of this file: a document in, settings and warnings out. A field is obeyed; or it tunes what this kubelet has not, and
is left out with a warning that says why; or it asks for what cannot be had, and is refused. What upstream's
default already says is neither, so the file that kubeadm writes starts as it is. A duration or number that is zero means
the default, as upstream has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from twinstack.agent import pressure
from twinstack.agent.settings import AUTHORIZATION_MODES, Settings, SettingsError, Taint, check_amounts
from twinstack.loops.durations import parse_duration, text_of_duration
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError, Error
from twinstack.rules.quantities import parse_quantity

API_VERSION, KIND = "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration"


class Read(NamedTuple):
    """What a file says: values of settings by name, and what is to be told about the rest."""

    values: dict[str, Any]
    warnings: list[str]


def parse_addresses(where: str, texts: list[str]) -> tuple[Any, ...]:
    """Addresses; SettingsError names where one stands that is none."""
    try:
        return tuple(parse_address(text.strip()) for text in texts if text.strip())
    except AddressError as error:
        raise SettingsError(f"{where}: {error}") from error


def _amounts(where: str) -> Callable[[Any], Any]:
    return lambda given: check_amounts(where, {str(name): str(value) for name, value in (given or {}).items()})


def _thresholds(given: Any) -> tuple[tuple[str, str], ...]:
    return pressure.parse_thresholds({str(signal): str(value) for signal, value in (given or {}).items()})


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it is neither true nor false")
    return value


def parse_size(value: Any) -> int:
    """Bytes of a quantity such as 10Mi."""
    return int(parse_quantity(str(value)))


def parse_files(value: Any) -> int:
    """How many files a log has: two at least, for one is being written."""
    if int(value) < 2:
        raise SettingsError(f"containerLogMaxFiles is {value}, and must be greater than 1")
    return int(value)


def parse_mode(value: Any) -> str:
    """How requests to the kubelet are authorized."""
    if value not in AUTHORIZATION_MODES:
        raise SettingsError(f"authorization mode {value!r} is none of {', '.join(AUTHORIZATION_MODES)}")
    return str(value)


def _soft_graces(given: Any) -> tuple[tuple[str, float], ...]:
    return tuple((str(signal), parse_duration(str(value))) for signal, value in (given or {}).items())


def _path(value: Any) -> Path | None:
    return Path(value) if value else None


def _seconds(value: Any) -> float:
    return parse_duration(str(value))


def _taints(given: Any) -> tuple[Taint, ...]:
    return tuple(Taint(one["key"], one.get("value", ""), one["effect"]) for one in given or ())


# field → setting, what makes it of the field's value; a value that is nothing leaves the default
OBEYED: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "address": ("address", str),
    "port": ("port", int),
    "healthzBindAddress": ("healthz_address", str),
    "clusterDNS": ("cluster_dns", lambda value: parse_addresses("clusterDNS", list(value))),
    "clusterDomain": ("cluster_domain", str),
    "maxPods": ("max_pods", int),
    "nodeStatusUpdateFrequency": ("status_seconds", _seconds),
    "nodeStatusReportFrequency": ("report_seconds", _seconds),
    "nodeStatusMaxImages": ("most_images", int),
    "nodeLeaseDurationSeconds": ("lease_seconds", int),
    "tlsCertFile": ("tls_cert_file", Path),
    "tlsPrivateKeyFile": ("tls_key_file", Path),
    "tlsMinVersion": ("tls_min_version", str),
    "syncFrequency": ("sync_seconds", _seconds),
    "fileCheckFrequency": ("file_check_seconds", _seconds),
    "staticPodPath": ("static_pods", _path),
    "cgroupRoot": ("cgroup_root", str),
    "podPidsLimit": ("pod_pids", lambda value: int(value) if int(value) > 0 else None),
    "providerID": ("provider_id", str),
    "evictionSoft": ("eviction_soft", _thresholds),
    "evictionSoftGracePeriod": ("eviction_soft_graces", _soft_graces),
    "evictionMaxPodGracePeriod": ("eviction_grace_seconds", int),
    "evictionPressureTransitionPeriod": ("pressure_seconds", _seconds),
    "kubeReserved": ("kube_reserved", _amounts("kubeReserved")),
    "systemReserved": ("system_reserved", _amounts("systemReserved")),
    "containerLogMaxSize": ("log_size", parse_size),
    "containerLogMaxFiles": ("log_files", parse_files),
    "registerWithTaints": ("taints", _taints),
    "allowedUnsafeSysctls": ("unsafe_sysctls", lambda value: tuple(map(str, value))),
    "authentication.x509.clientCAFile": ("client_ca_file", _path),
    "authentication.webhook.cacheTTL": ("token_seconds", _seconds),
    "authorization.webhook.cacheAuthorizedTTL": ("allowed_seconds", _seconds),
    "authorization.webhook.cacheUnauthorizedTTL": ("denied_seconds", _seconds),
    "crashLoopBackOff.maxContainerRestartPeriod": ("longest_backoff_seconds", _seconds),
}
# those whose nothing (false, zero, an empty text or map) is a word of its own
WORDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "healthzPort": ("healthz_port", int),
    "resolvConf": ("resolv_conf", _path),
    "registerNode": ("register_node", _boolean),
    "enableDebuggingHandlers": ("debugging_handlers", _boolean),
    "evictionHard": ("eviction_hard", _thresholds),
    "authentication.webhook.enabled": ("token_webhook", _boolean),
    "authentication.anonymous.enabled": ("anonymous", _boolean),
    "authorization.mode": ("authorization", parse_mode),
    "failSwapOn": ("refuses_swap", _boolean),
    "seccompDefault": ("seccomp_default", _boolean),
}
# field → the value that is as good as none, and why any other is left out
_RUNTIME = "containers are started by this kubelet itself, without a runtime of its own"
_PULLING = "images are pulled by skopeo, a few at a time, and less often after each failure"
_MINE = "control groups are made directly (cgroupfs), not by systemd"
LEFT_OUT: Mapping[str, tuple[Any, str]] = {
    "enableServer": (True, "the server always runs"),
    "podLogsDir": ("/var/log/pods", "logs stand below the root directory"),
    "httpCheckFrequency": ("20s", "there are no manifests behind a URL"),
    "tlsCipherSuites": (None, "OpenSSL's choice is taken"),
    "tlsCurvePreferences": (None, "OpenSSL's choice is taken"),
    "rotateCertificates": (False, "the certificate of the kubeconfig is used as it is, and somebody else renews it"),
    "registryPullQPS": (5, _PULLING),
    "registryBurst": (10, _PULLING),
    "imagePullCredentialsVerificationPolicy": ("NeverVerifyPreloadedImages", _PULLING),
    "preloadedImagesVerificationAllowlist": (None, _PULLING),
    "serializeImagePulls": (True, _PULLING),
    "maxParallelImagePulls": (None, _PULLING),
    "imageMinimumGCAge": ("2m", "images are removed by hand (twinstack image remove)"),
    "imageMaximumGCAge": ("0s", "images are removed by hand (twinstack image remove)"),
    "imageGCHighThresholdPercent": (85, "images are removed by hand (twinstack image remove)"),
    "imageGCLowThresholdPercent": (80, "images are removed by hand (twinstack image remove)"),
    "eventRecordQPS": (50, "events are written one after the other, behind everything else"),
    "eventBurst": (100, "events are written one after the other, behind everything else"),
    "enableContentionProfiling": (False, "there is no profiler"),
    "enableProfilingHandler": (True, "there is no profiler"),
    "enableDebugFlagsHandler": (True, "there are no such flags"),
    "enableSystemLogHandler": (True, "the node's own logs are not served"),
    "enableSystemLogQuery": (False, "the node's own logs are not served"),
    "oomScoreAdj": (-999, "whoever starts the kubelet may say so"),
    "streamingConnectionIdleTimeout": ("4h", "a stream ends when one of its ends goes"),
    "volumeStatsAggPeriod": ("1m", "volumes are measured when they are asked for"),
    "kubeletCgroups": ("", _MINE),
    "systemCgroups": ("", _MINE),
    "systemReservedCgroup": ("", _MINE),
    "kubeReservedCgroup": ("", _MINE),
    "cgroupDriver": ("cgroupfs", _MINE),
    "cgroupsPerQOS": (True, "there is always one"),
    "enforceNodeAllocatable": (["pods"], "what is reserved is kept from the scheduler, and not enforced by a group"),
    "memoryThrottlingFactor": (0.9, "memory is limited, not throttled"),
    "kernelMemcgNotification": (False, "pressure is looked at every few seconds"),
    "cpuManagerReconcilePeriod": ("10s", "processors are not pinned"),
    "cpuManagerPolicyOptions": (None, "processors are not pinned"),
    "topologyManagerScope": ("container", "there is nothing to align"),
    "topologyManagerPolicyOptions": (None, "there is nothing to align"),
    "runtimeRequestTimeout": ("2m", _RUNTIME),
    "containerRuntimeEndpoint": ("", _RUNTIME),
    "imageServiceEndpoint": ("", _RUNTIME),
    "hairpinMode": ("promiscuous-bridge", "a pod reaches itself through its Service anyway"),
    "podCIDR": ("", "pod CIDRs come from the Node object"),
    "podsPerCore": (0, "maxPods alone says how many pods there are"),
    "cpuCFSQuotaPeriod": ("100ms", "the period is 100 ms"),
    "singleProcessOOMKill": (None, "the kernel decides by the version of its control groups"),
    "maxOpenFiles": (1000000, "whoever starts the kubelet may say so"),
    "contentType": ("application/vnd.kubernetes.protobuf", "JSON is spoken"),
    "kubeAPIQPS": (50, "requests are limited by their number at the same time"),
    "kubeAPIBurst": (100, "requests are limited by their number at the same time"),
    "evictionMinimumReclaim": (None, "one pod after the other is evicted, until no threshold is met"),
    "mergeDefaultEvictionSettings": (False, "evictionHard is taken as it is"),
    "enableControllerAttachDetach": (True, "there are no volumes to attach"),
    "makeIPTablesUtilChains": (True, "kube-proxy needs no chains of the kubelet's"),
    "iptablesMasqueradeBit": (14, "kube-proxy needs no chains of the kubelet's"),
    "iptablesDropBit": (15, "kube-proxy needs no chains of the kubelet's"),
    "featureGates": (None, "there are no gates: what is there is on"),
    "containerLogMaxWorkers": (1, "a log is rotated as it is written"),
    "containerLogMonitorInterval": ("10s", "a log is rotated as it is written"),
    "configMapAndSecretChangeDetectionStrategy": ("Watch", "volumes are read again with each syncFrequency"),
    "showHiddenMetricsForVersion": ("", "there are no hidden metrics"),
    "volumePluginDir": ("/usr/libexec/kubernetes/kubelet-plugins/volume/exec/", "there are no volume plugins"),
    "logging": (None, "-v and --logging-format say how much is logged, and how"),
    "localStorageCapacityIsolation": (True, "it is always on"),
    "failCgroupV1": (True, "both versions of control groups do"),
    "reservedMemory": (None, "memory is not pinned"),
}
# field → the value that is as good as none, and why any other stops the kubelet
REFUSED: Mapping[str, tuple[Any, str]] = {
    "staticPodURL": ("", "manifests are read from files; staticPodPath names them"),
    "staticPodURLHeader": (None, "manifests are read from files; staticPodPath names them"),
    "readOnlyPort": (0, "nothing is told to those who do not say who they are"),
    "serverTLSBootstrap": (False, "this kubelet asks for no certificate; tlsCertFile and tlsPrivateKeyFile name one"),
    "cpuManagerPolicy": ("none", "processors are not pinned"),
    "memoryManagerPolicy": ("None", "memory is not pinned"),
    "topologyManagerPolicy": ("none", "there is nothing to align"),
    "reservedSystemCPUs": ("", "processors are not pinned; systemReserved keeps some of them free"),
    "qosReserved": (None, "memory is not reserved by quality of service"),
    "runOnce": (False, "a kubelet runs until it is ended"),
    "cpuCFSQuota": (True, "limits of processors are always kept"),
    "protectKernelDefaults": (False, "the kernel's parameters are set, not checked"),
    "shutdownGracePeriod": ("0s", "the machine's shutdown is not watched"),
    "shutdownGracePeriodCriticalPods": ("0s", "the machine's shutdown is not watched"),
    "shutdownGracePeriodByPodPriority": (None, "the machine's shutdown is not watched"),
    "memorySwap.swapBehavior": ("NoSwap", "no swap is given to pods"),
    "tracing": (None, "there are no traces"),
    "userNamespaces": (None, "pods have no user namespaces"),
}
_NESTED = ("authentication", "authorization", "crashLoopBackOff", "memorySwap")


def parse(path: str) -> Read:
    """Read a file; SettingsError when it is none, has a field that upstream has not, or asks for what cannot be had."""
    try:
        document = yaml.load(Path(path).read_bytes(), _Strict)
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"--config: {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or document.get("kind", KIND) != KIND:
        raise SettingsError(f"--config: {path} is not a {KIND}")
    if document.get("apiVersion", API_VERSION) != API_VERSION:
        raise SettingsError(f"--config: {path} has apiVersion {document['apiVersion']!r}, and this kubelet reads {API_VERSION}")
    try:
        return _read(document)
    except SettingsError as error:
        raise SettingsError(f"--config: {path}: {error}") from error


def _read(document: Mapping[str, Any]) -> Read:
    values: dict[str, Any] = {}
    warnings = []
    for field, value in _flat(document):
        nothing = value in (None, "", 0, 0.0, [], {}, "0s") and value is not False
        if field in WORDS or field in OBEYED:
            name, make = WORDS.get(field) or OBEYED[field]
            if value is not None and (field in WORDS or not nothing):
                try:
                    values[name] = make(value)
                except (TypeError, ValueError, KeyError, AttributeError, Error) as error:
                    raise SettingsError(str(error) if isinstance(error, SettingsError) else f"{field} cannot be {value!r}: {error}") from error
        elif field in LEFT_OUT or field in REFUSED:
            usual, why = LEFT_OUT.get(field) or REFUSED[field]
            if nothing or value == usual:
                continue
            if field in REFUSED:
                raise SettingsError(f"{field} cannot be {value!r}: {why}")
            warnings.append(f"{field} is left out: {why}")
        else:
            raise SettingsError(f'strict decoding error: unknown field "{field}"')
    return Read(values, warnings)


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields, those of nested parts by their paths."""
    for name, value in document.items():
        path = f"{prefix}{name}"
        nested = path in _NESTED or any(known.startswith(f"{path}.") for known in (*OBEYED, *WORDS))
        if nested and (value is None or isinstance(value, Mapping)):
            yield from _flat(value or {}, f"{path}.")
        elif prefix or path not in ("apiVersion", "kind"):
            yield path, value


class _Strict(yaml.SafeLoader):
    """YAML in which no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is already set", node.start_mark)
        return super().construct_mapping(node, deep)


def document_of(settings: Settings) -> dict[str, Any]:
    """The settings as such a file would tell them, for ``/configz``."""
    document: dict[str, Any] = {"kind": KIND, "apiVersion": API_VERSION}
    for field, (name, make) in {**OBEYED, **WORDS}.items():
        *parents, last = field.split(".")
        part = document
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = _told(getattr(settings, name), make)
    return document


def _told(value: Any, make: Callable[[Any], Any]) -> Any:
    if make is _seconds:
        return text_of_duration(value)
    if make is _taints:
        return [{"key": one.key, "value": one.value, "effect": one.effect} for one in value]
    if make is _soft_graces:
        return {signal: text_of_duration(seconds) for signal, seconds in value}
    if isinstance(value, tuple):
        return dict(value) if value and isinstance(value[0], tuple) else [str(one) for one in value]
    return str(value) if isinstance(value, Path) else value
