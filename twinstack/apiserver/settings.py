"""What a kube-apiserver is told: one field per flag, as text the way the flag has it."""

from __future__ import annotations

import socket

import msgspec

from twinstack.net.errors import Error
from twinstack.net.family import Family


class SettingsError(Error):
    """A flag's value will not do; the message names the flag, the value and a value that would do."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field per flag. ``sockets`` are listening sockets that somebody opened already."""

    data_dir: str
    bind_address: str = Family.IPV4.facts.unspecified
    secure_port: int = 6443  # 0 with sockets: none besides them
    advertise_address: str = ""
    token_auth_file: str = ""
    client_ca_file: str = ""
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    cert_dir: str = ""  # <data-dir>/pki
    authorization_mode: str = "AlwaysAllow"
    anonymous_auth: bool = True
    enable_bootstrap_token_auth: bool = False
    service_account_issuers: tuple[str, ...] = ("https://kubernetes.default.svc.cluster.local",)  # the first signs, tokens of all are accepted
    service_account_signing_key_file: str = ""  # <cert-dir>/sa.key, made when it is not there
    service_account_key_files: tuple[str, ...] = ()  # more keys whose signatures are accepted
    service_account_jwks_uri: str = ""  # /openid/v1/jwks of the advertised address
    api_audiences: tuple[str, ...] = ()  # the issuers
    enable_admission_plugins: tuple[str, ...] = ()
    disable_admission_plugins: tuple[str, ...] = ()
    audit_log_path: str = ""  # empty: no audit log
    audit_policy_file: str = ""
    audit_log_maxsize: int = 0  # megabytes; 0: 100
    audit_log_maxage: int = 0  # days; 0: as long as there is room
    audit_log_maxbackup: int = 0  # files; 0: any number
    tls_min_version: str = "VersionTLS12"
    tls_cipher_suites: tuple[str, ...] = ()  # of TLS 1.2, by Go's names; OpenSSL's defaults
    request_timeout_seconds: float = 60.0  # for a body to come
    min_request_timeout_seconds: int = 1800  # a watch that names no end lasts so long, or up to twice
    goaway_chance: float = 0.0
    max_requests_inflight: int = 400
    max_mutating_requests_inflight: int = 200
    service_cluster_ip_range: str = ""  # one or two CIDRs, the primary first
    service_node_port_range: str = "30000-32767"
    kubelet_client_certificate: str = ""
    kubelet_client_key: str = ""
    kubelet_certificate_authority: str = ""
    kubernetes_service_node_port: int = 0  # 0: the kubernetes Service is of type ClusterIP
    apiserver_count: int = 1
    endpoint_reconciler_type: str = "lease"  # or none
    event_ttl_seconds: float = 3600.0
    unix_socket: str = ""  # also listen there, for whoever runs this server
    sockets: tuple[socket.socket, ...] = ()
    store: str = "sqlite"  # or memory, in tests
