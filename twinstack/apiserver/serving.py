"""Where the server listens and what it shows there: addresses, sockets, certificates."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from twinstack.apiserver.settings import Settings, SettingsError
from twinstack.client.certificates import CertificateError, Pair, expiry_of, self_signed, server_context
from twinstack.net.cidr import host_port, nth, parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import FAMILIES, Address, Family, Network

DNS_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
_RENEW_BEFORE = timedelta(days=30)
_TLS_VERSIONS = {"VersionTLS12": ssl.TLSVersion.TLSv1_2, "VersionTLS13": ssl.TLSVersion.TLSv1_3}
_CIPHERS = {
    f"TLS_ECDHE_{kind}_WITH_{name}": f"ECDHE-{kind}-{openssl}"
    for kind in ("ECDSA", "RSA")
    for name, openssl in (
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
        ("CHACHA20_POLY1305", "CHACHA20-POLY1305"),
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
    )
}
_TLS_13_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_SAYS_NOTHING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)


def advertise_address(settings: Settings, primary: Family = FAMILIES[0]) -> str:
    """The address at which members of the cluster reach this server; empty when the host has none.

    What was said; else what is bound; else the host's own on its default route, of the Services' primary family. What was said
    or bound must be of that family, or the ``kubernetes`` Service would have an endpoint of the other
    (spec/api.md 7.2, 7.3): SettingsError.
    """
    said = settings.advertise_address and _parsed("--advertise-address", settings.advertise_address)
    if said and not said.is_unspecified:
        if Family.of(said) is not primary and settings.endpoint_reconciler_type != "none":
            raise SettingsError(
                f"--advertise-address={said} is {Family.of(said)}, but --service-cluster-ip-range begins with {primary}; "
                f"an {primary} address would do, or --endpoint-reconciler-type=none"
            )
        return str(said)
    bound = _parsed("--bind-address", settings.bind_address)
    if not bound.is_unspecified and not bound.is_loopback:
        if Family.of(bound) is not primary and settings.endpoint_reconciler_type != "none":
            raise SettingsError(
                f"--bind-address={bound} is {Family.of(bound)} and so would be what is advertised, but --service-cluster-ip-range begins with {primary}; "
                f"--advertise-address with an {primary} address would do, or --endpoint-reconciler-type=none"
            )
        return str(bound)
    # Better no endpoints of the kubernetes Service than some of a family that it has not.
    order = (primary, primary.other) if settings.endpoint_reconciler_type == "none" else (primary,)
    return next((found for family in order if (found := _default_route_address(family))), "")


def _default_route_address(family: Family) -> str:
    """This host's address on its default route; nothing is sent."""
    try:
        with socket.socket(family.facts.socket_family, socket.SOCK_DGRAM) as probe:
            probe.connect((family.facts.documentation, 9))
            return str(ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]))
    except OSError:
        return ""


def _parsed(flag: str, text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise SettingsError(f"{flag}: {error}; an address such as 192.0.2.1 or 2001:db8::1 would do") from error


def open_sockets(settings: Settings) -> list[socket.socket]:
    """Listen where the flags say; an unspecified address means every family. SettingsError when that cannot be had."""
    sockets = list(settings.sockets)
    if settings.secure_port == 0 and sockets:
        return sockets
    if not 0 <= settings.secure_port <= 65535:
        raise SettingsError(f"--secure-port={settings.secure_port} is not a port: 1 to 65535 would do")
    bound = _parsed("--bind-address", settings.bind_address)
    hosts = [family.facts.unspecified for family in FAMILIES] if bound.is_unspecified else [str(bound)]
    opened: list[socket.socket] = []
    port = settings.secure_port
    try:
        for host in hosts:
            try:
                one = socket.create_server((host, port), family=Family.of(parse_address(host)).facts.socket_family, backlog=1024)
            except OSError as error:
                if len(hosts) > 1 and error.errno in _SAYS_NOTHING:
                    continue
                why = "is in use; another --secure-port would do" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror}"
                raise SettingsError(f"--bind-address={settings.bind_address} --secure-port={port}: {host_port(host, port)} {why}") from error
            opened.append(one)
            port = one.getsockname()[1]
    except BaseException:
        for one in opened:
            one.close()
        raise
    if not opened:
        raise SettingsError(f"--bind-address={settings.bind_address}: this host has no address family to listen on")
    return sockets + opened


def open_unix_socket(path: Path) -> socket.socket:
    """Listen at a path that only this server's own user may open; SettingsError when that cannot be had.

    A socket that a server left behind when it ended suddenly is replaced, one that somebody listens on is not.
    """
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)
                else:
                    raise SettingsError(f"--unix-socket={path}: a server listens there already; another path would do")
        before = os.umask(0o177)
        try:
            one.bind(str(path))
        finally:
            os.umask(before)
        one.listen(1024)
    except OSError as error:
        one.close()
        raise SettingsError(f"--unix-socket={path} cannot be listened on: {error.strerror or error}; a new file in a folder of yours would do") from error
    except BaseException:
        one.close()
        raise
    return one


def tls_context(settings: Settings, ranges: Iterable[Network]) -> ssl.SSLContext:
    """TLS with the given certificate, or with one of our own making; SettingsError when a file will not do."""
    pair = _given_pair(settings) or _own_pair(settings, ranges)
    authorities = _read("--client-ca-file", settings.client_ca_file) if settings.client_ca_file else b""
    try:
        return server_context(pair, client_authorities=authorities, minimum=minimum_tls(settings.tls_min_version), ciphers=ciphers(settings.tls_cipher_suites))
    except CertificateError as error:
        raise SettingsError(f"--tls-cert-file, --tls-private-key-file or --client-ca-file: {error}") from error


def minimum_tls(text: str) -> ssl.TLSVersion:
    """The version that ``--tls-min-version`` means; SettingsError for one that is unknown or unsafe."""
    found = _TLS_VERSIONS.get(text or "VersionTLS12")
    if found is None:
        raise SettingsError(f"--tls-min-version={text} is not served; {' or '.join(_TLS_VERSIONS)} would do")
    return found


def ciphers(names: Sequence[str]) -> str:
    """OpenSSL's list of the cipher suites of ``--tls-cipher-suites``; empty for its own. SettingsError for one that is unknown or unsafe.

    Suites of TLS 1.3 may be named and are always on, as Go has it.
    """
    chosen = []
    for name in names:
        if name not in _TLS_13_CIPHERS:
            if name not in _CIPHERS:
                raise SettingsError(f"--tls-cipher-suites={name} is not served; some of {', '.join((*_CIPHERS, *_TLS_13_CIPHERS))} would do")
            chosen.append(_CIPHERS[name])
    if names and not chosen:
        raise SettingsError(f"--tls-cipher-suites={','.join(names)} names suites of TLS 1.3 alone; --tls-min-version=VersionTLS13 would say so")
    return ":".join(chosen)


def _given_pair(settings: Settings) -> Pair | None:
    if bool(settings.tls_cert_file) != bool(settings.tls_private_key_file):
        raise SettingsError("--tls-cert-file and --tls-private-key-file go together: both or none would do")
    if not settings.tls_cert_file:
        return None
    return Pair(_read("--tls-cert-file", settings.tls_cert_file), _read("--tls-private-key-file", settings.tls_private_key_file))


def _own_pair(settings: Settings, ranges: Iterable[Network]) -> Pair:
    """The certificate in the certificate directory; made, or made anew when it ends soon or lacks an address."""
    directory = Path(settings.cert_dir) if settings.cert_dir else Path(settings.data_dir) / "pki"
    certificate, key = directory / "apiserver.crt", directory / "apiserver.key"
    wanted: dict[Address, None] = dict.fromkeys(parse_address(family.facts.loopback) for family in FAMILIES)
    for text in (settings.advertise_address, settings.bind_address):
        if text and not (address := parse_address(text)).is_unspecified:
            wanted[address] = None
    for network in ranges:
        wanted[nth(network, 1)] = None
    try:
        if certificate.exists() and key.exists():
            pair = Pair(certificate.read_bytes(), key.read_bytes())
            if _still_good(pair.certificate, wanted):
                return pair
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        pair = self_signed("kube-apiserver", dns_names=(*DNS_NAMES, _host_name()), addresses=wanted)
        _write(key, pair.key, 0o600)
        _write(certificate, pair.certificate, 0o644)
    except OSError as error:
        raise SettingsError(f"--cert-dir={directory} cannot be used: {error.strerror}") from error
    return pair


def _still_good(certificate: bytes, wanted: Iterable[Address]) -> bool:
    try:
        if expiry_of(certificate) < datetime.now(UTC) + _RENEW_BEFORE:
            return False
        names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (CertificateError, ValueError, x509.ExtensionNotFound):
        return False
    return set(wanted) <= set(names.get_values_for_type(x509.IPAddress))


def _host_name() -> str:
    name = socket.gethostname().lower()
    return name if name and all(character.isalnum() or character in "-." for character in name) and name.isascii() else "localhost"


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put a file in place whole."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(data)
    new.replace(path)


def _read(flag: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{flag}={path} cannot be read: {error.strerror}") from error
