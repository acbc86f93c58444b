"""What a real server answered about a few hundred Services, asked of ours: the lives of ``lives.txt``.

A life is a create and the updates after it, one a line: the verb, then fields with their values in JSON; ``null`` takes a field away, ``@drop2``
keeps the first element of a list, ``@swap`` turns it round, ``@add4``, ``@second6`` and the like put another address behind the first element. What
follows is said once for all clusters that answered alike: an answer a line, no more of them when the create was refused.

    422 Invalid spec.ipFamilies[0]:Invalid              a refusal: code, reason, and the fields with theirs
    200 P46 NodePort <4>,<6> 80/TCP>8080:<port>         a Service: policy and families, type, addresses, ports, other fields

``<4>``, ``<6>`` and ``<port>`` were the server's to pick. The facts are what Kubernetes 1.36.2 answered; the notation is ours. Two defaults are not
written: ``sessionAffinity`` None, and ``internalTrafficPolicy`` Cluster where the type has one.
"""

from __future__ import annotations

import asyncio
import copy
import http.client
import json
import shlex
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from twinstack.api.errors import APIError, from_status
from twinstack.net.cidr import parse_address
from twinstack.net.errors import AddressError
from twinstack.net.family import Family

CLUSTERS = ("v4", "v6", "v4v6", "v6v4")
OWN = {"@add4": "10.96.200.4", "@second4": "10.96.200.5", "@add6": "fd00:10:96::c804", "@second6": "fd00:10:96::c805"}
_SHORT = {"IPv4": "4", "IPv6": "6", "SingleStack": "S", "PreferDualStack": "P", "RequireDualStack": "R"}
_SAID = ("ipFamilyPolicy", "ipFamilies", "type", "clusterIP", "clusterIPs", "ports", "sessionAffinity", "internalTrafficPolicy")


class Life(NamedTuple):
    """The steps, and each cluster's answers."""

    steps: list[tuple[str, dict[str, Any]]]
    answers: dict[str, list[str]]


def read(path: Path) -> Iterator[Life]:
    """Every life of a file."""
    for text in path.read_text().split("life\n")[1:]:
        steps: list[tuple[str, dict[str, Any]]] = []
        answers: dict[str, list[str]] = {}
        named: list[str] = []
        for line in text.splitlines():
            words = line.strip()
            if line.startswith("    "):
                for name in named:
                    answers[name].append(words)
            elif words.endswith(":") and all(name in CLUSTERS for name in words[:-1].split()):
                named = words[:-1].split()
                answers |= {name: [] for name in named}
            else:
                verb, *fields = shlex.split(words)
                steps.append((verb, {name: json.loads(value) for name, _, value in (field.partition("=") for field in fields)}))
        yield Life(steps, answers)


def changed(spec: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The spec after a step."""
    result = copy.deepcopy(spec)
    for field, value in changes.items():
        if value is None:
            result.pop(field, None)
        elif isinstance(value, str) and value.startswith("@"):
            present = result.get(field)
            if isinstance(present, list):
                result[field] = present[:1] if value == "@drop2" else present[::-1] if value == "@swap" else [*present[:1], OWN[value]]
        else:
            result[field] = value
    return result


def literals(value: Any) -> set[Any]:
    """Every text and number that a life itself names."""
    if isinstance(value, dict):
        return {one for child in value.values() for one in literals(child)}
    if isinstance(value, (list, tuple)):
        return {one for child in value for one in literals(child)}
    return {value}


def text_of_refusal(code: int, reason: str, causes: list[tuple[str, str]]) -> str:
    """``422 Invalid spec.ports:Required``"""
    words = [str(code), *([reason] if reason else [])]
    return " ".join([*words, *(f"{field}:{why.removeprefix('FieldValue')}" for field, why in sorted(set(causes)))])


def text_of_service(code: int, spec: dict[str, Any], asked: set[Any]) -> str:
    """``201 S4 ClusterIP <4> 80/TCP>80``"""
    families = "".join(_SHORT[family] for family in spec.get("ipFamilies") or ())
    policy = spec.get("ipFamilyPolicy")
    words = [str(code), (_SHORT[policy] if policy else "-") + families, spec.get("type", "-"), _addresses(spec, asked)]
    words += [_port(port, asked) for port in spec.get("ports") or ()]
    if spec.get("sessionAffinity") != "None":
        words.append(f"sessionAffinity={spec.get('sessionAffinity')}")
    if spec.get("internalTrafficPolicy") != ("Cluster" if spec.get("type") != "ExternalName" else None):
        words.append(f"internalTrafficPolicy={spec.get('internalTrafficPolicy')}")
    for field in sorted(spec.keys() - set(_SAID)):
        value = spec[field]
        if field == "healthCheckNodePort" and value not in asked:
            value = "<port>"
        words.append(f"{field}={json.dumps(value, separators=(',', ':'), sort_keys=True)}")
    return " ".join(words)


def _addresses(spec: dict[str, Any], asked: set[Any]) -> str:
    texts = [_address(text, asked) for text in spec.get("clusterIPs") or ()]
    single = _address(spec["clusterIP"], asked) if "clusterIP" in spec else None
    if single == (texts[0] if texts else None):
        return ",".join(texts) or "-"
    return f"{single}!{','.join(texts)}"


def _address(text: str, asked: set[Any]) -> str:
    if text in asked or text in OWN.values() or text in ("", "None"):
        return text or '""'
    try:
        return f"<{_SHORT[Family.of(parse_address(text)).value]}>"
    except AddressError:
        return text


def _port(port: dict[str, Any], asked: set[Any]) -> str:
    name = f"{port['name']}=" if "name" in port else ""
    number = port.get("nodePort")
    node = "" if number is None else f":{number if number in asked else '<port>'}"
    rest = {field: value for field, value in port.items() if field not in ("name", "port", "protocol", "targetPort", "nodePort")}
    return f"{name}{port.get('port')}/{port.get('protocol')}>{port.get('targetPort')}{node}" + (json.dumps(rest, separators=(",", ":")) if rest else "")


LIVES = list(read(Path(__file__).with_name("lives.txt")))


def test_the_lives_are_many_and_no_two_are_alike() -> None:
    assert len(LIVES) >= 300
    assert len({json.dumps(life.steps) for life in LIVES}) == len(LIVES)
    assert all(set(life.answers) == set(CLUSTERS) for life in LIVES)
    codes = {text.split()[0] for life in LIVES for answers in life.answers.values() for text in answers}
    assert codes >= {"200", "201", "422"}


async def answers_of(server: Any, life: Life) -> list[str]:
    """What a server answers to the steps of a life, of which it keeps nothing."""
    answers, current = [], None
    asked = literals([fields for _, fields in life.steps])
    for verb, fields in life.steps:
        try:
            if verb == "create":
                current, code = await server.post("services", {"metadata": {"name": "life"}, "spec": copy.deepcopy(fields)}), 201
            elif current is None:
                break
            elif verb == "put":
                current, code = await server.put("services", {**current, "spec": changed(current["spec"], fields)}), 200
            else:
                after = changed(current["spec"], fields)
                current, code = await server.patch("services", "life", {"spec": {field: after.get(field) for field in fields}}), 200
            answers.append(text_of_service(code, current["spec"], asked))
        except APIError as error:
            causes = [(str(cause.get("field", "")), str(cause["reason"])) for cause in error.causes]
            answers.append(text_of_refusal(error.http_code, error.reason, causes))
    if current is not None:
        await server.delete("services", "life")
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
async def test_every_life_is_answered_as_kubernetes_answered_it(new_server: Any, cluster: str) -> None:
    server = await new_server(cluster, bare=False)
    for life in LIVES:
        assert await answers_of(server, life) == life.answers[cluster], life.steps
    assert server.leaks() == []


RANGES = {"v4": "10.96.0.0/16", "v6": "fd00:10:96::/112", "v4v6": "10.96.0.0/16,fd00:10:96::/112", "v6v4": "fd00:10:96::/112,10.96.0.0/16"}


class OverHTTPS:
    """A server that was started from the command line."""

    def __init__(self, port: int) -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
        self.connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls, timeout=10)

    def ask(self, method: str, path: str, body: Any = None, kind: str = "json") -> Any:
        headers = {"Authorization": "Bearer token", "Content-Type": f"application/{kind}"}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        document = json.loads(answer.read())
        if answer.status >= 400:
            raise from_status(document)
        return document

    async def post(self, plural: str, document: Any) -> Any:
        return self.ask("POST", f"/api/v1/namespaces/default/{plural}", document)

    async def put(self, plural: str, document: Any) -> Any:
        return self.ask("PUT", f"/api/v1/namespaces/default/{plural}/{document['metadata']['name']}", document)

    async def patch(self, plural: str, name: str, patch: Any) -> Any:
        return self.ask("PATCH", f"/api/v1/namespaces/default/{plural}/{name}", patch, "merge-patch+json")

    async def delete(self, plural: str, name: str) -> None:
        self.ask("DELETE", f"/api/v1/namespaces/default/{plural}/{name}")


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_server_from_the_command_line_answers_the_same(tmp_path: Path, cluster: str) -> None:
    (tmp_path / "tokens.csv").write_text('token,admin,1,"system:masters"\n')
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "twinstack.cli.main", "kube-apiserver", f"--data-dir={tmp_path / 'data'}", "--bind-address=127.0.0.1"]
    argv += [f"--secure-port={port}", f"--token-auth-file={tmp_path / 'tokens.csv'}", f"--service-cluster-ip-range={RANGES[cluster]}"]
    argv += [f"--advertise-address={'192.0.2.1' if cluster.startswith('v4') else '2001:db8::1'}"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            server = OverHTTPS(port)
            for _ in range(500):
                try:
                    server.ask("GET", "/api/v1/namespaces/default/services/kubernetes")
                    break
                except (OSError, APIError):
                    assert process.poll() is None
                    server.connection.close()
                    time.sleep(0.02)
            for life in LIVES[::3]:
                assert asyncio.run(answers_of(server, life)) == life.answers[cluster], life.steps
            (own,) = server.ask("GET", "/api/v1/namespaces/default/services")["items"]
            assert own["spec"]["ipFamilies"] == ["IPv4" if cluster.startswith("v4") else "IPv6"]
            records = server.ask("GET", "/apis/networking.k8s.io/v1/ipaddresses")["items"]
            assert [record["metadata"]["name"] for record in records] == own["spec"]["clusterIPs"]
        finally:
            server.connection.close()
            process.terminate()
