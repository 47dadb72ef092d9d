"""Each benchmark runs in its quick form and gives whole rows; what they measure is not asserted."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(__file__).resolve().parents[1]
MODULES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
LONG = {"durable", "fleet", "imports", "machines", "payouts", "pending", "polls", "strangers"}
"""Those that start many processes or poll as fast as they can; what they measure with has tests of its own."""
SHORT = "allocate_coins"
"""The one that every run of the tests makes."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != SHORT) + [pytest.mark.soak] * (name in LONG)) for name in MODULES],
)
def test_benchmark_runs(name: str, tmp_path: Path) -> None:
    assert callable(importlib.import_module(f"benchmarks.{name}").run)
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    rows = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    assert rows
    for row in rows:
        assert {"name", "value", "unit", "reference", "ratio", "bar"} <= row.keys()
        assert isinstance(row["value"], (int, float))
