import importlib
import re
from pathlib import Path

import pytest

OFFERED = ("payouts", "__init__.py")
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes"])
def test_every_package_imports(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


def test_what_serves_every_vendor_names_none() -> None:
    """Only the vendors' own modules, command lines and the names that a package offers may."""
    sources = [path for package in ("rewards_core", "webhooks", "payouts") for path in (ROOT / package).rglob("*.py")]
    wired = {path for path in sources if {"cli", "vendors"} & set(path.relative_to(ROOT).parts) or path.parts[-2:] == OFFERED}
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        if path not in wired or path.is_relative_to(ROOT / "rewards_core")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"(?i)original|enkash", line)
    ]
    assert len(sources) > 50
    assert named == []
