"""Tokens of ServiceAccounts: asked for once, renewed in time, kept while the API server is silent."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from twinstack.agent.environment import ConfigError
from twinstack.agent.tokens import Tokens
from twinstack.agent.volumes import Token
from twinstack.api import errors
from twinstack.api.kinds import ObjectMeta, Pod, PodSpec
from twinstack.api.times import text_of_time

POD = Pod(metadata=ObjectMeta(name="p", namespace="ns", uid="u"), spec=PodSpec(serviceAccountName="robot"))
WANTED = Token("", 3600)


class Server:
    """Issues tokens that last an hour, or fails."""

    def __init__(self):
        self.now, self.asked, self.failure = 1_800_000_000.0, [], None

    async def create(self, resource, document, *, namespace, name, subresource):
        if self.failure is not None:
            raise self.failure
        self.asked.append((resource.plural, namespace, name, subresource, document["spec"]))
        ends = datetime.fromtimestamp(self.now + document["spec"]["expirationSeconds"], UTC)
        return {"status": {"token": f"token-{len(self.asked)}", "expirationTimestamp": text_of_time(ends)}}


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def tokens(server):
    return Tokens(server, now=lambda: server.now)


async def test_a_token_is_bound_to_its_pod_and_asked_for_once(server, tokens):
    assert [await tokens.get(POD, WANTED) for _ in range(2)] == ["token-1", "token-1"]
    assert await tokens.get(POD, Token("vault", 600)) == "token-2"
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}
    assert server.asked == [
        ("serviceaccounts", "ns", "robot", "token", {"expirationSeconds": 3600, "audiences": [], "boundObjectRef": bound}),
        ("serviceaccounts", "ns", "robot", "token", {"expirationSeconds": 600, "audiences": ["vault"], "boundObjectRef": bound}),
    ]
    tokens.forget("u")
    assert await tokens.get(POD, WANTED) == "token-3"


async def test_it_is_renewed_when_four_fifths_of_its_time_are_over(server, tokens):
    await tokens.get(POD, WANTED)
    renewal = tokens.renewal(POD, [WANTED])
    assert server.now + 2869 < renewal <= server.now + 2880 and tokens.renewal(POD, []) is None
    server.now = renewal - 1
    assert await tokens.get(POD, WANTED) == "token-1"
    server.now = renewal
    assert await tokens.get(POD, WANTED) == "token-2"


async def test_one_that_still_holds_serves_while_the_server_is_silent(server, tokens):
    await tokens.get(POD, WANTED)
    server.failure = errors.ServiceUnavailable("silent")
    server.now += 3599
    assert await tokens.get(POD, WANTED) == "token-1"
    server.now += 1
    with pytest.raises(errors.ServiceUnavailable):
        await tokens.get(POD, WANTED)


async def test_a_server_that_issues_none_is_named(server, tokens):
    server.failure = errors.NotFound("the server could not find the requested resource")
    with pytest.raises(ConfigError, match='no token of service account "robot" is issued: the server could not'):
        await tokens.get(POD, WANTED)
