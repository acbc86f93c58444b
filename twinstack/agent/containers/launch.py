"""From a freshly forked process to a container: namespaces, mounts, identity, exec.

Rule of this file: everything here runs in a single-threaded process that has just been forked by the spawner
and will either become the container or tell, through a pipe, which step failed. Nothing is imported but the
standard library's thinnest part, for the spawner's memory is paid on every node.

Theory. A container is a process with its own view: the pod's network, IPC and UTS namespaces (given as
descriptors), a PID namespace (made by the spawner, so that this process is its PID 1), and a mount namespace
made here. All mounts are made slaves first, so nothing done here reaches the host. A mount point that does not
exist on the host is made in a *shadow*: a tmpfs over the deepest directory that exists, with everything that
stood there bound back in; the root itself is shadowed by a new root (``pivot_root``).
"""

from __future__ import annotations

import binascii
import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import socket
import stat
import struct
import termios
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_UNBINDABLE, _MS_PRIVATE, _MS_SLAVE = 0x20, 0x1000, 0x4000, 0x20000, 0x40000, 0x80000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_AT_FDCWD, _AT_RECURSIVE, _OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = -100, 0x8000, 1, 4
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441  # the same on every architecture that we run on
_STAGE = "/tmp"

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _INSTRUCTION = 22, 2, 8  # the last: bytes of a struct sock_filter
_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog: how many instructions, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Step(Exception):
    """A step that failed: what was done, and errno."""

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.number = number


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise Step(what, ctypes.get_errno())


def unshare(flags: int) -> None:
    """Give this process new namespaces."""
    _checked(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Join namespaces: those of a namespace's descriptor, or of the process that a pidfd refers to (Linux 5.8)."""
    _checked(_libc.setns(descriptor, flags), "setns")


def set_hostname(name: str) -> None:
    """Set the host name of this process's UTS namespace."""
    data = name.encode()
    _checked(_libc.sethostname(data, len(data)), "sethostname")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)"""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _checked(_libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def _tree(source: str) -> int:
    """A detached copy of a file or directory with what is mounted below it, to be put anywhere (Linux 5.2)."""
    descriptor = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
    if descriptor < 0:
        raise Step(f"open {source}", ctypes.get_errno())
    return int(descriptor)


def _set_read_only(place: str, readonly: bool) -> None:
    """Change a mount and all below it (mount_setattr(2), Linux 5.12)."""
    wanted = struct.pack("QQQQ", int(readonly), int(not readonly), 0, 0)  # MOUNT_ATTR_RDONLY is 1: what is set, what is cleared
    result = _libc.syscall(_SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(place), _AT_RECURSIVE, wanted, ctypes.c_size_t(len(wanted)))
    _checked(result, f"mount {place} {'read-only' if readonly else 'to be written'}")


def _is_console(name: str) -> bool:
    """Whether a device is one of the host's many consoles, which no container has anything to do with."""
    return name.startswith("vcs") or (name.startswith("tty") and name[3:4] in tuple("0123456789S"))


class _Mounts:
    """The mount namespace of one container, as it is being arranged."""

    def __init__(self) -> None:
        self._ours: set[int] = set()  # devices of our own tmpfs, where directories may be made freely

    def arrange(self, binds: Sequence[Sequence[Any]]) -> None:
        """*binds*: (source, target, read-only, …) each; targets that do not exist are made. All follow what is mounted on the host."""
        mount(None, "/", None, _MS_REC | _MS_SLAVE)
        self._show_links()
        trees = [
            (_tree(source), os.path.normpath(target), readonly, recursively) for source, target, readonly, _, recursively in binds
        ]  # before anything hides them
        for place in ("/tmp", "/dev/shm"):
            if os.path.isdir(place):
                mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=1777")
                self._ours.add(os.stat(place).st_dev)
        for tree, target, readonly, recursively in sorted(trees, key=lambda one: one[1].count("/")):
            self._make(target, directory=stat.S_ISDIR(os.fstat(tree).st_mode))
            _checked(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH), f"mount {target}")
            os.close(tree)
            if readonly and recursively:
                _set_read_only(target, True)
            elif readonly:
                mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)

    @staticmethod
    def protect(binds: Sequence[Sequence[Any]]) -> None:
        """Let everything be read-only but what *binds* give to be written, shared memory, and the kernel's own."""
        _set_read_only("/", True)
        for place in ("/proc", "/dev/shm", "/dev/pts", "/dev/mqueue", *(os.path.normpath(target) for _, target, readonly, *_ in binds if not readonly)):
            if os.path.ismount(place):
                _set_read_only(place, False)

    @staticmethod
    def _show_links() -> None:
        """Let /sys/class/net be of the pod's network namespace, and control groups stay where they are."""
        cgroups = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC) if os.path.isdir("/sys/fs/cgroup") else -1
        try:
            mount("sysfs", "/sys", "sysfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
        except Step as error:
            if error.number == errno.EBUSY:  # it is that very namespace's already
                return
            raise
        if cgroups >= 0:
            mount(f"/proc/self/fd/{cgroups}", "/sys/fs/cgroup", None, _MS_BIND | _MS_REC)

    def _make(self, target: str, *, directory: bool) -> None:
        """Make a mount point that does not exist without touching the host's file system."""
        if os.path.exists(target):
            return
        parent = os.path.dirname(target)
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        if os.stat(parent).st_dev not in self._ours:
            self._shadow(os.path.realpath(parent))
        os.makedirs(target if directory else os.path.dirname(target), exist_ok=True)
        if not directory:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))

    def _shadow(self, directory: str) -> None:
        """Put a tmpfs over a directory, with all that stands there bound back in."""
        old = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        names = [name for name in os.listdir(directory) if directory != "/dev" or not _is_console(name)]
        mode = stat.S_IMODE(os.fstat(old).st_mode)
        place = directory
        if directory == "/":
            # the new root is put together out of sight, then it takes the old one's place; /tmp is a tmpfs of our own here
            place = f"{_STAGE}/.root"
            os.mkdir(place)
        mount("tmpfs", place, "tmpfs", _MS_NOSUID, f"mode={mode:o}")
        mount(None, place, None, _MS_UNBINDABLE)  # lest it be bound into itself with its parent
        for name in names:
            self._bind_back(f"/proc/self/fd/{old}/{name}", os.path.join(place, name))
        if directory == "/":
            os.chdir(place)
            _checked(_libc.pivot_root(b".", b"."), "pivot_root")
            _checked(_libc.umount2(b".", _MNT_DETACH), "leave the old root")
            os.chdir("/")
            os.rmdir(place)
        mount(None, directory, None, _MS_PRIVATE)
        os.close(old)
        self._ours.add(os.stat(directory).st_dev)

    @staticmethod
    def _bind_back(source: str, target: str) -> None:
        try:
            kind = os.lstat(source).st_mode
            if stat.S_ISLNK(kind):
                os.symlink(os.readlink(source), target)
                return
            if stat.S_ISDIR(kind):
                os.mkdir(target)
            else:
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except FileNotFoundError:  # it went away meanwhile
            return
        mount(source, target, None, _MS_BIND | _MS_REC)


def _take_identity(spec: Mapping[str, Any]) -> None:
    if spec.get("gid") is not None or spec.get("uid") is not None or spec.get("groups"):
        gid = spec.get("gid") or 0
        os.setgroups(spec.get("groups") or ([] if spec.get("uid") else [0]))
        os.setresgid(gid, gid, gid)
    if spec.get("uid") is not None:
        os.setresuid(spec["uid"], spec["uid"], spec["uid"])


def _execute(argv: Sequence[str], spec: Mapping[str, Any], *, files_limit: tuple[int, int]) -> NoReturn:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, files_limit)
    _take_identity(spec)
    end_with_parent()  # after the identity, whose change clears it
    cwd = spec.get("cwd") or "/"
    try:
        os.chdir(cwd)
    except OSError as error:
        raise Step(f"working directory {cwd!r}", error.errno or 0) from error
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], list(argv), dict(spec["env"]))
    except OSError as error:
        raise Step(f"execute {argv[0]!r}", error.errno or 0) from error


def end_with_parent() -> None:
    """Let the kernel end this process when its parent ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "prctl")


Groups = list[tuple[str, int]]
"""Control groups that are to be joined: a name, and the descriptor of the file by which that is done."""


def _groups(spec: Mapping[str, Any]) -> Groups:
    """The container's control groups, opened while their files can still be seen."""
    opened = []
    for path in spec.get("cgroups") or ():
        try:
            opened.append((os.path.dirname(path), os.open(path, os.O_WRONLY | os.O_CLOEXEC)))
        except OSError as error:
            raise Step(f"join {os.path.dirname(path)}", error.errno or 0) from error
    return opened


def _set_oom_score(spec: Mapping[str, Any]) -> None:
    """Say how soon the kernel may end this process; who may not go lower than he is stays there (CAP_SYS_RESOURCE)."""
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        try:
            file.write(str(spec.get("oom_score") or 0).encode())
        except PermissionError:
            if int(file.read()) <= spec["oom_score"]:
                raise


def _join(groups: Groups) -> None:
    """Join control groups; last of all, for what makes the container need not wait for its share of the processor."""
    for name, descriptor in groups:
        try:
            os.write(descriptor, b"0")
            os.close(descriptor)
        except OSError as error:
            raise Step(f"join {name}", error.errno or 0) from error


def _standard_streams(stdin: int, stdout: int, stderr: int) -> None:
    # duplicates first: a source may itself have a number below 3
    copies = [os.dup(fd) for fd in (stdin, stdout, stderr)]
    for number, fd in enumerate(copies):
        os.dup2(fd, number, inheritable=True)


def _take_terminal(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Make standard input this session's terminal, of the container's user; what it is then started with."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if spec.get("uid") is not None:
        os.fchown(0, spec["uid"], -1)
    return {**spec, "env": {"TERM": "xterm", **spec["env"]}}


def _open_terminal() -> tuple[int, int]:
    """A terminal of the mount namespace that this process is in: master and slave end."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    return master, fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def _send_master(carrier: int, master: int) -> None:
    with socket.socket(fileno=os.dup(carrier)) as one:
        socket.send_fds(one, [b"\0"], [master])
    os.close(master)


def become_container(
    spec: Mapping[str, Any], *, namespaces: Sequence[tuple[int, int]], stdin: int, stdout: int, stderr: int, report: int, files_limit: tuple[int, int]
) -> NoReturn:
    """Turn this forked process into the container; *namespaces* are (descriptor, flag) to join first, *stdin* -1 for none."""
    try:
        os.setsid()
        groups = _groups(spec)
        _set_oom_score(spec)
        for descriptor, flag in namespaces:
            setns(descriptor, flag)
        unshare(CLONE_NEWNS)
        _standard_streams(stdin if stdin >= 0 else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), stdout, stderr)
        if spec.get("tty"):
            spec = _take_terminal(spec)
        binds = spec.get("mounts") or ()
        mounts = _Mounts()
        mounts.arrange(binds)
        if spec.get("readonly"):
            mounts.protect(binds)
        argv = [spec["init"], "--", *spec["argv"]] if spec.get("init") else spec["argv"]
        _join(groups)
        limit(spec)
        _execute(argv, spec, files_limit=files_limit)
    except BaseException as error:
        _tell(report, error)


def become_image(
    spec: Mapping[str, Any], *, namespaces: Sequence[tuple[int, int]], stdin: int, stdout: int, stderr: int, report: int, files_limit: tuple[int, int]
) -> NoReturn:
    """Turn this forked process into crun, which makes the container of a bundle (see ``containers.oci``) and ends."""
    try:
        import resource

        bundle = spec["bundle"]
        os.setsid()
        groups = _groups(spec)
        _set_oom_score(spec)
        for descriptor, flag in namespaces:
            setns(descriptor, flag)
        unshare(CLONE_NEWNS)
        mount(None, "/", None, _MS_REC | _MS_SLAVE)
        _hide_unified()
        options = ",".join(
            f"{key}={path}" for key, path in (("lowerdir", spec["rootfs"].replace(":", "\\:")), ("upperdir", f"{bundle}/upper"), ("workdir", f"{bundle}/work"))
        )
        mount("overlay", f"{bundle}/rootfs", "overlay", 0, options)
        _standard_streams(stdin if stdin >= 0 else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), stdout, stderr)
        resource.setrlimit(resource.RLIMIT_NOFILE, files_limit)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        argv = ["crun", f"--root={bundle}/crun", "--cgroup-manager=disabled", f"--log={bundle}/log", "--log-format=json"]
        argv += ["run", "--detach", f"--bundle={bundle}", f"--pid-file={bundle}/pid", spec["id"]]
        _join(groups)
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            raise Step("execute crun", error.errno or 0) from error
    except BaseException as error:
        _tell(report, error)


def _hide_unified() -> None:
    """Take the unified tree of control groups out of sight where there are trees of version 1, too: crun refuses to work beside both."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounted = [(line.split(" ")[4], line.partition(" - ")[2].split(" ")[0]) for line in file]
    if any(kind == "cgroup" for _, kind in mounted):
        for place, kind in mounted:
            if kind == "cgroup2" and _libc.umount2(os.fsencode(place), _MNT_DETACH) != 0:
                mount("tmpfs", place, "tmpfs", _MS_NOSUID)  # whose mount it is may not be taken away


def limit(spec: Mapping[str, Any]) -> None:
    """Give up, for good, the capabilities and system calls that the container has not."""
    if spec.get("capabilities") is not None:
        kept = set(spec["capabilities"])
        for number in range(64):
            if number not in kept and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
                if ctypes.get_errno() == errno.EINVAL:  # beyond the last that this kernel knows
                    break
                raise Step("give up capabilities", ctypes.get_errno())
    if spec.get("no_new_privileges"):
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if program := binascii.a2b_base64(spec.get("seccomp") or ""):
        code = ctypes.create_string_buffer(program, len(program))
        filters = _Program(len(program) // _INSTRUCTION, ctypes.cast(code, ctypes.c_void_p))
        _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filters), 0, 0), "seccomp")


def adopt_orphans() -> None:
    """Become the parent of what descendants leave behind (PR_SET_CHILD_SUBREAPER)."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def become_command(
    argv: Sequence[str], spec: Mapping[str, Any], *, container: int, stdin: int, stdout: int, stderr: int, tty: bool, report: int, files_limit: tuple[int, int]
) -> NoReturn:
    """Turn this forked process, born in the container's PID namespace, into a command inside it; *container* is its pidfd.

    With *tty*, ``stdin`` is a socket that the terminal's master end is sent through.
    """
    try:
        os.setsid()
        _set_oom_score(spec)
        _join(_groups(spec))
        if not tty:
            _standard_streams(stdin if stdin >= 0 else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), stdout, stderr)
            setns(container, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
        else:
            master, slave = os.openpty()  # for a container that has none of its own
            setns(container, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)
            with contextlib.suppress(OSError):
                master, slave = _open_terminal()
            _send_master(stdin, master)
            _standard_streams(slave, slave, slave)
            spec = _take_terminal(spec)
        limit(spec)
        _execute(argv, spec, files_limit=files_limit)
    except BaseException as error:
        _tell(report, error)


def _tell(report: int, error: BaseException) -> NoReturn:
    """Say which step failed, and end. The parent takes an end without a word for success."""
    number = getattr(error, "number", None) or getattr(error, "errno", None) or 0
    try:
        os.write(report, f"{number} {error or type(error).__name__}".encode()[:4000])
    finally:
        os._exit(128)
