"""Readiness by family on a whole cluster: the family that does not answer has no endpoint."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from twinstack.kernel import namespaces
from twinstack.net.cidr import parse_address
from twinstack.net.family import FAMILIES, Family

pytestmark = [pytest.mark.cluster, pytest.mark.kernel, pytest.mark.slow]
EXAMPLE = Path(__file__).parents[2] / "examples" / "readiness" / "one-family.yaml"


def until(what: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("families", ["IPv4,IPv6", "IPv6,IPv4"])
def test_a_server_of_one_family_answers_there_and_has_no_endpoint_in_the_other(lab: Any, families: str) -> None:
    name = lab.name("half" + families[3])
    lab.up(name, "--nodes", "2", "--families", families)

    def kubectl(*words: str) -> str:
        done = subprocess.run(["kubectl", "--context", f"twinstack-{name}", *words], env=lab.environment, capture_output=True, text=True, check=True)
        return done.stdout

    # the server listens in the family that the node asks first, or nothing would be Ready
    primary = Family(families.split(",")[0])
    text = EXAMPLE.read_text().replace('"0.0.0.0"', f'"{primary.facts.unspecified}"')
    if primary is Family.IPV6:  # an IPv6 socket of Python's server would take both
        text = text.replace('"-m", "http.server", "--bind", "::", "8080"]', '"-c", "' + _ONLY_THE_SECOND + '"]')
    manifest = lab.home / "half.yaml"
    manifest.write_text(text)
    kubectl("apply", "-f", str(manifest))
    kubectl("rollout", "status", "--timeout=40s", "deployment/half")

    def answering() -> dict[str, list[bool]]:
        slices = lab.kubectl(name, "get", "endpointslices", "-l", "kubernetes.io/service-name=half")["items"]
        return {one["addressType"]: [endpoint["conditions"]["ready"] for endpoint in one.get("endpoints") or ()] for one in slices}

    until(lambda: answering() == {primary.value: [True, True], primary.other.value: []})
    for pod in lab.kubectl(name, "get", "pods", "-l", "app=half")["items"]:
        found = {one["type"]: one["status"] for one in pod["status"]["conditions"]}
        wanted = {"Ready": "True", f"twinstack.dev/Ready{primary}": "True", f"twinstack.dev/Ready{primary.other}": "False"}
        assert wanted.items() <= found.items()
    until(lambda: "FamiliesDisagree" in kubectl("get", "events"))
    addresses = {Family.of(parse_address(text)): text for text in lab.kubectl(name, "get", "service", "half")["spec"]["clusterIPs"]}

    def connects(family: Family) -> bool:
        with namespaces.socket_in(f"/run/netns/twinstack-{name}-node1", family.facts.socket_family, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            try:
                client.connect((addresses[family], 80))
            except OSError:
                return False
            return True

    until(lambda: connects(primary))
    assert {family: connects(family) for family in FAMILIES} == {primary: True, primary.other: False}
    # who does not ask gets what upstream gives: an endpoint that refuses
    kubectl("annotate", "pods", "-l", "app=half", "twinstack.dev/per-family-readiness-", "--overwrite")
    until(lambda: answering() == {family.value: [True, True] for family in FAMILIES})
    # and a namespace may ask for all its pods
    kubectl("annotate", "namespace", "default", "twinstack.dev/per-family-readiness=true")
    until(lambda: answering() == {primary.value: [True, True], primary.other.value: []})
    lab.down(name)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_where_there_is_one_family_nothing_else_is_asked(lab: Any, family: Family) -> None:
    name = lab.name("single" + str(family)[3])
    lab.up(name, "--nodes", "1", "--families", str(family))

    def kubectl(*words: str) -> str:
        done = subprocess.run(["kubectl", "--context", f"twinstack-{name}", *words], env=lab.environment, capture_output=True, text=True, check=True)
        return done.stdout

    text = EXAMPLE.read_text().replace('"0.0.0.0"', f'"{family.facts.unspecified}"').replace("RequireDualStack", "PreferDualStack")
    manifest = lab.home / "single.yaml"
    manifest.write_text(text)
    kubectl("apply", "-f", str(manifest))
    kubectl("rollout", "status", "--timeout=40s", "deployment/half")

    def answering() -> dict[str, list[bool]]:
        slices = lab.kubectl(name, "get", "endpointslices", "-l", "kubernetes.io/service-name=half")["items"]
        return {one["addressType"]: [endpoint["conditions"]["ready"] for endpoint in one.get("endpoints") or ()] for one in slices}

    until(lambda: answering() == {family.value: [True, True]})
    for pod in lab.kubectl(name, "get", "pods", "-l", "app=half")["items"]:
        found = {one["type"]: one["status"] for one in pod["status"]["conditions"] if one["type"].startswith("twinstack.dev/")}
        assert found == {f"twinstack.dev/Ready{family}": "True"} and len(pod["status"]["podIPs"]) == 1
    assert "FamiliesDisagree" not in kubectl("get", "events")
    lab.down(name)


_ONLY_THE_SECOND = (
    "import socket; s = socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); "
    "s.bind(('::', 8080)); s.listen(); [s.accept() for _ in iter(int, 1)]"
)
