"""In a browser the report is read with ease in both schemes and at any width, and turns to nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from payouts.ledger.sqlite import Ledger
from payouts.report.page import write_report
from payouts.states import State
from tests.payouts.report_kit import HOSTILE, SENT, Clock, Paying, accepted, build

CONTRASTS = """
(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    throw new Error('no ground');
  };
  const ratio = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + .05) / (dark + .05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || ['TITLE', 'STYLE', 'title'].includes(parent.tagName)) continue;
    const style = getComputedStyle(parent);
    const colour = parent instanceof SVGElement ? style.fill : style.color;
    found.push([text.slice(0, 40), ratio(channels(colour), ground(parent))]);
  }
  for (const shape of document.querySelectorAll('rect, path:not([opacity]), .share span')) {
    const colour = channels(getComputedStyle(shape).color);
    found.push([`a ${shape.tagName} of ${shape.getAttribute('class')}`, ratio(colour, ground(shape.closest('section')))]);
  }
  return found;
})()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_in_a_browser_it_is_read_with_ease_and_turns_to_nobody(scheme: str, tmp_path: Path, browser: Any) -> None:
    def prepare() -> None:
        asyncio.run(build(tmp_path / "payouts.db"))
        write_report(tmp_path / "payouts.db", tmp_path / "report.html")

    await asyncio.to_thread(prepare)
    await browser.open(tmp_path / "report.html", scheme)
    assert await browser.evaluate("document.title") == "Payouts: diwali <2026>"
    text = await browser.evaluate("document.body.innerText")
    assert HOSTILE in text
    for words in ["diwali <2026>", "paid\n41", "Money by reward and state", "may have been paid; no confirmation", "no answer"]:
        assert words.lower() in text.lower(), words
    ground = await browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(17, 18, 19)") == (scheme == "dark")
    contrasts = await browser.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [pair for pair in contrasts if pair[1] < 4.5] == []
    wide = await browser.evaluate("document.documentElement.scrollWidth")
    assert wide <= 1200
    assert browser.requests == [(tmp_path / "report.html").as_uri(), "data:,"] or browser.requests == [
        (tmp_path / "report.html").as_uri()
    ]
    assert browser.complaints == []


LARGE = "1234567890123456789012.123456789012345678"

BROKEN_NUMBERS = """
[...document.querySelectorAll('data, .number, dd')]
  .filter(number => {
    const range = document.createRange();
    range.selectNodeContents(number);
    const lines = new Set([...range.getClientRects()].map(box => Math.round(box.bottom)));
    return lines.size > 1 || range.getBoundingClientRect().right > innerWidth;
  })
  .map(number => number.textContent)
"""


async def build_large(path: Path, rewards: int) -> None:
    clock = Clock()
    async with Ledger(path, vendor="original", campaign="diwali-2026", clock=clock) as ledger:
        paying = Paying(ledger, clock)
        for number in range(rewards):
            for way, state in [("webhook", State.DONE), ("poll", State.FAILED)]:
                end = (1.0, state, {"settled_by": way, "problem": None if state is State.DONE else ValueError("chain")})
                steps = (SENT, accepted(f"{number}-{way}"), end)
                await paying.row(f"r{number}-{way}", *steps, amount=LARGE, reward_uid=f"76489380746{number}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "scheme", "rewards"), [(390, "light", 3), (390, "dark", 1), (1280, "light", 1), (1280, "dark", 3)]
)
async def test_no_number_is_broken_and_the_page_never_scrolls_sideways(
    width: int, scheme: str, rewards: int, tmp_path: Path, browser: Any
) -> None:
    def prepare() -> None:
        asyncio.run(build_large(tmp_path / "payouts.db", rewards))
        write_report(tmp_path / "payouts.db", tmp_path / "report.html")

    await asyncio.to_thread(prepare)
    await browser.open(tmp_path / "report.html", scheme, width=width)
    assert await browser.evaluate("document.documentElement.scrollWidth") <= width
    assert "1,234,567,890,123,456,789,012.123456789012345678" in await browser.evaluate("document.body.innerText")
    assert await browser.evaluate(BROKEN_NUMBERS) == []
    inside = "[...document.querySelectorAll('dd, .scroll')].filter(part => part.scrollWidth > part.clientWidth).length"
    assert await browser.evaluate(inside) == 0
    smallest = "Math.min(...[...document.querySelectorAll('data')].map(sum => parseFloat(getComputedStyle(sum).fontSize)))"
    assert await browser.evaluate(smallest) >= 10


CUT_OFF = """
[...document.querySelectorAll('.said')]
  .filter(said => { const box = said.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth || !box.width; })
  .map(said => said.textContent.slice(0, 40))
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1100, 420])
async def test_what_was_said_is_read_without_scrolling_sideways(width: int, tmp_path: Path, browser: Any) -> None:
    def prepare() -> None:
        async def pay() -> None:
            async with Ledger(tmp_path / "payouts.db", vendor="original", campaign="c", clock=Clock()) as ledger:
                paying = Paying(ledger, Clock())
                for number in range(3):
                    row = f"order-2026-11-22T00:00:00+05:30/region-south-india/batch-{number}/customer-of-the-programme"
                    said = ValueError(" ".join(["a long text of a vendor which explains what is missing"] * 6))
                    await paying.row(row, SENT, (0.1, State.REJECTED, {"problem": said}), to_user_uid="836311322111")

        asyncio.run(pay())
        write_report(tmp_path / "payouts.db", tmp_path / "report.html")

    await asyncio.to_thread(prepare)
    await browser.open(tmp_path / "report.html", "light", width=width)
    assert await browser.evaluate("document.querySelectorAll('.said').length") == 4
    assert await browser.evaluate(CUT_OFF) == []
    high = await browser.evaluate("Math.max(...[...document.querySelectorAll('.said')].map(said => said.offsetHeight))")
    assert high < (120 if width == 1100 else 400)
