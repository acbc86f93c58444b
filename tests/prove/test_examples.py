"""The examples: what the demo relies on."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from twinstack.api.objects import Document
from twinstack.api.resources import BY_KIND
from twinstack.client.manifests import ManifestError, read_file, read_folder

EXAMPLES = Path(__file__).parents[2] / "examples"


def server_of(document: Document) -> str:
    text: str = document["spec"]["template"]["spec"]["containers"][0]["args"][0]
    return text


def test_every_example_is_of_a_kind_that_is_served_and_of_the_demo() -> None:
    documents = read_folder(EXAMPLES)
    assert documents[0]["kind"] == "Namespace"
    for document in documents:
        resource = BY_KIND[document["apiVersion"], document["kind"]]
        assert document["metadata"].get("namespace") == ("demo" if resource.namespaced else None)


def test_there_is_a_service_of_each_policy_and_order() -> None:
    services = [document["spec"] for document in read_folder(EXAMPLES) if document["kind"] == "Service"]
    asked = {(spec.get("ipFamilyPolicy"), *spec.get("ipFamilies", [])) for spec in services}
    assert asked == {
        ("SingleStack", "IPv4"),
        ("SingleStack", "IPv6"),
        ("PreferDualStack",),
        ("RequireDualStack", "IPv4", "IPv6"),
        ("RequireDualStack", "IPv6", "IPv4"),
    }
    assert {spec.get("type", spec.get("clusterIP")) for spec in services} == {None, "None", "NodePort", "LoadBalancer"}
    assert any(port.get("protocol") == "UDP" for spec in services for port in spec["ports"])


def test_both_deployments_run_the_same_server() -> None:
    first, second = (document for document in read_folder(EXAMPLES) if document["kind"] == "Deployment")
    assert server_of(first) == server_of(second)


@pytest.mark.slow
async def test_the_server_answers_both_families_and_ends_when_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = server_of(read_file(EXAMPLES / "10-web.yaml")[0]).replace("PORT = 8080", f"PORT = {port}")
    process = await asyncio.create_subprocess_exec(sys.executable, "-IS", "-c", text, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None and b"listening" in await process.stdout.readline()
        for address in ("127.0.0.1", "::1"):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            body = (await reader.read()).partition(b"\r\n\r\n")[2]
            writer.close()
            await writer.wait_closed()
            assert json.loads(body) == {"pod": socket.gethostname(), "node": "", "address": address, "client": address}
    finally:
        process.terminate()
        assert await process.wait() == 0


def test_a_manifest_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifests"):
        read_folder(tmp_path)
    for text, words in (("a: [", "is not YAML"), ("- a", "without apiVersion"), ("kind: Pod", "without apiVersion")):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ManifestError, match=words):
            read_folder(tmp_path)
    (tmp_path / "x.yaml").write_text("---\n---\nkind: Pod\napiVersion: v1\nmetadata: {}\n---\n")
    assert len(read_folder(tmp_path)) == 1
