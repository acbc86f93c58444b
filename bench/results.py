"""What a benchmark found, as a value; JSON and a table of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from rich.console import Console
from rich.table import Table


class Result(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One figure. ``better`` says which way is good; ``target`` is the bound it is held against, in the same unit."""

    bench: str  # apiserver, proxy, cni, up …
    name: str
    value: float
    unit: str
    better: str = "lower"  # or higher
    baseline: str = ""  # what it is compared with, in the same run
    baseline_value: float | None = None
    target: float | None = None
    detail: Mapping[str, float] = {}

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline_value if self.baseline_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None when there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def percentile(values: Iterable[float], part: float) -> float:
    """The value below which this part (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def show(results: Iterable[Result], console: Console | None = None) -> None:
    table = Table("bench", "figure", "value", "unit", "baseline", "ratio", "target", "met")
    for one in results:
        table.add_row(
            one.bench,
            one.name,
            f"{one.value:,.4g}",
            one.unit,
            f"{one.baseline}: {one.baseline_value:,.4g}" if one.baseline_value is not None else one.baseline,
            f"{one.ratio:.3g}" if one.ratio is not None else "",
            f"{'≤' if one.better == 'lower' else '≥'} {one.target:,.4g}" if one.target is not None else "",
            {True: "yes", False: "[red]no[/red]", None: ""}[one.met],
        )
    console = console or Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at
    console.print(table)
