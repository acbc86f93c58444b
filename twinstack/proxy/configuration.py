"""kube-proxy's configuration file: KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1, read and written.

Rule of this file: it knows the file's fields, each with its type, and which setting it is. Settings are checked in
``settings``.

Theory. Upstream reads strictly and, when that fails because of a field that it does not know, says so and reads on; a value of
a wrong type ends it. So do we. What a field of zero length means is upstream's too: the default, except where zero is
a word of its own (connection tracking: leave alone). Fields of other modes (``iptables``, ``ipvs``) are checked and are without
effect, as upstream's are in nftables mode; so are those that no program but one in Go could follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from twinstack.api.objects import Document
from twinstack.loops.durations import parse_duration, text_of_duration
from twinstack.proxy.settings import Settings, SettingsError

API_VERSION, KIND = "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"
GROUP = API_VERSION.partition("/")[0]


class _Field(NamedTuple):
    """How to read a field; which setting it is (empty: none, it is without effect); whether zero means the default."""

    read: Callable[[Any], Any]
    setting: str = ""
    zero_is_default: bool = False
    write: Callable[[Any], Any] = lambda value: value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(map(_text, value))


def _seconds(value: Any) -> float:
    return parse_duration(_text(value))


def _seconds_or_number(value: Any) -> float:
    return _seconds(value) if isinstance(value, str) else _number(value)


def _gates(value: Any) -> Mapping[str, bool]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not a mapping")
    return {_text(name): _flag(on) for name, on in value.items()}


def _anything(value: Any) -> Any:
    return value


def _period(setting: str = "") -> _Field:
    return _Field(_seconds, setting, zero_is_default=True, write=text_of_duration)


def _timeout(setting: str) -> _Field:
    return _Field(_seconds, f"conntrack_{setting}_seconds", write=text_of_duration)


_FIELDS: Mapping[tuple[str, ...], _Field] = {
    ("featureGates",): _Field(_gates),
    ("clientConnection", "kubeconfig"): _Field(_text, "kubeconfig"),
    ("clientConnection", "acceptContentTypes"): _Field(_text),
    ("clientConnection", "contentType"): _Field(_text, "kube_api_content_type"),
    ("clientConnection", "qps"): _Field(_number, "kube_api_qps", zero_is_default=True),
    ("clientConnection", "burst"): _Field(_whole, "kube_api_burst", zero_is_default=True),
    ("logging", "format"): _Field(_text, "logging_format"),
    ("logging", "verbosity"): _Field(_whole, "verbosity"),
    ("logging", "flushFrequency"): _Field(_seconds_or_number),
    ("logging", "vmodule"): _Field(_anything),
    ("logging", "options"): _Field(_anything),
    ("hostnameOverride",): _Field(_text, "hostname_override"),
    ("bindAddress",): _Field(_text, "bind_address"),
    ("bindAddressHardFail",): _Field(_flag, "bind_address_hard_fail"),
    ("healthzBindAddress",): _Field(_text, "healthz_bind_address"),
    ("metricsBindAddress",): _Field(_text, "metrics_bind_address"),
    ("enableProfiling",): _Field(_flag, "profiling"),
    ("showHiddenMetricsForVersion",): _Field(_text, "show_hidden_metrics_for_version"),
    ("mode",): _Field(_text, "proxy_mode"),
    ("clusterCIDR",): _Field(_text, "cluster_cidr"),
    ("detectLocalMode",): _Field(_text, "detect_local_mode"),
    ("detectLocal", "bridgeInterface"): _Field(_text, "pod_bridge_interface"),
    ("detectLocal", "interfaceNamePrefix"): _Field(_text, "pod_interface_name_prefix"),
    ("nodePortAddresses",): _Field(_texts, "nodeport_addresses", write=list),
    ("nftables", "masqueradeAll"): _Field(_flag, "masquerade_all"),
    ("nftables", "masqueradeBit"): _Field(_whole, "masquerade_bit"),
    ("nftables", "minSyncPeriod"): _period("min_sync_period_seconds"),
    ("nftables", "syncPeriod"): _period("sync_period_seconds"),
    ("iptables", "masqueradeAll"): _Field(_flag),
    ("iptables", "masqueradeBit"): _Field(_whole),
    ("iptables", "localhostNodePorts"): _Field(_flag),
    ("iptables", "minSyncPeriod"): _period(),
    ("iptables", "syncPeriod"): _period(),
    ("ipvs", "excludeCIDRs"): _Field(_texts),
    ("ipvs", "minSyncPeriod"): _period(),
    ("ipvs", "syncPeriod"): _period(),
    ("ipvs", "scheduler"): _Field(_text),
    ("ipvs", "strictARP"): _Field(_flag),
    ("ipvs", "tcpTimeout"): _period(),
    ("ipvs", "tcpFinTimeout"): _period(),
    ("ipvs", "udpTimeout"): _period(),
    ("conntrack", "maxPerCore"): _Field(_whole, "conntrack_max_per_core"),
    ("conntrack", "min"): _Field(_whole, "conntrack_min"),
    ("conntrack", "tcpEstablishedTimeout"): _timeout("tcp_timeout_established"),
    ("conntrack", "tcpCloseWaitTimeout"): _timeout("tcp_timeout_close_wait"),
    ("conntrack", "tcpBeLiberal"): _Field(_flag, "conntrack_tcp_be_liberal"),
    ("conntrack", "udpTimeout"): _timeout("udp_timeout"),
    ("conntrack", "udpStreamTimeout"): _timeout("udp_timeout_stream"),
    ("configSyncPeriod",): _period("config_sync_period_seconds"),
    ("oomScoreAdj",): _Field(_whole, "oom_score_adj"),
    ("portRange",): _Field(_text),
    ("winkernel", "networkName"): _Field(_text, "network_name"),
    ("winkernel", "sourceVip"): _Field(_text, "source_vip"),
    ("winkernel", "enableDSR"): _Field(_flag, "enable_dsr"),
    ("winkernel", "rootHnsEndpointName"): _Field(_text, "root_hnsendpoint_name"),
    ("winkernel", "forwardHealthCheckVip"): _Field(_flag, "forward_healthcheck_vip"),
    ("windowsRunAsService",): _Field(_flag, "windows_service"),
}
_SECTIONS = {path[0] for path in _FIELDS if len(path) > 1}


def from_configuration(document: Any) -> tuple[dict[str, Any], list[str]]:
    """Settings by name from a document, and the paths of what it says and upstream does not know either.

    SettingsError when it is another kind of document, or a field has a value of another type.
    """
    if not isinstance(document, dict) or document.get("apiVersion") != API_VERSION or document.get("kind") != KIND:
        raise SettingsError(f"the configuration file is not a {KIND} of {API_VERSION}")
    found: dict[str, Any] = {}
    unknown: list[str] = []
    for path, value in _leaves({name: value for name, value in document.items() if name not in ("apiVersion", "kind")}):
        field = _FIELDS.get(path)
        if field is None:
            unknown.append(".".join(map(str, path)))
        elif value is not None:
            try:
                meant = field.read(value)
            except (TypeError, ValueError) as error:
                raise SettingsError(f"{'.'.join(path)}: {error}") from error
            if field.setting and meant not in ("", ()) and (meant or not field.zero_is_default):
                found[field.setting] = meant
    return found, unknown


def _leaves(document: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in document.items():
        if name not in _SECTIONS or value is None:
            yield (name,), value
        elif not isinstance(value, dict):
            raise SettingsError(f"{name}: {value!r} is not a mapping")
        else:
            yield from (((name, inner), one) for inner, one in value.items())


def to_configuration(settings: Settings) -> Document:
    """The document that says the same as these settings."""
    document: Document = {"apiVersion": API_VERSION, "kind": KIND}
    for path, field in _FIELDS.items():
        value = getattr(settings, field.setting) if field.setting else None
        if value is not None:
            at = document
            for name in path[:-1]:
                at = at.setdefault(name, {})
            at[path[-1]] = field.write(value)
    return document
