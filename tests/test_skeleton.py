import asyncio
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes"])
def test_every_package_imports(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


async def test_async_tests_run() -> None:
    await asyncio.sleep(0)


def test_what_serves_every_vendor_names_none() -> None:
    sources = [path for package in ("rewards_core", "webhooks") for path in (ROOT / package).rglob("*.py")]
    named = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        if "cli" not in path.relative_to(ROOT).parts or path.is_relative_to(ROOT / "rewards_core")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(r"(?i)original|enkash", line)
    ]
    assert len(sources) > 50
    assert named == []
