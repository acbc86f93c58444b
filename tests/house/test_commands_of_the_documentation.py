"""The commands of the documentation, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = {page: found for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if (found := BLOCK.findall(page.read_text()))}


def test_there_are_commands_to_run():
    assert ROOT / "README.md" in PAGES
    assert ROOT / "docs" / "clusters.md" in PAGES
    assert all(line.startswith("$ ") for blocks in PAGES.values() for block in blocks for line in block.splitlines())


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.cluster
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_works_as_written(page: Path, tmp_path: Path):
    """The lines of a page's blocks marked ``console``, one after the other, as a user with a home of his own and a cluster of a name of its own."""
    name = f"tst{os.getpid()}-doc"
    environment = {
        "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "KUBECONFIG": str(tmp_path / "config"),
        "TWINSTACK_NAME": name,
    }
    try:
        for line in "".join(BLOCK.findall(page.read_text())).splitlines():
            done = subprocess.run(
                ["bash", "-c", line.removeprefix("$ ")],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=120,
            )
            assert done.returncode == 0, f"{page.name}: {line}\n{done.stdout}"
    finally:
        subprocess.run(["twinstack", "down"], env=environment, check=True, timeout=120)
