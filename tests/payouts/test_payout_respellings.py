"""A row whose id, recipient or amount was written again in another way is the row that it was: nobody is paid twice for it."""

from __future__ import annotations

import asyncio
import io
import json
import math
import signal
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payouts.ledger.fingerprints import fingerprint, folded, folded_id
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import connect_to_write
from payouts.ledger.sqlite import Ledger
from payouts.rows import Row
from payouts.source.checks import check_rows
from payouts.source.layout import Layout
from payouts.source.mistakes import Mistake
from payouts.spelling import told_apart
from payouts.states import State
from rewards_core.cli.output import Output
from tests.payouts.command_kit import HEADER, REWARD, Call, records, run_of
from tests.payouts.payout_kit import LAYOUT_2, token_row
from tests.payouts.process_kit import books, end, lines_of, original_at, payouts, sandbox
from tests.texts import said


def mistakes_of(rows: list[tuple[str, str]], form: str = "csv") -> list[Mistake]:
    """Return what is wrong with a file of these ids and recipients."""
    if form == "csv":
        content = HEADER + "".join(f'"{row_id}",{REWARD},{user},1\n' for row_id, user in rows)
    else:
        given = ({"id": row_id, "reward_uid": REWARD, "to_user_uid": user, "amount": "1"} for row_id, user in rows)
        content = "".join(json.dumps(each) + "\n" for each in given)
    found: list[Mistake] = []
    check_rows(io.BytesIO(content.encode()), Layout(vendor="original", form=form), on_mistake=found.append)
    return found


# within one file


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("001", "1"),
        ("1", "001"),
        ("01", "001"),
        ("R-1", "r-1"),
        ("r\u20111", "r-1"),
        ("r\u22121", "r\u20141"),
        ("r\u0967", "r1"),
        ("Zo\u00eb", "zoe\u0308"),
        ("Stra\u00dfe", "STRASSE"),
        ("r1\ufe0f", "r1"),
    ],
)
def test_two_spellings_of_one_id_are_one_grant_whatever_their_amounts(one: str, other: str) -> None:
    for form, first in (("csv", 2), ("jsonl", 1)):
        (mistake,) = mistakes_of([(one, "u1"), ("between", "u1"), (other, "U1")], form)
        assert (mistake.kind, mistake.line, mistake.name) == ("respelled", first + 2, "id")


def test_what_is_said_of_two_spellings_names_both() -> None:
    (zeros,) = mistakes_of([("001", "u1"), ("1", "u1")])
    (composed,) = mistakes_of([("Zo\u00eb", "u1"), ("Zoe\u0308", "u1")])
    said("a file with one id in two spellings", f"{zeros}\n{composed}")


def test_ids_that_differ_in_their_spelling_alone_may_pay_different_people() -> None:
    assert mistakes_of([("001", "u1"), ("1", "u2"), ("01", "u3"), ("1a", "u1")]) == []


def test_an_id_that_comes_twice_is_told_so_also_beside_another_spelling() -> None:
    found = mistakes_of([("001", "u1"), ("1", "u2"), ("1", "u3"), ("001", "u4")])
    assert [(mistake.kind, mistake.line) for mistake in found] == [("duplicate", 4), ("duplicate", 5)]


spelled = st.tuples(st.sampled_from(["1", "01", "001", "a", "A", "b"]), st.sampled_from(["u", "U", "07", "7", "v"]))


@given(st.lists(spelled, max_size=8))
def test_every_second_spelling_in_a_file_is_found_and_nothing_else(rows: list[tuple[str, str]]) -> None:
    expected, met, sound = [], set(), set()
    for line, (row_id, user) in enumerate(rows, 2):
        grant = (folded(row_id), folded(user))
        if row_id in met:
            expected.append(("duplicate", line))
        elif grant in sound:
            expected.append(("respelled", line))
        else:
            sound.add(grant)
        met.add(row_id)
    assert [(mistake.kind, mistake.line) for mistake in mistakes_of(rows)] == expected


def test_the_ledger_is_asked_where_each_spelling_stands() -> None:
    lines: list[int | None] = []

    class Lines:
        def __call__(self, rows: Sequence[Row]) -> list[None]:
            return [None for _ in rows]

        def conclude(self, line_of: Callable[[str], int | None]) -> None:
            lines.extend(map(line_of, ("001", "1", "01", "a", "2")))

    content = HEADER + f"001,{REWARD},u1,1\n1,{REWARD},u2,1\nA,{REWARD},u3,1\n2,{REWARD},u4,1\n"
    check_rows(io.BytesIO(content.encode()), Layout(vendor="original"), on_mistake=print, preflight=Lines())
    assert lines == [2, 3, None, None, 5]


# between a file and its campaign


@pytest.fixture
def ledger(folder: Path) -> Path:
    return folder / "payouts.db"


ROWS = [("001", "u1"), ("2", "u2"), ("R-3", "u3"), ("04", "u4"), ("4", "u5")]
RESPELLED = [
    ("1", "u1", "001"),
    ("01", "U1", "001"),
    ("002", "u2", "2"),
    ("r-3", "u3", "R-3"),
    ("r\u20133", "u3", "R-3"),
    ("4", "u4", "04"),
    ("004", "u5", "4"),
    ("001", "u1", None),
    ("1", "u2", None),
    ("R-3", "u3", None),
    ("5", "u1", None),
]


def send(path: Path, rows: list[tuple[str, str]], campaign: str = "diwali-2026") -> None:
    """Mark rows as sent."""

    async def go() -> None:
        async with Ledger(path, vendor="original", campaign=campaign) as opened:
            planned = await opened.plan([token_row(row_id, to_user_uid=user, amount="2.294571") for row_id, user in rows])
            await opened.move_all([(entry, State.SENT, {}) for entry in planned])

    asyncio.run(go())


def assert_respellings_are_known(path: Path) -> None:
    with LedgerReader(path) as reader:
        campaign = reader.campaign("diwali-2026")
        assert [reader.respelled(campaign, [(row_id, user)]).get(row_id) for row_id, user, _ in RESPELLED] == [
            row[2] for row in RESPELLED
        ]


def test_the_ledger_knows_an_id_in_another_spelling(ledger: Path) -> None:
    send(ledger, ROWS)
    send(ledger, [("05", "u1"), ("0005", "u2")], "another")
    assert_respellings_are_known(ledger)


def test_a_ledger_of_an_older_layout_knows_them_as_well(ledger: Path) -> None:
    older = connect_to_write(ledger, schema=LAYOUT_2)
    older.execute("INSERT INTO campaigns VALUES (1, 'original', 'diwali-2026', '', 0)")
    for number, (row_id, user) in enumerate(ROWS):
        older.execute(
            "INSERT INTO rows (campaign, vendor, id, line, recipient, item, amount, key, state, planned_at) "
            "VALUES (1, 'original', ?, 0, ?, 'gold', '1.50', ?, 'done', 0)",
            (row_id, user, f"key-{number}"),
        )
    older.close()
    assert_respellings_are_known(ledger)


def test_ordinary_ids_cost_the_ledger_nothing(ledger: Path) -> None:
    send(ledger, ROWS)
    database = connect_to_write(ledger)
    stored = database.execute("SELECT id, folded_id FROM rows ORDER BY number").fetchall()
    plan_of = "EXPLAIN QUERY PLAN SELECT id FROM rows WHERE campaign = 1 AND folded_id = '1'"
    assert "rows_respelled" in str(database.execute(plan_of).fetchall())
    database.close()
    assert stored == [("001", "1"), ("2", None), ("R-3", "r-3"), ("04", "4"), ("4", None)]


@pytest.mark.parametrize("row", ["1,{},u1,2.29", "1,{},u1,2.294571", "r-3,{},u3,2", "002,{},U2,7"])
def test_a_respelled_row_with_the_amount_as_it_was_shown_is_not_paid(call: Call, ledger: Path, row: str) -> None:
    send(ledger, ROWS)
    (ledger.parent / "rewards.csv").write_text(HEADER + row.format(REWARD) + "\n")
    result = call(*run_of("rewards.csv", "--dry-run"))
    assert result.exit_code == 2
    assert [record["kind"] for record in records(result) if record["event"] == "mistake"] == ["respelled"]


# what folds to the same

digits = st.from_regex(r"[1-9][0-9]{0,14}", fullmatch=True)
letters = st.characters(codec="utf-8", categories=["L", "M", "N", "P", "S"])
texts = st.lists(letters | st.sampled_from("019-+.,'=\u0967\u2212\u00eb"), max_size=12).map("".join)


@given(texts)
def test_what_is_folded_is_folded_wholly(text: str) -> None:
    once = folded(text)
    assert folded(once) == once
    assert folded_id(text) == (None if once == text else once)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert folded(unicodedata.normalize(form, text)) == once


@given(st.text("abc019", min_size=1, max_size=8), st.sampled_from("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d\ufe63"))
def test_every_dash_is_a_dash(text: str, dash: str) -> None:
    assert folded(f"a{dash}{text}") == folded(f"a-{text}")


@given(
    st.sampled_from("\u0660\u06f0\u0966\u09e6\u0be6\u0e50\uff10\U0001d7ce"),
    digits,
    st.sampled_from(["{}", "r{}", "{}-b", "00{}"]),
)
def test_every_decimal_digit_is_that_digit(zero: str, number: str, pattern: str) -> None:
    other = "".join(chr(ord(zero) + int(digit)) for digit in number)
    assert folded(pattern.format(other)) == folded(pattern.format(number))


@given(st.sampled_from(["1", "12", "a1", "1a", "-1", "1-1", "10"]), st.sampled_from(["1", "12", "a1", "1a", "-1", "1-1", "10"]))
def test_other_ids_fold_apart(one: str, other: str) -> None:
    assert (folded(one) == folded(other)) == (one == other)


@given(st.decimals(min_value=Decimal("0.000001"), max_value=10**6, places=6).filter(lambda amount: amount > 0), st.integers(0, 3))
def test_an_amount_is_like_itself_with_the_noise_of_a_float(amount: Decimal, steps: int) -> None:
    for towards in (0.0, math.inf):
        noisy = float(amount)
        for _ in range(steps):
            noisy = math.nextafter(noisy, towards)
        assert fingerprint("u", "gold", format(Decimal(noisy), "f")) == fingerprint("u", "gold", format(amount, "f"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0.3", "0.30000000000000004"),
        ("1234567.123456789", "1234567.12345679"),
        ("1234567.123455", "1234567.1234549999"),
        ("100000000000000", "100000000000000.00"),
        ("1000000000000", "999999999999.9999"),
    ],
)
def test_amounts_that_a_program_wrote_with_noise_are_alike(one: str, other: str) -> None:
    assert fingerprint("u", "gold", one) == fingerprint("u", "gold", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("123456789.123", "123456789.124"), ("1000000000000", "100000000000"), ("0.0000000001", "0.0000000002")],
)
def test_amounts_that_differ_within_twelve_digits_are_not_alike(one: str, other: str) -> None:
    assert fingerprint("u", "gold", one) != fingerprint("u", "gold", other)


# what is shown


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("001", "1", ("001", "1")),
        ("2.50", "2.51", ("2.50", "2.51")),
        ("\u5f20\u4f1f", "\u5f20\u885b", ("\u5f20\u4f1f", "\u5f20\u885b")),
        ("Zo\u00eb-1", "Zo\u00eb-2", ("Zo\u00eb-1", "Zo\u00eb-2")),
        ("Zo\u00eb", "Zoe\u0308", (r"Zo\xeb", r"Zoe\u0308")),
        ("A B", "A\u00a0B", ("A B", r"A\xa0B")),
        ("a-1", "a\u20111", ("a-1", r"a\u20111")),
        ("pay", "p\u0430y", ("pay", r"p\u0430y")),
        ("r1", "r1\ufe0f", ("r1", r"r1\ufe0f")),
        ("ABC", "abc", ("ABC", "abc")),
    ],
)
def test_texts_that_look_alike_are_shown_so_that_they_do_not(one: str, other: str, shown: tuple[str, str]) -> None:
    assert told_apart(one, other) == shown
    assert told_apart(other, one) == shown[::-1]


@given(st.lists(st.characters(codec="utf-8") | st.sampled_from("\n\x1c\x85\u2028\u2029"), max_size=20).map("".join))
def test_a_record_is_one_line(text: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        written = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="")
        patched.setattr("sys.stdout", written)
        Output(as_json=True).record({"id": text})
        written.flush()
    (line,) = written.buffer.getvalue().decode().splitlines()
    assert json.loads(line) == {"id": text}


@pytest.mark.slow
def test_whoever_interrupts_a_run_reads_nothing_that_is_meant_for_programmers(folder: Path) -> None:
    (folder / "rewards.csv").write_text(HEADER + f"r1,{REWARD},u1,1\n")
    with sandbox("original", "--slow-after-commit=1", "--slow-seconds=600") as url:
        process = payouts(*run_of(str(folder / "rewards.csv"), f"--ledger={folder / 'payouts.db'}"), env=original_at(url))
        assert process.stderr is not None
        while next(lines_of(process))["event"] != "begin":
            pass
        while not books(url)["allocations"]:
            pass
        process.send_signal(signal.SIGINT)
        first = process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        said("run: interrupted twice while a request is under way", first + end(process))
    assert process.returncode == 130
