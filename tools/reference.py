"""Write docs/reference anew from the code, every command and flag, every resource; and the tables of docs/law.md.

python tools/reference.py           write
python tools/reference.py --check   exit 1 when what stands differs
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from law import filled
from prometheus_client import CollectorRegistry

from twinstack.agent import configuration
from twinstack.api.resources import RESOURCES
from twinstack.cli.main import COMMANDS, group
from twinstack.proxy.metrics import Metrics as ProxyMetrics

_METRIC = re.compile(r"(apiserver|coredns|kubelet|kubeproxy|kubernetes|leader_election|process|twinstack|workqueue)_[a-z0-9_]+")
FOLDER = Path(__file__).parents[1] / "docs" / "reference"
LAW = "../law.md"
STATUSES = [
    "| exit status | means |",
    "|---|---|",
    "| 0 | done |",
    "| 1 | not done, and one line for each reason on stderr (`error: …`); or a check that found something: `status`, `demo`, `store check`, `store rescue` |",
    "| 2 | the command line cannot be read: no such command or flag, no value of its type |",
    "| 128 + N | ended by signal N: 130 after Ctrl-C; `up` leaves nothing behind then |",
    "| another | `shell NODE -- COMMAND` has the status of the command |",
]


def commands() -> str:
    lines = ["# Commands", "", "Written from the code by `make docs`. Every command takes `--help`.", "", *STATUSES, ""]
    root = click.Context(group, info_name="twinstack")
    for title, section in COMMANDS.items():
        lines += [f"## {title}", ""]
        for name in section:
            command = group.get_command(root, name)
            assert command is not None, name
            lines += list(_command(command, click.Context(command, info_name=name, parent=root)))
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"### `{context.command_path}`"
    yield ""
    yield from _paragraphs(inspect.cleandoc(command.help or ""))
    yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _command(child, click.Context(child, info_name=name, parent=context))
        return
    rows = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [row for row in rows if row]
    if rows:
        yield "| flag | meaning |"
        yield "|---|---|"
        for flag, meaning in rows:
            yield f"| `{flag.replace('|', chr(92) + '|')}` | {' '.join(meaning.split()).replace('|', chr(92) + '|')} |"
        yield ""


def _paragraphs(text: str) -> Iterator[str]:
    """A command's help; a paragraph that keeps its lines (click's mark for it) is a title, if it has one, and a block of them."""
    for index, paragraph in enumerate(text.split("\n\n")):
        if index:
            yield ""
        if paragraph.startswith("\b\n"):
            lines = paragraph.splitlines()[1:]
            if not lines[0].startswith(" "):
                yield from (lines.pop(0), "")
            yield from ("```", *inspect.cleandoc("\n" + "\n".join(lines)).splitlines(), "```")
        else:
            yield paragraph


def resources() -> str:
    lines = ["# Resources", "", "Written from the code by `make docs`. What the API server serves, and nothing else.", ""]
    lines += ["| resource | short | group/version | kind | namespaced | subresources |", "|---|---|---|---|---|---|"]
    for one in RESOURCES:
        subresources = ", ".join(f"`{sub.name}`" for sub in one.subresources)
        lines.append(
            f"| `{one.plural}` | {', '.join(one.short_names)} | `{one.api_version}` | {one.kind} | {'yes' if one.namespaced else 'no'} | {subresources} |"
        )
    return "\n".join(lines) + "\n"


def law() -> str:
    """The page as it stands, its tables made anew."""
    return filled((FOLDER / LAW).read_text())


def metrics() -> str:
    """Every metric, read from the code: a call whose first argument is a metric's name and whose second says what it is."""
    rows: dict[str, tuple[str, str]] = {}
    root = Path(__file__).parents[1] / "twinstack"
    for path in sorted(root.rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            words = [_text(argument) for argument in call.args[:2]]
            if len(words) == 2 and words[0] and words[1] and _METRIC.fullmatch(words[0]) and words[1].endswith("."):
                rows.setdefault(words[0], (path.relative_to(root).parts[0], words[1]))
        for name, words in _families_of(path):
            rows.setdefault(name, (path.relative_to(root).parts[0], words))
    registry = CollectorRegistry()
    ProxyMetrics(registry)
    for family in registry.collect():
        rows.setdefault(family.name, ("proxy", family.documentation))
    lines = [
        "# Metrics",
        "",
        "Written from the code by `make docs`. Every program serves its own on `/metrics`; a counter's name ends in `_total` there.",
        "",
        "| metric | room | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {room} | {text} |" for name, (room, text) in sorted(rows.items())]
    return "\n".join(lines) + "\n"


def _families_of(path: Path) -> Iterator[tuple[str, str]]:
    """The metrics of a table: a name, and a type, what it says and the lines."""
    for table in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Dict)):
        for key, value in zip(table.keys, table.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple) and value.elts and _text(value.elts[0]) in ("counter", "gauge"):
                yield _text(key), _text(value.elts[1])


def kubelet_configuration() -> str:
    """What becomes of each field of a KubeletConfiguration."""
    lines = [
        "# KubeletConfiguration",
        "",
        f"Written from the code by `make docs`. `twinstack kubelet --config` reads `{configuration.API_VERSION}` strictly: an unknown field, or a key that",
        "stands twice, stops it. A duration or number that is zero means the default. Flags win over the file.",
        "",
        "| field | what becomes of it |",
        "|---|---|",
    ]
    told = dict.fromkeys((*configuration.OBEYED, *configuration.WORDS), "obeyed")
    told |= {field: f"left out with a warning: {why}" for field, (_, why) in configuration.LEFT_OUT.items()}
    told |= {field: f"refused{_but(usual)}: {why}" for field, (usual, why) in configuration.REFUSED.items()}
    lines += [f"| `{field}` | {text} |" for field, text in sorted(told.items(), key=lambda one: one[0].lower())]
    return "\n".join(lines) + "\n"


def _but(usual: object) -> str:
    return f" but for `{str(usual).lower() if isinstance(usual, bool) else usual}`" if usual not in (None, "") else ""


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


PAGES = {"commands.md": commands, "resources.md": resources, "metrics.md": metrics, "kubelet-configuration.md": kubelet_configuration, LAW: law}


def main() -> int:
    differing = []
    for name, write in PAGES.items():
        path, text = FOLDER / name, write()
        if not path.exists() or path.read_text() != text:
            differing.append(name)
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for name in differing:
        print(f"docs/reference/{name} {'differs from the code; run make docs' if '--check' in sys.argv else 'written'}")
    return 1 if differing and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
