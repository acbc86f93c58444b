"""Volumes as files of the host."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from twinstack.agent.containers.base import Mount
from twinstack.agent.environment import ConfigError, Facts
from twinstack.agent.volumes import Given, Token, mounts_of, over_limit, prepare, refresh, sources_named, texts_of, tokens_named
from twinstack.api.kinds import ConfigMap, Container, Pod, Secret
from twinstack.api.objects import view_of
from twinstack.kernel.mounts import mounted_below, unmount_below

CM = view_of(ConfigMap, {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\0").decode()}})
SECRET = view_of(Secret, {"data": {"key": base64.b64encode(b"hidden").decode()}})
OBJECTS = {("configmap", "cm"): CM, ("secret", "s"): SECRET, ("configmap", "gone"): None}
GIVEN = Given(OBJECTS)


def pod(*volumes, **spec):
    return view_of(Pod, {"metadata": {"name": "p", "namespace": "ns", "labels": {"x": "y"}}, "spec": {"volumes": list(volumes), **spec}})


def files(folder):
    """What a container reads there."""
    held = {}
    for root, _, names in os.walk(folder, followlinks=True):
        if ".." not in os.path.relpath(root, folder):
            held |= {os.path.relpath(os.path.join(root, name), folder): Path(root, name).read_bytes() for name in names}
    return held


def test_what_comes_from_the_api_becomes_files(tmp_path):
    one = pod(
        {"name": "all", "configMap": {"name": "cm"}},
        {"name": "some", "secret": {"secretName": "s", "items": [{"key": "key", "path": "deep/er", "mode": 0o400}]}},
        {"name": "self", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "both", "projected": {"sources": [{"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}}, {"secret": {"name": "s"}}]}},
        {"name": "maybe", "configMap": {"name": "gone", "optional": True}},
    )
    assert sources_named(one) == {("configmap", "cm"), ("secret", "s"), ("configmap", "gone")}
    made = prepare(one, tmp_path, GIVEN, Facts())
    assert files(made["all"]) == {"a": b"1", "b": b"2", "c": b"\0"}
    assert files(made["some"]) == {"deep/er": b"hidden"} and (made["some"] / "deep/er").stat().st_mode & 0o777 == 0o400
    assert files(made["self"]) == {"labels": b'x="y"'}
    assert files(made["both"]) == {"a": b"1", "key": b"hidden"}
    assert files(made["maybe"]) == {}


def test_a_change_is_seen_all_at_once_in_the_directory_that_is_mounted(tmp_path):
    one = pod({"name": "v", "configMap": {"name": "cm"}}, {"name": "lost", "secret": {"secretName": "s"}})
    made = prepare(one, tmp_path, GIVEN, Facts())
    path = made["v"]
    inode, data = path.stat().st_ino, os.readlink(path / "..data")
    assert refresh(one, tmp_path, GIVEN, Facts()) == [] and os.readlink(path / "..data") == data  # nothing has changed, nothing is written
    changed = Given({("configmap", "cm"): view_of(ConfigMap, {"data": {"a": "new", "d": "4"}}), ("secret", "s"): None})
    held = os.open(path / "a", os.O_RDONLY)
    assert refresh(one, tmp_path, changed, Facts()) == ["volume 'lost': secret \"s\" not found"]
    assert files(path) == {"a": b"new", "d": b"4"} and path.stat().st_ino == inode
    assert os.read(held, 9) == b"1"  # who has opened the old one reads on in it
    os.close(held)
    assert sorted(os.listdir(path)) == sorted([os.readlink(path / "..data"), "..data", "a", "d"])
    assert files(made["lost"]) == {"key": b"hidden"}


@pytest.mark.parametrize(
    ("spec", "mode"),
    [
        ({}, 0o600),
        ({"securityContext": {"fsGroup": 1234}}, 0o640),
        ({"containers": [{"name": "c", "securityContext": {"runAsUser": 1000}}]}, 0o644),
    ],
)
def test_a_token_is_a_file_that_only_its_pod_reads(tmp_path, spec, mode):
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"serviceAccountToken": {"path": "vault", "audience": "vault"}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    document = {"metadata": {"namespace": "ns"}, "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "projected": {"sources": sources}}], **spec}}
    one = view_of(Pod, document)
    assert tokens_named(one) == {Token("", 3607), Token("vault", 3600)}
    with pytest.raises(ConfigError, match="no token"):
        prepare(one, tmp_path, Given(), Facts())
    path = prepare(one, tmp_path, Given({}, {Token("", 3607): "abc", Token("vault", 3600): "def"}), Facts())["v"]
    assert files(path) == {"token": b"abc", "vault": b"def", "namespace": b"ns"}
    assert (path / "token").stat().st_mode & 0o777 == mode
    assert (path / "token").stat().st_gid == (1234 if "securityContext" in spec else 0)


def test_amounts_are_told_in_files_as_well(tmp_path):
    def reference(name, resource):
        return {"path": name, "resourceFieldRef": {"containerName": "c", "resource": resource, "divisor": "1m" if "cpu" in resource else "1Mi"}}

    items = [reference("cpu", "limits.cpu"), reference("memory", "requests.memory"), reference("all", "limits.memory")]
    container = {"name": "c", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "100Mi"}}}
    one = view_of(Pod, {"spec": {"containers": [container], "volumes": [{"name": "v", "downwardAPI": {"items": items}}]}})
    made = prepare(one, tmp_path, Given(), Facts(allocatable={"memory": "2Gi"}))
    assert files(made["v"]) == {"cpu": b"1500", "memory": b"100", "all": b"2048"}


def test_an_empty_directory_that_grows_too_large_is_told(tmp_path):
    one = pod({"name": "e", "emptyDir": {"sizeLimit": "1Mi"}})
    path = prepare(one, tmp_path, Given(), Facts())["e"]
    (path / "x").write_bytes(b"x" * 1000)
    assert over_limit(one, tmp_path) is None
    (path / "y").write_bytes(b"y" * 2_000_000)
    assert over_limit(one, tmp_path) == 'Usage of EmptyDir volume "e" exceeds the limit "1Mi"'


@pytest.mark.kernel
def test_an_empty_directory_may_be_of_memory(tmp_path):
    one = pod({"name": "e", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    path = prepare(one, tmp_path, Given(), Facts())["e"]
    try:
        statistics = os.statvfs(path)
        assert statistics.f_frsize * statistics.f_blocks == 1 << 20
        (path / "x").touch()
        prepare(one, tmp_path, Given(), Facts())
        assert (path / "x").exists() and mounted_below(str(tmp_path)) == [str(path)]
    finally:
        unmount_below(str(tmp_path))


@pytest.mark.kernel
@pytest.mark.parametrize("medium", ["", "Memory"])
def test_an_empty_directory_that_an_agent_was_making_when_it_was_killed_is_made_whole(tmp_path, medium):
    one = pod({"name": "e", "emptyDir": {"medium": medium}}, securityContext={"fsGroup": 4000})
    (tmp_path / "e").mkdir(mode=0)  # what stands first
    path = prepare(one, tmp_path, Given(), Facts())["e"]
    try:
        told = path.stat()
        assert (told.st_mode & 0o7777, told.st_gid) == (0o2777, 4000)
        assert mounted_below(str(tmp_path)) == ([str(path)] if medium else [])
    finally:
        unmount_below(str(tmp_path))


def test_an_empty_directory_keeps_what_containers_put_there(tmp_path):
    one = pod({"name": "e", "emptyDir": {}})
    path = prepare(one, tmp_path, Given(), Facts())["e"]
    (path / "x").touch()
    assert prepare(one, tmp_path, Given(), Facts())["e"] == path and (path / "x").exists()
    assert path.stat().st_mode & 0o777 == 0o777


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        ({"name": "v", "nfs": {"server": "x"}}, "is of kind nfs"),
        ({"name": "v"}, "is of kind none"),
        ({"name": "v", "configMap": {"name": "gone"}}, 'configmap "gone" not found'),
        ({"name": "v", "configMap": {"name": "cm", "items": [{"key": "zz", "path": "p"}]}}, "couldn't find key zz"),
        ({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "../p"}]}}, "not a relative path"),
        ({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "/p"}]}}, "not a relative path"),
        ({"name": "v", "hostPath": {"path": "/no/such"}}, "does not exist"),
        ({"name": "v", "hostPath": {"path": "/etc", "type": "File"}}, "is not a file"),
        ({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "no token"),
        ({"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}, "projects clusterTrustBundle"),
        ({"name": "v", "emptyDir": {"medium": "HugePages"}}, "medium 'HugePages'"),
        ({"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}, "not supported in a file"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, volume, reason):
    with pytest.raises(ConfigError, match=reason):
        prepare(pod(volume), tmp_path, GIVEN, Facts())


def test_variables_are_made_of_a_configmaps_texts_and_of_all_of_a_secret():
    """Bytes are for files alone: no variable can hold them all."""
    assert texts_of(view_of(ConfigMap, {"data": {"a": "ü"}, "binaryData": {"b": "/wD+"}})) == {"a": "ü"}
    assert texts_of(view_of(Secret, {"data": {"a": "w7w="}})) == {"a": "ü"}


def test_a_container_sees_a_volume_where_it_says(tmp_path):
    (tmp_path / "v").mkdir()
    one = view_of(
        Container,
        {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b", "subPathExpr": "$(POD)", "readOnly": True}]},
    )
    assert mounts_of(one, {"v": tmp_path / "v"}, {"POD": "web"}) == [Mount(f"{tmp_path}/v", "/a"), Mount(f"{tmp_path}/v/web", "/b", True)]
    for wrong in ({"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "a"}, {"name": "v", "mountPath": "/a", "subPath": "../x"}):
        with pytest.raises(ConfigError):
            mounts_of(view_of(Container, {"volumeMounts": [wrong]}), {"v": tmp_path / "v"}, {})
