"""What is not documented fails here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from twinstack.cli.main import group

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_reference_says_what_the_code_says():
    done = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_link_of_the_documentation_leads_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


def test_every_decision_is_listed():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    for page in folder.glob("0*.md"):
        assert f"]({page.name})" in index


def test_every_room_stands_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for room in sorted(path.name for path in (ROOT / "twinstack").iterdir() if (path / "__init__.py").exists()):
        assert f"**{room}**" in text or f"**{room}**," in text, room


def test_every_page_is_named_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"](docs/{page.name})" not in text] == []


def test_decisions_are_numbered_one_after_the_other_and_listed_so():
    names = sorted(page.name for page in (ROOT / "docs" / "decisions").glob("0*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert re.findall(r"^\| \[\d{4}\]\((0[^)]+)\)", (ROOT / "docs" / "decisions" / "README.md").read_text(), re.MULTILINE) == names


def test_a_fragment_is_one_sentence():
    for fragment in (ROOT / "changes").iterdir():
        assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", fragment.name), fragment.name
        text = " ".join(fragment.read_text().split())
        assert text.endswith(".") and not re.search(r"[.!?] [A-Z]", text), f"{fragment.name}: {text}"


def test_every_flag_says_what_it_means():
    silent = [
        f"{' '.join(path)} {option.opts[0]}"
        for path, command in _commands((), group)
        for option in command.params
        if isinstance(option, click.Option) and not (option.help or "").strip()
    ]
    assert silent == []


def test_every_command_that_takes_words_shows_an_example():
    plain = {("list",), ("version",), ("cni", "serve")}  # which take nothing
    silent = [" ".join(path) for path, command in _commands((), group) if path not in plain and "\b" not in (command.help or "")]
    assert silent == []


def _commands(path: tuple[str, ...], command: click.Command) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from _commands((*path, name), child)


def test_every_metric_stands_in_the_reference():
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    makers = {"Counter", "Gauge", "Histogram", "Summary", "CounterMetricFamily", "GaugeMetricFamily", "HistogramMetricFamily"}
    names = [
        call.args[0].value
        for path in (ROOT / "twinstack").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in makers
        if len(call.args) > 1 and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    ]
    assert len(names) > 30
    assert [name for name in names if f"| `{name.removesuffix('_total')}" not in page] == []


# Words that clients and users see, each with what it is not told for.
_INSIDE = {
    "twinstack.dev/flow-control",  # a header's name, for the request itself
    "twinstack.dev/init",  # a mark between two lives of one agent
    "twinstack.dev/kube-apiserver",  # the owner of a Lease
    "twinstack.dev/load-balancer-node",  # the label of the Leases by which instances know each other
}


def test_every_label_and_annotation_of_ours_is_documented():
    pages = "\n".join(page.read_text() for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    words = {word for path in (ROOT / "twinstack").rglob("*.py") for word in re.findall(r"twinstack\.dev/[A-Za-z][A-Za-z0-9-]+", path.read_text())}
    assert len(words) > 10
    assert sorted(word for word in words - _INSIDE if word not in pages) == []


def test_no_file_knows_a_machine_or_an_address_to_install_from():
    """Paths of somebody's machine and hosts of package indexes mean nothing to others."""
    folders = ("twinstack", "tests", "docs", "changes", "examples", "bench", "native", "tools")
    files = [*ROOT.glob("*.*"), ROOT / "Makefile", *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    somewhere = re.compile(r"(?<![\w.~$}/:-])/(?:home/(?!app\b)|Users/|w[o]rk/)|index-[u]rl|\bpy[p]i\.|registry\.n[p]mjs|proxy\.golan[g]")
    for path in files:
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ".c", ""):
            for line in path.read_text(errors="replace").splitlines():
                assert not somewhere.search(line), f"{path.relative_to(ROOT)}: {line}"
