"""One grant belongs to one campaign: a mistyped name, a respelled id or a second file pays nobody a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payouts.ledger.fingerprints import fingerprint, recipient_bounds
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.campaign_kit import FIVE, ROWS, Desk, events, untimed
from tests.payouts.command_kit import HEADER, REWARD, Call
from tests.payouts.payout_kit import token_row
from tests.payouts.process_kit import books, create_event, enkash_at, sandbox
from tests.texts import said

# repeats


@pytest.mark.slow
def test_a_mistyped_campaign_pays_nobody_again(desk: Desk) -> None:
    assert desk.pay(FIVE, "small", "--yes").exit_code == 0
    for more in ((), ("--yes",), ("--yes", "--dry-run")):
        result = desk.pay(FIVE, "smal", *more)
        assert (result.exit_code, desk.paid) == (2, 5)
        (repeat,) = events(result, "repeats")
        assert (repeat["campaign"], repeat["rows"], repeat["line"]) == ("small", 5, 2)
    assert [each.name for each in _campaigns(desk)] == ["small"]


def _campaigns(desk: Desk) -> list[Any]:
    with LedgerReader(desk.folder / "payouts.db") as reader:
        return reader.campaigns()


@pytest.mark.slow
def test_a_mistyped_campaign_of_a_file_with_keys_is_told_once(desk: Desk) -> None:
    lines = "".join(f"n{n},{row}\n" for n, row in enumerate(ROWS))
    assert desk.pay(f"nonce,{HEADER}{lines}", "small", "--yes").exit_code == 0
    result = desk.pay(f"nonce,{HEADER}{lines}", "smal", "--yes", "--repeats-of=*")
    assert (result.exit_code, desk.paid) == (2, 5)
    (mistake,) = events(result, "mistake")
    assert mistake["kind"] == "key_of_another_campaign"
    assert "--campaign small" in mistake["message"]
    assert "another key" not in result.output


@pytest.mark.slow
def test_a_payroll_repeats_itself_every_month(desk: Desk) -> None:
    assert desk.pay(FIVE, "salary-01", "--yes", "--repeats-of=salary-*").exit_code == 0
    assert desk.pay(FIVE, "salary-02", "--yes").exit_code == 2
    for month in ("02", "03"):
        assert desk.pay(FIVE, f"salary-{month}", "--yes", "--repeats-of=salary-*").exit_code == 0
    assert desk.paid == 15
    begun = HEADER + "\n".join(ROWS[:2]) + "\n"
    assert desk.pay(begun, "salary-04", "--yes", "--repeats-of=salary-*").exit_code == 0
    assert desk.pay(FIVE, "salary-04", "--yes").exit_code == 2  # rows that it does not have yet repeat others
    assert desk.pay(FIVE, "salary-02").exit_code == 0
    assert desk.paid == 17


@pytest.mark.slow
def test_a_pattern_does_not_name_the_campaign_that_is_paid(desk: Desk) -> None:
    assert desk.pay(FIVE, "salary-01", "--yes", "--repeats-of=salary-*").exit_code == 0
    renamed = FIVE.replace("r1,", "q1,")
    assert desk.pay(renamed, "salary-01", "--yes", "--repeats-of=salary-*").exit_code == 2
    assert desk.pay(renamed, "salary-01", "--yes", "--repeats-of=salary-01").exit_code == 0
    assert desk.pay(FIVE.replace("r1,", "p1,"), "salary-01", "--yes").exit_code == 2  # it was said for that file alone
    assert desk.paid == 6


def test_a_row_that_was_paid_elsewhere_is_not_paid_again_by_a_retry(desk: Desk, folder: Path) -> None:
    async def refuse(*, retry: bool) -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="oct") as ledger:
            (entry,) = await ledger.plan([token_row("r1", to_user_uid="110985463781", amount="1.50")])
            if not retry:
                await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED, problem="refused")
            else:
                await ledger.renew_key(entry)

    one = HEADER + ROWS[0] + "\n"
    asyncio.run(refuse(retry=False))
    assert desk.pay(one, "oct-fix", "--yes").exit_code == 0
    asyncio.run(refuse(retry=True))
    result = desk.pay(one, "oct", "--yes")
    assert (result.exit_code, desk.paid) == (2, 1)
    assert events(result, "repeats")[0]["campaign"] == "oct-fix"


@pytest.mark.slow
def test_a_failed_row_that_was_paid_under_a_new_id_is_not_paid_again_by_a_retry(desk: Desk, folder: Path) -> None:
    async def fail(*, retry: bool) -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="oct") as ledger:
            (entry,) = await ledger.plan([token_row("r1", to_user_uid="110985463781", amount="1.50")])
            if retry:
                await ledger.renew_key(entry)
            else:
                accepted = await ledger.move(await ledger.move(entry, State.SENT), State.ACCEPTED, uid="1")
                await ledger.move(accepted, State.FAILED, problem="failed")

    asyncio.run(fail(retry=False))
    both = HEADER + ROWS[0] + "\n" + ROWS[0].replace("r1,", "q1,") + "\n"
    assert desk.pay(both, "oct", "--yes").exit_code == 3
    asyncio.run(fail(retry=True))
    result = desk.pay(both, "oct", "--yes")
    assert (result.exit_code, desk.paid) == (2, 1)
    assert events(result, "repeats")[0]["campaign"] == "oct"


def test_planned_rows_are_not_paid_again_once_they_were_paid_under_other_ids(desk: Desk, folder: Path) -> None:
    """The first run never sent anything; the file was exported again, and its ids lost their zeros."""

    async def plan() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="oct") as ledger:
            await ledger.plan([token_row("0r1", to_user_uid="110985463781", amount="1.50")])

    asyncio.run(plan())
    assert desk.pay(HEADER + ROWS[0] + "\n", "oct", "--yes").exit_code == 4
    result = desk.pay(HEADER + "0" + ROWS[0] + "\n", "oct", "--yes")
    assert (result.exit_code, desk.paid) == (2, 1)


def test_a_row_that_was_paid_elsewhere_is_not_paid_again_by_an_undo(desk: Desk, folder: Path) -> None:
    async def lose() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="oct") as ledger:
            (entry,) = await ledger.plan([token_row("r1", to_user_uid="110985463781", amount="1.50")])
            unknown = await ledger.move(await ledger.move(entry, State.SENT), State.UNKNOWN, problem="no answer")
            await ledger.move(unknown, State.REJECTED, settled_by="hand", note="it never arrived")

    one = HEADER + ROWS[0] + "\n"
    asyncio.run(lose())
    assert desk.pay(one, "oct-fix", "--yes").exit_code == 0
    assert desk.call("resolve", "r1", "--campaign=oct", "--undo", "--note=it was not meant").exit_code == 0
    assert desk.pay(one, "oct", "--yes").exit_code == 2
    assert (desk.paid, desk.states("oct")) == (1, [State.UNKNOWN])


def test_the_name_of_a_campaign_that_is_not_there_is_told(desk: Desk) -> None:
    for _ in range(2):
        assert desk.pay(FIVE, "a", "--yes", "--repeats-of=b").exit_code == 2
        assert desk.paid == 0
    assert desk.pay(FIVE, "a", "--yes").exit_code == 0
    assert desk.pay(FIVE, "c", "--yes", "--repeats-of=b").exit_code == 2


@pytest.mark.slow
def test_rows_that_repeat_nothing_need_nothing(desk: Desk) -> None:
    assert desk.pay(FIVE, "diwali", "--yes").exit_code == 0
    other = HEADER + "".join(f"r{n},{REWARD},{110985463780 + n},{n}.75\n" for n in range(1, 6))
    assert desk.pay(other, "holi", "--yes").exit_code == 0
    assert desk.paid == 10


def test_nothing_is_said_where_the_other_campaign_has_paid_nothing(desk: Desk, folder: Path) -> None:
    async def plan() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="never-sent") as ledger:
            rows = [token_row(f"r{n}", to_user_uid=f"{110985463780 + n}", amount=f"{n}.50") for n in range(1, 6)]
            planned = await ledger.plan(rows)
            await ledger.move(await ledger.move(planned[0], State.SENT), State.REJECTED, problem="refused")

    asyncio.run(plan())
    assert desk.pay(FIVE, "diwali", "--yes").exit_code == 0
    assert desk.paid == 5


@pytest.mark.slow
def test_rows_that_were_planned_before_another_campaign_paid_them_are_not_paid_again(desk: Desk, folder: Path) -> None:
    """The first run died before it sent anything; its campaign was mistyped afterwards, and then typed well again."""

    async def plan() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="small") as ledger:
            rows = [token_row(f"r{n}", to_user_uid=f"{110985463780 + n}", amount=f"{n}.50") for n in range(1, 6)]
            await ledger.plan(rows)

    asyncio.run(plan())
    assert desk.pay(FIVE, "smal", "--yes").exit_code == 0
    result = desk.pay(FIVE, "small", "--yes")
    assert (result.exit_code, desk.paid) == (2, 5)
    assert events(result, "repeats")[0]["campaign"] == "smal"
    assert desk.pay(FIVE, "small", "--yes", "--repeats-of=smal").exit_code == 0
    assert desk.paid == 10


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 3])
def test_an_interrupted_campaign_resumes_in_silence_also_where_one_user_gets_the_same_twice(desk: Desk, limit: int) -> None:
    same = HEADER + "".join(f"r{n},{REWARD},110985463782,1.50\n" for n in range(1, 6))
    begun = "".join(same.splitlines(keepends=True)[: limit + 1])  # a run takes the rows up a little ahead of those it sends
    assert desk.pay(begun, "diwali", "--yes").exit_code == 0
    result = desk.pay(same, "diwali", "--yes")
    assert (result.exit_code, desk.paid) == (0, 5)
    assert desk.pay(same, "diwali").exit_code == 0


@pytest.mark.slow
def test_a_second_file_of_one_campaign_whose_new_ids_repeat_grants_is_stopped(desk: Desk) -> None:
    assert desk.pay(FIVE, "diwali", "--yes").exit_code == 0
    renamed = FIVE.replace("r1,", "q1,").replace("r2,", "q2,") + f"q9,{REWARD},110985463799,1\n"
    result = desk.pay(renamed, "diwali", "--yes")
    assert (result.exit_code, desk.paid) == (2, 5)
    (repeat,) = events(result, "repeats")
    assert (repeat["campaign"], repeat["rows"], repeat["line"]) == ("diwali", 2, 2)
    assert desk.pay(renamed, "diwali", "--yes", "--repeats-of=diwali").exit_code == 0
    assert desk.paid == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    "respelled",
    [
        lambda cell: cell.zfill(15),
        lambda cell: cell.zfill(13),
    ],
)
def test_ids_that_are_padded_with_zeros_repeat_what_was_paid(desk: Desk, respelled: Any) -> None:
    rows = [f"{100001000000 + n},{REWARD},{900000000000 + n},1.{n}0" for n in range(5)]
    assert desk.pay(HEADER + "\n".join(rows) + "\n", "diwali", "--yes").exit_code == 0
    padded = [",".join([respelled(row.split(",")[0]), REWARD, respelled(row.split(",")[2]), row.split(",")[3]]) for row in rows]
    for campaign in ("diwali", "another"):
        assert desk.pay(HEADER + "\n".join(padded) + "\n", campaign, "--yes").exit_code == 2
    assert desk.paid == 5


@pytest.mark.slow
def test_results_csv_resumes_its_campaign_also_after_a_retry(desk: Desk, folder: Path) -> None:
    rows = HEADER + f"+91001,{REWARD},110985463781,1.50\nr2,{REWARD},110985463782,2.50\n"
    assert desk.pay(rows, "diwali", "--yes", "--limit=1", "--results=results.csv").exit_code == 4

    async def refuse() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali") as ledger:
            entry = await ledger.find("r2")
            assert entry is not None
            rejected = await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED, problem="refused")
            await ledger.renew_key(rejected)

    asyncio.run(refuse())
    assert desk.pay(rows, "diwali", "--limit=0", "--results=results.csv").exit_code == 4
    assert desk.pay((folder / "results.csv").read_text(), "diwali").exit_code == 0
    assert (desk.paid, desk.states("diwali")) == (2, [State.DONE] * 2)


@pytest.mark.slow
def test_coins_are_compared_by_recipient_and_event(call: Call, folder: Path) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,EK000001,MEAL\nb,EK000002,MEAL\n")
    with sandbox("enkash") as url:
        env = enkash_at(url, folder)
        create_event(env, "MEAL")
        command = ["run", "coins.csv", "--vendor=enkash", "--yes", "--rate=0"]
        assert call(*command, "--campaign=one", env=env).exit_code == 0
        result = call(*command, "--campaign=two", env=env)
        assert (result.exit_code, len(books(url)["allocations"])) == (2, 2)
        assert call(*command, "--campaign=two", "--repeats-of=one", env=env).exit_code == 0
        assert len(books(url)["allocations"]) == 4


@pytest.mark.slow
def test_coins_that_another_ledger_has_paid_are_warned_of(call: Call, folder: Path) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,EK000001,MEAL\n")
    with sandbox("enkash") as url:
        env = enkash_at(url, folder)
        create_event(env, "MEAL")
        command = ["run", "coins.csv", "--vendor=enkash", "--campaign=here-and-there", "--yes", "--rate=0"]
        for ledger, warned in (("one.db", False), ("one.db", False), ("two.db", True)):
            result = call(*command, f"--ledger={ledger}", env=env)
            assert (result.exit_code, "another ledger" in result.stderr) == (0, warned)


@pytest.mark.slow
def test_a_person_types_the_name_of_the_campaign_that_is_repeated(desk: Desk, somebody: None) -> None:
    assert desk.pay(FIVE, "small", "--yes").exit_code == 0
    result = desk.pay(FIVE, "smal", "--yes", text="smal\n")
    assert (result.exit_code, desk.paid) == (6, 5)
    said("run: a mistyped campaign, and the wrong name typed", untimed(result))
    result = desk.pay(FIVE, "again", text="small\nyes\n")
    assert (result.exit_code, desk.paid) == (0, 10)
    assert desk.pay(FIVE, "again").exit_code == 0


# spellings

PAID = [(f"{100001000000 + n}", REWARD, f"{900000007919 + n}", f"{n}.25") for n in range(1, 6)]
SPELLINGS: dict[str, Callable[[str], str]] = {
    "scientific": lambda cell: f"{float(cell):.5E}",
    "a float": lambda cell: f"{cell}.0",
    "a float with a comma": lambda cell: f'"{cell},0"',
    "an apostrophe": lambda cell: f"'{cell}",
    "quotes": lambda cell: f'"""{cell}"""',
    "a formula": lambda cell: f'"=""{cell}"""',
    "white space": lambda cell: f" {cell}",
    "a no-break space": lambda cell: f"{cell}\u00a0",
    "zeros": lambda cell: f"000{cell}",
    "full width": lambda cell: cell.translate({ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789"}),
    "groups": lambda cell: f'"{int(cell):,}"',
    "a sign": lambda cell: f"+{cell}",
}
HARMLESS: dict[str, Callable[[str], str]] = {"as it is": str, "quoted": lambda cell: f'"{cell}"'}


@pytest.fixture
def paid(folder: Path) -> Path:
    """A ledger in which five rows are paid."""

    async def pay() -> None:
        rows = [token_row(row, reward_uid=reward, to_user_uid=user, amount=amount) for row, reward, user, amount in PAID]
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali") as ledger:
            planned = await ledger.plan(rows)
            sent = await ledger.move_all([(entry, State.SENT, {}) for entry in planned])
            accepted = await ledger.move_all([(entry, State.ACCEPTED, {"uid": f"u{entry.id}"}) for entry in sent])
            await ledger.move_all([(entry, State.DONE, {}) for entry in accepted])

    asyncio.run(pay())
    return folder


@pytest.mark.slow
@pytest.mark.repeats_itself
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.tuples(*[st.sampled_from(sorted(SPELLINGS | HARMLESS))] * 3),
    row=st.sampled_from(PAID),
    campaign=st.sampled_from(["diwali", "diwali-2"]),
)
def test_no_respelling_of_a_paid_row_is_paid(
    call: Call, paid: Path, cells: tuple[str, str, str], row: tuple[str, ...], campaign: str
) -> None:
    """It is refused, stopped as a repeat, or read as the row that it was."""
    every = SPELLINGS | HARMLESS
    spelled = [every[name](cell) for name, cell in zip(cells, row, strict=False)]
    (paid / "rewards.csv").write_text(HEADER + ",".join([*spelled, row[3]]) + "\n", "utf-8")
    result = call("run", "rewards.csv", "--vendor=original", f"--campaign={campaign}", "--dry-run", "--yes")
    if campaign == "diwali" and not any(name in SPELLINGS for name in cells):
        assert (result.exit_code, events(result, "checked")[0]["known"]) == (0, 1)
    else:
        assert result.exit_code == 2, (spelled, result.output)


def test_names_in_other_letters_repeat_what_was_paid(call: Call, folder: Path) -> None:
    async def pay() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali") as ledger:
            (entry,) = await ledger.plan([token_row("a", to_user_uid="Zo\u00eb-17")])
            await ledger.move(entry, State.SENT)

    asyncio.run(pay())
    for user in ("zo\u00eb-17", "ZO\u00cb-17", "Zoe\u0308-17"):
        (folder / "rewards.csv").write_text(HEADER + f"b,{REWARD},{user},1.5\n", "utf-8")
        result = call("run", "rewards.csv", "--vendor=original", "--campaign=diwali", "--dry-run")
        assert (result.exit_code, [each["rows"] for each in events(result, "repeats")]) == (2, [1]), user


# likeness


ids = st.from_regex(r"[1-9][0-9]{0,14}", fullmatch=True)


@given(ids, ids, st.sampled_from(["'{}", '"{}"', '="{}"', "0{}", "000{}", " {}", "{} ", "{}.0", "{}.", "{},0"]))
def test_a_respelled_id_is_like_the_id(recipient: str, item: str, spelling: str) -> None:
    assert fingerprint(spelling.format(recipient), item, "1.50") == fingerprint(recipient, item, "1.5")
    assert fingerprint(recipient, spelling.format(item), "2") == fingerprint(recipient, item, "2.00")


@given(st.text(max_size=12), st.text(max_size=12))
def test_grants_to_one_recipient_lie_together(recipient: str, item: str) -> None:
    begin, end = recipient_bounds(recipient)
    assert begin <= fingerprint(recipient, item, "1") < end


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("1", "2", "3"), ("1", "2", "30")),
        (("1", "2", "3"), ("1", "3", "3")),
        (("1", "2", "3"), ("12", "2", "3")),
        (("1", "2", "0.10"), ("1", "2", "0.01")),
        (("1", "2", "100"), ("1", "2", "1")),
        (("a-1", "e", None), ("a-2", "e", None)),
        (("0", "e", None), ("00a", "e", None)),
    ],
)
def test_other_grants_are_not_alike(one: tuple[str, str, str | None], other: tuple[str, str, str | None]) -> None:
    assert fingerprint(*one) != fingerprint(*other)
