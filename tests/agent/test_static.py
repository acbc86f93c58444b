"""Static pods: what a manifest must be, and their life beside an API server that only looks on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twinstack.agent.static import ManifestError, files_of, mirror_of, static_pod
from twinstack.api.kinds import Pod
from twinstack.api.objects import Key
from twinstack.api.resources import resource_of

PODS = resource_of(Pod)


def manifest(script: str = "sleep 1000", **spec) -> bytes:
    container = {"name": "c", "image": "twinstack.dev/host", "command": ["sh", "-c", script]}
    spec = {"containers": [container], "hostNetwork": True, "terminationGracePeriodSeconds": 1, **spec}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": spec}).encode()


def test_a_static_pod_is_named_for_its_node_and_known_by_what_its_file_says():
    one, again, other = static_pod(manifest(), "node1"), static_pod(manifest(), "node1"), static_pod(manifest("true"), "node1")
    assert (one["metadata"]["name"], one["metadata"]["namespace"], one["spec"]["nodeName"]) == ("web-node1", "default", "node1")
    assert one["metadata"]["uid"] == again["metadata"]["uid"] != other["metadata"]["uid"] != static_pod(manifest("true"), "node2")["metadata"]["uid"]
    mirror = mirror_of(one, "uid-of-the-node")
    (owner,) = mirror["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "uid-of-the-node", "controller": True}
    assert "uid" not in mirror["metadata"] and mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] == one["metadata"]["uid"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "neither YAML nor JSON"),
        (b"kind: Service\napiVersion: v1", "no v1 Pod"),
        (b"kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {}", "no containers"),
        (manifest(serviceAccountName="robot"), "refers to no ServiceAccount"),
        (manifest(volumes=[{"name": "v", "configMap": {"name": "cm"}}]), "refers to no ServiceAccount"),
    ],
)
def test_what_cannot_be_static_is_refused(text, reason):
    with pytest.raises(ManifestError, match=reason):
        static_pod(text, "node1")


def test_manifests_are_the_files_of_a_directory_that_are_not_hidden(tmp_path):
    for name in ("a.yaml", "b.json", ".c.yaml", "d.txt"):
        (tmp_path / name).touch()
    assert [one.name for one in files_of(tmp_path)] == ["a.yaml", "b.json"]
    assert files_of(tmp_path / "a.yaml") == [tmp_path / "a.yaml"] and files_of(tmp_path / "none") == []


@pytest.mark.kernel
@pytest.mark.slow
def test_a_static_pod_runs_has_a_mirror_and_goes_with_its_file(world, tmp_path):
    folder = tmp_path / "manifests"
    folder.mkdir()
    file = folder / "web.json"
    file.write_bytes(manifest("echo first; sleep 1000"))
    (folder / "broken.yaml").write_text("{")

    async def story(w) -> None:
        await w.stop_agent()
        await w.start_agent(static_pods=Path(folder), file_check_seconds=0.1)

        async def mirror():
            items = (await w.client.list(PODS, "default"))["items"]
            return items[0] if items and items[0].get("status", {}).get("phase") == "Running" else None

        first = await w.until(mirror)
        assert first["metadata"]["name"] == "web-node1"
        assert [one["ip"] for one in first["status"]["podIPs"]] == ["192.0.2.10", "2001:db8::10"]
        assert (await w.logs("web-node1"))[1] == "first\n"
        # somebody deletes the mirror: the pod runs on, and is shown again
        await w.client.delete(PODS, Key("default", "web-node1"))

        async def shown_again():
            found = await mirror()
            return found if found and found["metadata"]["uid"] != first["metadata"]["uid"] else None

        second = await w.until(shown_again)
        assert second["status"]["containerStatuses"] == first["status"]["containerStatuses"]
        # an agent that is started anew finds it running
        await w.stop_agent()
        await w.start_agent(static_pods=Path(folder), file_check_seconds=0.1)
        # another content is another pod
        file.write_bytes(manifest("echo second; sleep 1000"))

        async def says_second():
            status, text = await w.logs("web-node1")
            return status == 200 and text == "second\n"

        await w.until(says_second)
        third = await w.until(mirror)
        assert third["metadata"]["annotations"]["kubernetes.io/config.hash"] != first["metadata"]["annotations"]["kubernetes.io/config.hash"]
        file.unlink()

        async def nothing():
            return not (await w.client.list(PODS, "default"))["items"]

        await w.until(nothing)
        assert not list((w.root / "pods").iterdir())

    world(story)
