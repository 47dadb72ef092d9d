"""Every planted fault must still have the place it is planted in; `make mutants` sees each turn red."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def runner() -> Any:
    spec = importlib.util.spec_from_file_location("mutants_run", HERE / "mutants" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_fault_still_has_its_place() -> None:
    run = runner()
    lost = []
    for mutant in run.load([]):
        try:
            run.planted((HERE.parent / mutant["file"]).read_text("utf-8"), mutant)
        except (OSError, ValueError) as problem:
            lost.append(str(problem))
        lost += [f"{mutant['part']}: {mutant['name']}: no test {test}" for test in mutant["tests"] if not exists(test)]
        if not mutant["tests"]:
            lost.append(f"{mutant['part']}: {mutant['name']}: names no test")
    assert not lost, "\n".join(lost)


def exists(test: str) -> bool:
    path, *names = test.partition("[")[0].split("::")
    module = path.removesuffix(".py").replace("/", ".")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        return False
    for name in names:
        found = getattr(found, name, None)
    return found is not None
