"""Ids that are sound one by one and stand out among the others of their file are told, and nothing else is."""

from __future__ import annotations

import io

import pytest

from payouts.source.checks import check_rows
from payouts.source.layout import Layout
from payouts.source.mistakes import Mistake, Note
from tests.texts import said

CSV = Layout(vendor="original")
REWARD = "764893807463"


def notes_in(content: str, layout: Layout = CSV) -> list[Note]:
    found: list[Mistake] = []
    checked = check_rows(io.BytesIO(content.encode()), layout, on_mistake=found.append)
    assert found == []
    return checked.notes


def kinds(notes: list[Note]) -> list[str]:
    return [note.kind for note in notes]


def many(rows: int, **changed: str) -> list[dict[str, str]]:
    row = {"id": "order-{:06d}", "reward_uid": REWARD, "to_user_uid": "9690803{:05d}", "amount": "1"} | changed
    return [{name: text.format(number) for name, text in row.items()} for number in range(rows)]


def file_of(rows: list[dict[str, str]]) -> str:
    return "".join(f"{','.join(cells)}\n" for cells in (rows[0], *(row.values() for row in rows)))


def notes_of(rows: list[dict[str, str]]) -> list[Note]:
    return notes_in(file_of(rows))


@pytest.mark.slow
def test_ids_that_are_alike_give_no_warning() -> None:
    assert notes_of(many(100)) == []
    assert notes_of(many(11, id="{}")) == []  # 0 to 10: a counter grows longer
    assert notes_of(many(1001, id="{}")) == []


@pytest.mark.parametrize("name", ["id", "reward_uid", "to_user_uid"])
@pytest.mark.parametrize(("value", "kind"), [("x" * 20, "odd_length"), ("9690", "odd_length"), ("a1b", "odd_shape")])
def test_the_one_id_that_is_unlike_the_others_is_named(name: str, value: str, kind: str) -> None:
    rows = many(60)
    rows[41][name] = value
    note = next(note for note in notes_of(rows) if note.kind == kind)
    assert note.message.startswith(f"{name}: 1 id ")
    assert f'"{value}" on line 43' in note.message


def test_an_id_that_lost_a_digit_is_named() -> None:
    rows = many(40)
    rows[31]["to_user_uid"] = "96908030031"
    assert kinds(notes_of(rows)) == ["odd_length"]


def test_one_in_fifty_is_few_and_more_are_not() -> None:
    rows = many(200)
    for odd in range(4):
        rows[100 + odd]["to_user_uid"] = f"96908031{odd}"
    (note,) = notes_of(rows)
    assert note.kind == "odd_length"
    assert note.message.startswith("to_user_uid: 4 ids ")
    rows[150]["to_user_uid"] = "969080399"
    assert notes_of(rows) == []


@pytest.mark.slow
def test_odd_ids_do_not_silence_each_other() -> None:
    rows = many(8)
    rows[2]["to_user_uid"] = "123456789012345678"
    rows[5]["to_user_uid"] = "user-13"
    told = {note.kind: note.message for note in notes_of(rows)}
    assert set(told) == {"odd_length", "odd_shape"}
    assert '"123456789012345678" on line 4 and "user-13" on line 7' in told["odd_length"]
    rows = many(7)
    rows[1]["to_user_uid"] = rows[4]["to_user_uid"] = "9690803"
    assert kinds(notes_of(rows)) == ["odd_length"]
    rows = many(1000)
    for odd in range(15):
        rows[100 + odd]["to_user_uid"] = "96908031"
        rows[200 + odd]["to_user_uid"] = "969080312345678"
    for several in range(25):  # too many of a kind to be odd
        rows[300 + several]["to_user_uid"] = "96908031234"
    (note,) = notes_of(rows)
    assert note.message.startswith("to_user_uid: 30 ids ")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [5, 7, 10, 20, 60, 1000, 5000])
def test_ids_of_an_ordinary_file_are_no_news(rows: int) -> None:
    names = ["asha", "ravi", "meera2", "jo-ann", "n", "deepak.k", "zoe", "42", "a1b2c3", "lakshmi"]
    for name in ("to_user_uid", "reward_uid"):
        mixed = many(rows, **{name: "{}"})
        for number, row in enumerate(mixed):
            row[name] = f"{names[number % len(names)]}{number // len(names) or ''}"
        assert notes_of(mixed) == []
    serial = many(rows)
    for number, row in enumerate(serial):
        row["to_user_uid"] = str(1 + number * 7919 % 999_983)
    if rows >= 20:  # where there are fewer, one shorter number may be a digit that was lost
        assert notes_of(serial) == []


def test_four_rows_are_too_few_to_tell() -> None:
    rows = many(4)
    rows[3]["to_user_uid"] = "1"
    assert notes_of(rows) == []
    rows = many(5)
    rows[3]["to_user_uid"] = "1"
    assert kinds(notes_of(rows)) == ["odd_length"]


def test_a_counter_of_rows_that_jumps_is_told() -> None:
    rows = many(99, id="{}")
    rows[50]["id"] = "5000"
    assert kinds(notes_of(rows)) == ["odd_length"]


def test_ids_of_every_length_and_shape_are_no_news() -> None:
    rows = [row | {"to_user_uid": "a-" * (number // 7 % 100 + 1) + "b7" * (number % 7)} for number, row in enumerate(many(700))]
    rows += [row | {"id": f"x{row['id']}", "to_user_uid": "1"} for row in many(1)]
    assert notes_of(rows) == []


def test_digits_that_a_spreadsheet_rounded_away_are_told() -> None:
    rows = many(10, to_user_uid="12345678901{:04d}00")
    assert kinds(notes_of(rows)) == ["rounded"]
    rows[7]["to_user_uid"] = "12345678901000701"
    assert notes_of(rows) == []
    assert notes_of(many(10, reward_uid="12345678901234500")) == []  # one id in all
    assert notes_of(many(10, to_user_uid="12345678901{:04d}")) == []


def test_line_numbers_are_no_ids_of_the_file() -> None:
    rows = [f"{REWARD},9690803{number:05d},1" for number in range(11)]
    content = "\n".join(["reward_uid,to_user_uid,amount", *rows[:10], *[",,"] * 1000, rows[10], ""])
    assert kinds(notes_in(content, Layout(vendor="original", ids_from_line=True))) == ["empty_rows"]


def test_names_of_events_are_no_ids() -> None:
    content = "id,user_id,event\n" + "".join(f"r{number:03d},u{number:03d},BONUS\n" for number in range(50))
    assert notes_in(content + "r050,u050,A long name 7\n", Layout(vendor="enkash")) == []


def test_words_about_what_stands_out() -> None:
    rows = many(150)
    rows[41]["to_user_uid"] = "96908030041x"
    rows[42]["to_user_uid"] = "96908030042"
    rows[52]["to_user_uid"] = "96908030052"
    rows[62]["reward_uid"] = "76489380746"
    told = [*notes_of(rows), *notes_of(many(10, to_user_uid="12345678901{:04d}00"))]
    said("files: what stands out among the ids", "\n".join(note.message for note in told))
