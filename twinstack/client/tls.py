"""TLS with certificates that are there already: contexts of servers and clients.

Rule of this file: the standard library only. What makes or reads certificates (``certificates``) needs a library of 8 MB,
which a program that only connects does without.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

from twinstack.net.errors import Error


class CertificateError(Error):
    """A certificate or key cannot be read, or the two do not belong together."""


class Pair(NamedTuple):
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes


def server_context(pair: Pair, *, client_authorities: bytes = b"", minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, ciphers: str = "") -> ssl.SSLContext:
    """TLS for a server; with client authorities (PEM), a client may show a certificate, and it must then be theirs.

    ``CERT_OPTIONAL`` makes OpenSSL end the handshake on a foreign certificate, where kube-apiserver answers 401.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = minimum
    if ciphers:
        context.set_ciphers(ciphers)
    _load_pair(context, pair)
    if client_authorities:
        _load_authorities(context, client_authorities)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(*, authorities: bytes = b"", pair: Pair | None = None, verify: bool = True) -> ssl.SSLContext:
    """TLS for a client: verifies by these authorities (PEM), else by the system's; shows *pair* when asked.

    ``verify=False`` trusts anyone (``insecure-skip-tls-verify``).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities:
        _load_authorities(context, authorities)
        # A self-signed server certificate is its own trust anchor although it is no authority.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if pair is not None:
        _load_pair(context, pair)
    return context


def identity_of(peer: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The user and the groups that a verified certificate names, as ``SSLObject.getpeercert()`` tells it."""
    named = [pair for part in peer.get("subject", ()) for pair in part]
    names = [value for field, value in named if field == "commonName"]
    return (names[0] if names else ""), tuple(value for field, value in named if field == "organizationName")


def _load_pair(context: ssl.SSLContext, pair: Pair) -> None:
    # ssl loads certificates and keys from files only; a memory file has a name under /proc and leaves nothing behind.
    descriptor = os.memfd_create("twinstack-pair", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pair.key.rstrip() + b"\n" + pair.certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"the certificate and its key cannot be used: {error}") from error
    finally:
        os.close(descriptor)


def _load_authorities(context: ssl.SSLContext, authorities: bytes) -> None:
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(f"the authorities' certificates cannot be read: {error}") from error
