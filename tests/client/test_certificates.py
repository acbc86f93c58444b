"""Certificates: what is issued is accepted by those who should accept it, over both families."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from twinstack.client import certificates
from twinstack.client.certificates import CertificateError


async def _talk(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes, bytes | None]:
    """One greeting over TLS: what the client read, and the certificate (DER) that the server saw."""
    seen: list[bytes | None] = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=name)
        text = await reader.read()
        writer.close()
    return text, seen[0]


@pytest.mark.parametrize("name", ["api.example", "192.0.2.1", "2001:db8::1"])
async def test_a_server_is_trusted_under_each_of_its_names_and_addresses(name: str) -> None:
    authority = certificates.new_authority("test")
    pair = certificates.issue(authority, common_name="api", dns_names=["api.example"], addresses=["192.0.2.1", "2001:db8::1"], server=True)
    text, _ = await _talk(certificates.server_context(pair), certificates.client_context(authorities=authority.certificate), name)
    assert text == b"hello"


async def test_a_server_is_refused_under_a_name_that_it_does_not_carry() -> None:
    authority = certificates.new_authority("test")
    pair = certificates.issue(authority, common_name="api", addresses=["192.0.2.1"], server=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _talk(certificates.server_context(pair), certificates.client_context(authorities=authority.certificate), "192.0.2.2")


async def test_a_server_of_another_authority_is_refused() -> None:
    authority, other = certificates.new_authority("test"), certificates.new_authority("test")
    pair = certificates.issue(authority, common_name="api", addresses=["192.0.2.1"], server=True)
    with pytest.raises(ssl.SSLCertVerificationError):
        await _talk(certificates.server_context(pair), certificates.client_context(authorities=other.certificate), "192.0.2.1")


async def test_a_client_certificate_tells_the_user_and_the_groups() -> None:
    authority = certificates.new_authority("test")
    pair = certificates.issue(authority, common_name="api", addresses=["192.0.2.1"], server=True)
    user = certificates.issue(authority, common_name="system:node:node1", organizations=["system:nodes", "others"], client=True)
    server = certificates.server_context(pair, client_authorities=authority.certificate)
    _, seen = await _talk(server, certificates.client_context(authorities=authority.certificate, pair=user), "192.0.2.1")
    assert seen is not None
    assert certificates.identity_of(seen) == ("system:node:node1", ("system:nodes", "others"))


async def test_a_client_may_come_without_a_certificate() -> None:
    authority = certificates.new_authority("test")
    pair = certificates.issue(authority, common_name="api", addresses=["192.0.2.1"], server=True)
    server = certificates.server_context(pair, client_authorities=authority.certificate)
    assert await _talk(server, certificates.client_context(authorities=authority.certificate), "192.0.2.1") == (b"hello", None)


async def test_a_self_signed_certificate_is_trusted_by_who_holds_it() -> None:
    pair = certificates.self_signed("node1", dns_names=["node1"], addresses=["192.0.2.1", "2001:db8::1"])
    for name in ("node1", "2001:db8::1"):
        text, _ = await _talk(certificates.server_context(pair), certificates.client_context(authorities=pair.certificate), name)
        assert text == b"hello"


def test_a_certificate_begins_before_now_and_lasts_a_year() -> None:
    pair = certificates.self_signed("node1")
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    now = datetime.now(UTC)
    assert certificate.not_valid_before_utc <= now - timedelta(minutes=59)
    assert timedelta(days=364) < certificates.expiry_of(pair.certificate) - now <= timedelta(days=365)


def test_bytes_that_are_no_certificate_are_told_so() -> None:
    with pytest.raises(CertificateError):
        certificates.identity_of(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(CertificateError):
        certificates.client_context(authorities=b"nonsense")
    one, other = certificates.self_signed("a"), certificates.self_signed("b")
    with pytest.raises(CertificateError):
        certificates.server_context(certificates.Pair(one.certificate, other.key))
