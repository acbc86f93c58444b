"""Containers from images: the bundle that crun is given, and what of an image a container is started with.

Rule of this file: it writes down what crun is to do; the spawner has it done (``launch.become_image``), so that logs, exec,
attach, signals and ends are the same for every container.

Theory. An image is unpacked once; a container sees it through an overlay of its own, mounted in a mount namespace that dies
with it. All that a container leaves is its bundle, a directory below its pod's. crun makes the PID and mount namespaces,
and joins the pod's network, IPC and host name; control groups are joined before crun is executed, which therefore is told to
manage none. Without its own device group a container might make a node for any device, so CAP_MKNOD is not among the
capabilities that are given unasked.

Facts: OCI runtime specification 1.0 (config.json); upstream kubelet's rules of command, args, user and capabilities.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from twinstack.agent.containers import seccomp
from twinstack.agent.containers.base import USER, Launch, Record, label_of_user
from twinstack.agent.containers.images import Image, Images
from twinstack.agent.containers.layers import read_inside
from twinstack.agent.environment import DEFAULT_PATH, ConfigError, expand
from twinstack.api.kinds import Container
from twinstack.kernel.seccomp import compiled

CRUN, TINI, TINI_INSIDE = "crun", "/usr/bin/tini-static", "/dev/init"
FOLDER = "oci"  # below a pod's directory
PID_NAMESPACE = "pidns"  # in a bundle: a link to the pod's PID namespace, which the spawner makes
BUNDLE = "bundle"  # the label that tells a container's
_CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip
# include/uapi/linux/capability.h, in order of their numbers
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE",
    "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN",
    "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE",
    "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
CAPABILITY_NUMBERS = {name: number for number, name in enumerate(CAPABILITIES)}
_MASKED = ("/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
           "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


class User(NamedTuple):
    """Who a container runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def user_of(image: Image, uid: int | None, gid: int | None, groups: Iterable[int]) -> User:
    """The user that the pod names, else the image's; ConfigError when the image names one that it does not have."""
    named, _, group = str(image.config.get("User") or "").partition(":")
    known = [line.split(":") for line in read_inside(image.rootfs, "/etc/passwd").splitlines() if line.count(":") >= 6]
    if uid is None:
        entry = next((one for one in known if one[0] == named), None)
        if entry is not None:
            uid = int(entry[2])
        elif not named or named.isdecimal():
            uid = int(named or 0)
        else:
            raise ConfigError(f"image has user {named!r}, who is not in its /etc/passwd")
    else:
        group = ""
    entry = next((one for one in known if one[2] == str(uid)), None)
    lines = [line.split(":") for line in read_inside(image.rootfs, "/etc/group").splitlines() if line.count(":") >= 3]
    if gid is None:
        found = next((one[2] for one in lines if one[0] == group), group)
        if found and not found.isdecimal():
            raise ConfigError(f"image has group {group!r}, which is not in its /etc/group")
        gid = int(found) if found else int(entry[3]) if entry is not None else 0
    own = [int(one[2]) for one in lines if entry is not None and entry[0] in one[3].split(",") and one[2].isdecimal()]
    return User(uid, gid, tuple(dict.fromkeys([*groups, *own])), entry[5] if entry is not None else "/")


def command_of(image: Image, command: Sequence[str] | None, args: Sequence[str] | None, variables: Mapping[str, str]) -> list[str]:
    """What a container runs: ``command`` is in the place of the image's entry point and its words, ``args`` of its words alone."""
    entry, words = list(image.config.get("Entrypoint") or ()), list(image.config.get("Cmd") or ())
    if command:
        entry, words = list(command), []
    if args:
        words = list(args)
    if not entry and not words:
        raise ConfigError("container names neither command nor args, and its image has neither entry point nor command")
    given = [expand(word, variables) for word in command or ()] if command else entry
    return [*given, *([expand(word, variables) for word in args] if args else words)]


def environment_of(image: Image, variables: Mapping[str, str], named: Iterable[str], home: str) -> dict[str, str]:
    """The image's variables, those of the pod over them; a default of ours is no word of the pod's unless it is *named*."""
    own = {key: value for key, _, value in (str(text).partition("=") for text in image.config.get("Env") or ())}
    wanted = set(named)
    theirs = {key: value for key, value in variables.items() if key in wanted or key not in ("PATH", "HOME")}
    return {"PATH": DEFAULT_PATH, "HOME": home, **own, **theirs}


def capabilities_of(security: Mapping[str, Any], bounding: int) -> list[str]:
    """The capabilities of a container, without ``CAP_``; never one that we have not ourselves (*bounding*: our bounding set)."""
    told = security.get("capabilities") or {}
    add = [str(name).upper().removeprefix("CAP_") for name in told.get("add") or ()]
    drop = [str(name).upper().removeprefix("CAP_") for name in told.get("drop") or ()]
    for name in {*add, *drop} - {"ALL"}:
        if name not in CAPABILITY_NUMBERS:
            raise ConfigError(f"capability {name!r} is not known")
    given = set(CAPABILITY_NUMBERS) if security.get("privileged") or "ALL" in add else set(_CAPABILITIES)
    if "ALL" in drop:
        given = set()
    given = (given - set(drop)) | (set(add) - {"ALL"})
    missing = sorted(name for name in set(add) & set(CAPABILITY_NUMBERS) if not bounding >> CAPABILITY_NUMBERS[name] & 1)
    if missing:
        raise ConfigError(f"capability {', '.join(missing)} cannot be given: this node's agent does not have it")
    return sorted(name for name in given if bounding >> CAPABILITY_NUMBERS[name] & 1)


def bounding_set() -> int:
    """The capabilities that this process may pass on, as a mask."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return 0


def names_of(mask: int) -> list[str]:
    """The capabilities of a mask."""
    return [name for name, number in CAPABILITY_NUMBERS.items() if mask >> number & 1]


def runtime_problem() -> str | None:
    """Why no image can be run on this machine."""
    return None if shutil.which(CRUN) else f"{CRUN} is not installed: apt-get install {CRUN}"


def config_of(launch: Launch, user: User, security: Mapping[str, Any], capabilities: Sequence[str], *, shared: Sequence[str]) -> dict[str, Any]:
    """The bundle's config.json. The namespaces of *shared* (``network``, ``ipc``, ``uts``, ``pid``) are those that crun finds itself in."""
    privileged = bool(security.get("privileged"))
    caps = [f"CAP_{name}" for name in capabilities]
    argv = [TINI_INSIDE, "--", *launch.argv] if launch.init else list(launch.argv)
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", *([] if privileged else ["ro"])]},
    ]
    if launch.init:
        mounts.append({"destination": TINI_INSIDE, "type": "bind", "source": TINI, "options": ["bind", "ro"]})
    mounts += [
        {
            "destination": mount.target,
            "type": "bind",
            "source": mount.source,
            "options": ["rbind", ("rro" if mount.recursively else "ro") if mount.readonly else "rw", "rslave" if mount.follows else "rprivate"],
        }
        for mount in sorted(launch.mounts, key=lambda one: one.target.rstrip("/").count("/"))
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
            "args": argv,
            "env": [f"{key}={value}" for key, value in launch.env.items()],
            "cwd": launch.cwd,
            "capabilities": dict.fromkeys(("bounding", "permitted", "effective"), caps),
            "noNewPrivileges": security.get("allowPrivilegeEscalation") is False,
        },
        "root": {"path": "rootfs", "readonly": bool(security.get("readOnlyRootFilesystem"))},
        "mounts": mounts,
        "linux": {
            "rootfsPropagation": "rslave",  # what it mounts stays with it, and what the host does can follow
            "namespaces": [{"type": kind} for kind in ("mount", "pid") if kind not in shared],
            "maskedPaths": [] if privileged else list(_MASKED),
            "readonlyPaths": [] if privileged else list(_READ_ONLY),
        },
    }


def prepared(
    launch: Launch,
    image: Image,
    container: Container,
    images: Images,
    place: Path,
    *,
    pod: Mapping[str, Any],
    profiles: seccomp.Profiles,
    target: Record | None = None,
) -> Launch:
    """What a container of an image is launched with; its bundle is written at *place*. ConfigError when it cannot be.

    *pod* is the ``securityContext`` of all, *profiles* the seccomp profiles of the node, *target* the container in whose PID namespace it
    runs, where ``launch.beside`` names one.
    """
    security: Mapping[str, Any] = container.securityContext or {}
    user = user_of(image, launch.uid, launch.gid, launch.groups)
    named = [variable.name for variable in container.env or ()]
    variables = environment_of(image, launch.env, named, user.home)
    if launch.tty:
        variables = {"TERM": "xterm", **variables}
    given = capabilities_of(security, bounding_set())
    profile = seccomp.profile_of(pod, security, given, profiles)
    launch = msgspec.structs.replace(
        launch,
        argv=command_of(image, container.command, container.args, variables),
        env=variables,
        cwd=container.workingDir or str(image.config.get("WorkingDir") or "/"),
        uid=user.uid,
        gid=user.gid,
        groups=user.groups,
        bundle=str(place),
        rootfs=image.rootfs,
        labels={**launch.labels, BUNDLE: str(place), "image": image.id, USER: label_of_user(user.uid, user.gid, user.groups)},
        capabilities=[CAPABILITY_NUMBERS[name] for name in given],
        seccomp=compiled(profile) if profile is not None else b"",
    )
    config = config_of(launch, user, security, given, shared=("pid",) if launch.pids else ())
    if launch.pids == "pod":
        config["linux"]["namespaces"].append({"type": "pid", "path": str(place / PID_NAMESPACE)})
    if profile is not None:
        config["linux"]["seccomp"] = profile
    if launch.beside and target is not None:
        config["linux"]["namespaces"].append({"type": "pid", "path": f"/proc/{target.pid}/ns/pid"})
    write_bundle(place, config)
    images.use(image, launch.id, place)
    return launch


def write_bundle(place: Path, config: Mapping[str, Any]) -> None:
    """Write a bundle's directory, which crun and the overlay find everything in."""
    for name in ("rootfs", "upper", "work", "crun"):
        (place / name).mkdir(parents=True, exist_ok=True)
    os.chmod(place / "upper", 0o755)
    (place / "config.json").write_bytes(msgspec.json.encode(config))


def end_leftovers(pods: Path) -> int:
    """End the containers of bundles whose spawner is gone, which nobody watches any more; returns how many there were."""
    ended = 0
    for status in pods.glob(f"*/{FOLDER}/*/crun/*/status"):
        try:
            told = msgspec.json.decode(status.read_bytes())
            pid, began = int(told["pid"]), int(told["process-start-time"])
            descriptor = os.pidfd_open(pid)
        except (OSError, KeyError, TypeError, ValueError, msgspec.DecodeError):  # it has ended, or was never made
            continue
        try:
            with suppress(OSError):
                if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) == began:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    ended += 1
        finally:
            os.close(descriptor)
    return ended
