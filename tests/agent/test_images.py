"""Images from archives: unpacked as the layers say, never outside of their directory, and kept by name."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from pathlib import Path

import pytest

from twinstack.agent.containers.archives import ImageError
from twinstack.agent.containers.images import Images, normalized


def member(name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, uid: int = 0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.uid = kind, link, mode, uid
    return info, content


def folder(name: str, mode: int = 0o755):
    return member(name, kind=tarfile.DIRTYPE, mode=mode)


def link(name: str, target: str):
    return member(name, kind=tarfile.SYMTYPE, link=target)


def tree(root: str) -> dict[str, str]:
    """What an image's root holds: files with their content, links with their targets, directories."""
    found = {}
    for place, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(place) / name
            text = f"-> {os.readlink(path)}" if path.is_symlink() else "/" if path.is_dir() else path.read_text()
            found[str(path.relative_to(root))] = text
    return found


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


@pytest.mark.parametrize(
    "name, full",
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("user/app:1", "docker.io/user/app:1"),
        ("localhost/app", "localhost/app:latest"),
        ("registry:5000/a/b:v1", "registry:5000/a/b:v1"),
        ("twinstack.local/x@sha256:" + "a" * 64, "twinstack.local/x@sha256:" + "a" * 64),
    ],
)
def test_a_name_is_completed(name: str, full: str) -> None:
    assert normalized(name) == full


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "../x", "a:b:c", "a@sha256:1", "-x", "a//b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ImageError, match="not the name of an image"):
        normalized(name)


def test_layers_lie_over_each_other_and_take_away_what_is_below(images: Images, archive) -> None:
    below = [
        folder("etc"), member("etc/a", b"1"), member("etc/b", b"1"), folder("opt"), member("opt/x", b"1"), folder("opt/d"), member("opt/d/y", b"1"),
        folder("usr"), folder("usr/lib"), link("lib", "usr/lib"), member("was-file", b"1"), folder("was-dir"), member("was-dir/in", b"1"),
        member("bin/su", b"#", mode=0o4755, uid=7),
    ]  # fmt: skip
    above = [
        member("etc/.wh.a"), member("etc/b", b"2"), member("opt/d/new", b"2"), member("opt/.wh..wh..opq"), member("lib/c.so", b"2"), folder("was-file"),
        member("was-dir", b"2"), member("hard", kind=tarfile.LNKTYPE, link="etc/b"), member("/abs/olute", b"2"), member("./dotted", b"2"),
    ]  # fmt: skip
    (image,) = images.load(archive([below, above]))
    assert tree(image.rootfs) == {
        "etc": "/", "etc/b": "2", "opt": "/", "opt/d": "/", "opt/d/new": "2", "usr": "/", "usr/lib": "/", "usr/lib/c.so": "2", "lib": "-> usr/lib",
        "was-file": "/", "was-dir": "2", "hard": "2", "abs": "/", "abs/olute": "2", "dotted": "2", "bin": "/", "bin/su": "#",
    }  # fmt: skip
    told = os.stat(Path(image.rootfs) / "bin/su")
    assert (stat.S_IMODE(told.st_mode), told.st_uid) == (0o4755, 7)
    assert os.stat(Path(image.rootfs) / "hard").st_ino == os.stat(Path(image.rootfs) / "etc/b").st_ino


@pytest.mark.parametrize(
    "members",
    [
        pytest.param([member("../evil", b"x")], id="a path upwards"),
        pytest.param([member("a/../../evil", b"x")], id="a path upwards from within"),
        pytest.param([member("h", kind=tarfile.LNKTYPE, link="../../outside")], id="a hard link upwards"),
        pytest.param([link("a", "b"), link("b", "a"), member("a/x", b"x")], id="links without end"),
    ],
)
def test_a_layer_that_leaves_is_refused_and_nothing_of_the_image_is_kept(images: Images, archive, tmp_path: Path, members: list) -> None:
    (tmp_path / "outside").write_text("safe")
    with pytest.raises(ImageError):
        images.load(archive([members]))
    assert images.all() == []
    assert not (tmp_path / "evil").exists()
    assert [entry for entry in os.listdir(images.directory) if not entry.startswith(".lock")] == []


@pytest.mark.parametrize("target", ["/", "../../../../..", "{outside}"])
def test_a_link_out_of_the_image_leads_nowhere_but_into_it(images: Images, archive, tmp_path: Path, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    layers = [[link("way", target.format(outside=outside))], [member("way/evil", b"x"), member("way/.wh.kept")]]
    (outside / "kept").write_text("1")
    (image,) = images.load(archive(layers))
    assert os.listdir(outside) == ["kept"]
    found = list(Path(image.rootfs).rglob("evil"))
    assert len(found) == 1
    assert not os.path.exists("/evil")


def test_an_oci_layout_is_read_for_this_machine_as_directory_and_as_archive(images: Images, tmp_path: Path) -> None:
    def blob(data: bytes) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    layout = tmp_path / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    manifests = []
    for architecture in (machine, "mips"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            info, content = member("arch", architecture.encode())
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        config = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["x"]}}
        config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(data.getvalue()).hexdigest()}"]}
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **blob(gzip.compress(data.getvalue()))}
        manifest = blob(json.dumps({"schemaVersion": 2, "config": blob(json.dumps(config).encode()), "layers": [layer]}).encode())
        manifests.append({**manifest, "platform": {"os": "linux", "architecture": architecture}})
    index = blob(json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    entry = {**index, "annotations": {"org.opencontainers.image.ref.name": "v1"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    with pytest.raises(ImageError, match=r"only v1.*--tag"):
        images.load(layout)
    (image,) = images.load(layout, name="local/app:1")
    assert tree(image.rootfs) == {"arch": machine}
    packed = tmp_path / "packed.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(layout, ".")
    (again,) = images.load(packed, name="local/app:2")
    assert again.id == image.id
    assert images.all()[0].names == ("docker.io/local/app:1", "docker.io/local/app:2")
    blobs = sorted((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blobs[-1].write_bytes(blobs[-1].read_bytes() + b" ")
    images.remove(image.id)
    with pytest.raises(ImageError, match=r"other content|cannot be uncompressed"):
        images.load(layout, name="local/app:1")


def test_a_name_goes_to_the_image_that_has_it_last_and_an_image_goes_with_its_last_name(images: Images, archive) -> None:
    (first,) = images.load(archive([[member("one", b"1")]], name="app:1"))
    (second,) = images.load(archive([[member("two", b"2")]], name="app:1"))
    assert (found := images.find("app:1")) and found.id == second.id
    assert {image.id: image.names for image in images.all()} == {first.id: (), second.id: ("docker.io/library/app:1",)}
    assert images.find(first.id) is not None and images.find(first.id[7:19]) is not None
    images.remove(first.id)
    images.remove("app:1")
    assert images.all() == []
    with pytest.raises(ImageError, match="no image"):
        images.remove("app:1")


def test_an_image_that_a_container_uses_stays(images: Images, archive, tmp_path: Path) -> None:
    (image,) = images.load(archive([[member("one", b"1")]], name="app:1"))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    images.use(image, "c1", bundle)
    with pytest.raises(ImageError, match="used by 1 container: c1"):
        images.remove("app:1")
    bundle.rmdir()
    images.remove("app:1")


@pytest.mark.parametrize(
    "make, words",
    [
        pytest.param(lambda path: path.write_bytes(b"nonsense"), "not an image archive", id="no archive"),
        pytest.param(lambda path: tarfile.open(path, "w").close(), "neither a manifest.json", id="an empty archive"),
        pytest.param(lambda path: path.mkdir(), "neither a manifest.json", id="an empty directory"),
        pytest.param(lambda path: None, "No such file", id="no file"),
    ],
)
def test_what_is_no_image_is_refused_in_words(images: Images, tmp_path: Path, make, words: str) -> None:
    make(tmp_path / "x")
    with pytest.raises(ImageError, match=words):
        images.load(tmp_path / "x")


def test_a_layer_with_other_content_than_promised_is_refused(images: Images, archive, tmp_path: Path) -> None:
    path = archive([[member("one", b"1" * 600)]])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"1" * 600, b"2" * 600))
    with pytest.raises(ImageError, match="other content"):
        images.load(path)
    assert images.all() == []
