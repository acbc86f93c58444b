"""A kernel in memory, for tests and rehearsals; it passes the very tests that the real one passes.

Rule of this file: it refuses what the kernel refuses, with the same errno.
"""

from __future__ import annotations

import errno
import re
import threading

from twinstack.dataplane import text
from twinstack.dataplane.ruleset import Learned, Map, StepError, Table, apply
from twinstack.kernel.errors import KernelError
from twinstack.net.family import FAMILIES, Family


class FakeNftables:
    """The tables of one imagined network namespace. ``fail_next`` refuses that many changes with EBUSY."""

    def __init__(self) -> None:
        self.tables: dict[tuple[Family, str], Table] = {}
        self.fail_next = 0
        self.scripts: list[str] = []
        self._lock = threading.Lock()

    def run(self, script: str, *, check: bool = False) -> str:
        with self._lock:  # one transaction at a time, as the kernel has it: the families' syncs come from threads
            return self._run(script, check=check)

    def _run(self, script: str, *, check: bool) -> str:
        if found := re.fullmatch(r"list table (\S+) (\S+)\n", script):
            return self._listed(found[1], found[2])
        if self.fail_next:
            self.fail_next -= 1
            raise KernelError(errno.EBUSY, "nft")
        tables = dict(self.tables)
        try:
            for steps in text.parse_script(script):
                table = apply(steps, tables.pop((steps.family, steps.table), None))
                if table is not None:
                    tables[steps.family, steps.table] = table
        except StepError as error:
            raise KernelError(_number(str(error)), "nft", str(error)) from error
        except text.RulesetSyntaxError as error:
            raise KernelError(errno.EINVAL, "nft", str(error)) from error
        self.scripts.append(script)
        if not check:
            self.tables = tables
        return ""

    def _listed(self, word: str, name: str) -> str:
        for family in FAMILIES:
            if family.facts.nft_family == word and (family, name) in self.tables:
                return text.listing(self.tables[family, name])
        raise KernelError(errno.ENOENT, "nft", f"no table {word} {name}")

    def learned(self, family: Family, table: str, one: Map) -> list[Learned]:
        held = self.tables.get((family, table))
        if held is None or one.name not in held.sets:
            raise KernelError(errno.ENOENT, "read what was learned")
        return [Learned(key, value, 3600, 3600) for key, value in held.elements.get(one.name, {}).items()]

    def close(self) -> None:
        """Nothing to close."""


def _number(message: str) -> int:
    if "in use" in message:
        return errno.EBUSY
    return errno.EEXIST if "another value" in message or "exists otherwise" in message else errno.ENOENT
