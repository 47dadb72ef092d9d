"""The report says what the rows say, to the last digit, and no text in it can become markup."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from payouts import money
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.report.charts import duration, times_chart
from payouts.report.figures import MAX_ITEMS, SETTLE_STEPS, Figures, Times, gather
from payouts.report.page import write_report
from payouts.states import Entry, LedgerError, State
from payouts.vendors import EnkashRow, OriginalRow
from tests.payouts.report_kit import SENT, Clock, Paying, accepted, paid, text_of
from tests.texts import said

__all__ = ["paid"]


def figures_of(path: Path) -> Figures:
    with LedgerReader(path) as reader:
        return gather(reader, reader.campaign())


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
    assert f"And {MAX_ITEMS + 2 - 3} more" in text
    assert "And 2 rows" in text
    assert f"reward-{MAX_ITEMS + 1}" not in text
    assert "2 keys" in text


def test_a_ledger_that_is_not_there_gives_no_report(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"none\.db"):
        write_report(tmp_path / "none.db", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


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


def test_rows_that_no_webhook_poll_or_reply_settled_are_still_settled(tmp_path: Path) -> None:
    async def lead(name: str, *steps: tuple[float, State, dict[str, Any]]) -> str:
        async with Ledger(tmp_path / f"{name}.db", vendor="original", campaign=name) as ledger:
            await Paying(ledger, Clock()).row("r1", *steps)
        await asyncio.to_thread(write_report, tmp_path / f"{name}.db", tmp_path / f"{name}.html")
        return text_of((tmp_path / f"{name}.html").read_text("utf-8"))

    unknown = (1.0, State.UNKNOWN, {"problem": "late"})
    by_hand = (2.0, State.DONE, {"settled_by": "hand", "note": "seen in the console"})
    refused = (0.1, State.REJECTED, {"problem": "no"})
    cases = {"by-hand": (SENT, unknown, by_hand), "refused": (SENT, refused), "unknown": (SENT, unknown)}
    texts = {name: asyncio.run(lead(name, *steps)) for name, steps in cases.items()}
    said(
        "report: rows not settled by webhook, poll or reply",
        "\n".join(f"{n}: {re.findall('No row [^.]*', t)}" for n, t in texts.items()),
    )


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
