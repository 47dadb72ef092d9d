"""The report says what the rows say, harms nobody who opens it, and can be read in both schemes."""

from __future__ import annotations

import asyncio
import csv
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest

from payouts import money
from payouts.cells import protect
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.report.charts import duration, times_chart
from payouts.report.figures import MAX_ITEMS, SETTLE_STEPS, Figures, Times, gather
from payouts.report.page import write_report
from payouts.report.results import replacing, write_results
from payouts.states import Entry, LedgerError, State
from payouts.vendors import EnkashRow, OriginalRow

HOSTILE = "<script>document.title='owned'</script><img src=https://example.com/x onerror=alert(1)>"


class Clock:
    """Time that goes on when it is told to."""

    now = 1_785_000_000.0

    def __call__(self) -> float:
        return self.now


class Paying:
    """Lead rows to their ends as a run would."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock

    async def row(self, row_id: str, *steps: tuple[float, State, dict[str, Any]], **changed: Any) -> Entry:
        values: dict[str, Any] = {"id": row_id, "reward_uid": "764893807463", "to_user_uid": "32", "amount": "1.10", "line": 2}
        (entry,) = await self.ledger.plan([OriginalRow(**values | changed)])
        began = self.clock.now
        for after, state, facts in steps:
            self.clock.now = began + after
            entry = await self.ledger.move(entry, state, **facts)
        self.clock.now = began
        return entry


SENT: tuple[float, State, dict[str, Any]] = (0.0, State.SENT, {})


def accepted(uid: str) -> tuple[float, State, dict[str, Any]]:
    return (0.01, State.ACCEPTED, {"uid": uid})


async def build(path: Path) -> list[Entry]:
    clock = Clock()
    async with Ledger(
        path, vendor="original", campaign="diwali <2026>", target="https://api.getoriginal.com/v1", clock=clock
    ) as ledger:
        paying = Paying(ledger, clock)
        entries = []
        for number in range(40):
            clock.now += 0.5
            after, way = (1.5, "webhook") if number % 4 else (20.0, "poll")
            done = (after, State.DONE, {"settled_by": way})
            amount = "0." + "0" * 17 + "1" if number % 2 else "123456789012345678.9"
            reward = "764893807463" if number % 3 else "112144981245"
            entries.append(await paying.row(f"d{number}", SENT, accepted(str(number)), done, amount=amount, reward_uid=reward))
        entries += [
            await paying.row("p1"),
            await paying.row("s1", SENT),
            await paying.row("a1", SENT, accepted("901")),
            await paying.row(
                "f1", SENT, accepted("902"), (30.0, State.FAILED, {"settled_by": "poll", "problem": ValueError("chain")})
            ),
            await paying.row("=r1", SENT, (0.1, State.REJECTED, {"problem": ValueError(HOSTILE)}), to_user_uid="x" * 80),
            await paying.row("r2", SENT, (0.1, State.REJECTED, {"problem": ValueError("another text")})),
            await paying.row("u1", SENT, (9.0, State.UNKNOWN, {"problem": TimeoutError("no answer")})),
            await paying.row("m1", SENT, (0.2, State.MISMATCH, {"uid": "903", "problem": "-other amount"})),
        ]
        renewed = await ledger.renew_key(await paying.row("t1", SENT, (0.1, State.REJECTED, {"problem": "no"})))
        entries.append(await ledger.move(await ledger.move(renewed, State.SENT), State.UNKNOWN, problem="late"))
        entries[-1] = await ledger.move(entries[-1], State.DONE, settled_by="hand", note="seen in the console")
        return entries


@pytest.fixture
def paid(tmp_path: Path) -> tuple[Path, list[Entry]]:
    path = tmp_path / "payouts.db"
    return path, asyncio.run(build(path))


def figures_of(path: Path) -> Figures:
    with LedgerReader(path) as reader:
        return gather(reader, reader.campaign())


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2]))


@pytest.mark.slow
def test_every_number_is_what_the_rows_add_up_to(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    path, entries = paid
    figures = figures_of(path)
    for state in State:
        there = [entry for entry in entries if entry.state is state]
        assert figures.counts.get(state, 0) == len(there)
        for uid, item in figures.items.items():
            expected = [Decimal(entry.amount or 0) for entry in there if entry.item == uid]
            assert item.counts.get(state, 0) == len(expected)
            total = money.ZERO
            for amount in expected:
                total = money.add(total, amount)
            assert item.sums.get(state, money.ZERO) == total
    assert figures.items.keys() == {entry.item for entry in entries}
    assert [entry.id for entry in figures.open] == ["u1", "m1", "f1", "=r1", "r2", "a1", "s1", "p1"]
    assert {(problem.state, problem.kind, problem.rows) for problem in figures.problems} == {
        (State.FAILED, "ValueError", 1),
        (State.REJECTED, "ValueError", 2),
        (State.UNKNOWN, "TimeoutError", 1),
        (State.MISMATCH, "other", 1),
    }
    assert (figures.problems[0].rows, figures.problems[0].state) == (2, State.REJECTED)
    assert figures.retired == 1


@pytest.mark.slow
def test_times_are_told_apart_by_what_brought_the_news(paid: tuple[Path, list[Entry]]) -> None:
    times = figures_of(paid[0]).times
    assert {way: (each.rows, round(each.median, 3), round(each.longest, 3)) for way, each in times.items()} == {
        "webhook": (30, 1.5, 1.5),
        "poll": (11, 20.0, 30.0),
    }
    assert times["poll"].bars[SETTLE_STEPS.index(30.0)] == 11
    assert sum(times["webhook"].bars) == times["webhook"].bars[SETTLE_STEPS.index(2.5)] == 30


@pytest.mark.slow
def test_progress_counts_every_row_once(paid: tuple[Path, list[Entry]]) -> None:
    progress = figures_of(paid[0]).progress
    assert progress is not None
    assert (progress.sent[-1], progress.settled[-1]) == (48, 45)
    assert list(progress.sent) == sorted(progress.sent)
    assert progress.end - progress.begin == pytest.approx(49.5)


def test_the_page_shows_sums_to_the_last_digit_and_every_row_not_paid(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    path, entries = paid
    write_report(path, tmp_path / "report.html", campaign="diwali <2026>", vendor="original", clock=lambda: 0.0)
    page = (tmp_path / "report.html").read_text("utf-8")
    text = text_of(page)
    for words in ["49 rows", "41 paid", "7 not paid", "1 unknown", "1 key was replaced", "Written 1 January 1970, 00:00:00 UTC"]:
        assert words in text or f"{words.split(' ', 1)[1]} {words.split(' ', 1)[0]}" in text, words
    done = [entry for entry in entries if entry.state is State.DONE]
    for uid in {entry.item for entry in done}:
        total = money.ZERO
        for entry in done:
            if entry.item == uid:
                total = money.add(total, entry.amount or "0")
        assert f" {money.shown(total)} " in text
        assert f'value="{money.text(total)}"' in page
    for entry in entries:
        assert (f">{entry.id}<" in page) == (entry.state is not State.DONE)


def test_no_vendor_and_no_file_can_put_markup_into_the_page(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    write_report(paid[0], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "diwali &lt;2026&gt;" in page
    assert "&lt;script&gt;document.title=" in page
    assert re.findall(r"<[^>]*\b(src|href)=", page) == ["href"]
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o600


def test_an_empty_campaign_is_told_in_words(tmp_path: Path) -> None:
    async def begin() -> None:
        async with Ledger(tmp_path / "payouts.db", vendor="enkash", campaign="c"):
            pass

    asyncio.run(begin())
    write_report(tmp_path / "payouts.db", tmp_path / "report.html")
    text = text_of((tmp_path / "report.html").read_text("utf-8"))
    for words in ["Nothing has been sent yet", "No row has been settled yet", "no rows yet", "started "]:
        assert words in text


def test_coins_are_counted_by_event_and_a_single_reward_stands_at_the_top(tmp_path: Path) -> None:
    async def pay() -> None:
        async with Ledger(tmp_path / "coins.db", vendor="enkash", campaign="c") as ledger:
            for number in range(3):
                (entry,) = await ledger.plan([EnkashRow(id=str(number), user_id="EKQZVMQK", event="REFERRAL_EVENT")])
                entry = await ledger.move(entry, State.SENT)
                if number:
                    await ledger.move(entry, State.DONE, settled_by="reply")
        async with Ledger(tmp_path / "tokens.db", vendor="original", campaign="c") as ledger:
            await Paying(ledger, Clock()).row("1", SENT, accepted("9"), (1.0, State.DONE, {"settled_by": "poll"}))

    asyncio.run(pay())
    write_report(tmp_path / "coins.db", tmp_path / "coins.html")
    coins = text_of((tmp_path / "coins.html").read_text("utf-8"))
    assert "Rows by event and state" in coins
    assert "by the reply 2" in coins
    write_report(tmp_path / "tokens.db", tmp_path / "tokens.html")
    assert "of 764893807463 paid 1.10" in text_of((tmp_path / "tokens.html").read_text("utf-8"))


def test_a_long_report_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payouts.report.figures.MAX_LISTED", 3)
    path = tmp_path / "payouts.db"

    async def plan() -> None:
        async with Ledger(path, vendor="original", campaign="c") as ledger:
            rows = [OriginalRow(id=f"r{n}", reward_uid=f"reward-{n}", to_user_uid="1", amount="1") for n in range(MAX_ITEMS + 2)]
            for entry in (await ledger.plan(rows))[:4]:
                renewed = await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED, problem="no")
                if entry.id in {"r0", "r1"}:
                    await ledger.renew_key(renewed)

    asyncio.run(plan())
    write_report(path, tmp_path / "report.html")
    text = text_of((tmp_path / "report.html").read_text("utf-8"))
    assert f"And {MAX_ITEMS + 2 - 3} more: payouts report --results writes every row" in text
    assert "And 2 rows of others" in text
    assert "2 keys were replaced by payouts retry" in text


@pytest.mark.slow
def test_results_hold_every_row_and_no_formula(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    path, entries = paid
    results = tmp_path / "results.csv"
    with LedgerReader(path) as reader:
        assert write_results(reader, reader.campaign(), results) == len(entries)
    with results.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == [entry.state for entry in entries]
    assert [row["id"].removeprefix("'") for row in rows] == [entry.id for entry in entries]
    assert [row["amount"] for row in rows] == [entry.amount for entry in entries]
    by_id = {row["id"]: row for row in rows}
    assert by_id["'=r1"]["problem"] == HOSTILE
    assert by_id["m1"]["problem"] == "'-other amount"
    assert by_id["t1"]["note"] == "seen in the console"
    assert by_id["d0"]["sent_at"] == "2026-07-25T17:20:00.500+00:00"
    assert (by_id["p1"]["sent_at"], by_id["p1"]["settled_by"]) == ("", "")
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert results.stat().st_mode & 0o777 == 0o600


def test_results_are_of_a_reader_and_its_campaign(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    place, wrong = tmp_path / "results.csv", cast("Any", str(paid[0]))
    with LedgerReader(paid[0]) as reader:
        with pytest.raises(TypeError, match=r"^reader: give LedgerReader\(\.\.\.\), not "):
            write_results(wrong, reader.campaign(), place)
        with pytest.raises(TypeError, match=r"^campaign: give Campaign\(\.\.\.\), not "):
            write_results(reader, wrong, place)
    assert not place.exists()


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(cell: str) -> None:
    assert protect(cell) == f"'{cell}"


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    place.write_text("old")

    def write() -> None:
        with replacing(place) as stream:
            stream.write("half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert place.read_text() == "old"


def test_a_ledger_that_is_not_there_gives_no_report(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such file"):
        write_report(tmp_path / "none.db", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 ms"),
        (0.0421, "42 ms"),
        (1.234, "1.23 s"),
        (59.94, "59.9 s"),
        (60, "1 min"),
        (166.2, "2 min 46 s"),
        (7260, "2 h 1 min"),
        (3600, "1 h"),
    ],
)
def test_durations_are_told_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_longest_times_have_a_bar_of_their_own() -> None:
    bars = tuple(1 if step > 120 else 0 for step in SETTLE_STEPS)
    picture = times_chart({"poll": Times(rows=2, median=200, p95=900, longest=900, bars=bars)})
    assert "over 5 min: 1 by poll" in picture
    assert "up to 5 min: 1 by poll" in picture


def test_a_wide_range_of_times_names_every_second_bar() -> None:
    each = Times(rows=len(SETTLE_STEPS), median=1, p95=2, longest=900, bars=(1,) * len(SETTLE_STEPS))
    picture = times_chart({"webhook": each, "poll": each})
    assert (picture.count("<text"), picture.count("<rect")) == (9, 2 * len(SETTLE_STEPS))


def test_a_campaign_that_lasts_days_shows_dates(tmp_path: Path) -> None:
    clock = Clock()

    async def pay() -> None:
        async with Ledger(tmp_path / "payouts.db", vendor="original", campaign="c", clock=clock) as ledger:
            await Paying(ledger, clock).row("1", SENT, accepted("9"), (200_000.0, State.DONE, {"settled_by": "poll"}))

    asyncio.run(pay())
    write_report(tmp_path / "payouts.db", tmp_path / "report.html")
    text = text_of((tmp_path / "report.html").read_text("utf-8"))
    assert "25 Jul 17:20" in text
    assert "25 July 2026, 17:20:00 to 28 July 2026, 00:53:20 UTC · 55 h 33 min" in text


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


def test_rows_that_no_webhook_poll_or_reply_settled_are_still_settled(tmp_path: Path) -> None:
    async def lead(name: str, *steps: tuple[float, State, dict[str, Any]]) -> str:
        async with Ledger(tmp_path / f"{name}.db", vendor="original", campaign=name) as ledger:
            await Paying(ledger, Clock()).row("r1", *steps)
        await asyncio.to_thread(write_report, tmp_path / f"{name}.db", tmp_path / f"{name}.html")
        return text_of((tmp_path / f"{name}.html").read_text("utf-8"))

    unknown = (1.0, State.UNKNOWN, {"problem": "late"})
    by_hand = (2.0, State.DONE, {"settled_by": "hand", "note": "seen in the console"})
    refused = (0.1, State.REJECTED, {"problem": "no"})
    for name, steps in {"by-hand": (SENT, unknown, by_hand), "refused": (SENT, refused)}.items():
        text = asyncio.run(lead(name, *steps))
        assert "No row has been settled yet" not in text
        assert "No row was settled by webhook, poll or reply" in text
    assert "No row has been settled yet" in asyncio.run(lead("unknown", SENT, unknown))


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


@pytest.mark.slow
def test_what_can_be_done_about_a_row_is_said_beside_it(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    write_report(paid[0], tmp_path / "report.html")
    text = text_of((tmp_path / "report.html").read_text("utf-8"))
    for words in [
        "payouts retry --state failed",
        "payouts retry --state rejected",
        "payouts resolve",
        "Run the same command again",
    ]:
        assert words in text
