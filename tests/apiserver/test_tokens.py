"""Tokens of ServiceAccounts: what they say, who takes them, and when they die."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from twinstack.api.errors import Unauthorized
from twinstack.apiserver.settings import SettingsError
from twinstack.apiserver.tokens import Bound, Claims, Keys, Reference, read_keys, signing_key

NAMESPACE = "/api/v1/namespaces/default"
ACCOUNTS, PODS = f"{NAMESPACE}/serviceaccounts", f"{NAMESPACE}/pods"
ME = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ISSUER = "https://kubernetes.default.svc.cluster.local"
CLAIMS = Claims(aud=["x"], exp=2, iat=1, iss="i", jti="j", nbf=1, sub="s", bound=Bound("n", Reference("a", "u")))


def parts(token: str) -> tuple[Any, Any]:
    head, body, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, body))  # type: ignore[return-value]


@pytest.fixture
async def robot(api: Any) -> Any:
    await api.made(ACCOUNTS, {"metadata": {"name": "robot"}})
    return api


async def token_of(api: Any, spec: dict[str, Any] | None = None) -> str:
    return str((await api.made(f"{ACCOUNTS}/robot/token", {"spec": spec or {}}))["status"]["token"])


async def code_with(api: Any, token: str) -> int:
    return int((await api.ask("POST", ME, {}, headers={"Authorization": f"Bearer {token}"})).code)


async def test_a_token_says_whose_it_is_and_is_taken_for_it(robot: Any) -> None:
    answer = await robot.made(f"{ACCOUNTS}/robot/token", {"spec": {"expirationSeconds": 600}})
    assert (answer["kind"], answer["metadata"]["name"]) == ("TokenRequest", "robot")
    head, claims = parts(answer["status"]["token"])
    uid = (await robot.get(f"{ACCOUNTS}/robot")).document["metadata"]["uid"]
    assert head["alg"] == "ES256" and head["kid"]
    assert (claims["iss"], claims["aud"], claims["sub"]) == (ISSUER, [ISSUER], "system:serviceaccount:default:robot")
    assert claims["exp"] - claims["iat"] == 600
    assert claims["kubernetes.io"] == {"namespace": "default", "serviceaccount": {"name": "robot", "uid": uid}}
    me = await robot.ask("POST", ME, {}, headers={"Authorization": f"Bearer {answer['status']['token']}"})
    assert me.document["status"]["userInfo"] == {
        "username": "system:serviceaccount:default:robot",
        "uid": uid,
        "groups": ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]},
    }


async def test_a_token_dies_with_its_account_though_another_has_its_name(robot: Any) -> None:
    token = await token_of(robot)
    assert await code_with(robot, token) == 201
    await robot.delete(f"{ACCOUNTS}/robot")
    assert await code_with(robot, token) == 401
    await robot.made(ACCOUNTS, {"metadata": {"name": "robot"}})
    assert await code_with(robot, token) == 401


async def test_a_bound_token_dies_with_its_pod(robot: Any) -> None:
    await robot.made("/api/v1/nodes", {"metadata": {"name": "node1"}})
    container = {"name": "c", "image": "twinstack.dev/host:1"}
    spec = {"containers": [container], "serviceAccountName": "robot", "nodeName": "node1"}
    uid = (await robot.made(PODS, {"metadata": {"name": "p"}, "spec": spec}))["metadata"]["uid"]
    await robot.made(PODS, {"metadata": {"name": "other"}, "spec": {"containers": [container], "serviceAccountName": "default"}})
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}

    async def refused(**changed: str) -> int:
        return int((await robot.post(f"{ACCOUNTS}/robot/token", {"spec": {"boundObjectRef": {**reference, **changed}}})).code)

    assert [await refused(uid="another"), await refused(name="none"), await refused(kind="Service"), await refused(name="other", uid="")] == [
        409,
        404,
        422,
        422,
    ]
    token = await token_of(robot, {"boundObjectRef": reference})
    assert parts(token)[1]["kubernetes.io"]["pod"] == {"name": "p", "uid": uid}
    assert parts(token)[1]["kubernetes.io"]["node"]["name"] == "node1"
    me = await robot.ask("POST", ME, {}, headers={"Authorization": f"Bearer {token}"})
    assert me.document["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"] == ["p"]
    await robot.delete(f"{PODS}/p", {"gracePeriodSeconds": 0})
    assert await code_with(robot, token) == 401


@pytest.mark.parametrize("seconds", [-1, 0, 599, (1 << 32) + 1])
async def test_a_token_lasts_ten_minutes_at_least(robot: Any, seconds: int) -> None:
    assert (await robot.post(f"{ACCOUNTS}/robot/token", {"spec": {"expirationSeconds": seconds}})).code == 422


async def test_a_token_is_taken_by_those_only_whom_it_is_meant_for(robot: Any) -> None:
    token = await token_of(robot, {"audiences": ["vault"]})
    assert await code_with(robot, token) == 401
    review = (await robot.post(TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["vault", "x"]}})).document["status"]
    assert (review["authenticated"], review["audiences"]) == (True, ["vault"])
    assert "authenticated" not in (await robot.post(TOKEN_REVIEWS, {"spec": {"token": token}})).document["status"]
    assert (await robot.post(TOKEN_REVIEWS, {"spec": {"token": "nobody's"}})).document["status"]["user"] == {}
    assert (await robot.post(TOKEN_REVIEWS, {"spec": {}})).code == 400


async def test_a_token_lives_through_a_restart_and_ends_when_it_ends(serve: Any) -> None:
    api = await serve()
    await api.made(ACCOUNTS, {"metadata": {"name": "robot"}})
    token = await token_of(api)
    await api.stop()
    again = await serve()
    assert await code_with(again, token) == 201


async def test_the_issuer_tells_how_its_tokens_are_verified(robot: Any) -> None:
    document = (await robot.get("/.well-known/openid-configuration")).document
    assert (document["issuer"], document["id_token_signing_alg_values_supported"]) == (ISSUER, ["ES256"])
    key = (await robot.get("/openid/v1/jwks")).document["keys"][0]
    assert (key["kty"], key["crv"], key["alg"]) == ("EC", "P-256", "ES256")
    assert parts(await token_of(robot))[0]["kid"] == key["kid"]


async def test_a_new_pod_gets_its_account_and_its_token(serve: Any) -> None:
    api = await serve(enable_admission_plugins=("ServiceAccount",))
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    refused = await api.post(PODS, {**pod, "spec": {**pod["spec"], "serviceAccountName": "other"}})
    assert refused.code == 403
    assert refused.message == 'pods "p" is forbidden: error looking up service account default/other: serviceaccount "other" not found'
    await api.made(ACCOUNTS, {"metadata": {"name": "default"}})
    await api.made(ACCOUNTS, {"metadata": {"name": "quiet"}, "automountServiceAccountToken": False})
    made = await api.made(PODS, pod)
    assert made["spec"]["serviceAccountName"] == made["spec"]["serviceAccount"] == "default"
    volume, mount = made["spec"]["volumes"][0], made["spec"]["containers"][0]["volumeMounts"][0]
    assert volume["name"].startswith("kube-api-access-") and mount["name"] == volume["name"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" and mount["readOnly"]
    assert [next(iter(source)) for source in volume["projected"]["sources"]] == ["serviceAccountToken", "configMap", "downwardAPI"]
    for name, spec in (("a", {"serviceAccountName": "quiet"}), ("b", {"automountServiceAccountToken": False})):
        made = await api.made(PODS, {"metadata": {"name": name}, "spec": {**pod["spec"], **spec}})
        assert not made["spec"].get("volumes") and made["spec"]["serviceAccountName"] in ("quiet", "default")


async def test_a_pod_waits_for_the_account_of_a_namespace_that_is_being_furnished(serve: Any) -> None:
    api = await serve(enable_admission_plugins=("ServiceAccount",))
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    early = asyncio.ensure_future(api.post(PODS, pod))
    await asyncio.sleep(0.2)
    assert not early.done()
    await api.made(ACCOUNTS, {"metadata": {"name": "default"}})
    assert (await early).code == 201


# ---- keys


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))


def public_pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture(scope="module", params=["ES256", "RS256"])
def key(request: pytest.FixtureRequest) -> Any:
    return ec.generate_private_key(ec.SECP256R1()) if request.param == "ES256" else rsa.generate_private_key(65537, 2048)


def test_a_signature_is_of_its_key_and_of_no_other(key: Any) -> None:
    keys = Keys(key)
    token = keys.sign(CLAIMS)
    assert keys.verify(token) == CLAIMS
    assert Keys(ec.generate_private_key(ec.SECP256R1())).verify(token) is None
    assert Keys(ec.generate_private_key(ec.SECP256R1()), [key.public_key()]).verify(token) == CLAIMS
    head, body, signature = token.split(".")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(body + "==").replace(b'"sub":"s"', b'"sub":"t"')).rstrip(b"=").decode()
    assert keys.verify(f"{head}.{forged}.{signature}") is None
    for algorithm in ("none", "HS256"):
        lie = base64.urlsafe_b64encode(json.dumps({"alg": algorithm}).encode()).rstrip(b"=").decode()
        assert keys.verify(f"{lie}.{body}.{signature}") is None
        assert keys.verify(f"{lie}.{body}.") is None


@given(st.text(max_size=60) | st.lists(st.text(alphabet="abcAB01-_=", max_size=20), min_size=3, max_size=3).map(".".join))
def test_any_text_is_no_token(text: str) -> None:
    assert Keys(_KEY).verify(text) is None


_KEY = ec.generate_private_key(ec.SECP256R1())


def test_keys_are_read_from_files_in_any_form(key: Any, tmp_path: Path) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(pem(key) + public_pem(_KEY))
    assert len(read_keys("--service-account-key-file", str(path))) == 2
    assert signing_key(str(path), None).private_numbers() == key.private_numbers()


def test_a_key_is_made_once_and_kept(tmp_path: Path) -> None:
    own = tmp_path / "pki" / "sa.key"
    first = signing_key("", own)
    assert own.stat().st_mode & 0o777 == 0o600
    assert signing_key("", own).private_numbers() == first.private_numbers()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "ES256"),
    ],
)
def test_a_file_without_a_usable_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        signing_key(str(path), None)
    with pytest.raises(SettingsError, match="cannot be read"):
        signing_key(str(tmp_path / "none"), None)
    path.write_bytes(public_pem(_KEY))
    with pytest.raises(SettingsError, match="takes the private one"):
        signing_key(str(path), None)


async def test_time_ends_a_token(robot: Any) -> None:
    """The clock is the only thing that is not real here."""
    from twinstack.api.objects import Key
    from twinstack.apiserver.allocators import context_of
    from twinstack.apiserver.cache import Cache
    from twinstack.apiserver.settings import Settings
    from twinstack.apiserver.strategies.table import strategies
    from twinstack.apiserver.tokens import ACCOUNTS as RESOURCE
    from twinstack.apiserver.tokens import ServiceAccountTokens
    from twinstack.store.memory import MemoryStore

    store, cache, now = MemoryStore(), Cache(), [1000.0]
    cache.install(strategies(context_of(Settings(data_dir="", service_cluster_ip_range="10.96.0.0/16", store="memory"))))
    cache.load(store)
    account = {"metadata": {"name": "a", "namespace": "n", "uid": "u"}}
    await store.commit([cache.collections[RESOURCE].write(account, 0)])
    tokens = ServiceAccountTokens(Keys(_KEY), cache, issuers=("i", "older"), now=lambda: now[0])
    token = tokens.request(Key("n", "a"), {"spec": {"expirationSeconds": 600}}, None)["status"]["token"]
    assert tokens.user(token)[0].name == "system:serviceaccount:n:a"
    now[0] = 1599.0
    assert tokens.user(token)
    for moment in (1600.0, 5000.0, 900.0):
        now[0] = moment
        with pytest.raises(Unauthorized):
            tokens.user(token)
    now[0] = 1001.0
    with pytest.raises(Unauthorized):
        ServiceAccountTokens(Keys(_KEY), cache, issuers=("another",), now=lambda: now[0]).user(token)


# ---- tokens that stand in Secrets

SECRETS = "/api/v1/namespaces/default/secrets"


def wish(name: str = "robot") -> dict[str, Any]:
    """A Secret that wants a token."""
    return {"metadata": {"name": "long", "annotations": {"kubernetes.io/service-account.name": name}}, "type": "kubernetes.io/service-account-token"}


async def filled(api: Any) -> dict[str, str]:
    """What is in the Secret once it has a token."""
    async with asyncio.timeout(10):
        while not (data := (await api.get(f"{SECRETS}/long")).document.get("data")):
            pass  # each question lets the server go on
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


async def gone(api: Any) -> None:
    async with asyncio.timeout(10):
        while (await api.get(f"{SECRETS}/long")).code != 404:
            pass


async def test_a_secret_that_wants_a_token_gets_one_that_lasts_as_long_as_it_does(serve: Any) -> None:
    api = await serve()
    await api.made("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "the authority"}})
    account = await api.made("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "robot"}})
    await api.made(SECRETS, wish())
    data = await filled(api)
    assert (data["namespace"], data["ca.crt"]) == ("default", "the authority")
    metadata = (await api.get(f"{SECRETS}/long")).document["metadata"]
    assert metadata["annotations"]["kubernetes.io/service-account.uid"] == account["metadata"]["uid"]
    shown = {"Authorization": f"Bearer {data['token']}"}
    who = await api.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, headers=shown)
    assert who.document["status"]["userInfo"]["username"] == "system:serviceaccount:default:robot"
    await api.stop()
    api = await serve()  # it is not filled anew
    assert (await filled(api))["token"] == data["token"]
    await api.delete(f"{SECRETS}/long")
    assert (await api.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, headers=shown)).code == 401


async def test_a_secret_of_an_account_that_is_not_there_goes(serve: Any) -> None:
    api = await serve()
    await api.made(SECRETS, wish("nobody"))
    await gone(api)
    await api.made("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "robot"}})
    await api.made(SECRETS, wish())
    await filled(api)
    await api.delete("/api/v1/namespaces/default/serviceaccounts/robot")
    await gone(api)
