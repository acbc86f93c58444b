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

import copy
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from twinstack.api.errors import APIError
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


@pytest.mark.slow
@pytest.mark.parametrize("cluster", CLUSTERS)
async def test_every_life_is_answered_as_kubernetes_answered_it(new_server: Any, cluster: str) -> None:
    server = await new_server(cluster, bare=False)
    count = 0
    for life in LIVES:
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
        assert answers == life.answers[cluster], life.steps
        if current is not None:
            await server.delete("services", "life")
        count += 1
    assert count == len(LIVES)
    assert server.leaks() == []
