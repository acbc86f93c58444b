"""kubeconfig files: whom to talk to and as whom, and our own entries in the user's file.

Reading follows clientcmd: the flag, else the files of ``KUBECONFIG`` merged (the first to name a thing wins),
else ``~/.kube/config``, else the pod's own service account. Writing touches our own entries only: the file is
worked on as YAML nodes, not as values, so that every scalar of somebody else keeps its very spelling, and it is
replaced whole (temporary file, rename), under the lock file that kubectl uses, with mode 0600.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
import yaml
from yaml.representer import SafeRepresenter

from twinstack.client.tls import Pair
from twinstack.net.cidr import host_port
from twinstack.net.errors import Error

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOCK_SECONDS = 5.0
_SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_NODE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class KubeconfigError(Error):
    """A kubeconfig cannot be read, written or used."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to talk to, and as whom. Certificates and keys are PEM."""

    server: str
    authorities: bytes = b""
    verify: bool = True
    tls_server_name: str = ""
    token: str = ""
    token_file: str = ""
    pair: Pair | None = None
    namespace: str = "default"
    context: str = ""

    def __repr__(self) -> str:
        """Without the secrets, as it may end in a log."""
        return f"Connection(server={self.server!r}, context={self.context!r}, namespace={self.namespace!r})"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What we put into somebody's kubeconfig: one cluster, one user, one context, all of this name."""

    name: str
    server: str
    authorities: bytes = b""
    pair: Pair | None = None
    token: str = ""
    namespace: str = ""

    def __repr__(self) -> str:
        """Without the secrets, as it may end in a log."""
        return f"Entry(name={self.name!r}, server={self.server!r})"


class _Named(NamedTuple):
    """A named entry and the folder that its relative file names start from."""

    fields: Mapping[str, Any]
    folder: Path


# ---- which files


def files(path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> list[Path]:
    """The files to read, in order of precedence; they need not exist."""
    environment = os.environ if environment is None else environment
    if path:
        return [Path(path).expanduser()]
    if named := [Path(part).expanduser() for part in environment.get("KUBECONFIG", "").split(":") if part]:
        return named
    home = environment.get("HOME")
    return [(Path(home) if home else Path.home()) / ".kube" / "config"]


def file_to_write(path: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The file that new entries go into: the first that exists, else the last named (as kubectl has it)."""
    named = files(path, environment)
    return next((one for one in named if one.exists()), named[-1])


# ---- reading


def load(path: str | Path | None = None, *, context: str = "", server: str = "", environment: Mapping[str, str] | None = None) -> Connection:
    """The connection of a context (the current one unless named); *server* overrides its address.

    Errors: KubeconfigError when a file is named and missing or not to be used, or when nothing tells where the API server is.
    """
    environment = os.environ if environment is None else environment
    named = files(path, environment)
    if path and not named[0].exists():
        raise KubeconfigError(f"kubeconfig {named[0]} does not exist")
    sections, current = _read_all([one for one in named if one.exists()])
    if chosen := context or current:
        return _connection(chosen, sections, server)
    if not any(sections.values()) and "KUBERNETES_SERVICE_HOST" in environment:
        return in_cluster(environment)
    if server:
        return Connection(server=_checked_server(server, "--master"))
    texts = ", ".join(str(one) for one in named)
    reason = "has no current context" if any(one.exists() for one in named) else "does not exist"
    raise KubeconfigError(f"no API server to talk to: kubeconfig {texts} {reason}; give --kubeconfig or set KUBECONFIG")


def in_cluster(environment: Mapping[str, str] | None = None, folder: Path = SERVICE_ACCOUNT) -> Connection:
    """The connection of a pod's service account; the token is read anew as it is rotated."""
    environment = os.environ if environment is None else environment
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not port.isdigit():
        raise KubeconfigError("this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
    namespace = _read(folder / "namespace").decode().strip() if (folder / "namespace").exists() else "default"
    return Connection(
        server=f"https://{host_port(host, int(port))}",
        authorities=_read(folder / "ca.crt"),
        token_file=str(folder / "token"),
        namespace=namespace,
    )


def _read_all(paths: list[Path]) -> tuple[dict[str, dict[str, _Named]], str]:
    sections: dict[str, dict[str, _Named]] = {section: {} for section in _SECTIONS}
    current = ""
    for path in paths:
        document = _parse(path)
        for section, inner in _SECTIONS.items():
            listed = document.get(section) or []
            for one in listed if isinstance(listed, list) else []:
                if isinstance(one, dict) and isinstance(one.get("name"), str):
                    fields = one.get(inner)
                    sections[section].setdefault(one["name"], _Named(fields if isinstance(fields, dict) else {}, path.parent))
        current = current or str(document.get("current-context") or "")
    return sections, current


def _parse(path: Path) -> dict[str, Any]:
    # The base loader keeps every scalar a text: a token of digits stays what was written.
    try:
        document = yaml.load(_read(path), Loader=_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"kubeconfig {path} is not YAML: {_one_line(error)}") from error
    if document in (None, ""):
        return {}
    if not isinstance(document, dict):
        raise KubeconfigError(f"kubeconfig {path} is not a kubeconfig: a mapping is expected, not {type(document).__name__}")
    return document


def _connection(name: str, sections: Mapping[str, Mapping[str, _Named]], server: str) -> Connection:
    def part(section: str, key: str) -> _Named:
        if key in sections[section]:
            return sections[section][key]
        raise KubeconfigError(f"the kubeconfig has no {_SECTIONS[section]} {key!r}")

    context = part("contexts", name).fields
    cluster = part("clusters", str(context.get("cluster", "")))
    user = part("users", str(context["user"])) if context.get("user") else _Named({}, Path())
    for refused in ("exec", "auth-provider", "username"):
        if refused in user.fields:
            raise KubeconfigError(f"user {context.get('user')!r} logs in by {refused!r}, which is not supported; use a token or a client certificate")
    if cluster.fields.get("proxy-url"):
        raise KubeconfigError(f"cluster {context.get('cluster')!r} is reached through a proxy-url, which is not supported")
    certificate, key = _data(user, "client-certificate"), _data(user, "client-key")
    if bool(certificate) != bool(key):
        raise KubeconfigError(f"user {context.get('user')!r} has a client certificate without its key, or a key without its certificate")
    token_file = str(user.fields.get("tokenFile") or "")
    return Connection(
        server=_checked_server(server or str(cluster.fields.get("server", "")), f"cluster {context.get('cluster')!r}"),
        authorities=_data(cluster, "certificate-authority"),
        verify=str(cluster.fields.get("insecure-skip-tls-verify", "")).lower() != "true",
        tls_server_name=str(cluster.fields.get("tls-server-name") or ""),
        token=str(user.fields.get("token") or ""),
        token_file=str(user.folder / token_file) if token_file else "",
        pair=Pair(certificate, key) if certificate else None,
        namespace=str(context.get("namespace") or "default"),
        context=name,
    )


def _data(one: _Named, field: str) -> bytes:
    """Inline data wins over a file, as clientcmd has it."""
    if text := one.fields.get(f"{field}-data"):
        try:
            return base64.b64decode(str(text), validate=True)
        except (binascii.Error, ValueError) as error:
            raise KubeconfigError(f"{field}-data is not base64: {error}") from error
    return _read(one.folder / str(one.fields[field])) if one.fields.get(field) else b""


def _checked_server(text: str, whose: str) -> str:
    text = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise KubeconfigError(f"the server of {whose} is {text!r}, which is no address such as https://192.0.2.1:6443 or https://[2001:db8::1]:6443")
    return text.rstrip("/")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise KubeconfigError(f"{str(path)!r} cannot be read: it is no path: {error}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


# ---- writing


def merge(path: str | Path, entry: Entry, *, set_current: bool = True) -> None:
    """Put our entry into the file, in place of one of the same name; make the file if there is none."""
    cluster: dict[str, Any] = {"server": entry.server}
    if entry.authorities:
        cluster["certificate-authority-data"] = base64.b64encode(entry.authorities).decode()
    user: dict[str, Any] = {}
    if entry.pair is not None:
        user["client-certificate-data"] = base64.b64encode(entry.pair.certificate).decode()
        user["client-key-data"] = base64.b64encode(entry.pair.key).decode()
    if entry.token:
        user["token"] = entry.token
    context: dict[str, Any] = {"cluster": entry.name, "user": entry.name}
    if entry.namespace:
        context["namespace"] = entry.namespace
    values = {"clusters": cluster, "users": user, "contexts": context}
    with _edited(Path(path), create=True) as root:
        for section, inner in _SECTIONS.items():
            _put(_section(root, section, path), entry.name, _node({"name": entry.name, inner: values[section]}))
        if set_current or _get(root, "current-context") is None:
            _set(root, "current-context", _node(entry.name if set_current else ""))


def remove(path: str | Path, name: str) -> bool:
    """Take our entry out again, and current-context if it is ours; False when the file has nothing of this name."""
    if not Path(path).exists():
        return False
    found = False
    with _edited(Path(path), create=False) as root:
        for section in _SECTIONS:
            listed = _get(root, section)
            if isinstance(listed, yaml.SequenceNode):
                kept = [one for one in listed.value if _name_of(one) != name]
                found = found or len(kept) != len(listed.value)
                listed.value[:] = kept
                # An emptied block sequence is written as [], which every reader takes for a list.
                listed.flow_style = listed.flow_style if kept else True
        current = _get(root, "current-context")
        if isinstance(current, yaml.ScalarNode) and current.value == name:
            _set(root, "current-context", _node(""))
            found = True
    return found


def check_writable(path: str | Path) -> None:
    """KubeconfigError when :func:`merge` could not write this file; nothing is changed."""
    target = Path(os.path.realpath(path))
    if target.exists():
        if not target.is_file():
            raise KubeconfigError(f"kubeconfig {target} cannot be written: it is not a file")
        _compose(target)
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise KubeconfigError(f"kubeconfig {target} cannot be written: {error.strerror}") from error


@contextmanager
def _edited(path: Path, *, create: bool) -> Iterator[yaml.MappingNode]:
    """The file's root node, to be changed in place; written back, atomically, if anything changed."""
    # A symbolic link stays one: what it points to is replaced.
    target = Path(os.path.realpath(path))
    try:
        if create:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        with _locked(target):
            root = _compose(target) if target.exists() else _fresh()
            before = _text(root)
            yield root
            after = _text(root)
            if after != before or not target.exists():
                _replace(target, after)
    except OSError as error:
        raise KubeconfigError(f"kubeconfig {target} cannot be written: {error.strerror}") from error


def _text(root: yaml.Node) -> str:
    text: str = yaml.serialize(root, Dumper=_DUMPER, allow_unicode=True, width=1 << 20)
    return text


def _compose(path: Path) -> yaml.MappingNode:
    try:
        root = yaml.compose(_read(path).decode(), Loader=_NODE_LOADER)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"kubeconfig {path} is not YAML: {_one_line(error)}") from error
    if root is None:
        return _fresh()
    if not isinstance(root, yaml.MappingNode):
        raise KubeconfigError(f"kubeconfig {path} is not a kubeconfig: a mapping is expected")
    return root


def _fresh() -> yaml.MappingNode:
    node = _node({"apiVersion": "v1", "kind": "Config", "preferences": {}})
    assert isinstance(node, yaml.MappingNode)
    return node


def _node(value: Any) -> yaml.Node:
    node: yaml.Node = SafeRepresenter(default_flow_style=False, sort_keys=False).represent_data(value)
    return node


def _get(root: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for name, value in root.value if name.value == key), None)


def _set(root: yaml.MappingNode, key: str, node: yaml.Node) -> None:
    for i, (name, _) in enumerate(root.value):
        if name.value == key:
            root.value[i] = (name, node)
            return
    root.value.append((_node(key), node))


def _section(root: yaml.MappingNode, section: str, path: str | Path) -> yaml.SequenceNode:
    listed = _get(root, section)
    if listed is None or (isinstance(listed, yaml.ScalarNode) and listed.tag.endswith(":null")):
        listed = yaml.SequenceNode("tag:yaml.org,2002:seq", [], flow_style=False)
        _set(root, section, listed)
    if not isinstance(listed, yaml.SequenceNode):
        raise KubeconfigError(f"kubeconfig {path} is not a kubeconfig: {section} is not a list")
    if not listed.value:
        listed.flow_style = root.flow_style
    return listed


def _put(listed: yaml.SequenceNode, name: str, node: yaml.Node) -> None:
    for i, one in enumerate(listed.value):
        if _name_of(one) == name:
            listed.value[i] = node
            return
    listed.value.append(node)


def _name_of(node: yaml.Node) -> str:
    name = _get(node, "name") if isinstance(node, yaml.MappingNode) else None
    return str(name.value) if isinstance(name, yaml.ScalarNode) else ""


def _replace(target: Path, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError, PermissionError):
            owner = target.stat()
            os.chown(temporary, owner.st_uid, owner.st_gid)
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold ``<file>.lock``, as kubectl does. A lock of ours whose process is gone is broken."""
    lock = Path(f"{target}.lock")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            break
        except FileExistsError:
            if _is_orphan(lock):
                with suppress(FileNotFoundError):
                    lock.unlink()
            elif time.monotonic() > deadline:
                raise KubeconfigError(f"kubeconfig {target} is locked: {lock} exists; remove it if no other program is writing") from None
            else:
                time.sleep(0.02)
    try:
        os.write(descriptor, f"twinstack {os.getpid()}\n".encode())
        os.close(descriptor)
        yield
    finally:
        with suppress(FileNotFoundError):
            lock.unlink()


def _is_orphan(lock: Path) -> bool:
    try:
        mark, _, pid = lock.read_text().strip().partition(" ")
    except (OSError, UnicodeDecodeError):
        return False
    return mark == "twinstack" and pid.isdigit() and not Path(f"/proc/{pid}").exists()
