"""Who may come in, by which door."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from twinstack.api.errors import Unauthorized
from twinstack.apiserver.auth import Authenticator, read_token_file, user_of_subject
from twinstack.apiserver.calls import Call, User
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


WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def who(api: Any, **headers: str) -> Any:
    """The name and groups that a caller has, or the code of the refusal."""
    got = await api.ask("POST", WHO, {}, headers=headers)
    return got.code if got.code != 201 else (got.document["status"]["userInfo"]["username"], got.document["status"]["userInfo"]["groups"])


async def test_a_certificate_says_more_than_a_token_beside_it(serve: Any, tmp_path: Path) -> None:
    authority = new_authority("clients")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    pair = issue(authority, common_name="jane", organizations=("developers",), client=True)
    (tmp_path / "client.crt").write_bytes(pair.certificate)
    (tmp_path / "client.key").write_bytes(pair.key)
    api = await serve(client_ca_file=str(tmp_path / "ca.crt"))
    api.show(tmp_path / "client.crt", tmp_path / "client.key")
    assert await who(api) == ("jane", ["developers", "system:authenticated"])


BOOTSTRAP = {
    "token-id": "abcdef",
    "token-secret": "0123456789abcdef",
    "usage-bootstrap-authentication": "true",
    "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
}
SHOWN = "Bearer abcdef.0123456789abcdef"


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        pytest.param({}, True, id="a token that stands"),
        pytest.param({"expiration": "2999-01-01T00:00:00Z"}, True, id="one that ends later"),
        pytest.param({"expiration": "2020-01-01T00:00:00Z"}, False, id="one that has ended"),
        pytest.param({"expiration": "soon"}, False, id="one that ends nobody knows when"),
        pytest.param({"usage-bootstrap-authentication": "false"}, False, id="one for something else"),
        pytest.param({"token-secret": "0123456789abcdee"}, False, id="another secret"),
        pytest.param({"token-id": "abcdeg"}, False, id="a name that is not its own"),
        pytest.param({"auth-extra-groups": "system:masters"}, False, id="groups that it may not give"),
    ],
)
async def test_a_bootstrap_token_is_who_it_says_while_its_secret_stands(serve: Any, change: dict[str, str], is_taken: bool) -> None:
    api = await serve(enable_bootstrap_token_auth=True)
    secrets = "/api/v1/namespaces/kube-system/secrets"
    assert await who(api, Authorization=SHOWN) == 401
    secret = {"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": BOOTSTRAP | change}
    await api.made(secrets, secret)
    groups = ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]
    assert await who(api, Authorization=SHOWN) == (("system:bootstrap:abcdef", groups) if is_taken else 401)
    review = await api.post("/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": SHOWN.removeprefix("Bearer ")}})
    assert review.document["status"].get("authenticated", False) is is_taken
    await api.delete(f"{secrets}/bootstrap-token-abcdef")
    assert await who(api, Authorization=SHOWN) == 401


async def test_bootstrap_tokens_are_nobodys_unless_asked_for(api: Any) -> None:
    secret = {"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": BOOTSTRAP}
    await api.made("/api/v1/namespaces/kube-system/secrets", secret)
    assert await who(api, Authorization=SHOWN) == 401


def test_a_browser_hides_its_token_among_the_protocols_of_a_websocket() -> None:
    authenticator = Authenticator({"secret": User("jane")}, anonymous=True)
    hidden = "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(b"secret").decode().rstrip("=")

    def ask(**headers: str) -> str:
        return authenticator.user_of(Call("GET", "/api/v1", "", CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}), (), b"")).name

    assert ask(Upgrade="websocket", Sec_WebSocket_Protocol=f"v5.channel.k8s.io, {hidden}") == "jane"
    for headers in (
        {"Sec_WebSocket_Protocol": hidden},
        {"Upgrade": "websocket", "Sec_WebSocket_Protocol": "base64url.bearer.authorization.k8s.io.é"},
        {"Upgrade": "websocket", "Sec_WebSocket_Protocol": hidden, "Authorization": "Bearer other"},
    ):
        with pytest.raises(Unauthorized):
            ask(**headers)
