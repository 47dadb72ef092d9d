"""Run benchmarks, and print their rows as a table and as JSON.

Usage: python -m benchmarks [NAME ...] [--quick] [--json FILE]

Each module has `run(quick) -> list[dict]`; a row has name, value, unit, reference, ratio and bar. A ratio compares with a
reference measured in the same run, so that it holds on another machine. No bar is asserted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import benchmarks

COLUMNS = ("name", "value", "unit", "reference", "ratio", "bar")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def main() -> int:
    """Run the benchmarks that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", help="modules to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, to check that it runs")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    known = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    rows: list[dict[str, Any]] = []
    for name in options.names or known:
        module = importlib.import_module(f"benchmarks.{name}")
        if not hasattr(module, "run"):
            continue
        print(f"running {name} …", file=sys.stderr, flush=True)
        rows += module.run(options.quick)
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(
        title=f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores", title_justify="left"
    )
    for column in COLUMNS:
        table.add_column(column, overflow="fold", justify="right" if column in {"value", "ratio"} else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in COLUMNS))
    console.print(table)
    print(json.dumps(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
