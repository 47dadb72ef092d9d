"""The pictures of the site are made from real runs, are small, and have words for those who do not see them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.screenshots import PICTURES, console, listener
from tests.browser import chromium
from tests.test_documents import TEXTS, free_port


@pytest.mark.slow
async def test_a_picture_is_made_from_a_real_run(tmp_path: Path) -> None:
    async with chromium(tmp_path / "profile") as browser:
        await listener(browser, tmp_path, tmp_path, int(free_port()))
    page = re.sub(r"<[^>]+>", "", (tmp_path / "listener.html").read_text("utf-8"))
    for word in ("reward.allocated 324167489835", "duplicate", "refused (mismatch)", "dead letter"):
        assert word in re.sub(r"\s+", " ", page)
    assert (tmp_path / "listener.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
async def test_pictures_of_the_console_show_all_that_can_become_of_a_delivery(tmp_path: Path) -> None:
    async with chromium(tmp_path / "profile") as browser:
        told = await console(browser, tmp_path, tmp_path, int(free_port()), int(free_port()))
    for word in ("new", "duplicate", "dead letter", "refused", "mismatch", "Pending", "half within", "Delivered.", "Awake."):
        assert word in told
    for name in ("console.png", "console-390.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_every_picture_is_shown_with_words_and_is_small() -> None:
    figures = re.findall(r"^```\{figure\} \S+/screenshots/(\S+)\n:alt: (.+)$", "\n".join(TEXTS.values()), re.MULTILINE)
    assert {name for name, _ in figures} == {path.name for path in PICTURES.glob("*.png")}
    assert all(len(words) > 30 for _, words in figures)
    assert max(path.stat().st_size for path in PICTURES.glob("*.png")) < 200_000
