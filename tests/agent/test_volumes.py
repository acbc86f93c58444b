"""Volumes as files of the host."""

from __future__ import annotations

import base64

import pytest

from twinstack.agent.containers.base import Mount
from twinstack.agent.environment import ConfigError, Facts
from twinstack.agent.volumes import mounts_of, prepare, sources_named
from twinstack.api.kinds import ConfigMap, Container, Pod, Secret
from twinstack.api.objects import view_of

CM = view_of(ConfigMap, {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\0").decode()}})
SECRET = view_of(Secret, {"data": {"key": base64.b64encode(b"hidden").decode()}})
OBJECTS = {("configmap", "cm"): CM, ("secret", "s"): SECRET, ("configmap", "gone"): None}


def pod(*volumes):
    return view_of(Pod, {"metadata": {"name": "p", "namespace": "ns", "labels": {"x": "y"}}, "spec": {"volumes": list(volumes)}})


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_comes_from_the_api_becomes_files(tmp_path):
    one = pod(
        {"name": "all", "configMap": {"name": "cm"}},
        {"name": "some", "secret": {"secretName": "s", "items": [{"key": "key", "path": "deep/er", "mode": 0o400}]}},
        {"name": "self", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "both", "projected": {"sources": [{"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}}, {"secret": {"name": "s"}}]}},
        {"name": "maybe", "configMap": {"name": "gone", "optional": True}},
    )
    assert sources_named(one) == {("configmap", "cm"), ("secret", "s"), ("configmap", "gone")}
    made = prepare(one, tmp_path, OBJECTS, Facts())
    assert files(made["all"]) == {"a": b"1", "b": b"2", "c": b"\0"}
    assert files(made["some"]) == {"deep/er": b"hidden"} and (made["some"] / "deep/er").stat().st_mode & 0o777 == 0o400
    assert files(made["self"]) == {"labels": b'x="y"'}
    assert files(made["both"]) == {"a": b"1", "key": b"hidden"}
    assert files(made["maybe"]) == {}
    before = made["all"].stat().st_ino
    prepare(one, tmp_path, OBJECTS | {("configmap", "cm"): view_of(ConfigMap, {"data": {"a": "new"}})}, Facts())
    assert (made["all"] / "a").read_bytes() == b"new" and made["all"].stat().st_ino == before


def test_an_empty_directory_keeps_what_containers_put_there(tmp_path):
    one = pod({"name": "e", "emptyDir": {}})
    path = prepare(one, tmp_path, {}, Facts())["e"]
    (path / "x").touch()
    assert prepare(one, tmp_path, {}, Facts())["e"] == path and (path / "x").exists()
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
        ({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "projects serviceAccountToken"),
        ({"name": "v", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "status.podIP"}}]}}, "not supported in a file"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, volume, reason):
    with pytest.raises(ConfigError, match=reason):
        prepare(pod(volume), tmp_path, OBJECTS, Facts())


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
