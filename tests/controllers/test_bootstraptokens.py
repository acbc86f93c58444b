"""Bootstrap tokens: who signs cluster-info, and when a token goes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from twinstack.api.kinds import ConfigMap, Secret
from twinstack.api.objects import Key, view_of
from twinstack.api.times import parse_time
from twinstack.api.world import After, Delete
from twinstack.controllers.bootstraptokens import INFO, BootstrapSigner, TokenCleaner
from twinstack.rules.bootstrap_tokens import Token, signature, token_of

TYPE = "bootstrap.kubernetes.io/token"
GOOD = {"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"}
KUBECONFIG = "apiVersion: v1\nclusters:\n- cluster:\n    server: https://[fd00::1]:6443\n"
WORLD_BEGINS = "2026-01-02T03:04:05Z"


def secret(*, name: str = "bootstrap-token-abcdef", namespace: str = "kube-system", type: str = TYPE, **fields: str) -> dict[str, Any]:
    data = {name.replace("_", "-"): base64.b64encode(text.encode()).decode() for name, text in (GOOD | fields).items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "type": type, "data": data}


def info(**data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
        "data": {"kubeconfig": KUBECONFIG} | data,
    }


def test_a_signature_is_one_that_the_joining_machine_would_make_itself() -> None:
    head, between, seal = signature(Token("abcdef", "0123456789abcdef", None, True), KUBECONFIG).split(".")
    assert between == "" and json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))) == {"alg": "HS256", "kid": "abcdef"}
    payload = base64.urlsafe_b64encode(KUBECONFIG.encode()).decode().rstrip("=")
    digest = hmac.new(b"0123456789abcdef", f"{head}.{payload}".encode(), hashlib.sha256).digest()
    assert seal == base64.urlsafe_b64encode(digest).decode().rstrip("=")


def test_the_worked_example_of_the_standard_comes_out_with_its_payload_left_out() -> None:
    # RFC 7515, appendix A.1, has another header; the digest by the same key over the same form of input is what is compared.
    key = base64.urlsafe_b64decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==")
    text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    assert base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).rstrip(b"=") == b"dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


@pytest.mark.parametrize(
    ("given", "signs"),
    [
        pytest.param(secret(), True, id="one that may sign signs"),
        pytest.param(secret(expiration="2026-01-02T03:04:06Z"), True, id="one that ends in a second signs"),
        pytest.param(secret(expiration="2026-01-02T05:04:05+02:00"), False, id="one that ends now, in another zone, does not"),
        pytest.param(secret(expiration=WORLD_BEGINS), False, id="one that ends now does not"),
        pytest.param(secret(expiration="soon"), False, id="one whose end nobody can read does not"),
        pytest.param(secret(usage_bootstrap_signing="false"), False, id="one that is for something else does not"),
        pytest.param(secret(type="Opaque"), False, id="a Secret of another type does not"),
        pytest.param(secret(namespace="default"), False, id="one in another namespace does not"),
        pytest.param(secret(name="bootstrap-token-zzzzzz"), False, id="one under another name than its id does not"),
        pytest.param(secret(token_secret=""), False, id="one without a secret does not"),
    ],
)
def test_who_signs(world, given, signs) -> None:
    world.put(info(**{"jws-kubeconfig-gone00": "old"}))
    world.put(given)
    [patch] = [action for action in BootstrapSigner().decide(INFO, world) if not isinstance(action, After)]
    world.perform(patch)
    names = {name for name in world.get(ConfigMap, INFO).data if name != "kubeconfig"}
    assert names == ({"jws-kubeconfig-abcdef"} if signs else set())
    assert [action for action in BootstrapSigner().decide(INFO, world) if not isinstance(action, After)] == []


def test_nothing_is_signed_where_there_is_no_kubeconfig(world) -> None:
    world.put(secret())
    assert BootstrapSigner().decide(INFO, world) == []
    world.put({**info(), "data": {"other": "text"}})
    assert BootstrapSigner().decide(INFO, world) == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param(secret(), None, id="one that does not end stays"),
        pytest.param(secret(expiration="2026-01-02T03:05:05Z"), 60.0, id="one that ends in a minute is looked at then"),
        pytest.param(secret(expiration=WORLD_BEGINS), Delete, id="one that has ended goes"),
        pytest.param(secret(expiration="soon"), Delete, id="one whose end nobody can read goes"),
        pytest.param(secret(expiration=WORLD_BEGINS, type="Opaque"), None, id="a Secret of another type stays"),
    ],
)
def test_when_a_token_goes(world, given, wanted) -> None:
    world.put(given)
    actions = TokenCleaner().decide(Key("kube-system", "bootstrap-token-abcdef"), world)
    if wanted is None:
        assert actions == []
    elif wanted is Delete:
        assert [type(action) for action in actions] == [Delete]
    else:
        assert actions == [After(wanted)]


def test_a_token_tells_when_it_ends() -> None:
    assert token_of(view_of(Secret, secret(expiration=WORLD_BEGINS))) == Token("abcdef", "0123456789abcdef", parse_time(WORLD_BEGINS), True)
