"""kubeconfig files: found as kubectl finds them, and changed without touching what is not ours."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twinstack.client import kubeconfig
from twinstack.client.certificates import Pair
from twinstack.client.kubeconfig import Entry, KubeconfigError

OTHERS = """\
# a comment
apiVersion: v1
kind: Config
preferences: {colors: yes}
clusters:
- name: prod
  cluster:
    server: https://prod.example:6443
    insecure-skip-tls-verify: true
    extensions: [{name: x, extension: {last-update: 2026-01-02, provider: kind, n: 0123, f: 1_000, o: ~}}]
users:
- user: {token: "0123"}
  name: admin
- name: numeric
  user:
    token: 0777
contexts:
- name: prod
  context: {cluster: prod, user: admin, namespace: "null"}
- name: numeric
  context: {cluster: prod, user: numeric}
current-context: prod
something-else: {a: [1, 2, on]}
"""
ENTRY = Entry(name="twinstack-test", server="https://[2001:db8::1]:6443", authorities=b"CA", pair=Pair(b"CERT", b"KEY"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(OTHERS)
    path.chmod(0o644)
    return path


def test_an_entry_comes_and_goes_and_all_else_means_what_it_meant(file: Path) -> None:
    before = yaml.safe_load(OTHERS)
    texts = yaml.load(OTHERS, Loader=yaml.BaseLoader)
    kubeconfig.merge(file, ENTRY)
    assert kubeconfig.load(file).server == "https://[2001:db8::1]:6443"
    assert kubeconfig.remove(file, ENTRY.name)
    before["current-context"] = texts["current-context"] = ""
    assert yaml.safe_load(file.read_text()) == before
    assert yaml.load(file.read_text(), Loader=yaml.BaseLoader) == texts
    assert not kubeconfig.remove(file, ENTRY.name)


def test_merging_twice_leaves_one_entry_and_the_newer(file: Path) -> None:
    kubeconfig.merge(file, ENTRY)
    kubeconfig.merge(file, Entry(name="twinstack-test", server="https://192.0.2.1:6443", token="t"))
    document = yaml.safe_load(file.read_text())
    for section in ("clusters", "users", "contexts"):
        assert [one["name"] for one in document[section]].count("twinstack-test") == 1
    assert kubeconfig.load(file, context="twinstack-test").token == "t"


def test_the_current_context_is_left_alone_when_asked(file: Path) -> None:
    kubeconfig.merge(file, ENTRY, set_current=False)
    assert yaml.safe_load(file.read_text())["current-context"] == "prod"
    assert kubeconfig.remove(file, ENTRY.name)
    assert yaml.safe_load(file.read_text())["current-context"] == "prod"


def test_a_file_that_does_not_exist_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "config"
    kubeconfig.merge(path, ENTRY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(path.parent.glob("*.lock")) and len(list(path.parent.iterdir())) == 1
    connection = kubeconfig.load(path)
    assert (connection.authorities, connection.pair, connection.context) == (b"CA", Pair(b"CERT", b"KEY"), "twinstack-test")
    assert kubeconfig.remove(path, ENTRY.name)
    assert yaml.safe_load(path.read_text())["clusters"] == []


def test_an_existing_file_becomes_private_and_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    kubeconfig.merge(link, ENTRY)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "twinstack-test" in file.read_text()


def test_json_and_empty_and_null_sections_are_kubeconfigs_too(tmp_path: Path) -> None:
    for text in ("", '{"kind": "Config", "clusters": [], "users": null}', "clusters: null\ncontexts:\n"):
        path = tmp_path / "config"
        path.write_text(text)
        kubeconfig.merge(path, ENTRY)
        assert kubeconfig.load(path).server == ENTRY.server


def test_the_flag_wins_over_the_environment_and_that_over_home(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert kubeconfig.files(None, home) == [tmp_path / ".kube" / "config"]
    assert kubeconfig.files(None, {**home, "KUBECONFIG": "/a:/b:"}) == [Path("/a"), Path("/b")]
    assert kubeconfig.files("/c", {**home, "KUBECONFIG": "/a"}) == [Path("/c")]
    (tmp_path / "b").write_text("")
    assert kubeconfig.file_to_write(None, {"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"}) == tmp_path / "b"
    assert kubeconfig.file_to_write(None, {"KUBECONFIG": f"{tmp_path}/a:{tmp_path}/c"}) == tmp_path / "c"


def test_of_several_files_the_first_to_name_a_thing_wins(file: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_text("users:\n- name: admin\n  user: {token: mine}\n")
    connection = kubeconfig.load(environment={"KUBECONFIG": f"{first}:{tmp_path}/missing:{file}"})
    assert (connection.server, connection.token, connection.verify, connection.namespace) == ("https://prod.example:6443", "mine", False, "null")


def test_a_token_of_digits_stays_what_was_written(file: Path) -> None:
    assert kubeconfig.load(file, context="numeric").token == "0777"
    assert kubeconfig.load(file, context="prod").token == "0123"


def test_files_are_found_beside_the_kubeconfig_and_inline_data_wins(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"FILE")
    path = tmp_path / "config"
    path.write_text("clusters: [{name: a, cluster: {server: 'https://h', certificate-authority: ca.crt}}]\ncontexts: [{name: a, context: {cluster: a}}]\n")
    assert kubeconfig.load(path, context="a").authorities == b"FILE"
    inline = base64.b64encode(b"INLINE").decode()
    path.write_text(path.read_text().replace("certificate-authority: ca.crt", f"certificate-authority: ca.crt, certificate-authority-data: {inline}"))
    assert kubeconfig.load(path, context="a").authorities == b"INLINE"


def test_a_pod_finds_its_service_account(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"CA")
    (tmp_path / "namespace").write_text("demo")
    connection = kubeconfig.in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}, tmp_path)
    assert (connection.server, connection.namespace, connection.token_file) == ("https://[fd00::1]:443", "demo", str(tmp_path / "token"))


@pytest.mark.parametrize(
    "text, words",
    [
        pytest.param("a: [", "is not YAML", id="broken YAML"),
        pytest.param("- a", "is not a kubeconfig", id="a list"),
        pytest.param("current-context: gone", "no context 'gone'", id="a context that is not there"),
        pytest.param("{}", "no current context", id="nothing chosen"),
        pytest.param("{current-context: a, contexts: [{name: a, context: {cluster: b}}]}", "no cluster 'b'", id="a cluster that is not there"),
        pytest.param(
            "{current-context: a, contexts: [{name: a, context: {cluster: b}}], clusters: [{name: b, cluster: {server: 'https://fd00::1:6443'}}]}",
            "is no address such as",
            id="an address without its brackets",
        ),
        pytest.param(
            "{current-context: a, contexts: [{name: a, context: {cluster: b, user: u}}], clusters: [{name: b, cluster: {server: h}}],"
            " users: [{name: u, user: {exec: {command: x}}}]}",
            "'exec', which is not supported",
            id="a login plugin",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(KubeconfigError, match=words) as told:
        kubeconfig.load(path)
    assert "\n" not in str(told.value)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="does not exist"):
        kubeconfig.load(tmp_path / "missing")


def test_a_broken_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text("a: [")
    with pytest.raises(KubeconfigError, match="is not YAML"):
        kubeconfig.merge(path, ENTRY)
    assert path.read_text() == "a: [" and list(tmp_path.iterdir()) == [path]


def test_where_no_file_can_be_is_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "config"):
        with pytest.raises(KubeconfigError, match="cannot be written"):
            kubeconfig.check_writable(path)
        with pytest.raises(KubeconfigError):
            kubeconfig.merge(path, ENTRY)
    kubeconfig.check_writable(tmp_path / "new" / "folder" / "config")
    assert not (tmp_path / "new").exists()


def test_a_lock_of_somebody_else_is_waited_for_and_then_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfig, "LOCK_SECONDS", 0.05)
    lock = Path(f"{file}.lock")
    lock.write_text("")
    with pytest.raises(KubeconfigError, match=r"config\.lock exists"):
        kubeconfig.merge(file, ENTRY)
    assert lock.exists() and file.read_text() == OTHERS


def test_a_lock_of_our_own_dead_process_is_broken(file: Path) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    Path(f"{file}.lock").write_text(f"twinstack {pid}\n")
    kubeconfig.merge(file, ENTRY)
    assert not Path(f"{file}.lock").exists()


# ---- whatever stands in a file

FRAGMENTS = st.sampled_from(
    ["[", "]", "{", "}", "- ", "\n", "  ", ": ", "&a ", "*a", "!!binary ", "'", '"', "\0", "\\x00", "null", "~", "a\u2028b", "<<: *a", "? "]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["admin", "prod", "a\0b", "/", ".", "https://[::1", "-----BEGIN", "QQ=="]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "user", "cluster", "server", "token", "client-key"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def mutilated(draw: st.DrawFn) -> bytes:
    """A kubeconfig with pieces cut out, put in, or with other values."""
    if draw(st.booleans()):
        document = yaml.safe_load(OTHERS)
        for section, inner in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            if draw(st.booleans()):
                listed = document[section]
                fields = [
                    "server",
                    "certificate-authority",
                    "certificate-authority-data",
                    "user",
                    "cluster",
                    "client-key",
                    "client-certificate",
                    "tokenFile",
                    "token",
                ]
                place = draw(st.sampled_from([(document, section), (listed[0], inner), (listed[0], "name"), (listed[0][inner], draw(st.sampled_from(fields)))]))
                place[0][place[1]] = draw(VALUES)
        return str(yaml.safe_dump(document)).encode()
    text = OTHERS
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(FRAGMENTS) + text[start + draw(st.integers(0, 20)) :]
    data = text.encode()
    return data if draw(st.integers(0, 9)) else data[: len(data) // 2] + b"\xff\xfe" + data[len(data) // 2 :]


@pytest.mark.slow
@settings(max_examples=200)
@given(data=mutilated())
@example(data=b"[" * 100_000)
@example(data=b"a: &a [*a]")
@example(
    data=b"clusters: [{name: x, cluster: {server: 'https://a', certificate-authority: \"a\\0b\"}}]\n"
    b"contexts: [{name: x, context: {cluster: x}}]\ncurrent-context: x"
)
def test_any_file_is_a_connection_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = tmp_path_factory.mktemp("any") / "config"
    place.write_bytes(data)
    with contextlib.suppress(KubeconfigError):
        kubeconfig.load(place)
    with contextlib.suppress(KubeconfigError):
        kubeconfig.merge(place, ENTRY)
        assert kubeconfig.load(place).server == ENTRY.server, "what was merged is what is current"
        kubeconfig.remove(place, ENTRY.name)
    assert [one.name for one in place.parent.iterdir()] == ["config"], "nothing is left beside it"
