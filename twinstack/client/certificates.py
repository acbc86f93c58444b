"""Certificates: an authority, what it signs, and the TLS contexts made of them.

Keys are EC P-256; a certificate is valid from an hour ago (clocks differ) for one year. Names of an address
stand in the certificate as IP addresses, of either family alike. PEM bytes go in and out; files are the
caller's business, except where ``ssl`` itself reads only files: then a private memory file is used.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from twinstack.client.tls import CertificateError as CertificateError
from twinstack.client.tls import Pair as Pair
from twinstack.client.tls import client_context as client_context
from twinstack.client.tls import server_context as server_context
from twinstack.net.cidr import parse_address
from twinstack.net.family import Address

BACKDATED = timedelta(hours=1)
LIFETIME = timedelta(days=365)
AUTHORITY_LIFETIME = timedelta(days=3650)


class Authority(NamedTuple):
    """Who signs: its own certificate and key, both PEM."""

    certificate: bytes
    key: bytes


def new_authority(common_name: str) -> Authority:
    """A fresh authority of its own, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _builder(subject=name, issuer=name, key=key.public_key(), lifetime=AUTHORITY_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def issue(
    authority: Authority,
    *,
    common_name: str,
    organizations: Sequence[str] = (),
    dns_names: Iterable[str] = (),
    addresses: Iterable[Address | str] = (),
    server: bool = False,
    client: bool = False,
) -> Pair:
    """A certificate signed by the authority.

    Kubernetes reads ``common_name`` as the user and ``organizations`` as the groups. Without *server* and
    *client* the certificate may be used as either.
    """
    signer = _load_key(authority.key)
    issuer = _load_certificate(authority.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _leaf(_name(common_name, organizations), issuer.subject, key, dns_names, addresses, server=server, client=client)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    return Pair(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key))


def self_signed(common_name: str, *, dns_names: Iterable[str] = (), addresses: Iterable[Address | str] = ()) -> Pair:
    """A server's certificate that vouches for itself: a client verifies it by holding this very certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = _leaf(name, name, key, dns_names, addresses, server=True, client=False)
    return Pair(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key))


def identity_of(certificate: bytes) -> tuple[str, tuple[str, ...]]:
    """The user and the groups that a certificate (PEM or DER) names; CertificateError when it is none."""
    subject = _load_certificate(certificate).subject
    names = [str(one.value) for one in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = tuple(str(one.value) for one in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))
    return (names[0] if names else ""), groups


def expiry_of(certificate: bytes) -> datetime:
    """When a certificate (PEM or DER) ends, in UTC."""
    return _load_certificate(certificate).not_valid_after_utc


# ---- parts


def _name(common_name: str, organizations: Sequence[str] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(*, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _leaf(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    dns_names: Iterable[str],
    addresses: Iterable[Address | str],
    *,
    server: bool,
    client: bool,
) -> x509.CertificateBuilder:
    builder = _builder(subject=subject, issuer=issuer, key=key.public_key(), lifetime=LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    both = server == client
    uses = [ExtendedKeyUsageOID.SERVER_AUTH] * (server or both) + [ExtendedKeyUsageOID.CLIENT_AUTH] * (client or both)
    builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
    parsed = dict.fromkeys(parse_address(address) if isinstance(address, str) else ipaddress.ip_address(address) for address in addresses)
    names.extend(x509.IPAddress(address) for address in parsed)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _load_key(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"the private key cannot be read: {error}") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise CertificateError("the authority's private key is not an elliptic-curve key")
    return loaded


def _load_certificate(certificate: bytes) -> x509.Certificate:
    try:
        if certificate.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(certificate)
        return x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise CertificateError(f"the certificate cannot be read: {error}") from error
