import asyncio
import importlib

import pytest


@pytest.mark.parametrize("name", ["rewards_core", "original_async", "enkash_async", "webhooks", "payouts", "vendor_sandboxes"])
def test_every_package_imports(name: str) -> None:
    assert importlib.import_module(name).__name__ == name


async def test_async_tests_run() -> None:
    await asyncio.sleep(0)
