"""A BIRD of our own: begun with a configuration, given another while it runs, asked how its sessions are, ended.

Rule of this file: it moves text and looks after one process; what the text says stands in ``dataplane.bird``.

Theory. The program is Debian's package bird2. Ours has its configuration, its control socket and its mark in a directory of its own, so it
lives beside any other on the machine. A configuration is put in its place whole, checked, and then read; BIRD keeps the sessions
that it does not change. One that a former self of ours left running, because it was killed, is found by the mark and taken over, so that no
route is taken back for that; it is ended only if it does not answer.

The control socket speaks lines of a code and a text: ``0001 BIRD ready.``; a code of 8000 and above is an error, a line with a
dash after its code has others to follow, one that begins with a space has the code of the line before.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import tempfile
from typing import NamedTuple

from twinstack.kernel import processes
from twinstack.kernel.errors import KernelError, translated

PACKAGE = "bird2"
MARK = "TWINSTACK_BIRD"  # environment variable of every BIRD of ours: its directory
_DIRECTORIES = "/usr/sbin:/usr/local/sbin:/sbin"  # where it may be although a user's PATH does not say so
_ANSWER_SECONDS, _START_SECONDS, _GRACE_SECONDS = 3.0, 10.0, 2.0
_FIRST_ERROR = 8000

log = logging.getLogger(__name__)


class Protocol(NamedTuple):
    """One of BIRD's protocols: its kind (``BGP``), whether it is up, and what BIRD says of it (``Established``)."""

    name: str
    kind: str
    up: bool
    info: str


def find() -> str | None:
    """The program, where it is installed."""
    return shutil.which("bird", path=f"{os.environ.get('PATH', os.defpath)}:{_DIRECTORIES}")


class Bird:
    """One instance, in the network namespace of the caller or the one of a path. Not for two tasks."""

    def __init__(self, directory: str, *, netns: str | None = None) -> None:
        self._directory, self._netns = directory, netns
        self._configuration, self._socket = f"{directory}/bird.conf", f"{directory}/bird.ctl"
        self.pid = 0

    async def start(self, text: str, *, returns: bool = False) -> None:
        """Begin with this configuration, and return when it listens. One that *returns* tells peers that what they kept meanwhile is still good.

        KernelError, ``.missing`` when there is no such program."""
        program = find()
        if program is None:
            raise KernelError(errno.ENOENT, "run bird", f"it is not installed; the package {PACKAGE} has it")
        with translated(f"write {self._configuration}"):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._write(text)
        checked = await processes.run([program, "-p", "-c", self._configuration], timeout=_ANSWER_SECONDS)
        if checked.returncode:
            raise KernelError(errno.EINVAL, f"read {self._configuration}", checked.stderr.decode(errors="replace").strip())
        if await self._took_over():
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket)
        environment = {**os.environ, MARK: self._directory}
        command = [program, "-f", *(["-R"] if returns else []), "-c", self._configuration, "-s", self._socket]
        self.pid = processes.start_detached(command, env=environment, stdout_fd=2, stderr_fd=2, netns=self._netns)
        try:
            await self._until_it_answers()
        except BaseException:
            self.close()
            raise

    async def _took_over(self) -> bool:
        """Whether one that runs already goes on with our configuration; none does any more when it does not."""
        left = processes.marked(MARK, self._directory)
        if len(left) == 1:
            try:
                await self._ask("configure")
                self.pid = left[0]
                return True
            except KernelError as error:
                log.warning("A bird that was left running is ended", extra={"error": str(error)})
        processes.end_all(left, _GRACE_SECONDS)
        return False

    async def _until_it_answers(self) -> None:
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while True:
            try:
                await self._ask("show status")
                return
            except KernelError as error:
                if not processes.alive(self.pid) or asyncio.get_running_loop().time() > deadline:
                    raise KernelError(errno.EIO, "start bird", "it ended or does not answer; its log may say why") from error
            await asyncio.sleep(0.02)

    async def configure(self, text: str) -> None:
        """Let it go on with another configuration; KernelError when it refuses, and then it goes on with the one before."""
        self._write(text)
        await self._ask("configure")

    async def protocols(self) -> list[Protocol]:
        """What it runs."""
        found = []
        for line in await self._ask("show protocols"):
            words = line.split(None, 5)
            if len(words) > 3 and words[0] != "Name":  # name, kind, table, state, since, and what there is to say
                found.append(Protocol(words[0], words[1], words[3] == "up", words[5].strip() if len(words) > 5 else ""))
        return found

    async def ended(self) -> None:
        """Wait until the process has ended."""
        await processes.ended(self.pid)

    async def leave(self) -> None:
        """End it for a restart: peers that agreed to (RFC 4724) keep its routes, all others take them back."""
        with contextlib.suppress(KernelError):  # it goes before it has answered
            await self._ask("graceful restart")
        await processes.ended(self.pid)
        self.close()

    def close(self) -> None:
        """End it: BIRD takes its routes back from its peers as it goes."""
        if self.pid:
            processes.end(self.pid, _GRACE_SECONDS)
            self.pid = 0
        for path in (self._socket, self._configuration):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _write(self, text: str) -> None:
        """Whole or not at all: another reader never sees half a configuration."""
        with translated(f"write {self._configuration}"):
            descriptor, draft = tempfile.mkstemp(dir=self._directory, prefix=".draft-")
            try:
                with open(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                os.replace(draft, self._configuration)
            except BaseException:
                os.unlink(draft)
                raise

    async def _ask(self, command: str) -> list[str]:
        """The lines of an answer, without their codes."""
        what = f"ask bird to {command}"
        with translated(what):
            reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await _answer(reader, what)
                writer.write(command.encode() + b"\n")
                return await _answer(reader, what)
        except TimeoutError as error:
            raise KernelError(errno.ETIMEDOUT, what) from error
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, what) from error
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader, what: str) -> list[str]:
    lines: list[str] = []
    while True:
        line = (await reader.readline()).decode(errors="replace")
        if not line:
            raise KernelError(errno.ECONNRESET, what)
        code, text = line[:4], line[5:].rstrip("\n")
        if line.startswith(" "):
            lines.append(line[1:].rstrip("\n"))
            continue
        if not code.isdigit():
            raise KernelError(errno.EPROTO, what, line.strip())
        lines.append(text)
        if int(code) >= _FIRST_ERROR:
            raise KernelError(errno.EINVAL, what, text)
        if line[4:5] != "-":
            return lines
