"""Settings and arguments of payouts are checked where they are given, before anything is sent."""

from __future__ import annotations

import inspect
import io
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import payouts
from payouts import Layout, Ledger, LedgerReader, RunOptions, derive_key, read_rows, run_payouts, write_report, write_results
from payouts.request_budget import RequestBudget
from rewards_core.validation import kind_of
from tests.payouts.payout_kit import StubEnkash, StubOriginal, coin_row, token_row
from tests.wrong_values import ABOVE_ZERO, AT_LEAST_ZERO, FLAG, ONE_OR_MORE, Instance, Number, cases, fields, refuses

OPTIONS: dict[str, Any] = {
    "concurrency": ONE_OR_MORE,
    "rate": evolve(ABOVE_ZERO, or_none=True),
    "max_pending": ONE_OR_MORE,
    "wait": FLAG,
    "timeout": evolve(AT_LEAST_ZERO, or_none=True),
    "lookup_timeout": AT_LEAST_ZERO,
    "limit": Number((-1,), whole=True, or_none=True),
    "outage_timeout": AT_LEAST_ZERO,
    "grace": AT_LEAST_ZERO,
    "max_refused": evolve(ONE_OR_MORE, or_none=True),
}


def test_every_option_is_tried() -> None:
    assert fields(RunOptions) == OPTIONS.keys()


@pytest.mark.parametrize(("name", "value", "error"), cases(OPTIONS))
def test_wrong_options_of_runs_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(RunOptions, name, value, error)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases(
        {
            "options": Instance(),
            "completions": Instance(),
            "client": Instance(or_none=False),
            "ledger": Instance(or_none=False),
        }
    ),
)
def test_wrong_arguments_of_runs_are_refused(name: str, value: Any, error: type[Exception], tmp_path: Path) -> None:
    def run(**wrong: Any) -> Any:
        ledger = Ledger(tmp_path / "payouts.db", vendor="enkash", campaign="diwali-2026")
        options: dict[str, Any] = {"client": StubEnkash(), "ledger": ledger}
        return run_payouts([], **options | wrong)

    refuses(run, name, value, error)


@pytest.mark.parametrize("wrong", [5, None, "rewards.csv", b"r1", {"r1": 5}])
def test_rows_come_as_an_iterable(wrong: Any, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "payouts.db", vendor="original", campaign="c")
    refuses(lambda **given: run_payouts(client=StubOriginal(), ledger=ledger, **given), "rows", wrong, TypeError)


COINS = coin_row("r1")


@pytest.mark.parametrize("wrong", [5, None, "r1", {"id": "r1"}, COINS])
async def test_a_row_is_of_the_vendor_of_its_ledger(wrong: Any, tmp_path: Path) -> None:
    client = StubOriginal()
    async with Ledger(tmp_path / "payouts.db", vendor="original", campaign="c", state=tmp_path) as ledger:
        with pytest.raises(TypeError, match=rf"^rows: give OriginalRow\(\.\.\.\), not {kind_of(wrong)}\.$"):
            async for _ in run_payouts([token_row("r1"), wrong], client=client, ledger=ledger, options=RunOptions(wait=False)):
                pass
        assert await ledger.counts() == {}
        assert [entry.id for entry in await ledger.plan([token_row("r1")])] == ["r1"]  # the ledger can be written as before
    assert not client.created


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases({"rate": evolve(ABOVE_ZERO, or_none=True), "max_requests": evolve(ONE_OR_MORE, or_none=True)}),
)
def test_wrong_numbers_of_requests_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(RequestBudget, name, value, error)


NO_TEXT: tuple[Any, ...] = (5, None, b"x", ["x"])
NO_PATH: tuple[tuple[Any, type[Exception]], ...] = (
    *((each, TypeError) for each in NO_TEXT),
    ("", ValueError),
    ("a\0b", ValueError),
)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("vendor", "Original", ValueError),
        ("vendor", None, TypeError),
        ("campaign", 5, TypeError),
        *(("target", value, TypeError) for value in NO_TEXT),
        *cases({"lock": Instance()}),
        *(("path", *wrong) for wrong in NO_PATH),
        *(("path", value, ValueError) for value in (":memory:", "sqlite:///payouts.db", "postgresql://me@db/rewards")),
        *(("state", *wrong) for wrong in NO_PATH if wrong[0] is not None),
    ],
)
def test_wrong_arguments_of_ledgers_are_refused(name: str, value: Any, error: type[Exception], tmp_path: Path) -> None:
    given: dict[str, Any] = {"path": tmp_path / "payouts.db", "vendor": "original", "campaign": "diwali-2026"}
    refuses(lambda **wrong: Ledger(**given | wrong), name, value, error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *cases({"ids_from_line": FLAG, "piped": FLAG}),
        ("vendor", "paypal", ValueError),
        ("vendor", None, TypeError),
        ("form", "xml", ValueError),
        ("form", io.BytesIO(), TypeError),
        *(("names", value, TypeError) for value in (5, None, "id", ["id"], {5: "x"}, {"id": 5}, {"id": None})),
        *(("names", value, ValueError) for value in ({"nope": "x"}, {"user_id": "x"}, {"id": ""})),
        ("form", "xlsx", ValueError),
        *(("sheet", value, TypeError) for value in (5, b"May")),
        *(("sheet", value, ValueError) for value in ("", "May")),
        *(("encoding", value, TypeError) for value in (5, b"utf-8")),
        *(("encoding", value, ValueError) for value in ("", "UTF8", "cp1252", "utf-32")),
        *(("delimiter", value, TypeError) for value in (5, b";", [";"])),
        *(("delimiter", value, ValueError) for value in ("", ",,", "\n", "\r", '"', "\0", "\u200b")),
    ],
)
def test_wrong_layouts_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(lambda **wrong: Layout(**{"vendor": "original"} | wrong), name, value, error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("stream", value) for value in (5, None, "rewards.csv", b"id", io.StringIO("id"))),
        *(("layout", value) for value in (None, "csv", Layout)),
        *((name, 5) for name in ("on_mistake", "on_note", "check", "check_unique")),
        *((name, None) for name in ("on_mistake", "on_note")),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_first_row(name: str, value: Any) -> None:
    good: dict[str, Any] = {"stream": io.BytesIO(), "layout": Layout(vendor="original")}
    refuses(lambda **wrong: read_rows(**good | wrong), name, value, TypeError)


@pytest.mark.parametrize(("name", "value"), [("delimiter", ";"), ("encoding", "utf-8")])
def test_a_workbook_has_no_delimiter_and_no_encoding(name: str, value: str) -> None:
    refuses(lambda **wrong: Layout(vendor="original", form="workbook", **wrong), name, value, ValueError)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *cases({"retry": Number((-1,), whole=True)}),
        *((name, value, TypeError) for name in ("vendor", "campaign", "row_id") for value in NO_TEXT),
        ("vendor", "paypal", ValueError),
    ],
)
def test_wrong_parts_of_keys_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    given: dict[str, Any] = {"vendor": "original", "campaign": "diwali-2026", "row_id": "r1"}
    refuses(lambda **wrong: derive_key(**given | wrong), name, value, error)


def test_no_key_is_made_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"^campaign: "):
        Ledger("payouts.db", vendor="original", campaign="")
    with pytest.raises(ValueError, match=r"^campaign: "):
        derive_key("original", "", "r1")
    with pytest.raises(ValueError, match=r"^row_id: "):
        derive_key("original", "diwali-2026", "")


@pytest.mark.parametrize(("name", "value", "error"), cases({"line": Number((-1,), whole=True)}))
@pytest.mark.parametrize("row", [token_row("r1"), COINS], ids=["original", "enkash"])
def test_rows_know_their_line_as_a_whole_number(row: Any, name: str, value: Any, error: type[Exception]) -> None:
    refuses(partial(evolve, row), name, value, error)


@pytest.mark.parametrize(("value", "error"), NO_PATH)
def test_wrong_paths_are_refused_by_name(value: Any, error: type[Exception], tmp_path: Path) -> None:
    reader: Any = None  # it is not read before the path is looked at
    refuses(LedgerReader, "path", value, error)
    refuses(partial(write_report, path=tmp_path / "report.html"), "ledger", value, error)
    refuses(partial(write_report, tmp_path / "payouts.db"), "path", value, error)
    refuses(partial(write_results, reader, reader), "path", value, error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", payouts.__all__)
def test_nobody_is_asked_how_to_sleep(name: str) -> None:
    offered = getattr(payouts, name)
    if callable(offered):
        assert "sleep" not in inspect.signature(offered).parameters
