"""Every page of the site can be read on a telephone and on a screen, in both colour schemes, and asks nobody for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, chromium
from tests.site_kit import build_site

LOOK = (Path(__file__).parent / "data" / "site_look.js").read_text("utf-8")


async def read_all(browser: Browser, site: Path, scheme: str, width: int) -> dict[str, Any]:
    """Return what is wrong with each page."""
    wrong: dict[str, Any] = {}
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    await browser.open(pages[0], scheme, width)
    for path in pages:
        browser.complaints.clear()
        await browser.go(path)
        found = await browser.evaluate(LOOK)
        assert found["texts"] > 5
        outside = [url for url in browser.requests if not url.startswith(("file://", "data:"))]
        problems = [*found["problems"], *browser.complaints, *outside]
        if problems:
            wrong[str(path.relative_to(site))] = problems
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_every_page_can_be_read(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, scheme: str, width: int) -> None:
    site = build_site(tmp_path_factory)
    async with chromium(tmp_path / "profile") as browser:
        assert await read_all(browser, site, scheme, width) == {}
