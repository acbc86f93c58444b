"""The matrix as people and programs read it: a table, or plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from twinstack.net.family import FAMILIES, Family
from twinstack.prove.matrix import Cell, Row, State

_ABSENT = "—"
_STYLES = {State.WORKS: "green", State.FAILS: "bold red", State.REFUSED: "green", State.ABSENT: "dim"}


def works(rows: Sequence[Row]) -> bool:
    """Whether everything that should work does."""
    return all(row.works for row in rows)


def failures(rows: Sequence[Row]) -> list[str]:
    """What failed, one line each."""
    details = [f"{row.way}, {row.subject}, {family}: {cell.detail}" for row in rows for family, cell in row.cells.items() if cell.state is State.FAILS]
    return list(dict.fromkeys(detail.replace(", ,", ",") for detail in details))


def table(rows: Sequence[Row], title: str) -> Table:
    """One line a path, one column a family; the cells of a family that the cluster lacks show a dash."""
    result = Table(title=title, title_justify="left", title_style="bold")
    result.add_column("path", no_wrap=True)
    result.add_column("what", overflow="fold")
    for family in FAMILIES:
        result.add_column(str(family), justify="right", no_wrap=True)
    way = ""
    for row in rows:
        if row.way != way and way:
            result.add_section()
        result.add_row("" if row.way == way else row.way, row.subject, *(_shown(row.cells.get(family)) for family in FAMILIES))
        way = row.way
    return result


def _shown(cell: Cell | None) -> Text:
    if cell is None:
        return Text(_ABSENT, style="dim")
    texts = {
        State.WORKS: f"✓ {(cell.seconds or 0) * 1000:6.2f} ms",
        State.FAILS: "✗",
        State.REFUSED: "✓ refused",
        State.ABSENT: _ABSENT,
    }
    return Text(texts[cell.state], style=_STYLES[cell.state])


def document(rows: Sequence[Row], cluster: str, families: Sequence[Family]) -> dict[str, Any]:
    """The matrix as plain values, for JSON and YAML."""
    return {
        "cluster": cluster,
        "families": [str(family) for family in families],
        "works": works(rows),
        "rows": [
            {"path": row.way, "what": row.subject, "works": row.works, "cells": {str(family): _values(cell) for family, cell in row.cells.items()}}
            for row in rows
        ],
    }


def _values(cell: Cell) -> dict[str, Any]:
    values: dict[str, Any] = {"state": cell.state.value}
    if cell.seconds is not None:
        values |= {"milliseconds": round(cell.seconds * 1000, 3), "connections": cell.connections}
    if cell.detail:
        values["detail"] = cell.detail
    return values
