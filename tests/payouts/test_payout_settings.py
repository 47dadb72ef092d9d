"""Settings and arguments of payouts are checked where they are given, before anything is sent."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import payouts
from payouts import Layout, Ledger, RunOptions, derive_key, run_payouts
from payouts.asking import Asking
from tests.payouts.payout_kit import StubEnkash, StubOriginal
from tests.wrong_values import ABOVE_ZERO, AT_LEAST_ZERO, FLAG, ONE_OR_MORE, Instance, Number, cases, fields, refuses

OPTIONS: dict[str, Any] = {
    "concurrency": ONE_OR_MORE,
    "rate": evolve(ABOVE_ZERO, or_none=True),
    "max_pending": ONE_OR_MORE,
    "wait": FLAG,
    "timeout": evolve(AT_LEAST_ZERO, or_none=True),
    "lookup_timeout": AT_LEAST_ZERO,
    "limit": Number((-1,), whole=True, or_none=True),
    "patience": AT_LEAST_ZERO,
    "grace": AT_LEAST_ZERO,
    "most_refused": evolve(ONE_OR_MORE, or_none=True),
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
            "may_repeat": FLAG,
        }
    ),
)
def test_wrong_arguments_of_runs_are_refused(name: str, value: Any, error: type[Exception], tmp_path: Path) -> None:
    def run(**wrong: Any) -> Any:
        ledger = Ledger(tmp_path / "payouts.db", vendor="enkash", campaign="diwali-2026")
        options: dict[str, Any] = {"client": StubEnkash(), "ledger": ledger}
        return run_payouts([], **options | wrong)

    refuses(run, name, value, error)


def test_rows_come_as_an_iterable(tmp_path: Path) -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="rows: give an iterable of rows, not int"):
        run_payouts(wrong, client=StubOriginal(), ledger=Ledger(tmp_path / "payouts.db", vendor="original", campaign="c"))


@pytest.mark.parametrize(
    ("name", "value", "error"), cases({"rate": evolve(ABOVE_ZERO, or_none=True), "most": evolve(ONE_OR_MORE, or_none=True)})
)
def test_wrong_numbers_of_requests_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(Asking, name, value, error)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"vendor": "Original"}, ValueError),
        ({"vendor": None}, TypeError),
        ({"campaign": 5}, TypeError),
        ({"campaign": ""}, ValueError),
    ],
)
def test_ledgers_know_their_vendor_and_campaign(wrong: dict[str, Any], error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=rf"^{next(iter(wrong))}: .*[Gg]ive"):
        Ledger(tmp_path / "payouts.db", **{"vendor": "original", "campaign": "diwali-2026"} | wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *cases({"ids_from_line": FLAG, "piped": FLAG}),
        ("vendor", "paypal", ValueError),
        ("vendor", None, TypeError),
        ("form", "xml", ValueError),
        ("form", io.BytesIO(), TypeError),
    ],
)
def test_wrong_layouts_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refuses(lambda **wrong: Layout(**{"vendor": "original"} | wrong), name, value, error)


@pytest.mark.parametrize(("name", "value", "error"), cases({"retry": Number((-1,), whole=True)}))
def test_keys_of_retries_are_counted_in_whole_numbers(name: str, value: Any, error: type[Exception]) -> None:
    refuses(lambda **wrong: derive_key("original", "diwali-2026", "r1", **wrong), name, value, error)


@pytest.mark.parametrize("name", payouts.__all__)
def test_nobody_is_asked_how_to_sleep(name: str) -> None:
    offered = getattr(payouts, name)
    if callable(offered):
        assert "sleep" not in inspect.signature(offered).parameters
