"""``python -m bench [--scale S] [--only NAME …]``: run the benchmarks, print a table, keep the JSON."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import bench
from bench.results import Result, show

_NOT_BENCHES = {"__main__", "results"}


def main() -> int:
    names = sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if module.name not in _NOT_BENCHES and not module.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each benchmark's size; 0.1 is quick")
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="which benchmarks")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), help="folder for the JSON")
    options = parser.parse_args()
    results: list[Result] = []
    for name in options.only:
        print(f"bench: {name} …", file=sys.stderr, flush=True)
        results += importlib.import_module(f"bench.{name}").run(options.scale)
    show(results)
    options.output.mkdir(parents=True, exist_ok=True)
    when = datetime.now(UTC)
    path = options.output / f"{when:%Y%m%dT%H%M%SZ}.json"
    machine = {"kernel": platform.release(), "python": platform.python_version(), "machine": platform.machine()}
    document = {"when": when, "scale": options.scale, "machine": machine, "results": [msgspec.to_builtins(one) | {"ratio": one.ratio} for one in results]}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    print(f"bench: written to {path}", file=sys.stderr)
    return 0 if all(one.met is not False for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
