"""The architecture tests itself: sizes, names, docstrings, and what may stand where."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "twinstack").rglob("*.py"))
IDS = [str(path.relative_to(ROOT)) for path in MODULES]
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}
TWIN_WORDS = re.compile(r"\b(ip6|ipv6_addr|AAAA|AF_INET6)\b")


def test_there_is_a_house():
    assert len(MODULES) > 50


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_a_module_is_small_named_for_a_thing_and_says_what_it_is(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600, "wants to be several rooms"
    assert path.stem not in FORBIDDEN_NAMES
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring and docstring.split("\n")[0].strip(), "a module says in its first line what it is"


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py" and path.parent != ROOT / "twinstack"], ids=lambda p: p.parent.name)
def test_a_rooms_door_is_a_docstring_only(path):
    assert [type(node) for node in ast.parse(path.read_text()).body] == [ast.Expr]


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_the_differences_of_the_twins_stand_in_one_table(path):
    if path != ROOT / "twinstack" / "net" / "family.py":
        found = [line for line in path.read_text().splitlines() if TWIN_WORDS.search(line)]
        assert not found


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_public_classes_and_functions_say_what_they_mean(path):
    """Methods that implement a protocol are told there; a click command's docstring is its help."""
    tree = ast.parse(path.read_text())
    kinds = path.parent.name == "api" and path.stem in ("metadata", "nodes", "pods", "services", "workloads")
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and not (isinstance(node, ast.ClassDef) and (kinds or _is_named_by_its_base(node)))
        and not (isinstance(node, ast.FunctionDef) and len(node.body) == 1)
    ]
    assert not silent


def _is_named_by_its_base(node: ast.ClassDef) -> bool:
    """An exception or an enumeration whose name is its whole meaning."""
    return len(node.body) <= 2 and bool(node.bases)


@pytest.mark.parametrize("path", MODULES, ids=IDS)
def test_work_runs_in_task_groups_and_nothing_is_left_open(path):
    text = path.read_text()
    assert "asyncio.create_task(" not in text.replace("group.create_task(", "").replace("tasks.create_task(", ""), "a task belongs to a TaskGroup"
    assert not re.search(r"\b(NotImplementedError|TODO|FIXME|XXX)\b", text)
    assert not re.search(r"#\s*type:\s*ignore\s*$|#\s*noqa\s*$", text, re.MULTILINE), "say which rule is set aside"


def test_no_function_of_our_own_is_patched_in_a_test():
    for path in (ROOT / "tests").rglob("*.py"):
        if path != Path(__file__):
            assert "mock.patch" not in path.read_text(), path


def test_every_dependency_is_decided():
    """Each dependency of pyproject.toml has a line in docs/decisions that names it."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    decisions = "\n".join(path.read_text() for path in (ROOT / "docs" / "decisions").glob("*.md"))
    names = [re.split(r"[<>=\[ ]", line)[0] for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    assert [name for name in names if name not in decisions] == []


def test_the_constraints_pin_versions_and_name_no_address():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+]+", line), line
