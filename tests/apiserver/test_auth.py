"""Who may come in, by which door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twinstack.apiserver.auth import read_token_file, user_of_subject
from twinstack.apiserver.calls import User
from twinstack.apiserver.settings import SettingsError
from twinstack.client.certificates import issue, new_authority

NAMESPACES = "/api/v1/namespaces"


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer", "Basic YTpi", "Bearer a-token-for-tests-and-more"])
async def test_unknown_credentials_are_401(api: Any, header: str) -> None:
    got = await api.get(NAMESPACES, Authorization=header)
    assert (got.code, got.reason, got.document["kind"]) == (401, "Unauthorized", "Status")


async def test_anybody_may_ask_for_the_servers_health_but_not_with_a_wrong_token(api: Any) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/readyz/ping"):
        assert (await api.get(path, Authorization="")).document == "ok"
        assert (await api.get(path, Authorization="Bearer wrong")).code == 401
    assert (await api.get("/metrics", Authorization="")).code == 401


async def test_without_anonymous_auth_nobody_unknown_comes_in(serve: Any) -> None:
    api = await serve(anonymous_auth=False)
    assert (await api.get("/readyz", Authorization="")).code == 401


async def test_a_client_certificate_is_as_good_as_a_token(serve: Any, tmp_path: Path) -> None:
    authority = new_authority("clients")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    pair = issue(authority, common_name="system:node:node1", organizations=["system:nodes"], client=True)
    (tmp_path / "client.crt").write_bytes(pair.certificate)
    (tmp_path / "client.key").write_bytes(pair.key)
    api = await serve(client_ca_file=str(tmp_path / "ca.crt"))
    assert (await api.get(NAMESPACES, Authorization="", Connection="close")).code == 401
    api.show(tmp_path / "client.crt", tmp_path / "client.key")
    assert (await api.get(NAMESPACES, Authorization="")).code == 200


def test_a_certificates_common_name_is_the_user_and_its_organizations_the_groups() -> None:
    subject = ((("organizationName", "system:nodes"),), (("organizationName", "more"),), (("commonName", "system:node:a"),))
    assert user_of_subject(subject) == User("system:node:a", "", ("system:nodes", "more", "system:authenticated"))
    assert user_of_subject(((("organizationName", "nobody"),),)) is None


def test_a_token_file_is_read_as_upstream_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text('one,admin,1,"system:masters,others"\n\ntwo, plain, 2\n')
    assert read_token_file(path) == {"one": User("admin", "1", ("system:masters", "others")), "two": User("plain", "2", ())}


@pytest.mark.parametrize("text", ["only,two\n", ",user,1\n", "token,,1\n"])
def test_a_token_file_with_a_bad_line_is_refused_with_its_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text("good,user,1\n" + text)
    with pytest.raises(SettingsError, match="line 2"):
        read_token_file(path)


def test_a_token_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_token_file(tmp_path / "none")
