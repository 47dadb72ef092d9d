"""`webhook-listener dead-letters`: list, retry, purge."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.texts import said
from tests.webhooks.command_kit import FORWARD, a_dead_job, fill, lines, records, run, screen, some_events
from tests.webhooks.store_contract import A_DAY, EPOCH, claim, event, wants
from webhooks.store.records import Acceptance
from webhooks.store.sqlite import SQLiteStore

USER = "754566475542"


async def three_dead(store: SQLiteStore) -> None:
    """Keep three dead letters that a handler gave up on; another one had succeeded."""
    await store.register_handlers([wants("pay"), wants("count")])
    for number in range(3):
        await store.accept(event(f"dead {number}", said=USER if number == 1 else None))
    for claimed in await claim(store, "count"):
        await store.finish_job(claimed.job)
    for claimed in await claim(store, "pay"):
        await store.fail_job(claimed.job, reason="no", retry_in=None)


def handlers_of(number: int) -> list[tuple[str, str]]:
    return [(job["handler"], job["state"]) for job in lines(run("events", "show", str(number)))[0]["jobs"]]


# list


def test_dead_letters_are_listed_newest_first_with_their_reasons(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await a_dead_job(store)
        await some_events(store)

    fill(folder, work, clock=lambda: EPOCH)
    unread, failed = lines(run("dead-letters", "list"))
    assert (unread["id"], unread["state"], unread["why"]) == (4, "dead", "The body names the app A, not this source's app B.")
    assert (failed["id"], failed["why"]) == (1, "forward /webhooks/original: http://127.0.0.1:9000/hooks answered 500")
    assert [row["id"] for row in lines(run("dead-letters", "list", "--limit", "1"))] == [4]
    said("dead-letters list", "\n".join(screen("dead-letters", "list")))


def test_where_all_is_well_there_are_none(folder: Path) -> None:
    fill(folder, lambda store: store.accept(event("1")))
    assert lines(run("dead-letters", "list")) == []


# retry


def test_only_the_handlers_that_gave_up_run_again(folder: Path) -> None:
    fill(folder, three_dead)
    assert lines(run("dead-letters", "retry", "1", "3", "1")) == [{"retried": 2, "passed_over": []}]
    assert [handlers_of(number) for number in (1, 2, 3)] == [[("pay", "ready")], [("pay", "dead")], [("pay", "ready")]]


def test_a_person_is_told_how_many_are_retried_and_that_no_process_runs_them(folder: Path) -> None:
    fill(folder, three_dead)
    said("dead-letters retry: no process serves the handler", "\n".join(screen("dead-letters", "retry", "1")))


def test_all_dead_letters_whose_handlers_failed_are_retried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(store: SQLiteStore) -> None:
        await some_events(store)
        await three_dead(store)

    fill(folder, work)
    monkeypatch.setattr("webhooks.store.paging.PAGE_SIZE", 2)
    assert lines(run("dead-letters", "retry", "--all")) == [{"retried": 3, "passed_over": []}]
    assert [row["id"] for row in lines(run("dead-letters", "list"))] == [3]
    assert lines(run("dead-letters", "retry", "--all")) == [{"retried": 0, "passed_over": []}]


def test_erased_dead_letters_keep_none_of_the_others_from_being_retried(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await three_dead(store)
        await store.forget_user(USER)

    fill(folder, work)
    assert lines(run("dead-letters", "retry", "--all")) == [{"retried": 2, "passed_over": []}]


def test_events_that_cannot_be_retried_are_named_with_the_reason(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await three_dead(store)
        await store.forget_user(USER)
        await store.accept(event("4", problem="Unreadable."))
        await store.accept(event("5"))

    fill(folder, work)
    result = run("dead-letters", "retry", "2", "1", "4", "5", "99")
    assert (result.exit_code, records(result)[0]["retried"]) == (5, 1)
    assert [each["id"] for each in records(result)[0]["passed_over"]] == [2, 4, 5, 99]
    said("dead-letters retry: events that cannot be retried", result.stderr)


@pytest.mark.parametrize("words", [[], ["1", "--all"]])
def test_retrying_takes_ids_or_all(folder: Path, words: list[str]) -> None:
    fill(folder, three_dead)
    result = run("dead-letters", "retry", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    said("dead-letters retry: neither ids nor --all", result.stderr)
    assert handlers_of(1) == [("pay", "dead")]


# purge


@pytest.mark.slow
def test_dead_letters_of_some_age_are_removed_and_nothing_else(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await a_dead_job(store)
        await store.accept(event("done", scope="other"))
        await store.accept(event("ready"))

    fill(folder, lambda store: store.ping())  # from then on the store knows what day it is
    fill(folder, work, clock=lambda: time.time() - 20 * A_DAY)
    fill(folder, lambda store: store.accept(event("young", problem="Unreadable.")))
    assert lines(run("dead-letters", "purge", "--older-than-days", "30000")) == [{"purged": 0}]
    assert [row["id"] for row in lines(run("events", "list"))] == [4, 3, 2, 1]
    assert screen("dead-letters", "purge", "--older-than-days", "10") == ["1 dead letter removed"]
    assert [row["id"] for row in lines(run("events", "list"))] == [4, 3, 2]
    assert screen("dead-letters", "purge", "--older-than-days", "0") == ["1 dead letter removed"]
    assert [row["id"] for row in lines(run("events", "list"))] == [3, 2]


def test_what_was_purged_is_a_duplicate_when_it_comes_again(folder: Path) -> None:
    fill(folder, a_dead_job)
    assert lines(run("dead-letters", "purge", "--older-than-days", "0")) == [{"purged": 1}]
    answers = []

    async def work(store: SQLiteStore) -> None:
        answers.append(await store.accept(event("dead")))

    fill(folder, work)
    assert answers == [Acceptance.DUPLICATE]


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "x", ""])
def test_an_age_that_cannot_be_removes_nothing(folder: Path, days: str) -> None:
    fill(folder, a_dead_job)
    assert run("dead-letters", "purge", "--older-than-days", days).exit_code == 2
    assert run("dead-letters", "purge").exit_code == 2
    assert handlers_of(1) == [(FORWARD, "dead")]


def test_an_age_beyond_all_calendars_removes_nothing(folder: Path) -> None:
    fill(folder, a_dead_job)
    assert lines(run("dead-letters", "purge", "--older-than-days", "1e9")) == [{"purged": 0}]


def test_many_are_retried_some_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    gather = asyncio.gather

    def spy(*work: object, **options: bool) -> object:
        together.append(len(work))
        return gather(*work, **options)  # type: ignore[call-overload]

    fill(folder, three_dead)
    monkeypatch.setattr("webhooks.cli.requeue.BATCH_SIZE", 2)
    monkeypatch.setattr("webhooks.cli.requeue.asyncio.gather", spy)
    assert lines(run("dead-letters", "retry", "--all")) == [{"retried": 3, "passed_over": []}]
    assert [count for count in together if count] == [2, 1]
