"""Every planted fault must still have the place it is planted in; `make mutants` sees each turn red."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def _runner() -> Any:
    spec = importlib.util.spec_from_file_location("mutants_run", HERE / "mutants" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = _runner()


@pytest.mark.parametrize("mutant", RUNNER.load([]), ids=lambda mutant: f"{mutant['part']}:{mutant['name']}")
def test_fault_still_has_its_place(mutant: dict[str, Any]) -> None:
    source = HERE.parent / mutant["file"]
    assert RUNNER.planted(source.read_text("utf-8"), mutant)
    assert mutant["tests"]
    for test in mutant["tests"]:
        path, _, name = test.partition("::")
        assert (HERE.parent / path).exists()
        function = name.split("::")[-1].split("[")[0]
        beside = (HERE.parent / path).parent.glob("*.py")  # a test class may inherit it from a contract beside it
        assert not name or any(re.search(rf"(def|class) {function}\b", other.read_text("utf-8")) for other in beside)
